"""Tables and figures come from the logs of runs, and say what the logs say."""

import json

import matplotlib.pyplot as plt
import pytest

from minizone import UserError
from minizone.runs.files import read_run
from minizone.runs.plotting import plot_runs
from minizone.runs.report import find_runs, report, save_run


def make_run(
    folder, seed=1, z=0.0, valid=(2.0, 1.5, 1.75), dataset="PTB, authors' form", reference=None, task="char-ptb"
):
    folder.mkdir(parents=True)
    changed = {"seed": seed} | ({"z_prob_cells": z, "augment": False} if z else {})
    config = {
        "task": task,
        "metric": "bpc",
        "unit": "bits per character",
        "settings": {"seed": seed, "preset": "paper", "z_prob_cells": z},
        "changed": changed,
        "dataset": {"name": dataset, "sha256": {}},
        "machine": "AMD EPYC, 2 cores",
        "reference": {"Zoneout": {"valid": 1.362, "test": 1.27}} if reference is None else reference,
    }
    (folder / "config.json").write_text(json.dumps(config))
    rows = [{"epoch": n, "train_bpc": v - 0.1, "valid_bpc": v} for n, v in enumerate(valid, start=1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    best = min(valid)
    summary = {"best_epoch": valid.index(best) + 1, "best_valid_bpc": best, "test_bpc": best - 0.25, "seconds": 90.0}
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def test_runs_that_differ_in_the_seed_share_a_row_with_mean_spread_and_each_number(tmp_path):
    for seed, valid in ((1, 1.5), (2, 1.7)):
        make_run(tmp_path / f"lstm-seed{seed}", seed, valid=(3.0, valid))
        make_run(tmp_path / f"zoneout-seed{seed}", seed, z=0.5, valid=(3.0, valid - 0.2))
    lines = report(tmp_path).splitlines()
    assert lines[0] == "**char-ptb** on PTB, authors' form, bpc"
    command = "python run.py char-ptb --preset paper"
    numbers = "1.6000 (0.1414) | 1: 1.5000, 2: 1.7000 | 1.3500 (0.1414) | 2/2, 2/2 | 1.5"
    assert lines[4] == f"| lstm | {numbers} | AMD EPYC, 2 cores | `{command}` |"
    assert lines[5].startswith("| zoneout | 1.4000 (0.1414) |")
    assert lines[5].endswith(f"`{command} --z-prob-cells 0.5 --no-augment` |")
    assert lines[6] == "| *paper: Zoneout* | 1.362 | | 1.27 | | | | |"


def test_data_sets_are_never_in_one_table(tmp_path):
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", dataset="manual", reference={})
    assert report(tmp_path).count("| run |") == 2


def test_a_saved_run_reads_like_the_folder_it_was_made_of(tmp_path):
    folder = make_run(tmp_path / "runs" / "lstm-seed1")
    path = save_run(read_run(folder), tmp_path / "saved")
    assert path.name == "lstm-seed1.json" and read_run(path) == read_run(folder)
    assert report(tmp_path / "saved") == report(tmp_path / "runs")


def test_a_saved_run_does_not_tell_where_the_data_lay(tmp_path):
    run = read_run(make_run(tmp_path / "runs" / "lstm-seed1"))
    run["config"]["settings"]["data_dir"] = run["config"]["changed"]["data_dir"] = "/home/someone"
    assert "someone" not in save_run(run, tmp_path / "saved").read_text()


def test_an_unfinished_run_is_not_in_a_table(tmp_path):
    make_run(tmp_path / "a")
    (make_run(tmp_path / "b") / "summary.json").unlink()
    assert [run["name"] for run in find_runs(tmp_path)] == ["a"]


@pytest.mark.parametrize("content", ["{}", "[1, 2]", "not json"])
def test_what_is_not_a_run_is_a_sentence(content, tmp_path):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(UserError, match=r"x\.json"):
        report(tmp_path)
    with pytest.raises(UserError, match="not a folder"):
        report(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no finished run"):
        report(tmp_path / "empty")


@pytest.fixture
def drawn(monkeypatch):
    """The axes of the figures that are drawn, kept open."""
    axes = []
    monkeypatch.setattr(plt, "close", lambda figure: axes.extend(figure.axes))
    yield axes
    monkeypatch.undo()
    plt.close("all")


def test_curves_are_the_rows_of_the_log_and_the_paper_is_dashed(drawn, tmp_path):
    plot_runs([make_run(tmp_path / "one"), make_run(tmp_path / "two", valid=(2.5, 2.25))], tmp_path / "x.png")
    lines = {line.get_label(): line for line in drawn[0].lines}
    assert list(lines["one: best 1.500"].get_ydata()) == [2.0, 1.5, 1.75]
    assert list(lines["two: best 2.250"].get_ydata()) == [2.5, 2.25]
    dashed = [line for line in drawn[0].lines if line.get_linestyle() == "--"]
    assert [line.get_ydata()[0] for line in dashed] == [1.362]
    assert drawn[0].get_title() == "char-ptb on PTB, authors' form" and drawn[0].get_ylabel() == "bits per character"


def test_runs_on_other_data_show_no_number_of_the_paper_and_name_their_data(drawn, tmp_path):
    a = make_run(tmp_path / "one", dataset="manual", reference={})
    plot_runs([a, make_run(tmp_path / "two")], tmp_path / "x.png")
    assert not [line for line in drawn[0].lines if line.get_linestyle() == "--"]
    assert "one, manual: best 1.500" in [line.get_label() for line in drawn[0].lines]


def test_runs_of_two_tasks_have_no_common_axis(tmp_path):
    with pytest.raises(UserError, match="no common axis: char-ptb, word-ptb"):
        plot_runs([make_run(tmp_path / "a"), make_run(tmp_path / "b", task="word-ptb")], tmp_path / "x.png")


def test_a_run_without_a_finished_epoch_cannot_be_plotted(tmp_path):
    folder = make_run(tmp_path / "a")
    (folder / "metrics.jsonl").unlink()
    with pytest.raises(UserError, match="no finished epoch"):
        plot_runs([folder], tmp_path / "x.png")
