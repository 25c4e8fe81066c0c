"""Mirrors that misbehave.

Every mirror is a server on this machine. How many were bad is printed at the end of a run of the tests.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from minizone.data import download
from minizone.data.download import KNOWN_FILES, MissingFile, fetch, read_verified
from tests.helpers import SMALL, TRAIN, known

pytestmark = pytest.mark.usefixtures("nobody_elses_files")
ROOT = Path(__file__).resolve().parents[2]
RAW = SMALL[TRAIN]
ARCHIVE = "text8/text8.zip"

Answer = Callable[[Any], None]  # of a server, given the handler of the request


@pytest.fixture
def server():
    """A mirror. ``answers[path]`` writes what it likes into the connection; ``asked`` has the paths in their order."""
    answers: dict[str, Answer] = {}
    asked: list[str] = []
    ended = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            with contextlib.suppress(OSError):  # nobody listens any more
                answers[self.path.lstrip("/")](self)
            self.close_connection = True

        def head(self, status: int = 200, **headers: Any) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), str(value))
            self.end_headers()

        def log_message(self, *_):
            pass

    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    url = f"http://127.0.0.1:{made.server_port}"
    yield SimpleNamespace(answers=answers, asked=asked, ended=ended, url=url)
    ended.set()
    made.shutdown()
    made.server_close()
    thread.join()


def sends(body: bytes, status: int = 200, **headers: Any) -> Answer:
    def answer(handler: Any) -> None:
        handler.head(status, **{"Content_Length": len(body), **headers})
        handler.wfile.write(body)

    return answer


def says(raw: bytes) -> Answer:
    """Bytes in the place of HTTP."""
    return lambda handler: handler.wfile.write(raw)


def redirects(to: str) -> Answer:
    return sends(b"", 302, Location=to)


BAD: dict[str, tuple[Answer, str]] = {  # a mirror, and what is said of it
    "404": (sends(b"not here", 404), "HTTP 404"),
    "500 with the right file": (sends(RAW, 500), "HTTP 500"),
    "wrong file": (sends(b"<html>please log in</html>"), "wrong sha256"),
    "empty file": (sends(b""), "wrong sha256"),
    "one bit flipped": (sends(bytes([RAW[0] ^ 1]) + RAW[1:]), "wrong sha256"),
    "cut connection": (sends(RAW[:10], Content_Length=len(RAW)), "the connection was cut"),
    "cut after the header": (sends(b"", Content_Length=len(RAW)), "the connection was cut"),
    "absurd length": (sends(RAW, Content_Length=10**18), "the connection was cut"),
    "more than announced, and kept": (sends(RAW + b"more", Content_Length=len(RAW) - 1), "wrong sha256"),
    "redirect to itself": (redirects("/bad"), "TooManyRedirects"),
    "redirect to nowhere": (redirects("http://127.0.0.1:9/x"), "no answer"),
    "redirect to a file": (redirects("file:///etc/passwd"), "InvalidSchema"),
    "redirect to no address": (redirects("http://[::1"), "ValueError: Invalid IPv6 URL"),
    "not gzip where it says so": (sends(RAW, Content_Encoding="gzip"), "ContentDecodingError"),
    "bad chunks": (says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\nabc"), "the connection was cut"),
    "hangs up": (says(b""), "no answer"),
    "not HTTP": (says(b"SSH-2.0-OpenSSH_9.6\r\n"), "no answer"),
    "binary": (says(bytes(range(256)) * 40), "no answer"),
    "endless header": (says(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000), "no answer"),
    "ten thousand headers": (says(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 10_000), "no answer"),
}


def offer(server: Any, monkeypatch: pytest.MonkeyPatch, **answers: Answer) -> None:
    """Make the mirrors of the small training file these answers, in this order."""
    server.answers.update(answers)
    urls = tuple(f"{server.url}/{path}" for path in answers)
    monkeypatch.setitem(KNOWN_FILES, TRAIN, known(RAW, urls))


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_mirror_is_a_reason_and_leaves_nothing(server, monkeypatch, tmp_path, kind, record_property):
    answer, reason = BAD[kind]
    offer(server, monkeypatch, bad=answer)
    with pytest.raises(MissingFile) as error:
        fetch(TRAIN, tmp_path)
    assert f"/bad ({reason}" in str(error.value) and "\n" not in str(error.value)
    assert list((tmp_path / "ptb").iterdir()) == []
    record_property("bad mirrors survived", 1)


@pytest.mark.parametrize("kind", BAD)
def test_a_working_mirror_behind_a_bad_one_is_used(server, monkeypatch, tmp_path, kind):
    answer, reason = BAD[kind]
    offer(server, monkeypatch, bad=answer, good=sends(RAW))
    if reason == "no answer":  # then its host is not asked again, and the good one must be another one
        row = KNOWN_FILES[TRAIN]
        urls = row.urls[0], row.urls[1].replace("127.0.0.1", "localhost")
        monkeypatch.setitem(KNOWN_FILES, TRAIN, known(RAW, urls))
        monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    assert read_verified(TRAIN, tmp_path) == RAW
    assert [path.name for path in (tmp_path / "ptb").iterdir()] == ["ptb.train.txt"]


def test_right_file_and_one_redirect(server, monkeypatch, tmp_path):
    offer(server, monkeypatch, moved=redirects("/there"))
    server.answers["there"] = sends(RAW)
    assert read_verified(TRAIN, tmp_path) == RAW
    assert server.asked == ["/moved", "/there"]


def drips(server: Any, start: bytes) -> Answer:
    """One byte every 20 ms, for ever: less than any timeout between two bytes."""

    def answer(handler: Any) -> None:
        handler.wfile.write(start)
        while not server.ended.wait(0.02):
            handler.wfile.write(b"x")

    return answer


@pytest.mark.parametrize("start", [b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: "])
def test_a_slow_drip_comes_to_an_end(server, monkeypatch, tmp_path, start):
    """In the body and in the header."""
    monkeypatch.setattr(download, "GRACE", 0.3)
    offer(server, monkeypatch, slow=drips(server, start), good=sends(RAW))
    started = time.monotonic()
    assert read_verified(TRAIN, tmp_path) == RAW
    assert 0.3 <= time.monotonic() - started < 3
    assert [path.name for path in (tmp_path / "ptb").iterdir()] == ["ptb.train.txt"]


def test_the_slowest_speed_that_is_waited_for_is_humane():
    """Ten minutes for Penn Treebank, an hour for text8, and a minute to begin with."""
    seconds = {name: download.GRACE + row.size / download.SLOWEST for name, row in KNOWN_FILES.items()}
    assert 500 < seconds[TRAIN] < 700 and 3000 < seconds[ARCHIVE] < 3600 and min(seconds.values()) >= 60


def test_an_endless_file_is_not_written_to_the_disk(server, monkeypatch, tmp_path):
    sent = 0

    def endless(handler: Any) -> None:
        nonlocal sent
        handler.head()
        while not server.ended.is_set():
            handler.wfile.write(bytes(1 << 16))
            sent += 1 << 16

    offer(server, monkeypatch, endless=endless)
    with pytest.raises(MissingFile, match="sends more than the file has"):
        fetch(TRAIN, tmp_path)
    assert sent < 1 << 24 and list((tmp_path / "ptb").iterdir()) == []


def test_ctrl_c_in_a_download_leaves_nothing(server, monkeypatch, tmp_path):
    offer(server, monkeypatch, slow=drips(server, b"HTTP/1.1 200 OK\r\n\r\n"))

    def interrupted(self: Any, timeout: float) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(threading.Thread, "join", interrupted)
        fetch(TRAIN, tmp_path)
    assert list((tmp_path / "ptb").iterdir()) == []
