"""The addition task of Erik Rehn (2016): learn sums symbol by symbol, "12+7" in and "19" out.

There are no files: problems are drawn. The numbers of a problem decide whether it is for training, validation or test.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable

import numpy as np

from minizone.backend import Generator

SYMBOLS = "G_0123456789+"  # GO, which starts an answer; the padding; the characters of a sum
GO = 0
MOST_DIGITS = 5
INPUT_LENGTH = 2 * MOST_DIGITS + 3  # 13: "100000+100000"
TARGET_LENGTH = MOST_DIGITS + 2  # 7: "200000_"

TOKEN_OF_BYTE = np.zeros(128, np.uint8)  # ASCII code -> token
TOKEN_OF_BYTE[[ord(symbol) for symbol in SYMBOLS]] = np.arange(len(SYMBOLS))


def draw_numbers(rng: Generator, digits: int, shape: tuple[int, ...]) -> np.ndarray:
    """Draw numbers as the original does: first a length k from 1 to `digits`, then a number from 0 to 10^k."""
    lengths = rng.integers(1, digits, shape, endpoint=True)
    return rng.integers(0, 10**lengths, endpoint=True)


def draw_problems(rng: Generator, digits: int, n: int, splits: Collection[str]) -> list[tuple[int, int]]:
    """Draw `n` independent problems (a, b) that belong to one of `splits`. See `split`."""
    problems: list[tuple[int, int]] = []
    while len(problems) < n:
        for a, b in draw_numbers(rng, digits, (2 * n, 2)).tolist():
            if split(a, b) in splits:
                problems.append((a, b))
    return problems[:n]


def split(a: int, b: int) -> str:
    """Return the split of the problem "a+b": "train" for eight problems in ten, "valid" for one, "test" for one.

    It depends only on the problem, not on a seed.
    """
    part = hashlib.sha256(f"{a}+{b}".encode()).digest()[0] % 10
    if part == 0:
        return "valid"
    if part == 1:
        return "test"
    return "train"


def encode(problems: Collection[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Return tokens of the problems, (13, B), padded on the left, and of their sums, (7, B), padded on the right."""
    inputs = [f"{a}+{b}".rjust(INPUT_LENGTH, "_") for a, b in problems]
    targets = [str(a + b).ljust(TARGET_LENGTH, "_") for a, b in problems]
    return _tokens(inputs, INPUT_LENGTH), _tokens(targets, TARGET_LENGTH)


def decode(tokens: np.ndarray) -> list[str]:
    """Return the columns of tokens (T, B) as strings, with the padding."""
    return ["".join(SYMBOLS[token] for token in column) for column in tokens.T]


def _tokens(strings: Iterable[str], length: int) -> np.ndarray:
    """Return the tokens (length, B) of B strings of that length."""
    codes = np.frombuffer("".join(strings).encode(), np.uint8).reshape(-1, length)  # (B, length)
    return TOKEN_OF_BYTE[codes.T]
