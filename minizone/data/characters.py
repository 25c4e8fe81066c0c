"""Penn Treebank (PTB) for models that read one character at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from minizone.data.common import SPLITS, load_or_stand_in
from minizone.data.download import read_all
from minizone.data.manual import manual_name, read_manual
from minizone.data.text import TextDataset, encode_characters
from minizone.errors import UserError

PTB_FILES = tuple(f"ptb/ptb.{split}.txt" for split in SPLITS)
FORMS = {"authors": "PTB, authors' form", "stripped": "PTB, stripped form"}  # the names of the data sets


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
        "ptb": the Penn Treebank. "manual": its stand-in, the Python manual. "auto": PTB, or else the manual; see
        `load_or_stand_in`.
    data_dir : str, Path or None
        See `data_folder`.
    form : {"authors", "stripped"}
        "authors": 5,059,550 / 396,412 / 446,184 characters, as in the arrays of the paper's authors, with a space at
        the end of each line. "stripped": 5,017,482 / 393,042 / 442,423, without these spaces. Bits per character of the
        two forms are not comparable. The form of the manual is always the same.
    offline : bool
        Download nothing.
    say : callable
        Receives one line of text when "auto" loads the manual.

    Raises
    ------
    UserError
        `dataset` or `form` is unknown, or PTB is needed and missing or damaged.
    """
    if form not in FORMS:
        raise UserError(f"form must be one of {', '.join(FORMS)}, got {form!r}")
    loaders = {"ptb": lambda: _load_ptb(data_dir, form, offline), "manual": _load_manual}
    return load_or_stand_in("PTB", loaders, dataset, data_dir, offline, say)


def _load_ptb(data_dir: str | Path | None, form: str, offline: bool) -> TextDataset:
    files, sha256 = read_all(PTB_FILES, data_dir, offline=offline)
    return encode_characters(FORMS[form], [_ptb_form(raw, form) for raw in files], sha256)


def _ptb_form(raw: bytes, form: str) -> bytes:
    r"""Change the lines of a PTB file, `" a b \n"`, to the authors' form, `"a b \n"`, or the stripped one, `"a b\n"`.

    The lengths of the authors' arrays show that they have one more space per line than the stripped text, but not
    which one. We keep the space at the end, so that every word is followed by a space. With the space at the beginning
    the text would have the same length and the same characters, and it would be as hard to predict, because either
    text can be computed from the other.
    """
    authors = raw[1:].replace(b"\n ", b"\n")
    return authors if form == "authors" else authors.replace(b" \n", b"\n")


def _load_manual() -> TextDataset:
    texts, sha256 = read_manual()
    return encode_characters(f"{manual_name()} (stand-in)", texts, sha256)
