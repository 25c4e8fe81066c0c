"""Every flag of every task changes the run, and no two variants of a regularizer are the same."""

from __future__ import annotations

import tempfile
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import minizone.runs.training as training
from minizone.data import load_words
from minizone.experiments import char_ptb, pmnist, text8, word_ptb
from minizone.experiments.char_ptb import CharPTB
from minizone.experiments.pmnist import PMNIST
from minizone.experiments.settings import RecurrentSettings
from minizone.experiments.word_ptb import WordPTB
from minizone.runs.experiment import Experiment
from minizone.runs.files import load_arrays, read_rows
from minizone.runs.settings import RunSettings
from minizone.runs.training import fit
from tests.helpers.runs import quiet

SMALL = {"hidden_size": 5, "epochs": 1, "preset": "quick"}
CHAR = replace(
    char_ptb.PRESETS["quick"], **SMALL, dataset="manual", batch_size=10, seq_len=11, train_symbols=230, eval_symbols=60
)
TEXT8 = replace(
    text8.PRESETS["quick"], **SMALL, dataset="manual", batch_size=10, seq_len=11, train_symbols=230, eval_symbols=60
)
WORD = replace(
    word_ptb.PRESETS["quick"], **SMALL, dataset="manual", batch_size=4, seq_len=5, train_symbols=41, eval_symbols=21
)
IMAGES = replace(
    pmnist.PRESETS["quick"], **SMALL, dataset="digits", batch_size=8, train_examples=16, eval_examples=8
)  # each of these makes two updates an epoch
load_words_once = cache(load_words)


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    """No figures, and the words of the manual are read once."""
    monkeypatch.setattr(training, "plot_runs", quiet)
    monkeypatch.setattr(word_ptb, "load_words", load_words_once)


# ---- the flags that are tried

ZONED = {"z_prob_cells": 0.5, "z_prob_states": 0.5}
DROPPED = {"drop_prob_igates": 0.5}
ADAM = {"clipping": 1e-3, "algorithm": "adam"}
RMS_PROP = {"clipping": 1e-3, "algorithm": "rms_prop"}
TWO_EPOCHS = {"epochs": 2}
FLAGS: list[tuple[str, Any, dict[str, Any]]] = [  # a flag, its value, and the flags that both runs have beside it
    ("seed", 2, {}),
    ("epochs", 2, {}),
    ("patience", 1, {"epochs": 3, "learning_rate": 1e-30, "algorithm": "sgd"}),
    ("hidden_size", 6, {}),
    ("batch_size", 3, {}),
    ("algorithm", "rms_prop", {}),
    ("algorithm", "momentum", {}),
    ("algorithm", "sgd", {}),
    ("learning_rate", 0.03, {}),
    ("lr_decay", 2.0, TWO_EPOCHS),
    ("decrease_lr_after_epoch", 1, TWO_EPOCHS | {"lr_decay": 2.0}),
    ("momentum", 0.5, {"algorithm": "momentum"}),
    ("rms_decay", 0.8, {"algorithm": "rms_prop"}),
    ("clipping", 1e-3, {}),
    ("clip_what", "gradient", ADAM),
    ("clip_what", "gradient", RMS_PROP),
    ("weight_noise", 0.1, {}),
    ("l2_regularization", 0.1, {}),
    ("rnn_type", "gru", {}),
    ("rnn_type", "rnn", {}),
    ("activation", "relu", {"rnn_type": "rnn"}),
    ("num_layers", 3, {}),
    ("initialization", "ortho", {}),
    ("initialization", "ortho-whole", {}),
    ("initialization", "glorot", {}),
    ("initialization", "uniform", {}),
    ("initialization", "id", {}),
    ("init_width", 0.5, {"initialization": "uniform"}),
    ("forget_bias", 2.0, {}),
    ("z_prob_cells", 0.5, {}),
    ("z_prob_cells", 0.5, {"z_prob_states": 0.5}),
    ("z_prob_states", 0.5, {}),
    ("z_prob_states", 0.5, {"rnn_type": "gru"}),
    ("z_prob_states", 0.5, {"rnn_type": "rnn"}),
    ("share_mask", True, ZONED),
    ("static_mask", True, ZONED),
    ("stoch_depth", True, ZONED),
    ("gaussian_drop", True, ZONED),
    ("drop_prob_igates", 0.5, {}),
    ("drop_prob_igates", 0.5, {"rnn_type": "gru"}),
    ("output_gate", "paper", DROPPED),
    ("output_gate", "printed", DROPPED),
    ("output_gate", "paper", DROPPED | {"z_prob_states": 0.5}),
    ("ogates_zoneout", True, DROPPED),
    ("dropout", 0.6, {}),
    ("variational_dropout", 0.5, {}),
    ("input_drop", 0.5, {}),
    ("norm_cost_coeff", 50.0, {}),
    ("penalty", "cells", {"norm_cost_coeff": 50.0}),
]
BN = {"batch_normalization": True}
FLAGS_OF_ONE_TASK: list[tuple[str, str, Any, dict[str, Any]]] = [
    ("char-ptb", "seq_len", 8, {}),
    ("char-ptb", "train_symbols", 180, {}),
    ("char-ptb", "eval_symbols", 50, {}),
    ("char-ptb", "augment", False, {}),
    ("word-ptb", "seq_len", 8, {}),
    ("word-ptb", "train_symbols", 31, {}),
    ("word-ptb", "eval_symbols", 16, {}),
    ("pmnist", "permutation", "authors", {}),
    ("pmnist", "unpermuted", True, {}),
    ("pmnist", "train_examples", 12, {}),
    ("pmnist", "eval_examples", 100, {}),
    ("pmnist", "batch_normalization", True, {}),
    ("pmnist", "initial_gamma", 0.5, BN),
    ("pmnist", "initial_beta", 0.5, BN),
    ("pmnist", "epsilon", 0.1, BN),
    ("pmnist", "statistics_batches", 1, BN),
    ("pmnist", "noise", 0.5, {}),
    ("pmnist", "noise", 0.5, BN),
    ("pmnist", "summarize", True, {}),
    ("pmnist", "summarize", True, BN),
]
WITHOUT_EFFECT_ON_THE_RESULT = {
    "preset", "device", "data_dir", "offline", "out", "resume", "max_minutes", "load_path", "test_cost", "dataset",
    "ptb_form",
}  # fmt: skip
ELSEWHERE = {"pool"}  # of MNIST only, see test_pmnist.py
ELSEWHERE |= {"text", "valid_text", "test_text", "vocabulary_size", "tokenized"}  # see test_language.py

TASKS: dict[str, tuple[type[Experiment], RunSettings]] = {
    "char-ptb": (CharPTB, CHAR),
    "word-ptb": (WordPTB, WORD),
    "pmnist": (PMNIST, IMAGES),
}
OF_RECURRENT_LAYERS = {f.name for f in fields(RecurrentSettings)} - {f.name for f in fields(RunSettings)}
OF_BATCH_NORMALIZED_LAYERS = {
    "z_prob_cells", "share_mask", "static_mask", "stoch_depth", "gaussian_drop", "drop_prob_igates", "dropout",
    "variational_dropout", "input_drop", "norm_cost_coeff", "penalty", "forget_bias", "num_layers",
}  # fmt: skip


def cases() -> list[Any]:
    """(task, settings, flag, value): all flags for char-ptb; those of layers for word-ptb; those of BN for pmnist."""
    tried = list(FLAGS_OF_ONE_TASK)
    for flag, value, beside in FLAGS:
        tried.append(("char-ptb", flag, value, beside))
        if flag in OF_RECURRENT_LAYERS:
            tried.append(("word-ptb", flag, value, beside))
        if flag in OF_BATCH_NORMALIZED_LAYERS and "rnn_type" not in beside:
            tried.append(("pmnist", flag, value, beside | BN))
    made = []
    for task, flag, value, beside in tried:
        base = replace(TASKS[task][1], **beside)
        if getattr(base, flag) != value:
            made.append(pytest.param(task, base, flag, value, id=f"{task}: {flag} {value} {beside or ''}"))
    return made


CASES = cases()


# ---- what they change


@cache
def outcome(task: str, settings: RunSettings) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """The rows of the log without the clock, and the parameters at the end."""
    settings.check()
    experiment, _ = TASKS[task]
    with tempfile.TemporaryDirectory() as folder:
        fit(experiment(settings, say=quiet), Path(folder), say=quiet)
        rows = read_rows(Path(folder, "metrics.jsonl"))
        arrays, _ = load_arrays(Path(folder, "last.safetensors"))
    rows = [{name: value for name, value in row.items() if name != "seconds"} for row in rows]
    return rows, {name: array.tobytes() for name, array in arrays.items() if name.startswith("model.")}


@pytest.mark.parametrize(("task", "base", "flag", "value"), CASES)
def test_a_flag_changes_the_run(task, base, flag, value):
    rows, arrays = outcome(task, base)
    changed_rows, changed_arrays = outcome(task, replace(base, **{flag: value}))
    if flag in ("eval_symbols", "eval_examples"):
        assert rows != changed_rows and arrays == changed_arrays
    elif flag == "patience":
        assert (len(rows), len(changed_rows)) == (3, 2)
    else:
        assert arrays != changed_arrays


@pytest.mark.parametrize(
    ("base", "variants"),
    [
        (ZONED, [{}, *({flag: True} for flag in ("share_mask", "static_mask", "stoch_depth", "gaussian_drop"))]),
        (DROPPED, [{}, {"output_gate": "paper"}, {"output_gate": "printed"}, {"ogates_zoneout": True}]),
        ({"clipping": 1e-3, "clip_what": "step"}, [{"algorithm": name} for name in ("adam", "rms_prop", "sgd")]),
    ],
)
def test_variants_of_one_regularizer_are_different_runs(base, variants):
    arrays = [outcome("char-ptb", replace(CHAR, **base, **each))[1] for each in variants]
    assert all(one != other for k, one in enumerate(arrays) for other in arrays[:k])


@pytest.mark.parametrize("task", TASKS)
def test_every_flag_was_tried(task):
    tried = {flag for flag, _, _ in FLAGS} | {flag for name, flag, _, _ in FLAGS_OF_ONE_TASK if name == task}
    assert {field.name for field in fields(TASKS[task][1])} - WITHOUT_EFFECT_ON_THE_RESULT - ELSEWHERE == tried
