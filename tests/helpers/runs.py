"""A small run of char-ptb, and a comparison of two runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from minizone.experiments.char_ptb import PRESETS, CharPTB
from minizone.runs.experiment import Experiment
from minizone.runs.files import load_arrays, read_rows
from minizone.runs.training import fit

TINY = replace(
    PRESETS["quick"],
    dataset="manual",
    hidden_size=12,
    batch_size=10,
    seq_len=11,
    epochs=3,
    train_symbols=1500,
    eval_symbols=300,
    z_prob_cells=0.5,
    z_prob_states=0.05,
)
CLOCK = ("seconds", "updates_per_second")


def quiet(*words: object) -> None:
    """In the place of `print`."""


def run(folder: Path, experiment: type[Experiment] = CharPTB, **changes: Any) -> dict[str, Any]:
    """Train with the settings TINY, but for ``changes``."""
    return fit(experiment(replace(TINY, **changes), say=quiet), folder, say=quiet)


def same_run(one: Path, other: Path) -> None:
    """Assert that every number of two runs is the same, except those of the clock."""
    for name in ("last.safetensors", "best.safetensors"):
        (a, _), (b, _) = load_arrays(one / name), load_arrays(other / name)
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key], err_msg=f"{name}: {key}")
    rows, other_rows = (read_rows(folder / "metrics.jsonl") for folder in (one, other))
    assert [without_clock(row) for row in rows] == [without_clock(row) for row in other_rows]
    summary, other_summary = (json.loads((folder / "summary.json").read_text()) for folder in (one, other))
    assert without_clock(summary) == without_clock(other_summary)


def without_clock(numbers: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in numbers.items() if name not in CLOCK}


def make_run(
    folder: Path,
    seed: int = 1,
    z: float = 0.0,
    valid: tuple[float, ...] = (2.0, 1.5, 1.75),
    dataset: str = "PTB, authors' form",
    reference: dict[str, Any] | None = None,
    task: str = "char-ptb",
) -> Path:
    """Write the folder of a finished run, without checkpoints, that nobody trained; returns it."""
    folder.mkdir(parents=True)
    zoneout = {"z_prob_cells": z, "z_prob_states": z / 10}
    changed = {"seed": seed} | (zoneout | {"augment": False} if z else {})
    config = {
        "task": task,
        "metric": "bpc",
        "unit": "bits per character",
        "settings": {"seed": seed, "preset": "paper", **zoneout},
        "changed": changed,
        "dataset": {"name": dataset, "sha256": {}},
        "machine": "AMD EPYC, 2 cores",
        "reference": {"Zoneout": {"valid": 1.362, "test": 1.27}} if reference is None else reference,
    }
    (folder / "config.json").write_text(json.dumps(config))
    rows = [{"epoch": n, "train_bpc": v - 0.1, "valid_bpc": v} for n, v in enumerate(valid, start=1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    best = min(valid)
    summary = {"best_epoch": valid.index(best) + 1, "best_valid_bpc": best, "test_bpc": best - 0.25, "seconds": 90.0}
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder
