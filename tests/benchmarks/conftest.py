"""The modules of benchmarks/ import each other by their names, as when one of them is run."""

from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch) -> Path:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return BENCHMARKS
