"""Where the data files are, how they get there, and whether they are what they claim to be.

A file is looked for in one folder, plain or with `.gz` appended; a missing one is downloaded with pooch, mirror after
mirror; and nothing is read that does not match the size and the sha256 in the table below.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import sys
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import urlsplit

from minizone.errors import UserError

# Seconds to connect (a machine without network should fall through quickly) and to wait for the next bytes.
TIMEOUT = (4, 30)
# A mirror that drips never lets us wait 30 seconds for the next byte. So there is an end to the whole as well: so many
# seconds, and as many more as the file takes at the slowest speed in bytes a second that is worth waiting for.
GRACE, SLOWEST = 60, 10_000
REPAIR = "truncated or edited; delete it and run again to download it"


class MissingFile(UserError):
    """A data file is neither in the folder nor to be had from its mirrors. (A broken file is a plain `UserError`.)"""


@dataclass(frozen=True)
class KnownFile:
    """One row of the table of data files.

    Mirrors come first choice first. What they serve under an address that ends in `.gz` is kept as it is, under the
    name with `.gz`, and needs `sha256_gz`.
    """

    sha256: str  # of the uncompressed file, 64 hex digits
    size: int  # of the uncompressed file, in bytes; nothing beyond it is ever decompressed
    urls: tuple[str, ...]
    sha256_gz: str | None = None  # of the compressed file
    is_text: bool = True  # whether "not valid UTF-8" is a helpful thing to say of a damaged copy


def _ptb(split: str, sha256: str, size: int) -> KnownFile:
    address = "https://raw.githubusercontent.com/{}/lstm/master/data/ptb.{}.txt"
    return KnownFile(sha256, size, tuple(address.format(owner, split) for owner in ("wojzaremba", "tomsercu")))


def _mnist(name: str, sha256: str, size: int, sha256_gz: str) -> KnownFile:
    hosts = ("storage.googleapis.com/cvdf-datasets", "ossci-datasets.s3.amazonaws.com")
    return KnownFile(sha256, size, tuple(f"https://{host}/mnist/{name}.gz" for host in hosts), sha256_gz, is_text=False)


KNOWN_FILES = {
    "ptb/ptb.train.txt": _ptb("train", "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf", 5_101_618),
    "ptb/ptb.valid.txt": _ptb("valid", "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2", 399_782),
    "ptb/ptb.test.txt": _ptb("test", "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0", 449_945),
    "mnist/train-images-idx3-ubyte": _mnist(
        "train-images-idx3-ubyte",
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        47_040_016,
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    ),
    "mnist/train-labels-idx1-ubyte": _mnist(
        "train-labels-idx1-ubyte",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        60_008,
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    ),
    "mnist/t10k-images-idx3-ubyte": _mnist(
        "t10k-images-idx3-ubyte",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        7_840_016,
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    ),
    "mnist/t10k-labels-idx1-ubyte": _mnist(
        "t10k-labels-idx1-ubyte",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        10_008,
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    ),
    # The archive as it is: `text8.py` opens it.
    "text8/text8.zip": KnownFile(
        "a6640522afe85d1963ad56c05b0ede0a0c000dddc9671758a6cc09b7a38e5232",
        31_344_016,
        ("https://mattmahoney.net/dc/text8.zip", "https://data.deepai.org/text8.zip"),
        is_text=False,
    ),
}


def data_folder(data_dir: str | Path | None = None) -> Path:
    """Return the folder of the data files: the argument, else `$MINIZONE_DATA`, else the user's cache folder.

    The folder need not exist.
    """
    chosen = data_dir if data_dir is not None else os.environ.get("MINIZONE_DATA") or None
    if chosen is not None:
        return Path(chosen).expanduser()
    # Here and below: most runs need neither pooch nor requests, which take 0.1 s to import.
    import pooch

    return Path(pooch.os_cache("minizone"))


def find(relative: str, data_dir: str | Path | None = None) -> Path | None:
    """Return the path of `folder/relative`, or else of the same with `.gz` appended; None if there is neither."""
    plain = data_folder(data_dir) / relative
    candidates = (plain, plain.with_name(plain.name + ".gz"))
    return next((path for path in candidates if os.path.isfile(path)), None)


def fetch(relative: str, data_dir: str | Path | None = None, *, offline: bool = False) -> Path:
    """Return the path of a known file, downloaded if it is not there yet.

    A download is written under a temporary name, verified, then renamed: whatever interrupts it, the final name never
    holds half a file. A file that is already there is not verified here but in `read_verified`.

    `relative` is a key of `KNOWN_FILES`; the folder is made if it does not exist; `offline` asks no mirror.

    Raises
    ------
    MissingFile
        The file is not there, and every mirror failed, or `offline`, or the folder cannot be written.
    """
    found = find(relative, data_dir)
    if found is not None:
        return found
    folder = (data_folder(data_dir) / relative).parent
    if not offline:
        _make_writable(folder, relative)
    attempts = []
    unreachable = set()  # hosts; a second mirror on the same one would only wait for the same timeout again
    for url in KNOWN_FILES[relative].urls:
        host = urlsplit(url).netloc
        if offline or host in unreachable:
            attempts.append(f"{url} (not asked: {'offline' if offline else 'same host'})")
            continue
        try:
            return _download(url, folder, relative)
        except (OSError, ValueError) as error:  # every error of requests is an OSError, pooch's wrong hash a ValueError
            reason = _reason(error)
            attempts.append(f"{url} ({reason})")
            if reason == "no answer":
                unreachable.add(host)
    raise MissingFile(
        f"{relative} is not in {data_folder(data_dir)}; mirrors: {', '.join(attempts) or 'none'}; "
        "put the file there (plain or .gz), or give --data-dir with the folder that has it"
    )


def _make_writable(folder: Path, relative: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        problem = "" if os.access(folder, os.W_OK | os.X_OK) else "no permission to write"
    except OSError as error:
        problem = error.strerror or str(error)
    if problem:
        raise MissingFile(
            f"{relative} is missing and cannot be downloaded: the folder {folder} cannot be created or written "
            f"({problem}); give --data-dir with another folder"
        )


def _download(url: str, folder: Path, relative: str) -> Path:
    """Download one file from one mirror, or raise; pooch verifies and renames."""
    import pooch

    pooch.get_logger().setLevel("WARNING")
    known = KNOWN_FILES[relative]
    packed = url.endswith(".gz")
    http = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), chunk_size=1 << 16, timeout=TIMEOUT)

    def downloader(url: str, path: str, _: Any) -> None:
        _within_bounds(partial(http, url), Path(path), known.size)

    name = Path(relative).name + (".gz" if packed else "")
    digest = known.sha256_gz if packed else known.sha256
    return Path(pooch.retrieve(url, known_hash=digest, fname=name, path=folder, downloader=downloader))


class _Bounded:
    """A file that is written by a download, up to a number of bytes; more of them are an error."""

    def __init__(self, file: BinaryIO, size: int):
        self.file, self.left, self.flush = file, size, file.flush

    def write(self, chunk: bytes) -> None:
        self.left -= len(chunk)
        if self.left < 0:
            raise OSError("it sends more than the file has")
        self.file.write(chunk)


def _within_bounds(download: Callable[[Any, None], Any], path: Path, size: int) -> None:
    """Let ``download`` write a file, but not much more than its size, and not for ever.

    It has a thread of its own, for nothing in it can be told to give up, be it the name server, a header or the body.
    A thread that was left behind ends when it wants to write, or with the program.
    """
    errors: list[BaseException] = []

    def work() -> None:
        try:
            download(file, None)
        except BaseException as error:
            errors.append(error)

    with path.open("wb") as opened:
        file = _Bounded(opened, size + (1 << 16))  # gzip may make a file a little larger
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            thread.join(GRACE + size / SLOWEST)
            if thread.is_alive():
                raise TimeoutError
        finally:
            file.left = 0
    if errors:
        raise errors.pop()  # not [0]: list, error and traceback would keep each other, and the socket, alive


def _reason(error: Exception) -> str:
    """Say in a few words why a mirror failed."""
    import requests

    if isinstance(error, TimeoutError) and not isinstance(error, requests.RequestException):
        return "too slow"
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"HTTP {error.response.status_code}"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection was cut"
    if isinstance(error, requests.Timeout | requests.ConnectionError):
        return "no answer"
    if isinstance(error, ValueError) and "does not match the known hash" in str(error):
        return "wrong sha256"
    return " ".join(f"{type(error).__name__}: {error}".split())


@contextmanager
def unpacked(path: Path) -> Iterator[BinaryIO]:
    """Open a data file, plain or `.gz`; whatever goes wrong until it is closed is a `UserError` with its path."""
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            yield cast(BinaryIO, file)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path} is not a whole gzip file ({error}): {REPAIR}") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error


def read_verified(relative: str, data_dir: str | Path | None = None, *, offline: bool = False) -> bytes:
    """Return the uncompressed bytes of a known file, once their size and sha256 have been checked. See `fetch`.

    Raises
    ------
    UserError
        The file is missing (`MissingFile`, as in `fetch`), or it is there and cannot be read, is a damaged gzip, or is
        not the file of the table.
    """
    path = fetch(relative, data_dir, offline=offline)
    known = KNOWN_FILES[relative]
    with unpacked(path) as file:
        raw = file.read(known.size + 1)  # one byte too many is enough to know: a gzip bomb stops here
    found = hashlib.sha256(raw).hexdigest()
    if found != known.sha256:
        raise UserError(f"{path} {_difference(raw, found, known)}: {REPAIR}")
    return raw


def read_all(
    files: Sequence[str], data_dir: str | Path | None = None, *, offline: bool = False
) -> tuple[list[bytes], dict[str, str]]:
    """Return the bytes of several known files, and their sha256 by the name of the file. See `read_verified`.

    Those that are there are read first: a broken one must be reported even if another is missing.
    """
    order = sorted(files, key=lambda file: find(file, data_dir) is None)
    raw = {file: read_verified(file, data_dir, offline=offline) for file in order}
    return [raw[file] for file in files], {Path(file).name: KNOWN_FILES[file].sha256 for file in files}


def _difference(raw: bytes, found: str, known: KnownFile) -> str:
    """Say what distinguishes the bytes that were read from those of the table."""
    if len(raw) > known.size:
        return f"holds more than the expected {known.size:,} bytes (sha256 {known.sha256[:12]}...)"
    if known.is_text:
        try:
            raw.decode("utf-8")
        except UnicodeDecodeError as error:
            return f"is not valid UTF-8 (byte 0x{raw[error.start]:02x} at offset {error.start:,})"
    sizes = "" if len(raw) == known.size else f"holds {len(raw):,} bytes, expected {known.size:,}, and "
    return f"{sizes}has sha256 {found[:12]}..., expected {known.sha256[:12]}..."
