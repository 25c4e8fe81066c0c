"""Softmax and cross-entropy of class scores."""

from __future__ import annotations

from minizone.backend import Array, array_module


def which_count(targets: Array, ignore_index: int) -> tuple[Array, int]:
    """Which targets (T, B) are not ``ignore_index``, and how many. Raises ValueError if there are none."""
    counted = targets != ignore_index
    n = int(counted.sum())
    if n == 0:
        raise ValueError(f"all targets are ignore_index = {ignore_index}, but the mean needs at least one other target")
    return counted, n


def cross_entropy_forward(scores: Array, targets: Array) -> tuple[Array, Array]:
    """Probabilities (T, V, B) and -log p(target) in nats (T, B), for scores (T, V, B) and targets (T, B).

    Raises IndexError for a target that is not a class.
    """
    xp, V = array_module(scores), scores.shape[-2]
    if targets.size and int(targets.min()) < 0:
        raise IndexError(f"targets must be in [0, {V}), got {int(targets.min())}")
    p = scores - scores.real.max(axis=-2, keepdims=True)
    right = p[_right(targets)]  # (T, B)
    xp.exp(p, out=p)
    total = p.sum(axis=-2, keepdims=True)  # (T, 1, B)
    xp.divide(p, total, out=p)
    return p, xp.log(total).reshape(right.shape) - right


def cross_entropy_backward(p: Array, targets: Array, scale: Array) -> Array:
    """dLoss/dscores (T, V, B), from the probabilities and ``scale`` (), the dLoss/d(nats) of every column."""
    gx = p * scale
    gx[_right(targets)] -= scale
    return gx


def _right(targets: Array) -> tuple[Array, ...]:
    """The index of the right class of every column."""
    columns = array_module(targets).ogrid[tuple(slice(n) for n in targets.shape)]
    return (*columns[:-1], targets, columns[-1])
