"""Forward and backward of one sequence with zoneout: minizone, PyTorch, JAX, and the floor of the matrix products.

    python benchmarks/lstm.py [--cell lstm] [--shapes 100,32,50,1000 ...] [--device gpu] [--json FILE]
    python benchmarks/lstm.py --against ../other-checkout     only this checkout and another one

Peers that are not installed are left out: pip install -r benchmarks/requirements.txt
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, Literal, get_args

import harness
import tyro
from harness import Candidate
from problems import SHAPES, TINY_SHAPE, Shape

Cell = Literal["lstm", "gru", "rnn", "bn_lstm"]
CELLS: tuple[Cell, ...] = get_args(Cell)


@dataclass(frozen=True)
class Settings(harness.Settings):
    """Time recurrent layers side by side."""

    rounds: int = 15
    """Number of turns of each candidate."""
    cell: Cell = "lstm"
    """The layer to time."""
    shapes: tuple[str, ...] = ()
    """T,B,D,H of each problem, for example 100,32,50,1000; by default all problems."""


def candidates(cell: Cell, shape: Shape, device: str) -> list[Candidate]:
    """minizone first, then what it is compared with."""
    on_gpu = device == "gpu"
    made = [
        Candidate("minizone", "ours.layer", cell, shape, device),
        Candidate("floor", "ours.floor", cell, shape, device),
        Candidate("jax scan", "jax_scan.layer", cell, shape, device),
    ]
    if on_gpu:
        made.append(Candidate("minizone, no graphs", "ours.layer", cell, shape, device, False))
    if cell == "bn_lstm":
        made.append(Candidate("minizone lstm", "ours.layer", "lstm", shape, device))
    else:
        made.append(Candidate("torch.nn, no zoneout", "pytorch.plain_layer", cell, shape, device))
        if on_gpu:
            made.append(Candidate("torch.nn TF32, no zoneout", "pytorch.plain_layer", cell, shape, device, True))
    for own_cell in (False, True) if cell == "lstm" else (False,):
        name, arguments = "LSTMCell" if own_cell else "torch loop", (cell, shape, device, own_cell)
        made.append(Candidate(name, "pytorch.layer", *arguments))
        if on_gpu:
            made.append(Candidate(f"graphed {name}", "pytorch.layer", *arguments, True))
    return made


def measure(cell: Cell, shape: Shape, settings: harness.Settings) -> dict[str, Any]:
    """Time one problem and print its lines. Returns the row of the file."""
    print(f"{cell}, T B D H = {','.join(map(str, shape))}", flush=True)
    if settings.against:
        made = harness.both_checkouts(settings, "ours.layer", cell, shape, settings.device)
    else:
        made = candidates(cell, shape, settings.device)
    return {"cell": cell, "shape": shape, "candidates": harness.compare(made, settings.rounds)}


def parsed(text: str) -> Shape:
    """Parse T,B,D,H. Ends the program with one sentence if they are not numbers."""
    try:
        T, B, D, H = map(int, text.split(","))
    except ValueError:
        harness.fail(f"--shapes must be T,B,D,H, for example 100,32,50,1000, got {text!r}")
    return T, B, D, H


def main() -> int:
    settings = tyro.cli(Settings, description=__doc__)
    shapes = [parsed(text) for text in settings.shapes] or ([TINY_SHAPE] if settings.tiny else SHAPES)
    found: dict[str, Any] = {"machine": harness.machine(settings.device), "results": []}
    for shape in shapes:
        found["results"].append(measure(settings.cell, shape, settings))
        harness.save(settings.json, found)
    return harness.status(found)


if __name__ == "__main__":
    sys.exit(main())
