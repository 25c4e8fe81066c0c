"""A user's own text, in UTF-8, for models that read one character or one word at a time."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from minizone.data.common import SPLITS
from minizone.data.text import TextDataset, encode_words
from minizone.data.words import END, UNKNOWN
from minizone.errors import UserError

UNICODE = 0x110000  # code points
EAST_ASIAN = (
    "[\u3000-\u30ff\u3400-\u9fff\uf900-\ufaff\uff01-\uff9f\U00020000-\U0003ffff]"  # Chinese, kana, and their marks
)

Symbols = TypeVar("Symbols", bound=Sequence[str])  # a text, or a list of words


def load_own_characters(paths: Sequence[str], say: Callable[[str], None] = print) -> TextDataset:
    """Load a user's text for character-level language modelling.

    Parameters
    ----------
    paths : sequence of str
        One file, which is split 90 / 5 / 5 by position; or three files, for training, validation and test.
    say : callable
        Receives one line of text: the sizes, the split, and what was changed.

    Returns
    -------
    TextDataset
        It has the name of the first file. The vocabulary is the sorted characters of the training text. Other
        characters of validation and test become `<unk>`, which is then the last entry of the vocabulary.

    Raises
    ------
    UserError
        A file is missing, empty or not UTF-8, or there is too little text.
    """
    texts, sha256, changes = _read_all(paths)
    codes = [np.frombuffer(text.encode("utf-32-le"), np.uint32) for text in _split(texts)]  # each (N,)
    in_training = np.zeros(UNICODE, bool)
    in_training[codes[0]] = True
    used = np.flatnonzero(in_training)  # (V,)
    unknown = used.size
    index = np.full(UNICODE, unknown, np.min_scalar_type(unknown))  # of each code point
    index[used] = np.arange(used.size)
    train, valid, test = (index[each] for each in codes)  # (N,)
    vocabulary = tuple(map(chr, used))
    if unknown in valid or unknown in test:
        vocabulary += (UNKNOWN,)
    data = TextDataset(Path(paths[0]).name, train, valid, test, vocabulary, sha256, own=True)
    return _checked(data, len(paths) == 1, changes, say)


def load_own_words(
    paths: Sequence[str],
    vocabulary_size: int = 10_000,
    *,
    tokenized: bool = False,
    say: Callable[[str], None] = print,
) -> TextDataset:
    """Load a user's text for word-level language modelling.

    Parameters
    ----------
    paths, say
        As in `load_own_characters`.
    vocabulary_size : int
        Largest size of the vocabulary, including `<eos>` and `<unk>`. The most frequent words of the training text
        are kept. Other words become `<unk>`.
    tokenized : bool
        See `cut_words`.
    """
    texts, sha256, changes = _read_all(paths)
    splits = _split([cut_words(text, tokenized) for text in texts])
    counts = Counter(splits[0])
    by_frequency = sorted(counts.keys() - {END, UNKNOWN}, key=lambda word: (-counts[word], word))
    kept = {END, UNKNOWN, *by_frequency[: vocabulary_size - 2]}
    known = [[word if word in kept else UNKNOWN for word in words] for words in splits]
    data = encode_words(Path(paths[0]).name, known, sha256, own=True)
    return _checked(data, len(paths) == 1, changes, say)


def cut_words(text: str, tokenized: bool = False) -> list[str]:
    """Cut a text into words. The end of each line is the word `<eos>`.

    Parameters
    ----------
    text : str
    tokenized : bool
        True: words are separated by spaces, as in PTB. False: a word is a run of letters and digits, possibly with an
        apostrophe or a hyphen inside ("don't", "well-known"), or a number ("1,000.5"). Each other mark, Chinese
        character and Japanese kana is a word. `<unk>` is one word.
    """
    if tokenized:
        return text.replace("\n", f" {END} ").split()
    letters = "".join(c for c in set(text) if unicodedata.category(c)[0] in "LMN" and not re.match(EAST_ASIAN, c))
    word = f"[{letters}_]+"  # accents and vowel signs, which are categories M, count as letters; \w lacks them
    pattern = rf"{END}|{UNKNOWN}|{word}(?:(?:['\u2019-]|(?<=\d)[.,](?=\d)){word})*|\S"
    return re.findall(pattern, text.replace("\n", f" {END} "))


def _read_all(paths: Sequence[str]) -> tuple[list[str], dict[str, str], list[str]]:
    """Return the texts of the files, the sha256 of each file on disk, and what was changed in the texts."""
    texts, sha256, changes = [], {}, []
    for path, split in zip(paths, SPLITS, strict=False):
        try:
            raw = Path(path).read_bytes()
        except OSError as error:
            raise UserError(f"the text {path} cannot be read: {error.strerror}") from None
        name = Path(path).name
        sha256[name if len(paths) == 1 else f"{split}: {name}"] = hashlib.sha256(raw).hexdigest()
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(
                f"{path} is not a text in UTF-8 (byte 0x{raw[error.start]:02x} at offset {error.start:,}): decompress"
                " it if it is compressed, or convert it, for example with iconv"
            ) from None
        if "\0" in text:
            raise UserError(f"{path} is not a text: it has a zero byte at offset {raw.index(0):,}")
        if text.startswith("\ufeff"):
            text = text[1:]
            changes.append(f"the byte order mark (BOM) of {name} was removed")
        if "\r\n" in text:
            text = text.replace("\r\n", "\n")
            changes.append(f"the CRLF line endings of {name} became LF")
        if not text:
            raise UserError(f"the text {path} is empty")
        texts.append(text)
    return texts, sha256, changes


def _split(texts: Sequence[Symbols]) -> Sequence[Symbols]:
    """Split a single text 90 / 5 / 5 by position; three texts stay as they are."""
    if len(texts) == 3:
        return texts
    (text,) = texts
    n = len(text)
    parts = text[: n * 90 // 100], text[n * 90 // 100 : n * 95 // 100], text[n * 95 // 100 :]
    return parts  # type: ignore[return-value]  # a slice has the type of the whole


def _checked(data: TextDataset, is_split: bool, changes: list[str], say: Callable[[str], None]) -> TextDataset:
    """Describe the data in one line. UserError if a split is too short for sequences of two symbols."""
    splits = (data.train, data.valid, data.test)
    sizes = " / ".join(f"{len(split):,}" for split in splits) + f" {data.unit} to train / validate / test on"
    if len(data.train) < 4 or len(data.valid) < 2 or len(data.test) < 2:
        raise UserError(f"{data.name} is too short: {sizes}")
    notes = [sizes, f"a vocabulary of {data.vocabulary_size:,}", *changes]
    if is_split:
        notes.insert(1, "split 90/5/5 by position (or give --valid-text and --test-text)")
    if UNKNOWN in data.vocabulary:
        unknown = data.vocabulary.index(UNKNOWN)
        notes.append(" / ".join(f"{np.count_nonzero(split == unknown):,}" for split in splits) + f" are {UNKNOWN}")
    say(f"{data.name}: {'; '.join(notes)}")
    return data
