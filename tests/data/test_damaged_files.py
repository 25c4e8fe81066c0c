"""A data file that differs from the table is never used, and one sentence says what is wrong with it."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import pytest

from minizone.data.download import KNOWN_FILES, KnownFile, MissingFile, read_verified
from minizone.errors import UserError
from tests.helpers import NOWHERE, SMALL, TRAIN

pytestmark = pytest.mark.usefixtures("nobody_elses_files")
RAW = SMALL[TRAIN]
PAGE = b"\n<!DOCTYPE html>\r\n<html>please log in</html>"
REPAIR = ": delete it and run again to download it"


def sentence(folder: Path, raw: bytes, name: str = TRAIN) -> str:
    """What is said about a file with these bytes."""
    (folder / TRAIN).unlink(missing_ok=True)
    (folder / name).write_bytes(raw)
    with pytest.raises(UserError) as error:
        read_verified(TRAIN, folder, offline=True)
    message = str(error.value)
    assert not isinstance(error.value, MissingFile), "a damaged file must not be replaced by a stand-in"
    assert message.startswith(f"{folder / name} ") and "\n" not in message
    return message.removeprefix(f"{folder / name} ")


def digest(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()[:12]


DAMAGED = {
    "one byte appended": (RAW + b"\n", f"is longer than the expected {len(RAW)} bytes"),
    "another, much longer file": (RAW * 1000, f"is longer than the expected {len(RAW)} bytes"),
    "empty": (b"", f"has only 0 of {len(RAW)} bytes"),
    "Windows line endings": (RAW.replace(b"\n", b"\r\n"), "has Windows line endings (CRLF)"),
    "byte order mark": (b"\xef\xbb\xbf" + RAW, "begins with a byte order mark (BOM)"),
    "web page": (PAGE, "is a web page (HTML or XML)"),
    "error of a store of files": (b'\xef\xbb\xbf<?xml version="1.0"?><Error>', "is a web page (HTML or XML)"),
    "packed": (gzip.compress(RAW), "is compressed with gzip once more than its name says"),
    "UTF-16": (RAW.decode().encode("utf-16"), "is not valid UTF-8 (byte 0xff at offset 0)"),
    "one word changed": (
        RAW.replace(b"cat", b"dog"),
        f"has the right size, but other bytes: sha256 {digest(RAW.replace(b'cat', b'dog'))}...,"
        f" expected {digest(RAW)}...",
    ),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_what_is_wrong_with_a_file(small, kind):
    raw, difference = DAMAGED[kind]
    assert sentence(small, raw) == difference + REPAIR
    assert sentence(small, gzip.compress(raw), TRAIN + ".gz") == difference + REPAIR


def test_every_truncation_is_reported(small):
    for size in range(len(RAW)):
        assert sentence(small, RAW[:size]) == f"has only {size} of {len(RAW)} bytes{REPAIR}"


def test_every_truncated_gzip_file_is_reported(small):
    packed = gzip.compress(RAW, mtime=0)
    for size in range(1, len(packed)):
        assert "is not a whole gzip file" in sentence(small, packed[:size], TRAIN + ".gz")


def test_a_file_that_is_not_packed_under_a_packed_name(small):
    assert sentence(small, PAGE, TRAIN + ".gz") == "is a web page (HTML or XML)" + REPAIR
    assert sentence(small, RAW, TRAIN + ".gz").startswith("is not a whole gzip file (Not a gzipped file")


def test_a_damaged_binary_file_is_not_described_as_a_text(small, monkeypatch):
    raw = b"\x00\xff\r\n" * 9
    row = KnownFile(hashlib.sha256(raw).hexdigest(), len(raw), NOWHERE, is_text=False)
    monkeypatch.setitem(KNOWN_FILES, TRAIN, row)
    assert sentence(small, b"\x00\xfe\r\n" * 9).startswith("has the right size, but other bytes: sha256 ")
    assert sentence(small, PAGE) == "is a web page (HTML or XML)" + REPAIR


def test_a_file_that_cannot_be_read(small, monkeypatch):
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError, match=r"ptb\.train\.txt cannot be read: Permission denied"):
        read_verified(TRAIN, small, offline=True)
