"""Processes that measure on a GPU: one for each library, all alive at once, one running at a time.

CuPy and PyTorch are kept apart, since they bring CUDA libraries of different versions and a memory pool each, and since
an error of CUDA, or a compiler that does not come back, ends one process and not the measurement. Their repetitions are
interleaved all the same: in each round every candidate has a turn. A turn is one repetition that is not timed, then
some without a pause between two events of the GPU, as in training, where the host runs ahead of the GPU.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import signal
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import truediv
from typing import Any

TF32 = ("CUPY_TF32", "NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE")  # which would make products less exact
for variable in TF32:
    os.environ.pop(variable, None)
PATIENCE = 300.0  # seconds for one answer
TURN, MOST = 50.0, 200  # milliseconds of a turn, and the most repetitions in it
SAMPLE = 4096  # elements of each array that are compared


class PeerError(Exception):
    """What went wrong in a worker, in one line."""


@dataclass
class Built:
    """A candidate in its worker."""

    repeat: Callable[[], Any]
    prepare: Callable[[], Any] = lambda: None  # before each turn: the switches of the library
    check: Callable[[], dict[str, Any]] | None = None  # arrays on the host, of a repetition with `fixed_masks`
    facts: dict[str, Any] = field(default_factory=dict)
    holds: Any = None  # what must not be freed, since a graph works on it


class Bench:
    """In a worker: its library, and the candidates of one row."""

    def __init__(self, library: str):
        self.gpu: Any = importlib.import_module({"cupy": "gpu_ours", "torch": "gpu_peers"}[library]).Gpu()
        self.built: dict[str, Built] = {}

    def describe(self) -> dict[str, Any]:
        return self.gpu.describe()

    def bandwidth(self) -> float:
        return self.gpu.bandwidth()

    def memory(self) -> dict[str, float]:
        return self.gpu.memory()

    def clear(self) -> None:
        self.built.clear()
        self.gpu.clear()

    def build(self, name: str, function: str, arguments: tuple) -> tuple[dict, dict]:
        """Make a candidate, warm it up, and give its facts and a sample of its numbers."""
        module, _, called = function.rpartition(".")
        built = self.built[name] = getattr(importlib.import_module(module), called)(*arguments)
        built.prepare()
        for _ in range(3):  # kernels are compiled, the pool is filled; graphs are recorded; graphs are played back
            built.repeat()
        return built.facts, {name: sample(a) for name, a in built.check().items()} if built.check else {}

    def time(self, name: str, count: int) -> tuple[float, float]:
        """Milliseconds of a repetition, by the clock of the GPU, and of the host until it had asked for everything."""
        built, start, stop = self.built[name], self.gpu.event(), self.gpu.event()
        built.prepare()
        built.repeat()
        start.record()
        begin = time.perf_counter()
        for _ in range(count):
            built.repeat()
        host = time.perf_counter() - begin
        stop.record()
        stop.synchronize()
        return self.gpu.elapsed(start, stop) / count, 1000 * host / count


def sample(array: Any) -> Any:
    """Some elements, the same ones of all arrays of a size."""
    import numpy as np

    return array.reshape(-1)[np.random.default_rng(0).integers(0, array.size, SAMPLE)].astype(np.float64)


def difference(samples: dict[str, Any], ours: dict[str, Any]) -> float | None:
    """The largest relative difference of an array from ours; None where there is nothing to compare."""
    import numpy as np

    norm = np.linalg.norm
    found = [norm(samples[k] - ours[k]) / max(norm(ours[k]), 1e-300) for k in ours.keys() & samples.keys()]
    return float(np.max(found)) if found else None


# ---- processes


def serve(library: str, pipe: Any) -> None:
    """In the worker's process: answer with what a method of `Bench` gives, or with the error in one line."""
    os.setpgid(0, 0)  # so that a compiler that it starts ends with it
    warnings.filterwarnings("error", message="loops are launched step by step")  # this is what would be measured
    bench = None
    while True:
        try:
            method, arguments = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            bench = bench or Bench(library)
            answer = getattr(bench, method)(*arguments), None
        except Exception as error:
            answer = None, one_line(error)
        pipe.send(answer)


def one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].strip() if lines else ''}"[:300]


class Worker:
    """A process for a library."""

    def __init__(self, library: str):
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(library, theirs), daemon=True)
        self.process.start()
        theirs.close()

    def ask(self, method: str, *arguments: Any, seconds: float = PATIENCE) -> Any:
        """What the method of its `Bench` gives. Raises PeerError; the worker is then to be stopped."""
        try:
            self.pipe.send((method, arguments))
            if not self.pipe.poll(seconds):
                raise PeerError(f"no answer within {seconds:.0f} s")
            answer, error = self.pipe.recv()
        except (EOFError, OSError):
            raise PeerError("its process died") from None
        if error:
            raise PeerError(error)
        return answer

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            if os.getpgid(self.process.pid or 0) == self.process.pid:
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.join()
        self.pipe.close()


class Workers:
    """Workers by name, started when they are needed; the first word of a name is the library."""

    def __init__(self, start: Callable[[str], Any] = Worker):
        self.start, self.alive = start, dict[str, Any]()

    def ask(self, name: str, *request: Any, seconds: float = PATIENCE) -> Any:
        """As `Worker.ask`; a worker that failed is stopped."""
        if name not in self.alive:
            self.alive[name] = self.start(name.split()[0])
        try:
            return self.alive[name].ask(*request, seconds=seconds)
        except PeerError:
            self.stop(name)
            raise

    def clear(self) -> None:
        """Take the candidates out of all workers."""
        for name in list(self.alive):
            with contextlib.suppress(PeerError):
                self.ask(name, "clear")

    def stop(self, *names: str) -> None:
        for name in names or list(self.alive):
            if name in self.alive:
                self.alive.pop(name).stop()


# ---- candidates


@dataclass
class Candidate:
    """Something to time: ``function(*arguments)`` gives a `Built`. It is imported in the worker alone."""

    name: str
    worker: str
    function: str  # "gpu_ours.layer"
    arguments: tuple
    seconds: float = PATIENCE  # for building it
    error: str | None = None
    is_built: bool = False
    count: int = 1  # repetitions in a turn
    ms: list[float] = field(default_factory=list)
    host: list[float] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    sample: dict[str, Any] = field(default_factory=dict)


def time_together(candidates: list[Candidate], workers: Workers, rounds: int) -> None:
    """A turn of each candidate in each round, which begins with another one each time; errors stay with their own."""
    _build(candidates, workers)
    for k in range(rounds):
        turn = k % len(candidates)
        for candidate in candidates[turn:] + candidates[:turn]:
            if candidate.error is None:
                try:
                    ms, host = workers.ask(candidate.worker, "time", candidate.name, candidate.count)
                    candidate.ms.append(ms)
                    candidate.host.append(host)
                except PeerError as error:
                    _fail(candidate, error, candidates)
                    _build(candidates, workers)


def _build(candidates: list[Candidate], workers: Workers) -> None:
    """Build those that are not; again those whose worker has been stopped by the error of another."""
    while waiting := [c for c in candidates if not c.is_built and c.error is None]:
        c = waiting[0]
        try:
            request = "build", c.name, c.function, c.arguments
            c.facts, c.sample = workers.ask(c.worker, *request, seconds=c.seconds)
            ms, _ = workers.ask(c.worker, "time", c.name, 1)
            c.count, c.is_built = max(1, min(MOST, int(TURN / max(ms, 1e-3)))), True
        except PeerError as error:
            _fail(c, error, candidates)


def _fail(failed: Candidate, error: PeerError, candidates: list[Candidate]) -> None:
    failed.error = str(error)
    for candidate in candidates:
        candidate.is_built &= candidate.worker != failed.worker


def numbers(candidate: Candidate, ours: Candidate) -> dict[str, Any]:
    """What the JSON keeps of a candidate."""
    if candidate.error is not None or not candidate.ms:
        return {"error": candidate.error or "not measured"}
    off = difference(candidate.sample, ours.sample)
    if off is not None and off != off:
        return {"error": "its values are not finite"}
    quartiles = statistics.quantiles(candidate.ms, n=4, method="inclusive") if len(candidate.ms) > 1 else candidate.ms
    found: dict[str, Any] = {
        "median_ms": statistics.median(candidate.ms),
        "quartiles_ms": [quartiles[0], quartiles[-1]],
        "n": len(candidate.ms),
        "repetitions": candidate.count,
        "host_ms": statistics.median(candidate.host),
        "of_ours": None if ours.error else statistics.median(map(truediv, candidate.ms, ours.ms)),
        "ms": candidate.ms,
    }
    return found | ({} if off is None or candidate is ours else {"difference": off}) | candidate.facts
