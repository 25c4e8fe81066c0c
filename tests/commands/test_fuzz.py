"""Files that are not what they should be: never a traceback, never much memory, always one sentence.

How many were tried is printed at the end of a run of the tests.
"""

from __future__ import annotations

import gzip
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from minizone.data import images, load_characters, load_images, load_text8, load_words
from minizone.data.download import KNOWN_FILES
from minizone.errors import UserError
from minizone.runs import files as checkpoint
from minizone.runs import training
from tests.data.test_images import ARRAYS, idx
from tests.data.test_text8 import RAW, zipped
from tests.helpers import SMALL, known
from tests.helpers.fuzz import ABSURD, damaged, edited, judged, little_memory

pytestmark = [
    pytest.mark.usefixtures("nobody_elses_files"),
    pytest.mark.skipif(sys.platform != "linux", reason="limits its memory"),
]
FILES = {**SMALL, **{name: idx(array) for name, array in ARRAYS.items()}, "text8/text8.zip": zipped(RAW)}
LOADERS: dict[str, Callable[..., Any]] = {"ptb": load_characters, "mnist": load_images, "text8": load_text8}


@pytest.fixture
def data(tmp_path, monkeypatch) -> Path:
    """A data folder with small files in the place of all known ones."""
    monkeypatch.setattr(images, "HELD_OUT", 3)
    for relative, raw in FILES.items():
        (tmp_path / "data" / relative).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / relative).write_bytes(raw)
        monkeypatch.setitem(KNOWN_FILES, relative, replace(known(raw), is_text=relative in SMALL))
    return tmp_path / "data"


def outcome(load: Callable[..., Any], dataset: str, folder: Path) -> str:
    """ "" when a data set came out, else the sentence."""
    try:
        load(dataset, folder, offline=True)
    except UserError as error:
        assert "\n" not in str(error) and 15 < len(str(error)) < 1000
        return str(error)
    return ""


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
@pytest.mark.parametrize("relative", FILES)
def test_a_damaged_data_file_is_named_as_such(relative, packed, data, record_property):
    """Whatever happened to a known file: its path is named, and that it must be deleted."""
    dataset, pack = relative.split("/")[0], gzip.compress if packed else bytes
    path = data / (relative + ".gz" if packed else relative)
    (data / relative).unlink()
    whole, tried, unseen = pack(FILES[relative]), 0, 0
    with little_memory():
        for raw in (*ABSURD, *map(pack, ABSURD), *damaged(whole, 200)):
            path.write_bytes(raw)
            said = outcome(LOADERS[dataset], dataset, data)
            if not said:  # bits that gzip does not mind: names, times, hints
                assert gzip.decompress(raw) == FILES[relative] if packed else raw == whole
                unseen += 1
            else:
                assert str(path) in said and "truncated or edited; delete it and run again" in said
            tried += 1
        path.unlink()
        path.mkdir()
        assert "is not in" in outcome(LOADERS[dataset], dataset, data), "a folder is not the file"
    record_property("damaged files tried", tried + 1)
    assert unseen < tried // 5


def test_one_flipped_bit_is_called_by_its_hash(data):
    path = data / "mnist/train-images-idx3-ubyte"
    raw = bytearray(FILES["mnist/train-images-idx3-ubyte"])
    raw[20] ^= 1
    path.write_bytes(raw)
    said = outcome(load_images, "mnist", data)
    assert re.search(r"ubyte has sha256 \w{12}\.\.\., expected \w{12}\.\.\.: truncated or edited", said)


@pytest.mark.parametrize("relative", FILES)
def test_a_reader_by_itself_is_never_at_a_loss(relative, data, monkeypatch, record_property):
    """As if the damaged file were the known one, so that nothing but the reader can notice."""
    dataset, tried = relative.split("/")[0], 0
    loaders = [LOADERS[dataset], *([load_words] if dataset == "ptb" else [])]
    with little_memory():
        for raw in (*ABSURD, *damaged(FILES[relative], 300)):
            (data / relative).write_bytes(raw)
            monkeypatch.setitem(KNOWN_FILES, relative, known(raw))
            for load in loaders:
                outcome(load, dataset, data)
                tried += 1
    record_property("damaged files tried", tried)


@pytest.mark.parametrize("name", ["text8", "text8.gz", "text8.prefix", "text8.prefix.gz"])
def test_text8_without_a_known_hash(name, data, record_property):
    (data / "text8/text8.zip").unlink()
    pack = gzip.compress if name.endswith(".gz") else bytes
    tried = 0
    with little_memory():
        for raw in (*ABSURD, *map(pack, ABSURD), *damaged(pack(RAW), 200)):
            (data / "text8" / name).write_bytes(raw)
            said = outcome(load_text8, "text8", data)
            assert not said or name in said
            tried += 1
    record_property("damaged files tried", tried)


@pytest.mark.parametrize("dimension", range(3))
@pytest.mark.parametrize("size", [0, 2**16, 2**31 - 1, 2**32 - 1])
def test_absurd_sizes_in_an_idx_header_allocate_nothing(dimension, size, data, monkeypatch):
    relative = "mnist/train-images-idx3-ubyte"
    raw = bytearray(FILES[relative])
    raw[4 + 4 * dimension : 8 + 4 * dimension] = size.to_bytes(4, "big")
    for content in (bytes(raw), bytes(raw[:4]) + size.to_bytes(4, "big") * 3 + bytes(raw[16:])):
        (data / relative).write_bytes(content)
        monkeypatch.setitem(KNOWN_FILES, relative, known(content))
        with little_memory(1 << 24):
            assert "its header announces" in outcome(load_images, "mnist", data)


# ---- the files of a run

TINY = shlex.split(
    "char-ptb --dataset manual --hidden-size 3 --batch-size 2 --seq-len 5 --train-symbols 40 --eval-symbols 20"
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The folder of a run that has ended. Not to be changed."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    import run

    assert run.main([*TINY, "--epochs", "2", "--out", str(folder)]) == 0
    return folder


READ = {  # who reads which file, and how often it is damaged
    "plot": {"config.json": 12, "metrics.jsonl": 12, "summary.json": 6},
    "report": {"config.json": 150, "metrics.jsonl": 150, "summary.json": 150},
    "saved": {"run.json": 150},
    "--resume": {"config.json": 30, "metrics.jsonl": 30, "last.safetensors": 60, "best.safetensors": 40},
    "--load-path": {"best.safetensors": 60, "last.safetensors": 40},
}


def line_of(reader: str, folder: Path, name: str) -> list[str]:
    """The command that reads a file in a folder."""
    out = folder.parent / "new"
    return {
        "plot": ["plot", str(folder), "--out", str(out / "curves.png")],
        "report": ["report", str(folder)],
        "saved": ["report", str(folder.parent / "saved")],
        "--resume": [*TINY, "--epochs", "3", "--out", str(folder), "--resume"],
        "--load-path": [*TINY, "--epochs", "1", "--out", str(out), "--load-path", str(folder / name)],
    }[reader]


def variants(raw: bytes, n: int, is_text: bool) -> list[bytes]:
    return [*ABSURD, *(edited(raw, n) if is_text else []), *damaged(raw, n)]


@pytest.mark.parametrize(("reader", "name"), [(reader, name) for reader, names in READ.items() for name in names])
def test_a_damaged_file_of_a_run(reader, name, finished, tmp_path, program, capsys, monkeypatch, record_property):
    if reader not in ("plot", "report", "saved"):
        monkeypatch.setattr(training, "plot_runs", lambda *_: None)  # it takes longer than all the rest
    folder, saved = tmp_path / "run", tmp_path / "saved"
    if reader == "saved":
        assert program.main(["report", str(finished), "--save", str(saved)]) == 0
        capsys.readouterr()
    damage = (saved if reader == "saved" else folder) / name
    whole = (damage if reader == "saved" else finished / name).read_bytes()
    statuses: list[int] = []
    with little_memory():
        for raw in [None, *variants(whole, READ[reader][name], name.endswith(("json", "jsonl")))]:
            shutil.rmtree(folder, ignore_errors=True)
            shutil.rmtree(tmp_path / "new", ignore_errors=True)
            shutil.copytree(finished, folder)
            shutil.rmtree(damage) if damage.is_dir() else damage.unlink()
            if raw is None:
                damage.mkdir()
            else:
                damage.write_bytes(raw)
            before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
            status, _ = judged(program, capsys, line_of(reader, folder, name))
            statuses.append(status)
            if status:
                assert not (tmp_path / "new").exists(), "nothing was made"
                after = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
                assert after == before or reader == "--resume", "and nothing was changed"
                assert not list(folder.glob("*.tmp")) and not (folder / "lock").exists()
    record_property("damaged files tried", len(statuses))
    assert sum(map(bool, statuses)) >= len(ABSURD) - 5


@pytest.mark.parametrize("length", [0, 1, 2**31, 2**40, 2**63, 2**64 - 1])
def test_absurd_sizes_in_a_safetensors_header_allocate_nothing(length, finished, tmp_path):
    raw = (finished / "best.safetensors").read_bytes()
    shape = re.search(rb'"shape":\[\d+', raw)
    assert shape
    for content in (
        length.to_bytes(8, "little") + raw[8:],
        raw.replace(shape[0], b'"shape":[' + str(length).encode().ljust(len(shape[0]) - 9)[: len(shape[0]) - 9], 1),
        (n := len(header := b'{"a":{"dtype":"F32","shape":[%d],"data_offsets":[0,%d]}}' % (length, 4 * length)))
        .to_bytes(8, "little") + header + bytes(n),
    ):  # fmt: skip
        (tmp_path / "x.safetensors").write_bytes(content)
        with little_memory(1 << 24), pytest.raises(UserError, match="is not a readable checkpoint"):
            checkpoint.load_arrays(tmp_path / "x.safetensors")
