"""`run.py TASK`: train one of the experiments."""

from __future__ import annotations

import math
import statistics
import time
from collections import defaultdict
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from minizone.commands.flags import parse
from minizone.errors import UserError
from minizone.experiments import char_ptb, gradients, pmnist, semantic, seq2seq, text8, word_ptb
from minizone.runs import files
from minizone.runs.experiment import Experiment
from minizone.runs.groups import PaperResults
from minizone.runs.settings import RunSettings
from minizone.runs.training import Stop, fit, never

TASKS: dict[str, type[Experiment]] = {
    "char-ptb": char_ptb.CharPTB,
    "word-ptb": word_ptb.WordPTB,
    "text8": text8.Text8,
    "pmnist": pmnist.PMNIST,
    "seq2seq": seq2seq.Seq2Seq,
    "semantic": semantic.Semantic,
    "gradients": gradients.Gradients,
}


def paper_of(task: str) -> PaperResults:
    """The paper's results; none for a task that a user has added."""
    return TASKS[task].paper if task in TASKS else {}


def main(task: str, arguments: list[str]) -> int:
    """Build the experiment of a task from its flags, and train it. `--seed 1,2,3` trains three runs."""
    runs = [parse_settings(task, each) for each in split_seeds(arguments)]
    if len(runs) == 1:
        train(task, runs[0], choose_folder(task, runs[0]))
    else:
        train_seeds(task, runs)
    return 0


def train(task: str, settings: RunSettings, folder: Path, stop: Stop = never) -> dict[str, Any]:
    """Train one run, and return its results by name."""
    try:
        if isinstance(settings, gradients.GradientsSettings):  # one run for each regularizer
            found = gradients.run(settings, folder, stop=stop)
            return {f"share, {method}": float(share[-1]) for method, share in gradients.early_shares(found).items()}
        summary = fit(TASKS[task](settings), folder, stop=stop)
    except MemoryError as error:
        advice = "try a smaller --hidden-size"
        if settings.batch_size > 1:
            advice = f"try --batch-size {settings.batch_size // 2} or a smaller --hidden-size"
        raise UserError(f"out of memory: {str(error).rstrip('.')}; {advice}") from None
    return {name: number for name, number in summary.items() if name.startswith(("best_valid_", "test_"))}


def train_seeds(task: str, runs: list[RunSettings]) -> None:
    """Train runs that differ in the seed, one after the other, and print the mean and the spread of their results."""
    folders = [Path(run.out) / f"seed{run.seed}" if run.out else choose_folder(task, run) for run in runs]
    started = [folder for folder in folders if is_started(folder)]
    if runs[0].resume and not started:
        raise UserError(f"cannot resume: neither {folders[0]} nor the folder of another seed holds a run")
    if started and not runs[0].resume:
        raise UserError(f"{started[0]} holds a run already: continue it with --resume, or choose another --out")
    deadline = time.monotonic() + 60 * runs[0].max_minutes
    results = defaultdict(list)
    for settings, folder in zip(runs, folders, strict=True):
        print(f"-- seed {settings.seed}")
        minutes_left = max((deadline - time.monotonic()) / 60, 1e-9)
        run = replace(settings, resume=folder in started, max_minutes=minutes_left)
        for name, number in train(task, run, folder).items():
            if isinstance(number, float):
                results[name].append(number)
    epochs = [len(files.read_rows(folder / "metrics.jsonl")) for folder in folders]
    lengths = f" trained for {', '.join(map(str, epochs))} epochs" if len(set(epochs)) > 1 else ""
    print(f"{len(runs)} seeds{lengths}, mean and sample standard deviation:")
    for name, numbers in results.items():
        print(f"  {name} {statistics.mean(numbers):.4f} ({statistics.stdev(numbers):.4f})")


def parse_settings(task: str, arguments: list[str]) -> RunSettings:
    """The preset that the arguments name, with the settings of the other flags, checked."""
    presets = TASKS[task].presets
    # The preset gives all other flags their defaults. `parse` rejects a wrong name.
    preset = presets.get(value_of_flag(arguments, "--preset") or "quick", presets["quick"])
    settings = parse(type(preset), arguments, task, preset)
    if settings.preset not in presets:
        raise UserError(f"{task} has no preset {settings.preset!r}; its presets: {', '.join(presets)}")
    settings.check()
    return settings


def split_seeds(arguments: list[str]) -> list[list[str]]:
    """The arguments once for each seed of `--seed 1,2,3`. Raises UserError if a seed is repeated or no integer."""
    value = value_of_flag(arguments, "--seed")
    if value is None or "," not in value:
        return [arguments]
    try:
        seeds = [int(seed) for seed in value.split(",")]
    except ValueError:
        raise UserError(f"--seed must be an integer, or several as in 1,2,3, got {value}") from None
    if len(set(seeds)) < len(seeds):
        raise UserError(f"--seed {value} has a seed twice: give each seed once")
    return [[*arguments, "--seed", str(seed)] for seed in seeds]  # the last --seed counts


def value_of_flag(arguments: list[str], flag: str) -> str | None:
    """The last value of a flag, from `--flag VALUE` or `--flag=VALUE`."""
    value = None
    for k, argument in enumerate(arguments):
        if argument == flag and k + 1 < len(arguments):
            value = arguments[k + 1]
        elif argument.startswith(f"{flag}="):
            value = argument.removeprefix(f"{flag}=")
    return value


def settings_of_run(folder: Path) -> tuple[str, RunSettings]:
    """The task of a run and its settings, from its config.json. Raises UserError if that is missing or invalid.

    Settings that config.json lacks, because they are newer than the run, have the values of its preset.
    """
    config = files.read_json(folder / "config.json")
    try:
        task, given = config["task"], config["settings"]
        if task not in TASKS:
            raise UserError(
                f"{folder} is a run of the task {task!r}, which run.py does not have: run the file that adds the task"
                " instead of run.py"
            )
        preset = TASKS[task].presets[given["preset"]]
    except (KeyError, TypeError):
        raise UserError(f"{folder / 'config.json'} is not the config of a run") from None
    known = {f.name: given[f.name] for f in fields(preset) if f.name in given}
    if known.get("max_minutes") is None:  # JSON has no infinity
        known["max_minutes"] = math.inf
    hints = get_type_hints(type(preset))
    for name, value in known.items():
        if not _has_type(value, hints[name]):
            raise UserError(f"{folder / 'config.json'} has {value!r} for {name}, which is not a valid value")
    return task, replace(preset, **known)


def _has_type(value: Any, hint: Any) -> bool:
    """Whether a value from JSON has the type of a setting. A whole number is a float, too."""
    choices = get_args(hint) or (hint,)
    if get_origin(hint) is Literal:
        return value in choices
    return type(value) in choices or (type(value) is int and float in choices)


def is_started(folder: Path) -> bool:
    """Whether a folder holds a run that --resume can continue; the task gradients has several below it."""
    return any(folder.rglob("config.json"))


def choose_folder(task: str, settings: RunSettings) -> Path:
    """The folder of the run: --out, or runs/TASK/LABEL with the first number that is free.

    With --resume and without --out, it is the folder with the last number that is taken.
    """
    if settings.out:
        return Path(settings.out)
    first = Path("runs") / task / settings.label()
    folder, taken, number = first, first, 1
    while folder.exists():
        number += 1
        folder, taken = first.with_name(f"{first.name}-{number}"), folder
    return taken if settings.resume else folder
