"""`run.py plot RUN [RUN ...]`: learning curves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from minizone.commands.flags import parse
from minizone.errors import UserError
from minizone.runs.plotting import plot_runs


@dataclass(frozen=True)
class Plot:
    """Draw the learning curves of runs into one figure."""

    runs: tyro.conf.Positional[tuple[str, ...]]
    """Run folders."""
    out: str = "curves.png"
    """The figure, PNG, PDF or SVG by its ending."""


def main(arguments: list[str]) -> int:
    settings = parse(Plot, arguments, "plot")
    if not settings.runs:
        raise UserError("run.py plot needs at least one run folder")
    plot_runs([Path(run) for run in settings.runs], Path(settings.out))
    print(settings.out)
    return 0
