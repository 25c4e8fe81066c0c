"""`minizone.bn_lstm`: the readable reference, complex steps, the equations; what it normalizes, and its cost."""

from __future__ import annotations

import re
import tracemalloc

import numpy as np
import pytest

from minizone import bn_lstm
from minizone.recurrent.cells import bn_lstm_unrolled
from tests.helpers import H, assert_same, masks, tensors
from tests.helpers.bn import batch_and_population, bn_problem, known_statistics
from tests.helpers.by_hand import bn_lstm_by_hand
from tests.helpers.cells import CASES, CELLS, assert_fused_equals_reference, assert_gradient_is_complex_step

every_case = pytest.mark.parametrize("case", CASES, ids=str)
every_cell = pytest.mark.parametrize("cell", ["bn_lstm", "bn_lstm, population"])


@every_case
@every_cell
def test_fused_bn_lstm_equals_the_readable_reference(cell, case):
    assert_fused_equals_reference(CELLS[cell], case)


@every_case
@every_cell
def test_gradient_of_the_bn_lstm_is_the_complex_step(cell, case):
    assert_gradient_is_complex_step(CELLS[cell], case)


@every_case
@batch_and_population
@pytest.mark.parametrize("function", [bn_lstm, bn_lstm_unrolled], ids=["fused", "reference"])
def test_bn_lstm_computes_the_equations(function, population, case):
    arguments, options = bn_problem(4, 3), CELLS["bn_lstm"].masks(case.kind, 4, 3, case.hidden, case.inputs)
    statistics = known_statistics(4) if population else None
    known = {"mean": statistics.mean, "variance": statistics.variance} if population else {}
    for epsilon in (1e-5, 0.5):
        h, c = function(**tensors(arguments), **options, statistics=statistics, epsilon=epsilon)
        expected = bn_lstm_by_hand(**arguments, **options, **known, epsilon=epsilon)
        assert_same({"h": h.data, "c": c.data}, {"h": expected["h"], "c": expected["c"]}, 1e-12)


def test_one_unit_and_two_examples_by_hand():
    """Mean 2 and variance 1, not 2; and an epsilon that one can see."""
    x, weights = np.array([[[1.0, 3.0]]]), [np.ones((4, 1)), np.zeros((4, 1)), np.zeros(4)]
    gains = [np.full(4, 0.5), np.ones(4), np.array([2.0]), np.array([0.25])]
    h, c = bn_lstm(x, np.zeros((1, 2)), np.zeros((1, 2)), *weights, *gains, epsilon=3.0)
    a = 0.5 * np.array([-1.0, 1.0]) / np.sqrt(1 + 3)
    i = o = 1 / (1 + np.exp(-a))
    cell = i * np.tanh(a)
    y = 2 * (cell - cell.mean()) / np.sqrt(((cell[0] - cell[1]) / 2) ** 2 + 3) + 0.25
    np.testing.assert_allclose(c.data[0, 0], cell, rtol=1e-14)
    np.testing.assert_allclose(h.data[0, 0], o * np.tanh(y), rtol=1e-14)


def test_cell_is_normalized_before_zoneout():
    """Where all cells wait and no hidden state does, h follows the candidates."""
    arguments = bn_problem(1, 4)
    plain_h, _ = bn_lstm(**arguments)
    h, c = bn_lstm(**arguments, keep_c=1.0)
    assert np.array_equal(h.data, plain_h.data) and np.array_equal(c.data[0], arguments["c0"])


def test_second_backward_collects_no_statistics_and_takes_those_of_the_forward_pass():
    """Even when the population statistics have moved on since."""
    for population in (False, True):
        statistics, leaves = known_statistics(5), tensors(bn_problem(5, 3))
        given = statistics if population else statistics.collect
        h, c = bn_lstm(**leaves, **masks("independent", 5, H, 3, inputs=True), statistics=given)
        after_forward = statistics.mean.copy()
        assert np.array_equal(after_forward, known_statistics(5).mean) == population
        loss = (h * h).sum() + c.sum()
        loss.backward()
        assert np.array_equal(statistics.mean, after_forward)
        once = {name: leaf.grad for name, leaf in leaves.items()}
        statistics.mean[...] = 7
        loss.backward()
        assert_same({name: leaves[name].grad for name in once}, {name: 2 * g for name, g in once.items()}, 1e-13)
        assert (statistics.mean == 7).all()


def test_without_a_backward_pass_only_the_outputs_grow_with_the_sequence():
    """Population statistics are estimated again with 5,000 examples at once."""
    arguments = bn_problem(200, 50)
    tracemalloc.start()
    h, c = bn_lstm(**arguments)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * (h.data.nbytes + c.data.nbytes)  # with all gates and sums it is 8 times that


@pytest.mark.parametrize(
    ("name", "shape", "sentence"),
    [
        ("gamma_x", (H,), "gamma_x must be (16,) for H = 4 hidden units, got (4,)"),
        ("gamma_h", (4 * H, 1), "gamma_h must be (16,) for H = 4 hidden units, got (16, 1)"),
        ("gamma_c", (4 * H,), "gamma_c must be (4,) for H = 4 hidden units, got (16,)"),
        ("beta_c", (), "beta_c must be (4,) for H = 4 hidden units, got ()"),
    ],
)
def test_wrong_gain_is_named_beside_the_right_shape(name, shape, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        bn_lstm(**bn_problem(7, 3) | {name: np.zeros(shape)})
