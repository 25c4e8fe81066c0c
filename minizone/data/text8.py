"""text8: the first 100 million characters of a cleaned Wikipedia."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import IO
from zipfile import ZipFile

import numpy as np

from minizone.data.common import load_or_stand_in
from minizone.data.download import REPAIR, find, read_verified, recognized, unpacked
from minizone.data.manual import manual_name, read_manual
from minizone.data.text import TextDataset
from minizone.errors import UserError

SYMBOLS = tuple(" abcdefghijklmnopqrstuvwxyz")
OTHER = 255  # the "index" of a byte that is none of the symbols
INDEX = bytes(SYMBOLS.index(chr(byte)) if chr(byte) in SYMBOLS else OTHER for byte in range(256))  # of each byte
WHOLE = 100_000_000  # characters
CHUNK = 1 << 20  # bytes that are read, checked and turned into indices at a time
ARCHIVE = "text8/text8.zip"


def load_text8(
    dataset: str = "auto",
    data_dir: str | Path | None = None,
    *,
    offline: bool = False,
    say: Callable[[str], None] = print,
) -> TextDataset:
    """Load text8: 27 symbols, the space (index 0) and a to z, split 90 / 5 / 5 by position.

    Parameters
    ----------
    dataset : {"auto", "text8", "manual"}
        "text8": the first of these files in the data folder: `text8/text8` (or `.gz`); `text8/text8.zip`;
        `text8/text8.prefix` (or `.gz`), the beginning of the text. If there is none, the archive is downloaded. A text
        of fewer than 100,000,000 characters is called a prefix. "manual": the stand-in, the Python manual in lower
        case, with one space for any other characters. "auto": text8, or else the manual; see `load_or_stand_in`.
    data_dir : str, Path or None
        See `data_folder`.
    offline : bool
        Download nothing.
    say : callable
        Receives one line of text when "auto" loads the manual.

    Raises
    ------
    UserError
        `dataset` is unknown; or text8 is needed, and it is missing, damaged, too long, too short to be split, or has
        other characters.
    """
    loaders = {"text8": lambda: _load_text8(data_dir, offline), "manual": _load_manual}
    return load_or_stand_in("text8", loaders, dataset, data_dir, offline, say)


def _load_text8(data_dir: str | Path | None, offline: bool) -> TextDataset:
    path = find("text8/text8", data_dir)
    if path is None and find(ARCHIVE, data_dir) is None:
        path = find("text8/text8.prefix", data_dir)
    if path is not None:
        with unpacked(path) as file:
            return _read(file, path)
    archive = BytesIO(read_verified(ARCHIVE, data_dir, offline=offline))
    with ZipFile(archive) as members, members.open("text8") as file:
        return _read(file, Path(ARCHIVE) / "text8")


def _read(file: IO[bytes], path: Path) -> TextDataset:
    """Read characters as indices, chunk by chunk, so that 100 MB of text take 100 MB of memory. Errors name `path`."""
    indices = bytearray()  # a byte for each character
    sha256 = hashlib.sha256()
    while chunk := file.read(CHUNK):
        chunk_indices = chunk.translate(INDEX)
        other = chunk_indices.find(OTHER)
        if other >= 0:
            difference = recognized(chunk, is_text=True) or (
                f"has the byte 0x{chunk[other]:02x} at offset {len(indices) + other:,}, but text8 has only the letters"
                " a to z and spaces"
            )
            raise UserError(f"{path} {difference}: {REPAIR}")
        sha256.update(chunk)
        indices += chunk_indices
        if len(indices) > WHOLE:
            raise UserError(f"{path} is longer than the {WHOLE:,} characters of text8: {REPAIR}")
    n = len(indices)
    if n < 20:
        raise UserError(f"{path} has {n} characters, too few to be split 90 / 5 / 5: {REPAIR}")
    name = "text8" if n == WHOLE else f"text8 prefix of {n:,} characters"
    text = np.frombuffer(indices, np.uint8)  # (n,), no copy
    train, valid, test = np.split(text, [n * 90 // 100, n * 95 // 100])
    return TextDataset(name, train, valid, test, SYMBOLS, {path.name.removesuffix(".gz"): sha256.hexdigest()})


def _load_manual() -> TextDataset:
    texts, sha256 = read_manual()
    reduced = [re.sub(rb"[^a-z]+", b" ", text.lower()) for text in texts]
    train, valid, test = (np.frombuffer(text.translate(INDEX), np.uint8) for text in reduced)  # (N,)
    return TextDataset(f"{manual_name()} in {len(SYMBOLS)} symbols (stand-in)", train, valid, test, SYMBOLS, sha256)
