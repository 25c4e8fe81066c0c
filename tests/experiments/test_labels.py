"""The names of runs are valid folder names, and no two regularizers share one."""

from __future__ import annotations

import re

import pytest

from minizone.experiments import semantic, seq2seq
from minizone.experiments.char_ptb import CharSettings
from minizone.experiments.pmnist import PMNISTSettings

ZONED = {"z_prob_cells": 0.5, "z_prob_states": 0.5}
LABELS = [
    ({}, "lstm-seed1"),
    ({"seed": 2}, "lstm-seed2"),
    ({"z_prob_cells": 0.5}, "zoneout-c0.5-h0-seed1"),
    ({"z_prob_states": 0.5}, "zoneout-c0-h0.5-seed1"),
    ({"z_prob_cells": 0.5, "z_prob_states": 0.05}, "zoneout-c0.5-h0.05-seed1"),
    (ZONED | {"share_mask": True}, "zoneout-c0.5-h0.5-shared-seed1"),
    (ZONED | {"static_mask": True}, "zoneout-c0.5-h0.5-static-seed1"),
    (ZONED | {"stoch_depth": True}, "zoneout-c0.5-h0.5-layer-seed1"),
    (ZONED | {"gaussian_drop": True}, "zoneout-c0.5-h0.5-gaussian-seed1"),
    (
        {"z_prob_cells": 0.5, "share_mask": True, "static_mask": True, "gaussian_drop": True},
        "zoneout-c0.5-h0-shared-static-gaussian-seed1",
    ),
    ({"num_layers": 2, "z_prob_cells": "0.5, 0.1"}, "zoneout-c0.5_0.1-h0-seed1"),
    ({"num_layers": 2, "z_prob_states": "1e-1,0.5"}, "zoneout-c0-h0.1_0.5-seed1"),
    ({"num_layers": 2, "z_prob_cells": "0.0,0"}, "lstm-seed1"),
    ({"drop_prob_igates": 0.5}, "igates0.5-seed1"),
    ({"num_layers": 2, "drop_prob_igates": "0.5,0.1"}, "igates0.5_0.1-seed1"),
    ({"drop_prob_igates": 0.5, "ogates_zoneout": True}, "igates0.5-ogates-seed1"),
    ({"drop_prob_igates": 0.5, "output_gate": "paper"}, "igates0.5-ogates-paper-seed1"),
    ({"drop_prob_igates": 0.5, "output_gate": "printed"}, "igates0.5-ogates-printed-seed1"),
    ({"dropout": 0.5}, "dropout0.5-seed1"),
    ({"variational_dropout": 0.5}, "variational0.5-seed1"),
    ({"input_drop": 0.5}, "input0.5-seed1"),
    ({"weight_noise": 1e-7}, "lstm-noise1e-07-seed1"),
    ({"l2_regularization": 0.5}, "lstm-l2_0.5-seed1"),
    ({"norm_cost_coeff": 50.0}, "norm50-hids-seed1"),
    ({"norm_cost_coeff": 50.0, "penalty": "cells"}, "norm50-cells-seed1"),
    ({"rnn_type": "gru"}, "gru-seed1"),
    ({"rnn_type": "rnn"}, "rnn-seed1"),
    ({"rnn_type": "rnn", "activation": "relu"}, "relu-seed1"),
    ({"rnn_type": "gru", "z_prob_states": 0.1, "seed": 3}, "gru-zoneout-h0.1-seed3"),
    ({"rnn_type": "gru", "drop_prob_igates": 0.5, "dropout": 0.5}, "gru-igates0.5-dropout0.5-seed1"),
]
LABELS_OF_PMNIST = [
    ({"batch_normalization": True}, "bn-seed1"),
    ({"batch_normalization": True, **ZONED}, "bn-zoneout-c0.5-h0.5-seed1"),
    ({"batch_normalization": True, "initial_gamma": 1.0}, "bn-gamma1-seed1"),
    ({"unpermuted": True}, "lstm-unpermuted-seed1"),
    ({"permutation": "authors"}, "lstm-authors-permutation-seed1"),
    ({"permutation": "authors", "batch_normalization": True}, "bn-authors-permutation-seed1"),
]


@pytest.mark.parametrize(("changes", "label"), LABELS, ids=[str(changes) for changes, _ in LABELS])
def test_a_label_names_the_regularizers_and_the_seed(changes, label):
    settings = CharSettings(**changes)
    settings.check()
    assert settings.label() == label


@pytest.mark.parametrize(("changes", "label"), LABELS_OF_PMNIST)
def test_labels_of_pmnist(changes, label):
    assert PMNISTSettings(**changes).label() == label


def test_labels_of_the_other_tasks():
    assert seq2seq.PAPER.label() == "lstm-seed1"
    assert seq2seq.Seq2SeqSettings(overlap=True, z_prob_states=0.1).label() == "zoneout-c0-h0.1-overlap-seed1"
    assert semantic.PAPER.label() == "zoneout0.1-seed1"


def test_labels_are_folder_names():
    labels = [label for _, label in LABELS + LABELS_OF_PMNIST]
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9._-]*-seed\d+", label) for label in labels)
