"""Tables, pages and saved runs are made from the logs of runs, and agree with them."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from minizone import UserError
from minizone.runs.files import read_run
from minizone.runs.report import find_runs, report, save_runs, write_page
from tests.helpers.commands import ROOT
from tests.helpers.runs import make_run

CHROMIUM = next(filter(shutil.which, ("chromium", "chromium-browser", "google-chrome")), None)


def make_addition(folder: Path, seed: int, difficulty: int, error: float) -> Path:
    """A finished run of seq2seq, which has learned to add numbers of ``difficulty`` digits."""
    make_run(folder, seed, valid=(0.5, error), task="seq2seq", dataset="addition", reference={})
    for name in ("config.json", "metrics.jsonl", "summary.json"):
        text = (folder / name).read_text().replace("bpc", "error")
        (folder / name).write_text(text.replace('"epoch"', f'"difficulty": {difficulty}, "epoch"'))
    summary = json.loads((folder / "summary.json").read_text())
    by_length = {f"test_error_{digits}": digits / 10 + seed / 100 for digits in (2, 3, 4)}
    (folder / "summary.json").write_text(
        json.dumps({**summary, "test_error": error, "difficulty": difficulty, **by_length})
    )
    return folder


# ---- tables


def test_runs_that_differ_in_the_seed_share_a_row_beside_the_papers_result(tmp_path):
    for seed, valid in ((1, 1.5), (2, 1.7)):
        make_run(tmp_path / f"lstm-seed{seed}", seed, valid=(3.0, valid))
        make_run(tmp_path / f"zoneout-seed{seed}", seed, z=0.5, valid=(3.0, valid - 0.2))
    lines = report(tmp_path).splitlines()
    command = "python run.py char-ptb --preset paper"
    end = f"2/2, 2/2 | 1.5 | AMD EPYC, 2 cores | `{command}"
    assert lines == [
        "**char-ptb** on PTB, authors' form, bpc",
        "",
        "| run | valid: paper | valid: ours | valid: difference | test: paper | test: ours | test: difference"
        " | valid of each seed | best epoch | minutes | device | command |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
        f"| lstm |  | 1.600 ± 0.141 |  |  | 1.350 ± 0.141 |  | 1: 1.500, 2: 1.700 | {end}` |",
        "| zoneout | 1.362 | 1.400 ± 0.141 | +0.038 | 1.27 | 1.150 ± 0.141 | -0.120 | 1: 1.300, 2: 1.500"
        f" | {end} --z-prob-cells 0.5 --z-prob-states 0.05 --no-augment` |",
    ]


def test_a_result_of_the_paper_that_no_run_matches_has_a_row_of_its_own(tmp_path):
    make_run(tmp_path / "lstm")
    assert report(tmp_path).splitlines()[-1].startswith("| *paper: Zoneout* | 1.362 |  |  | 1.27 |  |")


def test_data_sets_are_never_in_one_table_and_a_stand_in_has_no_column_of_the_paper(tmp_path):
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", dataset="manual (stand-in)", reference={})
    tables = report(tmp_path).split("\n\n**")
    assert len(tables) == 2
    assert "manual (stand-in)" in tables[1] and "paper |" not in tables[1] and "1.362" not in tables[1]


def test_errors_of_different_difficulty_are_not_averaged_and_say_theirs(tmp_path):
    make_addition(tmp_path / "lstm-seed1", 1, 3, 0.125)
    make_addition(tmp_path / "lstm-seed2", 2, 4, 0.25)
    row = report(tmp_path).splitlines()[4]
    each = "0.125 at 3 digits (1 of 2 seeds); 0.250 at 4 digits (1 of 2 seeds)"
    at_each = "0.215 ± 0.007, 0.315 ± 0.007, 0.415 ± 0.007"  # of all seeds, on the same problems
    assert row.startswith(f"| lstm | {each} | {each} | {at_each} | 1: 0.125 at 3 digits, 2: 0.250 at 4 digits |")


def test_a_name_with_a_bar_does_not_end_a_cell(tmp_path):
    make_run(tmp_path / "a|b", reference={})
    assert r"| a\|b | 1.500 |" in report(tmp_path)


# ---- runs


def test_an_unfinished_run_and_json_files_that_are_no_runs_are_not_in_a_table(tmp_path):
    make_run(tmp_path / "a")
    (make_run(tmp_path / "b") / "summary.json").unlink()
    (tmp_path / "a" / "vocabulary.json").write_text("{}")
    (tmp_path / "times.json").write_text("[1, 2]")
    assert [run["name"] for run in find_runs(tmp_path)] == ["a"]


def test_what_is_not_a_run_is_a_sentence(tmp_path):
    with pytest.raises(UserError, match="not a folder"):
        report(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no finished run"):
        report(tmp_path)
    (tmp_path / "x.json").write_text("not json")
    with pytest.raises(UserError, match=r"x\.json is not JSON"):
        report(tmp_path)


def test_saved_runs_read_like_the_folders_and_runs_of_the_same_name_are_all_kept(tmp_path):
    folders = [make_run(tmp_path / "runs" / task / "lstm-c0.5", task=task) for task in ("char-ptb", "text8")]
    folders += [make_run(tmp_path / "runs" / "swept" / f"seed{seed}", seed) for seed in (2, 3)]
    save_runs(tmp_path / "runs", tmp_path / "saved")
    paths = [run["path"] for run in find_runs(tmp_path / "saved")]
    assert [path.relative_to(tmp_path / "saved").as_posix() for path in paths] == [
        "char-ptb/lstm-c0.5.json", "swept/swept-seed2.json", "swept/swept-seed3.json", "text8/lstm-c0.5.json",
    ]  # fmt: skip
    assert list(map(read_run, paths)) == list(map(read_run, [folders[0], *folders[2:], folders[1]]))
    assert report(tmp_path / "saved") == report(tmp_path / "runs")
    save_runs(tmp_path / "runs", tmp_path / "saved")  # the same runs again
    save_runs(tmp_path / "saved", tmp_path / "again")
    assert report(tmp_path / "again") == report(tmp_path / "runs")
    save_runs(folders[0], tmp_path / "one")
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["lstm-c0.5.json"]


def test_a_saved_run_does_not_tell_where_the_data_lay(tmp_path):
    folder = make_run(tmp_path / "runs" / "lstm")
    config = json.loads((folder / "config.json").read_text())
    config["settings"]["data_dir"] = config["changed"]["data_dir"] = "/home/someone"
    config["settings"]["text"] = config["changed"]["text"] = "/home/someone/novel.txt"
    (folder / "config.json").write_text(json.dumps(config))
    save_runs(tmp_path / "runs", tmp_path / "saved")
    saved = (tmp_path / "saved" / "lstm.json").read_text()
    assert "someone" not in saved and '"text": "novel.txt"' in saved


def test_saving_refuses_to_lose_or_double_a_run_and_then_writes_nothing(tmp_path):
    make_run(tmp_path / "runs" / "a")
    make_run(tmp_path / "runs" / "b")
    make_run(tmp_path / "others" / "b", z=0.5)
    (tmp_path / "file").touch()
    for inside in ("runs", "runs/saved"):
        with pytest.raises(UserError, match="would find each run twice"):
            save_runs(tmp_path / "runs", tmp_path / inside)
    with pytest.raises(UserError, match="it is a file"):
        save_runs(tmp_path / "runs", tmp_path / "file")
    save_runs(tmp_path / "others", tmp_path / "saved")
    with pytest.raises(UserError, match=r"b\.json is another run"):
        save_runs(tmp_path / "runs", tmp_path / "saved")
    assert [path.name for path in (tmp_path / "saved").iterdir()] == ["b.json"]


# ---- the page


class Page(HTMLParser):
    """The tags of a page with their attributes, its ids, and its text."""

    def __init__(self, path: Path):
        super().__init__()
        self.found, self.ids, self.text = [], [], ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def runs(tmp_path):
    """Runs on the paper's data, on a stand-in, and of a task without published results, with names like markup."""
    for seed in (1, 2):
        make_run(tmp_path / "runs" / f"lstm-seed{seed}", seed)
    make_run(tmp_path / "runs" / "--><script>alert(1)<", z=0.5)
    make_run(tmp_path / "runs" / "b", dataset="<i>R&D</i> (stand-in)", reference={})
    make_addition(tmp_path / "runs" / "c", 1, 3, 0.125)
    (tmp_path / "runs" / "lstm-seed2" / "best.safetensors").touch()
    return tmp_path / "runs"


def test_short_tables_have_the_results_beside_the_papers_whatever_the_size(tmp_path):
    for seed, valid in ((1, (2.0, 1.5)), (2, (2.0, 1.7, 1.8))):
        make_run(tmp_path / f"zoneout-seed{seed}", seed, z=0.5, valid=valid, reference={})
    make_run(tmp_path / "other", z=0.3, valid=(3.0,), reference={})
    paper = {"Zoneout": {"valid": 1.362, "test": 1.27}}
    lines = report(tmp_path, short=lambda task: paper if task == "char-ptb" else {}).splitlines()
    assert lines[2:] == [
        "| run | valid: paper | valid: ours | test: paper | test: ours | seeds | best epoch |",
        "|---|---|---|---|---|---|---|",
        "| zoneout | 1.362 | 1.600 ± 0.141 | 1.27 | 1.350 ± 0.141 | 2 | 2, 2 of 2 or 3 |",
        "| other |  | 3.000 |  | 2.750 | 1 | 1 of 1 |",
    ]
    assert "| run | valid | test |" in report(tmp_path, short=lambda task: {})


def test_a_page_needs_no_other_file_and_escapes_what_users_can_name(runs, tmp_path):
    write_page({"": find_runs(runs)}, runs.name, tmp_path / "new" / "a page.html")
    page = Page(tmp_path / "new" / "a page.html")
    tags = {tag for tag, _ in page.found}
    assert not tags & {"script", "i", "iframe", "img", "object"} and "svg" in tags
    references = [a.get(name, "") or "" for _, a in page.found for name in ("href", "src", "xlink:href")]
    assert all(reference.startswith(("#", "data:,")) for reference in references if reference)
    assert not re.search(r"url\((?!#)|@import", page.text)
    assert len(page.ids) == len(set(page.ids))
    assert "--><script>alert(1)<" in page.text and "<i>R&D</i> (stand-in)" in page.text


def test_a_page_has_the_cells_of_the_tables_the_settings_and_a_figure_for_each(runs, tmp_path):
    write_page({"": find_runs(runs)}, runs.name, tmp_path / "page.html")
    page = Page(tmp_path / "page.html")
    for line in report(runs).splitlines():
        if line.startswith("| ") and not line.startswith("| run"):
            for cell in line.strip("| ").replace("`", "").split(" | "):
                assert cell.strip("* ") in " ".join(page.text.split()), cell
    assert page.text.count("preset paper, but z_prob_cells = 0.5, z_prob_states = 0.05, augment = False") == 1
    assert sum(tag == "svg" for tag, _ in page.found) == 3


def test_a_stand_in_is_marked_and_says_that_nothing_can_be_compared(runs, tmp_path):
    write_page({"": find_runs(runs)}, runs.name, tmp_path / "page.html")
    page = Page(tmp_path / "page.html")
    assert [a.get("class") for tag, a in page.found if tag == "section"] == [None, "stand-in", None]
    assert page.text.count("Stand-in data, not Penn Treebank: these results are not comparable with the paper's.") == 1
    assert page.text.count("This task is not in the paper") == 1


def test_text_is_drawn_from_a_run_with_weights_and_escaped(runs, tmp_path):
    asked = []

    def sample(folder):
        asked.append(folder.name)
        return "a <b>bold</b> text"

    write_page({"": find_runs(runs)}, runs.name, tmp_path / "page.html", sample)
    page = Page(tmp_path / "page.html")
    assert asked == ["lstm-seed2"]
    assert "Text drawn from lstm:" in page.text and "a <b>bold</b> text" in page.text


def test_gradients_and_networks_have_their_own_figures(tmp_path):
    results = ROOT / "results"
    for name in ("one", "two"):
        make_run(tmp_path / "runs" / "gradients" / name, task="gradients", dataset="MNIST, a part", reference={})
    shutil.copy(results / "quick" / "gradients" / "gradients.npz", tmp_path / "runs" / "gradients")
    shutil.copytree(results / "quick" / "semantic", tmp_path / "runs" / "semantic")
    write_page({"": find_runs(tmp_path / "runs")}, "runs", tmp_path / "page.html")
    assert sum(tag == "svg" for tag, _ in Page(tmp_path / "page.html").found) == 3
    content = (tmp_path / "page.html").read_text()
    assert "gradients over time steps" in content and "always answer 0" in content


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_browser_shows_the_page_without_errors_and_nothing_is_wider_than_a_phone(runs, tmp_path):
    shutil.copytree(ROOT / "results", runs / "results")
    make_run(runs / ("long" * 50), dataset="a_long_name" * 30, reference={})
    write_page({"": find_runs(runs)}, runs.name, tmp_path / "page.html")
    frame = "<iframe src='page.html' style='width:390px;height:844px;border:0' onload='document.title=`width ${%s}`'>"
    (tmp_path / "phone.html").write_text(frame % "this.contentDocument.documentElement.scrollWidth")
    words = ["--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--enable-logging=stderr"]
    shown = subprocess.run(
        [CHROMIUM, *words, "--dump-dom", (tmp_path / "phone.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "CONSOLE" not in shown.stderr, shown.stderr
    width = int(re.search(r"<title>width (\d+)</title>", shown.stdout)[1])
    assert 300 < width <= 390
