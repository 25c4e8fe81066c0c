"""Tables come from the logs of runs, and say what the logs say."""

import pytest

from minizone import UserError
from minizone.runs.files import read_run
from minizone.runs.report import find_runs, report, save_run
from tests.helpers.runs import make_run


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
