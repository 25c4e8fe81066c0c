"""The regularizers that zoneout is compared with: masks for three kinds of dropout, weight noise, and penalties."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from minizone.autograd.tensor import Tensor
from minizone.backend import Array, Generator, array_module, bernoulli, normal
from minizone.layers.module import Module
from minizone.zoneout import check_probability


def input_mask(
    drop: float, T: int, H: int, B: int, rng: Generator | None, dtype: Any = np.float32
) -> Array | float | None:
    """Recurrent dropout of Semeniuta et al. (2016), section 2.3 of the paper: the factor of ``i * g``, (T, H, B).

    In training (rng given): 0 with probability ``drop``, else 1. In evaluation (rng None): the expectation, 1 - drop.
    Nothing is rescaled, as in the authors' code. None if ``drop`` is 0.
    """
    check_probability("the drop probability of the input gate", drop)
    if drop == 0:
        return None
    return 1 - drop if rng is None else bernoulli(rng, 1 - drop, (T, H, B), dtype)


def dropout_mask(p: float, shape: tuple[int, ...], rng: Generator | None, dtype: Any = np.float32) -> Array | None:
    """A dropout mask: 0 with probability ``p``, else 1 / (1 - p). None in evaluation (rng None), which needs no factor.

    Applied between layers, with a mask (T, H, B), it is the non-recurrent dropout of Zaremba et al. (2014). With one
    mask (1, H, B) for all time steps, and one (H, B) on h_{t-1} as well, it is the variational dropout of Gal and
    Ghahramani (2016).
    """
    check_probability("the dropout probability", p)
    if p == 0 or rng is None:
        return None
    return bernoulli(rng, 1 - p, shape, dtype) * np.dtype(dtype).type(1 / (1 - p) if p < 1 else 0)


@contextmanager
def weight_noise(model: Module, sigma: float, rng: Generator | None) -> Iterator[None]:
    """Inside the ``with``, add Gaussian noise of standard deviation ``sigma`` to every weight matrix (Graves, 2011).

    As in the authors' code, biases and initial states get no noise, and there is one draw for a whole minibatch. Call
    forward and backward inside the ``with``, and the optimizer's step after it. At the end the weights are restored
    exactly. ``rng`` may be None if ``sigma`` is 0.
    """
    if sigma == 0:
        yield
        return
    matrices = [parameter for parameter in model.parameters() if parameter.ndim == 2]
    clean = [W.data.copy() for W in matrices]
    try:
        for W in matrices:
            W.data += sigma * array_module(W.data).asarray(normal(rng, W.shape, W.dtype))
            W.mark_changed()
        yield
    finally:
        for W, before in zip(matrices, clean, strict=True):
            W.data[...] = before
            W.mark_changed()


def norm_stabilizer(states: Tensor) -> Tensor:
    """Mean over examples of sum_t (|s_t| - |s_{t-1}|)^2 / T, for the states s (T, H, B) of h or c.

    Krueger and Memisevic (2016), as in the authors' code. The norms are over units. The state before the first step
    does not count: T states have T - 1 differences, and their sum is divided by T. The paper's weight of this penalty
    is 50. Raises ValueError for states of another shape.
    """
    if states.ndim != 3:
        raise ValueError(f"norm_stabilizer: states must be (T, H, B), got {states.shape}")
    T, _, B = states.shape
    tiny = float(np.finfo(states.dtype).tiny)  # a norm of exactly 0 has no derivative
    norms = ((states * states).sum(axis=1) + tiny) ** 0.5  # (T, B)
    steps = norms[1:] - norms[:-1]
    return (steps * steps).sum() * (1 / (T * B))


def l2_penalty(model: Module) -> Tensor:
    """The sum of the squares of all weight matrices; biases and initial states do not count."""
    first, *others = ((W * W).sum() for W in model.parameters() if W.ndim == 2)
    return sum(others, start=first)
