"""What each trick is worth: the same problem with it and without it, side by side.

python benchmarks/tricks.py [--rounds 9] [--json results/cpu/tricks.json]
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

sys.path[:0] = [str(Path(__file__).resolve().parent.parent), str(Path(__file__).resolve().parent)]
import peers  # noqa: E402
import update  # noqa: E402
from side_by_side import Candidate, machine, ratio, time_together, write_json  # noqa: E402

PMNIST, CHARS, WORDS, MIDDLE = (784, 100, 1, 100), (100, 32, 50, 1000), (35, 20, 1500, 1500), (180, 128, 27, 256)
TRICKS: dict[str, tuple[str, tuple[int, ...] | str]] = {  # name: where it is, the layer or update it is tried on
    "a thread behind the loop adds up the weights' gradients (784x100x1x100)": ("follower", PMNIST),
    "a thread behind the loop adds up the weights' gradients (180x128x27x256)": ("follower", MIDDLE),
    "one product for h, 1 and x": ("joined", PMNIST),
    "masks from 16 random bits an element": ("masks", PMNIST),
    "columns in one thread a core (100x32x50x1000)": ("blocks", CHARS),
    "columns in one thread a core (35x20x1500x1500)": ("blocks", WORDS),
    "products small enough not to be packed": ("unpacked", WORDS),
    "wide inputs projected many steps at once": ("wide inputs", WORDS),
    "OpenBLAS's idle threads sleep soon": ("sleep", "char-ptb"),
    "freed memory is kept": ("memory", "char-ptb"),
    "a large matrix goes through the cache once": ("columns", "word-ptb"),
}


@dataclass(frozen=True)
class Settings:
    """Time every trick."""

    rounds: int = 9
    """Repetitions of each candidate."""
    json: str | None = None
    """Write all numbers to this file."""


def without(trick: str) -> None:
    """Take one trick out of minizone."""
    if trick == "sleep":  # before NumPy is imported
        os.environ["OPENBLAS_THREAD_TIMEOUT"] = "26"  # OpenBLAS's own choice
        return
    from minizone import backend, zoneout
    from minizone.kernels.cpu import cells as cpu
    from minizone.kernels.cpu import tokens as cpu_tokens
    from minizone.recurrent import sequence

    def one_by_one(rng: Any, p: float, shape: tuple[int, ...], dtype: Any = "float32") -> Any:
        return (rng.random(shape, dtype="float32") < p).astype(dtype)

    lstm: Any = sequence.Recurrence
    takers: dict[str, Callable[[], None]] = {
        "follower": lambda: setattr(sequence, "WORTH_FOLLOWER", 1e9),
        "joined": lambda: setattr(lstm, "is_joined", lambda *_: False),
        "masks": lambda: setattr(zoneout, "bernoulli", one_by_one),
        "blocks": lambda: setattr(sequence, "WORTH_BLOCKS", 1e18),
        "unpacked": lambda: setattr(cpu, "SMALL_PRODUCT", 0),
        "wide inputs": lambda: setattr(cpu_tokens, "WORTH_COLUMNS", 1e9),
        "columns": lambda: setattr(cpu_tokens, "times_columns", lambda a, x: a @ x),
        "memory": lambda: setattr(backend, "keep_freed_memory", lambda: None),
    }
    takers[trick]()


def repetition(problem: tuple[int, ...] | str, taken_out: str | None) -> Callable[[], Any]:
    """One repetition of a layer or an update, with one trick taken out or none."""
    if taken_out:
        without(taken_out)
    return update.minizone_update(problem) if isinstance(problem, str) else peers.minizone_layer("lstm", *problem)


def main() -> None:
    settings = tyro.cli(Settings, description=__doc__)
    found: dict[str, Any] = {"machine": machine(), "tricks": {}}
    for name, (trick, problem) in TRICKS.items():
        made = [Candidate("with", repetition, problem, None), Candidate("without", repetition, problem, trick)]
        try:
            time_together(made, settings.rounds)
            times = ratio(made[1], made[0])
            found["tricks"][name] = {"with_ms": 1000 * made[0].median, "without_ms": 1000 * made[1].median, "of": times}
            print(f"{name:75s} {1000 * made[0].median:8.1f} ms, without {times:5.2f} x", flush=True)
        finally:
            for candidate in made:
                candidate.stop()
        if settings.json:
            write_json(settings.json, found)


if __name__ == "__main__":
    main()
