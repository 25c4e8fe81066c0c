"""What the kernels of all cells share: two functions in CUDA, and masks that are None."""

from __future__ import annotations

from minizone.backend import Array
from minizone.kernels.step import Mask

FUNCTIONS = """
template <typename T> __device__ T sigmoid(T a) { return T(0.5) * tanh(T(0.5) * a) + T(0.5); }
template <typename T> __device__ T zone_out(T keep, T old, T fresh) { return keep * old + (fresh - keep * fresh); }
"""


def or_number(array: Mask, number: float) -> Array | float:
    """A mask, or gradient, for a kernel: ``number`` in the place of None."""
    return number if array is None else array
