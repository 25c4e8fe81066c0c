"""`run.py resume RUN`: it continues with the settings of config.json, or says in one sentence why it cannot."""

from __future__ import annotations

import json
import shlex
import shutil

import pytest

from minizone.runs.files import read_rows
from tests.helpers.commands import refused_here
from tests.helpers.runs import same_run

FLAGS = shlex.split(
    "char-ptb --dataset manual --hidden-size 12 --batch-size 10 --seq-len 11 --train-symbols 1500 --eval-symbols 300"
    " --z-prob-cells 0.5"
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    import minizone.commands.main as program

    folder = tmp_path_factory.mktemp("a run") / "of two epochs"
    assert program.main([*FLAGS, "--epochs", "2", "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def run(finished, tmp_path):
    """A copy of the finished run, to be changed."""
    return shutil.copytree(finished, tmp_path / "a run" / "copied")


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_stopped_run_goes_on_without_its_flags_and_equals_the_uninterrupted_one(program, finished, tmp_path, capsys):
    stopped = tmp_path / "stopped"
    assert program.main([*FLAGS, "--epochs", "2", "--max-minutes", "1e-9", "--out", str(stopped)]) == 0
    assert not (stopped / "summary.json").exists()
    assert program.main(["resume", str(stopped), "--max-minutes", "inf"]) == 0
    same_run(finished, stopped)


def test_more_epochs_go_on_and_the_config_has_them_afterwards(program, finished, run):
    assert program.main(["resume", str(run), "--epochs", "3"]) == 0
    assert len(read_rows(run / "metrics.jsonl")) == 3
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (finished, run))
    assert after["settings"] == {**before["settings"], "epochs": 3}
    assert after["changed"] == {**before["changed"], "epochs": 3}


@pytest.mark.parametrize("flags", ["", "--epochs 1", "--patience 9 --max-minutes 5"])
def test_a_finished_run_says_so_and_stays_as_it_is(flags, program, finished, capsys):
    before = contents(finished)
    assert program.main(["resume", str(finished), *flags.split()]) == 0
    assert f"{finished} is finished after 2 epochs; to continue, give more --epochs\n" == capsys.readouterr().out
    assert contents(finished) == before


def test_a_finished_run_gets_its_missing_vocabulary_and_says_which_file_is_damaged(program, finished, run, capsys):
    (run / "vocabulary.json").unlink()
    assert program.main(["resume", str(run)]) == 0
    same_run(finished, run)
    assert contents(run).keys() == contents(finished).keys()
    (run / "best.safetensors").write_bytes((run / "best.safetensors").read_bytes()[:1000])
    assert "best.safetensors is not a readable checkpoint" in refused_here(capsys, "resume", run)
    shutil.copy(finished / "best.safetensors", run)
    (run / "metrics.jsonl").unlink()
    assert "has no row in its log for epoch 2, its best epoch" in refused_here(capsys, "resume", run)


def test_a_run_that_patience_has_stopped_is_finished_until_patience_is_longer(program, tmp_path, capsys):
    out = str(tmp_path / "run")
    stuck = ["--epochs", "9", "--patience", "1", "--algorithm", "sgd", "--learning-rate", "1e-30", "--no-augment"]
    assert program.main([*FLAGS, *stuck, "--out", out]) == 0
    assert len(read_rows(tmp_path / "run" / "metrics.jsonl")) == 2
    assert program.main(["resume", out]) == 0
    assert "is finished after 2 epochs; to continue, give a longer --patience" in capsys.readouterr().out
    assert program.main(["resume", out, "--patience", "3"]) == 0
    assert len(read_rows(tmp_path / "run" / "metrics.jsonl")) == 4


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ("--hidden-size 32", "with other settings: hidden_size was 12, is 32"),
        ("--dataset ptb --offline", "with other settings: dataset was manual, is ptb"),
        ("--epochs 4 --learning-rate 0.1", "with other settings: learning_rate was 0.002, is 0.1"),
        ("--preset paper --epochs 4", "with other settings: preset was quick, is paper"),
        ("--epoch 4", "resume: there is no flag --epoch, the nearest is --epochs;"),
        ("--epochs 0", "--epochs must be at least 1, got 0"),
        ("--out elsewhere", "--out cannot change"),
        ("--epochs 4 --dataset ptb --data-dir nowhere --offline", "ptb.train.txt is not in nowhere"),
        ("stray", "unexpected argument 'stray'"),
    ],
)
def test_what_cannot_change_is_refused_and_nothing_changes(flags, sentence, finished, capsys):
    before = contents(finished)
    assert sentence in refused_here(capsys, "resume", finished, *flags.split())
    assert contents(finished) == before


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (None, "is not the folder of a run"),
        ("", "is not JSON"),
        ("{}", "is not the config of a run"),
        ("[]", "is not the config of a run"),
        ('{"task": "char-ptb", "settings": {"preset": "huge"}}', "is not the config of a run"),
        (
            '{"task": "slow", "settings": {}}',
            "is a run of the task 'slow', which run.py does not have: run the file that",
        ),
        *(
            (
                '{"task": "char-ptb", "settings": {"preset": "quick", ' + setting + "}}",
                f"config.json has {what}, which is not",
            )
            for setting, what in (
                ('"hidden_size": "x"', "'x' for hidden_size"),
                ('"hidden_size": true', "True for hidden_size"),
                ('"hidden_size": 2.5', "2.5 for hidden_size"),
                ('"epochs": null', "None for epochs"),
                ('"learning_rate": "0.1"', "'0.1' for learning_rate"),
                ('"z_prob_cells": [0.1]', "[0.1] for z_prob_cells"),
                ('"rnn_type": "lstn"', "'lstn' for rnn_type"),
                ('"augment": 1', "1 for augment"),
                ('"text": 5', "5 for text"),
            )
        ),
        ('{"task": "gradients", "settings": {"preset": "quick"}}', "is a part of a run: give the folder above it"),
    ],
)
def test_a_folder_without_a_usable_config_is_a_sentence(config, sentence, tmp_path, capsys):
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    assert sentence in refused_here(capsys, "resume", tmp_path)


def test_a_folder_of_several_runs_is_a_sentence(run, capsys):
    assert f"{run.parent} holds several runs: give one of them" in refused_here(capsys, "resume", run.parent)


def test_flags_before_the_run_and_no_run_at_all_are_refused(program, run, capsys):
    assert "the folder of the run comes first" in refused_here(capsys, "resume", "--epochs", "3", run)
    assert program.main(["resume"]) == 2 and capsys.readouterr().out.startswith("usage: ")


def test_help_of_a_run_shows_its_own_values(program, finished, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert program.main(["resume", str(finished), "--help"]) == 0
    assert "Maximum number of epochs. (default: 2)" in capsys.readouterr().out


def test_all_methods_of_gradients_go_on(program, tmp_path, capsys):
    flags = shlex.split(
        "gradients --dataset digits --hidden-size 3 --train-examples 4 --eval-examples 4 --batch-size 2 --epochs 1"
        " --max-minutes 1e-9"
    )
    assert program.main([*flags, "--out", str(tmp_path / "run")]) == 0
    assert not (tmp_path / "run" / "gradients.npz").exists()
    assert program.main(["resume", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "gradients.npz").exists()
