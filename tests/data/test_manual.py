"""The Python manual as a stand-in: the same text every time, and a fair validation split."""

from __future__ import annotations

import hashlib
import sys

import numpy as np
import pytest

from minizone.data import manual
from minizone.data.manual import manual_name, read_manual
from minizone.errors import UserError


def test_the_manual_is_the_same_every_time_and_named_after_its_python():
    texts, sha256 = read_manual()
    assert read_manual() == (texts, sha256)
    assert sha256 == {"pydoc_data.topics": hashlib.sha256(b"".join(texts)).hexdigest()}
    assert manual_name() == "Python {}.{}.{} manual".format(*sys.version_info[:3])
    assert b"".join(texts).isascii()
    sizes = np.array([len(text) for text in texts])
    np.testing.assert_allclose(sizes / sizes.sum(), [0.9, 0.05, 0.05], atol=0.015)


def test_the_text_for_validation_is_not_in_the_training_text():
    texts, _ = read_manual()
    splits = [[" ".join(paragraph.split()) for paragraph in text.decode().split("\n\n")] for text in texts]
    paragraphs = [paragraph for split in splits for paragraph in split if paragraph]
    assert len(paragraphs) == len(set(paragraphs))
    # Nor is it there in longer paragraphs with one word changed: hardly any 100 characters of it are in training.
    train = " ".join(splits[0])
    for split in splits[1:]:
        text = " ".join(split)
        pieces = [text[start : start + 100] for start in range(0, len(text) - 100, 50)]
        assert np.mean([piece in train for piece in pieces]) < 0.02


def trigram_bits(train: bytes, evaluated: bytes) -> float:
    """Bits per character of a text under a trigram model, with 0.02 added to the counts of the training text."""

    def codes(text: bytes) -> np.ndarray:
        x = np.frombuffer(text, np.uint8).astype(np.int64)  # (N,)
        return (x[:-2] * 128 + x[1:-1]) * 128 + x[2:]  # (N - 2,)

    counts = np.bincount(codes(train), minlength=128**3).reshape(128**2, 128) + 0.02
    p = counts / counts.sum(axis=1, keepdims=True)
    return float(-np.log2(p.ravel()[codes(evaluated)]).mean())


def test_validation_and_test_are_equally_hard(monkeypatch):
    """With a single block, the last tenth of the text, they are not: this is why the manual is split in blocks."""

    def difference(blocks: int) -> float:
        monkeypatch.setattr(manual, "BLOCKS", blocks)
        train, valid, test = read_manual()[0]
        return abs(trigram_bits(train, valid) / trigram_bits(train, test) - 1)

    assert difference(manual.BLOCKS) < 0.08 < difference(1)


def test_a_python_without_its_manual(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(UserError, match=r"needs pydoc_data\.topics"):
        read_manual()
