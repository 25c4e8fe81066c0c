"""`run.py plot RUN [RUN ...]`: learning curves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from minizone.commands.flags import file_to_write, parse
from minizone.errors import UserError
from minizone.runs.plotting import FORMATS, plot_runs


@dataclass(frozen=True)
class Plot:
    """Draw the learning curves of runs into one figure; runs that differ in nothing but the seed are one curve."""

    runs: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="RUN [RUN ...]", help_behavior_hint="(required)"),
    ]
    """Run folders, or JSON files that `run.py report --save` wrote."""
    out: str = "curves.png"
    """The figure, PNG, PDF or SVG by its ending; PNG, with .png added to the name, when it has none."""


def main(arguments: list[str]) -> int:
    settings = parse(Plot, arguments, "plot")
    given = [Path(run) for run in settings.runs]
    runs = [run for run in given if run.suffix not in FORMATS]  # without the figures in `plot runs/grid/*`
    if not runs:
        raise UserError("run.py plot needs at least one run folder")
    out = file_to_write(settings.out)
    if not out.suffix:
        out = out.with_name(f"{out.name}.png")
    plot_runs(runs, out)
    print(out)
    return 0
