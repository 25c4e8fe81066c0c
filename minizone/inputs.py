"""The inputs of a recurrent layer, numbers (T, D, B) or tokens (T, B), and the gradients of what multiplies them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minizone.backend import Array, array_module
from minizone.kernels import cpu as kernels

MOST_ONE_HOT = 256  # kinds of tokens up to which a product with one-hot columns beats sorting the tokens


def projection(x: Array, W_x: Array, b: Array, a: Array) -> Callable[[int], None]:
    """The function that makes sure that ``a[t]`` holds ``W_x @ x[t] + b``, for x (T, D, b) or tokens (T, b)."""
    xp, bias = array_module(a), b[:, None]
    if x.dtype.kind in "iu":
        table = (W_x + bias).astype(a.dtype, copy=False)  # (4H, V)
        tokens = x.astype(np.intp, copy=False)
        return lambda t: xp.take(table, tokens[t], axis=1, out=a[t], mode="clip")
    blocks = kernels.small_blocks(W_x, x.shape[-1])[0]
    xp.matmul(blocks, x[:, None], out=a.reshape(len(a), *blocks.shape[:2], -1))
    return lambda t: xp.add(a[t], bias, out=a[t])


def columns_below(x: Array, D: int, H: int, dtype: Any) -> Array:
    """The columns (H + 1 + D, T, B) that [W_h b W_x] multiplies: room for h_{t-1}, a row of ones, the inputs.

    One product with them gives the gradients of all three. Tokens become one-hot columns here, unless there are many
    kinds of them: then there are no inputs below, see `add_up_tokens`.
    """
    xp, (T, B) = array_module(x), (x.shape[0], x.shape[-1])
    tokens = x.dtype.kind in "iu"
    below = xp.empty((H + 1 if tokens and D > MOST_ONE_HOT else H + 1 + D, T, B), dtype)
    below[H] = 1
    if len(below) > H + 1:
        below[H + 1 :] = x == xp.arange(D)[:, None, None] if tokens else x.transpose(1, 0, 2)
    return below


def add_up_tokens(da: Array, x: Array, D: int) -> Array:
    """dLoss/dW_x (4H, D) from da (4H, T*B) and tokens (T, B): for each token the sum of its columns."""
    xp, tokens = array_module(da), x.reshape(-1)
    order = xp.argsort(tokens, kind="stable")
    present, starts = xp.unique(tokens[order], return_index=True)
    dW_x = xp.zeros((len(da), D), da.dtype)
    dW_x[:, present] = xp.add.reduceat(da[:, order], starts, axis=1)
    return dW_x
