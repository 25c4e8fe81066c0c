"""text8: the first 100 million characters of a cleaned Wikipedia, and the Python manual in its stead."""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import IO
from zipfile import BadZipFile, ZipFile

import numpy as np

from minizone.data.characters import TextDataset, manual_name, read_manual
from minizone.data.common import load_or_stand_in
from minizone.data.download import REPAIR, find, read_verified, unpacked
from minizone.errors import UserError

SYMBOLS = " abcdefghijklmnopqrstuvwxyz"
OTHER = 255  # the "index" of a byte that is none of the symbols
INDEX = bytes(SYMBOLS.find(chr(byte)) % 256 for byte in range(256))  # of every byte; find gives -1 for the others
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
    """Load text8: 27 symbols, the blank (index 0) and a to z, split 90 / 5 / 5 by position.

    The three splits are views of one array with a byte a character, and the file is read once, in chunks: 100 MB of
    text take little more than 100 MB, and where there is only the archive, the 31 MB of that while it is read.

    Parameters
    ----------
    dataset : {"auto", "text8", "manual"}
        "text8": `text8/text8` in the data folder, plain or `.gz`; else `text8/text8.zip`; else a shorter piece of it
        by the name `text8/text8.prefix`, plain or `.gz`; else the archive is downloaded; else an error. Whichever file
        has fewer than 100,000,000 characters is split in the same proportions and called a prefix. "manual": the
        Python manual, which stands in for it, in lower case, with a blank for every run of other characters. "auto":
        text8 if it is in the data folder or can be downloaded, else the manual, with one line through `say`; but no
        stand-in where a `data_dir` was asked for, and none for a file that is there and broken.
    data_dir : str, Path or None
        See `data_folder`.
    offline : bool
        Download nothing.
    say : callable
        Receives the line about the stand-in.

    Raises
    ------
    UserError
        An unknown `dataset`; text8 is wanted and missing, or what is there is damaged, too long, too short to be split,
        or has other characters.
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
    try:  # Nothing is unpacked to the disk, whatever the names in the archive: one member is read, from memory.
        with ZipFile(archive) as members, members.open("text8") as file:
            return _read(file, Path(ARCHIVE) / "text8")
    except KeyError:
        raise UserError(f"{ARCHIVE} has no member named text8: {REPAIR}") from None
    except UserError:  # of what is in the text; it is a ValueError too
        raise
    # ValueError: an offset that is negative. RuntimeError: a cipher or a method that zipfile does not know.
    except (BadZipFile, EOFError, zlib.error, OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{ARCHIVE} is not a whole zip file ({error}): {REPAIR}") from error


def _read(file: IO[bytes], path: Path) -> TextDataset:
    """Read characters as indices. `path` is what the file is called in an error."""
    text, digest = bytearray(), hashlib.sha256()
    while chunk := file.read(CHUNK):
        indices = chunk.translate(INDEX)
        other = indices.find(OTHER)
        if other >= 0:
            raise UserError(
                f"{path} has the byte 0x{chunk[other]:02x} at offset {len(text) + other:,}, and text8 has nothing but a"
                f" to z and blanks: {REPAIR}"
            )
        digest.update(chunk)
        text += indices
        if len(text) > WHOLE:
            raise UserError(f"{path} holds more than the {WHOLE:,} characters of text8: {REPAIR}")
    n = len(text)
    if n < 20:
        raise UserError(f"{path} holds {n} characters, too few to be split 90 / 5 / 5: {REPAIR}")
    name = "text8" if n == WHOLE else f"text8 prefix of {n:,} characters"
    whole = np.frombuffer(text, np.uint8)  # (n,), no copy
    train, valid, test = np.split(whole, [n * 90 // 100, n * 95 // 100])
    return TextDataset(name, train, valid, test, SYMBOLS, {path.name.removesuffix(".gz"): digest.hexdigest()})


def _load_manual() -> TextDataset:
    raw, sha256 = read_manual()
    texts = [re.sub(rb"[^a-z]+", b" ", split.lower()) for split in raw]
    train, valid, test = (np.frombuffer(text.translate(INDEX), np.uint8) for text in texts)  # (N,)
    return TextDataset(f"{manual_name()} in {len(SYMBOLS)} symbols (stand-in)", train, valid, test, SYMBOLS, sha256)
