"""Penn Treebank (PTB) for models that read one word at a time."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from minizone.data.characters import PTB_FILES
from minizone.data.common import load_or_stand_in
from minizone.data.download import read_all
from minizone.data.manual import manual_name, read_manual
from minizone.data.text import TextDataset, encode_words

END, UNKNOWN = "<eos>", "<unk>"
RARE = 3  # words that occur less often in the training text of the manual become <unk>


def load_words(
    dataset: str = "auto",
    data_dir: str | Path | None = None,
    *,
    offline: bool = False,
    say: Callable[[str], None] = print,
) -> TextDataset:
    """Load a text for word-level language modelling.

    Parameters
    ----------
    dataset : {"auto", "ptb", "manual"}
        "ptb": the Penn Treebank, 929,589 / 73,760 / 82,430 words from a vocabulary of 10,000, counting the `<eos>` at
        the end of each line. "manual": its stand-in, the Python manual, with an `<eos>` at the end of each paragraph.
        "auto": PTB, or else the manual; see `load_or_stand_in`.
    data_dir : str, Path or None
        See `data_folder`.
    offline : bool
        Download nothing.
    say : callable
        Receives one line of text when "auto" loads the manual.

    Raises
    ------
    UserError
        `dataset` is unknown, or PTB is needed and missing or damaged.
    """
    loaders = {"ptb": lambda: _load_ptb(data_dir, offline), "manual": _load_manual}
    return load_or_stand_in("PTB", loaders, dataset, data_dir, offline, say)


def _load_ptb(data_dir: str | Path | None, offline: bool) -> TextDataset:
    files, sha256 = read_all(PTB_FILES, data_dir, offline=offline)
    splits = [raw.decode().replace("\n", f" {END} ").split() for raw in files]
    return encode_words("PTB", splits, sha256)


def _load_manual() -> TextDataset:
    """Load the stand-in. Its lines are broken at a fixed width, so a paragraph takes the place of a line of PTB."""
    texts, sha256 = read_manual()
    splits = [_manual_words(text.decode()) for text in texts]
    counts = Counter(splits[0])
    common = [[word if counts[word] >= RARE else UNKNOWN for word in words] for words in splits]
    return encode_words(f"{manual_name()} (stand-in)", common, sha256)


def _manual_words(text: str) -> list[str]:
    """Cut a text into lower-case words and single punctuation marks.

    Four or more equal marks in a row count as one: they are horizontal rules and borders of tables, which would
    otherwise be a tenth of all words.
    """
    text = re.sub(r"([^\w\s])\1{3,}", r"\1", text.lower())
    return re.findall(rf"{END}|\w+|[^\w\s]", text.replace("\n\n", f" {END} "))
