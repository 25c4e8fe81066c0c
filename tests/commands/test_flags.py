"""Flags: what is mistyped is one sentence, status 2 and no folder; what is right reaches the settings."""

import shutil
import sys
from dataclasses import fields

import pytest

from minizone import Device, UserError
from minizone.commands.train import TASKS, parse_settings
from minizone.experiments.char_ptb import CharPTB
from tests.helpers.commands import refused_here


def has_gpu():
    try:
        return Device("gpu") is not None
    except UserError:
        return False


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--z-prob-cell", "0.5"], "--z-prob-cell"),
        (["--z-prob-cells", "much"], "--z-prob-cells must be a probability in [0, 1], got much"),
        (["--z-prob-cells", "1.5"], "--z-prob-cells must be a probability in [0, 1], got 1.5"),
        (["--z-prob-states", "nan"], "--z-prob-states must be a probability in [0, 1], got nan"),
        (["--drop-prob-igates", "-0.1"], "--drop-prob-igates must be a probability in [0, 1], got -0.1"),
        (["--share-mask", "--z-prob-cells", "0.5", "--z-prob-states", "0.1"], "equal"),
        (["--preset", "huge"], "huge"),
        (["--preset"], "--preset"),
        (["--hidden-size", "0"], "--hidden-size must be at least 1, got 0"),
        (["--hidden-size", "3.5"], "--hidden-size"),
        (["--seq-len", "1"], "--seq-len must be at least 2"),
        (["--seq-len", "100000000", "--train-symbols", "0", "--eval-symbols", "0"], "--seq-len must be at most"),
        (["--learning-rate", "inf"], "--learning-rate must be finite"),
        (["--epochs", "0"], "--epochs must be at least 1, got 0"),
        (["--batch-size"], "--batch-size"),
        (["--data-dir", "nowhere", "--dataset", "ptb", "--offline"], "nowhere"),
        (["--load-path", "nowhere"], "there is no checkpoint nowhere"),
        (["--out="], "--out is empty"),
        pytest.param(["--device", "gpu"], "device gpu", marks=pytest.mark.skipif(has_gpu(), reason="has a GPU")),
    ],
)
def test_a_mistyped_flag_is_one_sentence_and_leaves_no_folder(flags, sentence, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert sentence in refused_here(capsys, "char-ptb", "--dataset", "manual", "--out", "run", *flags)
    assert not list(tmp_path.iterdir())


def test_memory_that_runs_out_is_a_sentence_with_a_batch_size_to_try(capsys, tmp_path, monkeypatch):
    def too_large(*arguments):
        raise MemoryError("Unable to allocate 596. GiB")

    monkeypatch.setattr(CharPTB, "build", too_large)
    flags = ["--dataset", "manual", "--batch-size", "16", "--out", tmp_path / "run"]
    sentence = "out of memory: Unable to allocate 596. GiB; try --batch-size 8 or a smaller --hidden-size"
    assert sentence in refused_here(capsys, "char-ptb", *flags)
    assert not (tmp_path / "run").exists()


def test_help_explains_every_flag_and_shows_the_defaults_of_the_preset(program, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    assert program.main(["char-ptb", "--preset", "paper", "--help"]) == 0
    text = capsys.readouterr().out
    for flag in ("--z-prob-cells", "--z-prob-states", "--drop-prob-igates", "--static-mask", "--max-minutes", "--out"):
        assert flag in text
    assert "(default: 1000)" in text and "(default: 0.002)" in text


@pytest.mark.parametrize("arguments", [["--preset", "paper"], ["--preset=paper"], ["--epochs", "3", "--preset=paper"]])
def test_a_preset_gives_the_other_flags_their_defaults(arguments):
    assert parse_settings("char-ptb", arguments).hidden_size == 1000
    assert parse_settings("char-ptb", [*arguments, "--hidden-size", "7"]).hidden_size == 7
    assert parse_settings("char-ptb", []).hidden_size == 256


SMALL = {
    "char-ptb": "--dataset manual --hidden-size 3 --seq-len 5 --train-symbols 40 --eval-symbols 20",
    "word-ptb": "--dataset manual --hidden-size 3 --seq-len 5 --train-symbols 40 --eval-symbols 20",
    "pmnist": "--dataset digits --hidden-size 3 --train-examples 4 --eval-examples 4",
    "seq2seq": "--hidden-size 3 --updates-per-epoch 1 --valid-examples 4",
    "semantic": "--updates-per-epoch 1",
}
MISTYPED = ["", "x", "-1", "0", "0.5", "1.5", "nan", "inf", "-inf", "1,5", "0.5,"]


@pytest.mark.fuzz
@pytest.mark.skipif(sys.platform != "linux", reason="the sentences of other systems differ")
@pytest.mark.usefixtures("nobody_elses_files")
@pytest.mark.parametrize("task", SMALL)
def test_every_flag_with_every_mistyped_value_runs_or_is_one_sentence(task, program, capsys, tmp_path, monkeypatch):
    base = [task, "--epochs", "1", "--batch-size", "2", "--max-minutes", "1e-9", "--offline", *SMALL[task].split()]
    names = [field.name.replace("_", "-") for field in fields(TASKS[task].presets["quick"])]
    work, statuses = tmp_path / "work", set()
    for flag in [f"--{name}={value}" for name in names for value in MISTYPED]:
        work.mkdir()
        monkeypatch.chdir(work)
        status = program.main([*base, flag])
        err = capsys.readouterr().err
        if status:
            assert status == 2 and err.startswith("run.py: ") and len(err.splitlines()) == 1, (flag, err)
            assert not list(work.iterdir()), f"{flag} left {list(work.rglob('*'))}"
        else:
            assert err == "", (flag, err)
        statuses.add(status)
        shutil.rmtree(work)
    assert statuses == {0, 2}
