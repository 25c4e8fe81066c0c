"""The way of execution does not change the numbers: joined or projected inputs, many steps at once, threads."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from minizone import Tensor, lstm
from minizone.autograd.tensor import no_grad
from minizone.kernels import cpu
from minizone.kernels.cpu import products
from minizone.recurrent import sequence
from minizone.recurrent.cells import lstm_unrolled
from tests.helpers import KINDS, LOSSES, ROUNDING, H, assert_same, masks, problem, run, tensors
from tests.helpers.cells import CELLS


@pytest.fixture
def joined(monkeypatch):
    """Collects for each sequence whether h and x were joined in one product."""
    decisions, is_joined = [], sequence.Recurrence.is_joined

    def noted(self, *arguments):
        decisions.append(is_joined(self, *arguments))
        return decisions[-1]

    monkeypatch.setattr(sequence.Recurrence, "is_joined", noted)
    return decisions


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("features", [1, 2])
def test_narrow_inputs_equal_the_reference(joined, features, kind):
    arguments, options = problem(7, 3, D=features), masks(kind, 7, H, 3, inputs=True)
    for loss in LOSSES:
        assert_same(run(lstm, arguments, options, loss), run(lstm_unrolled, arguments, options, loss), ROUNDING)
    assert all(joined)


@pytest.mark.parametrize("name", ["tanh", "relu"])
def test_narrow_inputs_of_a_simple_network_equal_the_reference(joined, name):
    cell = CELLS[name]
    arguments, options = cell.problem(7, 3, D=2), cell.masks("independent", 7, 3)
    assert_same(run(cell.fused, arguments, options), run(cell.reference, arguments, options), ROUNDING)
    assert joined == [True]


@pytest.mark.parametrize("features", [2, 5])
def test_a_second_backward_pass_adds_the_same_gradients_again(features):
    leaves = tensors(problem(5, 24, D=features))
    loss = (lstm(**leaves, **masks("independent", 5, H, 24))[0] ** 2).sum()
    loss.backward()
    once = {name: leaf.grad for name, leaf in leaves.items()}
    loss.backward()
    assert_same({n: leaf.grad for n, leaf in leaves.items()}, {n: 2 * g for n, g in once.items()}, 1e-13)


@pytest.mark.parametrize("options", [{}, {"hidden_mask": np.full((H, 3), 0.5)}], ids=["", "hidden mask"])
@pytest.mark.parametrize(("features", "tokens"), [(2, False), (5, False), (5, True), (300, True)])
@pytest.mark.parametrize("columns", [1, 6, 20, 1000])
@pytest.mark.parametrize("fewest_parts", [1, 1000])
def test_gradients_of_weights_do_not_depend_on_how_many_steps_are_taken_at_once_or_in_which_thread(
    monkeypatch, fewest_parts, features, tokens, columns, options
):
    arguments = problem(7, 3, D=features, tokens=tokens)
    monkeypatch.setattr(cpu, "PART", columns)
    monkeypatch.setattr(sequence, "FEWEST_PARTS", fewest_parts)
    monkeypatch.setattr(sequence, "cores", lambda: 2)
    assert_same(run(lstm, arguments, options), run(lstm_unrolled, arguments, options), ROUNDING)


def test_the_thread_behind_the_loop_gives_the_same_bits_every_time(monkeypatch):
    arguments, options = problem(40, 3), masks("independent", 40, H, 3)
    monkeypatch.setattr(cpu, "PART", 6)
    expected = run(lstm, arguments, options)
    monkeypatch.setattr(sequence, "FEWEST_PARTS", 1)
    monkeypatch.setattr(sequence, "cores", lambda: 2)
    for _ in range(5):
        actual = run(lstm, arguments, options)
        assert all((actual[name] == expected[name]).all() for name in expected)


def test_columns_of_tokens_are_taken_from_one_table_in_c_order_whatever_the_order_of_the_weights(monkeypatch):
    """`take` would copy another table at every time step: 80 times the time for 2,000 kinds of characters."""
    tables, project = [], cpu.project

    def noted(x, W_x, b, out):
        tables.append(W_x)
        project(x, W_x, b, out)

    monkeypatch.setattr(cpu, "project", noted)
    arguments = problem(5, 3, D=50, tokens=True)
    expected = run(lstm, arguments, {})
    arguments["W_x"] = np.asfortranarray(arguments["W_x"])
    assert_same(run(lstm, arguments, {}), expected, 0)
    with no_grad():
        lstm(**arguments)
    assert len(tables) == 7 and all(table.flags.c_contiguous for table in tables), "twice all steps, and 5 times one"


@pytest.mark.parametrize("shape", [(7, 160, 3), (1, 130, 5), (3, 130, 1)])
def test_wide_inputs_are_projected_many_steps_at_once(monkeypatch, shape):
    monkeypatch.setattr(products, "PART", 9)
    T, D, B = shape
    arguments = problem(T, B, D=D, H=40)  # W_x has 160 rows
    assert min(arguments["W_x"].shape) >= products.LARGE
    assert_same(run(lstm, arguments, {}), run(lstm_unrolled, arguments, {}), ROUNDING)


@pytest.mark.parametrize(
    ("T", "B", "units", "pays"),
    [
        (784, 100, 100, True),  # small steps, many of them
        (180, 128, 256, True),
        (100, 32, 256, False),  # few of them
        (100, 32, 1000, False),  # large steps: the products of the loop share both cores
        (35, 20, 1500, False),
    ],
)
def test_which_shape_gets_a_second_thread(monkeypatch, T, B, units, pays):
    W_h, parts = np.broadcast_to(np.float32(0), (4 * units, units)), -(-T * B // cpu.PART)
    monkeypatch.setattr(sequence, "cores", lambda: 2)
    assert sequence.two_threads_pay(W_h, parts, B) == pays
    monkeypatch.setattr(sequence, "cores", lambda: 1)
    assert not sequence.two_threads_pay(W_h, parts, B)


@pytest.mark.parametrize("shape", [(4, 3, 2), (1, 3, 5), (4, 3, 1), (0, 3, 2), (4, 3, 0)])
@pytest.mark.parametrize("large", [1, 1000])
def test_one_matrix_for_a_stack_is_the_same_by_one_product_or_by_many(monkeypatch, large, shape):
    monkeypatch.setattr(products, "LARGE", large)
    generator = np.random.default_rng(0)
    a, b = generator.standard_normal((5, 3)), generator.standard_normal(shape)
    gy = generator.standard_normal((shape[0], 5, shape[2]))
    x, stack = Tensor(a), Tensor(b)
    y = x @ stack
    y.backward(gy)
    assert_allclose(y.data, np.einsum("mk,tkb->tmb", a, b), rtol=1e-13, atol=1e-14)
    assert_allclose(x.grad, np.einsum("tmb,tkb->mk", gy, b), rtol=1e-13, atol=1e-14)
    assert_allclose(stack.grad, np.einsum("mk,tmb->tkb", a, gy), rtol=1e-13, atol=1e-14)
    assert x.grad.shape == a.shape and stack.grad.shape == b.shape
