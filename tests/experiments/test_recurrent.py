"""From settings to recurrent layers: sizes, initial weights, masks, dropout and the norm stabilizer."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from minizone import Tensor
from minizone.experiments import char_ptb
from minizone.experiments.char_ptb import CharModel, CharSettings
from minizone.experiments.recurrent import add_norm_stabilizer, input_dropout, recurrent_stack, token_dropout
from minizone.layers import GRU, LSTM, RNN
from tests.helpers import rng

SMALL = replace(char_ptb.PRESETS["quick"], hidden_size=5, seq_len=11, num_layers=2)


# ---- layers


@pytest.mark.parametrize(("kind", "layer"), [("lstm", LSTM), ("gru", GRU), ("rnn", RNN)])
def test_layers_have_the_type_the_sizes_and_the_initial_values_of_the_settings(kind, layer):
    settings = CharSettings(rnn_type=kind, num_layers=2, hidden_size=6, initialization="uniform", init_width=0.08)
    first, second = recurrent_stack(settings, 3, 5, rng()).layers
    assert type(first) is type(second) is layer
    assert first.W_x.shape[1] == 3
    assert second.W_x.shape[1] == first.W_h.shape[1] == second.W_h.shape[1] == 6
    weights = np.concatenate([W.data.ravel() for W in (first.W_x, first.W_h, second.W_x, second.W_h)])
    assert 0.9 * 0.04 < np.abs(weights).max() <= 0.04
    assert not np.array_equal(first.W_h.data, second.W_h.data)


def test_identity_is_for_the_candidate_only():
    (layer,) = recurrent_stack(CharSettings(hidden_size=6, initialization="id"), 3, 5, rng()).layers
    i, f, g, o = layer.W_h.data.reshape(4, 6, 6)
    assert np.array_equal(g, np.eye(6))
    assert not any(np.array_equal(gate, np.eye(6)) for gate in (i, f, o))


def test_initial_states_are_learned_or_zero():
    with_states, without = (
        dict(recurrent_stack(SMALL, 3, 5, rng(), learned_state=learned).named_parameters()) for learned in (True, False)
    )
    assert with_states.keys() - without.keys() == {"layers.0.h0", "layers.0.c0", "layers.1.h0", "layers.1.c0"}


# ---- one probability for each layer


def test_probabilities_reach_their_layers():
    settings = CharSettings(
        num_layers=3, hidden_size=2, z_prob_cells="0.5,0,0.1", z_prob_states="0.05,0.2,0", drop_prob_igates="0, 0.3,0.4"
    )
    expected = [
        {"keep_c": 0.5, "keep_h": 0.05},
        {"keep_h": 0.2, "input_mask": 0.7},
        {"keep_c": 0.1, "input_mask": 0.6},
    ]
    layers = recurrent_stack(settings, 2, 3, rng()).layers
    assert [layer.masks(3, 4, None) for layer in layers] == [pytest.approx(masks) for masks in expected]
    for layer, masks in zip(layers, expected, strict=True):
        assert layer.masks(3, 4, rng()).keys() == masks.keys(), "the same ones are drawn in training"


@pytest.mark.parametrize("value", [0.25, "0.25,0.25,0.25", "0.25, 0.25, .25"])
def test_one_number_is_for_all_layers(value):
    settings = CharSettings(num_layers=3, z_prob_states=value)
    assert settings.per_layer("z_prob_states") == [0.25] * 3
    assert [settings.zoneout(k, 9).states for k in range(3)] == [0.25] * 3


@pytest.mark.parametrize(
    ("flag", "attribute", "value"),
    [
        ("share_mask", "shared", True),
        ("stoch_depth", "whole_layer", True),
        ("gaussian_drop", "gaussian", True),
        ("static_mask", "static_steps", 9),
    ],
)
def test_the_kind_of_mask_reaches_every_layer(flag, attribute, value):
    with_flag = CharSettings(**{flag: True}, num_layers=2)
    assert [getattr(with_flag.zoneout(k, 9), attribute) for k in range(2)] == [value] * 2
    assert not getattr(CharSettings().zoneout(0, 9), attribute)


# ---- dropout


@pytest.mark.parametrize("p", [0.2, 0.5])
@pytest.mark.parametrize("kind", ["tokens", "array", "Tensor"])
def test_dropped_inputs_are_columns_of_zeros_in_training_and_shrunk_in_evaluation(kind, p):
    tokens = rng().integers(7, size=(50, 40))
    one_hot = (tokens[:, None] == np.arange(7)[:, None]).astype(np.float32)  # (T, V, B)

    def drop(p, generator):
        if kind == "tokens":
            return token_dropout(tokens, 7, p, generator)
        if kind == "array":
            return input_dropout(one_hot, p, generator)
        return input_dropout(Tensor(one_hot), p, generator).data

    x = drop(p, rng(1))
    dropped = ~x.any(axis=1)  # (T, B)
    assert x.dtype == np.float32 and np.array_equal(x, one_hot * ~dropped[:, None])
    assert abs(dropped.mean() - p) < 5 * (p * (1 - p) / dropped.size) ** 0.5
    assert (dropped != dropped[:, :1]).any() and (dropped != dropped[:1]).any(), "each example and each step by itself"
    assert not np.array_equal(x, drop(p, rng(2)))
    np.testing.assert_array_equal(drop(p, None), one_hot * np.float32(1 - p))


def test_without_input_dropout_tokens_stay_tokens():
    tokens = rng().integers(7, size=(5, 4))
    assert token_dropout(tokens, 7, 0.0, rng()) is tokens


@pytest.mark.parametrize("options", [{"input_drop": 0.3}, {"dropout": 0.5}, {"variational_dropout": 0.5}, {}])
def test_a_model_in_evaluation_draws_nothing(options):
    model = CharModel(9, replace(SMALL, **options), rng())
    plain = CharModel(9, SMALL, rng())
    tokens = rng().integers(9, size=(6, 4))
    scores = model(tokens)[0].data
    assert np.array_equal(scores, model(tokens)[0].data)
    assert np.array_equal(scores, plain(tokens)[0].data) == ("input_drop" not in options)
    assert np.array_equal(scores, model(tokens, rng=rng())[0].data) == (not options)


@pytest.mark.parametrize("name", ["dropout", "variational_dropout"])
def test_dropout_is_between_layers_and_before_the_output_but_not_on_symbols(name):
    model = CharModel(9, replace(SMALL, **{name: 0.5}), rng())
    entered = []

    def recorded(states, x, *rest):
        entered.append(x)
        return states(x, *rest)

    for layer in model.rnn.layers:
        layer.states = partial(recorded, layer.states)
    model.output = entered.append
    tokens = rng().integers(9, size=(6, 4))
    model(tokens, rng=rng())
    assert len(entered) == 3 and entered[0] is tokens
    assert all(0.2 < (x.data == 0).mean() < 0.8 for x in entered[1:])


# ---- norm stabilizer


@pytest.mark.parametrize(("penalty", "which"), [("hids", 0), ("cells", 1)])
def test_the_norm_stabilizer_is_added_for_every_layer(penalty, which):
    draws = rng()
    states = [tuple(Tensor(draws.standard_normal((4, 3, 2))) for _ in range(2)) for _ in range(2)]  # (T, H, B) each
    settings = CharSettings(norm_cost_coeff=50.0, penalty=penalty)
    expected = 1.0
    for layer in states:
        norms = np.sqrt((layer[which].data ** 2).sum(axis=1))  # (T, B)
        expected += 50 * (np.diff(norms, axis=0) ** 2).sum() / norms.size
    assert float(add_norm_stabilizer(Tensor(np.array(1.0)), states, settings)) == pytest.approx(expected)
