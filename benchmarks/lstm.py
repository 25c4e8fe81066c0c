"""Forward and backward of one sequence with zoneout: minizone, PyTorch, JAX, and the floor of the matrix products.

    python benchmarks/lstm.py [--cell lstm] [--rounds 15] [--shapes 100,32,50,1000 ...] [--json FILE]

Peers that are not installed are left out: pip install -r benchmarks/requirements.txt
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

sys.path[:0] = [str(Path(__file__).resolve().parent.parent), str(Path(__file__).resolve().parent)]
import peers  # noqa: E402
from side_by_side import Candidate, machine, ratio, time_together, write_json  # noqa: E402

SHAPES = (  # T, B, D, H: the paper's, and two smaller ones
    "100,32,50,1000",
    "784,100,1,100",
    "35,20,1500,1500",
    "180,128,27,256",
    "100,32,50,256",
    "180,128,27,2000",
)


@dataclass(frozen=True)
class Settings:
    """Time recurrent layers side by side."""

    cell: Literal["lstm", "gru", "rnn", "bn_lstm"] = "lstm"
    """Which layer."""
    rounds: int = 15
    """Repetitions of each candidate."""
    shapes: tuple[str, ...] = SHAPES
    """T,B,D,H of each problem."""
    json: str | None = None
    """Write all numbers to this file."""


def candidates(cell: str, shape: tuple[int, ...]) -> list[Candidate]:
    made = [
        Candidate("minizone", peers.minizone_layer, cell, *shape),
        Candidate("floor", peers.floor, cell, *shape),
        Candidate("torch loop, where", peers.torch_zoneout, "where", cell, *shape),
        Candidate("torch loop, lerp", peers.torch_zoneout, "lerp", cell, *shape),
        Candidate("jax scan", peers.jax_scan, cell, *shape),
    ]
    if cell == "lstm":
        made.append(Candidate("LSTMCell, where", peers.torch_lstm_cell, "where", cell, *shape))
        made.append(Candidate("LSTMCell, lerp", peers.torch_lstm_cell, "lerp", cell, *shape))
    if cell == "bn_lstm":
        made.append(Candidate("minizone lstm", peers.minizone_layer, "lstm", *shape))
    else:
        made.append(Candidate("torch.nn, no zoneout", peers.torch_plain, cell, *shape))
    return made


def measure(cell: str, shape: tuple[int, ...], rounds: int) -> dict[str, Any]:
    """Time one problem and print its lines."""
    made = candidates(cell, shape)
    for candidate in made:
        if candidate.error:
            print(f"  {candidate.name}: left out ({candidate.error})")
    running = [candidate for candidate in made if not candidate.error]
    try:
        time_together(running, rounds)
        ours = running[0]
        found: dict[str, Any] = {"cell": cell, "shape": shape, "rounds": rounds, "candidates": {}}
        for candidate in running:
            times = ratio(candidate, ours)
            found["candidates"][candidate.name] = {
                "median_ms": 1000 * candidate.median, "of_ours": times, "seconds": candidate.seconds,
            }  # fmt: skip
            print(f"  {candidate.name:22s} {1000 * candidate.median:9.2f} ms   {times:5.2f} x minizone", flush=True)
        return found
    finally:
        for candidate in made:
            candidate.stop()


def main() -> None:
    settings = tyro.cli(Settings, description=__doc__)
    found: dict[str, Any] = {"machine": machine(), "results": []}
    print("\n".join(f"{name}: {value}" for name, value in found["machine"].items()))
    for text in settings.shapes:
        shape = tuple(int(n) for n in text.split(","))
        print(f"{settings.cell}, T B D H = {text}", flush=True)
        found["results"].append(measure(settings.cell, shape, settings.rounds))
        if settings.json:
            write_json(settings.json, found)


if __name__ == "__main__":
    main()
