"""Shared by the kernels of all cells: two functions in CUDA, and a number for masks that are None."""

from __future__ import annotations

from minizone.backend import Array
from minizone.kernels.step import Mask

FUNCTIONS = """
template <typename T> __device__ T sigmoid(T a) { return T(0.5) * tanh(T(0.5) * a) + T(0.5); }
template <typename T> __device__ T zone_out(T keep, T old, T fresh) { return keep * old + (fresh - keep * fresh); }
"""


def or_number(array: Mask, number: float) -> Array | float:
    """A mask or gradient as an argument of a kernel; ``number`` if it is None."""
    return number if array is None else array
