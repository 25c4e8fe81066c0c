"""Language modelling: minibatches, both protocols of evaluation, the model of the paper, and the user's own text."""

import hashlib
import json
import math
import os
import shlex
from dataclasses import replace

import numpy as np
import pytest

from minizone.autograd.ops import softmax_cross_entropy
from minizone.experiments.char_ptb import PRESETS, CharPTB, Chunks
from minizone.runs.training import fit
from tests.helpers.commands import refused_here
from tests.helpers.runs import TINY, quiet, same_run


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
    offsets = {len(experiment.data.train) - len(experiment.batches(epoch).text) for epoch in range(1, 30)}
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


# ---- a text of one's own

SMALL = shlex.split("--hidden-size 6 --batch-size 4 --seq-len 5 --epochs 2")
PROSE = "One morning, when the cat (or was it Ωmega?) woke up, it was a dog.\nIt did not mind at all.\n" * 20


@pytest.fixture
def text(tmp_path):
    file = tmp_path / "PTB of my own.txt"  # whatever its name, it is not PTB
    file.write_text(PROSE, encoding="utf-8")
    return file


@pytest.mark.parametrize("task", ["char-ptb", "word-ptb"])
def test_a_run_on_a_text_of_ones_own_is_named_after_it_and_has_no_reference(task, text, program, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole = ["--train-symbols", "0", "--eval-symbols", "0"]
    assert program.main([task, "--text", text.name, *SMALL, *whole]) == 0
    (folder,) = (tmp_path / "runs" / task).iterdir()
    assert folder.name.startswith("PTB of my own-") and folder.name.endswith("-seed1")
    config = json.loads((folder / "config.json").read_text())
    sha256 = hashlib.sha256(PROSE.encode()).hexdigest()
    assert config["dataset"] == {"name": "PTB of my own.txt", "sha256": {"PTB of my own.txt": sha256}}
    assert config["reference"] == {} and config["changed"]["text"] == text.name
    assert config["settings"]["text"] == str(text), "so that it can be resumed from any folder"
    monkeypatch.chdir(folder)
    assert program.main(["resume", str(folder), "--epochs", "3"]) == 0
    config = json.loads((folder / "config.json").read_text())
    assert (config["settings"]["text"], config["changed"]["text"]) == (str(text), text.name)
    vocabulary = json.loads((folder / "vocabulary.json").read_text())
    assert "Ω" in vocabulary["symbols"] or "Ωmega" in vocabulary["symbols"]


def test_a_run_is_resumed_on_the_same_text_wherever_it_lies(text, program, tmp_path, capsys):
    flags = ["char-ptb", *SMALL, "--train-symbols", "500", "--eval-symbols", "50"]
    assert program.main([*flags, "--text", str(text), "--out", str(tmp_path / "whole")]) == 0
    assert program.main([*flags, "--text", str(text), "--epochs", "1", "--out", str(tmp_path / "run")]) == 0
    moved = tmp_path / "elsewhere" / text.name
    moved.parent.mkdir()
    text.rename(moved)
    resumed = [*flags, "--text", str(moved), "--out", str(tmp_path / "run"), "--resume"]
    assert program.main(resumed) == 0
    same_run(tmp_path / "whole", tmp_path / "run")
    moved.write_text(PROSE.replace("cat", "car"), encoding="utf-8")
    capsys.readouterr()
    assert program.main(resumed) == 2
    assert (
        capsys.readouterr().err
        == f"run.py: cannot resume {tmp_path / 'run'}: {text.name} changed since the run began\n"
    )


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ("char-ptb --text TEXT --dataset ptb", "--text and --dataset ptb are two data sets: give one of them"),
        ("word-ptb --text TEXT --dataset manual", "--text and --dataset manual are two data sets"),
        ("char-ptb --text nowhere.txt", "the text nowhere.txt cannot be read: No such file or directory"),
        ("char-ptb --text=", "--text is empty: give it a file, or leave it out"),
        ("word-ptb --text TEXT --valid-text= --test-text TEXT", "--valid-text is empty: give it a file"),
        ("char-ptb --text TEXT --valid-text TEXT", "give both --valid-text and --test-text, or neither"),
        ("char-ptb --valid-text TEXT --test-text TEXT", "need a training text: give --text"),
        ("word-ptb --vocabulary-size 50", "--vocabulary-size and --tokenized are for a text of your own"),
        ("word-ptb --tokenized", "--vocabulary-size and --tokenized are for a text of your own"),
        ("word-ptb --text TEXT --vocabulary-size 2", "--vocabulary-size must be at least 3, got 2"),
        ("text8 --text TEXT", "--text"),
    ],
)
def test_what_does_not_go_with_a_text_of_ones_own_is_one_sentence(flags, sentence, text, capsys, tmp_path):
    words = [str(text) if word == "TEXT" else word for word in shlex.split(flags)]
    assert sentence in refused_here(capsys, *words, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_text_that_is_too_short_for_the_sequences_says_how_long_they_can_be(text, program, capsys, tmp_path):
    assert program.main(["char-ptb", "--text", str(text), "--seq-len", "500", "--out", str(tmp_path / "run")]) == 2
    assert "--seq-len must be at most 92 for PTB of my own.txt, got 500" in capsys.readouterr().err


@pytest.mark.slow
def test_zoneout_beats_the_unregularized_lstm_with_the_quick_preset(tmp_path):
    """The claim of the README, for one more seed than its three."""
    quick = replace(PRESETS["quick"], dataset="manual", seed=4)
    zoned = replace(quick, z_prob_cells=0.5, z_prob_states=0.05)
    plain, zoneout = (
        fit(CharPTB(settings, say=quiet), tmp_path / name, say=quiet) for settings, name in ((quick, "a"), (zoned, "b"))
    )
    assert zoneout["best_valid_bpc"] < plain["best_valid_bpc"]
