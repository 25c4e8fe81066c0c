"""Every table and figure in the pages is made from the committed runs, and no claim has a verdict without a run."""

import json
import re
import sys
from pathlib import Path

import pytest

from minizone.commands.grid import read_grid
from minizone.runs.files import read_run
from tests.helpers.commands import ROOT
from tests.helpers.runs import make_run

sys.path.insert(0, str(ROOT / "results"))
import claims
import make

PAGES = [*make.PAGES]


@pytest.mark.parametrize("page", PAGES)
def test_every_table_is_the_output_of_the_command_above_it(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    text = make.read(page)
    assert text == make.filled(page), "run python results/make.py"
    begins = text.count("<!-- table:") + text.count("<!-- figure:")
    assert begins == text.count("<!-- end -->") == len(make.TABLE.findall(text)) + len(make.FIGURE.findall(text))


def test_every_figure_was_made_from_the_runs_that_are_there():
    known = json.loads(make.read(make.FIGURES))
    assert known == {each.out: each.ingredients() for each in make.figures()}, "run python results/make.py"
    assert all((ROOT / out).exists() for out in known)


def test_the_page_has_the_results_of_all_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(make, "PAGE", tmp_path / "page.html")
    make.write_results_page()
    without_figures = [
        re.sub(r"<svg.*?</svg>", "", path.read_text(), flags=re.DOTALL)
        for path in (ROOT / "results" / "page.html", tmp_path / "page.html")
    ]
    assert without_figures[0] == without_figures[1], "run python results/make.py"


def test_every_run_is_in_a_table():
    shown = {m[3].split()[0] for page in PAGES for m in make.TABLE.finditer(make.read(page)) if m[3]}
    folders = {path.parent for path in (ROOT / "results").rglob("*-seed*.json")}
    assert {str(folder.relative_to(ROOT)) for folder in folders} <= shown


def test_runs_that_are_not_there_yet_are_a_gap(tmp_path):
    assert make.table_of_runs(str(tmp_path)) == "Not yet run.\n"
    assert make.Figure("plot", "results/nothing/*.json results/table1-char-ptb/*.json", "x.png").files() == []


# ---- claims


@pytest.fixture
def results(tmp_path, monkeypatch):
    """An empty folder in the place of results/."""
    monkeypatch.setattr(claims, "RESULTS", tmp_path)
    claims.groups_in.cache_clear()
    yield tmp_path
    claims.groups_in.cache_clear()


def save(folder: Path, name: str, seed: int, valid: tuple[float, ...], z: float = 0.0) -> None:
    """A run as a JSON file."""
    run = read_run(make_run(folder / "folders" / f"{name}-seed{seed}", seed, z, valid))
    del run["name"]
    run["config"]["settings"] |= {"hidden_size": 1000, "train_symbols": 0, "epochs": 110}
    (folder / "runs").mkdir(exist_ok=True)
    (folder / "runs" / f"{name}-seed{seed}.json").write_text(json.dumps(run))


COMPARISON = [claims.Less("runs/zoneout", "runs/lstm")]


@pytest.mark.parametrize(
    ("lstm", "zoneout", "verdict"),
    [
        ((2.0, 2.1), (1.5, 1.6), "reproduced"),
        ((2.0, 2.1), (1.99, 2.09), "not seen"),  # within the spread
        ((1.5, 1.6), (2.0, 2.1), "not seen"),
        ((2.0,), (1.5, 1.6), "reproduced, one seed"),
        ((1.5,), (2.0,), "not seen"),
        ((), (1.5,), "not yet run"),
    ],
)
def test_a_difference_counts_when_it_is_larger_than_the_spread(lstm, zoneout, verdict, results):
    for name, values, z in (("lstm", lstm, 0.0), ("zoneout", zoneout, 0.5)):
        for seed, value in enumerate(values, start=1):
            save(results, name, seed, (3.0, value), z)
    found, said = claims.compare(COMPARISON)
    assert said == verdict
    assert bool(found) == bool(lstm)


def test_the_size_is_named_where_it_is_not_the_papers(results):
    save(results, "lstm", 1, (2.0,))
    save(results, "zoneout", 1, (1.5,), z=0.5)
    for path in (results / "runs").glob("*.json"):
        run = json.loads(path.read_text())
        run["config"]["settings"] |= {"hidden_size": 400, "epochs": 30}
        path.write_text(json.dumps(run))
    found, verdict = claims.compare(COMPARISON)
    assert found == "validation: zoneout 1.500 (n = 1), lstm 2.000 (n = 1); 400 units, 30 epochs"
    assert verdict == "reproduced at reduced scale, one seed"


def test_a_claim_with_several_comparisons_says_how_many_hold(results):
    for name, value in (("a", 2.0), ("b", 1.0), ("zoneout", 1.5)):
        save(results, name, 1, (value,), z={"a": 0.1, "b": 0.2, "zoneout": 0.5}[name])
    several = [claims.Less("runs/zoneout", f"runs/{name}") for name in ("a", "b", "missing")]
    verdict = claims.compare(several)[1]
    assert verdict == "in part: reproduced in 1 of 3 comparisons, one seed; 1 not yet run"


@pytest.mark.parametrize(
    ("lstm", "verdict"),
    [
        ((3.0, 2.5, 2.3, 2.2, 2.1, 2.0), "not decided"),  # 0.5 behind, and 0.1 nearer in each epoch
        ((3.0, 2.5, 2.3, 2.2, 2.04, 2.0), "reproduced, one seed"),  # 0.04 nearer: not level after six epochs more
        ((1.9, 1.8, 1.7, 2.2, 2.1, 2.0), "reproduced, one seed"),  # over-fits: its best epoch does not come nearer
    ],
)
def test_a_run_that_catches_up_fast_decides_nothing(lstm, verdict, results):
    save(results, "lstm", 1, lstm)
    save(results, "zoneout", 1, (1.5,) * 6, z=0.5)
    assert claims.compare(COMPARISON)[1] == verdict


def test_the_summary_counts_every_claim_once():
    numbers = [int(number) for number in re.findall(r"\d+(?! with)", claims.summary())]
    assert numbers[0] == len(claims.CLAIMS) == sum(numbers[1:])


@pytest.mark.parametrize(
    ("zoneout", "ahead"),
    [
        ((4.0, 2.5, 1.5), "epoch 3 of 3"),
        ((2.5, 2.0, 1.5), "epoch 1 of 3"),
        ((2.0, 1.5, 2.5), "not yet, 3 epochs"),
    ],
)
def test_zoneout_overtakes_when_it_is_ahead_for_good(zoneout, ahead, results):
    save(results, "lstm", 1, (3.0, 2.5, 2.0))
    save(results, "zoneout", 1, zoneout, z=0.5)
    row = claims.crossover(*(claims.group(f"runs/{name}") for name in ("lstm", "zoneout")))
    assert row[2] == ahead


def test_all_runs_that_a_claim_names_exist_or_are_made_by_a_grid(tmp_path):
    """A name that is spelled wrong would be "not yet run" for ever."""
    lists = [claim.evidence for claim in claims.CLAIMS if isinstance(claim.evidence, list)]
    names = {name for comparisons in lists for each in comparisons for name in (each.less, each.more)}
    for name in names | {name for race in claims.RACES for name in race}:
        folder, run = name.rsplit("/", 1)
        grid = ROOT / "sweeps" / f"{folder}.toml"
        if grid.exists():
            made = {each.folder.name.rsplit("-seed", 1)[0] for each in read_grid(grid, "laptop", tmp_path).runs}
            assert run in made, name
        else:
            assert claims.group(name), name
