"""Initial weights: orthogonal as in the authors' code, uniform in the right interval, reproducible."""

from __future__ import annotations

import numpy as np
import pytest

from minizone.layers.init import INITIALIZERS, glorot, identity, orthogonal, orthogonal_blocks, uniform
from tests.helpers import rng


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
    """A column of W_h has norm 1 over the four gates, against 2: another scale than that of the paper's numbers."""
    blocks, whole = (draw(rng(), (256, 64), np.float64) for draw in (orthogonal_blocks, orthogonal))
    np.testing.assert_allclose(np.linalg.norm(blocks, axis=0), 2, rtol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(whole, axis=0), 1, rtol=1e-12)
    for gate in range(4):
        part = whole[64 * gate : 64 * (gate + 1)]
        assert np.linalg.norm(part) / np.linalg.norm(blocks[:64]) == pytest.approx(0.5, abs=0.02)


def test_orthogonal_matrices_are_uniform_over_all_such():
    """Without the signs of R (Mezzadri, 2007) the first column leans to one side. An element: mean 0, variance 1/4."""
    blocks = orthogonal_blocks(rng(), (4 * 2000, 4), np.float64).reshape(2000, 4, 4)
    assert np.abs(blocks.mean(axis=0)).max() < 5 * 0.5 / 2000**0.5
    np.testing.assert_allclose((blocks**2).mean(axis=0), 0.25, atol=5 * 0.25 / 2000**0.5)


@pytest.mark.parametrize(
    ("draw", "largest"),
    [
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


@pytest.mark.parametrize("draw", [orthogonal, orthogonal_blocks, glorot, identity, uniform(0.2)])
@pytest.mark.parametrize("shape", [(12, 4), (4, 12)])
def test_initial_weights_have_their_shape_and_dtype_and_follow_from_the_generator(draw, shape):
    for dtype in (np.float32, np.float64):
        generator = rng(1)
        W = draw(generator, shape, dtype)
        assert W.dtype == dtype and W.shape == shape
        assert np.array_equal(W, draw(rng(1), shape, dtype))
        if draw is identity:
            assert np.array_equal(W, np.eye(*shape))
        else:
            assert not np.array_equal(W, draw(rng(2), shape, dtype))
            assert not np.array_equal(W, draw(generator, shape, dtype))


def test_names_of_the_initializers_are_those_of_the_command_line():
    assert INITIALIZERS["ortho"] is orthogonal_blocks and INITIALIZERS["ortho-whole"] is orthogonal
    assert set(INITIALIZERS) == {"ortho", "ortho-whole", "glorot", "uniform"}
