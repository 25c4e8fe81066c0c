"""Layers: parameters in a fixed order, saved and loaded; their initial values; the initializers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from minizone import Tensor, Zoneout, gradcheck, lstm
from minizone.experiments.char_ptb import CharModel, CharSettings
from minizone.layers import LSTM, Linear, Module, Parameter
from minizone.layers.init import INITIALIZERS, glorot, identity, orthogonal, orthogonal_blocks, uniform
from tests.helpers import assert_same, rng

NAMES = [
    "rnn.layers.0.W_x",
    "rnn.layers.0.W_h",
    "rnn.layers.0.b",
    "rnn.layers.0.h0",
    "rnn.layers.0.c0",
    "output.W",
    "output.b",
]


def char_model(seed: int = 0, symbols: int = 7, hidden: int = 4, **settings) -> CharModel:
    return CharModel(symbols, CharSettings(hidden_size=hidden, **settings), rng(seed))


# ---- modules


def test_parameters_come_in_the_order_of_assignment_with_the_names_of_the_attributes():
    class Nested(Module):
        def __init__(self):
            self.zeta = Parameter([1.0])
            self.inner = Linear(2, 3, rng=rng())
            self.constant = Tensor([5.0])
            self.number, self.nothing = 7, None
            self.alpha = Parameter([2.0])

    nested = Nested()
    named = dict(nested.named_parameters())
    assert list(named) == ["zeta", "inner.W", "inner.b", "alpha"]
    assert nested.parameters() == list(named.values()) == [nested.zeta, nested.inner.W, nested.inner.b, nested.alpha]
    assert list(nested.state_dict()) == list(named)


@pytest.mark.parametrize("hash_seed", ["0", "1", "4242"])
def test_order_of_parameters_is_the_same_in_every_process(hash_seed):
    """DeZero keeps them in a set: its optimizer states cannot be saved."""
    code = (
        "import numpy as np; from minizone.experiments.char_ptb import CharModel, CharSettings\n"
        "model = CharModel(7, CharSettings(hidden_size=4), np.random.default_rng(0))\n"
        "print(*(name for name, _ in model.named_parameters()), *(p.data.size for p in model.parameters()))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert printed == [*NAMES, "112", "64", "16", "4", "4", "28", "7"]


def test_state_dict_is_loaded_by_another_model_which_then_computes_the_same():
    model, other = char_model(0, z_prob_cells=0.5), char_model(1, z_prob_cells=0.5)
    tokens = rng().integers(7, size=(5, 3))
    assert list(model.state_dict()) == NAMES
    assert not np.array_equal(model(tokens)[0].data, other(tokens)[0].data)
    other.load_state_dict(model.state_dict())
    assert_same(other.state_dict(), model.state_dict(), 0.0)
    assert np.array_equal(model(tokens)[0].data, other(tokens)[0].data)
    assert not any(
        np.shares_memory(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True)
    )


def test_state_dict_has_the_arrays_themselves():
    model = char_model()
    model.state_dict()["rnn.layers.0.b"][2] = 42
    assert model.rnn.layers[0].b.data[2] == 42


def test_loading_copies_into_the_arrays_of_the_model_and_keeps_the_dtype():
    model = char_model()
    arrays = [p.data for p in model.parameters()]
    model.load_state_dict({name: np.full(array.shape, 0.25) for name, array in model.state_dict().items()})
    assert all((array == 0.25).all() for array in arrays)
    assert {p.dtype for p in model.parameters()} == {np.dtype(np.float32)}


def without(arrays: dict, name: str) -> dict:
    return {key: array for key, array in arrays.items() if key != name}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda a: without(a, "rnn.layers.0.h0"), r"missing \['rnn.layers.0.h0'\], unexpected \[\]"),
        (lambda a: a | {"extra": np.zeros(1)}, r"missing \[\], unexpected \['extra'\]"),
        (lambda a: without(a, "output.b") | {"bias": np.zeros(7)}, r"missing \['output.b'\], unexpected \['bias'\]"),
        (lambda a: a | {"output.b": np.zeros(8)}, r"output.b has shape \(7,\), got \(8,\)"),
        (lambda a: a | {"output.b": np.zeros(1)}, r"output.b has shape \(7,\), got \(1,\)"),
    ],
)
def test_loading_what_does_not_fit_is_refused_and_changes_nothing(change, sentence):
    model = char_model()
    before = {name: array.copy() for name, array in model.state_dict().items()}
    with pytest.raises(ValueError, match="load_state_dict: " + sentence):
        model.load_state_dict(change({name: array + 1 for name, array in before.items()}))
    assert_same(model.state_dict(), before, 0.0)


def test_char_model_of_the_paper_has_4256050_parameters():
    model = char_model(symbols=50, hidden=1000, initialization="glorot")
    sizes = {name: parameter.data.size for name, parameter in model.named_parameters()}
    assert sizes == dict(zip(NAMES, (200_000, 4_000_000, 4_000, 1_000, 1_000, 50_000, 50), strict=True))
    assert sum(sizes.values()) == 4_256_050


# ---- Linear


@pytest.mark.parametrize("shape", [(5, 3, 2), (3, 2)], ids=["(T, D, B)", "(D, B)"])
def test_linear_is_W_x_plus_b_in_every_column(shape):
    made = Linear(3, 4, rng=rng(), dtype=np.float64)
    x, W, b = rng(1).standard_normal(shape), rng(2).standard_normal((4, 3)), rng(3).standard_normal(4)

    def linear(x, W, b):
        made.W, made.b = W, b
        return made(x)

    y = linear(Tensor(x), Tensor(W), Tensor(b)).data
    assert y.shape == (*shape[:-2], 4, 2)
    np.testing.assert_allclose(y, np.einsum("vd,...db->...vb", W, x) + b[:, None], rtol=1e-14, atol=1e-14)
    gradcheck(linear, x, W, b, names=["x", "W", "b"])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_linear_starts_with_bias_zero_and_the_weights_of_its_initializer(dtype):
    made = Linear(3, 4, initializer=glorot, rng=rng(), dtype=dtype)
    assert np.array_equal(made.W.data, glorot(rng(), (4, 3), dtype))
    assert np.array_equal(made.b.data, np.zeros(4))
    assert made.W.dtype == made.b.dtype == made(np.ones((3, 2), dtype)).dtype == dtype
    assert np.array_equal(Linear(3, 4, rng=rng()).W.data, orthogonal_blocks(rng(), (4, 3)))


# ---- LSTM


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("options", "forget"), [({}, 1.0), ({"forget_bias": 0.0}, 0.0), ({"forget_bias": 2.5}, 2.5)])
def test_lstm_starts_with_forget_bias_1_and_states_0(options, forget, dtype):
    made = LSTM(3, 4, rng=rng(), dtype=dtype, **options)
    assert np.array_equal(made.b.data, np.repeat([0.0, forget, 0.0, 0.0], 4))
    assert np.array_equal(made.h0.data, np.zeros(4)) and np.array_equal(made.c0.data, np.zeros(4))
    assert made.W_x.shape == (16, 3) and made.W_h.shape == (16, 4)
    assert {p.dtype for p in made.parameters()} == {np.dtype(dtype)}


def test_lstm_draws_W_x_then_W_h_from_its_initializer():
    generator = rng()
    made = LSTM(3, 4, initializer=glorot, rng=rng())
    assert np.array_equal(made.W_x.data, glorot(generator, (16, 3)))
    assert np.array_equal(made.W_h.data, glorot(generator, (16, 4)))
    assert np.array_equal(LSTM(3, 4, rng=rng()).W_x.data, orthogonal_blocks(rng(), (16, 3)))


def test_learned_initial_states_get_the_sum_of_the_gradients_of_the_examples():
    made = LSTM(3, 4, rng=rng(), dtype=np.float64)
    x = rng(1).standard_normal((5, 3, 2))
    start = Tensor(np.zeros((4, 2))), Tensor(np.zeros((4, 2)))
    h, (_, c) = made(x)
    ((h * h).sum() + c.sum()).backward()
    learned = {name: parameter.grad for name, parameter in made.named_parameters()}
    for parameter in made.parameters():
        parameter.grad = None
    h, (_, c) = made(x, start)
    ((h * h).sum() + c.sum()).backward()
    assert made.h0.grad is None and made.c0.grad is None
    states = {"h0": start[0].grad.sum(axis=1), "c0": start[1].grad.sum(axis=1)}
    assert_same(learned, {n: getattr(made, n).grad for n in ("W_x", "W_h", "b")} | states, 1e-12)
    assert all((gradient != 0).all() for gradient in states.values())


@pytest.mark.parametrize("tokens", [False, True])
def test_lstm_layer_is_the_function_with_its_parameters(tokens):
    made = LSTM(3, 4, zoneout=Zoneout(0.5, 0.05), drop_inputs=0.2, rng=rng())
    made.h0.data[:], made.c0.data[:] = rng(1).standard_normal((2, 4))
    x = rng(2).integers(3, size=(5, 2)) if tokens else rng(2).standard_normal((5, 3, 2)).astype(np.float32)
    h, (last_h, last_c) = made(x)
    columns = (np.repeat(p.data[:, None], 2, axis=1) for p in (made.h0, made.c0))
    weights = (p.data for p in (made.W_x, made.W_h, made.b))
    expected_h, expected_c = lstm(x, *columns, *weights, keep_h=0.05, keep_c=0.5, input_mask=0.8)
    assert h.shape == (5, 4, 2) and h.dtype == last_h.dtype == last_c.dtype == np.float32
    expected = {"h": expected_h.data, "last h": expected_h.data[-1], "last c": expected_c.data[-1]}
    assert_same({"h": h.data, "last h": last_h.data, "last c": last_c.data}, expected, 0.0)


# ---- initializers


def is_orthogonal(block: np.ndarray) -> bool:
    """Orthonormal rows, or orthonormal columns where there are fewer of them."""
    block = block if block.shape[0] <= block.shape[1] else block.T
    return bool(np.abs(block @ block.T - np.eye(len(block))).max() < 1e-12)


@pytest.mark.parametrize(("shape", "side"), [((32, 8), 8), ((80, 5), 5), ((5, 80), 5), ((8, 8), 8), ((4, 1), 1)])
def test_orthogonal_blocks_are_orthogonal_each_and_different(shape, side):
    W = orthogonal_blocks(rng(), shape, np.float64)
    tall = W if shape[0] >= shape[1] else W.T
    blocks = tall.reshape(-1, side, side)
    assert W.shape == shape and all(is_orthogonal(block) for block in blocks)
    assert side == 1 or len(np.unique(blocks[:, 0, 0])) == len(blocks)
    np.testing.assert_allclose((tall**2).sum(axis=0), len(blocks), rtol=1e-12)  # columns across all blocks
    np.testing.assert_allclose((tall**2).sum(axis=1), 1, rtol=1e-12)


@pytest.mark.parametrize("shape", [(80, 27), (27, 80)])
def test_last_orthogonal_block_is_cut_off_where_the_sides_do_not_divide(shape):
    """27 symbols: the authors' assertion fails."""
    W = orthogonal_blocks(rng(), shape, np.float64)
    tall = W if shape[0] >= shape[1] else W.T
    assert W.shape == shape
    assert is_orthogonal(tall[:27]) and is_orthogonal(tall[27:54]) and is_orthogonal(tall[54:])


@pytest.mark.parametrize("shape", [(32, 8), (8, 32), (8, 8), (27, 80), (80, 27)])
def test_whole_rectangle_is_orthonormal_along_its_shorter_side(shape):
    W = orthogonal(rng(), shape, np.float64)
    assert W.shape == shape and is_orthogonal(W)


def test_gates_of_the_whole_rectangle_have_half_the_scale_of_the_blocks():
    """PAPER.md B.5: a column of W_h has norm 1 over the four gates, against 2."""
    blocks, whole = (draw(rng(), (256, 64), np.float64) for draw in (orthogonal_blocks, orthogonal))
    np.testing.assert_allclose(np.linalg.norm(blocks, axis=0), 2, rtol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(whole, axis=0), 1, rtol=1e-12)
    for gate in range(4):
        part = whole[64 * gate : 64 * (gate + 1)]
        assert np.linalg.norm(part) / np.linalg.norm(blocks[:64]) == pytest.approx(0.5, abs=0.02)
        assert not is_orthogonal(part)


def test_orthogonal_matrices_are_uniform_over_all_such():
    """Without the signs of R (Mezzadri, 2007) the first column leans to one side. An element: mean 0, variance 1/4."""
    blocks = orthogonal_blocks(rng(), (4 * 2000, 4), np.float64).reshape(2000, 4, 4)
    assert np.abs(blocks.mean(axis=0)).max() < 5 * 0.5 / 2000**0.5
    np.testing.assert_allclose((blocks**2).mean(axis=0), 0.25, atol=5 * 0.25 / 2000**0.5)


@pytest.mark.parametrize(
    ("draw", "largest"),
    [
        (glorot, (6 / (200 + 100)) ** 0.5),
        (uniform(0.2), 0.1),
        (uniform(0.08), 0.04),
        (INITIALIZERS["uniform"], 0.1),
        (INITIALIZERS["glorot"], (6 / (200 + 100)) ** 0.5),
    ],
)
def test_uniform_weights_fill_their_interval_evenly(draw, largest):
    W = draw(rng(), (200, 100), np.float64)
    assert 0.999 * largest < np.abs(W).max() <= largest
    tenths, _ = np.histogram(W, bins=10, range=(-largest, largest))
    assert np.abs(tenths - 2000).max() < 5 * (20_000 * 0.1 * 0.9) ** 0.5


def test_identity_has_ones_on_the_diagonal_and_draws_nothing():
    generator = rng()
    before = generator.bit_generator.state
    assert np.array_equal(identity(generator, (5, 3)), np.eye(5, 3))
    assert generator.bit_generator.state == before


@pytest.mark.parametrize("draw", [orthogonal, orthogonal_blocks, glorot, uniform(0.2)])
def test_initial_weights_follow_from_the_generator(draw):
    assert np.array_equal(draw(rng(1), (12, 4)), draw(rng(1), (12, 4)))
    assert not np.array_equal(draw(rng(1), (12, 4)), draw(rng(2), (12, 4)))
    generator = rng(1)
    assert not np.array_equal(draw(generator, (12, 4)), draw(generator, (12, 4)))


@pytest.mark.parametrize("draw", [orthogonal, orthogonal_blocks, glorot, identity, uniform(0.2)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(12, 4), (4, 12)])
def test_initial_weights_have_the_dtype_and_shape_that_were_asked_for(draw, dtype, shape):
    assert draw(rng(), shape, dtype).dtype == dtype
    assert draw(rng(), shape).dtype == np.float32
    assert draw(rng(), shape).shape == shape


def test_names_of_the_initializers_are_those_of_the_command_line():
    assert INITIALIZERS["ortho"] is orthogonal_blocks and INITIALIZERS["ortho-whole"] is orthogonal
    assert set(INITIALIZERS) == {"ortho", "ortho-whole", "glorot", "uniform"}
