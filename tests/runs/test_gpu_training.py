"""Training on a GPU: every task and every flag as on the CPU, what an update costs, and how a run ends."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minizone import UserError, backend
from minizone.experiments.char_ptb import CharPTB
from minizone.experiments.gradients import Gradients
from minizone.experiments.pmnist import PMNIST
from minizone.experiments.semantic import Semantic
from minizone.experiments.seq2seq import Seq2Seq
from minizone.experiments.text8 import Text8
from minizone.experiments.word_ptb import WordPTB
from minizone.runs import training
from minizone.runs.files import load_arrays, read_rows
from minizone.runs.training import Interrupted, fit
from tests.experiments import test_gradients, test_pmnist, test_semantic, test_seq2seq, test_word_ptb
from tests.experiments.test_flags import CASES, TEXT8, outcome, quickly, quiet  # noqa: F401  (quickly is a fixture)
from tests.helpers.commands import refused_here
from tests.helpers.runs import TINY as TINY_CHAR

TINY: dict[str, tuple[Any, Any]] = {
    "char-ptb": (CharPTB, TINY_CHAR),
    "text8": (Text8, TEXT8),
    "word-ptb": (WordPTB, test_word_ptb.TINY),
    "pmnist": (PMNIST, test_pmnist.TINY),
    # sgd: RMSProp takes steps of full length along the gradient of h_0, which with batch normalization is rounding only
    "pmnist with batch normalization": (PMNIST, replace(test_pmnist.TINY, batch_normalization=True, algorithm="sgd")),
    "seq2seq": (Seq2Seq, test_seq2seq.TINY),
    "semantic": (Semantic, test_semantic.TINY),
    "gradients": (Gradients, test_gradients.TINY),
}
every_task = pytest.mark.parametrize("task", TINY)


def train(kind: Any, settings: Any, folder: Path, **changes: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows of the log, but for the clock, and the arrays of the last checkpoint."""
    fit(kind(replace(settings, **changes), say=quiet), folder, say=quiet)
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in read_rows(folder / "metrics.jsonl")]
    return rows, load_arrays(folder / "last.safetensors")[0]


def assert_close(found: tuple[Any, Any], expected: tuple[Any, Any], tolerance: float) -> None:
    """The same run, but for rounding."""
    (rows, arrays), (other_rows, other_arrays) = found, expected
    assert [row.keys() for row in rows] == [row.keys() for row in other_rows]
    for row, other in zip(rows, other_rows, strict=True):
        for name, value in other.items():
            if isinstance(value, float | int):
                assert row[name] == pytest.approx(value, rel=tolerance, abs=tolerance), name
    assert arrays.keys() == other_arrays.keys()
    for name, value in other_arrays.items():
        np.testing.assert_allclose(arrays[name], value, rtol=0, atol=tolerance * max(1, abs(value).max(initial=0)))


@pytest.fixture
def noise_of_the_host(monkeypatch):
    """The generators of the devices differ: all noise is drawn on the host, and both train behind the same masks."""
    for module in (
        training,
        *(__import__(f"minizone.experiments.{n}", fromlist="x") for n in ("gradients", "semantic")),
    ):
        monkeypatch.setattr(
            module, "stream", lambda seed, purpose, *key, device=None: backend.stream(seed, purpose, *key)
        )


@every_task
def test_a_task_trains_as_on_the_cpu(gpu, noise_of_the_host, task, tmp_path):
    on_cpu, on_gpu = (train(*TINY[task], tmp_path / device, device=device) for device in ("cpu", "gpu"))
    assert_close(on_gpu, on_cpu, 2e-3 if task == "seq2seq" else 1e-4)


@pytest.mark.parametrize(("task", "base", "flag", "value"), CASES)
def test_a_flag_does_the_same_as_on_the_cpu(gpu, noise_of_the_host, task, base, flag, value, tmp_path):
    settings = replace(base, **{flag: value})
    if getattr(settings, "batch_normalization", False):  # as in TINY
        settings = replace(settings, algorithm="sgd")
    rows, _ = outcome(task, settings)
    kind = {"char-ptb": CharPTB, "word-ptb": WordPTB, "pmnist": PMNIST}[task]
    found, _ = train(kind, settings, tmp_path / "gpu", device="gpu")
    assert_close((found, {}), (rows, {}), 1e-3)


@every_task
def test_a_task_trains_with_masks_drawn_on_the_device_and_again_the_same(gpu, task, tmp_path):
    one, two = (train(*TINY[task], tmp_path / str(k), device="gpu") for k in range(2))
    assert all(np.isfinite(list(v for v in row.values() if isinstance(v, float))).all() for row in one[0])
    assert_close(one, two, 0.0)


# ---- what an update costs


@pytest.mark.parametrize("task", ["char-ptb", "word-ptb", "pmnist", "pmnist with batch normalization", "seq2seq"])
def test_an_update_moves_its_minibatch_to_the_device_and_nothing_back(gpu, cupy, task):
    kind, settings = TINY[task]
    experiment = kind(replace(settings, device="gpu", clip_what="gradient"), say=quiet)
    parameters = experiment.model.parameters()
    optimizer = training.make(settings.algorithm, parameters, 1e-3, clip=1.0)
    batches, counts = list(experiment.batches(1))[:4], []
    for update in range(4 * len(batches)):
        with cupy.counting() as count:
            batch = batches[update % len(batches)]
            result = training.train_on_batch(experiment, optimizer, batch, 1, update + 1)
        counts.append(count)
    for last, before in zip(counts[-len(batches) :], counts[-2 * len(batches) :], strict=False):
        assert last.to_device == 2, "tokens or pixels, and targets"
        assert last.synchronizations == last.to_host == 0
        assert (last.launches, last.replayed, last.captured) == (before.launches, before.replayed, 0)
        assert last.replayed > 0
    assert np.isfinite(backend.to_numbers([result.loss, result.measure, result.grad_norm])).all()


def test_losses_are_read_once_in_25_updates(gpu, cupy, tmp_path, monkeypatch):
    read: list[int] = []
    read_results = training.read_results

    def counted(results: Any, *others: Any) -> None:
        read.append(len(results))
        read_results(results, *others)

    monkeypatch.setattr(training, "read_results", counted)
    train(CharPTB, TINY_CHAR, tmp_path / "run", device="gpu", epochs=1, train_symbols=4000)
    updates = read_rows(tmp_path / "run" / "metrics.jsonl")[0]["update"]
    assert read == [25] * (updates // 25) + ([updates % 25] if updates % 25 else []) and updates > 25


def test_memory_stays_the_same_over_100_updates(gpu):
    settings = replace(TINY_CHAR, device="gpu", hidden_size=8)
    experiment = CharPTB(settings, say=quiet)
    optimizer = training.make("adam", experiment.model.parameters(), 1e-3, clip=1.0)
    pool, used = backend.cupy.get_default_memory_pool(), []
    for update in range(100):
        result = training.train_on_batch(experiment, optimizer, experiment.batches(1)[0], 1, update + 1)
        if update % 20 == 19:
            backend.to_numbers([result.loss])
            used.append(pool.used_bytes())
    assert len(set(used)) == 1


# ---- how a run ends


def test_a_run_cut_into_slices_is_the_run_that_was_not(gpu, tmp_path):
    settings = replace(TINY_CHAR, device="gpu", epochs=1)
    whole = train(CharPTB, settings, tmp_path / "whole")
    for _ in range(100):
        resume = (tmp_path / "cut").exists()
        try:
            cut = train(CharPTB, settings, tmp_path / "cut", max_minutes=1e-9, resume=resume)
            break
        except Interrupted as stop:
            assert stop.status == 0
    assert_close(cut, whole, 0.0)


def test_a_run_from_the_cpu_goes_on_on_the_gpu(gpu, tmp_path):
    train(CharPTB, TINY_CHAR, tmp_path / "run", epochs=2)
    rows, _ = train(CharPTB, TINY_CHAR, tmp_path / "run", epochs=3, resume=True, device="gpu")
    assert len(rows) == 3 and rows[2]["valid_bpc"] < rows[0]["valid_bpc"]


@pytest.mark.parametrize("update", [1, 3, 13])
def test_divergence_is_seen_at_the_next_look_and_names_its_own_update(gpu, tmp_path, monkeypatch, update):
    calls = itertools.count(1)

    class Diverging(CharPTB):
        def loss(self, batch: Any, rng: Any) -> Any:
            found = super().loss(batch, rng)
            return found._replace(loss=found.loss * float("nan")) if next(calls) == update else found

    with pytest.raises(UserError, match=f"in epoch 1, update {update}: the run has diverged"):
        train(Diverging, TINY_CHAR, tmp_path / "run", device="gpu")


def test_the_log_names_the_device_its_memory_and_cuda(gpu, tmp_path):
    said: list[str] = []
    fit(CharPTB(replace(TINY_CHAR, device="gpu", epochs=1), say=quiet), tmp_path / "run", say=said.append)
    assert said[0].startswith(f"device gpu: {gpu.description}, ") and said[0].endswith(" GiB of it free")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["machine"] == gpu.description and {"cupy", "cuda"} <= config["versions"].keys()


def test_memory_that_runs_out_is_a_sentence_with_a_batch_size_to_try(gpu, cupy, capsys, tmp_path):
    cupy.too_large = 20_000
    flags = ["--dataset", "manual", "--device", "gpu", "--batch-size", "16", "--out", tmp_path / "x"]
    sentence = refused_here(capsys, "char-ptb", *flags)
    assert sentence.startswith("run.py: out of memory: Out of memory allocating ")
    assert "try --batch-size 8 or a smaller --hidden-size" in sentence
