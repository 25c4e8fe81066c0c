"""Where the time of minizone's LSTM goes: products of the loop, pointwise arithmetic, weights' gradients, masks.

    python benchmarks/where.py [--rounds 9] [--json results/cpu/where.json]

Milliseconds by the clock, of each kind of call, divided by the number of blocks of columns that run side by side. The
thread behind the loop runs beside everything else: its time is not part of the sum, but for the wait at the end.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

sys.path[:0] = [str(Path(__file__).resolve().parent.parent), str(Path(__file__).resolve().parent)]
import peers  # noqa: E402
from side_by_side import machine, write_json  # noqa: E402

SHAPES = ((100, 32, 50, 1000), (784, 100, 1, 100), (35, 20, 1500, 1500), (180, 128, 27, 256), (100, 32, 50, 256))
PARTS = ("products in the loop", "pointwise forward", "pointwise backward", "weights' gradients", "masks")


@dataclass(frozen=True)
class Settings:
    """Measure where the time goes."""

    rounds: int = 9
    """Repetitions."""
    json: str | None = None
    """Write all numbers to this file."""


def where(shape: tuple[int, ...], rounds: int) -> dict[str, float]:
    """Median milliseconds of a repetition, of its parts and of the rest."""
    from minizone.kernels.cpu import cells as cpu
    from minizone.recurrent import sequence
    from minizone.recurrent.weight_gradients import WeightGradients
    from minizone.zoneout import Zoneout

    now: dict[str, float] = defaultdict(float)
    blocks = [1]

    def timed(owner: Any, name: str, part: str) -> Any:
        inner = getattr(owner, name)

        def outer(*arguments: Any, **options: Any) -> Any:
            start = time.perf_counter()
            result = inner(*arguments, **options)
            now[part] += (time.perf_counter() - start) / (blocks[0] if owner is cpu else 1)
            return result

        setattr(owner, name, outer)
        return inner

    owners = (cpu, cpu, cpu, WeightGradients, Zoneout)
    calls = ("product", "lstm_forward", "lstm_backward", "add", "masks")
    before = [timed(*each) for each in zip(owners, calls, PARTS, strict=True)]
    try:
        repetition = peers.minizone_layer("lstm", *shape)
        W_h = peers.arrays("lstm", *shape)["W_h"]
        blocks[0] = len(sequence.column_blocks(W_h, shape[1]))
        follows = blocks[0] == 1 and sequence.worth_following(W_h, *shape[:2])
        rows = []
        for _ in range(rounds + 2):
            now.clear()
            time.sleep(0.2)
            start = time.perf_counter()
            repetition()
            now["all"] = time.perf_counter() - start
            rows.append(dict(now))
    finally:
        for owner, call, inner in zip(owners, calls, before, strict=True):
            setattr(owner, call, inner)
    found = {name: 1000 * statistics.median(row[name] for row in rows[2:]) for name in ("all", *PARTS)}
    beside = found["weights' gradients"] if follows else 0.0
    return {**found, "the rest": found["all"] - sum(found[part] for part in PARTS) + beside, "beside the loop": beside}


def main() -> None:
    settings = tyro.cli(Settings, description=__doc__)
    import minizone  # noqa: F401  (before NumPy)

    found: dict[str, Any] = {"machine": machine(), "results": []}
    for shape in SHAPES:
        found["results"].append({"shape": shape, "ms": where(shape, settings.rounds)})
        print(shape, {name: round(ms, 1) for name, ms in found["results"][-1]["ms"].items()}, flush=True)
    if settings.json:
        write_json(settings.json, found)


if __name__ == "__main__":
    main()
