"""Flags: a mistyped flag gives one sentence, status 2 and no folder; a correct flag reaches the settings."""

import re
import shutil
import sys
from dataclasses import fields

import pytest

from minizone import Device, UserError
from minizone.commands.flags import GROUPS
from minizone.commands.train import TASKS, parse_settings
from minizone.experiments.char_ptb import CharPTB
from tests.helpers.commands import refused_here

WITHOUT_EFFECT = {"hidden_size", "clipping", "clip_what", "weight_noise", "l2_regularization"}  # in `semantic`


def has_gpu():
    try:
        return Device("gpu") is not None
    except UserError:
        return False


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (
            ["--z-prob-cell", "0.5"],
            "char-ptb: there is no flag --z-prob-cell, the nearest is --z-prob-cells; see run.py",
        ),
        (["--lerning_rate=2"], "there is no flag --lerning-rate, the nearest is --learning-rate;"),
        (["--no-augmen"], "there is no flag --no-augmen, the nearest is --no-augment;"),
        (["--wibble", "3"], "there is no flag --wibble;"),
        (["stray"], "unexpected argument 'stray';"),
        (["--share-mask", "yes"], "unexpected argument 'yes';"),
        (["--z-prob-states", "0.1,0.2"], "--z-prob-states 0.1,0.2: 2 values for 1 layer; give one"),
        (["--num-layers", "3", "--z-prob-states", "0.1,0.2"], "2 values for 3 layers; give one for all layers"),
        (["--z-prob-cells", "much"], "--z-prob-cells must be a probability in [0, 1], got much"),
        (["--z-prob-cells", "1.5"], "--z-prob-cells must be a probability in [0, 1], got 1.5"),
        (["--z-prob-states", "nan"], "--z-prob-states must be a probability in [0, 1], got nan"),
        (["--drop-prob-igates", "-0.1"], "--drop-prob-igates must be a probability in [0, 1], got -0.1"),
        (["--share-mask", "--z-prob-cells", "0.5", "--z-prob-states", "0.1"], "equal"),
        (["--preset", "huge"], "char-ptb: --preset must be one of quick, paper, got huge;"),
        (["--preset"], "char-ptb: --preset needs a value;"),
        (["--device", "tpu"], "char-ptb: --device must be one of cpu, gpu, got tpu;"),
        (["--learning-rate", "much"], "char-ptb: --learning-rate must be a number, got much;"),
        (["--hidden-size", "0"], "--hidden-size must be at least 1, got 0"),
        (["--hidden-size", "3.5"], "char-ptb: --hidden-size must be a whole number, got 3.5;"),
        (["--seq-len", "1"], "--seq-len must be at least 2"),
        (["--seq-len", "100000000", "--train-symbols", "0", "--eval-symbols", "0"], "--seq-len must be at most"),
        (["--learning-rate", "inf"], "--learning-rate must be finite"),
        (["--epochs", "0"], "--epochs must be at least 1, got 0"),
        (["--batch-size"], "--batch-size needs a value;"),
        (["--batch-size", "--seed", "3"], "--batch-size needs a value;"),
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


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("export", "export: RUN is missing; see run.py export --help"),
        ("export a b", "export: unexpected argument 'b'; see"),
        ("plot --ou x a", "plot: there is no flag --ou, the nearest is --out; see"),
        ("plot --out", "plot: --out needs a value; see"),
        ("report a b", "report: unexpected argument 'b'; see"),
        ("conformance", "conformance: ADAPTER is missing; see"),
        ("semantic --hidden-size 3", "semantic: unexpected argument '--hidden-size'; see"),
        ("export --ot x", "export: there is no flag --ot, the nearest is --out; see"),
    ],
)
def test_a_mistyped_argument_of_any_command_is_said_once(arguments, sentence, capsys):
    err = refused_here(capsys, *arguments.split())
    assert err.startswith(f"run.py: {sentence}")


def test_help_of_plot_wants_at_least_one_run(program, capsys):
    assert program.main(["plot", "--help"]) == 0
    page = capsys.readouterr().out
    assert "plot [-h] RUN [RUN ...] " in page and "wrote. (required)" in " ".join(page.replace("│", "").split())


def test_the_last_of_two_values_counts_and_none_is_a_name():
    settings = parse_settings("char-ptb", ["--epochs", "3", "--out", "None", "--epochs", "4"])
    assert (settings.epochs, settings.out) == (4, "None")


def test_memory_that_runs_out_is_a_sentence_with_a_batch_size_to_try(capsys, tmp_path, monkeypatch):
    def too_large(*arguments):
        raise MemoryError("Unable to allocate 596. GiB")

    monkeypatch.setattr(CharPTB, "build", too_large)
    flags = ["--dataset", "manual", "--batch-size", "16", "--out", tmp_path / "run"]
    sentence = "out of memory: Unable to allocate 596. GiB; try --batch-size 8 or a smaller --hidden-size"
    assert sentence in refused_here(capsys, "char-ptb", *flags)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("columns", ["50", "80", "200"])
@pytest.mark.parametrize("task", TASKS)
def test_help_has_every_flag_once_in_groups_with_a_sentence_and_the_default_of_the_preset(
    task, columns, program, capsys, monkeypatch
):
    monkeypatch.setenv("COLUMNS", columns)
    flags = [] if task == "gradients" else ["--preset", "paper"]
    assert program.main([task, *flags, "--help"]) == 0
    page = capsys.readouterr().out
    assert all(len(line) <= int(columns) for line in page.partition("options")[2].splitlines()[2:])
    assert "None" not in page and "|" not in page
    groups = {"run", "data", "regularizer", "optimizer"} - ({"regularizer"} if task == "semantic" else set())
    assert all(page.count(f"{group} options") == 1 for group in groups)
    if columns == "80":  # one column, so that a flag has its text behind it
        entries = [" ".join(entry.split()) for entry in re.split(r"\n {0,2}(?=--)", page.replace("│", ""))]
        for field in fields(TASKS[task].presets["paper"]):
            flag = f"--{field.name.replace('_', '-')}"
            found = [entry for entry in entries if re.match(f"{flag}[ ,]", entry)]
            assert len(found) == (not (task == "semantic" and field.name in WITHOUT_EFFECT)), flag
            assert all(len(entry.split(" (default")[0].split()) > 2 for entry in found), f"{flag} has no sentence"


def test_help_shows_the_defaults_of_the_preset(program, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert program.main(["char-ptb", "--preset", "paper", "--help"]) == 0
    assert "(default: 1000)" in (text := capsys.readouterr().out) and "(default: 0.002)" in text


def test_the_groups_of_help_name_only_settings_that_there_are():
    names = {field.name for kind in TASKS.values() for field in fields(kind.presets["paper"])}
    grouped = " ".join(GROUPS.values()).split()
    assert set(grouped) <= names and len(set(grouped)) == len(grouped)


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
