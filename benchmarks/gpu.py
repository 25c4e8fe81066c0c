"""minizone on a GPU, beside PyTorch, cuDNN and the floor: layers, whole training updates, memory.

    python benchmarks/gpu.py --json results/gpu/gpu.json [--parts layers,updates,memory] [--rounds 11]
    python benchmarks/gpu.py --json FILE --only 100,32,50,1000 gru word-ptb      these shapes, cells and tasks
    python benchmarks/gpu.py --json FILE --parts compiled                        PyTorch's loop through torch.compile

float32 without TF32 on both sides; one more row has cuDNN with TF32, its own default. FILE is written after each row,
and a run with a FILE that is there goes on where that one stopped. PyTorch is optional: benchmarks/requirements.txt
"""

from __future__ import annotations

import math
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent.parent), str(Path(__file__).resolve().parent)]
import gpu_ours  # noqa: E402
import lstm  # noqa: E402
from gpu_workers import Candidate, PeerError, Worker, Workers, numbers, time_together  # noqa: E402
from tables import EPOCH_GOAL, GPU_GOALS, least  # noqa: E402
from update import TASKS  # noqa: E402

PARTS = ("layers", "updates", "memory", "compiled")
BOTH = ((784, 100, 1, 100), (100, 32, 50, 1000))  # T, B, D, H that every cell is measured on
SHAPES = [tuple(map(int, shape.split(","))) for shape in lstm.SHAPES]
LAYERS = [("lstm", shape) for shape in SHAPES] + [(cell, shape) for cell in ("gru", "rnn", "bn_lstm") for shape in BOTH]
LONGEST = 180  # time steps that are given to torch.compile, which unrolls them
WRONG = 1e-3  # relative difference from minizone's numbers that rounding does not explain


@dataclass(frozen=True)
class Settings:
    """Time minizone on a GPU."""

    parts: str = "layers,updates,memory"
    """What to measure, in this order; compiled: PyTorch's loops through torch.compile, which takes minutes each."""
    rounds: int = 11
    """Turns of each candidate; the numbers are medians over them."""
    only: tuple[str, ...] = ()
    """Only these shapes (T,B,D,H), cells and tasks."""
    json: str | None = None
    """Write all numbers to this file; where it exists, go on with it."""
    again: bool = False
    """Measure again what the file has already."""
    max_minutes: float = math.inf
    """Begin no row after so many minutes."""
    compile_seconds: float = 300.0
    """How long torch.compile may take for one layer."""


@dataclass(frozen=True)
class Row:
    """A problem: a part, a cell or a task, a shape."""

    part: str
    what: str
    shape: tuple[Any, ...]

    @property
    def key(self) -> dict[str, Any]:
        return {"part": self.part, "what": self.what, "shape": list(self.shape)}

    @property
    def name(self) -> str:
        return f"{self.part}: {self.what}" + (f", T B D H = {text(self.shape)}" if self.what not in TASKS else "")


class Problem(Exception):
    """What a person can change, in one sentence."""


def text(shape: tuple[Any, ...]) -> str:
    return ",".join(map(str, shape))


def rows(settings: Settings) -> list[Row]:
    """What is to be measured. Raises Problem for a word that names nothing."""
    parts, names = settings.parts.split(","), {*TASKS, *(cell for cell, _ in LAYERS), *(text(s) for _, s in LAYERS)}
    for kind, given, known in (("--parts", parts, PARTS), ("--only", settings.only, sorted(names))):
        for word in given:
            if word not in known:
                raise Problem(f"{kind}: {word!r} is none of {', '.join(known)}")
    if settings.rounds < 1:
        raise Problem(f"--rounds must be at least 1, got {settings.rounds}")
    found = []
    for part in parts:
        if part in ("updates", "memory"):
            found += [Row(part, task, shape) for task, shape in TASKS.items()]
        else:
            found += [Row(part, *layer) for layer in LAYERS if part == "layers" or layer[1][0] <= LONGEST]
    wanted = set(settings.only)
    return [row for row in found if not wanted or wanted & {row.what, text(row.shape)}]


def candidates(row: Row, torch: bool, compile_seconds: float) -> list[Candidate]:
    """minizone, which is the first, and what it is compared with."""
    if row.part in ("updates", "memory"):
        made = [Candidate("minizone", "cupy", "gpu_ours.update", (row.what, row.shape, gpu_ours.SIZES[row.what]))]
        hows = {"torch": "eager", "graphed torch": "graph"}
        peers = [
            Candidate(f"{name} loop, {mix}", "torch", "gpu_peers.update", (row.what, mix, how, row.shape))
            for name, how in hows.items()
            for mix in (("where", "lerp") if row.part == "updates" else ("lerp",))
        ]
        return made + (peers if torch else [])
    made = [Candidate("minizone", "cupy", "gpu_ours.layer", (row.what, True, row.shape))]
    if row.part == "compiled":
        for how, worker in (("compile", "torch compiled"), ("compile with graphs", "torch compiled with graphs")):
            arguments = row.what, "where", how, row.shape
            name = f"{worker.removeprefix('torch ')} torch loop, where"
            made.append(Candidate(name, worker, "gpu_peers.layer", arguments, compile_seconds))
        return made if torch else made[:1]
    made.append(Candidate("minizone, no graphs", "cupy", "gpu_ours.layer", (row.what, False, row.shape)))
    made.append(Candidate("floor: products", "cupy", "gpu_ours.floor", (row.what, row.shape)))
    if torch:
        variants = ["loop, where", "loop, lerp"] + ["LSTMCell, where", "LSTMCell, lerp"] * (row.what == "lstm")
        for name, how in (("torch", "eager"), ("graphed torch", "graph")):
            for v in variants:
                made.append(Candidate(f"{name} {v}", "torch", "gpu_peers.layer", (row.what, v, how, row.shape)))
        if row.what != "bn_lstm":
            for name, tf32 in (("cuDNN", False), ("cuDNN, TF32", True)):
                made.append(Candidate(name, "torch", "gpu_peers.cudnn", (row.what, tf32, row.shape)))
    return made


def measure(row: Row, found: dict[str, Any], workers: Workers, settings: Settings) -> dict[str, Any]:
    """The row of the file."""
    made = candidates(row, found["torch"] is not None, settings.compile_seconds)
    if row.part == "memory":
        return row.key | {"candidates": {each.name: memory(each, workers) for each in made}}
    workers.clear()
    time_together(made, workers, settings.rounds)
    result: dict[str, Any] = row.key | {"candidates": {each.name: numbers(each, made[0]) for each in made}}
    if row.part == "layers":
        result["least_bytes"] = gpu_ours.least_bytes(row.what, *row.shape)
        milliseconds = result["least_bytes"] / found["bandwidth_gb_s"] / 1e6
        result["candidates"]["floor: bytes"] = {"median_ms": milliseconds}
        ours = result["candidates"]["minizone"].get("median_ms")
        result["candidates"]["floor: bytes"]["of_ours"] = ours and milliseconds / ours
    return result


def memory(candidate: Candidate, workers: Workers) -> dict[str, Any]:
    """MiB after some updates, in a process of its own that has the GPU for itself."""
    workers.stop()
    try:
        request = "build", candidate.name, candidate.function, candidate.arguments
        facts, _ = workers.ask(candidate.worker, *request)
        workers.ask(candidate.worker, "time", candidate.name, 5)
        return facts | workers.ask(candidate.worker, "memory")
    except PeerError as error:
        return {"error": str(error)}
    finally:
        workers.stop()


def show(result: dict[str, Any], say: Callable[..., None]) -> None:
    """The lines of a row, and the targets that are set for it."""
    times, key = result["candidates"], (result["what"], tuple(result["shape"]))
    for name, each in times.items():
        if "error" in each:
            say(f"  {name:38s} left out: {each['error']}")
        elif "held_mib" in each:
            say(f"  {name:38s} {each['held_mib']:9.0f} MiB in its pool, {each['taken_mib']:9.0f} MiB of the GPU")
        else:
            of = "" if each["of_ours"] is None else f"{each['of_ours']:8.2f} x minizone"
            off = each.get("difference")
            wrong = f"   its numbers are not minizone's: {off:.1e}" if off is not None and not off < WRONG else ""
            say(f"  {name:38s} {each['median_ms']:9.3f} ms {of}{wrong}")
    goals: dict[str, float] = GPU_GOALS.get(key, {}) if result["part"] == "layers" else {}
    for name, goal in goals.items():
        if (of := least(times, name, "of_ours")) is not None:
            say(f"  target, {name} / ours at least {goal:g}: {of:.2f}, {'reached' if of >= goal else 'missed'}")
    if result["part"] == "updates" and "error" not in times["minizone"]:
        ours, n = times["minizone"]["median_ms"], times["minizone"]["updates_per_epoch"]
        seconds, goal = n * ours / 1000, ""
        if key[0] == "char-ptb":
            goal = f", target {EPOCH_GOAL:g} s: {'reached' if seconds <= EPOCH_GOAL else 'missed'}"
        say(f"  {1000 / ours:.1f} updates/s, an epoch of {n:,} updates in {seconds:.1f} s{goal}")


def describe(workers: Workers) -> dict[str, Any]:
    """The head of the file."""
    found = workers.ask("cupy", "describe")
    try:
        found |= workers.ask("torch", "describe")
    except PeerError as error:
        print(f"PyTorch is left out ({error}): pip install -r benchmarks/requirements.txt", flush=True)
        found["torch"] = None
    return found | {"date": f"{datetime.now(UTC):%Y-%m-%d}"}


def known(path: Path | None, now: dict[str, Any]) -> dict[str, Any]:
    """What the file has already, or an empty one; Problem where it is of another device or cannot be read."""
    from minizone.runs.files import read_json

    if path is None or not path.exists():
        return now | {"bandwidth_gb_s": None, "rows": []}
    found = read_json(path)
    if not isinstance(found, dict) or not {"device", "rows"} <= found.keys():
        raise Problem(f"{path} was not written by benchmarks/gpu.py: give another --json")
    if found["device"] != now["device"]:
        raise Problem(f"{path} is of a {found['device']}, and this is a {now['device']}: give another --json")
    return found | now


def put(found: dict[str, Any], result: dict[str, Any]) -> None:
    """The row, in the place of the one that was there."""
    same = [
        k for k, row in enumerate(found["rows"]) if all(row[name] == result[name] for name in ("part", "what", "shape"))
    ]
    found["rows"] = [row for k, row in enumerate(found["rows"]) if k not in same] + [result]


def run(settings: Settings, workers: Workers, say: Callable[..., None] = print) -> dict[str, Any]:
    """Measure what is wanted and not there yet; the file is whole after each row."""
    from minizone.runs.files import write_json

    wanted, start, path = rows(settings), time.monotonic(), Path(settings.json) if settings.json else None
    found = known(path, describe(workers))
    if found.get("bandwidth_gb_s") is None:
        found["bandwidth_gb_s"] = workers.ask("cupy", "bandwidth")
    say("\n".join(f"{name}: {value}" for name, value in found.items() if name != "rows"), flush=True)
    whole = [row for row in found["rows"] if "error" not in row["candidates"]["minizone"]]
    there = [Row(row["part"], row["what"], tuple(row["shape"])) for row in whole]
    left = [row for row in wanted if settings.again or row not in there]
    if len(left) < len(wanted):
        say(f"{len(wanted) - len(left)} of {len(wanted)} rows are in {path} already")
    for k, row in enumerate(left):
        if time.monotonic() - start > 60 * settings.max_minutes:
            say(f"--max-minutes is over, {len(left) - k} rows are left" + (f": run again with {path}" if path else ""))
            break
        say(row.name, flush=True)
        result = measure(row, found, workers, settings)
        show(result, say)
        put(found, result)
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, found)
    return found


def main(arguments: list[str] | None = None, start: Callable[[str], Any] = Worker) -> int:
    import tyro

    settings = tyro.cli(Settings, args=arguments, description=__doc__)
    from minizone import Device, UserError  # before NumPy, to which it says how long its threads shall wait

    workers = Workers(start)
    try:
        Device("gpu")
        run(settings, workers)
        return 0
    except (UserError, Problem, PeerError) as error:
        sentence = re.sub(r"[,;] (or )?use --device cpu$", "", str(error))  # there is no such flag here
        print(f"gpu.py: {sentence}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("gpu.py: stopped; the rows that were measured are in the file of --json", file=sys.stderr)
        return 130
    finally:
        workers.stop()


if __name__ == "__main__":
    sys.exit(main())
