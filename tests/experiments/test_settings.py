"""Settings: what is refused with which sentence, and the values of presets and flags."""

from __future__ import annotations

import shlex
from dataclasses import replace

import pytest
import tyro

from minizone import UserError
from minizone.experiments import char_ptb, gradients, pmnist, semantic, seq2seq, text8, word_ptb
from minizone.experiments.char_ptb import CharSettings

TASKS = {
    "char-ptb": char_ptb,
    "word-ptb": word_ptb,
    "text8": text8,
    "pmnist": pmnist,
    "gradients": gradients,
    "seq2seq": seq2seq,
    "semantic": semantic,
}
NAN, INF = float("nan"), float("inf")

# ---- values

OUT_OF_RANGE = [  # task, names of settings, values, what the settings must be
    ("char-ptb", "hidden_size batch_size epochs num_layers", (0, -3), "be at least 1"),
    ("char-ptb", "seed patience decrease_lr_after_epoch train_symbols eval_symbols", (-1,), "be at least 0"),
    ("char-ptb", "max_minutes learning_rate", (0.0, -0.1), "be more than 0"),
    ("char-ptb", "max_minutes", (NAN,), "be more than 0"),
    ("char-ptb", "learning_rate lr_decay momentum rms_decay clipping weight_noise", (NAN, INF), "be finite"),
    ("char-ptb", "l2_regularization forget_bias init_width norm_cost_coeff", (NAN, INF, -INF), "be finite"),
    ("char-ptb", "dropout variational_dropout input_drop", (NAN,), "be finite"),
    ("char-ptb", "lr_decay", (0.5,), "be at least 1"),
    ("char-ptb", "momentum rms_decay dropout variational_dropout input_drop", (1.0, 1.5), "be less than 1"),
    ("char-ptb", "momentum rms_decay dropout variational_dropout input_drop", (-0.1,), "be at least 0"),
    ("char-ptb", "clipping weight_noise l2_regularization init_width norm_cost_coeff", (-0.1,), "be at least 0"),
    ("char-ptb word-ptb text8", "seq_len", (1,), "be at least 2"),
    ("char-ptb", "train_symbols eval_symbols", (1, 100), "be 0, or more than twice --seq-len 50"),
    ("pmnist", "pool", (0,), "be at least 1"),
    ("pmnist", "train_examples eval_examples noise", (-1,), "be at least 0"),
    ("pmnist", "epsilon", (0.0, -0.1), "be more than 0"),
    ("pmnist", "epsilon noise initial_gamma initial_beta", (NAN, INF), "be finite"),
    ("gradients", "initial_noise", (NAN,), "be finite"),
    ("gradients", "initial_noise", (-0.1,), "be at least 0"),
    ("seq2seq", "updates_per_epoch valid_examples number_length", (0,), "be at least 1"),
    ("seq2seq", "max_number_length", (6,), "be at most 5"),
    ("seq2seq", "max_number_length", (1,), "be at least --number-length 2"),
    ("seq2seq", "raise_below restart_above decay_on_rise", (1.5,), "be at most 1"),
    ("seq2seq", "decay_on_rise", (0.0,), "be more than 0"),
    ("seq2seq", "restart_after", (-1,), "be at least 0"),
    ("semantic", "dim seq_len updates_per_epoch", (0,), "be at least 1"),
    ("semantic", "noise_level zoneout_prob", (-1.0,), "be at least 0"),
    ("semantic", "zoneout_prob", (1.5,), "be at most 1"),
    ("semantic", "noise_level zoneout_prob", (NAN,), "be finite"),
]
OUT_OF_RANGE += [
    (
        "char-ptb pmnist seq2seq",
        "z_prob_cells z_prob_states drop_prob_igates",
        (1.5, -0.1, NAN, INF, "x", "", "half"),
        "be a probability in [0, 1]",
    )
]
CASES = [
    (task, name, value, rule)
    for tasks, names, values, rule in OUT_OF_RANGE
    for task in tasks.split()
    for name in names.split()
    for value in values
]


@pytest.mark.parametrize(("task", "name", "value", "rule"), CASES)
def test_a_bad_value_is_refused_with_its_flag_the_rule_and_the_value(task, name, value, rule):
    with pytest.raises(UserError) as refused:
        replace(TASKS[task].PRESETS["quick"], **{name: value}).check()
    sentence = str(refused.value)
    assert sentence.startswith(f"--{name.replace('_', '-')} must {rule}")
    assert sentence.endswith(f", got {value}")


TOGETHER = [  # task, flags, words of the sentence
    *(
        ("char-ptb", f"--rnn-type {kind} {flags}", f"--rnn-type {kind} {named}")
        for kind in ("gru", "rnn")
        for flags, named in (
            ("--z-prob-cells 0.5", "--z-prob-cells --z-prob-states"),
            ("--penalty cells --norm-cost-coeff 50", "--penalty"),
            ("--output-gate paper --drop-prob-igates 0.5", "--output-gate"),
            ("--ogates-zoneout", "--ogates-zoneout"),
        )
    ),
    ("char-ptb", "--rnn-type rnn --drop-prob-igates 0.5", "--drop-prob-igates --rnn-type"),
    ("char-ptb", "--ogates-zoneout", "--drop-prob-igates"),
    ("char-ptb", "--output-gate paper", "--drop-prob-igates"),
    ("char-ptb", "--output-gate paper --num-layers 2 --drop-prob-igates 0.5,0.0", "--drop-prob-igates"),
    ("char-ptb", "--output-gate paper --ogates-zoneout --drop-prob-igates 0.5", "--output-gate --ogates-zoneout"),
    ("char-ptb", "--activation relu", "--activation --rnn-type lstm"),
    ("char-ptb", "--activation relu --rnn-type gru", "--activation --rnn-type gru"),
    *(("char-ptb", f"--{kind}", f"--{kind} --z-prob-cells") for kind in ("share-mask", "static-mask", "stoch-depth")),
    ("char-ptb", "--gaussian-drop", "--gaussian-drop --z-prob-cells"),
    ("char-ptb", "--share-mask --z-prob-cells 0.5 --z-prob-states 0.1", "--share-mask equal 0.5 0.1"),
    ("char-ptb", "--stoch-depth --z-prob-cells 0.5 --z-prob-states 0.1", "--stoch-depth equal 0.5 0.1"),
    ("word-ptb", "--share-mask --z-prob-cells 0.5,0.2 --z-prob-states 0.5,0.1", "--share-mask equal 0.2 0.1"),
    ("word-ptb", "--z-prob-cells 0.5,0.1,0.2", "--z-prob-cells 0.5,0.1,0.2: 3 values for 2 layers"),
    ("word-ptb", "--num-layers 3 --z-prob-states 0.5,0.5", "--z-prob-states 0.5,0.5: 2 values for 3 layers"),
    ("char-ptb", "--z-prob-states 0.1,", "--z-prob-states 0.1,: 2 values for 1 layer;"),
    ("word-ptb", "--z-prob-states 0.1,", "--z-prob-states probability one for each layer, got 0.1,"),
    ("text8", "--ptb-form stripped", "--ptb-form"),
    ("pmnist", "--seq-len 10", "--seq-len"),
    ("pmnist", "--batch-normalization --rnn-type gru", "--batch-normalization --rnn-type lstm gru"),
    ("pmnist", "--batch-normalization --ogates-zoneout --drop-prob-igates 0.5", "--batch-normalization output gate"),
    ("pmnist", "--batch-normalization --output-gate paper --drop-prob-igates 0.5", "--batch-normalization output gate"),
    ("pmnist", "--noise 0.1 --summarize", "--noise --summarize"),
    ("pmnist", "--unpermuted --permutation authors", "--unpermuted --permutation authors"),
    ("gradients", "--z-prob-cells 0.5", "--z-prob-cells itself"),
    ("gradients", "--drop-prob-igates 0.5", "--drop-prob-igates itself"),
    ("gradients", "--rnn-type gru", "--rnn-type gru"),
    ("semantic", "--hidden-size 1", "--hidden-size"),
    ("semantic", "--clipping 1.0", "--clipping"),
]


@pytest.mark.parametrize(("task", "flags", "words"), TOGETHER, ids=[f"{task} {flags}" for task, flags, _ in TOGETHER])
def test_bad_flags_end_with_status_2_one_sentence_and_no_folder(
    task, flags, words, program, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert program.main([task, *shlex.split(flags)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("run.py: ") and err.count("\n") == 1
    for word in words.split():
        assert word in err
    assert not list(tmp_path.iterdir())


LEGAL = [
    {"z_prob_cells": 1.0, "z_prob_states": 0},
    {"z_prob_cells": "1,0", "num_layers": 2},
    {"share_mask": True, "z_prob_cells": 0.5},
    {"share_mask": True, "z_prob_cells": "0.5,0.1", "z_prob_states": "0.5,0", "num_layers": 2},
    {"rnn_type": "gru", "drop_prob_igates": 0.5, "z_prob_states": 0.1},
    {"rnn_type": "rnn", "activation": "relu"},
    {"ogates_zoneout": True, "drop_prob_igates": "0.5,0.1", "num_layers": 2},
    {"output_gate": "printed", "drop_prob_igates": 1.0},
    {"lr_decay": 1.0, "clipping": 0.0, "momentum": 0.0, "dropout": 0.99, "seed": 0, "max_minutes": INF},
    {"train_symbols": 201, "eval_symbols": 0, "forget_bias": -1.0},
]


@pytest.mark.parametrize("changes", LEGAL, ids=str)
def test_legal_settings_are_accepted(changes):
    CharSettings(**changes).check()


# ---- presets and flags


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_two_legal_presets(task):
    presets = TASKS[task].PRESETS
    assert presets.keys() == {"quick", "paper"}
    for name, settings in presets.items():
        settings.check()
        assert settings.preset == name


PAPER = {  # task: the settings of the paper, and of the authors' scripts
    "char-ptb": {
        "hidden_size": 1000, "num_layers": 1, "rnn_type": "lstm", "batch_size": 32, "seq_len": 100, "augment": True,
        "algorithm": "adam", "learning_rate": 2e-3, "clipping": 1.0, "clip_what": "step", "initialization": "ortho",
        "forget_bias": 1.0, "dataset": "auto", "ptb_form": "authors",
    },
    "text8": {
        "hidden_size": 2000, "num_layers": 1, "rnn_type": "lstm", "batch_size": 128, "seq_len": 180, "augment": True,
        "algorithm": "adam", "learning_rate": 1e-3, "clipping": 1.0, "clip_what": "step", "initialization": "ortho",
        "forget_bias": 1.0, "dataset": "auto",
    },
    "word-ptb": {
        "hidden_size": 1500, "num_layers": 2, "batch_size": 20, "seq_len": 35, "steps": 35, "algorithm": "sgd",
        "learning_rate": 1.0, "lr_decay": 1.15, "decrease_lr_after_epoch": 14, "clipping": 10.0,
        "clip_what": "gradient", "dropout": 0.65, "initialization": "uniform", "init_width": 0.08,
        "forget_bias": 0.0, "epochs": 55, "z_prob_cells": 0.0, "z_prob_states": 0.0,
    },
    "pmnist": {
        "hidden_size": 100, "batch_size": 100, "epochs": 150, "algorithm": "rms_prop", "learning_rate": 1e-3,
        "rms_decay": 0.5, "clipping": 1.0, "clip_what": "gradient", "pool": 1, "initial_gamma": 0.1,
        "permutation": "true", "unpermuted": False, "train_examples": 0, "eval_examples": 0,
    },
    "gradients": {"hidden_size": 100, "batch_size": 100, "epochs": 1, "algorithm": "rms_prop", "pool": 1},
    "seq2seq": {
        "hidden_size": 128, "num_layers": 2, "batch_size": 32, "epochs": 40, "updates_per_epoch": 20,
        "valid_examples": 4096, "algorithm": "adam", "learning_rate": 0.01, "clipping": 0.0,
        "initialization": "uniform", "init_width": 0.16, "forget_bias": 1.0, "restart_after": 16,
        "restart_above": 0.85, "raise_below": 0.10, "decay_on_rise": 0.95, "number_length": 2,
        "max_number_length": 5, "overlap": False,
    },
    "semantic": {
        "dim": 2, "seq_len": 10, "batch_size": 32, "noise_level": 0.01, "zoneout_prob": 0.1, "algorithm": "sgd",
        "learning_rate": 1e-4, "clipping": 0.0, "epochs": 100, "updates_per_epoch": 1000,
    },
}  # fmt: skip


@pytest.mark.parametrize("task", TASKS)
def test_the_paper_preset_has_the_settings_of_the_paper(task):
    settings = TASKS[task].PRESETS["paper"]
    assert {name: getattr(settings, name) for name in PAPER[task]} == PAPER[task]


def test_the_learning_rate_of_word_ptb_is_1_for_14_epochs_and_then_divided_by_1_15_each():
    rates = [word_ptb.PAPER.rate(epoch) for epoch in range(1, 56)]
    assert rates[:14] == [1.0] * 14
    assert rates[14:] == pytest.approx([1.15**-k for k in range(1, 42)], rel=1e-12)


def test_flags_override_the_preset():
    flags = shlex.split("--seq-len 7 --z-prob-cells 0.5 --z-prob-states 0.1,0.2 --num-layers 2 --no-augment")
    settings = tyro.cli(CharSettings, args=flags, default=char_ptb.PAPER)
    changes = {"seq_len": 7, "z_prob_cells": 0.5, "z_prob_states": "0.1,0.2", "num_layers": 2, "augment": False}
    assert settings == replace(char_ptb.PAPER, **changes)
