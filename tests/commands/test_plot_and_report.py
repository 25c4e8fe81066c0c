"""`run.py plot` and `run.py report`: one figure, tables, saved runs, and what is refused."""

import pytest

from tests.helpers.commands import refused_here
from tests.helpers.runs import run


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    run(folder / "a", epochs=1)
    run(folder / "b", epochs=1, z_prob_cells=0.25)
    return folder


def test_plot_draws_two_runs_into_one_figure(program, runs, tmp_path, capsys):
    out = tmp_path / "new" / "both.svg"
    assert program.main(["plot", str(runs / "a"), str(runs / "b"), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert out.read_text().count("<svg") == 1


def test_plot_refuses_what_is_not_a_run_and_what_is_not_a_figure(runs, tmp_path, capsys):
    assert "needs at least one run folder" in refused_here(capsys, "plot")
    assert "not the folder of a run" in refused_here(capsys, "plot", tmp_path)
    assert "curves.xyz" in refused_here(capsys, "plot", runs / "a", "--out", tmp_path / "curves.xyz")
    assert not list(tmp_path.iterdir())


def test_report_prints_a_table_and_saves_each_run(program, runs, tmp_path, capsys):
    assert program.main(["report", str(runs), "--save", str(tmp_path / "saved")]) == 0
    table = capsys.readouterr().out
    assert table.count("`python run.py char-ptb") == 2
    assert sorted(path.name for path in (tmp_path / "saved").iterdir()) == ["a.json", "b.json"]
    assert program.main(["report", str(tmp_path / "saved")]) == 0
    assert capsys.readouterr().out == table


def test_report_refuses_a_folder_without_a_run(tmp_path, capsys):
    assert "no finished run" in refused_here(capsys, "report", tmp_path)
