"""Whole sequences in one graph node: the loop over time, and back-propagation through it, written by hand.

The readable version of each step is in `minizone.cells`. The weights are those of the paper's equations, columns are
examples: ``a = W_x @ x[t] + W_h @ h + b`` with x (T, D, B), W_x (4H, D), W_h (4H, H), b (4H,).

Examples do not meet inside a recurrent layer, so the columns are split into as many blocks as there are cores and each
block goes through all its time steps in a thread of its own, forward and backward, without waiting for the others;
NumPy lets go of the interpreter while it computes. Only the products over all time steps, which give the gradients of
the weights, take the columns together again.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from minizone.backend import Array, array_module, cores
from minizone.kernels import cpu as kernels
from minizone.tensor import Function, Tensor

FEWEST_COLUMNS = 8  # a block narrower than a vector register would leave it half empty
WORTH_THREADS = 3e7  # multiplications a step from which on column blocks in threads win: H = 256 gains from B = 128 on
MOST_ONE_HOT = 256  # kinds of tokens up to which a product with one-hot columns beats sorting the tokens


def lstm(
    x: Any,
    h0: Any,
    c0: Any,
    W_x: Any,
    W_h: Any,
    b: Any,
    *,
    keep_h: Any = None,
    keep_c: Any = None,
    input_mask: Any = None,
) -> tuple[Tensor, Tensor]:
    """An LSTM with zoneout over a whole sequence: Krueger et al. (2017), section 3.2.

        i, f, o = sigmoid(W_x x_t + W_h h_{t-1} + b)        g = tanh(W_x x_t + W_h h_{t-1} + b)
        c~  = f * c_{t-1} + input_mask * i * g              h~  = o * tanh(c~)
        c_t = keep_c * c_{t-1} + (1 - keep_c) * c~          h_t = keep_h * h_{t-1} + (1 - keep_h) * h~

    Parameters
    ----------
    x : (T, D, B), or integers (T, B)
        The inputs; integers are tokens, and stand for one-hot columns: token v selects column v of ``W_x``.
    h0, c0 : (H, B)
        The states before the first step.
    W_x, W_h, b : (4H, D), (4H, H), (4H,)
        Weights; rows in the order i, f, g, o, as in `torch.nn.LSTM`.
    keep_h, keep_c : broadcastable to (T, H, B), optional
        1 where a unit keeps its old value; drawn by `Zoneout.masks`. None: no zoneout. Not differentiated.
    input_mask : broadcastable to (T, H, B), optional
        Factor of i * g (recurrent dropout). Not differentiated.

    Returns
    -------
    h, c : (T, H, B)
        The states after zoneout; ``h[-1], c[-1]`` are the final ones.

    Raises
    ------
    ValueError
        When shapes do not fit; the message has both.
    IndexError
        When a token is not a column of ``W_x``.
    """
    return LSTMSequence(keep_h, keep_c, input_mask)(x, h0, c0, W_x, W_h, b)


@dataclass
class _Block:
    """Some columns of a sequence, and what the forward pass keeps of them for the backward pass."""

    columns: slice
    masks: list[tuple[Any, Any, Any]]  # keep_h, keep_c, input_mask of every step
    a: Array  # (T, 4H, b) gates; after the backward pass, dLoss/d(pre-activations)
    h: Array  # (T + 1, H, b) h0, then the states after zoneout
    c: Array  # (T + 1, H, b)
    tanh_c: Array  # (T, H, b) of the candidate cells


class LSTMSequence(Function):
    """`lstm` as a node of the graph; inputs x, h0, c0, W_x, W_h, b, outputs h and c."""

    def __init__(self, keep_h: Any = None, keep_c: Any = None, input_mask: Any = None):
        self.masks = tuple(mask.data if isinstance(mask, Tensor) else mask for mask in (keep_h, keep_c, input_mask))

    def forward(self, x: Array, h0: Array, c0: Array, W_x: Array, W_h: Array, b: Array) -> tuple[Array, Array]:
        check_shapes(4, x, (h0, c0), W_x, W_h, b)
        xp, T, B, H = array_module(W_h), x.shape[0], x.shape[-1], W_h.shape[1]
        dtype = xp.result_type(*(v for v in (x, h0, c0, W_x, W_h, b) if v.dtype.kind in "fc"))
        masks = [per_step(mask, (T, H, B)) for mask in self.masks]
        h, c = xp.empty((T, H, B), dtype), xp.empty((T, H, B), dtype)
        slices = column_blocks(W_h, B)
        W = kernels.small_blocks(W_h, -(-B // len(slices))) if len(slices) > 1 else W_h[None, None]

        def run(columns: slice) -> _Block:
            x_block = xp.ascontiguousarray(x[..., columns])
            width = x_block.shape[-1]
            a = xp.empty((T, 4 * H, width), dtype)
            block = _Block(
                columns,
                [tuple(at[..., columns] if is_wide(at, B) else at for at in step) for step in zip(*masks, strict=True)],
                a,
                *(xp.empty((n, H, width), dtype) for n in (T + 1, T + 1, T)),
            )
            block.h[0], block.c[0] = h0[:, columns], c0[:, columns]
            scratch = xp.empty((4 * H, width), dtype)
            project = projection(x_block, W_x, b, a)
            for t in range(T):
                project(t)
                a[t] += kernels.product(W, block.h[t], scratch, scratch)
                kernels.lstm_forward(
                    a[t],
                    block.h[t],
                    block.c[t],
                    *block.masks[t],
                    block.h[t + 1],
                    block.c[t + 1],
                    block.tanh_c[t],
                    scratch,
                )
                h[t, :, columns], c[t, :, columns] = block.h[t + 1], block.c[t + 1]
            return block

        blocks = in_threads(run, slices)
        self.arrays, self.blocks = (x, h0, c0, W_x, W_h, b), blocks if any(self.needs) else []
        return h, c

    def backward(self, dh_out: Array | None, dc_out: Array | None) -> tuple[Array | None, ...]:
        x, _, _, W_x, W_h, _ = self.arrays
        if not self.blocks:  # a second backward pass: the first one has overwritten the gates
            self.forward(*self.arrays)
        xp, T, B, H = array_module(W_h), x.shape[0], x.shape[-1], W_h.shape[1]
        dtype = self.blocks[0].a.dtype
        dh0, dc0 = xp.empty((H, B), dtype), xp.empty((H, B), dtype)
        da = xp.empty((4 * H, T, B), dtype)
        below = columns_below(x, W_x.shape[1], H, dtype)  # (H + 1 + D, T, B), what [W_h b W_x] multiplied
        widest = -(-B // len(self.blocks))
        W = kernels.small_blocks(W_h.T, widest, 4) if len(self.blocks) > 1 else xp.ascontiguousarray(W_h.T)[None, None]

        def run(block: _Block) -> None:
            a, columns, width = block.a, block.columns, block.a.shape[-1]
            dh, dc, dh_old, dc_old = xp.zeros((4, H, width), dtype)
            scratch = xp.empty((4 * H, width), dtype)
            for t in reversed(range(T)):
                if dh_out is not None:
                    dh += dh_out[t, :, columns]
                if dc_out is not None:
                    dc += dc_out[t, :, columns]
                kernels.lstm_backward(
                    a[t], block.c[t], block.tanh_c[t], *block.masks[t], dh, dc, dh_old, dc_old, scratch
                )
                dh_old += kernels.product(W, a[t], dh, scratch)
                dh, dc, dh_old, dc_old = dh_old, dc_old, dh, dc
            dh0[:, columns], dc0[:, columns] = dh, dc
            da[:, :, columns] = a.transpose(1, 0, 2)
            below[:H, :, columns] = block.h[:T].transpose(1, 0, 2)

        in_threads(run, self.blocks)
        self.blocks = []
        da = da.reshape(4 * H, T * B)
        dW = da @ below.reshape(-1, T * B).T  # (4H, H + 1 + D)
        return (
            xp.matmul(W_x.T, da).reshape(-1, T, B).transpose(1, 0, 2) if self.needs[0] else None,
            dh0,
            dc0,
            dW[:, H + 1 :] if len(below) > H + 1 else add_up_tokens(da, x, W_x.shape[1]),
            dW[:, :H],
            dW[:, H],
        )


def check_shapes(gates: int, x: Array, states: tuple[Array, ...], W_x: Array, W_h: Array, b: Array) -> None:
    """Raise unless the shapes are those of `lstm` (4 gates) or of a cell with another number of gates."""
    H = W_h.shape[-1]
    if W_h.shape != (gates * H, H):
        raise ValueError(f"W_h must be ({gates}H, H), got {W_h.shape}")
    if W_x.ndim != 2 or len(W_x) != gates * H or b.shape != (gates * H,):
        raise ValueError(
            f"W_x must be ({gates * H}, D) and b ({gates * H},) for W_h {W_h.shape}, got {W_x.shape}, {b.shape}"
        )
    tokens = x.dtype.kind in "iu"
    if x.ndim != (2 if tokens else 3) or (not tokens and x.shape[1] != W_x.shape[1]):
        raise ValueError(f"x must be (T, {W_x.shape[1]}, B) for W_x {W_x.shape}, or integers (T, B); got {x.shape}")
    for state in states:
        if state.shape != (H, x.shape[-1]):
            raise ValueError(f"initial states must be (H, B) = {(H, x.shape[-1])}, got {state.shape}")
    if tokens and x.size and not (int(x.min()) >= 0 and int(x.max()) < W_x.shape[1]):
        raise IndexError(f"tokens must be in [0, {W_x.shape[1]}), got {int(x.min())} to {int(x.max())}")


def per_step(mask: Any, shape: tuple[int, int, int]) -> list[Any]:
    """A mask that broadcasts to ``shape`` (T, H, B) as a list of T masks that broadcast to (H, B)."""
    T = shape[0]
    if mask is None or not hasattr(mask, "ndim"):
        return [mask] * T
    try:
        fits = np.broadcast_shapes(mask.shape, shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"a mask of shape {mask.shape} does not broadcast to (T, H, B) = {shape}")
    if mask.ndim < 3 or len(mask) != T:
        return [mask[0] if mask.ndim == 3 else mask] * T
    return list(mask)


def is_wide(mask: Any, B: int) -> bool:
    """Whether a mask of one step has its own value for every example."""
    return getattr(mask, "ndim", 0) > 0 and mask.shape[-1] == B


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


def column_blocks(W_h: Array, B: int) -> list[slice]:
    """Slices of the B columns, one a core; a single one where a step is too small to be worth the threads' meetings."""
    n = max(1, min(cores(), B // FEWEST_COLUMNS)) if W_h.size * B > WORTH_THREADS and array_module(W_h) is np else 1
    edges = [B * k // n for k in range(n + 1)]
    return [slice(start, stop) for start, stop in itertools.pairwise(edges)]


def in_threads(function: Callable[[Any], Any], arguments: list[Any]) -> list[Any]:
    """``[function(x) for x in arguments]``, in parallel."""
    if len(arguments) == 1:
        return [function(arguments[0])]
    running = [_pool().submit(copy_context().run, function, x) for x in arguments]  # with the caller's np.errstate
    return [each.result() for each in running]


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(cores(), thread_name_prefix="columns")
