"""Runs that differ only in the seed form a group, and a run is shown beside the paper's result of its kind."""

import math

import pytest

from minizone.experiments import char_ptb, pmnist, text8, word_ptb
from minizone.runs.files import read_run
from minizone.runs.groups import PAPER, best_row, command, group_by_settings, mean_and_spread, number
from tests.helpers.runs import make_run


def test_seeds_share_a_group_and_anything_else_makes_another(tmp_path):
    made = [make_run(tmp_path / f"{seed}-{z}", seed, z=z) for z in (0.0, 0.5) for seed in (3, 1)]
    made += [make_run(tmp_path / "manual", 1, dataset="manual"), make_run(tmp_path / "words", 1, task="word-ptb")]
    groups = group_by_settings(map(read_run, made))
    assert [[run["name"] for run in group.runs] for group in groups] == [
        ["1-0.0", "3-0.0"], ["1-0.5", "3-0.5"], ["manual"], ["words"],
    ]  # fmt: skip


def test_the_same_seed_again_is_not_a_second_seed(tmp_path):
    made = [
        make_run(tmp_path / name, seed) for name, seed in (("lstm-seed1", 1), ("lstm-seed1-2", 1), ("lstm-seed2", 2))
    ]
    groups = group_by_settings(map(read_run, made))
    assert [group.name for group in groups] == ["lstm", "lstm-2"]
    assert [len(group.runs) for group in groups] == [2, 1]


def test_runs_in_folders_named_by_their_seeds_have_the_name_of_the_folder_above(tmp_path):
    groups = group_by_settings(read_run(make_run(tmp_path / "zoneout" / f"seed{seed}", seed)) for seed in (1, 2))
    assert [group.name for group in groups] == ["zoneout"]


def test_a_command_can_be_pasted(tmp_path):
    run = read_run(make_run(tmp_path / "a"))
    run["config"]["changed"] |= {"load_path": "my runs/best.safetensors", "max_minutes": 3.0, "data_dir": "/data"}
    assert command(run["config"]) == "python run.py char-ptb --preset paper --load-path 'my runs/best.safetensors'"


@pytest.mark.parametrize(
    "experiments", [(char_ptb, "char-ptb"), (text8, "text8"), (word_ptb, "word-ptb"), (pmnist, "pmnist")]
)
def test_every_result_of_the_paper_has_its_regularizers_and_only_these_match(experiments, tmp_path):
    module, task = experiments
    assert PAPER[task].keys() == module.REFERENCE.keys()
    off = {name: 0 for regularizers in PAPER[task].values() for name in regularizers}
    for name, regularizers in PAPER[task].items():
        run = read_run(make_run(tmp_path / name, task=task, reference=module.REFERENCE))
        run["config"]["settings"] |= off | regularizers | {"output_gate": "plain"}
        assert group_by_settings([run])[0].paper == name
        for change in ({"weight_noise": 0.1}, {"z_prob_cells": 0.3}, {"rnn_type": "gru"}):
            other = {**run, "config": {**run["config"], "settings": run["config"]["settings"] | change}}
            assert group_by_settings([other])[0].paper is None
        run["config"]["reference"] = {}
        assert group_by_settings([run])[0].paper is None


def test_the_best_epoch_is_a_number_and_of_the_last_difficulty(tmp_path):
    run = read_run(make_run(tmp_path / "a", valid=(2.0, math.nan, 1.5, 1.75)))
    assert best_row(run)["epoch"] == run["summary"]["best_epoch"] == 3
    run["summary"] = None
    assert best_row(run)["epoch"] == 3
    for row, difficulty in zip(run["rows"], (2, 2, 2, 3), strict=True):
        row["difficulty"] = difficulty
    assert best_row(run)["epoch"] == 4
    run["rows"] = run["rows"][1:2]
    assert best_row(run) is None


@pytest.mark.parametrize(
    ("value", "metric", "text"),
    [(81.44, "ppl", "81.4"), (1.27, "bpc", "1.270"), (0.0405, "error", "0.041"), (1.234e-9, "cost", "1.23e-09")],
)
def test_perplexities_have_one_decimal_and_errors_three(value, metric, text):
    assert number(value, metric) == text


@pytest.mark.parametrize(
    ("results", "text"),
    [
        ([(1.5, None)], "1.500"),
        ([(1.5, None), (1.7, None)], "1.600 ± 0.141"),
        ([(0.1, 3), (0.2, 3)], "0.150 ± 0.071 at 3 digits"),
        ([(0.1, 1), (0.2, 4), (0.4, 4)], "0.100 at 1 digit (1 of 3 seeds); 0.300 ± 0.141 at 4 digits (2 of 3 seeds)"),
    ],
)
def test_errors_of_different_difficulty_are_not_averaged(results, text):
    assert mean_and_spread(results, "error") == text
