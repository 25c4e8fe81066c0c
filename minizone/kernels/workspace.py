"""Where a loop over time has its arrays."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from minizone.backend import Array


class Workspace:
    """Arrays that are made anew for every sequence: on a CPU, where memory is cheap and a loop is just run.

    On a GPU `cuda.ReplayedWorkspace` takes its place, which keeps them, so that the loop can be played back.
    """

    def __init__(self, xp: Any):
        self.xp = xp

    def room(self, name: str, shape: tuple[int, ...], dtype: Any) -> Array:
        """An array for the loop, with anything in it."""
        return self.xp.empty(shape, dtype)

    def hold(self, name: str, array: Any, dtype: Any = None) -> Any:
        """What the loop reads: an array of the caller's, as numbers of ``dtype``, or a number, or None."""
        return array.astype(dtype, copy=False) if dtype is not None and hasattr(array, "astype") else array

    def outlet(self, array: Array) -> Array:
        """An array of the loop's that the caller may keep."""
        return array

    def loop(self, name: Hashable, body: Callable[[], None]) -> None:
        """Run the loop, which reads and writes arrays of the workspace alone."""
        body()

    def give_back(self) -> None:
        """The arrays are not needed any more."""
