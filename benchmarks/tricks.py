"""What each trick is worth: the same problem with it and without it, side by side.

python benchmarks/tricks.py [--rounds 9] [--json results/cpu/tricks.json]

Each trick has a function below that takes it out. It is called first in the candidate's process, and imports what it
changes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import harness
import tyro
from harness import Candidate
from problems import SHAPES, TASKS, TINY_SHAPE, TINY_TASKS, Shape

_, PIXELS, WORDS, MIDDLE, *_ = SHAPES


def change(owner: Any, name: str, value: Any) -> None:
    """Set an existing attribute. AttributeError if it was renamed: the trick would not be taken out."""
    getattr(owner, name)
    setattr(owner, name, value)


def without_thread_behind_the_loop() -> None:
    from minizone.recurrent import sequence

    change(sequence, "FEWEST_PARTS", sys.maxsize)


def without_joined_product() -> None:
    from minizone.recurrent.sequence import Recurrence

    change(Recurrence, "is_joined", lambda *_: False)


def without_16_bit_masks() -> None:
    from minizone import zoneout

    def from_floats(rng: Any, p: float, shape: tuple[int, ...], dtype: Any = "float32") -> Any:
        return (rng.random(shape, dtype="float32") < p).astype(dtype)

    change(zoneout, "bernoulli", from_floats)


def without_wide_inputs_at_once() -> None:
    from minizone.kernels.cpu import products

    change(products, "LARGE", sys.maxsize)


def without_large_matrix_once() -> None:
    from minizone.kernels import cpu
    from minizone.kernels.cpu import products

    for module in (products, cpu):
        change(module, "times_stack", lambda W, x: W @ x)


def without_kept_memory() -> None:
    from minizone import backend

    change(backend, "keep_freed_memory", lambda: None)


@dataclass(frozen=True)
class Trick:
    """A row of the table: the name of the trick, how it is taken out, and the layer or update that is timed."""

    name: str
    take_out: Callable[[], None]
    problem: Shape | str


FOLLOWER = "a thread behind the loop adds up the weights' gradients"
TRICKS = (
    Trick(f"{FOLLOWER} (784x100x1x100)", without_thread_behind_the_loop, PIXELS),
    Trick(f"{FOLLOWER} (180x128x27x256)", without_thread_behind_the_loop, MIDDLE),
    Trick("one product for h, 1 and x", without_joined_product, PIXELS),
    Trick("masks from 16 random bits an element", without_16_bit_masks, PIXELS),
    Trick("wide inputs projected many steps at once", without_wide_inputs_at_once, WORDS),
    Trick("freed memory is kept", without_kept_memory, "char-ptb"),
    Trick("a large matrix goes through the cache once", without_large_matrix_once, "word-ptb"),
)


@dataclass(frozen=True)
class Settings:
    """Time every trick."""

    rounds: int = 9
    """Number of turns of each candidate."""
    tiny: bool = False
    """Use very small problems, to check that everything runs."""
    json: str | None = None
    """Write all numbers to this file."""


def measure(trick: Trick, settings: Settings) -> dict[str, Any]:
    """Time one trick and print its lines."""
    print(trick.name, flush=True)
    if isinstance(trick.problem, str):
        shape = (TINY_TASKS if settings.tiny else TASKS)[trick.problem]
        arguments: tuple[Any, ...] = ("ours.update", trick.problem, shape)
    else:
        arguments = ("ours.layer", "lstm", TINY_SHAPE if settings.tiny else trick.problem)
    setup = f"import tricks; tricks.{trick.take_out.__name__}()"
    made = [Candidate("minizone", *arguments), Candidate("without it", *arguments, setup=setup)]
    with_it, without = harness.compare(made, settings.rounds).values()
    if "error" in with_it or "error" in without:
        harness.fail(f"{trick.name} could not be timed")
    return {"with_ms": with_it["median_ms"], "without_ms": without["median_ms"], "of": without["of_ours"]}


def main() -> None:
    settings = tyro.cli(Settings, description=__doc__)
    found: dict[str, Any] = {"machine": harness.machine("cpu"), "tricks": {}}
    for trick in TRICKS:
        found["tricks"][trick.name] = measure(trick, settings)
        harness.save(settings.json, found)


if __name__ == "__main__":
    main()
