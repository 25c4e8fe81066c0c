"""Settings: what is refused and with which sentence, what reaches the layers, and the names of runs."""

from __future__ import annotations

import re
import shlex
from dataclasses import fields, replace

import numpy as np
import pytest

from minizone import UserError
from minizone.commands.flags import parse
from minizone.experiments.char_ptb import PRESETS, CharSettings
from minizone.experiments.pmnist import PMNISTSettings
from minizone.experiments.recurrent import recurrent_stack
from minizone.experiments.settings import RecurrentSettings
from minizone.experiments.word_ptb import WordSettings
from minizone.layers import GRU, LSTM, RNN
from tests.helpers import rng


def refusal(program, capsys, folder, task: str, flags: str) -> str:
    """What a command says that must end with status 2, one line, and no folder."""
    assert program.main([task, *shlex.split(flags)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("run.py: ") and err.count("\n") == 1
    assert not list(folder.iterdir())
    return err.removeprefix("run.py: ").removesuffix("\n")


ALONE = [  # a flag with a value that no run could use, and what it must be
    *((f"--{name} 0", "be at least 1") for name in ("hidden-size", "batch-size", "epochs", "num-layers")),
    *((f"--{name} -1", "be 0 or more") for name in ("seed", "patience", "decrease-lr-after-epoch")),
    *((f"--max-minutes {v}", "be more than 0") for v in ("0.0", "nan")),
    *((f"--learning-rate {v}", "be finite and more than 0") for v in ("0.0", "-0.1", "nan", "inf")),
    *((f"--lr-decay {v}", "be finite and at least 1: it divides") for v in ("0.5", "0.0", "nan", "inf")),
    *((f"--{name} {v}", "be in [0, 1)") for name in ("momentum", "rms-decay") for v in ("1.0", "-0.1", "nan")),
    *(
        (f"--{name} {v}", "be finite, and 0 (none) or more")
        for name in ("clipping", "weight-noise", "l2-regularization")
        for v in ("-0.1", "nan", "inf")
    ),
    *(
        (f"--{name} {v}", "be a probability in [0, 1): of 1 nothing is left")
        for name in ("dropout", "variational-dropout", "input-drop")
        for v in ("1.0", "1.5", "-0.1", "nan")
    ),
    *((f"--forget-bias {v}", "be finite (below 1e30)") for v in ("nan", "inf", "1e+31")),
    *(
        (f"--{n} {v}", "be finite (below 1e30) and 0 or more")
        for n in ("norm-cost-coeff", "init-width")
        for v in ("-0.1", "nan", "inf")
    ),
    *(
        (f"--{name} {v}", "be a probability in [0, 1]")
        for name in ("z-prob-cells", "z-prob-states", "drop-prob-igates")
        for v in ("1.5", "-0.1", "nan", "inf", "0.5,0.1", "0.5,x", "0.5,", "half")
    ),
    ("--seq-len 1", "be at least 2: one symbol in, one to predict"),
    *(
        (f"--{name} {v}", "be 0 or more than twice --seq-len 50")
        for name in ("train-symbols", "eval-symbols")
        for v in (-5, 100)
    ),
]


@pytest.mark.parametrize(("flag", "rule"), ALONE, ids=[flag for flag, _ in ALONE])
def test_a_bad_value_is_refused_with_its_flag_the_rule_and_the_value(
    flag, rule, program, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    name, value = flag.split()
    assert refusal(program, capsys, tmp_path, "char-ptb", flag) == f"{name} must {rule}, got {value}"


TOGETHER = [
    ("char-ptb", f"--rnn-type {kind} {flags}", f"--rnn-type {kind} {named}")
    for kind in ("gru", "rnn")
    for flags, named in (
        ("--z-prob-cells 0.5", "--z-prob-cells --z-prob-states"),
        ("--penalty cells --norm-cost-coeff 50", "--penalty"),
        ("--output-gate paper --drop-prob-igates 0.5", "--output-gate"),
        ("--output-gate printed", "--output-gate"),
        ("--ogates-zoneout", "--ogates-zoneout"),
    )
]
TOGETHER += [
    ("char-ptb", "--rnn-type rnn --drop-prob-igates 0.5", "--drop-prob-igates --rnn-type"),
    ("char-ptb", "--ogates-zoneout", "--drop-prob-igates"),
    ("char-ptb", "--output-gate paper", "--drop-prob-igates"),
    ("char-ptb", "--output-gate paper --num-layers 2 --drop-prob-igates 0.5,0.0", "--drop-prob-igates"),
    (
        "char-ptb",
        "--output-gate paper --ogates-zoneout --drop-prob-igates 0.5",
        "--output-gate --ogates-zoneout choose",
    ),
    ("char-ptb", "--activation relu", "--activation --rnn-type lstm"),
    ("char-ptb", "--activation relu --rnn-type gru", "--activation --rnn-type gru"),
    ("char-ptb", "--share-mask --z-prob-cells 0.5 --z-prob-states 0.1", "--share-mask equal 0.5 0.1"),
    ("char-ptb", "--stoch-depth --z-prob-cells 0.5 --z-prob-states 0.1", "--stoch-depth equal 0.5 0.1"),
    ("word-ptb", "--share-mask --z-prob-cells 0.5,0.2 --z-prob-states 0.5,0.1", "--share-mask equal 0.2 0.1"),
    ("word-ptb", "--z-prob-cells 0.5,0.1,0.2", "--z-prob-cells or 2 of them with commas between 0.5,0.1,0.2"),
    ("word-ptb", "--z-prob-states 0.5,nan", "--z-prob-states 0.5,nan"),
    ("word-ptb", "--drop-prob-igates 0.5,1.5", "--drop-prob-igates 0.5,1.5"),
    ("word-ptb", "--num-layers 3 --z-prob-states 0.5,0.5", "--z-prob-states 3 of them 0.5,0.5"),
    ("word-ptb", "--dropout 1.0", "--dropout"),
    ("text8", "--seq-len 1", "--seq-len"),
    ("text8", "--rnn-type gru --z-prob-cells 0.5", "--z-prob-cells --rnn-type"),
    ("text8", "--ptb-form stripped", "--ptb-form"),
    ("pmnist", "--batch-normalization --rnn-type gru", "--batch-normalization --rnn-type lstm gru"),
    ("pmnist", "--batch-normalization --rnn-type rnn", "--batch-normalization --rnn-type lstm rnn"),
    ("pmnist", "--batch-normalization --ogates-zoneout --drop-prob-igates 0.5", "--batch-normalization output gate"),
    ("pmnist", "--batch-normalization --output-gate paper --drop-prob-igates 0.5", "--batch-normalization output gate"),
    ("pmnist", "--noise 0.1 --summarize", "--noise --summarize choose"),
    ("pmnist", "--unpermuted --permutation authors", "--unpermuted --permutation authors choose"),
    *(
        ("pmnist", f"--{name} {v}", f"--{name} {v}")
        for name in ("noise", "epsilon", "statistics-rate")
        for v in ("-0.1", "nan", "inf")
    ),
    *(("pmnist", f"--initial-{n} {v}", f"--initial-{n} finite {v}") for n in ("gamma", "beta") for v in ("nan", "inf")),
    ("pmnist", "--epsilon 0.0", "--epsilon more than 0"),
    ("pmnist", "--pool 0", "--pool at least 1"),
    ("pmnist", "--train-examples -1", "--train-examples -1"),
    ("pmnist", "--eval-examples -1", "--eval-examples -1"),
    ("pmnist", "--seq-len 10", "--seq-len"),
    *(
        ("char-ptb", f"--{flag} no-such-thing", f"--{flag} no-such-thing")
        for flag in ("rnn-type", "activation", "initialization", "output-gate", "penalty", "algorithm", "clip-what")
    ),
    *(("pmnist", f"--{flag} no-such-thing", f"--{flag} no-such-thing") for flag in ("dataset", "permutation")),
]


@pytest.mark.parametrize(("task", "flags", "words"), TOGETHER, ids=[f"{task} {flags}" for task, flags, _ in TOGETHER])
def test_what_does_not_go_together_is_refused_and_named(task, flags, words, program, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = refusal(program, capsys, tmp_path, task, flags)
    for word in words.split():
        assert word in said, said


LEGAL = [
    {"z_prob_cells": 1.0, "z_prob_states": 0},
    {"z_prob_cells": "1,0", "num_layers": 2},
    {"share_mask": True, "z_prob_cells": 0.5},
    {"share_mask": True, "z_prob_cells": "0.5,0.1", "z_prob_states": "0.5,0", "num_layers": 2},
    {"rnn_type": "gru", "drop_prob_igates": 0.5, "z_prob_states": 0.1},
    {"rnn_type": "gru", "z_prob_cells": 0.0, "z_prob_states": 0.1},
    {"rnn_type": "rnn", "activation": "relu"},
    {"ogates_zoneout": True, "drop_prob_igates": "0.5,0.1", "num_layers": 2},
    {"output_gate": "printed", "drop_prob_igates": 1.0},
    {"lr_decay": 1.0, "clipping": 0.0, "momentum": 0.0, "dropout": 0.99, "seed": 0},
    {"train_symbols": 201, "eval_symbols": 0},
]


@pytest.mark.parametrize("changes", LEGAL, ids=str)
def test_what_can_be_run_is_not_refused(changes):
    settings = CharSettings(**changes)
    settings.check()
    recurrent_stack(replace(settings, hidden_size=2), 2, settings.steps, rng())


def test_every_preset_of_every_task_is_legal(program):
    for task in program.TASKS.values():
        assert task.presets.keys() == {"quick", "paper"}
        for name, settings in task.presets.items():
            settings.check()
            assert settings.preset == name


# ---- one probability for each layer


def test_probabilities_reach_their_layers():
    settings = CharSettings(
        num_layers=3, hidden_size=2, z_prob_cells="0.5,0,0.1", z_prob_states="0.05,0.2,0", drop_prob_igates="0, 0.3,0.4"
    )
    settings.check()
    expected = [
        {"keep_c": 0.5, "keep_h": 0.05},
        {"keep_h": 0.2, "input_mask": 0.7},
        {"keep_c": 0.1, "input_mask": 0.6},
    ]
    made = recurrent_stack(settings, 2, 3, rng()).layers
    assert [layer.masks(3, 4, None) for layer in made] == [pytest.approx(masks) for masks in expected]
    for layer, masks in zip(made, expected, strict=True):
        assert layer.masks(3, 4, rng()).keys() == masks.keys(), "in training the same ones are drawn"


@pytest.mark.parametrize("value", [0.25, "0.25,0.25,0.25", "0.25, 0.25, .25"])
def test_one_number_is_for_all_layers(value):
    settings = CharSettings(num_layers=3, z_prob_states=value)
    assert settings.per_layer("z_prob_states") == [0.25] * 3
    assert [settings.zoneout(k, 9).states for k in range(3)] == [0.25] * 3


def test_kinds_of_masks_reach_every_layer():
    for flag, attribute in (("share_mask", "shared"), ("stoch_depth", "whole_layer"), ("gaussian_drop", "gaussian")):
        assert getattr(CharSettings(**{flag: True}).zoneout(0, 9), attribute) is True
        assert getattr(CharSettings().zoneout(0, 9), attribute) is False
    assert CharSettings(static_mask=True).zoneout(0, 9).static_steps == 9
    assert CharSettings().zoneout(0, 9).static_steps == 0


@pytest.mark.parametrize(("kind", "layer"), [("lstm", LSTM), ("gru", GRU), ("rnn", RNN)])
def test_layers_have_the_type_the_sizes_and_the_initial_values_of_the_settings(kind, layer):
    settings = CharSettings(rnn_type=kind, num_layers=2, hidden_size=6, initialization="uniform", init_width=0.08)
    first, second = recurrent_stack(settings, 3, 5, rng()).layers
    assert type(first) is type(second) is layer
    assert first.W_x.shape[1] == 3 and second.W_x.shape[1] == first.W_h.shape[1] == second.W_h.shape[1] == 6
    weights = np.concatenate([W.data.ravel() for each in (first, second) for W in (each.W_x, each.W_h)])
    assert 0.9 * 0.04 < np.abs(weights).max() <= 0.04
    assert not np.array_equal(first.W_h.data, second.W_h.data)


# ---- labels

SPECIAL = [
    {},
    {"seed": 2},
    {"z_prob_cells": 0.5},
    {"z_prob_states": 0.5},
    {"z_prob_cells": 0.5, "z_prob_states": 0.05},
    *({"z_prob_cells": 0.5, "z_prob_states": 0.5, flag: True} for flag in ("share_mask", "static_mask", "stoch_depth")),
    {"z_prob_cells": 0.5, "gaussian_drop": True},
    {"z_prob_cells": 0.5, "share_mask": True, "static_mask": True, "gaussian_drop": True},
    {"num_layers": 2, "z_prob_cells": "0.5,0.1"},
    {"num_layers": 2, "z_prob_cells": "0.1, 0.5"},
    {"num_layers": 2, "z_prob_states": "1e-1,0.5"},
    {"drop_prob_igates": 0.5},
    {"num_layers": 2, "drop_prob_igates": "0.5,0.1"},
    {"drop_prob_igates": 0.5, "ogates_zoneout": True},
    *({"drop_prob_igates": 0.5, "output_gate": gate} for gate in ("paper", "printed")),
    *({name: 0.5} for name in ("dropout", "variational_dropout", "input_drop", "weight_noise", "l2_regularization")),
    *({"norm_cost_coeff": 50.0, "penalty": which} for which in ("hids", "cells")),
    {"weight_noise": 1e-7},
    *({"rnn_type": kind} for kind in ("gru", "rnn")),
    {"rnn_type": "rnn", "activation": "relu"},
    {"rnn_type": "gru", "z_prob_states": 0.5},
    {"rnn_type": "gru", "drop_prob_igates": 0.5, "dropout": 0.5},
]
OF_PMNIST = [
    {"batch_normalization": True},
    {"batch_normalization": True, "z_prob_cells": 0.5},
    {"batch_normalization": True, "initial_gamma": 1.0},
    {"unpermuted": True},
    {"permutation": "authors"},
    {"permutation": "authors", "batch_normalization": True},
]


@pytest.mark.parametrize(
    ("kind", "changes"),
    [(CharSettings, SPECIAL), (WordSettings, SPECIAL), (PMNISTSettings, SPECIAL + OF_PMNIST)],
    ids=["char-ptb", "word-ptb", "pmnist"],
)
def test_labels_are_names_of_folders_and_tell_the_regularizers_apart(kind, changes):
    labels = []
    for each in changes:
        settings = kind(**each)
        settings.check()
        labels.append(settings.label())
    assert len(set(labels)) == len(labels)
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9._-]*-seed\d+", label) for label in labels), labels


@pytest.mark.parametrize(
    ("changes", "label"),
    [
        ({}, "lstm-seed1"),
        ({"z_prob_cells": 0.5, "z_prob_states": 0.05}, "zoneout-c0.5-h0.05-seed1"),
        ({"num_layers": 2, "z_prob_cells": "0.5, 0.1"}, "zoneout-c0.5_0.1-h0-seed1"),
        ({"num_layers": 2, "z_prob_cells": "0.0,0"}, "lstm-seed1"),
        ({"rnn_type": "gru", "z_prob_states": 0.1, "seed": 3}, "gru-zoneout-h0.1-seed3"),
    ],
)
def test_labels_say_what_is_special(changes, label):
    assert CharSettings(**changes).label() == label


# ---- flags


def test_every_flag_has_its_sentence_in_the_help(program, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        program.main(["pmnist", "--help"])
    said = capsys.readouterr().out
    for field in fields(RecurrentSettings):
        assert f"--{field.name.replace('_', '-')}" in said, field.name


def test_a_preset_is_what_all_other_flags_override():
    settings = parse(CharSettings, shlex.split("--seq-len 7 --z-prob-cells 0.5 --no-augment"), "x", PRESETS["paper"])
    assert settings == replace(PRESETS["paper"], seq_len=7, z_prob_cells=0.5, augment=False)


def test_the_sentence_is_a_user_error():
    with pytest.raises(UserError, match=r"^--z-prob-cells must be a probability in \[0, 1\], got 2$"):
        CharSettings(z_prob_cells=2).check()
