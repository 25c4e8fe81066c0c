"""The arrays of a loop over time."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from types import ModuleType
from typing import Any

from minizone.backend import Array


class Workspace:
    """The workspace of a CPU: allocates arrays anew for every sequence, and calls the loop directly.

    On a GPU, `minizone.kernels.gpu.cuda.ReplayedWorkspace` keeps the arrays at the same addresses, so that a loop can
    be recorded once and replayed.
    """

    def __init__(self, xp: ModuleType):
        self.xp = xp

    def empty(self, name: str, shape: tuple[int, ...], dtype: Any) -> Array:
        """An array that the loop writes; its values are undefined."""
        return self.xp.empty(shape, dtype)

    def load(self, name: str, value: Any, dtype: Any = None) -> Any:
        """A value that the loop reads: an array (converted to ``dtype``, if given), a number, or None."""
        return value.astype(dtype, copy=False) if dtype is not None and hasattr(value, "astype") else value

    def output(self, array: Array) -> Array:
        """An array of the loop in a form that the caller may keep."""
        return array

    def run(self, name: Hashable, loop: Callable[[], None]) -> None:
        """Run the loop, which may only read and write arrays of the workspace."""
        loop()

    def release(self) -> None:
        """Mark the arrays as no longer needed."""
