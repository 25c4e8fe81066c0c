"""Matrix products: those of one time step, and those of many time steps at once."""

from __future__ import annotations

from minizone.backend import Array, array_module
from minizone.kernels.stacks import columns, parts_of

PART = 2048  # columns in a product over several time steps, so that its operands stay in the cache
LARGE = 128  # a matrix with at least this many rows and columns is worth a copy of the stack it multiplies


def product(W: Array, h: Array, out: Array) -> None:
    """``out = W @ h``: W (M, K), h (K, B), out (M, B)."""
    array_module(out).matmul(W, h, out=out)


def add_product(W: Array, h: Array, out: Array, mask: Array | None, scratch: Array) -> None:
    """``out += mask * (W @ h)``: out (M, B). Scratch: at least (M, B)."""
    found = scratch[: len(W)]
    array_module(out).matmul(W, h, out=found)
    if mask is not None:
        found *= mask
    out += found


def times_stack(W: Array, x: Array) -> Array:
    """``W @ x`` for one matrix (M, K) and a stack (T, K, B).

    A large matrix is multiplied with all columns of the stack at once, so that it is read into the cache only once.
    For the output layer of word-level Penn Treebank (10,000 x 1,500 times 35 x 20 columns) this takes 51 ms instead of
    164 ms.
    """
    if min(W.shape) < LARGE:
        return W @ x
    (T, _, B), M = x.shape, len(W)
    return (W @ columns(x)).reshape(M, T, B).transpose(1, 0, 2)


def project(x: Array, W_x: Array, b: Array | None, out: Array) -> None:
    """``out[t] = W_x @ x[t] + b`` for all time steps: x (T, D, B) or tokens (T, B), out (T, M, B)."""
    xp = array_module(out)
    if x.dtype.kind in "iu":
        table = W_x if b is None else W_x + b[:, None]  # (M, D): column v belongs to token v
        table = table.astype(out.dtype, copy=False)
        for t, tokens in enumerate(x.astype(xp.intp, copy=False)):
            xp.take(table, tokens, axis=1, out=out[t], mode="clip")
        return
    if min(W_x.shape) < LARGE:
        xp.matmul(W_x, x, out=out)
    else:
        for part in parts_of(len(x), x.shape[-1], PART):
            out[part] = times_stack(W_x, x[part])
    if b is not None:
        out += b[:, None]
