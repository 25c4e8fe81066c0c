"""One whole training update of the paper's models: minizone, and the same model in PyTorch.

    python benchmarks/update.py [--tasks char-ptb pmnist word-ptb] [--device gpu] [--json FILE]
    python benchmarks/update.py --against ../other-checkout   only this checkout and another one

The data are random, in the paper's shapes. Masks, clipping and the optimizer are included. PyTorch is optional:
pip install -r benchmarks/requirements.txt
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, Literal, get_args

import harness
import tyro
from harness import Candidate
from problems import TASKS, TINY_TASKS, UpdateShape

Task = Literal["char-ptb", "pmnist", "word-ptb"]
ALL_TASKS: tuple[Task, ...] = get_args(Task)


@dataclass(frozen=True)
class Settings(harness.Settings):
    """Time whole training updates."""

    tasks: tuple[Task, ...] = ALL_TASKS
    """The models to time."""


def candidates(task: Task, shape: UpdateShape, device: str) -> list[Candidate]:
    """minizone first, then what it is compared with."""
    made = [
        Candidate("minizone", "ours.update", task, shape, device),
        Candidate("torch loop", "pytorch.update", task, shape, device),
    ]
    if device == "gpu":
        made.append(Candidate("minizone, no graphs", "ours.update", task, shape, device, False))
        made.append(Candidate("graphed torch loop", "pytorch.update", task, shape, device, True))
    return made


def measure(task: Task, settings: harness.Settings) -> dict[str, Any]:
    """Time one task and print its lines. Returns the row of the file."""
    print(task, flush=True)
    shape = TINY_TASKS[task] if settings.tiny else TASKS[task]
    if settings.against:
        made = harness.both_checkouts(settings, "ours.update", task, shape, settings.device)
    else:
        made = candidates(task, shape, settings.device)
    return {"task": task, "shape": shape, "candidates": harness.compare(made, settings.rounds)}


def main() -> int:
    settings = tyro.cli(Settings, description=__doc__)
    found: dict[str, Any] = {"machine": harness.machine(settings.device), "results": []}
    for task in settings.tasks:
        found["results"].append(measure(task, settings))
        harness.save(settings.json, found)
    return harness.status(found)


if __name__ == "__main__":
    sys.exit(main())
