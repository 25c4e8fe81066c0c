"""The benchmarks run without their optional peers, and write what they print."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def benchmark(*arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("cell", ["lstm", "bn_lstm"])
def test_layers_are_timed_beside_the_floor(tmp_path, cell):
    out = tmp_path / "layer.json"
    printed = benchmark(
        "benchmarks/lstm.py", "--cell", cell, "--rounds", "2", "--shapes", "3,4,2,5", "--json", str(out)
    )
    found = json.loads(out.read_text())
    (result,) = found["results"]
    assert {"processor", "cores", "blas"} <= found["machine"].keys()
    assert result["shape"] == [3, 4, 2, 5] and {"minizone", "floor"} <= result["candidates"].keys()
    for name, numbers in result["candidates"].items():
        assert len(numbers["seconds"]) == 2 and min(numbers["seconds"]) > 0
        assert name in printed
    assert result["candidates"]["minizone"]["of_ours"] == 1
