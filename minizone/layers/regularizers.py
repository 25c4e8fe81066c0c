"""The regularizers that zoneout is compared with: masks for dropout of three kinds, noise and penalties on weights."""

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
    """Recurrent dropout of Semeniuta et al. (2016), section 2.3 of the paper: the factor of ``i * g``; (T, H, B).

    0 with probability ``drop`` and 1 else in training (rng given), its expectation 1 - drop in evaluation (rng None):
    nothing is rescaled, as in the authors' code.
    """
    check_probability("the drop probability of the input gate", drop)
    if drop == 0:
        return None
    return 1 - drop if rng is None else bernoulli(rng, 1 - drop, (T, H, B), dtype)


def dropout_mask(p: float, shape: tuple[int, ...], rng: Generator | None, dtype: Any = np.float32) -> Array | None:
    """Dropout: 0 with probability ``p``, else 1 / (1 - p), so that evaluation (rng None) needs no factor: None.

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
    """Inside the ``with``, every weight matrix has Gaussian noise of standard deviation ``sigma`` on it (Graves, 2011).

    Matrices only, no biases and no initial states, one draw for a whole minibatch, as in the authors' code: forward and
    backward belong inside, the optimizer's step behind. Afterwards the weights are what they were, to the bit.
    Without noise no generator is needed.
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

    Krueger and Memisevic (2016), and as in the authors' code: the norms are over units, the state before the first step
    does not count, so T states have T - 1 differences, divided by T. The paper's weight of this penalty is 50. Raises
    ValueError for states of another shape.
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
