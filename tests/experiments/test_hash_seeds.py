"""A run does not depend on the order in which Python hashes its strings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def train_every_task() -> dict[str, int]:
    """A tiny run of every task: a checksum of its log and of its last checkpoint."""
    from tests.runs.test_gpu_training import TASKS, train  # not above: it brings the stand-in for CuPy along

    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for task, (kind, settings) in TASKS.items():
            rows, arrays = train(kind, settings, Path(folder) / task)
            content = json.dumps(rows).encode() + b"".join(array.tobytes() for _, array in sorted(arrays.items()))
            found[task] = zlib.crc32(content)
    return found


def test_every_task_is_the_same_to_the_bit_under_two_hash_seeds(record_property):
    code = "import json; from tests.experiments.test_hash_seeds import *; print(json.dumps(train_every_task()))"
    processes = []
    for hash_seed in ("0", "4242"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", code]
        processes.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
    one, other = (json.loads(process.communicate(timeout=300)[0].splitlines()[-1]) for process in processes)
    assert one == other
    record_property("tasks trained to the same bits under two hash seeds", len(one))
