"""`run.py resume RUN [flags]`: continue a run."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path

from minizone.commands.flags import parse
from minizone.commands.train import TASKS, is_started, settings_of_run, train
from minizone.errors import UserError
from minizone.experiments.gradients import METHODS
from minizone.experiments.language import LanguageModelling
from minizone.runs.files import load_arrays, read_run
from minizone.runs.folder import is_finished, refuse_changes

USAGE = """usage: python run.py resume RUN [flags]

Continue a run from its last checkpoint, with the settings in its config.json.
Some can change: --epochs, --patience, --max-minutes, --device, --data-dir,
--offline and --test-cost. All settings and their values in a run are shown by
python run.py resume RUN --help
"""


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0 if arguments else 2
    if arguments[0].startswith("-"):
        raise UserError("resume: the folder of the run comes first, then the flags: run.py resume RUN [flags]")
    folder, flags = Path(arguments[0]), arguments[1:]
    first_part = folder / next(iter(METHODS))  # of a run of `gradients`, which has a folder for each method
    if first_part.is_dir():
        task, before = settings_of_run(first_part)
        before = replace(before, max_minutes=math.inf)  # the saved value is the time that was left for this part
    elif not (folder / "config.json").exists() and is_started(folder):
        raise UserError(
            f"{folder} holds several runs: give one of them, or repeat the first command (with --resume, unless it"
            " was a sweep)"
        )
    else:
        task, before = settings_of_run(folder)
        if task == "gradients":
            raise UserError(f"{folder} is a part of a run: give the folder above it, {folder.absolute().parent}")
    settings = parse(type(before), flags, "resume", before)
    if settings.out is not None:
        raise UserError("resume: --out cannot change: a run continues in its own folder")
    settings.check()
    if is_finished(folder, settings):
        refuse_changes(folder, asdict(before), asdict(settings))
        trained = len(read_run(folder)["rows"])
        load_arrays(folder / "best.safetensors")  # UserError if it is damaged
        if not issubclass(TASKS[task], LanguageModelling) or (folder / "vocabulary.json").exists():
            flag = "more --epochs" if trained >= settings.epochs else "a longer --patience"
            print(f"{folder} is finished after {trained} epochs; to continue, give {flag}")
            return 0
    train(task, replace(settings, out=str(folder), resume=True), folder)
    return 0
