"""Data files: found, downloaded, verified. Every way in which a file can be wrong is tried."""

from __future__ import annotations

import gzip
import hashlib
import os
import sys
import threading
import tracemalloc
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pooch  # type: ignore[import-untyped]
import pytest

from minizone.data import download
from minizone.data.download import KNOWN_FILES, KnownFile, MissingFile, data_folder, fetch, find, read_verified
from minizone.errors import UserError
from tests.helpers import NOWHERE, SMALL, TRAIN, known

pytestmark = pytest.mark.usefixtures("nobody_elses_files")


# ---- where the folder is, and what is in it


def test_folder_is_argument_then_environment_then_cache(monkeypatch):
    assert data_folder("here") == Path("here")
    assert data_folder(Path("~") / "here") == Path.home() / "here"
    assert data_folder() == Path(os.environ["MINIZONE_DATA"])
    for unset in (lambda: monkeypatch.setenv("MINIZONE_DATA", ""), lambda: monkeypatch.delenv("MINIZONE_DATA")):
        unset()
        assert data_folder(None) == Path(pooch.os_cache("minizone"))


def test_find_prefers_plain_and_accepts_gz(small):
    plain, packed = small / TRAIN, small / (TRAIN + ".gz")
    packed.write_bytes(gzip.compress(SMALL[TRAIN]))
    assert find(TRAIN, small) == plain
    plain.unlink()
    assert find(TRAIN, small) == packed
    assert read_verified(TRAIN, small, offline=True) == SMALL[TRAIN]
    packed.unlink()
    assert find(TRAIN, small) is None
    assert find(TRAIN, small / "no such folder") is None


def test_offline_names_file_folder_mirrors_and_what_to_do(small):
    (small / TRAIN).unlink()
    with pytest.raises(MissingFile) as error:
        fetch(TRAIN, small, offline=True)
    for part in (TRAIN, str(small), *NOWHERE, "put the file there", "--data-dir"):
        assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_offline_creates_nothing(tmp_path):
    with pytest.raises(MissingFile):
        fetch(TRAIN, tmp_path / "folder", offline=True)
    assert list(tmp_path.iterdir()) == []


def test_folder_that_cannot_be_created(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"file/ptb cannot be created or written \(.*\); give --data-dir"):
        fetch(TRAIN, tmp_path / "file")


def test_folder_that_cannot_be_written(small, monkeypatch):
    (small / TRAIN).unlink()
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root, as in a container, may write anywhere
    with pytest.raises(UserError, match="no permission to write"):
        fetch(TRAIN, small)


def test_table_is_complete():
    for relative, row in KNOWN_FILES.items():
        assert len(bytes.fromhex(row.sha256)) == 32 and row.size > 0 and len(row.urls) >= 2, relative
        assert all(url.startswith("https://") for url in row.urls), relative
        assert row.sha256_gz is not None or not any(url.endswith(".gz") for url in row.urls), relative


def test_module_reexports_what_it_says():
    import minizone.data as data

    assert all(getattr(data, name) is not None for name in data.__all__)
    assert data.fetch is download.fetch


# ---- what is in the file


def test_every_truncation_is_reported_with_both_sizes(small):
    raw = SMALL[TRAIN]
    for size in range(len(raw)):
        (small / TRAIN).write_bytes(raw[:size])
        with pytest.raises(UserError, match=rf"holds {size} bytes, expected {len(raw)}, .*truncated or edited"):
            read_verified(TRAIN, small, offline=True)


def test_every_flipped_bit_is_reported(small):
    for bit in range(8 * len(SMALL[TRAIN])):
        raw = bytearray(SMALL[TRAIN])
        raw[bit // 8] ^= 1 << bit % 8
        (small / TRAIN).write_bytes(raw)
        reason = r"has sha256 \w{12}\.\.\., expected \w{12}" if bit % 8 != 7 else "is not valid UTF-8"
        with pytest.raises(UserError, match=reason) as error:
            read_verified(TRAIN, small, offline=True)
        assert str(small / TRAIN) in str(error.value)
        assert "truncated or edited; delete it and run again to download it" in str(error.value)
        assert not isinstance(error.value, MissingFile)


def test_same_size_edit_names_both_hashes(small):
    edited = SMALL[TRAIN].replace(b"cat", b"dog")
    (small / TRAIN).write_bytes(edited)
    found, expected = (hashlib.sha256(raw).hexdigest()[:12] for raw in (edited, SMALL[TRAIN]))
    with pytest.raises(UserError, match=rf"ptb.train.txt has sha256 {found}\.\.\., expected {expected}\.\.\.:"):
        read_verified(TRAIN, small, offline=True)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_appended_byte_is_reported(small, pack):
    (small / TRAIN).unlink()
    name = TRAIN if pack is bytes else TRAIN + ".gz"
    (small / name).write_bytes(pack(SMALL[TRAIN] + b"\n"))
    with pytest.raises(UserError, match=f"holds more than the expected {len(SMALL[TRAIN])} bytes"):
        read_verified(TRAIN, small, offline=True)


def test_binary_file_is_not_called_bad_text(small, monkeypatch):
    row = known(b"\x00\xff")
    monkeypatch.setitem(KNOWN_FILES, TRAIN, KnownFile(row.sha256, row.size, row.urls, is_text=False))
    (small / TRAIN).write_bytes(b"\x00\xfe")
    with pytest.raises(UserError, match="has sha256"):
        read_verified(TRAIN, small, offline=True)


def test_damaged_gzip_never_yields_other_bytes(small):
    """Cut anywhere, or with any bit flipped: an error or, where the bit did not matter, the right bytes."""
    (small / TRAIN).unlink()
    packed = gzip.compress(SMALL[TRAIN], mtime=0)
    damaged = [packed[:size] for size in range(len(packed))] + [packed + b"trailing"]
    for bit in range(8 * len(packed)):
        flipped = bytearray(packed)
        flipped[bit // 8] ^= 1 << bit % 8
        damaged.append(bytes(flipped))
    reported = 0
    for raw in damaged:
        (small / (TRAIN + ".gz")).write_bytes(raw)
        try:
            assert read_verified(TRAIN, small, offline=True) == SMALL[TRAIN]
        except UserError as error:
            assert "delete it and run again" in str(error)
            reported += 1
    # What may be flipped unseen: bytes 4 to 9 of the header (time, hints), its flag bits, nothing else.
    assert reported >= len(damaged) - 8 * 7


def test_gzip_bomb_is_not_unpacked(small):
    (small / TRAIN).unlink()
    (small / (TRAIN + ".gz")).write_bytes(gzip.compress(bytes(50_000_000), 1))
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="holds more than"):
            read_verified(TRAIN, small, offline=True)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_unreadable_file(small, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError, match=r"ptb\.train\.txt cannot be read: Permission denied"):
        read_verified(TRAIN, small, offline=True)


# ---- mirrors


@pytest.fixture
def mirror():
    """Serve `answers[path] = (status, body, announced length)`, or hang up on None; note who was asked."""
    answers: dict[str, tuple[int, bytes, int] | None] = {}
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            answer = answers[self.path]
            if answer is not None:
                status, body, announced = answer
                self.send_response(status)
                self.send_header("Content-Length", str(announced))
                self.end_headers()
                self.wfile.write(body)
            self.close_connection = True

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    server.answers, server.asked = answers, asked  # type: ignore[attr-defined]
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def offer(mirror, monkeypatch, *, packed=None, **answers) -> None:
    """Make the mirrors of the small training file these answers, in this order."""
    mirror.answers.update({f"/{path}": answer for path, answer in answers.items()})
    urls = tuple(f"http://127.0.0.1:{mirror.server_port}/{path}" for path in answers)
    monkeypatch.setitem(KNOWN_FILES, TRAIN, known(SMALL[TRAIN], urls, packed))


def ok(body: bytes) -> tuple[int, bytes, int]:
    return 200, body, len(body)


BAD = {
    "HTTP 404": (404, b"not here", 8),
    "HTTP 503": (503, b"", 0),
    "wrong sha256": ok(b"<html>please log in</html>"),
    "the connection was cut": (200, SMALL[TRAIN][:10], len(SMALL[TRAIN])),
}


@pytest.mark.parametrize("reason", BAD)
def test_next_mirror_after_a_bad_one(mirror, monkeypatch, tmp_path, capfd, reason):
    pooch.get_logger().setLevel("INFO")
    monkeypatch.setattr(pooch.get_logger().handlers[0], "stream", sys.stderr)  # it holds the one of import time
    offer(mirror, monkeypatch, bad=BAD[reason], good=ok(SMALL[TRAIN]), unneeded=ok(SMALL[TRAIN]))
    assert read_verified(TRAIN, tmp_path / "new" / "folder") == SMALL[TRAIN]
    assert mirror.asked == ["/bad", "/good"]
    assert [path.name for path in (tmp_path / "new/folder/ptb").iterdir()] == ["ptb.train.txt"]
    read_verified(TRAIN, tmp_path / "new" / "folder")
    assert mirror.asked == ["/bad", "/good"], "a file that is there is not downloaded again"
    assert capfd.readouterr() == ("", ""), "no bar and no chatter where stderr is no terminal"


@pytest.mark.parametrize("reason", BAD)
def test_all_mirrors_bad(mirror, monkeypatch, tmp_path, reason):
    offer(mirror, monkeypatch, one=BAD[reason], two=BAD[reason])
    with pytest.raises(MissingFile) as error:
        fetch(TRAIN, tmp_path)
    assert str(error.value).count(f"({reason})") == 2
    assert mirror.asked == ["/one", "/two"]
    assert list((tmp_path / "ptb").iterdir()) == [], "no file, whole or half, under any name"


def test_host_that_does_not_answer_is_asked_once(mirror, monkeypatch, tmp_path):
    offer(mirror, monkeypatch, one=None, two=ok(SMALL[TRAIN]))
    with pytest.raises(MissingFile, match=r"/one \(no answer\), .*/two \(not asked: same host\)"):
        fetch(TRAIN, tmp_path)
    assert mirror.asked == ["/one"]


def test_refused_connection_falls_through_to_another_host(mirror, monkeypatch, tmp_path):
    offer(mirror, monkeypatch, good=ok(SMALL[TRAIN]))
    row = KNOWN_FILES[TRAIN]
    monkeypatch.setitem(KNOWN_FILES, TRAIN, known(SMALL[TRAIN], NOWHERE + row.urls))
    assert read_verified(TRAIN, tmp_path) == SMALL[TRAIN]


def test_gz_mirror_is_kept_packed(mirror, monkeypatch, tmp_path):
    packed = gzip.compress(SMALL[TRAIN])
    offer(mirror, monkeypatch, packed=packed, **{"wrong.gz": ok(packed[:-1]), "right.gz": ok(packed)})
    assert fetch(TRAIN, tmp_path) == tmp_path / (TRAIN + ".gz")
    assert read_verified(TRAIN, tmp_path, offline=True) == SMALL[TRAIN]


def test_progress_bar_on_a_terminal(mirror, monkeypatch, tmp_path, capsys):
    offer(mirror, monkeypatch, good=ok(SMALL[TRAIN]))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    fetch(TRAIN, tmp_path)
    out, err = capsys.readouterr()
    assert out == "" and "100%" in err and "Downloading" not in err


def test_interrupted_download_leaves_nothing(mirror, monkeypatch, tmp_path):
    offer(mirror, monkeypatch, good=ok(SMALL[TRAIN]))

    def interrupted(self, url, output_file, pooch, check_only=False):
        output_file.write(SMALL[TRAIN][:10])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pooch.HTTPDownloader, "__call__", interrupted)
        fetch(TRAIN, tmp_path)
    assert list((tmp_path / "ptb").iterdir()) == []
    assert read_verified(TRAIN, tmp_path) == SMALL[TRAIN]
