"""Several seeds in one command; and the settings of a run, from its config.json."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import asdict, replace

import pytest

from minizone.commands.train import TASKS, settings_of_run
from minizone.errors import UserError
from tests.helpers.commands import refused_here


def write_config(folder, task, settings):
    """As `minizone.runs.folder.start` writes it."""
    values = {name: None if value == math.inf else value for name, value in asdict(settings).items()}
    (folder / "config.json").write_text(json.dumps({"task": task, "settings": values}))


@pytest.mark.parametrize("preset", ["quick", "paper"])
@pytest.mark.parametrize("task", TASKS)
def test_settings_of_a_run_are_those_it_was_started_with(tmp_path, task, preset):
    settings = replace(TASKS[task].presets[preset], seed=7, epochs=3, learning_rate=0.125)
    write_config(tmp_path, task, settings)
    assert settings_of_run(tmp_path) == (task, settings)


def test_settings_younger_than_the_run_are_those_of_the_preset(tmp_path):
    (tmp_path / "config.json").write_text('{"task": "char-ptb", "settings": {"preset": "paper", "seed": 3, "old": 1}}')
    assert settings_of_run(tmp_path) == ("char-ptb", replace(TASKS["char-ptb"].presets["paper"], seed=3))


def test_a_run_of_an_unknown_task_is_an_error(tmp_path):
    (tmp_path / "config.json").write_text('{"task": "translation", "settings": {}}')
    with pytest.raises(UserError, match="is a run of the task 'translation'"):
        settings_of_run(tmp_path)


TINY = ("--dataset", "manual", "--hidden-size", "4", "--seq-len", "5", "--train-symbols", "60", "--eval-symbols", "20")


def test_several_seeds_are_runs_of_one_integer_each_with_their_mean_and_spread(program, tmp_path, capsys):
    words = ["char-ptb", *TINY, "--epochs", "1", "--out", str(tmp_path / "x")]
    assert program.main([*words, "--seed", "3,1"]) == 0
    printed = capsys.readouterr().out
    folders = [tmp_path / "x" / "seed3", tmp_path / "x" / "seed1"]
    assert [settings_of_run(folder)[1].seed for folder in folders] == [3, 1]
    results = [json.loads((folder / "summary.json").read_text())["best_valid_bpc"] for folder in folders]
    mean, spread = statistics.mean(results), statistics.stdev(results)
    assert f"2 seeds, mean and sample standard deviation:\n  best_valid_bpc {mean:.4f} ({spread:.4f})\n" in printed

    assert "seed3 holds a run already" in refused_here(capsys, *words, "--seed=2,3")
    assert not (tmp_path / "x" / "seed2").exists()
    assert program.main([*words, "--seed=2,3", "--epochs", "2", "--resume"]) == 0, "2 begins, 3 goes on"
    assert len((tmp_path / "x" / "seed3" / "metrics.jsonl").read_text().splitlines()) == 2
    capsys.readouterr()
    assert program.main([*words, "--seed=1,3", "--epochs", "1", "--resume"]) == 0
    assert "2 seeds trained for 1, 2 epochs, mean and sample" in capsys.readouterr().out


def test_one_seed_keeps_its_folder_and_several_without_out_have_their_labels(program, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert program.main(["char-ptb", *TINY, "--epochs", "1", "--seed", "7", "--out", "x"]) == 0
    assert program.main(["semantic", "--epochs", "1", "--updates-per-epoch", "1", "--seed", "1,2"]) == 0
    names = {str(path.parent.relative_to(tmp_path)) for path in tmp_path.rglob("config.json")}
    assert names == {"x", "runs/semantic/zoneout0.1-seed1", "runs/semantic/zoneout0.1-seed2"}


@pytest.mark.parametrize(
    ("seeds", "sentence"),
    [
        ("1,x", "--seed must be an integer, or several as in 1,2,3, got 1,x"),
        ("1,", "--seed must be an integer, or several as in 1,2,3, got 1,"),
        ("1,1.5", "--seed must be an integer, or several as in 1,2,3, got 1,1.5"),
        ("1,-2", "--seed must be at least 0, got -2"),
        ("2,1,2", "--seed 2,1,2 has a seed twice: give each seed once"),
        ("1,2 --resume", "cannot resume: "),
    ],
)
def test_what_is_no_list_of_seeds_is_one_sentence(seeds, sentence, tmp_path, capsys):
    assert sentence in refused_here(capsys, "char-ptb", *TINY, "--out", tmp_path / "x", "--seed", *seeds.split())
    assert not (tmp_path / "x").exists()
