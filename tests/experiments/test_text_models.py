"""Models of characters, and of every task: sizes, what enters and leaves them, and that no flag is dead."""

from __future__ import annotations

import tempfile
from dataclasses import fields, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minizone.runs.training as training
from minizone.data import load_words
from minizone.experiments import char_ptb, pmnist, text8, word_ptb
from minizone.experiments.char_ptb import CharModel, CharPTB, CharSettings
from minizone.experiments.pmnist import PMNIST
from minizone.experiments.recurrent import dropped_tokens, input_factor
from minizone.experiments.settings import RecurrentSettings
from minizone.experiments.text8 import Text8, Text8Settings
from minizone.experiments.word_ptb import WordPTB
from minizone.layers import init
from minizone.runs.files import load_arrays, read_rows
from minizone.runs.settings import RunSettings
from minizone.runs.training import fit
from tests.helpers import rng
from tests.runs.test_training import quiet

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
)  # two updates an epoch, all of them


load_words_once = cache(load_words)


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    monkeypatch.setattr(training, "plot_runs", quiet)
    monkeypatch.setattr(word_ptb, "load_words", load_words_once)


# ---- sizes

COUNTS = [  # by hand: W_x, W_h, b, the initial states, the output's W and b
    (char_ptb, 50, {}, 4000 * 50 + 4000 * 1000 + 4000 + 2 * 1000 + 50 * 1000 + 50, 4_256_050),
    (char_ptb, 50, {"rnn_type": "gru"}, 3000 * 50 + 3000 * 1000 + 3000 + 1000 + 50 * 1000 + 50, 3_204_050),
    (char_ptb, 50, {"rnn_type": "rnn"}, 1000 * 50 + 1000 * 1000 + 1000 + 1000 + 50 * 1000 + 50, 1_102_050),
    (text8, 27, {}, 8000 * 27 + 8000 * 2000 + 8000 + 2 * 2000 + 27 * 2000 + 27, 16_282_027),
]


@pytest.mark.parametrize(("task", "symbols", "changes", "by_hand", "count"), COUNTS)
def test_parameters_of_the_models_of_the_paper(task, symbols, changes, by_hand, count, monkeypatch):
    monkeypatch.setattr(init, "uniform", lambda width: lambda rng, shape, dtype: np.broadcast_to(dtype(width), shape))
    model = CharModel(symbols, replace(task.PRESETS["paper"], initialization="uniform", **changes), rng())
    assert sum(parameter.data.size for parameter in model.parameters()) == by_hand == count


def test_the_paper_presets_of_characters():
    for s, sizes in (
        (char_ptb.PRESETS["paper"], (1000, 32, 100, 2e-3)),
        (text8.PRESETS["paper"], (2000, 128, 180, 1e-3)),
    ):
        assert (s.hidden_size, s.batch_size, s.seq_len, s.learning_rate) == sizes
        assert (s.algorithm, s.clipping, s.clip_what, s.initialization) == ("adam", 1.0, "step", "ortho")
        assert (s.num_layers, s.rnn_type, s.forget_bias, s.augment, s.dataset) == (1, "lstm", 1.0, True, "auto")


# ---- what enters and leaves


@pytest.mark.parametrize("p", [0.2, 0.5])
def test_dropped_symbols_are_columns_of_zeros_in_training_and_shrunk_in_evaluation(p):
    tokens = rng().integers(7, size=(50, 40))
    columns = (tokens[:, None] == np.arange(7)[:, None]).astype(np.float32)
    x = dropped_tokens(tokens, p, 7, rng(1))
    dropped = ~x.any(axis=1)  # (T, B)
    assert x.dtype == np.float32 and np.array_equal(x, columns * ~dropped[:, None])
    assert abs(dropped.mean() - p) < 5 * (p * (1 - p) / dropped.size) ** 0.5
    assert not np.array_equal(x, dropped_tokens(tokens, p, 7, rng(2)))
    np.testing.assert_array_equal(dropped_tokens(tokens, p, 7, None), columns * np.float32(1 - p))
    assert dropped_tokens(tokens, 0.0, 7, rng()) is tokens and input_factor(0.0, tokens, rng()) == 1


@pytest.mark.parametrize("options", [{"input_drop": 0.3}, {"dropout": 0.5}, {"variational_dropout": 0.5}, {}])
def test_a_model_in_evaluation_draws_nothing(options):
    settings = replace(CHAR, num_layers=2, **options)
    model, plain = (CharModel(9, s, rng()) for s in (settings, replace(CHAR, num_layers=2)))
    tokens = rng().integers(9, size=(6, 4))
    scores = model(tokens)[0].data
    assert np.array_equal(scores, model(tokens)[0].data)
    assert np.array_equal(scores, plain(tokens)[0].data) == ("input_drop" not in options)
    assert np.array_equal(scores, model(tokens, rng=rng())[0].data) == (not options)


@pytest.mark.parametrize("name", ["dropout", "variational_dropout"])
def test_dropout_is_between_layers_and_before_the_output_but_not_on_symbols(name):
    model, entered = CharModel(9, replace(CHAR, num_layers=2, **{name: 0.5}), rng()), []
    for layer in model.rnn.layers:
        layer.states = partial(lambda states, x, *rest: (entered.append(x), states(x, *rest))[1], layer.states)
    model.output = entered.append
    tokens = rng().integers(9, size=(6, 4))
    model(tokens, rng=rng())
    assert entered[0] is tokens
    assert all(0.2 < (x.data == 0).mean() < 0.8 for x in entered[1:]) and len(entered) == 3


def test_predictions_say_what_the_test_says(tmp_path):
    summary = fit(CharPTB(replace(CHAR, write_predictions=True), say=quiet), tmp_path / "run", say=quiet)
    arrays, _ = load_arrays(tmp_path / "run" / "predictions.safetensors")
    assert list(sorted(arrays)) == ["log_probability", "predicted", "target"]
    assert np.array_equal(arrays["target"], CharPTB(CHAR, say=quiet).data.test[1:])
    assert -arrays["log_probability"].mean() / np.log(2) == pytest.approx(summary["test_bpc"], rel=1e-5)
    assert (arrays["log_probability"] < 0).all()


def test_text8_is_the_same_model_on_27_symbols(tmp_path):
    experiment = Text8(TEXT8, say=quiet)
    assert experiment.data.vocabulary_size == 27 and experiment.task == "text8"
    summary = fit(experiment, tmp_path / "run", say=quiet)
    assert summary.keys() >= {"best_valid_bpc", "test_bpc", "test_bpc_chunks"}
    assert abs(summary["best_valid_bpc"] - np.log2(27)) < 1


@pytest.mark.parametrize(
    ("kind", "settings", "names", "others"),
    [
        (CharPTB, CHAR, ["PTB, authors' form", "PTB, stripped form"], ["Python 3 manual (stand-in)"]),
        (Text8, TEXT8, ["text8"], ["text8 prefix of 1,000 characters", "Python 3 manual in 27 symbols (stand-in)"]),
    ],
)
def test_numbers_of_the_paper_are_shown_beside_runs_on_its_whole_text_only(kind, settings, names, others, monkeypatch):
    text = kind(settings, say=quiet).data
    for name in names + others:
        for loader in (CharSettings, Text8Settings):
            monkeypatch.setattr(loader, "load", lambda self, say, name=name: replace(text, name=name))
        for part, shown in (({}, name in names), ({"train_symbols": 50}, False), ({"eval_symbols": 50}, False)):
            whole = replace(settings, **{"train_symbols": 0, "eval_symbols": 0, **part})
            assert kind(whole, say=quiet).reference == (kind.paper if shown else {}), (name, part)


# ---- no flag is dead

ZONED = {"z_prob_cells": 0.5, "z_prob_states": 0.5}
DROPPED = {"drop_prob_igates": 0.5}
NOT_OF_THE_RESULT = {
    "preset", "device", "data_dir", "offline", "out", "resume", "max_minutes", "load_path", "test_cost",
    "write_predictions", "dataset", "ptb_form",
}  # fmt: skip
FLAGS: dict[str, list[Any]] = {  # values, and what else is set with and without them
    "seed": [2],
    "epochs": [2],
    "patience": [(1, {"epochs": 3, "learning_rate": 1e-30, "algorithm": "sgd"})],
    "hidden_size": [6],
    "batch_size": [3],
    "algorithm": ["rms_prop", "momentum", "sgd", "adam"],
    "learning_rate": [0.03],
    "lr_decay": [(2.0, {"epochs": 2})],
    "decrease_lr_after_epoch": [(1, {"epochs": 2, "lr_decay": 2.0})],
    "momentum": [(0.5, {"algorithm": "momentum"})],
    "rms_decay": [(0.8, {"algorithm": "rms_prop"})],
    "clipping": [1e-3],
    "clip_what": [
        (what, {"clipping": 1e-3, "algorithm": algorithm})
        for what in ("step", "gradient")
        for algorithm in ("adam", "rms_prop")
    ],
    "weight_noise": [0.1],
    "l2_regularization": [0.1],
    "rnn_type": ["gru", "rnn"],
    "activation": [("relu", {"rnn_type": "rnn"})],
    "num_layers": [3],
    "initialization": ["ortho-whole", "glorot", "uniform", "id", "ortho"],
    "init_width": [(0.5, {"initialization": "uniform"})],
    "forget_bias": [2.0],
    "z_prob_cells": [0.5, (0.5, ZONED | {"z_prob_cells": 0.0})],
    "z_prob_states": [0.5, (0.5, {"rnn_type": "gru"}), (0.5, {"rnn_type": "rnn"})],
    "share_mask": [(True, ZONED)],
    "static_mask": [(True, ZONED)],
    "stoch_depth": [(True, ZONED)],
    "gaussian_drop": [(True, ZONED)],
    "drop_prob_igates": [0.5, (0.5, {"rnn_type": "gru"})],
    "output_gate": [("paper", DROPPED), ("printed", DROPPED), ("paper", DROPPED | {"z_prob_states": 0.5})],
    "ogates_zoneout": [(True, DROPPED)],
    "dropout": [0.6],
    "variational_dropout": [0.5],
    "input_drop": [0.5],
    "norm_cost_coeff": [50.0],
    "penalty": [("cells", {"norm_cost_coeff": 50.0})],
}
OF_TEXT: dict[str, list[Any]] = {"seq_len": [8], "train_symbols": [180], "eval_symbols": [50]}
BN = {"batch_normalization": True}
OWN: dict[str, dict[str, list[Any]]] = {
    "char-ptb": OF_TEXT | {"augment": [False]},
    "word-ptb": OF_TEXT | {"train_symbols": [31], "eval_symbols": [16]},
    "pmnist": {
        "permutation": ["authors"],
        "unpermuted": [True],
        "train_examples": [12],
        "eval_examples": [100],
        "batch_normalization": [True],
        "initial_gamma": [(0.5, BN)],
        "initial_beta": [(0.5, BN)],
        "epsilon": [(0.1, BN)],
        "statistics_rate": [(0.5, BN)],
        "noise": [0.5, (0.5, BN)],
        "summarize": [True, (True, BN)],
    },
}
TASKS: dict[str, tuple[Any, Any]] = {
    "char-ptb": (CharPTB, CHAR),
    "word-ptb": (WordPTB, WORD),
    "pmnist": (PMNIST, IMAGES),
}
RECURRENT = [f.name for f in fields(RecurrentSettings) if f.name not in {f.name for f in fields(RunSettings)}]
WITH_BN = ["z_prob_cells", "share_mask", "static_mask", "stoch_depth", "gaussian_drop", "drop_prob_igates", "dropout",
           "variational_dropout", "input_drop", "norm_cost_coeff", "penalty", "forget_bias", "num_layers"]  # fmt: skip


def case(task: str, flag: str, tried: Any, always: dict[str, Any]) -> Any:
    value, others = tried if isinstance(tried, tuple) else (tried, {})
    base = replace(TASKS[task][1], **others | always)
    return pytest.param(task, base, flag, value, id=f"{task}: {flag} {value} {others | always or ''}")


OF_ALL = (("char-ptb", FLAGS, {}), ("word-ptb", RECURRENT, {}), ("pmnist", WITH_BN, BN))
CASES = [case(task, flag, tried, more) for task, flags, more in OF_ALL for flag in flags for tried in FLAGS[flag]]
CASES += [case(task, flag, tried, {}) for task, own in OWN.items() for flag in own for tried in own[flag]]
CASES = [
    each
    for each in CASES
    for task, base, flag, value in [each.values]
    if getattr(base, flag) != value and not (getattr(base, "batch_normalization", False) and base.rnn_type != "lstm")
]


@cache
def outcome(task: str, settings: RunSettings) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """What a run logs, but for the clock, and its parameters at the end."""
    settings.check()
    with tempfile.TemporaryDirectory() as folder:
        fit(TASKS[task][0](settings, say=quiet), Path(folder), say=quiet)
        rows = read_rows(Path(folder, "metrics.jsonl"))
        arrays, _ = load_arrays(Path(folder, "last.safetensors"))
    rows = [{name: value for name, value in row.items() if name != "seconds"} for row in rows]
    return rows, {name: array.tobytes() for name, array in arrays.items() if name.startswith("model.")}


@pytest.mark.parametrize(("task", "base", "flag", "value"), CASES)
def test_a_flag_changes_the_run(task, base, flag, value):
    (rows, arrays), (others, other_arrays) = outcome(task, base), outcome(task, replace(base, **{flag: value}))
    if flag in ("eval_symbols", "eval_examples"):
        assert rows != others and arrays == other_arrays
    elif flag == "patience":
        assert (len(rows), len(others)) == (3, 2)
    else:
        assert arrays != other_arrays


def test_variants_of_one_regularizer_are_different_runs():
    """One mask or another, one gate or another: no two flags do the same."""
    masks = [{}, *({flag: True} for flag in ("share_mask", "static_mask", "stoch_depth", "gaussian_drop"))]
    gates = [{}, {"output_gate": "paper"}, {"output_gate": "printed"}, {"ogates_zoneout": True}]
    for base, variants in ((ZONED, masks), (DROPPED, gates)):
        arrays = [outcome("char-ptb", replace(CHAR, **base, **each))[1] for each in variants]
        assert all(one != other for k, one in enumerate(arrays) for other in arrays[:k])


@pytest.mark.parametrize("task", TASKS)
def test_every_flag_was_tried(task):
    names = {field.name for field in fields(TASKS[task][1])} - NOT_OF_THE_RESULT - {"pool"}  # pool: test_pmnist.py
    assert names == FLAGS.keys() | OWN[task].keys()
