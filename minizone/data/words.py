"""Texts for models that read one word at a time: the Penn Treebank (PTB), and the Python manual in its stead."""

from __future__ import annotations

import re
import reprlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from minizone.data.characters import PTB_FILES, manual_name, read_manual
from minizone.data.common import cut, load_or_stand_in
from minizone.data.download import REPAIR, read_all
from minizone.errors import UserError

END, UNKNOWN = "<eos>", "<unk>"
RARE = 3  # a word of the stand-in that training has less often than this is unknown


@dataclass(frozen=True, eq=False)
class WordDataset:
    """A text in three splits, as indices into its vocabulary.

    Attributes
    ----------
    name : str
        What it is, as plots and tables must call it.
    train, valid, test : int32 array, (N,)
        One index per word, in reading order.
    words : tuple of str
        The vocabulary: `words[i]` is the word of index i. That of the training text, the most frequent first, and in
        alphabetical order where equally frequent.
    sha256 : dict
        File name -> sha256 (hex) of the uncompressed file, or of the text where no file is behind it.
    """

    name: str
    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    words: tuple[str, ...]
    sha256: dict[str, str]

    @property
    def vocabulary_size(self) -> int:
        """V, the number of distinct words."""
        return len(self.words)

    def first(self, n_train: int = 0, n_eval: int = 0) -> WordDataset:
        """Return the same text cut short, vocabulary unchanged, with a name that says so.

        Keeps `n_train` words of `train`, and `n_eval` each of `valid` and `test`; 0 keeps all, and a negative number
        raises `UserError`.
        """
        return replace(self, **cut(self, n_train, n_eval, "words"))


def load_words(
    dataset: str = "auto",
    data_dir: str | Path | None = None,
    *,
    offline: bool = False,
    say: Callable[[str], None] = print,
) -> WordDataset:
    """Load a text for word-level language modelling.

    Parameters
    ----------
    dataset : {"auto", "ptb", "manual"}
        "ptb": the Penn Treebank or an error: 929,589 / 73,760 / 82,430 words of a vocabulary of 10,000, counting the
        `<eos>` at the end of every line. "manual": the Python manual, which stands in for it, with an `<eos>` at the
        end of every paragraph. "auto": PTB if it is in the data folder or can be downloaded, else the manual, with one
        line through `say`; but no stand-in where a `data_dir` was asked for, and none for a PTB file that is there and
        broken.
    data_dir : str, Path or None
        See `data_folder`.
    offline : bool
        Download nothing.
    say : callable
        Receives the line about the stand-in.

    Raises
    ------
    UserError
        An unknown `dataset`; PTB is wanted and missing, or damaged.
    """
    loaders = {"ptb": lambda: _load_ptb(data_dir, offline), "manual": _load_manual}
    return load_or_stand_in("PTB", loaders, dataset, data_dir, offline, say)


def _load_ptb(data_dir: str | Path | None, offline: bool) -> WordDataset:
    raw, sha256 = read_all(PTB_FILES, data_dir, offline=offline)
    return _encode("PTB", [split.decode(errors="replace").replace("\n", f" {END} ").split() for split in raw], sha256)


def _load_manual() -> WordDataset:
    """Load the stand-in. Its lines are broken anywhere, so that here a paragraph is what a line is in PTB."""
    raw, sha256 = read_manual()
    splits = [_manual_words(split.decode()) for split in raw]
    counts = Counter(splits[0])
    common = [[word if counts[word] >= RARE else UNKNOWN for word in split] for split in splits]
    return _encode(f"{manual_name()} (stand-in)", common, sha256)


def _manual_words(text: str) -> list[str]:
    """Cut paragraphs into lower-case words and single punctuation marks.

    A mark that comes four times or more in a row is a rule or the border of a table, and counts once: else every tenth
    word of the text would be a "-" after a "-".
    """
    text = re.sub(r"([^\w\s])\1{3,}", r"\1", text.lower())
    return re.findall(rf"{END}|\w+|[^\w\s]", text.replace("\n\n", f" {END} "))


def _encode(name: str, splits: Sequence[list[str]], sha256: dict[str, str]) -> WordDataset:
    """Turn words into indices of the vocabulary of the first split, which must have all words of the others."""
    counts = Counter(splits[0])
    words = tuple(sorted(counts, key=lambda word: (-counts[word], word)))  # (V,)
    index = {word: i for i, word in enumerate(words)}
    strange = set().union(*splits[1:]) - counts.keys()
    if strange:
        raise UserError(
            f"{name}: the training text has no {reprlib.repr(min(strange))}, which validation or test have: {REPAIR}"
        )
    train, valid, test = (np.array([index[word] for word in split], np.int32) for split in splits)  # (N,)
    return WordDataset(name, train, valid, test, words, sha256)
