"""Optimizers, by hand: all parameters in one flat array, updated in pieces that stay in the cache."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from minizone.backend import Array, array_module
from minizone.tensor import Tensor

PIECE = 65536  # elements updated at a time: the handful of arrays that one piece touches fit into a core's cache


class Adam:
    """Adam (Kingma and Ba, 2015), with the clipping of the authors' code or the usual one.

        m = b1 m + (1 - b1) g        v = b2 v + (1 - b2) g^2
        step = learning_rate * sqrt(1 - b2^t) / (1 - b1^t) * m / (sqrt(v) + 1e-8)

    The small constant is added after the bias correction has moved into the learning rate, as Blocks does.

    Parameters
    ----------
    parameters : sequence of Tensor
        Their ``data`` become views into one flat array, which `step` changes in place.
    learning_rate : float
    clip : float
        Largest L2 norm, over all parameters together, of what ``clip_what`` names; 0: no clipping.
    clip_what : "step" or "gradient"
        "step": the Adam step is shortened to the norm ``clip``. That is what the authors' code does for Penn Treebank
        and text8, though the paper says gradient clipping; a fresh step of the char model has norm 4, so it acts as a
        warm-up. "gradient": the gradient is shortened before Adam sees it.

    Attributes
    ----------
    steps : int
        Updates made so far.
    m, v : array (N,)
        Moving averages of the gradient and its square, in the order of the parameters.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        learning_rate: float,
        *,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        clip: float = 0.0,
        clip_what: str = "step",
    ):
        if clip_what not in ("step", "gradient"):
            raise ValueError(f'clip_what must be "step" or "gradient", got {clip_what!r}')
        self.parameters = list(parameters)
        self.learning_rate, self.beta1, self.beta2, self.epsilon = learning_rate, beta1, beta2, epsilon
        self.clip, self.clip_what = clip, clip_what
        self.steps = 0
        self.flat = _flatten(self.parameters)
        xp = array_module(self.flat)
        self.m, self.v = xp.zeros_like(self.flat), xp.zeros_like(self.flat)
        self._g = xp.empty_like(self.flat)

    def step(self) -> float:
        """Update the parameters from their ``grad``, set those to None, and return the norm of the gradient.

        A gradient that is not finite changes nothing: the caller sees it by its norm.
        Raises ValueError when a parameter has no gradient.
        """
        g, xp = self._g, array_module(self.flat)
        _gather_gradients(self.parameters, g)
        norm = _norm(g)
        if not math.isfinite(norm):
            return norm
        if self.clip_what == "gradient" and self.clip and norm > self.clip:
            g *= self.clip / norm
        self.steps += 1
        rate = self.learning_rate * (1 - self.beta2**self.steps) ** 0.5 / (1 - self.beta1**self.steps)
        scratch = xp.empty(min(PIECE, g.size), g.dtype)
        for start in range(0, g.size, PIECE):
            piece = slice(start, start + PIECE)
            g_, m, v = g[piece], self.m[piece], self.v[piece]
            s = scratch[: g_.size]
            m *= self.beta1
            m += xp.multiply(g_, 1 - self.beta1, out=s)
            v *= self.beta2
            xp.multiply(g_, g_, out=s)
            s *= 1 - self.beta2
            v += s
            xp.sqrt(v, out=s)
            s += self.epsilon
            xp.divide(m, s, out=g_)  # the step, but for the rate
        if self.clip_what == "step" and self.clip:
            step_norm = rate * _norm(g)
            if step_norm > self.clip:
                rate *= self.clip / step_norm
        g *= rate
        self.flat -= g
        return norm

    def state_dict(self) -> dict[str, Array]:
        """What has to be saved, besides the parameters, to go on as if nothing had happened."""
        return {"m": self.m, "v": self.v, "steps": np.array([self.steps])}

    def load_state_dict(self, arrays: dict[str, Array]) -> None:
        """Restore what `state_dict` gave; ValueError when its arrays have another size."""
        for name, own in (("m", self.m), ("v", self.v)):
            if arrays[name].shape != own.shape:
                raise ValueError(f"optimizer state {name} has {arrays[name].size} numbers, expected {own.size}")
            own[...] = array_module(own).asarray(arrays[name])
        self.steps = int(arrays["steps"][0])


def _flatten(parameters: Sequence[Tensor]) -> Array:
    """All parameters in one new array (N,); their ``data`` become views of it."""
    xp = array_module(*(p.data for p in parameters))
    flat = xp.concatenate([p.data.reshape(-1) for p in parameters])
    start = 0
    for p in parameters:
        p.data = flat[start : start + p.data.size].reshape(p.shape)
        start += p.data.size
    return flat


def _gather_gradients(parameters: Sequence[Tensor], out: Array) -> None:
    """Move the gradients of the parameters into ``out`` (N,), in their order."""
    start = 0
    for k, p in enumerate(parameters):
        if p.grad is None:
            raise ValueError(f"parameter {k} of shape {p.shape} has no gradient: call backward() first")
        out[start : start + p.data.size].reshape(p.shape)[...] = p.grad
        p.grad = None
        start += p.data.size


def _norm(g: Array) -> float:
    """The L2 norm of a flat array."""
    return float(array_module(g).sqrt(g @ g))
