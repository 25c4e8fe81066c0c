"""The Python manual, the stand-in for all other texts, because every CPython contains it."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Sequence

from minizone.errors import UserError

BLOCKS = 20  # see `_split_paragraphs`


def manual_name() -> str:
    """Return the name of the text, with the version of Python: each version has a different manual."""
    return f"Python {platform.python_version()} manual"


def read_manual() -> tuple[list[bytes], dict[str, str]]:
    """Return the text in three splits, and its sha256.

    It is the part of the manual that `help()` shows, in ASCII. A paragraph ends in two line feeds.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise UserError("the stand-in needs pydoc_data.topics, which is missing in this Python") from error
    splits = _split_paragraphs(_distinct_paragraphs([topics[key] for key in sorted(topics)]))
    # One character in 800 is not ASCII (curly quotes, dashes). It becomes "?", which keeps the alphabet small.
    texts = ["".join(paragraphs).encode("ascii", "replace") for paragraphs in splits]
    return texts, {"pydoc_data.topics": hashlib.sha256(b"".join(texts)).hexdigest()}


def _distinct_paragraphs(texts: Sequence[str]) -> list[str]:
    """Return the paragraphs of all texts, without repetitions.

    A fifth of the manual occurs twice: the topic "compound" contains "if", "for", "try" and more. Without this, the
    model would be validated on paragraphs that it was trained on. Line breaks and indentation make no difference.
    """
    paragraphs: dict[str, str] = {}  # words of the paragraph -> the paragraph as it first occurs
    for text in texts:
        for paragraph in text.split("\n\n"):
            words = " ".join(paragraph.split())
            if words:
                paragraphs.setdefault(words, paragraph.strip("\n") + "\n\n")
    return list(paragraphs.values())


def _split_paragraphs(paragraphs: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """Cut the text into blocks of equal length, and split each block 90 / 5 / 5 by position.

    The topics are in alphabetical order. The last tenth of the whole text would be "typesmapping" to "yield".
    Validation and test would then have two different subjects, neither of them like the training text
    (tests/data/test_manual.py measures this). The ends of several blocks sample all subjects, and are still long enough
    to be read as texts.
    """
    train: list[str] = []
    valid: list[str] = []
    test: list[str] = []
    block = sum(len(paragraph) for paragraph in paragraphs) / BLOCKS  # characters
    start = 0  # of the paragraph, in characters
    for paragraph in paragraphs:
        fraction = start / block % 1  # of the block that is before the paragraph
        split = train if fraction < 0.9 else valid if fraction < 0.95 else test
        split.append(paragraph)
        start += len(paragraph)
    return train, valid, test
