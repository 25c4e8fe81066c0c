"""text8: the files it is read from, what is refused, how much memory it takes, and when the manual replaces it."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tracemalloc
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pooch  # type: ignore[import-untyped]
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minizone.data import TextDataset, load_characters, load_text8, text8
from minizone.data.download import KNOWN_FILES, KnownFile
from minizone.data.text8 import SYMBOLS
from minizone.errors import UserError
from tests.helpers import NOWHERE, check_stand_in, known, real_data

pytestmark = pytest.mark.usefixtures("nobody_elses_files")
SPLITS = ("train", "valid", "test")
RAW = b" anarchism originated as a term of abuse the quick brown fox jumps over the lazy dog" * 5  # 420 characters


def zipped(raw: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(zipfile.ZipInfo("text8"), raw, zipfile.ZIP_DEFLATED)  # which has a fixed date
    return file.getvalue()


def row(archive: bytes) -> KnownFile:
    return replace(known(archive), is_text=False)


def text(data: TextDataset) -> bytes:
    """The whole text, from indices back into characters."""
    return "".join(data.vocabulary[index] for split in SPLITS for index in getattr(data, split)).encode()


@pytest.fixture(scope="module")
def module_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    (folder / "text8").mkdir()
    return folder


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A data folder without a text8, where the table expects an archive of a short one."""
    monkeypatch.setitem(KNOWN_FILES, "text8/text8.zip", row(zipped(RAW)))
    (tmp_path / "data" / "text8").mkdir(parents=True)
    return tmp_path / "data"


FORMS: dict[str, Callable[[bytes], bytes]] = {
    "text8": bytes,
    "text8.gz": gzip.compress,
    "text8.zip": zipped,
    "text8.prefix": bytes,
    "text8.prefix.gz": gzip.compress,
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_the_file(folder, name):
    (folder / "text8" / name).write_bytes(FORMS[name](RAW))
    data = load_text8(data_dir=folder, offline=True, say=pytest.fail)
    assert data.name == "text8 prefix of 420 characters"
    assert text(data) == RAW and [getattr(data, split).size for split in SPLITS] == [378, 21, 21]
    stem = "text8.prefix" if "prefix" in name else "text8"
    assert data.sha256 == {stem: hashlib.sha256(RAW).hexdigest()}


def test_the_larger_file_is_preferred(folder):
    """And a plain file before a packed one."""
    for length, name in enumerate(reversed(FORMS), 100):
        raw = RAW if name == "text8.zip" else RAW[:length]
        (folder / "text8" / name).write_bytes(FORMS[name](raw))
        assert text(load_text8("text8", folder)) == raw, name


def test_symbols_are_the_blank_and_the_alphabet(folder):
    (folder / "text8/text8").write_bytes(b" abcdefghijklmnopqrstuvwxyz")
    data = load_text8(data_dir=folder)
    assert data.vocabulary == SYMBOLS == tuple(" abcdefghijklmnopqrstuvwxyz")
    assert list(np.concatenate([data.train, data.valid, data.test])) == list(range(27))


@pytest.mark.parametrize("n", [20, 21, 39, 40, 99, 100, 1000])
def test_proportions(folder, n):
    (folder / "text8/text8.prefix").write_bytes((RAW * 3)[:n])
    data = load_text8(data_dir=folder)
    sizes = [getattr(data, split).size for split in SPLITS]
    assert sum(sizes) == n and min(sizes) >= 1
    assert all(abs(size - share * n) < 1 for size, share in zip(sizes, (0.9, 0.05, 0.05), strict=True))


def test_whole_text_has_the_plain_name(folder, monkeypatch):
    monkeypatch.setattr(text8, "WHOLE", 420)
    for raw, name in ((RAW, "text8"), (RAW[:-1], "text8 prefix of 419 characters")):
        (folder / "text8/text8").write_bytes(raw)
        assert load_text8(data_dir=folder).name == name
    assert load_text8(data_dir=folder).first(100, 9).name == (
        "text8 prefix of 419 characters, first 100 characters, evaluated on the first 9"
    )


# ---- what can be wrong


@pytest.mark.parametrize("name", ["text8", "text8.gz", "text8.prefix"])
def test_longer_text_is_not_text8(folder, monkeypatch, name):
    monkeypatch.setattr(text8, "WHOLE", 419)
    (folder / "text8" / name).write_bytes(FORMS[name](RAW))
    with pytest.raises(UserError, match=rf"{name} is longer than the 419 characters of text8: delete it and run again"):
        load_text8(data_dir=folder)


@pytest.mark.parametrize("n", [0, 1, 19])
def test_text_too_short_to_be_split(folder, n):
    (folder / "text8/text8").write_bytes(RAW[:n])
    with pytest.raises(UserError, match=f"text8 has {n} characters, too few to be split 90 / 5 / 5"):
        load_text8(data_dir=folder)


@given(st.integers(0, 255).filter(lambda byte: chr(byte) not in SYMBOLS), st.integers(0, 419))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_other_byte_is_refused_with_its_offset(module_folder, byte, offset):
    raw = RAW[:offset] + bytes([byte]) + RAW[offset + 1 :]
    (module_folder / "text8/text8").write_bytes(raw)
    for chunk in (1, 64, 1 << 20):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(UserError) as error:
            patch.setattr(text8, "CHUNK", chunk)
            load_text8(data_dir=module_folder)
        assert f"text8/text8 has the byte 0x{byte:02x} at offset {offset}, but" in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["text8", "text8.gz", "text8.prefix"])
@pytest.mark.parametrize(
    ("raw", "difference"),
    [
        (b"<!DOCTYPE html>\n<html>", "is a web page (HTML or XML)"),
        (b"\xef\xbb\xbf" + RAW, "begins with a byte order mark (BOM)"),
        (RAW + b"\r\n", "has Windows line endings (CRLF)"),
        (gzip.compress(RAW), "is compressed with gzip once more than its name says"),
    ],
    ids=["web page", "byte order mark", "line endings", "packed"],
)
def test_what_another_file_is(folder, name, raw, difference):
    (folder / "text8" / name).write_bytes(FORMS[name](raw))
    with pytest.raises(UserError) as error:
        load_text8(data_dir=folder)
    assert str(error.value) == f"{folder / 'text8' / name} {difference}: delete it and run again to download it"


def test_damaged_packed_files(folder):
    packed = gzip.compress(RAW)
    for name in ("text8.gz", "text8.prefix.gz"):
        (folder / "text8" / name).write_bytes(packed[:-9])
        with pytest.raises(UserError, match=rf"{name} is not a whole gzip file .*delete it and run again"):
            load_text8(data_dir=folder)
        (folder / "text8" / name).unlink()
    (folder / "text8/text8.zip").write_bytes(zipped(RAW)[:-1])
    with pytest.raises(UserError, match=r"text8\.zip has only .* bytes: delete it and run again"):
        load_text8(data_dir=folder)


def test_no_stand_in_for_a_damaged_file(folder, monkeypatch):
    monkeypatch.setenv("MINIZONE_DATA", str(folder))
    for name, raw in (("text8.prefix", b"With capitals and marks."), ("text8.zip", b"no zip"), ("text8.gz", b"no gz")):
        (folder / "text8" / name).write_bytes(raw)
        with pytest.raises(UserError, match=rf"text8/{name} .*delete it and run again"):
            load_text8(offline=True, say=pytest.fail)


# ---- the archive is downloaded


def test_missing_archive_is_downloaded_verified_and_kept(folder, monkeypatch):
    asked = []

    def answer(self, url, output_file, pooch, check_only=False):
        asked.append(url)
        Path(output_file).write_bytes(b"please log in" if url == NOWHERE[0] else zipped(RAW))

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", answer)
    assert text(load_text8("text8", folder)) == RAW
    assert asked == list(NOWHERE), "the first had the wrong sha256"
    assert os.listdir(folder / "text8") == ["text8.zip"]
    assert text(load_text8("text8", folder)) == RAW and len(asked) == 2


def test_prefix_that_is_there_is_not_downloaded_over(folder, monkeypatch):
    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", pytest.fail)
    (folder / "text8/text8.prefix").write_bytes(RAW[:100])
    assert load_text8("text8", folder).name == "text8 prefix of 100 characters"


# ---- memory


def test_splits_are_views_of_one_array_of_bytes(folder):
    (folder / "text8/text8").write_bytes(RAW)
    data = load_text8(data_dir=folder)
    parts = [getattr(data, split) for split in SPLITS]
    assert all(part.dtype == np.uint8 and part.ndim == 1 for part in parts)
    start, *others = (part.__array_interface__["data"][0] for part in parts)
    assert others == [start + 378, start + 399]


@pytest.mark.parametrize("name", ["text8", "text8.gz", "text8.zip"])
def test_reading_takes_little_more_memory_than_the_text(folder, monkeypatch, name):
    block = (np.random.default_rng(0).integers(0, 26, 1_000_000, np.uint8) + 97).tobytes()
    N = 20 * len(block)
    raw = FORMS[name](block * 20)
    (folder / "text8" / name).write_bytes(raw)
    monkeypatch.setitem(KNOWN_FILES, "text8/text8.zip", row(raw))
    in_memory = len(raw) if name == "text8.zip" else 0  # the archive, which is verified before it is opened
    del raw
    tracemalloc.start()
    try:
        data = load_text8(data_dir=folder)
        assert tracemalloc.get_traced_memory()[1] - in_memory < 1.3 * N
        assert tracemalloc.get_traced_memory()[0] < 1.2 * N
    finally:
        tracemalloc.stop()
    assert data.train.size == 0.9 * N


# ---- the stand-in


def test_when_the_manual_stands_in(tmp_path):
    check_stand_in(load_text8, "text8", "auto, text8, manual", tmp_path)


def test_stand_in_where_no_mirror_answers(monkeypatch):
    monkeypatch.setitem(KNOWN_FILES, "text8/text8.zip", row(zipped(RAW)))
    said: list[str] = []
    assert "manual" in load_text8(say=said.append).name and len(said) == 1


def test_manual_is_reduced_to_the_symbols_of_text8():
    data, characters = load_text8("manual"), load_characters("manual")
    assert data.name == characters.name.replace(" (stand-in)", " in 27 symbols (stand-in)")
    assert data.vocabulary == SYMBOLS and data.sha256 == characters.sha256
    for split in SPLITS:
        original = "".join(characters.vocabulary[index] for index in getattr(characters, split))
        reduced = "".join(data.vocabulary[index] for index in getattr(data, split))
        assert getattr(data, split).dtype == np.uint8 and "  " not in reduced
        only_letters = "".join(c if c in SYMBOLS else " " for c in original.lower())
        assert reduced.split() == only_letters.split()
        assert (getattr(data, split) == 0).sum() == reduced.count(" ") > 0


# ---- the real file: MINIZONE_DATA=folder pytest tests/data/test_text8.py


def test_prefix_of_text8():
    data = load_text8("text8", real_data("text8"), offline=True)
    if data.name == "text8":
        pytest.skip("the whole of text8 is there")
    n = sum(getattr(data, split).size for split in SPLITS)
    assert data.name == f"text8 prefix of {n:,} characters" and data.vocabulary_size == 27
    beginning = "".join(data.vocabulary[index] for index in data.train[:58])
    assert beginning == " anarchism originated as a term of abuse first used agains"
    assert np.unique(data.train).size == 27
    if n == 6_877_825:
        assert [getattr(data, split).size for split in SPLITS] == [6_190_042, 343_891, 343_892]
        assert data.sha256 == {"text8.prefix": "8c5551457ad85e6f248e016443493f940756c7582473e6bbfcafcbe27fc98836"}
