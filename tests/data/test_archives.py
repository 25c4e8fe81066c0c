"""An archive that holds something else than the text, and one whose names would lead out of its folder."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest

from minizone.data import load_text8
from minizone.data.download import KNOWN_FILES
from minizone.errors import UserError
from tests.helpers import known

pytestmark = pytest.mark.usefixtures("nobody_elses_files")
ARCHIVE = "text8/text8.zip"


def archive(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in members.items():
            opened.writestr(name, content)
    return file.getvalue()


def put_archive(folder: Path, monkeypatch: pytest.MonkeyPatch, raw: bytes) -> None:
    """An archive that the table knows: what is left to fear is what is in it."""
    (folder / "text8").mkdir(parents=True, exist_ok=True)
    (folder / ARCHIVE).write_bytes(raw)
    monkeypatch.setitem(KNOWN_FILES, ARCHIVE, known(raw))


def test_an_archive_writes_nothing_anywhere(tmp_path, monkeypatch):
    evil = {"../evil": b"x", "../../evil": b"x", "/tmp/minizone-evil": b"x", "text8/../../../evil": b"x"}
    put_archive(tmp_path / "a" / "b", monkeypatch, archive(**evil, text8=b"a b c " * 50))
    assert len(load_text8("text8", tmp_path / "a" / "b", offline=True).train) == 270
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["text8.zip"]
    assert not Path("/tmp/minizone-evil").exists()


ARCHIVES = {
    "without the text": archive(other=b"a b c " * 50),
    "with nothing": archive(),
    "that is none": b"PK\x03\x04 not a zip file",
    "with the text in a folder": archive(**{"data/text8": b"a b c " * 50}),
    "of more than 10^8 characters": archive(text8=bytes([32]) * 100_000_001),
    "cut": archive(text8=b"a b c " * 50)[:60],
    "with a wrong checksum": archive(text8=b"a b c " * 50).replace(
        zipfile.ZipFile(io.BytesIO(archive(text8=b"a b c " * 50))).getinfo("text8").CRC.to_bytes(4, "little"), b"CRC?"
    ),
}


@pytest.mark.parametrize("kind", ARCHIVES)
def test_an_archive_that_holds_something_else_is_a_sentence(tmp_path, monkeypatch, kind):
    put_archive(tmp_path, monkeypatch, ARCHIVES[kind])
    with pytest.raises(UserError, match=r"text8\.zip") as error:
        load_text8("text8", tmp_path, offline=True)
    assert "\n" not in str(error.value)
