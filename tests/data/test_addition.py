"""Problems of addition: their symbols, the distribution of their numbers, and which split may use which problem."""

from collections import Counter

import numpy as np
import pytest

from minizone.data.addition import SYMBOLS, decode, draw_numbers, encode, split


def test_symbols_and_padding_by_hand():
    inputs, targets = encode([(12, 7), (100000, 100000), (0, 0)])
    assert list(inputs[:, 0]) == [1, 1, 1, 1, 1, 1, 1, 1, 1, 3, 4, 12, 9]  # _________12+7
    assert list(targets[:, 0]) == [3, 11, 1, 1, 1, 1, 1]
    assert list(inputs[:, 1]) == [3, 2, 2, 2, 2, 2, 12, 3, 2, 2, 2, 2, 2]  # 100000+100000
    assert list(targets[:, 1]) == [4, 2, 2, 2, 2, 2, 1]  # 200000_
    assert decode(inputs) == ["_________12+7", "100000+100000", "__________0+0"]
    assert decode(targets) == ["19_____", "200000_", "0______"] and len(SYMBOLS) == 13 and SYMBOLS[0] == "G"


@pytest.mark.parametrize("digits", [1, 2, 3, 5])
def test_law_of_the_numbers(digits):
    """Each length k with probability 1 / digits, then each of 0, 1, ... 10^k with probability 1 / (10^k + 1)."""
    numbers = draw_numbers(np.random.default_rng(digits), digits, (200_000,))
    edges = [0, 1, *(10**k + more for k in range(1, digits + 1) for more in (0, 1))]  # 10^k has a bin of its own
    below = np.array([[min(edge, 10**k + 1) / (10**k + 1) for edge in edges] for k in range(1, digits + 1)])
    expected = len(numbers) * np.diff(below.mean(axis=0))
    found = np.histogram(numbers, np.array(edges) - 0.5)[0]
    assert found.sum() == len(numbers) and (abs(found - expected) < 5 * np.sqrt(expected) + 1).all()
    assert digits > 2 or (numbers == 10**digits).sum() > 50


def test_split_is_a_fixed_property_of_the_problem():
    shares = Counter(split(a, b) for a in range(200) for b in range(200))
    assert {name: round(n / 40_000, 2) for name, n in shares.items()} == {"train": 0.8, "valid": 0.1, "test": 0.1}
    # `printf 1+2 | sha256sum` begins with 82, which is 130: a last digit 0 is for validation, 1 for the test
    assert [split(1, 2), split(0, 0), split(2, 6), split(6, 2)] == ["valid", "test", "valid", "train"]
    assert {split(a, b) for a in range(11) for b in range(11)} == {"train", "valid", "test"}, "with one digit as well"
