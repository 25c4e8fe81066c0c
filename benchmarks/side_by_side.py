"""Candidates timed side by side: each in a process of its own, all alive at once, one running at a time.

A round asks every candidate for one repetition; the order turns from round to round. Ratios are medians of the ratios
within a round, so that what slows a round down slows both sides of a ratio.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SLOW_BLAS = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")  # where they are set, NumPy runs another processor's kernels
PAUSE = 0.3  # seconds between two repetitions: the threads of BLAS and OpenMP go on spinning after their work
for variable in SLOW_BLAS:  # before NumPy is imported, here and in the candidates' processes
    os.environ.pop(variable, None)


def serve(build: Callable[..., Callable[[], Any]], arguments: tuple, pipe: Any) -> None:
    """In the candidate's process: build it, then a repetition for every message; sends seconds and peak memory."""
    try:
        repetition = build(*arguments)
        for _ in range(2):  # compilation, memory pools, page faults
            repetition()
        pipe.send(None)
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {error}")
        return
    while pipe.recv():
        start = time.perf_counter()
        repetition()
        seconds = time.perf_counter() - start
        pipe.send((seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


class Candidate:
    """A process with one thing to time. ``build(*arguments)`` gives a function that is one repetition."""

    def __init__(self, name: str, build: Callable[..., Callable[[], Any]], *arguments: Any):
        context = multiprocessing.get_context("spawn")
        self.name, (self.pipe, theirs) = name, context.Pipe()
        self.process = context.Process(target=serve, args=(build, arguments, theirs), daemon=True)
        self.process.start()
        theirs.close()
        try:
            self.error: str | None = self.pipe.recv()
        except EOFError:
            self.error = "its process died"
        self.seconds: list[float] = []
        self.megabytes = 0.0

    def run(self) -> None:
        self.pipe.send(True)
        seconds, self.megabytes = self.pipe.recv()
        self.seconds.append(seconds)

    def stop(self) -> None:
        if self.process.is_alive():
            with contextlib.suppress(OSError):
                self.pipe.send(False)
            self.process.join(timeout=5)
            self.process.kill()

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def time_together(candidates: list[Candidate], rounds: int) -> None:
    """``rounds`` repetitions of each, one after the other, each round beginning with another one."""
    for k in range(rounds):
        turn = k % len(candidates)
        for candidate in candidates[turn:] + candidates[:turn]:
            time.sleep(PAUSE)
            candidate.run()


def ratio(slow: Candidate, fast: Candidate) -> float:
    """How many times longer ``slow`` takes: the median over rounds."""
    pairs = zip(slow.seconds, fast.seconds, strict=True)
    return statistics.median(a / b for a, b in pairs)


def machine() -> dict[str, Any]:
    """The processor, cores, thread settings and BLAS kernels, for the head of a table."""
    import numpy as np

    found: dict[str, Any] = {
        "processor": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "numpy": np.__version__,
        "threads": {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")},
    }
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        found["processor"] = next((line.split(":")[1].strip() for line in lines if "model name" in line), "unknown")
        flags = next((line for line in lines if line.startswith("flags")), "")
        found["avx512"] = "avx512f" in flags
    try:
        from threadpoolctl import threadpool_info

        found["blas"] = [
            {k: pool.get(k) for k in ("internal_api", "version", "architecture", "num_threads")}
            for pool in threadpool_info()
        ]
    except ImportError:
        found["blas"] = "unknown: pip install threadpoolctl"
    return found


def write_json(path: str, found: Any) -> None:
    Path(path).write_text(json.dumps(found, indent=2) + "\n")
