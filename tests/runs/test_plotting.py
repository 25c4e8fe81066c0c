"""Figures show what the logs of the runs say."""

import matplotlib.pyplot as plt
import pytest

from minizone import UserError
from minizone.runs.plotting import plot_runs
from tests.helpers.runs import make_run


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
