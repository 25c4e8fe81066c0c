"""Zoneout: each bug of a published implementation by its name (PAPER.md F), and a mask forgotten in backward."""

from __future__ import annotations

import math

import numpy as np
import pytest

from minizone import Zoneout, gradcheck, lstm
from minizone.autograd.gradcheck import GradientError
from minizone.layers import LSTM
from minizone.layers.regularizers import input_mask
from tests.helpers import FLOATS, KINDS, ZONEOUTS, D, H, assert_same, lstm_by_hand, masks, problem, rng, run
from tests.helpers.zoneout import B, T, both, close_to, drawn, inputs, layer, lstm_of, states


@both
def test_bug_unzoned_output_returned(function):
    """The authors' TensorFlow wrapper, RETURNN, Tacotron-2, haste: state zoned out, output not."""
    arguments = problem(T, B)
    h, _ = states(function, arguments, keep_h=np.ones((T, H, B)))
    assert np.array_equal(h, np.broadcast_to(arguments["h0"], h.shape))


def test_bug_output_and_state_zoned_with_different_masks():
    """MXNet: the emitted h and the h that goes on to the next step differed."""
    made, x = layer(Zoneout(0.5, 0.5)), inputs()
    h, (last_h, last_c) = made(x, rng=rng())
    assert np.array_equal(last_h.data, h.data[-1])
    expected_h, expected_c = lstm_of(made, x, *made.zoneout.masks(T, H, B, rng(), None, np.float64))
    assert np.array_equal(h.data, expected_h.data) and np.array_equal(last_c.data, expected_c.data[-1])


@pytest.mark.parametrize("drop", [0.0, 0.3])
@pytest.mark.parametrize("z", [Zoneout(0.5, 0.05), Zoneout(0.2, 0.2, shared=True), Zoneout(0.3, 0.3, whole_layer=True)])
def test_bug_no_expectation_at_evaluation(z, drop):
    """Chainer and the authors' wrapper (new state, or noise, at test time): speech came out too fast (Tacotron-2)."""
    made, x = layer(z, drop_inputs=drop), inputs()
    h, (_, c) = made(x)
    expected_h, expected_c = lstm_of(made, x, z.states, z.cells, input_mask=1 - drop)
    assert_same({"h": h.data, "c": c.data}, {"h": expected_h.data, "c": expected_c.data[-1]}, 0.0)
    assert np.abs(h.data - lstm_of(made, x, None, None)[0].data).max() > 0.01


def test_bug_cell_mask_is_the_state_mask():
    """The authors' pMNIST script appends one mask twice and throws the other away."""
    keep_h, keep_c = drawn(Zoneout(0.5, 0.5))
    assert close_to(keep_h == keep_c, 0.5, 0.5)


@pytest.mark.parametrize("z", [Zoneout(cells=1.0), Zoneout(states=1.0)])
def test_bug_cell_and_state_probabilities_swapped(z):
    """The authors' get_stream passes (cells, states) to a constructor that takes (states, cells)."""
    made = layer(z)
    _, (last_h, last_c) = made(inputs(), rng=rng())
    frozen, moving = (last_c, last_h) if z.cells else (last_h, last_c)
    start = {True: made.c0, False: made.h0}
    assert np.array_equal(frozen.data, np.repeat(start[bool(z.cells)].data[:, None], B, axis=1))
    assert (moving.data != start[not z.cells].data[:, None]).all()


@pytest.mark.parametrize("kind", ["independent", "shared", "whole layer"])
def test_bug_masks_reused_over_time(kind):
    """TensorFlow #2789: a fixed seed gave every time step the same mask, a static mask in silence."""
    for z, keep in zip((ZONEOUTS[kind].states, ZONEOUTS[kind].cells), drawn(ZONEOUTS[kind]), strict=True):
        assert close_to(keep[1:] * keep[:-1], z * z, 0.5), "neighbouring steps"
        assert close_to(keep[2:] * keep[:1], z * keep[0].mean(), 0.5), "every step and the first"
        assert close_to(keep[..., 1:] * keep[..., :-1], z * z, 0.5), "neighbouring examples"
        assert len(np.unique(keep.reshape(len(keep), -1), axis=0)) == len(keep)


def test_bug_masks_reused_in_the_next_update():
    """A generator made anew for each update with the same seed; ours goes on, or is keyed by the update."""
    made, x, carried_on = layer(Zoneout(0.5, 0.5)), inputs(), rng()
    first, _ = made(x, rng=carried_on)
    second, _ = made(x, rng=carried_on)
    assert not np.array_equal(first.data, second.data)


def test_bug_mask_of_step_0_used_for_all_steps_in_backward():
    """haste #43: right outputs, wrong gradients. The check must also see the difference."""
    arguments, options = problem(T, B), masks("independent", T, H, B)
    gradcheck(lambda *a: lstm(*a, **options), *arguments.values(), names=list(arguments))
    first = {name: np.repeat(mask[:1], T, axis=0) for name, mask in options.items() if mask is not None}
    right, wrong = run(lstm, arguments, options), run(lstm, arguments, first)
    for name in ("dx", *(f"d{n}" for n in FLOATS)):
        assert np.abs(right[name] - wrong[name]).max() > 1e-3, name


@pytest.mark.parametrize("kind", ["independent", "shared", "whole layer", "static"])
def test_bug_probabilities_inverted(kind):
    """The authors' Theano gist and flags: the number was the probability of updating."""
    probabilities = (
        {"cells": 0.9, "states": 0.1} if kind in ("independent", "static") else {"cells": 0.9, "states": 0.9}
    )
    options = {
        "shared": kind == "shared",
        "whole_layer": kind == "whole layer",
        "static_steps": 200 * (kind == "static"),
    }
    z = Zoneout(**probabilities, **options)
    keep_h, keep_c = drawn(z)
    assert close_to(keep_h, z.states, 0.3) and close_to(keep_c, z.cells, 0.3)
    if kind != "static":
        assert z.masks(T, H, B, None) == (z.states, z.cells)


def test_bug_probabilities_inverted_in_the_layer():
    made = LSTM(D, 200, zoneout=Zoneout(cells=0.1, states=0.9), rng=rng(), dtype=np.float64)
    x = inputs(50)
    h, _ = made(x, rng=rng())
    waited = h.data[1:] == h.data[:-1]  # a unit in motion never hits its old value to the bit
    assert close_to(waited, 0.9, 0.3)


@both
def test_bug_tanh_of_the_zoned_out_cell(function):
    """h~ = o * tanh of the candidate f * c + i * g, also where the cell itself stays what it was."""
    arguments = problem(1, B)
    h, c = states(function, arguments, keep_c=1.0)
    plain = lstm_by_hand(**arguments)
    assert np.array_equal(c[0], arguments["c0"])
    assert_same({"h": h}, {"h": plain["h"]}, 1e-14)


@both
def test_bug_forget_gate_applied_to_the_kept_state(function):
    """The authors' --ogates_zoneout keeps f * h: kept means kept, to the bit."""
    arguments, keep = problem(T, B), drawn(Zoneout(0.5, 0.5), T, H, B)[0]
    h, _ = states(function, arguments, keep_h=keep)
    before = np.concatenate([arguments["h0"][None], h[:-1]])
    assert np.array_equal(h[keep == 1], before[keep == 1])


@pytest.mark.parametrize("drop", [0.0, 0.3])
@pytest.mark.parametrize("kind", ZONEOUTS)
def test_bug_mask_drawn_again_in_backward(kind, drop):
    """NNTrainer #1817. The layer's gradient is that of the very function its forward computed."""
    made, x = layer(ZONEOUTS[kind], drop_inputs=drop), inputs()
    names = [name for name, _ in made.named_parameters()]

    def replay(x, *parameters):
        for name, parameter in zip(names, parameters, strict=True):
            setattr(made, name, parameter)
        h, (_, c) = made(x, rng=rng(4))
        return h, c

    gradcheck(replay, x, *(p.data for p in made.parameters()), names=["x", *names], directions=2)


def test_bug_backward_consumes_random_numbers():
    made, generator = layer(Zoneout(0.5, 0.5), drop_inputs=0.5), rng()
    h, _ = made(inputs(), rng=generator)
    before = generator.bit_generator.state
    loss = (h * h).sum()
    loss.backward()
    once = made.W_h.grad
    loss.backward()
    assert generator.bit_generator.state == before
    assert_same({"dW_h": made.W_h.grad}, {"dW_h": 2 * once}, 1e-14)


def test_bug_masks_rescaled_like_dropout():
    """MXNet #5567: a mask from Dropout(ones) is 0 or 1 / (1 - p)."""
    for keep in (*drawn(Zoneout(0.5, 0.3)), input_mask(0.3, 20, H, B, rng())):
        assert set(np.unique(keep)) == {0.0, 1.0}


@pytest.mark.parametrize("z", [1e-6, 1e-5, 0.25, 1 / 3, 1 - 1e-5])
def test_bug_small_rate_treated_as_none(z):
    """NNTrainer #1921. Nor may z be rounded to the random bits that decide."""
    keep_h, keep_c = drawn(Zoneout(z, z), 400, 100, 100)
    for keep in (keep_h, keep_c):
        assert close_to(keep, z, math.sqrt(z * (1 - z)))
        assert 0 < keep.mean() < 1 or z == 1e-6
    assert Zoneout(z, z).masks(T, H, B, None) == (z, z)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "no mask"])
def test_gradient_check_sees_a_mask_that_was_forgotten_in_backward(kind):
    """The table of test_lstm.py can fail: the backward pass of the plain LSTM is caught with every mask."""
    arguments, options = problem(3, 2), masks(kind, 3, H, 2)

    def without_masks_in_backward(*values):
        right, plain = lstm(*values, **options), lstm(*values)
        return tuple(
            p + (r.data - p.data) for r, p in zip(right, plain, strict=True)
        )  # the value of r, the gradient of p

    with pytest.raises(GradientError):
        gradcheck(without_masks_in_backward, *arguments.values(), directions=2)
