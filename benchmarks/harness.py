"""Time candidates side by side. Each has its own process. All are alive at once, and one runs at a time.

In each round every candidate has a turn, and each round begins with a different candidate. On a CPU a turn is one
repetition, after a pause. On a GPU a turn is one repetition that is not timed, and then as many as take 50 ms. There is
no pause between them, as in training, where the host runs ahead of the GPU. Ratios are medians of the ratios within a
round, because anything that slows down a round slows down both sides of a ratio.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import json
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, NoReturn

ROOT = Path(__file__).resolve().parent.parent
PAUSE = 0.3  # seconds before a turn on a CPU: the threads of BLAS and OpenMP keep spinning after their work
TURN = 0.05  # seconds of a turn on a GPU
MOST_REPETITIONS = 200  # in a turn
PATIENCE = 300.0  # seconds: a candidate that is not built by then fails
SLOW_BLAS = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")  # they make NumPy run another processor's kernels
TF32 = ("CUPY_TF32", "NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE")  # they make products less exact
for variable in (*SLOW_BLAS, *TF32):  # before NumPy is imported, here and in the candidates' processes
    os.environ.pop(variable, None)


@dataclass(frozen=True)
class Settings:
    """The flags of all benchmarks."""

    rounds: int = 9
    """Number of turns of each candidate."""
    device: Literal["cpu", "gpu"] = "cpu"
    """Device on which the candidates run."""
    tiny: bool = False
    """Use very small problems, to check that everything runs."""
    json: str | None = None
    """Write all numbers to this file."""
    against: str | None = None
    """The folder of another checkout of minizone. Only the two checkouts are timed."""
    setup: str = ""
    """A Python statement that is run first in the process of the other checkout."""


# ---- in the process of a candidate


def process_peak_mb() -> float:
    """Peak memory of this process, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@dataclass
class Built:
    """What a candidate's process times."""

    repeat: Callable[[], object]
    synchronize: Callable[[], object] | None = None  # wait for the GPU; None on a CPU
    peak_mb: Callable[[], float] = process_peak_mb
    holds: object = None  # not to be freed, because a CUDA graph uses it


@dataclass(frozen=True)
class Turn:
    """A turn: seconds per repetition until the work is done, and until the host has launched it; peak memory in MB."""

    seconds: float
    host_seconds: float
    peak_mb: float


def take_turn(built: Built, repetitions: int) -> Turn:
    """Time some repetitions together."""
    synchronize = built.synchronize or (lambda: None)
    if built.synchronize:
        built.repeat()
        synchronize()
    start = time.perf_counter()
    for _ in range(repetitions):
        built.repeat()
    asked = time.perf_counter()
    synchronize()
    done = time.perf_counter()
    return Turn((done - start) / repetitions, (asked - start) / repetitions, built.peak_mb())


def serve(pipe: Connection, function: str, arguments: tuple[Any, ...], checkout: Path, setup: str) -> None:
    """Build the candidate on the first message. Each further message is a number of repetitions: take a turn."""
    try:
        sys.path.insert(0, str(checkout))
        exec(setup, {})
        module, _, name = function.rpartition(".")
        build = getattr(importlib.import_module(module), name)
        pipe.recv()
        built: Built = build(*arguments)
        for _ in range(3):  # 1: compilation, memory pools; 2: CUDA graphs are recorded; 3: and replayed
            built.repeat()
        check_checkout(checkout)
    except Exception as error:
        pipe.send((one_line(error), False))
        return
    pipe.send((None, built.synchronize is not None))
    while repetitions := pipe.recv():
        pipe.send(take_turn(built, repetitions))


def check_checkout(checkout: Path) -> None:
    """Raise ImportError if minizone was imported from elsewhere: the two checkouts would then be the same."""
    if "minizone" in sys.modules:
        path = Path(str(sys.modules["minizone"].__file__)).resolve()
        if not path.is_relative_to(checkout):
            raise ImportError(f"minizone was imported from {path} and not from {checkout}")


def one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].strip() if lines else ''}"[:300]


# ---- in the process of the benchmark


class Candidate:
    """A process with one thing to time.

    Parameters
    ----------
    name : str
        Name in tables and files.
    function : str
        "module.function", which returns a `Built`. The module is only imported in the candidate's process.
    arguments
        Arguments of the function.
    checkout : Path
        The folder that minizone is imported from.
    setup : str
        A Python statement that is run first in the process.
    """

    def __init__(self, name: str, function: str, *arguments: Any, checkout: Path = ROOT, setup: str = ""):
        self.name = name
        self.turns: list[Turn] = []
        self.error: str | None = None
        self.on_gpu = False
        self.repetitions = 1  # in a turn
        self.start(function, arguments, checkout, setup)

    def start(self, function: str, arguments: tuple[Any, ...], checkout: Path, setup: str) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, function, arguments, checkout, setup), daemon=True)
        self.process.start()
        theirs.close()

    def build(self) -> None:
        """Wait until the candidate is built. If that fails, ``error`` is set."""
        try:
            with contextlib.suppress(OSError):  # it may have sent its error and ended
                self.pipe.send(True)
            if self.pipe.poll(PATIENCE):
                self.error, self.on_gpu = self.pipe.recv()
            else:
                self.error = f"not built within {PATIENCE:.0f} s"
        except (EOFError, OSError):
            self.error = "its process died"

    def ask(self, repetitions: int) -> Turn | None:
        """Take a turn. If the process dies, return None and set ``error``."""
        try:
            self.pipe.send(repetitions)
            return self.pipe.recv()
        except (EOFError, OSError):
            self.error = "its process died"
            return None

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()

    def choose_repetitions(self) -> None:
        """Choose as many repetitions as fill a turn on a GPU."""
        turn = self.ask(1)
        if turn:
            self.repetitions = max(1, min(MOST_REPETITIONS, int(TURN / max(turn.seconds, 1e-9))))

    def take_turn(self) -> None:
        if not self.on_gpu:
            time.sleep(PAUSE)
        turn = self.ask(self.repetitions)
        if turn:
            self.turns.append(turn)

    @property
    def seconds(self) -> list[float]:
        return [turn.seconds for turn in self.turns]

    def numbers(self, first: Candidate) -> dict[str, Any]:
        """The numbers for the file; "of_ours" is the time divided by that of the first candidate."""
        if self.error:
            return {"error": self.error}
        found: dict[str, Any] = {"median_ms": 1000 * statistics.median(self.seconds), "of_ours": None}
        if not first.error:
            found["of_ours"] = statistics.median(a / b for a, b in zip(self.seconds, first.seconds, strict=True))
        if self.on_gpu:
            found["host_ms"] = 1000 * statistics.median(turn.host_seconds for turn in self.turns)
        return found | {"peak_mb": self.turns[-1].peak_mb, "seconds": self.seconds}


def time_together(candidates: list[Candidate], rounds: int) -> None:
    """Build the candidates one after the other, then give each a turn in every round."""
    for candidate in candidates:
        candidate.build()
    for candidate in candidates:
        if candidate.on_gpu:
            candidate.choose_repetitions()
    for k in range(rounds):
        first = k % len(candidates)
        for candidate in candidates[first:] + candidates[:first]:
            if not candidate.error:
                candidate.take_turn()


def compare(candidates: list[Candidate], rounds: int) -> dict[str, dict[str, Any]]:
    """Time the candidates, print a line for each and end their processes. Returns the numbers by name."""
    try:
        time_together(candidates, rounds)
        found = {candidate.name: candidate.numbers(candidates[0]) for candidate in candidates}
    finally:
        for candidate in candidates:
            candidate.stop()
    for name, numbers in found.items():
        if "error" in numbers:
            print(f"  {name:30s} left out: {numbers['error']}", flush=True)
            continue
        times = "" if numbers["of_ours"] is None else f"{numbers['of_ours']:7.2f} x {candidates[0].name}"
        print(f"  {name:30s} {numbers['median_ms']:10.3f} ms {times}   peak {numbers['peak_mb']:6.0f} MB", flush=True)
    return found


def both_checkouts(settings: Settings, function: str, *arguments: Any) -> list[Candidate]:
    """The same candidate from this checkout and from the one of ``--against``."""
    other = Path(settings.against or ROOT).resolve()
    return [
        Candidate("minizone", function, *arguments),
        Candidate(f"minizone of {other}", function, *arguments, checkout=other, setup=settings.setup),
    ]


# ---- files


def machine(device: str) -> dict[str, Any]:
    """Print and return the head of a file. Ends the program with one sentence if there is no such device."""
    sys.path.insert(0, str(ROOT))
    from threadpoolctl import threadpool_info

    from minizone import Device, UserError

    try:
        on = Device(device)
    except UserError as error:
        fail(str(error))
    found: dict[str, Any] = {"device": on.description, "date": f"{datetime.now(UTC):%Y-%m-%d}"}
    found |= {"load": os.getloadavg()[0], "python": platform.python_version()} | on.versions
    for library in ("numpy", "torch", "jax"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[library] = importlib.metadata.version(library)
    names = ("internal_api", "version", "architecture", "num_threads")
    found["blas"] = [{name: pool.get(name) for name in names} for pool in threadpool_info()]
    print("\n".join(f"{name}: {value}" for name, value in found.items()), flush=True)
    return found


def fail(sentence: str) -> NoReturn:
    """End the program with exit status 2."""
    print(f"{Path(sys.argv[0]).name}: {sentence}", file=sys.stderr)
    raise SystemExit(2)


def save(path: str | None, found: dict[str, Any]) -> None:
    """Write the numbers to a file, if there is a path."""
    if path:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(json.dumps(found, indent=2) + "\n")


def status(found: dict[str, Any]) -> int:
    """The exit status: 1 if a candidate of minizone failed."""
    return int(
        any(
            "error" in numbers
            for row in found["results"]
            for name, numbers in row["candidates"].items()
            if name.startswith("minizone")
        )
    )
