"""Data: found, downloaded, verified; then turned into indices. Every way in which a file can be wrong is tried."""

from __future__ import annotations

import gzip
import hashlib
import os
import sys
import threading
import tracemalloc
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pooch  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minizone.data import characters, download
from minizone.data.characters import TextDataset, load_characters
from minizone.data.download import KNOWN_FILES, KnownFile, MissingFile, data_folder, fetch, find, read_verified
from minizone.errors import UserError

SPLITS = ("train", "valid", "test")
TRAIN = "ptb/ptb.train.txt"
SMALL = {  # three files of the shape of PTB's: one blank at either end of every line
    "ptb/ptb.train.txt": b" the cat <unk> N \n sat on \n a mat \n",
    "ptb/ptb.valid.txt": b" the mat \n",
    "ptb/ptb.test.txt": b" a cat sat \n on N \n",
}
NOWHERE = ("http://127.0.0.1:9/first", "http://127.0.0.1:9/second")


def known(raw: bytes, urls: tuple[str, ...] = NOWHERE, packed: bytes | None = None) -> KnownFile:
    return KnownFile(
        hashlib.sha256(raw).hexdigest(), len(raw), urls, None if packed is None else hashlib.sha256(packed).hexdigest()
    )


@pytest.fixture(autouse=True)
def nobody_elses_files(monkeypatch, tmp_path, request):
    """Keep the tests off the reader's own data, cache and proxy, the real-data tests excepted."""
    if "real_ptb" not in request.fixturenames:
        monkeypatch.setenv("MINIZONE_DATA", str(tmp_path / "environment"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def small(tmp_path, monkeypatch) -> Path:
    """A data folder with the small files, which are also what the table expects."""
    folder = tmp_path / "data"
    (folder / "ptb").mkdir(parents=True)
    for relative, raw in SMALL.items():
        (folder / relative).write_bytes(raw)
        monkeypatch.setitem(KNOWN_FILES, relative, known(raw))
    return folder


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
        Path(output_file).write_bytes(SMALL[TRAIN][:10])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pooch.HTTPDownloader, "__call__", interrupted)
        fetch(TRAIN, tmp_path)
    assert list((tmp_path / "ptb").iterdir()) == []
    assert read_verified(TRAIN, tmp_path) == SMALL[TRAIN]


# ---- characters


def text(dataset: TextDataset, split: str) -> str:
    """Turn indices back into characters, the plain way."""
    codes = np.array([ord(symbol) for symbol in dataset.symbols], np.uint8)
    return codes[getattr(dataset, split)].tobytes().decode("latin-1")


def test_forms_of_the_small_files(small):
    authors = load_characters("ptb", small)
    stripped = load_characters("ptb", small, form="stripped")
    assert authors.name == "PTB, authors' form" and stripped.name == "PTB, stripped form"
    assert text(authors, "train") == "the cat <unk> N \nsat on \na mat \n"
    assert text(stripped, "train") == "the cat <unk> N\nsat on\na mat\n"
    assert text(stripped, "test") == "a cat sat\non N\n"
    assert authors.symbols == "".join(sorted(set("".join(text(authors, split) for split in SPLITS))))
    assert authors.vocabulary_size == len(authors.symbols)
    assert authors.train.dtype == np.uint8 and authors.train.ndim == 1
    assert authors.sha256 == {Path(file).name: hashlib.sha256(raw).hexdigest() for file, raw in SMALL.items()}


@given(st.lists(st.lists(st.text("abN.<>'$", min_size=1, max_size=5), min_size=1, max_size=6), min_size=1, max_size=9))
def test_forms_differ_by_one_blank_a_line(lines):
    raw = "".join(f" {' '.join(words)} \n" for words in lines).encode()
    authors, stripped = (characters._ptb_form(raw, form).decode() for form in ("authors", "stripped"))
    assert stripped == "".join(" ".join(words) + "\n" for words in lines)
    assert len(authors) == len(stripped) + len(lines) == len(raw) - len(lines)
    assert authors == stripped.replace("\n", " \n")


@given(st.lists(st.binary(min_size=1), min_size=3, max_size=3))
def test_encoding_is_a_bijection_on_any_bytes(splits):
    dataset = characters._encode("any", splits, {})
    for split, raw in zip(SPLITS, splits, strict=True):
        assert text(dataset, split) == raw.decode("latin-1")
    assert list(dataset.symbols) == sorted({chr(byte) for raw in splits for byte in raw})


def test_encoding_is_frugal():
    """A text of N bytes takes little more than N bytes to encode: text8 has 100 MB."""
    raw = np.random.default_rng(0).integers(97, 123, 5_000_000, np.uint8).tobytes()
    tracemalloc.start()
    try:
        characters._encode("long", [raw, b"a", b"b"], {})
        assert tracemalloc.get_traced_memory()[1] < 2 * len(raw)
    finally:
        tracemalloc.stop()


def test_first_cuts_and_says_so(small):
    whole = load_characters("ptb", small)
    cut = whole.first(7, 5)
    assert (cut.train.size, cut.valid.size, cut.test.size) == (7, 5, 5)
    assert cut.name == "PTB, authors' form, first 7 characters, evaluated on the first 5"
    assert cut.symbols == whole.symbols and text(cut, "train") == "the cat"
    assert whole.first(7).name == "PTB, authors' form, first 7 characters"
    assert whole.first(7).valid.size == whole.valid.size
    for uncut in (whole.first(), whole.first(whole.train.size, 10**9)):
        assert uncut.name == whole.name and uncut.test.size == whole.test.size
    with pytest.raises(UserError, match="must not be negative, got -1 and 0"):
        whole.first(-1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dataset": "PTB"}, r"dataset must be one of auto, ptb, manual, got 'PTB'"),
        ({"form": "raw"}, r"form must be one of authors, stripped, got 'raw'"),
    ],
)
def test_unknown_choice_lists_the_choices(wrong, message):
    with pytest.raises(UserError, match=message):
        load_characters(**wrong)


# ---- the stand-in, and when it stands in


def test_auto_says_in_one_line_that_it_falls_back():
    said: list[str] = []
    dataset = load_characters(offline=True, say=said.append)
    assert "manual (stand-in)" in dataset.name and "PTB" not in dataset.name
    assert len(said) == 1 and "\n" not in said[0]
    for part in (dataset.name, TRAIN, "raw.githubusercontent.com", os.environ["MINIZONE_DATA"], "--data-dir"):
        assert part in said[0]


def test_auto_takes_ptb_without_a_word(small, monkeypatch):
    assert load_characters(data_dir=small, say=pytest.fail).name == "PTB, authors' form"
    monkeypatch.setenv("MINIZONE_DATA", str(small))
    assert load_characters(say=pytest.fail).name == "PTB, authors' form"


def test_no_stand_in_where_ptb_was_asked_for(tmp_path):
    for options in ({"dataset": "ptb"}, {"data_dir": tmp_path}, {"data_dir": str(tmp_path / "typo")}):
        with pytest.raises(MissingFile):
            load_characters(offline=True, say=pytest.fail, **options)


@pytest.mark.parametrize("split", SPLITS)
def test_no_stand_in_for_a_broken_file(small, monkeypatch, split):
    """Not even where the other two are missing, in whatever order they are looked at."""
    monkeypatch.setenv("MINIZONE_DATA", str(small))
    for other in set(SPLITS) - {split}:
        (small / f"ptb/ptb.{other}.txt").unlink()
    (small / f"ptb/ptb.{split}.txt").write_bytes(b"something else")
    with pytest.raises(UserError, match=rf"ptb\.{split}\.txt .*truncated or edited"):
        load_characters(offline=True, say=pytest.fail)


def test_python_without_its_manual(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(UserError, match=r"needs pydoc_data\.topics"):
        load_characters("manual")


def test_manual_is_deterministic_and_named_after_its_python():
    one, two = load_characters("manual"), load_characters("manual", "ignored", form="stripped")
    assert one.sha256 == two.sha256
    assert one.name == "Python {}.{}.{} manual (stand-in)".format(*sys.version_info[:3])
    whole = "".join(text(one, split) for split in SPLITS)
    assert one.sha256 == {"pydoc_data.topics": hashlib.sha256(whole.encode()).hexdigest()}
    assert whole.isascii() and one.symbols == "".join(sorted(set(whole)))
    sizes = np.array([getattr(one, split).size for split in SPLITS])
    np.testing.assert_allclose(sizes / sizes.sum(), [0.9, 0.05, 0.05], atol=0.015)


def test_manual_validates_on_text_it_does_not_train_on():
    dataset = load_characters("manual")
    paragraphs = {split: [" ".join(p.split()) for p in text(dataset, split).split("\n\n")] for split in SPLITS}
    seen = [p for split in SPLITS for p in paragraphs[split] if p]
    assert len(seen) == len(set(seen))
    # Nor in longer paragraphs with one word changed: hardly a run of 100 characters of them is in training.
    train = " ".join(paragraphs["train"])
    for split in ("valid", "test"):
        held_out = " ".join(paragraphs[split])
        runs = [held_out[i : i + 100] for i in range(0, len(held_out) - 100, 50)]
        assert np.mean([run in train for run in runs]) < 0.02


def trigram_bits(train: np.ndarray, held_out: np.ndarray, V: int) -> float:
    """Bits per character of `held_out` under a trigram model, with 0.02 added to the counts of `train`."""

    def code(x: np.ndarray) -> np.ndarray:
        return (x[:-2].astype(np.int64) * V + x[1:-1]) * V + x[2:]

    counts = np.bincount(code(train), minlength=V**3).reshape(V * V, V) + 0.02
    return float(-np.log2(counts / counts.sum(1, keepdims=True)).ravel()[code(held_out)].mean())


def test_manual_splits_are_equally_hard(monkeypatch):
    """The reason why `_deal` does not simply take the last tenth, which is what a single block would be."""

    def unfairness(blocks: int) -> float:
        monkeypatch.setattr(characters, "BLOCKS", blocks)
        dataset = load_characters("manual")
        bits = [trigram_bits(dataset.train, x, dataset.vocabulary_size) for x in (dataset.valid, dataset.test)]
        return abs(bits[0] / bits[1] - 1)

    assert unfairness(characters.BLOCKS) < 0.08 < unfairness(1)


# ---- the real thing: MINIZONE_DATA=folder pytest tests/test_data.py


@pytest.fixture
def real_ptb() -> Path:
    folder = os.environ.get("MINIZONE_DATA", "")
    if not (Path(folder) / "ptb").is_dir() or not folder:
        pytest.skip("no $MINIZONE_DATA/ptb")
    return Path(folder)


def test_ptb_has_the_authors_sizes(real_ptb):
    dataset = load_characters("ptb", real_ptb, offline=True)
    assert [getattr(dataset, split).size for split in SPLITS] == [5_059_550, 396_412, 446_184]
    # The authors' alphabet, in their order (by frequency), from a comment in their code (PAPER.md B.3).
    assert set(dataset.symbols) == set(" etanoisrhludcmfpkgybw<>\nvN.'xj$-qz&0193#285\\764/*")
    assert dataset.vocabulary_size == 50
    assert dataset.sha256 == {Path(file).name: row.sha256 for file, row in KNOWN_FILES.items() if "ptb/" in file}
    assert text(dataset, "valid").startswith("consumers may want to move their telephones a little closer to the tv ")


def test_ptb_forms_are_the_raw_lines(real_ptb):
    authors = load_characters("ptb", real_ptb, offline=True)
    stripped = load_characters("ptb", real_ptb, form="stripped", offline=True)
    assert [getattr(stripped, split).size for split in SPLITS] == [5_017_482, 393_042, 442_423]
    for split in SPLITS:
        raw = read_verified(f"ptb/ptb.{split}.txt", real_ptb, offline=True).decode().splitlines()
        assert all(line[0] == line[-1] == " " and "  " not in line for line in raw)
        assert text(stripped, split).splitlines() == [line.strip() for line in raw]
        assert text(authors, split).splitlines() == [line.lstrip() for line in raw]


def test_ptb_may_be_packed(real_ptb, tmp_path):
    (tmp_path / "ptb").mkdir()
    for split in SPLITS:
        raw = read_verified(f"ptb/ptb.{split}.txt", real_ptb, offline=True)
        (tmp_path / f"ptb/ptb.{split}.txt.gz").write_bytes(gzip.compress(raw, 1))
    packed, plain = (load_characters("ptb", folder, offline=True) for folder in (tmp_path, real_ptb))
    assert packed.sha256 == plain.sha256
    for split in SPLITS:
        np.testing.assert_array_equal(getattr(packed, split), getattr(plain, split))


def test_ptb_truncated_by_one_line(real_ptb, tmp_path):
    (tmp_path / "ptb").mkdir()
    raw = read_verified(TRAIN, real_ptb, offline=True)
    (tmp_path / TRAIN).write_bytes(raw[: raw.rindex(b"\n", 0, -1) + 1])
    with pytest.raises(UserError, match=r"bytes, expected 5,101,618, and has sha256 .*truncated or edited"):
        load_characters(data_dir=tmp_path, offline=True)


def test_module_reexports_what_it_says():
    import minizone.data as data

    assert all(getattr(data, name) is not None for name in data.__all__)
    assert data.fetch is download.fetch
