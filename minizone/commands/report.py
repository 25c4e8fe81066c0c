"""`run.py report [RUNS_DIR]`: finished runs as tables, as one HTML page, and as a JSON file for each run."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from minizone.commands.flags import file_to_write, parse
from minizone.commands.sample import Sample, text_of
from minizone.commands.train import paper_of
from minizone.errors import UserError
from minizone.runs.report import find_runs, report, save_runs, write_page


@dataclass(frozen=True)
class Report:
    """Print the finished runs below a folder as tables. Runs that differ only in the seed share a row."""

    runs_dir: tyro.conf.Positional[str] = "runs"
    """Folder of the runs: run folders, and JSON files that --save wrote."""
    short: bool = False
    """Print only the results, beside those of the paper, without times, seeds and commands."""
    html: str | None = None
    """Also write one page that needs no other file: tables, learning curves, and text drawn from language models."""
    save: str | None = None
    """Also write each run, without its weights, as a JSON file below this folder, in the subfolders of RUNS_DIR."""


def main(arguments: list[str]) -> int:
    settings = parse(Report, arguments, "report")
    root = Path(settings.runs_dir)
    page = None if settings.html is None else file_to_write(settings.html)
    tables = report(
        root, lambda remark: print(f"run.py: {remark}", file=sys.stderr), paper_of if settings.short else None
    )
    if settings.save:
        save_runs(root, Path(settings.save))
    if page:
        write_page({"": find_runs(root)}, root.resolve().name, page, sample)
    print(tables, end="")
    if page:
        print(f"\n{page}")
    return 0


def sample(run: Path) -> str | None:
    """A text from a run, for the page; None if the task has no text or the run has no vocabulary.json."""
    try:
        return "".join(text_of(Sample(str(run), length=300)))
    except UserError:
        return None
