"""Inputs, tokens and scores on a GPU: the functions of `cpu_tokens`. All time steps at once, before the loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minizone.backend import Array, array_module
from minizone.kernels.gpu.cuda import Kernel, Reduction
from minizone.kernels.stacks import columns

PART = 2**62  # columns in a product over several time steps: all of them


def projection(x: Array, W_x: Array, b: Array, a: Array) -> Callable[[int], Any]:
    """``W_x @ x[t] + b`` into ``a[t]``, now, for all t; there is nothing left to do in the loop."""
    if x.dtype.kind in "iu":
        return projector(x, W_x + b[:, None], a)
    a[...] = times_columns(W_x, x)
    a += b[:, None]
    return _done


def projector(x: Array, W_x: Array, s: Array) -> Callable[[int], Any]:
    """``W_x @ x[t]`` into ``s[t]``, now, for all t."""
    if x.dtype.kind in "iu":
        _take_columns(W_x, x, s)
    else:
        s[...] = times_columns(W_x, x)
    return _done


def _done(t: int) -> None:
    pass


def times_columns(a: Array, x: Array) -> Array:
    """``a @ x`` for one matrix (M, K) and a stack (T, K, B), as one product."""
    T, _, B = x.shape
    return (a @ columns(x)).reshape(len(a), T, B).transpose(1, 0, 2)


def check_tokens(tokens: Array, V: int) -> None:
    """Nothing: to look at them is to wait. What a token that is out of range selects is NaN, and so is the loss."""


def take_columns(W: Array, tokens: Array) -> Array:
    """``x[t] = W[:, tokens[t]]``: W (D, V), tokens (T, B), x (T, D, B)."""
    T, B = tokens.shape
    x = array_module(W).empty((T, len(W), B), W.dtype)
    _take_columns(W, tokens, x)
    return x


_TAKE_COLUMNS = Kernel(
    "take_columns",
    "raw T W, I token, int64 rows, int64 V, int64 B",
    "T x",
    """
    const bool known = 0 <= (long long)token && (long long)token < V;
    x = known ? W[(i / B) % rows * V + token] : T(nan(""));
    """,
)


def _take_columns(W: Array, tokens: Array, x: Array) -> None:
    _TAKE_COLUMNS(array_module(W).ascontiguousarray(W), tokens[:, None, :], *W.shape, tokens.shape[-1], x)


_ADD_UP_TOKENS = Kernel(
    "add_up_tokens",
    "raw T da, raw I token, raw J order, int64 N, int64 V",
    "raw T dW",
    """
    const long long row = i / N, k = i % N, v = token[k];  // tokens in ascending order; each run has one thread a row
    if (0 <= v && v < V && (k == 0 || token[k - 1] != v)) {
        T sum = 0;
        for (long long n = k; n < N && token[n] == v; ++n) sum += da[row * N + order[n]];
        dW[row * V + v] += sum;
    }
    """,
)


def add_up_tokens(da: Array, x: Array, dW_x: Array) -> None:
    """Add da (4H, T*B), the gradients where tokens x (T, B) were seen, to these tokens' columns in dW_x (4H, D).

    Without atomic additions, whose order, and so whose rounding, would be another one each time.
    """
    xp, tokens = array_module(da), x.reshape(-1)
    order = xp.argsort(tokens, kind="stable")
    whole = dW_x if dW_x.flags.c_contiguous else xp.zeros(dW_x.shape, dW_x.dtype)
    (rows, N), V = da.shape, dW_x.shape[1]
    _ADD_UP_TOKENS(xp.ascontiguousarray(da), tokens[order], order, N, V, whole, size=rows * N)
    if whole is not dW_x:
        dW_x += whole


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


def cross_entropy_forward(scores: Array, targets: Array) -> tuple[Array, Array]:
    """Probabilities (T, V, B) and the mean of -log p(target) in nats; NaN where a target is not a class."""
    xp, scores = array_module(scores), array_module(scores).ascontiguousarray(scores)
    V, B = scores.shape[-2:]
    largest = scores.max(axis=-2, keepdims=True)  # (T, 1, B)
    total = _SUM_OF_EXPONENTIALS(scores, largest, axis=-2, keepdims=True)
    p, nats = xp.empty(scores.shape, scores.dtype), xp.empty(targets.shape, scores.dtype)
    _SOFTMAX(scores, largest, total, p)
    _NATS(scores, largest.reshape(targets.shape), total.reshape(targets.shape), targets, V, B, nats)
    return p, nats.mean()


def cross_entropy_backward(p: Array, targets: Array, gy: Array) -> Array:
    """dLoss/dscores (T, V, B), from the probabilities and dLoss/d(the mean)."""
    xp, (V, B) = array_module(p), p.shape[-2:]
    gx = xp.empty(p.shape, p.dtype)
    _CROSS_ENTROPY_BACKWARD(p, xp.expand_dims(targets, -2), gy / targets.size, V, B, gx)
    return gx
