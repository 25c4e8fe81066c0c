"""`run.py plot RUN [RUN ...]`: learning curves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from minizone.commands.flags import file_to_write, parse
from minizone.commands.train import paper_of
from minizone.errors import UserError
from minizone.runs.files import read_run
from minizone.runs.plotting import FORMATS, Kind, plot_runs


@dataclass(frozen=True)
class Plot:
    """Draw the learning curves of runs in one figure. Runs that differ only in the seed share a curve."""

    runs: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="RUN [RUN ...]", help_behavior_hint="(required)"),
    ]
    """Run folders, folders of several runs, or JSON files that `run.py report --save` wrote."""
    kind: Kind = "curves"
    """curves: learning curves; zoom: also the end of the validation curves, enlarged; bars: the improvement over a run
    without regularizers; heat-map: the best results of runs that differ in two settings."""
    out: str = "curves.png"
    """File to write: PNG, PDF or SVG by its ending. Without an ending, .png is added."""


def main(arguments: list[str]) -> int:
    settings = parse(Plot, arguments, "plot")
    given = [Path(run) for run in settings.runs if Path(run).suffix not in FORMATS]  # `plot runs/grid/*` has figures
    runs = {run.resolve(): run for path in given for run in runs_of(path)}  # each once
    if not runs:
        raise UserError("run.py plot needs at least one run folder")
    out = file_to_write(settings.out)
    if not out.suffix:
        out = out.with_name(f"{out.name}.png")
    task = read_run(next(iter(runs.values())))["config"]["task"]
    plot_runs(list(runs.values()), out, settings.kind, paper_of(task))
    print(out)
    return 0


def runs_of(path: Path) -> list[Path]:
    """The runs with a log below a folder that is not a run itself, for example of several seeds; else the path."""
    below = [] if (path / "config.json").exists() else sorted(log.parent for log in path.rglob("metrics.jsonl"))
    return below or [path]
