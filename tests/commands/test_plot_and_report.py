"""`run.py plot` and `run.py report`: one figure, tables, saved runs, and what is refused."""

import re
import shutil
from pathlib import Path

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


def test_plot_leaves_out_the_figures_beside_the_runs(program, runs, tmp_path, capsys):
    for name in ("curves.png", "heat-map.svg"):
        (tmp_path / name).write_bytes(b"a figure")
    given = [str(path) for path in (runs / "a", tmp_path / "curves.png", tmp_path / "heat-map.svg")]
    assert program.main(["plot", *given, "--out", str(tmp_path / "both")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'both.png'}\n"
    assert "needs at least one run folder" in refused_here(capsys, "plot", *given[1:])


@pytest.mark.parametrize(("name", "written"), [("curves", "curves.png"), ("new/c.PDF", "new/c.PDF")])
def test_the_ending_of_a_figure_is_its_format_and_without_one_it_is_png(name, written, program, runs, tmp_path, capsys):
    assert program.main(["plot", str(runs / "a"), "--out", str(tmp_path / name)]) == 0
    assert capsys.readouterr().out == f"{tmp_path / written}\n"
    start = (tmp_path / written).read_bytes()[:4]
    assert start == {".png": b"\x89PNG", ".PDF": b"%PDF"}[(tmp_path / written).suffix]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / written]


@pytest.mark.parametrize(
    ("kind", "sentence"), [("bars", "there is none among these runs"), ("heat-map", "these differ in z_prob_cells")]
)
def test_a_kind_of_figure_that_does_not_fit_the_runs_is_one_sentence(kind, sentence, program, runs, tmp_path, capsys):
    given = [str(runs / "a"), str(runs / "b")]
    assert sentence in refused_here(capsys, "plot", *given, "--kind", kind, "--out", tmp_path / "c.png")
    assert not (tmp_path / "c.png").exists()
    assert program.main(["plot", *given, "--kind", "zoom", "--out", str(tmp_path / "c.png")]) == 0


def test_a_short_report_leaves_out_the_commands(program, runs, capsys):
    assert program.main(["report", str(runs), "--short"]) == 0
    printed = capsys.readouterr().out
    assert "best epoch" in printed and "python run.py" not in printed and "minutes" not in printed


def test_plot_takes_the_runs_below_a_folder_and_each_run_once(program, runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(runs)
    for k, given in enumerate((["a", "b"], ["."], ["a", "b", "./a", str(runs / "b")])):
        assert program.main(["plot", *given, "--out", str(tmp_path / f"{k}.svg")]) == 0
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_plot_refuses_what_is_not_a_run(tmp_path, capsys):
    assert "needs at least one run folder" in refused_here(capsys, "plot")
    assert "not the folder of a run" in refused_here(capsys, "plot", tmp_path)


@pytest.mark.parametrize(
    ("command", "out", "sentence"),
    [
        ("plot a --out", "c.xyz", "cannot write the figure c.xyz: its name must end in .png, .pdf, .svg"),
        ("plot a --out", "new/c.pgf", "its name must end in .png, .pdf, .svg"),
        ("plot a --out", "taken", "cannot write taken: it is a folder"),
        ("plot a --out", "taken.png", "cannot write taken.png: it is a folder"),
        ("plot a --out", "file/c.png", "cannot write the figure file/c.png: "),
        ("plot a --out", "", "plot: --out is empty"),
        ("plot a --out", ".", "cannot write .: it is a folder"),
        ("export a --out", "taken", "cannot write taken: it is a folder"),
        ("export a --out", "file/weights", "cannot write file/weights: Not a directory"),
        ("export a --out", "", "export: --out is empty"),
        ("export a --out", "/", "cannot write /: it is a folder"),
        ("conformance minizone.conformance:Layer --save", "taken", "cannot write taken: it is a folder"),
        ("conformance minizone.conformance:Layer --save", "", "conformance: --save is empty"),
        ("report . --save", "", "report: --save is empty"),
    ],
)
def test_a_name_that_cannot_be_written_is_one_sentence_and_leaves_nothing(
    command, out, sentence, runs, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").symlink_to(runs / "a")
    for folder in ("taken", "taken.png"):
        (tmp_path / folder).mkdir()
    (tmp_path / "file").touch()
    before = sorted(tmp_path.rglob("*"))
    assert sentence in refused_here(capsys, *command.split(), out)
    assert sorted(tmp_path.rglob("*")) == before


def test_report_prints_a_table_and_saves_each_run(program, runs, tmp_path, capsys):
    assert program.main(["report", str(runs), "--save", str(tmp_path / "saved")]) == 0
    table = capsys.readouterr().out
    assert table.count("`python run.py char-ptb") == 2
    assert sorted(path.name for path in (tmp_path / "saved").iterdir()) == ["a.json", "b.json"]
    assert program.main(["report", str(tmp_path / "saved")]) == 0
    assert capsys.readouterr().out == table


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("config.json", '{"task": ', "config.json is not JSON: "),
        ("config.json", None, "config.json does not exist: "),
        ("summary.json", "", "summary.json is not JSON: "),
        ("metrics.jsonl", None, "has no row in its log for epoch 1, its best epoch"),
    ],
)
def test_report_leaves_out_a_damaged_run_with_one_remark(name, content, sentence, program, runs, tmp_path, capsys):
    good = shutil.copytree(runs / "a", tmp_path / "runs" / "a")
    damaged = shutil.copytree(runs / "b", tmp_path / "runs" / "b")
    (damaged / name).unlink()
    if content is not None:
        (damaged / name).write_text(content)
    pages = ["--html", str(tmp_path / "page.html"), "--save", str(tmp_path / "saved")]
    assert program.main(["report", str(good.parent), *pages]) == 0
    out, err = capsys.readouterr()
    assert out.count("`python run.py char-ptb") == 1
    assert sentence in err and str(damaged) in err and err.count("\n") == 1 and err.endswith("; it is left out\n")
    assert sentence in refused_here(capsys, "report", damaged)
    assert [path.name for path in (tmp_path / "saved").iterdir()] == ["a.json"]


def test_report_refuses_a_folder_without_a_run(tmp_path, capsys):
    assert "no finished run" in refused_here(capsys, "report", tmp_path)


def test_report_writes_a_page_for_folders_and_for_saved_runs(program, runs, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert program.main(["report", str(runs)]) == 0
    table = capsys.readouterr().out
    assert program.main(["report", str(runs), "--html", "my pages/a.html", "--save", "saved"]) == 0
    assert capsys.readouterr().out == f"{table}\nmy pages/a.html\n"
    assert program.main(["report", "saved", "--html", "b.html"]) == 0
    page = Path("my pages/a.html").read_text()
    assert page.startswith("<!DOCTYPE html>") and "(stand-in)" in page
    assert "Text drawn from" in page, "the folders have weights, the saved runs have none"
    without = re.sub(r'<p class="note">Text drawn from .*?</pre>\n', "", page, flags=re.DOTALL)
    assert without.replace(f"Runs in {runs.name}", "Runs in saved") == Path("b.html").read_text()


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ("--save file", "cannot save runs in file: it is a file; give the name of a folder"),
        ("--save file/x", "Not a directory: file/x"),
        ("--save runs/x", "cannot save runs in runs/x: the next report of runs would find each run twice"),
        ("--html runs", "cannot write runs: it is a folder"),
        ("--html file/page.html", "cannot write file/page.html: Not a directory"),
    ],
)
def test_report_says_what_it_cannot_write_before_it_prints_a_table(
    flags, sentence, runs, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "runs").symlink_to(runs)
    assert sentence in refused_here(capsys, "report", "runs", *flags.split())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "runs"]
    assert sorted(path.name for path in runs.iterdir()) == ["a", "b"]
