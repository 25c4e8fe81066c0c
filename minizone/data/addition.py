"""Sums to be learned, "12+7" in and "19" out, symbol by symbol: the addition task of Erik Rehn (2016).

There is no file: problems are drawn, and the problem itself says whether it is for training, validation or the test.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable

import numpy as np

from minizone.backend import Generator

SYMBOLS = "G_0123456789+"  # GO, which starts an answer, the padding, and what sums are written with
GO = 0
MOST_DIGITS = 5
INPUT_LENGTH = 2 * MOST_DIGITS + 3  # 13: "100000+100000"
TARGET_LENGTH = MOST_DIGITS + 2  # 7: "200000_"

_TOKENS = np.zeros(128, np.uint8)
_TOKENS[[ord(symbol) for symbol in SYMBOLS]] = np.arange(len(SYMBOLS))


def draw_numbers(rng: Generator, digits: int, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers by the original's law: first a length k from 1 to ``digits``, then one of 0, 1, ... 10^k."""
    lengths = rng.integers(1, digits, shape, endpoint=True)
    return rng.integers(0, 10**lengths, endpoint=True)


def draw_problems(rng: Generator, digits: int, n: int, splits: Collection[str]) -> list[tuple[int, int]]:
    """``n`` problems (a, b) of the law, independent of each other, of those that `split` counts to ``splits``."""
    problems: list[tuple[int, int]] = []
    while len(problems) < n:
        pairs = draw_numbers(rng, digits, (2 * n, 2)).tolist()
        problems += [(a, b) for a, b in pairs if split(a, b) in splits]
    return problems[:n]


def split(a: int, b: int) -> str:
    """Where the problem "a+b" belongs: "train", eight in ten of all, "valid" or "test", whatever seed or length."""
    part = hashlib.sha256(f"{a}+{b}".encode()).digest()[0] % 10
    return {0: "valid", 1: "test"}.get(part, "train")


def encode(problems: Collection[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of problems, (13, B), padded on the left, and of their sums, (7, B), padded on the right."""
    inputs = (f"{a}+{b}".rjust(INPUT_LENGTH, "_") for a, b in problems)
    targets = (str(a + b).ljust(TARGET_LENGTH, "_") for a, b in problems)
    return _tokens(inputs, INPUT_LENGTH), _tokens(targets, TARGET_LENGTH)


def decode(tokens: np.ndarray) -> list[str]:
    """The columns of tokens (T, B) as strings, padding included."""
    return ["".join(SYMBOLS[token] for token in column) for column in tokens.T]


def _tokens(strings: Iterable[str], length: int) -> np.ndarray:
    """Tokens (length, B) of strings of that length."""
    return _TOKENS[np.frombuffer("".join(strings).encode(), np.uint8).reshape(-1, length).T]
