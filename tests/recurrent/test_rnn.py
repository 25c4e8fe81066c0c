"""`minizone.rnn`, tanh and rectifier: the readable reference, complex steps, the equations."""

from __future__ import annotations

import re

import numpy as np
import pytest

from minizone import Tensor, rnn
from minizone.recurrent.cells import rnn_unrolled
from tests.helpers import assert_same, problem, tensors
from tests.helpers.by_hand import rnn_by_hand
from tests.helpers.cells import CASES, CELLS, assert_fused_equals_reference, assert_gradient_is_complex_step

every_case = pytest.mark.parametrize("case", CASES, ids=str)
every_activation = pytest.mark.parametrize("activation", ["tanh", "relu"])
both = pytest.mark.parametrize("function", [rnn, rnn_unrolled], ids=["fused", "reference"])


@every_case
@every_activation
def test_fused_rnn_equals_the_readable_reference(activation, case):
    assert_fused_equals_reference(CELLS[activation], case)


@every_case
@every_activation
def test_gradient_of_the_rnn_is_the_complex_step(activation, case):
    assert_gradient_is_complex_step(CELLS[activation], case)


@every_case
@every_activation
@both
def test_rnn_computes_the_equations(function, activation, case):
    arguments, options = problem(4, 3, gates=1), CELLS[activation].masks(case.kind, 4, 3, case.hidden)
    h = function(**tensors(arguments), **options, activation=activation)
    assert_same({"h": h.data}, {"h": rnn_by_hand(**arguments, **options, activation=activation)}, 1e-14)


def test_rectifier_is_tested_on_both_sides_of_zero():
    h = rnn(**problem(7, 3, gates=1), activation="relu").data
    assert 0 < (h == 0).sum() < h.size


@both
def test_rectifier_makes_0_of_minus_infinity(function):
    x = Tensor(np.full((2, 1, 1), -np.inf))
    h0, W_x, W_h = (Tensor(np.ones((1, 1))) for _ in range(3))
    assert not function(x, h0, W_x, W_h, np.ones(1), activation="relu").data.any()


@every_activation
@both
def test_a_weight_that_is_not_a_number_shows_in_the_states_and_in_all_gradients(function, activation):
    """Unit 0 only has a NaN at first, and unit 1 gets it from there."""
    arguments = problem(3, 2, gates=1)
    arguments["W_x"][0, 0] = np.nan
    leaves = tensors(arguments)
    h = function(**leaves, activation=activation)
    assert np.isnan(h.data[0, 0]).all() and np.isfinite(h.data[0, 1:]).all() and np.isnan(h.data[1:]).all()
    h.backward(np.ones_like(h.data))
    assert all(np.isnan(leaf.grad).any() for leaf in leaves.values())


@pytest.mark.parametrize("activation", ["sigmoid", "Tanh", None])
def test_unknown_activation_is_named_beside_the_known_ones(activation):
    with pytest.raises(ValueError, match=re.escape(f'activation must be "tanh" or "relu", got {activation!r}')):
        rnn(**problem(2, 2, gates=1), activation=activation)
