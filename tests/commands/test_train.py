"""The settings of a run, from its config.json."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace

import pytest

from minizone.commands.train import TASKS, settings_of_run
from minizone.errors import UserError


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
