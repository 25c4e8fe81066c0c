"""No network unless a file is missing, and none at all with --offline."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from minizone.data import load_characters, load_images, load_text8, load_words

pytestmark = pytest.mark.usefixtures("nobody_elses_files")


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
    assert ("cannot be downloaded (--offline): this run uses the" in out) == (dataset is not None)
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
