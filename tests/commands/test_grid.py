"""Grids: the runs of a TOML file, their flags and folders, what is refused, and the grids of the paper."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from minizone.commands.grid import read_grid
from minizone.commands.train import parse_settings
from minizone.errors import UserError
from tests.helpers.commands import ROOT

GRID = """
task = "char-ptb"
seeds = [1, 2]
[flags]
hidden_size = 8
z-prob-cells = [0.0, 0.5]
augment = false
[rows.plain]
[rows."with noise"]
weight-noise = 0.1
hidden_size = 9
[part.small]
seeds = [3]
flags = {epochs = 2}
rows.plain = {init-width = [0.1, 0.2], forget-bias = -1.0}
[part.large]
"""


def grid_of(text: str, folder: Path, part: str | None = None):
    path = folder / "g.toml"
    path.write_text(text, encoding="utf-8")
    return read_grid(path, part, folder)


def test_runs_are_the_product_of_seeds_rows_and_lists(tmp_path):
    runs = grid_of(GRID, tmp_path, "large").runs
    assert [run.folder.name for run in runs] == [
        f"{row}-z-prob-cells{z}-seed{seed}" for seed in (1, 2) for row in ("plain", "with-noise") for z in ("0", "0.5")
    ]
    last = runs[-1].settings
    assert (last.seed, last.hidden_size, last.z_prob_cells, last.weight_noise, last.augment) == (2, 9, 0.5, 0.1, False)


def test_a_part_goes_before_the_rest_of_the_file(tmp_path):
    runs = grid_of(GRID, tmp_path, "small").runs
    names = [f"plain-z-prob-cells{z}-init-width{w}-seed3" for z in ("0", "0.5") for w in (0.1, 0.2)]
    assert [run.folder.name for run in runs][:4] == names and len(runs) == 6
    assert {(run.settings.epochs, run.settings.seed) for run in runs} == {(2, 3)}
    assert [run.settings.forget_bias for run in runs] == [-1] * 4 + [1] * 2


def test_the_command_of_a_run_gives_its_settings(tmp_path):
    for run in grid_of(GRID, tmp_path, "small").runs:
        program, script, task, *arguments = shlex.split(run.command)
        assert (program, script, task) == ("python", "run.py", "char-ptb")
        settings = parse_settings(task, arguments)
        assert settings == type(settings)(**{**vars(run.settings), "out": str(run.folder)})


def test_flags_with_underscores_are_those_with_hyphens(tmp_path):
    text = 'task = "pmnist"\nflags = {hidden_size = [8, 9], epochs = 1}\n[part.a]\nflags = {hidden-size = [16, 17]}'
    grid = grid_of(text, tmp_path, "a")
    assert [run.folder.name for run in grid.runs] == ["hidden-size16-seed1", "hidden-size17-seed1"]
    assert grid.lists == {"hidden-size": [16, 17]}


def test_without_rows_and_lists_a_folder_is_named_after_the_regularizer(tmp_path):
    (run,) = grid_of('task = "pmnist"\nflags = {batch-normalization = true}', tmp_path).runs
    assert run.folder.name == "bn-seed1"


@pytest.mark.parametrize(
    ("text", "part", "sentence"),
    [
        ("task =", None, "is not TOML: "),
        ("tasks = 1", None, "'tasks' is not one of task, seeds, flags, rows, part"),
        ("seeds = [1]", None, "it has no task; give it one of char-ptb, "),
        ('task = ["text8"]', None, "task must be one of char-ptb, "),
        ('task = "char-pdb"', None, "task must be one of char-ptb, "),
        ('task = "text8"\nseeds = 3', None, "seeds must be a list of non-negative integers"),
        ('task = "text8"\nseeds = [1, -2]', None, "seeds must be a list of non-negative integers"),
        ('task = "text8"\nseeds = [true]', None, "seeds must be a list of non-negative integers"),
        ('task = "text8"\nseeds = [1, 1]', None, "two runs would have the folder "),
        ('task = "text8"\nflags = 3', None, "flags must be a table, as in [flags], got 3"),
        ('task = "text8"\nrows.a = 3', None, "a must be a table, as in [a], got 3"),
        ('task = "text8"\npart = "x"', "x", "part must be a table"),
        (
            'task = "text8"\nflags.hidden-sise = 3',
            None,
            "text8: there is no flag --hidden-sise, the nearest is --hidden-size",
        ),
        ('task = "text8"\nflags.seed = 3', None, "'seed' is not a flag of text8 that a grid can set; give seeds"),
        ('task = "text8"\nflags.help = true', None, "'help' is not a flag of text8"),
        ('task = "semantic"\nflags.hidden-size = 3', None, "hidden-size"),
        ('task = "text8"\nflags.epochs = []', None, "epochs is an empty list"),
        ('task = "text8"\nflags.epochs = {a = 1}', None, "epochs must be a value or a list of values"),
        ('task = "text8"\nflags.epochs = [[1]]', None, "epochs must be a value or a list of values"),
        ('task = "text8"\nflags.epochs = [1, 0]', None, "run epochs0: --epochs must be at least 1, got 0"),
        ('task = "text8"\nflags.epochs = "many"', None, "text8: "),
        ('task = "text8"\nflags.z-prob-cells = [0.5, 0.5]', None, "two runs would have the folder "),
        ('task = "text8"\n[rows."a b"]\n[rows.a-b]', None, "two runs would have the folder "),
        ('task = "text8"\nrows.a.z-prob-states = 1.5', None, "run a: --z-prob-states must be a probability"),
        ('task = "text8"', "laptop", "the file has no parts"),
        ('task = "text8"\n[part.a]\n[part.b]', None, "choose a part with --part: a, b"),
        ('task = "text8"\n[part.a]\n[part.b]', "c", "there is no part 'c'; choose a part with --part: a, b"),
        ('task = "text8"\n[part.a]\nflag = {}', "a", "part a: 'flag' is not one of seeds, flags, rows"),
    ],
)
def test_a_file_that_is_no_grid_is_one_sentence(text, part, sentence, tmp_path):
    with pytest.raises(UserError, match=re.escape(sentence)) as raised:
        grid_of(text, tmp_path, part)
    assert str(raised.value).startswith(f"{tmp_path / 'g.toml'}")


def test_a_file_that_is_not_utf_8_is_one_sentence(tmp_path):
    (tmp_path / "g.toml").write_bytes(b'task = "\xff"')
    with pytest.raises(UserError, match="is not TOML"):
        read_grid(tmp_path / "g.toml", None, tmp_path)


SWEEPS = sorted((ROOT / "sweeps").glob("*.toml"))


@pytest.mark.parametrize("part", ["laptop", "paper"])
@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_the_grids_of_the_paper_have_valid_settings_of_the_paper_and_never_a_stand_in(path, part, tmp_path):
    runs = read_grid(path, part, tmp_path).runs
    assert all(run.settings.preset == "paper" for run in runs)
    assert all(getattr(run.settings, "dataset", "mnist") in ("ptb", "text8", "mnist") for run in runs)
    if part == "paper":
        assert {run.settings.seed for run in runs} == {1}


def test_every_table_and_figure_of_the_paper_has_a_grid_and_the_page_names_it():
    page = (ROOT / "docs" / "sweeps.md").read_text(encoding="utf-8")
    assert sorted(set(re.findall(r"`sweeps/([\w-]+\.toml)`", page))) == [path.name for path in SWEEPS]
    for shown in ("Table 1", "Table 2", "Figure 3", "Figure 4", "Figure 5", "Figure 6", "Figure 7", "GRU"):
        assert any(shown in path.read_text(encoding="utf-8") for path in SWEEPS), shown
