"""A text is converted to indices, and can be shortened."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minizone.data import TextDataset
from minizone.data.text import encode_characters, encode_words
from minizone.errors import UserError
from tests.helpers import SEVERAL

SPLITS = ("train", "valid", "test")


def decoded(data: TextDataset, split: str) -> list[str]:
    return [data.vocabulary[index] for index in getattr(data, split)]


@given(st.lists(st.binary(min_size=1), min_size=3, max_size=3))
@SEVERAL
def test_characters_can_be_decoded(splits):
    data = encode_characters("any", splits, {})
    assert data.unit == "characters"
    for split, raw in zip(SPLITS, splits, strict=True):
        assert "".join(decoded(data, split)) == raw.decode("latin-1")
        assert getattr(data, split).dtype == np.uint8
    assert list(data.vocabulary) == sorted({chr(byte) for raw in splits for byte in raw})


@given(st.lists(st.text("abcd", min_size=1, max_size=2), min_size=1, max_size=50))
@SEVERAL
def test_words_can_be_decoded_and_the_most_frequent_come_first(words):
    data = encode_words("any", [words, words[:3], words[-1:]], {})
    assert data.unit == "words"
    assert [decoded(data, split) for split in SPLITS] == [words, words[:3], words[-1:]]
    assert all(getattr(data, split).dtype == np.int32 for split in SPLITS)
    assert list(np.bincount(data.train)) == sorted(map(words.count, data.vocabulary), reverse=True)


def test_equally_frequent_words_are_in_alphabetical_order():
    data = encode_words("any", [["c", "b", "b", "a", "é", "B", "b", "a"], ["b"], ["b"]], {})
    assert data.vocabulary == ("b", "a", "B", "c", "é") and data.vocabulary_size == 5


def test_encoding_takes_little_more_memory_than_the_text():
    raw = np.random.default_rng(0).integers(97, 123, 5_000_000, np.uint8).tobytes()
    tracemalloc.start()
    try:
        encode_characters("long", [raw, b"a", b"b"], {})
        assert tracemalloc.get_traced_memory()[1] < 2 * len(raw)
    finally:
        tracemalloc.stop()


TEXTS: dict[str, Callable[[], TextDataset]] = {
    "characters": lambda: encode_characters("PTB", [b"the cat sat", b"on a mat", b"the mat"], {"file": "0123"}),
    "words": lambda: encode_words("PTB", [list("the cat sat"), list("tea cat"), list("the hat")], {"file": "0123"}),
}
PARTS = [  # arguments of `first`, length of each split, what is added to the name
    ((), (11, 8, 7), ""),
    ((11, 8), (11, 8, 7), ""),
    ((10**9, 10**9), (11, 8, 7), ""),
    ((4, 2), (4, 2, 2), ", first 4 {unit}, evaluated on the first 2"),
    ((4,), (4, 8, 7), ", first 4 {unit}"),
    ((0, 3), (11, 3, 3), ", evaluated on the first 3"),
]


@pytest.mark.parametrize("unit", TEXTS)
@pytest.mark.parametrize(("arguments", "lengths", "addition"), PARTS)
def test_a_shortened_text_says_so_in_its_name(unit, arguments, lengths, addition):
    whole = TEXTS[unit]()
    part = whole.first(*arguments)
    assert part.name == "PTB" + addition.format(unit=unit)
    assert (part.vocabulary, part.sha256, part.unit) == (whole.vocabulary, whole.sha256, whole.unit)
    for split, length in zip(SPLITS, lengths, strict=True):
        np.testing.assert_array_equal(getattr(part, split), getattr(whole, split)[:length])


@pytest.mark.parametrize("unit", TEXTS)
def test_a_negative_length_is_refused(unit):
    with pytest.raises(UserError, match=f"the number of {unit} to keep must not be negative, got -4 and 0"):
        TEXTS[unit]().first(-4)
