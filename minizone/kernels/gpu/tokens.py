"""Tokens on a GPU: the columns of a matrix that they select, and the gradients of these columns."""

from __future__ import annotations

from minizone.backend import Array, array_module
from minizone.kernels.gpu.cuda import Kernel


def check_tokens(tokens: Array, V: int) -> None:
    """Do nothing: a check would wait for the GPU. A token out of range selects NaN, so that the loss becomes NaN."""


def take_columns(W: Array, tokens: Array) -> Array:
    """``x[t] = W[:, tokens[t]]``: W (D, V), tokens (T, B), x (T, D, B)."""
    T, B = tokens.shape
    x = array_module(W).empty((T, len(W), B), W.dtype)
    fill_columns(W, tokens, x)
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


def fill_columns(W: Array, tokens: Array, x: Array) -> None:
    """``x[t] = W[:, tokens[t]]`` into x (T, D, B)."""
    _TAKE_COLUMNS(array_module(W).ascontiguousarray(W), tokens[:, None, :], *W.shape, tokens.shape[-1], x)


_ADD_UP_TOKENS = Kernel(
    "add_up_tokens",
    "raw T da, raw I token, raw J order, int64 N, int64 V",
    "raw T dW",
    """
    const long long row = i / N, k = i % N, v = token[k];  // tokens are sorted; one thread a row and run of equal ones
    if (0 <= v && v < V && (k == 0 || token[k - 1] != v)) {
        T sum = 0;
        for (long long n = k; n < N && token[n] == v; ++n) sum += da[row * N + order[n]];
        dW[row * V + v] += sum;
    }
    """,
)


def add_up_tokens(da: Array, x: Array, dW_x: Array) -> None:
    """Add da (M, T*B), the gradients at tokens x (T, B), to the columns of these tokens in dW_x (M, V).

    Uses no atomic additions, because their order, and therefore the rounding, would differ each time.
    """
    xp, tokens = array_module(da), x.reshape(-1)
    order = xp.argsort(tokens, kind="stable")
    whole = dW_x if dW_x.flags.c_contiguous else xp.zeros(dW_x.shape, dW_x.dtype)
    (rows, N), V = da.shape, dW_x.shape[1]
    _ADD_UP_TOKENS(xp.ascontiguousarray(da), tokens[order], order, N, V, whole, size=rows * N)
    if whole is not dW_x:
        dW_x += whole
