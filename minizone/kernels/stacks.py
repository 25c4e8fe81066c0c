"""Reshape a stack of matrices (T, K, B), one for each time step, into one matrix; split a sequence into parts."""

from __future__ import annotations

from minizone.backend import Array


def columns(x: Array) -> Array:
    """A stack (T, K, B) as one matrix (K, T * B)."""
    T, K, B = x.shape
    return x.transpose(1, 0, 2).reshape(K, T * B)


def parts_of(T: int, B: int, most: int) -> list[slice]:
    """Split T time steps of B columns into parts of at most ``most`` columns, but at least one time step."""
    steps = max(1, most // max(1, B))
    return [slice(start, min(start + steps, T)) for start in range(0, T, steps)]
