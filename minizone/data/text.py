"""A text as integers: the data set of all language models, and the encodings of characters and of words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from minizone.data.common import name_of_part


@dataclass(frozen=True, eq=False)
class TextDataset:
    """A text in three splits, as indices into its vocabulary.

    Attributes
    ----------
    name : str
        Name in plots and tables.
    train, valid, test : integer array, (N,)
        One index for each character or word, in reading order: uint8 for characters (uint16 or
        uint32 for a large vocabulary), int32 for words.
    vocabulary : tuple of str
        `vocabulary[i]` is the character or word of index i.
    sha256 : dict
        File name -> sha256 (hex) of the uncompressed file, or of the text if it does not come from a file.
    unit : {"characters", "words"}
        What one index stands for.
    own : bool
        Whether it is the user's own text, not that of a paper or a stand-in.
    """

    name: str
    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    vocabulary: tuple[str, ...]
    sha256: dict[str, str]
    unit: Literal["characters", "words"] = "characters"
    own: bool = False

    @property
    def vocabulary_size(self) -> int:
        """V, the number of distinct characters or words."""
        return len(self.vocabulary)

    def first(self, n_train: int = 0, n_eval: int = 0) -> TextDataset:
        """Return the beginning of each split, with a name that says so and the same vocabulary.

        Keeps `n_train` characters or words of `train`, and `n_eval` each of `valid` and `test`. 0 keeps all; a negative
        number raises `UserError`.
        """
        return replace(
            self,
            name=name_of_part(self, n_train, n_eval, self.unit),
            train=self.train[: n_train or None],
            valid=self.valid[: n_eval or None],
            test=self.test[: n_eval or None],
        )


def encode_characters(name: str, splits: Sequence[bytes], sha256: dict[str, str]) -> TextDataset:
    """Turn three texts with one byte per character into indices.

    The vocabulary is the sorted characters of all three texts.
    """
    used = np.unique(np.concatenate([np.unique(np.frombuffer(text, np.uint8)) for text in splits]))  # (V,)
    index = np.zeros(256, np.uint8)  # of each byte
    index[used] = np.arange(used.size)
    train, valid, test = (index[np.frombuffer(text, np.uint8)] for text in splits)  # (N,)
    return TextDataset(name, train, valid, test, tuple(used.tobytes().decode("latin-1")), sha256)


def encode_words(
    name: str, splits: Sequence[Sequence[str]], sha256: dict[str, str], *, own: bool = False
) -> TextDataset:
    """Turn three lists of words into indices.

    The vocabulary is the words of all three lists, sorted by their frequency in the first list, and then
    alphabetically.
    """
    counts = Counter(splits[0])
    for words in splits[1:]:
        counts.update(dict.fromkeys(words, 0))
    vocabulary = tuple(sorted(counts, key=lambda word: (-counts[word], word)))  # (V,)
    index = {word: i for i, word in enumerate(vocabulary)}
    train, valid, test = (np.array([index[word] for word in words], np.int32) for words in splits)  # (N,)
    return TextDataset(name, train, valid, test, vocabulary, sha256, unit="words", own=own)
