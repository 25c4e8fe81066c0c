"""`run.py report [RUNS_DIR]`: tables of finished runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from minizone.commands.flags import parse
from minizone.runs.report import find_runs, report, save_run


@dataclass(frozen=True)
class Report:
    """Print the finished runs below a folder as tables; runs that differ in nothing but the seed share a row."""

    runs_dir: tyro.conf.Positional[str] = "runs"
    """Folder to look for runs in."""
    save: str | None = None
    """Also write each run, without its weights, as one JSON file into this folder."""


def main(arguments: list[str]) -> int:
    settings = parse(Report, arguments, "report")
    print(report(Path(settings.runs_dir)), end="")
    if settings.save:
        for run in find_runs(Path(settings.runs_dir)):
            save_run(run, Path(settings.save))
    return 0
