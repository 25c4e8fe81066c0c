"""`run.py TASK`: train one of the experiments."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from pathlib import Path

from minizone.commands.flags import parse
from minizone.errors import UserError
from minizone.experiments import char_ptb, gradients, pmnist, semantic, seq2seq, text8, word_ptb
from minizone.runs import files
from minizone.runs.experiment import Experiment
from minizone.runs.settings import RunSettings
from minizone.runs.training import fit

TASKS: dict[str, type[Experiment]] = {
    "char-ptb": char_ptb.CharPTB,
    "word-ptb": word_ptb.WordPTB,
    "text8": text8.Text8,
    "pmnist": pmnist.PMNIST,
    "seq2seq": seq2seq.Seq2Seq,
    "semantic": semantic.Semantic,
    "gradients": gradients.Gradients,
}


def main(task: str, arguments: list[str]) -> int:
    """Build the experiment of a task from its flags, and train it."""
    train(task, parse_settings(task, arguments))
    return 0


def train(task: str, settings: RunSettings) -> None:
    """Train in the folder that the settings name; memory that runs out is a UserError."""
    folder = choose_folder(task, settings)
    try:
        if isinstance(settings, gradients.GradientsSettings):  # one run for each regularizer
            gradients.run(settings, folder)
        else:
            fit(TASKS[task](settings), folder)
    except MemoryError as error:
        advice = "try a smaller --hidden-size"
        if settings.batch_size > 1:
            advice = f"try --batch-size {settings.batch_size // 2} or a smaller --hidden-size"
        raise UserError(f"out of memory: {str(error).rstrip('.')}; {advice}") from None


def parse_settings(task: str, arguments: list[str]) -> RunSettings:
    """The settings of the preset that the arguments name, changed by the other flags, and checked."""
    presets = TASKS[task].presets
    preset = presets.get(preset_name(arguments), presets["quick"])  # `parse` refuses a wrong name
    settings = parse(type(preset), arguments, task, preset)
    if settings.preset not in presets:
        raise UserError(f"{task} has no preset {settings.preset!r}; its presets: {', '.join(presets)}")
    settings.check()
    return settings


def settings_of_run(folder: Path) -> tuple[str, RunSettings]:
    """The task of a run and its settings, from its config.json; UserError when the folder has none.

    Settings that are younger than the run have the values of its preset.
    """
    config = files.read_json(folder / "config.json")
    try:
        task, given = config["task"], config["settings"]
        if task not in TASKS:
            raise UserError(f"{folder} is a run of the task {task!r}, which this version of minizone does not have")
        preset = TASKS[task].presets[given["preset"]]
    except (KeyError, TypeError):
        raise UserError(f"{folder / 'config.json'} is not the config of a run") from None
    known = {f.name: given[f.name] for f in fields(preset) if f.name in given}
    if known.get("max_minutes") is None:  # JSON has no infinity
        known["max_minutes"] = math.inf
    return task, replace(preset, **known)


def preset_name(arguments: list[str]) -> str:
    """The value of --preset: it has to be known first, because it gives all other flags their defaults."""
    name = "quick"
    for k, argument in enumerate(arguments):
        if argument == "--preset" and k + 1 < len(arguments):
            name = arguments[k + 1]
        elif argument.startswith("--preset="):
            name = argument.removeprefix("--preset=")
    return name


def choose_folder(task: str, settings: RunSettings) -> Path:
    """The folder of the run: --out, or runs/TASK/LABEL with the first number that is free.

    With --resume and without --out it is the last of the numbers that are taken.
    """
    if settings.out:
        return Path(settings.out)
    first = Path("runs") / task / settings.label()
    folder, taken, number = first, first, 1
    while folder.exists():
        number += 1
        folder, taken = first.with_name(f"{first.name}-{number}"), folder
    return taken if settings.resume else folder
