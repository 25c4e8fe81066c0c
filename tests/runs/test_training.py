"""The loop: what a run writes, how it ends, and that a resumed run is the run that was never interrupted."""

import json
import math
import os
from dataclasses import replace

import numpy as np
import pytest

import minizone.runs.training as training
from minizone import Tensor, UserError
from minizone.autograd.ops import softmax_cross_entropy
from minizone.experiments.char_ptb import PRESETS, CharPTB, Chunks
from minizone.runs.files import load_arrays, read_rows
from minizone.runs.training import Interrupted, fit

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


def quiet(*words):
    pass


def run(folder, experiment=CharPTB, **changes):
    return fit(experiment(replace(TINY, **changes), say=quiet), folder, say=quiet)


def same_run(one, other):
    """Every number of two runs is the same, but for the clock."""
    for name in ("last.safetensors", "best.safetensors"):
        (a, _), (b, _) = load_arrays(one / name), load_arrays(other / name)
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key], err_msg=f"{name}: {key}")
    clock = ("seconds", "updates_per_second")
    rows = [
        [{k: v for k, v in row.items() if k not in clock} for row in read_rows(f / "metrics.jsonl")]
        for f in (one, other)
    ]
    assert rows[0] == rows[1]
    summaries = [json.loads((f / "summary.json").read_text()) for f in (one, other)]
    assert {k: v for k, v in summaries[0].items() if k not in clock} == {
        k: v for k, v in summaries[1].items() if k not in clock
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "finished"
    run(folder)
    return folder


def test_a_run_writes_the_files_of_the_contract_and_no_other(finished):
    names = {"config.json", "metrics.jsonl", "last.safetensors", "best.safetensors", "summary.json", "curves.png"}
    assert {path.name for path in finished.iterdir()} == names


def test_config_records_settings_data_and_versions(finished):
    config = json.loads((finished / "config.json").read_text())
    assert config["task"] == "char-ptb" and config["settings"]["z_prob_cells"] == 0.5
    assert "stand-in" in config["dataset"]["name"] and len(config["dataset"]["sha256"]["pydoc_data.topics"]) == 64
    assert config["versions"].keys() >= {"minizone", "python", "numpy"}
    assert config["reference"] == {}, "the paper's numbers are on PTB, not on this text"


def test_metrics_have_one_row_an_epoch_with_the_keys_of_the_contract(finished):
    rows = read_rows(finished / "metrics.jsonl")
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    keys = ["epoch", "update", "seconds", "train_bpc", "valid_bpc", "grad_norm", "learning_rate"]
    assert all(list(row) == keys for row in rows)
    assert rows[-1]["valid_bpc"] < rows[0]["valid_bpc"] < math.log2(94), "it learns, and starts below chance"


def test_summary_holds_the_best_epoch_and_both_test_protocols(finished):
    summary = json.loads((finished / "summary.json").read_text())
    rows = read_rows(finished / "metrics.jsonl")
    best = min(rows, key=lambda row: row["valid_bpc"])
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


def test_the_same_seed_gives_the_same_run_to_the_bit(finished, tmp_path):
    run(tmp_path / "again")
    same_run(finished, tmp_path / "again")


def test_another_seed_gives_another_run(finished, tmp_path):
    run(tmp_path / "other", seed=2, epochs=1)
    assert (
        read_rows(tmp_path / "other" / "metrics.jsonl")[0]["valid_bpc"]
        != read_rows(finished / "metrics.jsonl")[0]["valid_bpc"]
    )


@pytest.mark.parametrize("options", [{}, {"static_mask": True}, {"gaussian_drop": True}, {"drop_prob_igates": 0.3}])
def test_a_run_cut_after_every_update_and_resumed_equals_the_uninterrupted_one(options, tmp_path):
    """--max-minutes so small that every session makes one update: all 15 of an epoch, twice."""
    run(tmp_path / "whole", epochs=2, **options)
    stops = 0
    while True:
        try:
            run(tmp_path / "cut", epochs=2, max_minutes=1e-9, resume=stops > 0, **options)
            break
        except Interrupted as stop:
            stops += 1
            assert stop.status == 0 and "--resume" in str(stop)
    assert stops == read_rows(tmp_path / "whole" / "metrics.jsonl")[-1]["update"]
    same_run(tmp_path / "whole", tmp_path / "cut")


def test_more_epochs_can_be_asked_for_at_a_resume(finished, tmp_path):
    run(tmp_path / "longer", epochs=1)
    run(tmp_path / "longer", epochs=3, resume=True)
    same_run(finished, tmp_path / "longer")


def test_a_row_logged_after_the_last_checkpoint_is_not_logged_twice(finished, tmp_path):
    """A kill between the row and the checkpoint of an epoch: the epoch is done again."""
    run(tmp_path / "killed", epochs=1)
    checkpoint = (tmp_path / "killed" / "last.safetensors").read_bytes()
    run(tmp_path / "killed", epochs=2, resume=True)
    (tmp_path / "killed" / "last.safetensors").write_bytes(checkpoint)
    with open(tmp_path / "killed" / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 3, "upd')  # and one that was cut off
    run(tmp_path / "killed", resume=True)
    same_run(finished, tmp_path / "killed")


def test_a_run_without_a_checkpoint_yet_begins_again(finished, tmp_path):
    run(tmp_path / "early", epochs=1)
    (tmp_path / "early" / "last.safetensors").unlink()
    run(tmp_path / "early", resume=True)
    same_run(finished, tmp_path / "early")


def test_a_resume_with_other_settings_is_refused_and_lists_them(finished):
    with pytest.raises(
        UserError, match=r"other settings: .*learning_rate was 0.002, is 0.1.*z_prob_cells was 0.5, is 0.2"
    ):
        run(finished, resume=True, learning_rate=0.1, z_prob_cells=0.2)


def test_a_folder_with_a_run_is_not_written_over(finished):
    before = (finished / "metrics.jsonl").read_bytes()
    with pytest.raises(UserError, match="--resume"):
        run(finished)
    assert (finished / "metrics.jsonl").read_bytes() == before


def test_a_folder_without_a_run_cannot_be_resumed(tmp_path):
    with pytest.raises(UserError, match="not the folder of a run"):
        run(tmp_path, resume=True)


def test_a_damaged_checkpoint_is_a_sentence(finished, tmp_path):
    run(tmp_path / "damaged", epochs=1)
    path = tmp_path / "damaged" / "last.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="not a readable checkpoint"):
        run(tmp_path / "damaged", resume=True)


class Diverging(CharPTB):
    """The loss becomes NaN in update 4 of epoch 2."""

    def loss(self, batch, rng):
        measured = super().loss(batch, rng)
        self.calls = getattr(self, "calls", 0) + 1
        broken = self.calls == len(self.batches(1)) + 4
        return measured._replace(loss=measured.loss * float("nan")) if broken else measured


def test_a_nan_stops_the_run_names_epoch_and_update_and_keeps_the_good_checkpoint(finished, tmp_path):
    with pytest.raises(UserError, match=r"loss is nan in epoch 2, update 4"):
        run(tmp_path / "nan", Diverging)
    run(tmp_path / "nan", resume=True)
    same_run(finished, tmp_path / "nan")


def test_a_gradient_that_is_not_finite_changes_no_parameter(tmp_path, monkeypatch):
    experiment = CharPTB(TINY, say=quiet)
    before = {name: array.copy() for name, array in experiment.model.state_dict().items()}
    loss = CharPTB.loss

    def steep(*arguments):
        measured = loss(*arguments)
        return measured._replace(loss=measured.loss + _infinite_slope(measured.loss))

    monkeypatch.setattr(CharPTB, "loss", steep)
    with pytest.raises(UserError, match=r"norm of the gradient is (inf|nan) in epoch 1, update 1"):
        fit(experiment, tmp_path / "inf", say=quiet)
    for name, array in experiment.model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def _infinite_slope(nats):
    """0, with an infinite gradient."""
    return ((nats - nats.data) * Tensor(np.float32(1e38), requires_grad=False)) * 1e38


def test_patience_stops_the_run_at_the_right_epoch(tmp_path, monkeypatch):
    results = iter([3.0, 2.0, 2.5, 2.1, 1.0])
    monkeypatch.setattr(CharPTB, "validate", lambda self: next(results))
    summary = run(tmp_path / "patient", epochs=5, patience=2)
    assert summary["best_epoch"] == 2
    assert [row["valid_bpc"] for row in read_rows(tmp_path / "patient" / "metrics.jsonl")] == [3.0, 2.0, 2.5, 2.1]


def test_a_checkpoint_is_never_half_written(tmp_path, monkeypatch):
    """The disk fills up while the new file is written: the old one is still there, whole, and nothing else."""
    run(tmp_path / "full", epochs=1)
    before = (tmp_path / "full" / "last.safetensors").read_bytes()

    def no_space(number):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(training.files.os, "fsync", no_space)
    with pytest.raises(UserError, match=r"cannot write .*safetensors: No space left"):
        run(tmp_path / "full", epochs=2, resume=True)
    assert (tmp_path / "full" / "last.safetensors").read_bytes() == before
    assert not list((tmp_path / "full").glob("*.tmp"))


def test_chunks_cover_the_text_once_and_ask_for_the_next_symbol():
    text = np.arange(103, dtype=np.uint8)
    batches = list(Chunks(text, 10, 4, np.random.default_rng(0)))
    assert [tokens.shape for tokens, _ in batches] == [(9, 4), (9, 4), (9, 2)]
    for tokens, targets in batches:
        np.testing.assert_array_equal(targets, tokens + 1)
    firsts = np.concatenate([tokens[0] for tokens, _ in batches])
    assert sorted(firsts) == list(range(0, 100, 10)) and list(firsts) != sorted(firsts)


def test_offset_and_order_change_from_epoch_to_epoch_and_stay_without_augment():
    experiment = CharPTB(TINY, say=quiet)
    first = [experiment.batches(epoch) for epoch in (1, 1, 2)]
    np.testing.assert_array_equal(first[0][0][0], first[1][0][0])
    offsets = {
        len(TINY_TEXT) - len(experiment.batches(epoch).text)
        for epoch in range(1, 30)
        for TINY_TEXT in [experiment.data.train]
    }
    assert len(offsets) > 5 and max(offsets) < TINY.seq_len
    still = CharPTB(replace(TINY, augment=False), say=quiet)
    assert len(still.batches(1).text) == len(still.batches(2).text) == len(still.data.train)


@pytest.mark.parametrize("options", [{}, {"static_mask": True}])
def test_both_evaluation_protocols_equal_a_direct_computation(options):
    """One sequence: the state goes on to the end. Chunks: it starts anew every seq_len symbols."""
    experiment = CharPTB(replace(TINY, **options), say=quiet)
    text, V = experiment.data.valid, experiment.data.vocabulary_size

    def bits(part):
        scores = experiment.model(part[:-1, None])[0].data[:, :, 0].astype(np.float64)  # (T, V)
        scores -= scores.max(axis=1, keepdims=True)
        return (np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(len(part) - 1), part[1:]]) / np.log(2)

    assert experiment.score_of_one_sequence(text) == pytest.approx(bits(text).mean(), rel=1e-5)
    chunks = [text[k : k + 11] for k in range(0, len(text) - 10, 11)]
    assert experiment.bpc_by_chunks(text) == pytest.approx(np.concatenate([bits(c) for c in chunks]).mean(), rel=1e-5)
    assert abs(experiment.validate() - math.log2(V)) < 1.5


def test_long_texts_are_evaluated_in_windows_with_the_state_carried():
    experiment = CharPTB(replace(TINY, eval_symbols=0), say=quiet)
    text = experiment.data.valid[:2500]
    scores, _ = experiment.model(text[:-1, None])
    whole = float(softmax_cross_entropy(scores, text[1:, None]))
    assert experiment.score_of_one_sequence(text) == pytest.approx(experiment.score(whole), rel=1e-6)


@pytest.mark.skipif("MINIZONE_DATA" not in os.environ, reason="needs Penn Treebank: set MINIZONE_DATA")
def test_the_paper_preset_is_the_model_and_the_epoch_of_the_paper():
    """4,256,050 parameters on 50 symbols; 50,594 or 50,595 chunks of 100 symbols make 1,582 updates of 32."""
    experiment = CharPTB(replace(PRESETS["paper"], dataset="ptb"), say=quiet)
    assert experiment.data.vocabulary_size == 50
    assert sum(p.data.size for p in experiment.model.parameters()) == 4_256_050
    batches = experiment.batches(1)
    assert len(batches) == 1582 and batches[0][0].shape == (99, 32)
    settings = experiment.settings
    assert (settings.learning_rate, settings.clipping, settings.clip_what) == (0.002, 1.0, "step")
    assert experiment.reference["Zoneout"] == {"valid": 1.362, "test": 1.27}


@pytest.mark.slow
def test_zoneout_beats_the_unregularized_lstm_with_the_quick_preset(tmp_path):
    """The claim of the README, for one more seed than its three."""
    quick = replace(PRESETS["quick"], dataset="manual", seed=4)
    zoned = replace(quick, z_prob_cells=0.5, z_prob_states=0.05)
    plain, zoneout = (
        fit(CharPTB(settings, say=quiet), tmp_path / name, say=quiet) for settings, name in ((quick, "a"), (zoned, "b"))
    )
    assert zoneout["best_valid_bpc"] < plain["best_valid_bpc"]
