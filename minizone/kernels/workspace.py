"""The arrays of a loop over time."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from types import ModuleType
from typing import Any

from minizone.backend import Array


class Workspace:
    """Arrays that are allocated anew for every sequence: on a CPU, where memory is cheap and a loop is simply run.

    On a GPU `minizone.kernels.gpu.cuda.ReplayedWorkspace` takes its place. It keeps the arrays at their addresses, so
    that a loop can be recorded once and replayed.
    """

    def __init__(self, xp: ModuleType):
        self.xp = xp

    def empty(self, name: str, shape: tuple[int, ...], dtype: Any) -> Array:
        """An array that the loop writes; its values are undefined."""
        return self.xp.empty(shape, dtype)

    def load(self, name: str, value: Any, dtype: Any = None) -> Any:
        """A value that the loop reads: an array (as ``dtype``, if that is given), a number, or None."""
        return value.astype(dtype, copy=False) if dtype is not None and hasattr(value, "astype") else value

    def output(self, array: Array) -> Array:
        """An array of the loop as the caller may keep it."""
        return array

    def run(self, name: Hashable, loop: Callable[[], None]) -> None:
        """Run the loop. It may read and write arrays of the workspace only."""
        loop()

    def release(self) -> None:
        """Say that the arrays are not needed any more."""
