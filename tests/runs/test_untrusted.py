"""Archives that mean ill, pickles, and a network that must not be asked."""

from __future__ import annotations

import ast
import gzip
import io
import pickle
import shlex
import socket
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minizone.data import load_characters, load_images, load_text8, load_words
from minizone.data.download import KNOWN_FILES
from minizone.errors import UserError
from tests.helpers import known

pytestmark = pytest.mark.usefixtures("nobody_elses_files")
ROOT = Path(__file__).resolve().parents[2]
ARCHIVE = "text8/text8.zip"


# ---- archives


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


# ---- pickles


class Bomb:
    """Unpickled, it leaves a file."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return (Path.touch, (self.trace,))


def sources() -> list[Path]:
    found = [*(ROOT / "minizone").rglob("*.py"), *(ROOT / "chapters").rglob("*.py"), ROOT / "run.py"]
    assert len(found) > 40
    return found


def test_nothing_is_unpickled():
    """No module imports what can unpickle, or evaluates text, and NumPy reads files only with allow_pickle=False."""
    forbidden = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib", "torch.load"}
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not forbidden & {name.split(".")[0] for name in names}, path
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            assert called not in ("eval", "exec", "torch.load"), path
            if called in ("np.load", "numpy.load", "xp.load", "cupy.load"):
                options = {each.arg: ast.unparse(each.value) for each in node.keywords}
                assert options.get("allow_pickle") == "False", f"{path}: {ast.unparse(node)}"


def test_a_pickle_in_the_place_of_any_file_is_not_run(tmp_path, monkeypatch, program, capsys):
    trace = tmp_path / "trace"
    pickled = pickle.dumps(Bomb(trace))
    packed = io.BytesIO()
    np.savez(packed, a=np.array([Bomb(trace)], object))
    assert pickle.loads(pickled) is None and trace.exists(), "it would have gone off"
    trace.unlink()
    for raw in (pickled, packed.getvalue(), gzip.compress(pickled)):
        folder = tmp_path / "run"
        folder.mkdir(exist_ok=True)
        for name in ("config.json", "summary.json", "metrics.jsonl", "last.safetensors", "best.safetensors"):
            (folder / name).write_bytes(raw)
        train = "char-ptb --dataset manual --out"
        load = f"{train} {tmp_path / 'new'} --load-path {folder / 'best.safetensors'}"
        for line in (f"plot {folder}", f"report {folder}", f"{train} {folder} --resume", load):
            assert program.main(shlex.split(line)) == 2
        for relative in (*KNOWN_FILES, "text8/text8"):
            (tmp_path / "data" / relative).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "data" / relative).write_bytes(raw)
        for load in (load_characters, load_words, load_images, load_text8):
            with pytest.raises(UserError):
                load(data_dir=tmp_path / "data", offline=True)
    assert not trace.exists() and not (tmp_path / "new").exists()


# ---- no network unless something is missing, and none at all with --offline


@pytest.fixture
def no_network(monkeypatch):
    """Whoever asks the network fails, and is noted."""
    asked: list[Any] = []

    def refuse(*address: Any, **_: Any) -> Any:
        asked.append(address)
        raise OSError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return asked


TINY = "--epochs 1 --max-minutes 1e-9 --batch-size 2"
TEXT = f"{TINY} --hidden-size 3 --seq-len 5 --train-symbols 60 --eval-symbols 20"
RUNS = {
    "char-ptb": (TEXT, "ptb"),
    "word-ptb": (TEXT, "ptb"),
    "text8": (TEXT, "text8"),
    "pmnist": (f"{TINY} --hidden-size 3 --train-examples 4 --eval-examples 4", "mnist"),
    "gradients": (f"{TINY} --hidden-size 3 --train-examples 4 --eval-examples 4", "mnist"),
    "seq2seq": (f"{TINY} --hidden-size 3 --updates-per-epoch 1 --valid-examples 4", None),
    "semantic": (TINY, None),
}


@pytest.mark.parametrize("task", RUNS)
def test_offline_asks_nobody_and_says_so(task, program, capsys, tmp_path, no_network):
    flags, dataset = RUNS[task]
    assert program.main([task, *flags.split(), "--offline", "--out", str(tmp_path / "run")]) == 0
    out, err = capsys.readouterr()
    assert no_network == [] and err == ""
    assert ("nor to be downloaded (--offline): this run uses the" in out) == (dataset is not None)
    if task != "gradients":  # which stopped before it has files of its own
        assert ("(stand-in)" in (tmp_path / "run" / "config.json").read_text()) == (dataset is not None)


@pytest.mark.parametrize("task", [task for task, (_, dataset) in RUNS.items() if dataset])
@pytest.mark.parametrize("where", ["by name", "in a folder"])
def test_offline_what_was_asked_for_is_one_sentence(task, where, program, capsys, tmp_path, no_network):
    flags, dataset = RUNS[task]
    named = ["--dataset", str(dataset)] if where == "by name" else ["--data-dir", str(tmp_path / "nothing")]
    assert program.main([task, *flags.split(), *named, "--offline", "--out", str(tmp_path / "run")]) == 2
    out, err = capsys.readouterr()
    assert out in ("", "-- unregularized\n"), "the first of the runs of gradients"
    assert err.startswith("run.py: ") and err.count("\n") == 1 and "(not asked: offline)" in err
    assert no_network == [] and not list(tmp_path.iterdir()), "and no folder, of data or of a run, was made"


def test_without_offline_what_is_missing_is_asked_for(program, capsys, tmp_path, no_network):
    """So that the tests above show something."""
    assert program.main(["char-ptb", *RUNS["char-ptb"][0].split(), "--dataset", "ptb"]) == 2
    assert no_network and "no answer" in capsys.readouterr().err


def test_data_that_are_there_are_read_without_the_network(small, no_network):
    assert len(load_characters("ptb", small).train) and len(load_words("ptb", small).train)
    (small / "text8").mkdir()
    (small / "text8" / "text8").write_bytes(b"a b c " * 50)
    assert len(load_text8("text8", small).train) == 270
    for load in (load_characters, load_words, load_text8):
        assert load("manual").name.endswith("(stand-in)")
    assert load_images("digits").name.endswith("(stand-in)")
    assert no_network == []


def test_a_run_may_be_resumed_with_and_without_offline(program, capsys, tmp_path):
    line = ["char-ptb", *TEXT.split(), "--dataset", "manual", "--out", str(tmp_path / "run")]
    assert program.main([*line, "--offline"]) == 0
    assert program.main([*line, "--resume"]) == 0
    assert program.main([*line, "--offline", "--resume"]) == 0
