"""Texts for models that read one character at a time: the Penn Treebank (PTB), and the Python manual in its stead."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from minizone.data.common import SPLITS, cut, load_or_stand_in
from minizone.data.download import read_all
from minizone.errors import UserError

PTB_FILES = tuple(f"ptb/ptb.{split}.txt" for split in SPLITS)
FORMS = {"authors": "PTB, authors' form", "stripped": "PTB, stripped form"}
BLOCKS = 20  # of the stand-in; see `_deal`


@dataclass(frozen=True, eq=False)
class TextDataset:
    """A text in three splits, as indices into its alphabet.

    Attributes
    ----------
    name : str
        What it is, as plots and tables must call it.
    train, valid, test : uint8 array, (N,)
        One index per character, in reading order.
    symbols : str
        The alphabet: `symbols[i]` is the character of index i. Sorted, and made from all three splits.
    sha256 : dict
        File name -> sha256 (hex) of the uncompressed file, or of the text where no file is behind it.
    """

    name: str
    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    symbols: str
    sha256: dict[str, str]

    @property
    def vocabulary_size(self) -> int:
        """V, the number of distinct characters."""
        return len(self.symbols)

    def first(self, n_train: int = 0, n_eval: int = 0) -> TextDataset:
        """Return the same text cut short, alphabet unchanged, with a name that says so.

        Keeps `n_train` characters of `train`, and `n_eval` each of `valid` and `test`; 0 keeps all, and a negative
        number raises `UserError`.
        """
        return replace(self, **cut(self, n_train, n_eval, "characters"))


def load_characters(
    dataset: str = "auto",
    data_dir: str | Path | None = None,
    *,
    form: str = "authors",
    offline: bool = False,
    say: Callable[[str], None] = print,
) -> TextDataset:
    """Load a text for character-level language modelling.

    Parameters
    ----------
    dataset : {"auto", "ptb", "manual"}
        "ptb": the Penn Treebank or an error. "manual": the Python manual, which stands in for it. "auto": PTB if it is
        in the data folder or can be downloaded, else the manual, with one line through `say`; but no stand-in where a
        `data_dir` was asked for, and none for a PTB file that is there and broken.
    data_dir : str, Path or None
        See `data_folder`.
    form : {"authors", "stripped"}
        Of PTB. "authors": one blank more per line, as in the arrays of the paper's authors, so 5,059,550 / 396,412 /
        446,184 characters. "stripped": 5,017,482 / 393,042 / 442,423. A number in bits per character is on one form
        or the other, and they are not comparable.
    offline : bool
        Download nothing.
    say : callable
        Receives the line about the stand-in.

    Raises
    ------
    UserError
        An unknown `dataset` or `form`; PTB is wanted and missing, or damaged.
    """
    if form not in FORMS:
        raise UserError(f"form must be one of {', '.join(FORMS)}, got {form!r}")
    loaders = {"ptb": lambda: _load_ptb(data_dir, form, offline), "manual": _load_manual}
    return load_or_stand_in("PTB", loaders, dataset, data_dir, offline, say)


def _load_ptb(data_dir: str | Path | None, form: str, offline: bool) -> TextDataset:
    raw, sha256 = read_all(PTB_FILES, data_dir, offline=offline)
    return _encode(FORMS[form], [_ptb_form(split, form) for split in raw], sha256)


def _ptb_form(raw: bytes, form: str) -> bytes:
    r"""Bring the lines of a PTB file, `" a b \n"`, into the authors' form, `"a b \n"`, or the stripped one, `"a b\n"`.

    That the authors' arrays have one blank a line beside the stripped text follows from their lengths; which one does
    not. We keep the one at the end: every word is then followed by a blank, as if written by `word + " "`. The text
    with the other blank has the same length and symbols, and either can be computed from the other, so there is as
    much to predict in both.
    """
    authors = raw[1:].replace(b"\n ", b"\n")
    return authors if form == "authors" else authors.replace(b" \n", b"\n")


def _load_manual() -> TextDataset:
    splits, sha256 = read_manual()
    return _encode(f"{manual_name()} (stand-in)", splits, sha256)


def manual_name() -> str:
    """Return what the manual is called: it is another one in every version of Python."""
    return f"Python {platform.python_version()} manual"


def read_manual() -> tuple[list[bytes], dict[str, str]]:
    """Return the stand-in for any text, in its three splits, and its sha256.

    It is the part of the Python manual that CPython carries for `help()`, in ASCII. A paragraph ends in two line feeds.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise UserError("the stand-in needs pydoc_data.topics, and this Python was packaged without it") from error
    splits = _deal(_paragraphs([topics[key] for key in sorted(topics)]))
    # Every non-ASCII character (curly quotes and dashes, about one in 800) becomes "?", to keep the alphabet small.
    encoded = ["".join(split).encode("ascii", "replace") for split in splits]
    return encoded, {"pydoc_data.topics": hashlib.sha256(b"".join(encoded)).hexdigest()}


def _paragraphs(texts: Sequence[str]) -> list[str]:
    """Cut texts into paragraphs, each the first of its kind.

    A fifth of the manual is there twice ("compound" contains "if", "for", "try", ...); what is trained on must not come
    back in validation. Two paragraphs are of a kind if they differ in line breaks and indentation only.
    """
    kinds: dict[str, str] = {}
    for text in texts:
        for paragraph in text.split("\n\n"):
            kinds.setdefault(" ".join(paragraph.split()), paragraph.strip("\n") + "\n\n")
    kinds.pop("", None)
    return list(kinds.values())


def _deal(paragraphs: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """Split 90 / 5 / 5 by position, within each of a few blocks of equal length.

    The topics are in alphabetical order, so the last tenth of the whole would be "typesmapping" to "yield": valid and
    test two different subjects, and neither like the rest (tests/data/test_characters.py measures it). The tail of
    every
    block samples the manual evenly, in passages still long enough to read on.
    """
    splits: tuple[list[str], list[str], list[str]] = ([], [], [])
    total = sum(map(len, paragraphs))
    position = 0  # of the first character of the paragraph
    for paragraph in paragraphs:
        within = position * BLOCKS / total % 1
        splits[0 if within < 0.9 else 1 if within < 0.95 else 2].append(paragraph)
        position += len(paragraph)
    return splits


def _encode(name: str, splits: Sequence[bytes], sha256: dict[str, str]) -> TextDataset:
    """Turn one-byte characters into indices of the sorted alphabet of all splits."""
    used = np.unique(np.concatenate([np.unique(np.frombuffer(split, np.uint8)) for split in splits]))  # (V,)
    index = np.zeros(256, np.uint8)
    index[used] = np.arange(used.size)
    # Not index.take(...), which first makes int64 of the text: 900 MB for the 100 MB of text8.
    train, valid, test = (index[np.frombuffer(split, np.uint8)] for split in splits)  # (N,)
    return TextDataset(name, train, valid, test, used.tobytes().decode("latin-1"), sha256)
