"""Softmax and cross-entropy of class scores on a GPU."""

from __future__ import annotations

from minizone.backend import Array, array_module
from minizone.kernels.gpu.cuda import Kernel, Reduction

_SUM_OF_EXPONENTIALS = Reduction("sum_of_exponentials", "T score, T largest", "T y", "exp(score - largest)", "y = a")
_SOFTMAX = Kernel("softmax", "T score, T largest, T total", "T p", "p = exp(score - largest) / total;")
_NATS = Kernel(
    "nats",
    "raw T score, T largest, T total, I target, int64 V, int64 B",
    "T nats",
    """
    const bool known = 0 <= (long long)target && (long long)target < V;
    nats = known ? log(total) - (score[(i / B * V + target) * B + i % B] - largest) : T(nan(""));
    """,
)
_CROSS_ENTROPY_BACKWARD = Kernel(
    "cross_entropy_backward",
    "T p, I target, T scale, int64 V, int64 B",
    "T gx",
    "gx = (p - T((long long)target == i / B % V)) * scale;",
)


def which_count(targets: Array, ignore_index: int) -> tuple[Array, Array]:
    """Which targets (T, B) are not ``ignore_index``, and how many: an array () that is not copied to the host."""
    counted = targets != ignore_index
    return counted, counted.sum()


def cross_entropy_forward(scores: Array, targets: Array) -> tuple[Array, Array]:
    """Probabilities (T, V, B) and -log p(target) in nats (T, B); NaN where a target is not a class."""
    xp, scores = array_module(scores), array_module(scores).ascontiguousarray(scores)
    V, B = scores.shape[-2:]
    largest = scores.max(axis=-2, keepdims=True)  # (T, 1, B)
    total = _SUM_OF_EXPONENTIALS(scores, largest, axis=-2, keepdims=True)
    p, nats = xp.empty(scores.shape, scores.dtype), xp.empty(targets.shape, scores.dtype)
    _SOFTMAX(scores, largest, total, p)
    _NATS(scores, largest.reshape(targets.shape), total.reshape(targets.shape), targets, V, B, nats)
    return p, nats


def cross_entropy_backward(p: Array, targets: Array, scale: Array) -> Array:
    """dLoss/dscores (T, V, B), from the probabilities and ``scale`` (), the dLoss/d(nats) of every column."""
    xp, (V, B) = array_module(p), p.shape[-2:]
    gx = xp.empty(p.shape, p.dtype)
    _CROSS_ENTROPY_BACKWARD(p, xp.expand_dims(targets, -2), scale, V, B, gx)
    return gx
