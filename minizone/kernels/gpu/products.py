"""Matrix products on a GPU: those of one time step, and those of many time steps at once."""

from __future__ import annotations

from minizone.backend import Array
from minizone.kernels.gpu.cuda import Kernel, gemm
from minizone.kernels.gpu.tokens import fill_columns
from minizone.kernels.stacks import columns

PART = 2**62  # columns in a product over several time steps: all of them


def product(W: Array, h: Array, out: Array) -> None:
    """``out = W @ h``: W (M, K), h (K, B), out (M, B)."""
    gemm(W, h, out)


def add_product(W: Array, h: Array, out: Array, mask: Array | None, scratch: Array) -> None:
    """``out += mask * (W @ h)``: one product, and one more kernel if there is a mask. Scratch: at least (M, B)."""
    if mask is None:
        gemm(W, h, out, 1.0)
    else:
        found = scratch[: len(W)]
        gemm(W, h, found)
        _ADD_MASKED(found, mask, out)


_ADD_MASKED = Kernel("add_masked", "T x, T mask", "T out", "out += mask * x;")


def times_stack(W: Array, x: Array) -> Array:
    """``W @ x`` for one matrix (M, K) and a stack (T, K, B), as one product."""
    T, _, B = x.shape
    return (W @ columns(x)).reshape(len(W), T, B).transpose(1, 0, 2)


def project(x: Array, W_x: Array, b: Array | None, out: Array) -> None:
    """``out[t] = W_x @ x[t] + b`` for all time steps: x (T, D, B) or tokens (T, B), out (T, M, B)."""
    if x.dtype.kind in "iu":
        fill_columns(W_x if b is None else W_x + b[:, None], x, out)
        return
    out[...] = times_stack(W_x, x)
    if b is not None:
        out += b[:, None]
