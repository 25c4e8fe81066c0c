"""Time minizone on a GPU beside PyTorch, cuDNN, JAX and the floor: layers and whole training updates, in one file.

    python benchmarks/gpu.py --json results/gpu/gpu.json [--parts layers updates] [--max-minutes 9]

It runs the benchmarks of `lstm.py --device gpu` and `update.py --device gpu`. The file is written after each row.
"""

from __future__ import annotations

import math
import sys
import time
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import harness
import lstm
import tyro
import update
from problems import SHAPES, TINY_SHAPE

Part = Literal["layers", "updates"]
OF_ALL_CELLS = SHAPES[:2]


@dataclass(frozen=True)
class Settings(harness.Settings):
    """Time minizone on a GPU."""

    device: Literal["gpu"] = "gpu"
    """Device on which the candidates run."""
    rounds: int = 11
    """Number of turns of each candidate."""
    parts: tuple[Part, ...] = ("updates", "layers")
    """What to measure, in this order."""
    max_minutes: float = math.inf
    """Start no new row after this many minutes."""


def rows(settings: Settings) -> list[partial[dict[str, Any]]]:
    """The measurements: a function for each row of the file."""
    found: list[partial[dict[str, Any]]] = []
    for part in settings.parts:
        if part == "updates":
            found += [partial(update.measure, task, settings) for task in update.ALL_TASKS]
            continue
        for cell in lstm.CELLS:
            shapes = (TINY_SHAPE,) if settings.tiny else SHAPES if cell == "lstm" else OF_ALL_CELLS
            found += [partial(lstm.measure, cell, shape, settings) for shape in shapes]
    return found


def main() -> int:
    settings = tyro.cli(Settings, description=__doc__)
    start = time.monotonic()
    found: dict[str, Any] = {"machine": harness.machine("gpu"), "results": []}
    wanted = rows(settings)
    for k, row in enumerate(wanted):
        if time.monotonic() - start > 60 * settings.max_minutes:
            print(f"--max-minutes have passed: {len(wanted) - k} of {len(wanted)} rows were not measured")
            break
        found["results"].append(row())
        harness.save(settings.json, found)
    return harness.status(found)


if __name__ == "__main__":
    sys.exit(main())
