"""A data file is found or downloaded from a mirror (here, local servers), or one sentence says why not."""

from __future__ import annotations

import gzip
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pooch  # type: ignore[import-untyped]
import pytest

from minizone.data import download
from minizone.data.download import KNOWN_FILES, MissingFile, data_folder, fetch, find, read_verified
from tests.helpers import NOWHERE, SMALL, TRAIN, known

pytestmark = pytest.mark.usefixtures("nobody_elses_files")
RAW = SMALL[TRAIN]

# ---- the folder


def test_folder_is_argument_then_environment_then_cache(monkeypatch):
    assert data_folder("here") == Path("here")
    assert data_folder(Path("~") / "here") == Path.home() / "here"
    assert data_folder() == Path(os.environ["MINIZONE_DATA"])
    monkeypatch.setenv("MINIZONE_DATA", "")
    assert data_folder() == Path(pooch.os_cache("minizone"))
    monkeypatch.delenv("MINIZONE_DATA")
    assert data_folder() == Path(pooch.os_cache("minizone"))


def test_find_prefers_plain_and_accepts_gz(small):
    plain, packed = small / TRAIN, small / (TRAIN + ".gz")
    packed.write_bytes(gzip.compress(RAW))
    assert find(TRAIN, small) == plain
    plain.unlink()
    assert find(TRAIN, small) == packed
    packed.unlink()
    assert find(TRAIN, small) is None
    assert find(TRAIN, small / "no such folder") is None


def test_folder_that_cannot_be_created(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(MissingFile, match=r"file/ptb cannot be created or written \(.*\); give --data-dir"):
        fetch(TRAIN, tmp_path / "file")


def test_folder_that_cannot_be_written(tmp_path, monkeypatch):
    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)  # root, as in a container, may write anywhere
    with pytest.raises(MissingFile, match=r"written \(Permission denied\); give --data-dir"):
        fetch(TRAIN, tmp_path)


# ---- mirrors

Answer = Callable[[BaseHTTPRequestHandler], None]


@dataclass
class Mirrors:
    """A server with a path for each mirror of the small training file."""

    url: str
    answers: dict[str, Answer] = field(default_factory=dict)  # path -> what is sent
    asked: list[str] = field(default_factory=list)  # paths, in their order
    closed: threading.Event = field(default_factory=threading.Event)


@pytest.fixture
def mirrors() -> Iterator[Mirrors]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.asked.append(self.path)
            made.answers[self.path](self)
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made = Mirrors(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.closed.set()
    server.shutdown()
    server.server_close()
    thread.join()


def offer(mirrors: Mirrors, monkeypatch: pytest.MonkeyPatch, **answers: Answer) -> None:
    """Give the small training file these mirrors, in this order."""
    mirrors.answers.update({f"/{path}": answer for path, answer in answers.items()})
    urls = tuple(mirrors.url + path for path in mirrors.answers)
    monkeypatch.setitem(KNOWN_FILES, TRAIN, known(RAW, urls))


def sends(body: bytes, status: int = 200, length: int | None = None, **headers: str) -> Answer:
    """An answer whose header announces `length` bytes."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def hangs_up(handler: BaseHTTPRequestHandler) -> None:
    pass


def is_no_web_server(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"SSH-2.0-OpenSSH_9.6\r\n")


BAD: dict[str, tuple[Answer, str]] = {  # what a mirror does, and the reason in the message
    "page not found": (sends(b"not here", 404), "HTTP 404"),
    "server overloaded": (sends(b"", 503), "HTTP 503"),
    "right file with a wrong status": (sends(RAW, 500), "HTTP 500"),
    "login page of a hotel": (
        sends(b"<html>please log in</html>"),
        "wrong sha256: the file is a web page (HTML or XML))",
    ),
    "empty file": (sends(b""), f"wrong sha256: the file has only 0 of {len(RAW)} bytes)"),
    "short file": (sends(RAW[:10]), f"wrong sha256: the file has only 10 of {len(RAW)} bytes)"),
    "Windows line endings": (
        sends(RAW.replace(b"\n", b"\r\n")),
        "wrong sha256: the file has Windows line endings (CRLF))",
    ),
    "one bit flipped": (
        sends(bytes([RAW[0] ^ 1]) + RAW[1:]),
        "wrong sha256: the file has the right size, but other bytes: sha256 ",
    ),
    "cut connection": (sends(RAW[:10], length=len(RAW)), "the connection was cut"),
    "redirect to itself": (sends(b"", 302, Location="/bad"), "TooManyRedirects"),
    "redirect to a dead host": (sends(b"", 302, Location=NOWHERE[0]), "no answer"),
    "hangs up": (hangs_up, "no answer"),
    "no web server": (is_no_web_server, "no answer"),
}


def test_offline_asks_no_mirror_and_says_what_to_do(mirrors, monkeypatch, tmp_path):
    offer(mirrors, monkeypatch, one=sends(RAW), two=sends(RAW))
    folder = tmp_path / "folder"
    with pytest.raises(MissingFile) as error:
        fetch(TRAIN, folder, offline=True)
    for part in (TRAIN, str(folder), *KNOWN_FILES[TRAIN].urls, "offline", "put the file there", "--data-dir"):
        assert part in str(error.value)
    assert "\n" not in str(error.value)
    assert mirrors.asked == [] and not folder.exists()


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_mirror_is_a_reason_and_leaves_nothing(mirrors, monkeypatch, tmp_path, kind, record_property):
    answer, reason = BAD[kind]
    offer(mirrors, monkeypatch, bad=answer)
    with pytest.raises(MissingFile) as error:
        fetch(TRAIN, tmp_path)
    assert f"/bad ({reason}" in str(error.value) and "\n" not in str(error.value)
    assert list((tmp_path / "ptb").iterdir()) == []
    record_property("bad mirrors survived", 1)


@pytest.mark.parametrize("kind", [kind for kind, (_, reason) in BAD.items() if reason != "no answer"])
def test_the_next_mirror_after_a_bad_one(mirrors, monkeypatch, tmp_path, capfd, kind):
    pooch.get_logger().setLevel("INFO")
    monkeypatch.setattr(pooch.get_logger().handlers[0], "stream", sys.stderr)  # it has the one of import time
    answer, _ = BAD[kind]
    offer(mirrors, monkeypatch, bad=answer, good=sends(RAW), unneeded=sends(RAW))
    folder = tmp_path / "new" / "folder"
    assert read_verified(TRAIN, folder) == RAW
    assert mirrors.asked[0] == "/bad" and mirrors.asked[-1] == "/good"
    assert [path.name for path in (folder / "ptb").iterdir()] == ["ptb.train.txt"]
    requests = len(mirrors.asked)
    read_verified(TRAIN, folder)
    assert len(mirrors.asked) == requests, "a file that is there is not downloaded again"
    assert capfd.readouterr() == ("", ""), "no bar and no chatter where stderr is no terminal"


def test_a_host_that_does_not_answer_is_asked_once(mirrors, monkeypatch, tmp_path):
    offer(mirrors, monkeypatch, one=hangs_up, two=sends(RAW))
    with pytest.raises(MissingFile, match=r"/one \(no answer\), .*/two \(not asked: same host\)"):
        fetch(TRAIN, tmp_path)
    assert mirrors.asked == ["/one"]


def test_another_host_after_one_that_does_not_answer(mirrors, monkeypatch, tmp_path):
    offer(mirrors, monkeypatch, good=sends(RAW))
    monkeypatch.setitem(KNOWN_FILES, TRAIN, known(RAW, NOWHERE + KNOWN_FILES[TRAIN].urls))
    assert read_verified(TRAIN, tmp_path) == RAW


def test_a_mirror_that_stalls_is_given_up(mirrors, monkeypatch, tmp_path):
    def stalls(handler: BaseHTTPRequestHandler) -> None:
        sends(RAW[:10], length=len(RAW))(handler)
        mirrors.closed.wait()

    monkeypatch.setattr(download, "TIMEOUT", (1, 0.2))
    offer(mirrors, monkeypatch, slow=stalls)
    started = time.monotonic()
    with pytest.raises(MissingFile, match=r"/slow \(no answer\)"):
        fetch(TRAIN, tmp_path)
    assert time.monotonic() - started < 5
    assert list((tmp_path / "ptb").iterdir()) == []


def test_a_redirect_is_followed(mirrors, monkeypatch, tmp_path):
    offer(mirrors, monkeypatch, moved=sends(b"", 302, Location="/there"))
    mirrors.answers["/there"] = sends(RAW)
    assert read_verified(TRAIN, tmp_path) == RAW


@pytest.mark.parametrize("level", [1, 9])
def test_a_gz_file_is_stored_packed(mirrors, monkeypatch, tmp_path, level):
    """The sha256 is of what is in it, so that it does not matter how it was packed."""
    packed = gzip.compress(RAW, level)
    offer(mirrors, monkeypatch, **{"wrong.gz": sends(packed[:-1]), "right.gz": sends(packed)})
    assert fetch(TRAIN, tmp_path) == tmp_path / (TRAIN + ".gz")
    assert (tmp_path / (TRAIN + ".gz")).read_bytes() == packed
    assert read_verified(TRAIN, tmp_path, offline=True) == RAW


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (gzip.compress(RAW)[:-1], "is not a whole gzip file (Compressed file ended"),
        (b"<html>please log in</html>", "is a web page (HTML or XML))"),
        (RAW, "is not a whole gzip file (Not a gzipped file"),
        (gzip.compress(RAW[:10]), f"has only 10 of {len(RAW)} bytes)"),
        (gzip.compress(b"<html>please log in</html>"), "is a web page (HTML or XML))"),
    ],
    ids=["cut off", "web page", "not packed", "packed when cut off", "packed web page"],
)
def test_a_wrong_gz_file_is_a_reason_and_leaves_nothing(mirrors, monkeypatch, tmp_path, body, reason):
    offer(mirrors, monkeypatch, **{"bad.gz": sends(body)})
    with pytest.raises(MissingFile) as error:
        fetch(TRAIN, tmp_path)
    assert f"/bad.gz (wrong sha256: the file {reason}" in str(error.value)
    assert list((tmp_path / "ptb").iterdir()) == []


def test_progress_bar_on_a_terminal(mirrors, monkeypatch, tmp_path, capsys):
    offer(mirrors, monkeypatch, good=sends(RAW))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    fetch(TRAIN, tmp_path)
    out, err = capsys.readouterr()
    assert out == "" and "100%" in err and "Downloading" not in err


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interrupted_download_leaves_nothing(mirrors, monkeypatch, tmp_path, interruption):
    def interrupted(self: object, url: str, output_file: str, pooch: object, check_only: bool = False) -> None:
        Path(output_file).write_bytes(RAW[:10])
        raise interruption

    offer(mirrors, monkeypatch, good=sends(RAW))
    with monkeypatch.context() as patch, pytest.raises((KeyboardInterrupt, MissingFile)) as error:
        patch.setattr(pooch.HTTPDownloader, "__call__", interrupted)
        fetch(TRAIN, tmp_path)
    assert error.type is KeyboardInterrupt or "(No space left on device)" in str(error.value)
    assert list((tmp_path / "ptb").iterdir()) == []
    assert read_verified(TRAIN, tmp_path) == RAW


def test_every_file_has_two_mirrors_and_a_checksum():
    for relative, row in KNOWN_FILES.items():
        assert len(bytes.fromhex(row.sha256)) == 32 and row.size > 0 and len(row.urls) >= 2, relative
        assert all(url.startswith("https://") for url in row.urls), relative
