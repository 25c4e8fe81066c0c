"""The data files: where they are, how they are downloaded, and whether they are intact.

A file is looked up in one folder, under its name or with `.gz` appended. A missing file is downloaded with pooch; the
mirrors are tried one after the other. A file is only used if it has the sha256 of the table below. Otherwise, the error
says what is wrong with the file: it is a web page, incomplete, compressed, has other line endings, and so on.
"""

from __future__ import annotations

import codecs
import gzip
import hashlib
import os
import re
import sys
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast
from urllib.parse import urlsplit

from minizone.errors import UserError

# pooch and requests take 0.1 s to import, and most runs need neither. So they are imported in functions.

TIMEOUT = (4, 30)  # seconds: for a connection (short, for machines without a network); for the next bytes
NO_ANSWER = "no answer"  # why a mirror failed
REPAIR = "delete it and run again to download it"
WEB_PAGE = re.compile(rb"(\xef\xbb\xbf)?\s*<(!doctype|html|\?xml)", re.IGNORECASE)  # its beginning


class MissingFile(UserError):
    """A data file is not in the folder and cannot be downloaded. (A damaged file raises a plain `UserError`.)"""


class _MirrorError(Exception):
    """A mirror failed. The message says why, in a few words."""


class _WrongFile(Exception):
    """A file is not the one in the table. The message says what it is instead, as in "has only 3 of 5 bytes"."""


@dataclass(frozen=True)
class KnownFile:
    """One row of the table of data files.

    Attributes
    ----------
    sha256 : str
        Of the uncompressed file, 64 hex digits.
    size : int
        Of the uncompressed file, in bytes.
    urls : tuple of str
        The mirrors, in order of preference. A file from a URL that ends in `.gz` is stored as it is, with `.gz`
        appended to its name.
    is_text : bool
        Whether the file is a text: errors then mention wrong line endings or a wrong encoding.
    """

    sha256: str
    size: int
    urls: tuple[str, ...]
    is_text: bool = True


def _ptb(split: str, sha256: str, size: int) -> KnownFile:
    address = "https://raw.githubusercontent.com/{}/lstm/master/data/ptb.{}.txt"
    return KnownFile(sha256, size, tuple(address.format(owner, split) for owner in ("wojzaremba", "tomsercu")))


def _mnist(name: str, sha256: str, size: int) -> KnownFile:
    hosts = ("storage.googleapis.com/cvdf-datasets", "ossci-datasets.s3.amazonaws.com")
    return KnownFile(sha256, size, tuple(f"https://{host}/mnist/{name}.gz" for host in hosts), is_text=False)


KNOWN_FILES = {
    "ptb/ptb.train.txt": _ptb("train", "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf", 5_101_618),
    "ptb/ptb.valid.txt": _ptb("valid", "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2", 399_782),
    "ptb/ptb.test.txt": _ptb("test", "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0", 449_945),
    "mnist/train-images-idx3-ubyte": _mnist(
        "train-images-idx3-ubyte",
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        47_040_016,
    ),
    "mnist/train-labels-idx1-ubyte": _mnist(
        "train-labels-idx1-ubyte",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        60_008,
    ),
    "mnist/t10k-images-idx3-ubyte": _mnist(
        "t10k-images-idx3-ubyte",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        7_840_016,
    ),
    "mnist/t10k-labels-idx1-ubyte": _mnist(
        "t10k-labels-idx1-ubyte",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        10_008,
    ),
    # The archive, which text8.py opens: for this row, "uncompressed file" means the zip file.
    "text8/text8.zip": KnownFile(
        "a6640522afe85d1963ad56c05b0ede0a0c000dddc9671758a6cc09b7a38e5232",
        31_344_016,
        ("https://mattmahoney.net/dc/text8.zip", "https://data.deepai.org/text8.zip"),
        is_text=False,
    ),
}


def data_folder(data_dir: str | Path | None = None) -> Path:
    """Return the folder of the data files: `data_dir`, or else `$MINIZONE_DATA`, or else the user's cache folder.

    The folder need not exist.
    """
    if data_dir is None:
        data_dir = os.environ.get("MINIZONE_DATA") or None
    if data_dir is not None:
        return Path(data_dir).expanduser()
    import pooch

    return Path(pooch.os_cache("minizone"))


def find(relative: str, data_dir: str | Path | None = None) -> Path | None:
    """Return the path of `folder/relative`, or of the same with `.gz` appended; None if neither exists."""
    plain = data_folder(data_dir) / relative
    for path in (plain, plain.with_name(plain.name + ".gz")):
        if os.path.isfile(path):  # unlike Path.is_file, False in a folder without read permission
            return path
    return None


def fetch(relative: str, data_dir: str | Path | None = None, *, offline: bool = False) -> Path:
    """Return the path of a known file, after downloading it if it is missing.

    A download is written to a temporary file, verified, and renamed. An interrupted or wrong download leaves nothing
    behind. A file that already exists is not verified here, but in `read_verified`.

    Parameters
    ----------
    relative : str
        A key of `KNOWN_FILES`.
    data_dir : str, Path or None
        See `data_folder`. The folder is created if it does not exist.
    offline : bool
        Download nothing.

    Raises
    ------
    MissingFile
        The file is missing, and `offline` is set, or every mirror failed, or the folder cannot be written.
    """
    found = find(relative, data_dir)
    if found is not None:
        return found
    folder = (data_folder(data_dir) / relative).parent
    failures = []  # what went wrong, mirror by mirror
    dead_hosts = set()  # a second mirror on a host that does not answer would cost another timeout
    for url in KNOWN_FILES[relative].urls:
        host = urlsplit(url).netloc
        if offline:
            failures.append(f"{url} (not asked: offline)")
            continue
        if host in dead_hosts:
            failures.append(f"{url} (not asked: same host)")
            continue
        try:
            return _download(url, folder, relative)
        except _MirrorError as error:
            failures.append(f"{url} ({error})")
            if str(error) == NO_ANSWER:
                dead_hosts.add(host)
        except OSError as error:
            raise MissingFile(
                f"{relative} is missing and cannot be downloaded: the folder {folder} cannot be created or written"
                f" ({error.strerror or error}); give --data-dir with another folder"
            ) from error
    raise MissingFile(
        f"{relative} is not in {data_folder(data_dir)}; mirrors: {', '.join(failures)}; "
        "put the file there (plain or .gz), or give --data-dir with the folder that has it"
    )


def _download(url: str, folder: Path, relative: str) -> Path:
    """Download one file from one mirror. pooch renames it after it is verified."""
    import pooch
    import requests

    folder.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=folder).close()  # raises OSError if the folder cannot be written
    pooch.get_logger().setLevel("WARNING")
    known = KNOWN_FILES[relative]
    is_gz = url.endswith(".gz")
    downloader = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), chunk_size=1 << 16, timeout=TIMEOUT)

    def download_and_verify(url: str, temporary: str, _: object) -> None:
        downloader(url, temporary, None)
        with _opened(Path(temporary), is_gz) as file:
            _verified(file, known)

    try:
        path = pooch.retrieve(
            url,
            known_hash=None,  # of a .gz file, the table has the hash of the uncompressed file
            fname=Path(relative).name + (".gz" if is_gz else ""),
            path=folder,
            downloader=download_and_verify,
        )
    except requests.HTTPError as error:
        assert error.response is not None  # it has the status code
        raise _MirrorError(f"HTTP {error.response.status_code}") from error
    except requests.exceptions.ChunkedEncodingError as error:
        raise _MirrorError("the connection was cut") from error
    except (requests.Timeout, requests.ConnectionError) as error:
        raise _MirrorError(NO_ANSWER) from error
    except requests.RequestException as error:
        raise _MirrorError(" ".join(f"{type(error).__name__}: {error}".split())) from error
    except _WrongFile as error:
        raise _MirrorError(f"wrong sha256: the file {error}") from error
    return Path(path)


@contextmanager
def _opened(path: Path, is_gz: bool) -> Iterator[BinaryIO]:
    """Open a file, and decompress it as it is read. `_WrongFile` if it is not a whole gzip file."""
    try:
        with gzip.open(path, "rb") if is_gz else path.open("rb") as file:
            yield cast(BinaryIO, file)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        with path.open("rb") as file:
            is_page = WEB_PAGE.match(file.read(1000))
        raise _WrongFile("is a web page (HTML or XML)" if is_page else f"is not a whole gzip file ({error})") from error


@contextmanager
def unpacked(path: Path) -> Iterator[BinaryIO]:
    """Open a data file, plain or `.gz`. A read error is raised as a `UserError` that names the path."""
    try:
        with _opened(path, path.suffix == ".gz") as file:
            yield file
    except _WrongFile as error:
        raise UserError(f"{path} {error}: {REPAIR}") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error


def read_verified(relative: str, data_dir: str | Path | None = None, *, offline: bool = False) -> bytes:
    """Return the uncompressed bytes of a known file after verifying their sha256. Arguments as in `fetch`.

    Raises
    ------
    MissingFile
        As in `fetch`.
    UserError
        The file cannot be read, or is not the one in the table.
    """
    with unpacked(fetch(relative, data_dir, offline=offline)) as file:
        return _verified(file, KNOWN_FILES[relative])


def _verified(file: BinaryIO, known: KnownFile) -> bytes:
    """Return the bytes of an uncompressed file. `_WrongFile` if their sha256 is wrong."""
    # Twice the size is enough to recognize a copy with other line endings, and never fills the memory.
    raw = file.read(2 * known.size)
    if hashlib.sha256(raw).hexdigest() != known.sha256:
        raise _WrongFile(_difference(raw, known))
    return raw


def read_all(
    files: Sequence[str], data_dir: str | Path | None = None, *, offline: bool = False
) -> tuple[list[bytes], dict[str, str]]:
    """Return the bytes of several known files, and a dict from file names to their sha256. See `read_verified`."""
    # Existing files are read first: a damaged file must be reported even if another one is missing.
    present_first = sorted(files, key=lambda file: find(file, data_dir) is None)
    raw = {file: read_verified(file, data_dir, offline=offline) for file in present_first}
    return [raw[file] for file in files], {Path(file).name: KNOWN_FILES[file].sha256 for file in files}


def _difference(raw: bytes, known: KnownFile) -> str:
    """Say how the bytes of a file differ from the file in the table: the first reason that applies."""
    if kind := recognized(raw, known.is_text):
        return kind
    if known.is_text:
        try:
            raw.decode("utf-8")
        except UnicodeDecodeError as error:
            return f"is not valid UTF-8 (byte 0x{raw[error.start]:02x} at offset {error.start:,})"
    if len(raw) > known.size:
        return f"is longer than the expected {known.size:,} bytes"
    if len(raw) < known.size:
        return f"has only {len(raw):,} of {known.size:,} bytes"
    sha256 = hashlib.sha256(raw).hexdigest()
    return f"has the right size, but other bytes: sha256 {sha256[:12]}..., expected {known.sha256[:12]}..."


def recognized(raw: bytes, is_text: bool) -> str:
    """Say what a wrong file is, from its bytes, as in "is a web page"; "" if they do not show it."""
    if WEB_PAGE.match(raw):
        return "is a web page (HTML or XML)"
    if raw.startswith(b"\x1f\x8b"):
        return "is compressed with gzip once more than its name says"
    if is_text and raw.startswith(codecs.BOM_UTF8):
        return "begins with a byte order mark (BOM)"
    if is_text and b"\r\n" in raw:
        return "has Windows line endings (CRLF)"
    return ""
