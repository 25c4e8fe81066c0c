"""The training loop: what a run writes, that it is a function of its seed, and how it ends when the loss diverges."""

import json
import math
import signal
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from minizone import Tensor, UserError
from minizone.experiments.char_ptb import CharPTB
from minizone.runs import files, folder
from minizone.runs.files import load_arrays, read_rows
from minizone.runs.training import Interrupted, fit
from tests.helpers.runs import TINY, quiet, run, same_run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "finished"
    run(folder)
    return folder


def test_a_run_writes_the_files_of_the_contract_and_no_other(finished):
    names = {"config.json", "metrics.jsonl", "last.safetensors", "best.safetensors", "summary.json", "curves.png"}
    names.add("vocabulary.json")  # of language models only
    assert {path.name for path in finished.iterdir()} == names


def test_config_records_settings_data_and_versions(finished):
    config = json.loads((finished / "config.json").read_text())
    assert config["task"] == "char-ptb" and config["settings"]["z_prob_cells"] == 0.5
    assert "stand-in" in config["dataset"]["name"] and len(config["dataset"]["sha256"]["pydoc_data.topics"]) == 64
    assert config["versions"].keys() >= {"minizone", "python", "numpy"}
    assert config["reference"] == {}, "the paper's numbers are on PTB, not on this text"


def test_config_has_the_absolute_folder_of_the_data_so_that_the_run_goes_on_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(tmp_path / "run", epochs=1, data_dir="my data")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["settings"]["data_dir"] == str(tmp_path / "my data")


def test_metrics_have_one_row_an_epoch_with_the_keys_of_the_contract(finished):
    rows = read_rows(finished / "metrics.jsonl")
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    keys = ["epoch", "update", "seconds", "train_bpc", "valid_bpc", "grad_norm", "learning_rate"]
    assert all(list(row) == keys for row in rows)
    assert rows[-1]["valid_bpc"] < rows[0]["valid_bpc"] < math.log2(94), "it learns, and starts below chance"


def test_summary_holds_the_best_epoch_and_both_test_protocols(finished):
    summary = json.loads((finished / "summary.json").read_text())
    best = min(read_rows(finished / "metrics.jsonl"), key=lambda row: row["valid_bpc"])
    assert (summary["best_epoch"], summary["best_valid_bpc"]) == (best["epoch"], best["valid_bpc"])
    assert summary.keys() >= {"test_bpc", "test_bpc_chunks", "seconds", "updates_per_second"}
    assert summary["test_bpc"] != summary["test_bpc_chunks"]


def test_best_safetensors_holds_the_parameters_that_the_summary_reports(finished):
    experiment = CharPTB(TINY, say=quiet)
    arrays, metadata = load_arrays(finished / "best.safetensors")
    experiment.model.load_state_dict(arrays)
    summary = json.loads((finished / "summary.json").read_text())
    assert experiment.validate() == summary["best_valid_bpc"] == metadata["valid_bpc"]
    assert experiment.test()["test_bpc"] == summary["test_bpc"]


def test_the_same_seed_gives_the_same_run_to_the_bit_and_another_seed_another(finished, tmp_path):
    run(tmp_path / "again")
    same_run(finished, tmp_path / "again")
    run(tmp_path / "other", seed=2, epochs=1)
    first, other = (read_rows(folder / "metrics.jsonl")[0] for folder in (finished, tmp_path / "other"))
    assert first["valid_bpc"] != other["valid_bpc"]


def test_a_folder_with_a_run_is_not_written_over(finished):
    before = (finished / "metrics.jsonl").read_bytes()
    with pytest.raises(UserError, match=r"holds a run already: .*, or choose another folder \(--out\)"):
        run(finished)
    assert (finished / "metrics.jsonl").read_bytes() == before


def test_patience_stops_the_run_at_the_right_epoch(tmp_path, monkeypatch):
    results = iter([3.0, 2.0, 2.5, 2.1, 1.0])
    monkeypatch.setattr(CharPTB, "validate", lambda self: next(results))
    summary = run(tmp_path / "run", epochs=5, patience=2)
    assert summary["best_epoch"] == 2
    assert [row["valid_bpc"] for row in read_rows(tmp_path / "run" / "metrics.jsonl")] == [3.0, 2.0, 2.5, 2.1]


class Diverging(CharPTB):
    """The loss is NaN in update ``at``, counted over all epochs."""

    at = 1
    updates = 0

    def loss(self, batch, rng):
        measured = super().loss(batch, rng)
        self.updates += 1
        return measured._replace(loss=measured.loss * float("nan")) if self.updates == self.at else measured


def test_a_nan_stops_the_run_names_epoch_and_update_and_keeps_the_good_checkpoint(finished, tmp_path, monkeypatch):
    updates = read_rows(finished / "metrics.jsonl")[0]["update"]  # of an epoch
    monkeypatch.setattr(Diverging, "at", updates + 4)
    kept = "the run has diverged. The last checkpoint is kept. Try a --learning-rate below 0.002"
    with pytest.raises(UserError, match=f"loss is nan in epoch 2, update 4: {kept}"):
        run(tmp_path / "run", Diverging)
    run(tmp_path / "run", resume=True)
    same_run(finished, tmp_path / "run")


def test_a_nan_before_the_first_checkpoint_leaves_no_folder(tmp_path):
    with pytest.raises(UserError, match=r"loss is nan in epoch 1, update 1: the run has diverged\. Try a"):
        run(tmp_path / "runs" / "run", Diverging)
    assert not list(tmp_path.iterdir())


PLACES = {  # code that an exception can come from: of the user, and of ours
    "model": (CharPTB, "loss"),
    "data": (CharPTB, "batches"),
    "validation": (CharPTB, "validate"),
    "config": (files.os, "fsync"),  # config.json is the first file that is written
    "best": (folder.files, "save_arrays"),
    "checkpoint": (folder, "save_checkpoint"),
}


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ZeroDivisionError, MemoryError, OSError(5, "broken")])
@pytest.mark.parametrize("place", PLACES)
def test_any_exception_before_the_first_checkpoint_leaves_nothing(place, error, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(*PLACES[place], fail)
    with pytest.raises((UserError, error if isinstance(error, type) else OSError)):
        run(tmp_path / "runs" / "run", epochs=1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_any_exception_after_the_first_checkpoint_leaves_a_run_that_goes_on(error, finished, tmp_path, monkeypatch):
    """In the validation of epoch 2, and in the test at the end."""

    def fail(self):
        raise error

    run(tmp_path / "run", epochs=1)
    for method in ("validate", "test"):
        with monkeypatch.context() as patch, pytest.raises(error):
            patch.setattr(CharPTB, method, fail)
            run(tmp_path / "run", resume=True)
    run(tmp_path / "run", resume=True)
    same_run(finished, tmp_path / "run")


def test_a_thread_that_is_not_the_main_one_trains_and_leaves_the_signals_alone(finished, tmp_path, monkeypatch):
    def handlers():
        return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    before, during = handlers(), []
    batches = CharPTB.batches
    monkeypatch.setattr(CharPTB, "batches", lambda self, epoch: during.append(handlers()) or batches(self, epoch))
    with ThreadPoolExecutor(1) as pool:
        pool.submit(run, tmp_path / "run").result()
    same_run(finished, tmp_path / "run")
    assert during == [before] * 3 and handlers() == before
    run(tmp_path / "main", epochs=1)
    assert during[-1] != before == handlers(), "in the main thread there are handlers, which are removed again"


def test_a_gradient_that_is_not_finite_changes_no_parameter(tmp_path, monkeypatch):
    experiment = CharPTB(TINY, say=quiet)
    before = {name: array.copy() for name, array in experiment.model.state_dict().items()}
    loss = CharPTB.loss

    def steep(*arguments):
        measured = loss(*arguments)
        zero = measured.loss - measured.loss.data
        infinite_slope = zero * Tensor(np.float32(1e38), requires_grad=False) * 1e38
        return measured._replace(loss=measured.loss + infinite_slope)

    monkeypatch.setattr(CharPTB, "loss", steep)
    with pytest.raises(UserError, match=r"norm of the gradient is (inf|nan) in epoch 1, update 1"):
        fit(experiment, tmp_path / "run", say=quiet)
    for name, array in experiment.model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_a_run_that_is_asked_to_stop_saves_and_goes_on_to_the_same_bits(tmp_path):
    run(tmp_path / "whole")
    asked = iter([False, False, True])
    with pytest.raises(Interrupted, match=r"^stopped in epoch 1 after update 3; saved in .* --resume$") as stopped:
        fit(CharPTB(TINY, say=quiet), tmp_path / "cut", say=quiet, stop=lambda: next(asked))
    assert stopped.value.status == 0
    run(tmp_path / "cut", resume=True)
    same_run(tmp_path / "whole", tmp_path / "cut")
