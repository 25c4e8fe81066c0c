"""A run does not depend on the order in which Python hashes its strings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

from minizone.commands.export import export
from minizone.runs.files import write_npz

ROOT = Path(__file__).parents[2]
WITH_TIMES = {"last.safetensors", "metrics.jsonl", "summary.json"}
NOT_FOR_TORCH = {"pmnist with batch normalization", "semantic"}


def train_every_task() -> dict[str, int]:
    """A tiny run of every task: checksums of its log and of its last checkpoint, and of every file without times."""
    from tests.runs.test_gpu_training import TASKS, train  # not above: it brings the stand-in for CuPy along

    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for task, (kind, settings) in TASKS.items():
            rows, arrays = train(kind, settings, Path(folder) / task)
            content = json.dumps(rows).encode() + b"".join(array.tobytes() for _, array in sorted(arrays.items()))
            found[task] = zlib.crc32(content)
            if task not in NOT_FOR_TORCH:
                export(Path(folder) / task, Path(folder) / task / "torch.safetensors")
            write_npz(Path(folder) / task / "arrays.npz", arrays)
            for path in (Path(folder) / task).iterdir():
                if path.name not in WITH_TIMES:
                    found[f"{task}/{path.name}"] = zlib.crc32(path.read_bytes())
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
    assert one.keys() >= {
        f"char-ptb/{name}" for name in ("best.safetensors", "config.json", "curves.png", "torch.safetensors")
    }
    record_property("tasks trained to the same bits under two hash seeds", sum("/" not in name for name in one))
