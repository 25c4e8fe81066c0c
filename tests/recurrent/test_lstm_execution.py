"""How `minizone.lstm` is executed changes no number: columns in threads, rows in blocks, many steps at once."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from minizone import lstm
from minizone.kernels.cpu import tokens as cpu_tokens
from minizone.recurrent import sequence
from minizone.recurrent.cells import lstm_unrolled
from tests.helpers import (
    KINDS,
    LOSSES,
    ROUNDING,
    H,
    assert_same,
    dense_and_tokens,
    masks,
    problem,
    run,
    tensors,
)  # fmt: skip
from tests.helpers.cells import CELLS

# ---- columns in threads, rows in blocks


@pytest.fixture
def in_blocks(monkeypatch):
    """Split the columns of small problems as those of large ones, over this number of cores."""

    def split(cores: int, B: int) -> None:
        monkeypatch.setattr(sequence, "WORTH_BLOCKS", 0)
        monkeypatch.setattr(sequence, "cores", lambda: cores)
        blocks = sequence.column_blocks(np.empty((4 * H, H)), B)
        assert len(blocks) == min(cores, B // sequence.FEWEST_COLUMNS) > 1
        assert [blocks[0].start, blocks[-1].stop] == [0, B]
        assert all(left.stop == right.start > left.start for left, right in pairwise(blocks))

    return split


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("B", "cores", "tokens"), [(16, 2, False), (17, 2, True), (33, 3, False), (33, 4, True)])
def test_columns_split_over_threads_equal_unsplit_and_reference(in_blocks, B, cores, tokens, kind):
    arguments, options = problem(3, B, tokens=tokens), masks(kind, 3, H, B, inputs=True)
    whole = run(lstm, arguments, options)
    in_blocks(cores, B)
    split = run(lstm, arguments, options)
    assert_same(split, whole, 1e-13)
    assert_same(split, run(lstm_unrolled, arguments, options), ROUNDING)


def test_split_columns_survive_a_second_backward_and_other_losses(in_blocks):
    arguments, options = problem(5, 24), masks("independent", 5, H, 24)
    in_blocks(3, 24)
    for loss in LOSSES:
        assert_same(run(lstm, arguments, options, loss), run(lstm_unrolled, arguments, options, loss), ROUNDING)
    leaves = tensors(arguments)
    h, _ = lstm(**leaves, **options)
    loss = (h * h).sum()
    loss.backward()
    once = {name: leaf.grad for name, leaf in leaves.items()}
    loss.backward()
    assert_same({n: leaf.grad for n, leaf in leaves.items()}, {n: 2 * g for n, g in once.items()}, 1e-13)


def test_threads_inherit_the_callers_floating_point_settings(in_blocks):
    arguments = problem(2, 16)
    arguments["x"][0, :, 1] = np.inf  # weights of both signs: inf - inf
    in_blocks(2, 16)
    with np.errstate(invalid="ignore"):
        h, _ = lstm(**arguments)
    assert np.isnan(h.data[:, :, 1]).all() and np.isfinite(np.delete(h.data, 1, axis=2)).all()
    with np.errstate(invalid="raise"), pytest.raises(FloatingPointError):
        lstm(**arguments)


@dense_and_tokens
@pytest.mark.parametrize(
    ("hidden", "features", "B", "cores"),
    [(128, 160, 33, 1), (128, 160, 33, 2), (100, 20, 50, 3), (256, 20, 128, 0)],  # 0: split as this machine does it
)
def test_wide_layers_equal_the_reference(in_blocks, hidden, features, B, cores, tokens):
    """Products beyond 10^6 multiplications, where rows are taken in blocks; blocks of columns of different widths."""
    arguments = problem(2, B, D=features, H=hidden, tokens=tokens)
    options = masks("independent", 2, hidden, B, inputs=True)
    if cores > 1:
        in_blocks(cores, B)
    assert_same(run(lstm, arguments, options), run(lstm_unrolled, arguments, options), ROUNDING)


# ---- narrow inputs, joined with h in one product; the weights' gradients some steps at a time


@pytest.fixture
def joined(monkeypatch):
    """Counts the sequences whose products were joined."""
    decisions, is_joined = [], sequence.Recurrence.is_joined

    def counted(self, *arguments):
        decisions.append(is_joined(self, *arguments))
        return decisions[-1]

    monkeypatch.setattr(sequence.Recurrence, "is_joined", counted)
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


def test_narrow_inputs_in_blocks_of_columns_and_a_second_backward(in_blocks, joined):
    arguments, options = problem(5, 24, D=2), masks("independent", 5, H, 24)
    in_blocks(3, 24)
    assert_same(run(lstm, arguments, options), run(lstm_unrolled, arguments, options), ROUNDING)
    leaves = tensors(arguments)
    loss = (lstm(**leaves, **options)[0] ** 2).sum()
    loss.backward()
    once = {name: leaf.grad for name, leaf in leaves.items()}
    loss.backward()
    assert_same({n: leaf.grad for n, leaf in leaves.items()}, {n: 2 * g for n, g in once.items()}, 1e-13)
    assert all(joined)


@pytest.mark.parametrize("options", [{}, {"hidden_mask": np.full((H, 3), 0.5)}], ids=["", "hidden mask"])
@pytest.mark.parametrize(("features", "tokens"), [(2, False), (5, False), (5, True), (300, True)])
@pytest.mark.parametrize("columns", [1, 6, 20, 1000])
@pytest.mark.parametrize("worth_following", [1, 1000])
def test_gradients_of_weights_do_not_depend_on_how_many_steps_are_taken_at_once_or_in_which_thread(
    monkeypatch, worth_following, features, tokens, columns, options
):
    arguments = problem(7, 3, D=features, tokens=tokens)
    monkeypatch.setattr(cpu_tokens, "PART", columns)
    monkeypatch.setattr(sequence, "WORTH_FOLLOWER", worth_following)
    monkeypatch.setattr(sequence, "cores", lambda: 2)
    assert_same(run(lstm, arguments, options), run(lstm_unrolled, arguments, options), ROUNDING)


def test_the_thread_behind_the_loop_gives_the_same_bits_every_time(monkeypatch):
    arguments, options = problem(40, 3), masks("independent", 40, H, 3)
    monkeypatch.setattr(cpu_tokens, "PART", 6)
    expected = run(lstm, arguments, options)
    monkeypatch.setattr(sequence, "WORTH_FOLLOWER", 1)
    monkeypatch.setattr(sequence, "cores", lambda: 2)
    for _ in range(5):
        actual = run(lstm, arguments, options)
        assert all((actual[name] == expected[name]).all() for name in expected)


@pytest.mark.parametrize("shape", [(7, 160, 3), (1, 130, 5), (3, 130, 1)])
def test_wide_inputs_are_projected_many_steps_at_once(monkeypatch, shape):
    monkeypatch.setattr(cpu_tokens, "PART", 9)
    T, D, B = shape
    arguments = problem(T, B, D=D, H=40)  # 160 rows: more than WORTH_COLUMNS
    assert min(arguments["W_x"].shape) >= cpu_tokens.WORTH_COLUMNS
    assert_same(run(lstm, arguments, {}), run(lstm_unrolled, arguments, {}), ROUNDING)


@pytest.mark.parametrize(
    ("T", "B", "units", "blocks", "follower"),
    [
        (784, 100, 100, 1, True),  # small steps, many of them: a thread behind the loop
        (180, 128, 256, 1, True),
        (100, 32, 256, 1, False),  # few of them
        (100, 32, 1000, 2, False),  # large steps: columns in two threads
        (35, 20, 1500, 2, False),
        (180, 128, 2000, 1, False),  # larger ones: the threads of the product
    ],
)
def test_which_shape_gets_which_threads(monkeypatch, T, B, units, blocks, follower):
    monkeypatch.setattr(sequence, "cores", lambda: 2)
    W_h = np.broadcast_to(np.float32(0), (4 * units, units))
    assert len(sequence.column_blocks(W_h, B)) == blocks
    assert (blocks == 1 and sequence.worth_following(W_h, T, B)) == follower
    monkeypatch.setattr(sequence, "cores", lambda: 1)
    assert len(sequence.column_blocks(W_h, B)) == 1 and not sequence.worth_following(W_h, T, B)
