"""The order in which the pixels of an image are read."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minizone.data import images, permutation
from minizone.errors import UserError
from tests.helpers import SEVERAL


@given(st.integers(1, 900), st.integers(0, 2**32))
@SEVERAL
def test_true_permutation_has_every_pixel_once(n, seed):
    order = permutation(n, seed=seed)
    assert order.dtype == np.int64 and sorted(order) == list(range(n))
    np.testing.assert_array_equal(order, permutation(n, "true", seed))


def test_true_permutation_is_one_a_seed():
    orders = [tuple(permutation(784, seed=seed)) for seed in range(20)]
    assert len(set(orders)) == 20 and orders[0] != tuple(range(784))
    assert orders[0][:10] == (382, 548, 194, 165, 117, 483, 524, 177, 82, 480)


def test_authors_permutation_is_a_draw_with_replacement():
    order = permutation(784, "authors")
    assert order.dtype == np.int64 and order.shape == (784,)
    assert list(order[:10]) == [37, 235, 72, 767, 715, 645, 144, 129, 583, 749]
    assert len(set(order)) == 501
    np.testing.assert_array_equal(order, permutation(784, "authors", seed=7))


def test_no_permutation_and_no_global_generator():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    for kind in images.ORDERS:
        assert permutation(49, kind).shape == (49,)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    np.testing.assert_array_equal(permutation(49, "none"), range(49))
    with pytest.raises(UserError, match="permutation must be one of true, authors, none, got 'random'"):
        permutation(49, "random")
