"""Zoneout of the output gate with recurrent dropout: the variants of the paper's text, its equation, and the code."""

from __future__ import annotations

import re

import numpy as np
import pytest

from minizone import LSTM, Tensor, Zoneout, gradcheck, lstm
from minizone.recurrent.sequence import StateGradients
from tests.helpers import D, H, assert_same, dense_and_tokens, one_hot, problem, rng, run, tensors
from tests.helpers.by_hand import lstm_by_hand, sigmoid
from tests.helpers.cells import CELLS

T, B = 6, 3
MASKS = [  # of zoneout, and on h_{t-1}
    ("no mask", ""),
    ("independent", "hidden mask"),
    ("evaluation", "constant hidden mask"),
    ("boolean", ""),
    ("gaussian", ""),
    ("shape (H,1)", ""),
]
every_variant = pytest.mark.parametrize("gate", ["paper", "printed", "authors"])
every_mask = pytest.mark.parametrize(("kind", "hidden"), MASKS)


@every_variant
@every_mask
@dense_and_tokens
def test_variant_computes_its_equations(tokens, kind, hidden, gate):
    arguments, options = problem(T, B, tokens=tokens), CELLS["lstm"].masks(kind, T, B, hidden)
    h, c = lstm(**tensors(arguments), **options, output_gate=gate)
    dense = arguments | {"x": one_hot(arguments["x"], D) if tokens else arguments["x"]}
    expected_h, expected_c = lstm_by_hand(**dense, **options, output_gate=gate)
    assert_same({"h": h.data, "c": c.data}, {"h": expected_h, "c": expected_c}, 1e-14)


@every_variant
@every_mask
@dense_and_tokens
def test_gradient_of_a_variant_is_the_complex_step(tokens, kind, hidden, gate):
    arguments, options = problem(4, 2, tokens=tokens), CELLS["lstm"].masks(kind, 4, 2, hidden)

    def variant(*values):
        return lstm(*values, **options, output_gate=gate)

    directions = None if hidden == "hidden mask" else 2
    gradcheck(variant, *arguments.values(), names=list(arguments), directions=directions)


@every_variant
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_layer_with_a_variant_is_the_function_with_the_masks_of_the_layer(training, gate):
    layer = LSTM(D, H, output_gate=gate, zoneout=Zoneout(0.5, 0.05), drop_inputs=0.3, rng=rng(), dtype=np.float64)
    x, states = problem(T, B)["x"], [problem(T, B)[name] for name in ("h0", "c0")]
    masks = layer.masks(T, B, rng(1) if training else None)
    weights = [parameter.data for parameter in (layer.W_x, layer.W_h, layer.b)]
    expected_h, expected_c = lstm_by_hand(x, *states, *weights, **masks, output_gate=gate)
    h, (_, last_c) = layer(x, tuple(Tensor(state) for state in states), rng=rng(1) if training else None)
    assert_same({"h": h.data, "c": last_c.data}, {"h": expected_h, "c": expected_c[-1]}, 1e-14)
    h.sum().backward()
    assert all(parameter.grad.any() for parameter in (layer.W_x, layer.W_h, layer.b))


@every_variant
def test_recording_the_gradients_of_states_is_refused(gate):
    options = CELLS["lstm"].masks("independent", T, B) | {"output_gate": gate, "record": StateGradients()}
    with pytest.raises(ValueError, match='record works with output_gate="plain" only'):
        lstm(**problem(T, B), **options)


# ---- what the variants are


@pytest.mark.parametrize(("gate", "d"), [("paper", 1.0), ("authors", 1.0), ("printed", 0.0)])
def test_variant_that_takes_the_new_gate_alone_is_the_lstm_with_recurrent_dropout(gate, d):
    arguments, options = problem(T, B), CELLS["lstm"].masks("independent", T, B) | {"input_mask": d}
    assert_same(run(lstm, arguments, options | {"output_gate": gate}), run(lstm, arguments, options), 1e-13)


@pytest.mark.parametrize(("gate", "d"), [("paper", 0.0), ("printed", 1.0)])
def test_old_output_gate_is_that_of_the_step_before_and_at_first_the_new_one(gate, d):
    """o_{t-1} of the equation is the gate as computed at t - 1, not the mixture that was in use there."""
    arguments = problem(T, B)
    h, c = (y.data for y in lstm(**arguments, input_mask=d, output_gate=gate))
    previous_h = np.concatenate([arguments["h0"][None], h[:-1]])
    W_x, W_h, b = (arguments[name][3 * H :] for name in ("W_x", "W_h", "b"))
    o = sigmoid(W_x @ arguments["x"] + W_h @ previous_h + b[:, None])  # (T, H, B)
    assert_same({"h": h}, {"h": np.concatenate([o[:1], o[:-1]]) * np.tanh(c)}, 1e-14)


def test_authors_variant_that_drops_everything_forgets_the_state():
    """h = f h_{t-1}, whatever zoneout says."""
    arguments = problem(T, B)
    h = lstm(**arguments, keep_h=0.5, input_mask=0.0, output_gate="authors")[0].data
    previous_h = np.concatenate([arguments["h0"][None], h[:-1]])
    W_x, W_h, b = (arguments[name][H : 2 * H] for name in ("W_x", "W_h", "b"))
    f = sigmoid(W_x @ arguments["x"] + W_h @ previous_h + b[:, None])
    assert_same({"h": h}, {"h": f * previous_h}, 1e-14)


@pytest.mark.parametrize("gate", ["paper", "printed"])
def test_certain_zoneout_keeps_both_states_for_ever(gate):
    arguments = problem(50, B)
    h, c = lstm(**arguments, keep_h=1.0, keep_c=1.0, input_mask=0.5, hidden_mask=0.5, output_gate=gate)
    assert np.array_equal(h.data, np.broadcast_to(arguments["h0"], h.shape))
    assert np.array_equal(c.data, np.broadcast_to(arguments["c0"], c.shape))


@every_variant
def test_variant_keeps_float32(gate):
    arguments = problem(T, B, dtype=np.float32)
    options = CELLS["lstm"].masks("independent", T, B, dtype=np.float32) | {"output_gate": gate}
    assert {array.dtype for array in run(lstm, arguments, options).values()} == {np.dtype(np.float32)}


# ---- errors are sentences


@every_variant
def test_variant_without_input_mask_is_refused(gate):
    with pytest.raises(ValueError, match=f'output_gate="{gate}" uses the mask .* pass an input_mask'):
        lstm(**problem(T, B), output_gate=gate)


@pytest.mark.parametrize("gate", ["Paper", "", None])
def test_unknown_output_gate_is_named_beside_the_known_ones(gate):
    sentence = f"output_gate must be one of plain, paper, printed, authors, got {gate!r}"
    with pytest.raises(ValueError, match=re.escape(sentence)):
        lstm(**problem(T, B), input_mask=1.0, output_gate=gate)


@every_variant
def test_arguments_that_do_not_fit_are_refused(gate):
    arguments, options = problem(T, B), CELLS["lstm"].masks("independent", T, B) | {"output_gate": gate}
    tokens = np.full((T, B), -1)
    with pytest.raises(ValueError, match="x must be"):
        lstm(**arguments | {"x": arguments["x"][:, :-1]}, **options)
    with pytest.raises(ValueError, match="does not broadcast"):
        lstm(**arguments, **options | {"keep_h": np.ones((T + 1, H, B))})
    with pytest.raises(IndexError, match="tokens must be in"):
        lstm(**arguments | {"x": tokens}, **options)
