"""Training on a GPU: every task gives the same run as on a CPU, updates do not synchronize, and runs can be resumed."""

from __future__ import annotations

import copy
import itertools
import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minizone import Device, UserError, backend
from minizone.experiments import char_ptb, gradients, pmnist, semantic, seq2seq, text8, word_ptb
from minizone.experiments.char_ptb import CharPTB
from minizone.runs.files import load_arrays, read_rows
from minizone.runs.training import Interrupted, fit
from tests.helpers.commands import refused_here
from tests.standin import Counts

CHARACTERS = {
    "hidden_size": 12,
    "batch_size": 10,
    "seq_len": 11,
    "epochs": 2,
    "train_symbols": 700,
    "eval_symbols": 300,
}
IMAGES = {"hidden_size": 6, "batch_size": 20, "epochs": 2, "train_examples": 40, "eval_examples": 30}
CHAR_PTB = replace(
    char_ptb.PRESETS["quick"], dataset="manual", z_prob_cells=0.5, z_prob_states=0.05, **CHARACTERS
)  # fmt: skip
TASKS: dict[str, tuple[Any, Any]] = {
    "char-ptb": (CharPTB, CHAR_PTB),
    "text8": (text8.Text8, replace(text8.PRESETS["quick"], dataset="manual", **CHARACTERS)),
    "word-ptb": (
        word_ptb.WordPTB,
        replace(
            word_ptb.PRESETS["quick"], dataset="manual", hidden_size=6, batch_size=4, seq_len=5, epochs=2,
            train_symbols=75, eval_symbols=41, dropout=0.3, z_prob_cells=0.25, z_prob_states="0.025,0.05",
        ),
    ),
    "pmnist": (pmnist.PMNIST, replace(pmnist.PRESETS["quick"], dataset="digits", **IMAGES)),
    "pmnist with batch normalization": (
        pmnist.PMNIST,
        # With RMSProp h_0 takes steps of full length along a gradient that is rounding only.
        replace(pmnist.PRESETS["quick"], dataset="digits", batch_normalization=True, algorithm="sgd", **IMAGES),
    ),
    "seq2seq": (
        seq2seq.Seq2Seq,
        replace(
            seq2seq.PRESETS["quick"], hidden_size=8, batch_size=10, updates_per_epoch=3, valid_examples=20, epochs=2,
            z_prob_cells=0.5, z_prob_states=0.05,
        ),
    ),
    "semantic": (semantic.Semantic, replace(semantic.PRESETS["quick"], epochs=2, updates_per_epoch=6)),
    "gradients": (
        gradients.Gradients,
        replace(
            gradients.PRESETS["quick"], dataset="digits", hidden_size=8, batch_size=20, train_examples=60,
            eval_examples=20,
        ),
    ),
}  # fmt: skip
every_task = pytest.mark.parametrize("task", TASKS)


def quiet(*words: Any) -> None:
    pass


def train(kind: Any, settings: Any, folder: Path, **changes: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The rows of the log, without their seconds, and the arrays of the last checkpoint."""
    fit(kind(replace(settings, **changes), say=quiet), folder, say=quiet)
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in read_rows(folder / "metrics.jsonl")]
    return rows, load_arrays(folder / "last.safetensors")[0]


def assert_same_run(found: tuple[Any, Any], expected: tuple[Any, Any], tolerance: float) -> None:
    (rows, arrays), (expected_rows, expected_arrays) = found, expected
    assert len(rows) == len(expected_rows)
    for row, expected_row in zip(rows, expected_rows, strict=True):
        assert row.keys() == expected_row.keys()
        for name, value in expected_row.items():
            if isinstance(value, float):
                assert row[name] == pytest.approx(value, rel=tolerance, abs=tolerance), name
    assert arrays.keys() == expected_arrays.keys()
    for name, value in expected_arrays.items():
        largest = max(1, abs(value).max(initial=0))
        np.testing.assert_allclose(arrays[name], value, rtol=0, atol=tolerance * largest, err_msg=name)


@pytest.fixture
def streams_of_the_cpu(monkeypatch):
    """Random numbers for a GPU are drawn on the host, since its generators draw others."""

    def on_host(seed: int, purpose: str, *key: int, device: Device | None = None) -> Any:
        return stream(seed, purpose, *key)

    stream = backend.stream
    for name, module in list(sys.modules.items()):
        if name.startswith("minizone.") and getattr(module, "stream", None) is stream:
            monkeypatch.setattr(module, "stream", on_host)


@every_task
def test_a_task_trains_as_on_the_cpu(gpu, streams_of_the_cpu, task, tmp_path):
    on_cpu, on_gpu = (train(*TASKS[task], tmp_path / device, device=device) for device in ("cpu", "gpu"))
    assert_same_run(on_gpu, on_cpu, 2e-3 if task == "seq2seq" else 1e-4)


@pytest.mark.parametrize("task", ["char-ptb", "word-ptb"])
def test_a_run_with_masks_drawn_on_the_device_is_reproducible(gpu, task, tmp_path):
    first, second = (train(*TASKS[task], tmp_path / str(k), device="gpu") for k in range(2))
    assert_same_run(first, second, 0.0)
    numbers = [v for row in first[0] for v in row.values() if isinstance(v, float)]
    assert np.isfinite(numbers).all()


# ---- what an update costs


@pytest.mark.parametrize("task", ["char-ptb", "word-ptb", "pmnist", "pmnist with batch normalization", "seq2seq"])
def test_an_update_copies_its_minibatch_to_the_device_and_nothing_back(gpu, cupy, task, tmp_path):
    """Once in 25 updates, the host reads their losses, measures and norms."""
    kind, settings = TASKS[task]
    before_updates: list[Counts] = []

    class Watched(kind):
        def loss(self, batch: Any, rng: Any) -> Any:
            before_updates.append(copy.copy(cupy.counts))
            return super().loss(batch, rng)

    more = {"train_symbols": 4000} if task == "char-ptb" else {}
    experiment = Watched(replace(settings, device="gpu", clip_what="gradient", **more), say=quiet)
    fit(experiment, tmp_path, say=quiet)
    updates = len(experiment.batches(1))
    last_epoch = before_updates[-updates:]
    assert updates > 25 or task != "char-ptb"
    for update, (now, after) in enumerate(itertools.pairwise(last_epoch), start=1):
        copies = 1 if update % 25 == 0 else 0
        assert after.to_device - now.to_device == 2, "tokens or pixels, and targets"
        assert after.synchronizations - now.synchronizations == after.to_host - now.to_host == copies
        assert after.replayed > now.replayed


def test_the_memory_in_use_does_not_grow(gpu, tmp_path):
    used: list[int] = []

    class Watched(CharPTB):
        def loss(self, batch: Any, rng: Any) -> Any:
            used.append(backend.cupy.get_default_memory_pool().used_bytes())
            return super().loss(batch, rng)

    experiment = Watched(replace(CHAR_PTB, device="gpu", epochs=8), say=quiet)
    fit(experiment, tmp_path, say=quiet)
    updates = len(experiment.batches(1))
    third_of_each_epoch = used[2::updates]
    assert len(third_of_each_epoch) == 8 and len(set(third_of_each_epoch[2:])) == 1


# ---- how a run ends


def test_a_run_cut_into_slices_is_the_run_that_was_not(gpu, tmp_path):
    whole = train(CharPTB, CHAR_PTB, tmp_path / "whole", device="gpu")
    run_slice = partial(train, CharPTB, CHAR_PTB, tmp_path / "cut", device="gpu", max_minutes=1e-9)
    cut = None
    while cut is None:
        try:
            cut = run_slice(resume=(tmp_path / "cut").exists())
        except Interrupted as stop:
            assert stop.status == 0
    assert_same_run(cut, whole, 0.0)


def test_a_run_from_the_cpu_goes_on_on_the_gpu(gpu, tmp_path):
    train(CharPTB, CHAR_PTB, tmp_path / "run", epochs=2)
    rows, _ = train(CharPTB, CHAR_PTB, tmp_path / "run", epochs=3, resume=True, device="gpu")
    assert len(rows) == 3 and rows[2]["valid_bpc"] < rows[0]["valid_bpc"]


def test_a_loss_that_is_not_finite_is_reported_with_its_own_update(gpu, tmp_path):
    calls = itertools.count(1)

    class Diverging(CharPTB):
        def loss(self, batch: Any, rng: Any) -> Any:
            found = super().loss(batch, rng)
            return found._replace(loss=found.loss * float("nan")) if next(calls) == 3 else found

    with pytest.raises(UserError, match="in epoch 1, update 3: the run has diverged"):
        train(Diverging, CHAR_PTB, tmp_path / "run", device="gpu")


def test_the_log_names_the_device_its_memory_and_cuda(gpu, tmp_path):
    said: list[str] = []
    fit(CharPTB(replace(CHAR_PTB, device="gpu", epochs=1), say=quiet), tmp_path / "run", say=said.append)
    assert said[0].startswith(f"device gpu: {gpu.description}, ") and said[0].endswith(" GiB free")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["machine"] == gpu.description and {"cupy", "cuda"} <= config["versions"].keys()


def test_memory_that_runs_out_is_a_sentence_with_a_batch_size_to_try(gpu, cupy, capsys, tmp_path):
    cupy.too_large = 20_000
    flags = f"char-ptb --dataset manual --device gpu --batch-size 16 --out {tmp_path / 'x'}"
    said = refused_here(capsys, *flags.split())
    assert "out of memory: Out of memory allocating " in said and said.count("\n") == 1
    assert "try --batch-size 8 or a smaller --hidden-size" in said
