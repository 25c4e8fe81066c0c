"""Damage to files, drawn from a seed, and the judgement of what a command makes of it."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

SPARE = 1 << 30  # bytes of memory that a command may take beyond what the process has
ABSURD = [  # what a person, an editor or another program may leave in the place of a file
    b"", b"\0", b"\n", b"{}", b"[]", b"null", b"NaN", b"1e999", b'"text"', b"[" * 100_000, b'{"a":' * 100_000,
    b"\xff\xfe\x00\x01", b"\x89PNG\r\n\x1a\n", b"PK\x03\x04", b"\x1f\x8b\x08\0", b"<html>please log in</html>",
    b"9" * 10_000, bytes(1000), bytes(range(256)) * 8,
]  # fmt: skip
WORDS = [b"null", b"[]", b"{}", b"-1", b"1e999", b"NaN", b'"x"', b"true", b"9" * 30, b"\xff", b'"\\ud800"', b'"\\n$_"']


def damaged(raw: bytes, n: int, seed: int = 0) -> Iterator[bytes]:
    """``n`` times the bytes with one of: an end cut off, bits flipped, bytes changed, taken out or put in."""
    rng = np.random.default_rng(seed)
    for k in range(n):
        at, length = int(rng.integers(len(raw))), int(rng.integers(1, 9))
        random = rng.integers(256, size=length, dtype=np.uint8).tobytes()
        flipped = raw[:at] + bytes([raw[at] ^ 1 << int(rng.integers(8))]) + raw[at + 1 :]
        first = raw[: at % 64] + random + raw[at % 64 + length :]  # where headers are
        kinds = (raw[:at], flipped, first, raw[:at] + random + raw[at + length :], raw[:at] + raw[at + length :],
                 raw[:at] + random + raw[at:])  # fmt: skip
        yield kinds[k % len(kinds)]


def edited(text: bytes, n: int, seed: int = 0) -> Iterator[bytes]:
    """``n`` times a JSON text in which another value or word stands for one of its own."""
    rng = np.random.default_rng(seed)
    starts = [k for k in range(1, len(text)) if text[k - 1 : k] in b" :,[{" and text[k : k + 1] not in b" :,\n"]
    for _ in range(n):
        at = starts[int(rng.integers(len(starts)))]
        end = min(k for k in (text.find(mark, at + 1) for mark in (b",", b"}", b"]", b":", b"\n")) if k > 0)
        yield text[:at] + WORDS[int(rng.integers(len(WORDS)))] + text[end:]


@contextmanager
def little_memory(spare: int = SPARE) -> Iterator[None]:
    """While inside, what would take a lot of memory fails."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + spare, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def judged(program: Any, capsys: Any, words: list[str]) -> tuple[int, str]:
    """Exit status and what was said on stderr; it must be 0 with nothing said, or 2 with one sentence."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # as run.py and Python do at the start
    status = program.main(words)
    err = capsys.readouterr().err
    if status == 0:
        assert err == "", err
    else:
        assert status == 2, (status, err)
        assert err.startswith("run.py: ") and err.endswith("\n") and len(err.splitlines()) == 1, err
        assert 15 < len(err) < 1010, err
    return status, err
