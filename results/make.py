"""Make the figures, the tables in all pages, and results/page.html from the JSON files of the runs.

    python results/make.py

A table is between <!-- table: python PROGRAM ARGUMENTS --> and <!-- end --> in a page. It is the output of that
program. A figure is between <!-- figure: CAPTION: PROGRAM ARGUMENTS --out FILE --> and <!-- end -->. It is drawn again
if its command or its runs have changed (results/figures.json). Runs that do not exist yet leave a gap.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks"), str(ROOT / "benchmarks" / "conformance")]

import claims
import numpy as np
import summary
import tables

from minizone.commands import plot
from minizone.commands.train import paper_of
from minizone.runs.files import Run
from minizone.runs.plotting import plot_gradients, plot_networks
from minizone.runs.report import find_runs, report, write_page

PAGES = ("README.md", "results/README.md", "benchmarks/README.md", "chapters/README.md", "docs/conformance.md")
TABLE = re.compile(r"(<!-- table: python (\S+(?: report)?)(?: (.+?))? -->\n)(?:.|\n)*?(<!-- end -->)")
FIGURE = re.compile(r"(<!-- figure: (.+?): (plot|gradients|semantic) (.+?) --out (\S+) -->\n)(?:.|\n)*?(<!-- end -->)")
PAGE = "results/page.html"
FIGURES = "results/figures.json"  # from figures to hashes of their commands and runs


# ---- tables


def table_of_runs(folder: str, *flags: str) -> str:
    """The output of `run.py report FOLDER [--short]`."""
    if not any(Path(folder).glob("*.json")):
        return "Not yet run.\n"
    return report(Path(folder), short=paper_of if "--short" in flags else None)


def table_of_chapters(*arguments: str) -> str:
    """The output of `chapters/all.py`, in a separate process, because it changes matplotlib's settings."""
    command = [sys.executable, "chapters/all.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


PROGRAMS: dict[str, Callable[..., str]] = {
    "run.py report": table_of_runs,
    "results/claims.py": claims.main,
    "benchmarks/tables.py": tables.main,
    "benchmarks/conformance/summary.py": summary.main,
    "chapters/all.py": table_of_chapters,
}


@cache
def table(program: str, arguments: str) -> str:
    """The output of a program."""
    return PROGRAMS[program](*arguments.split())


# ---- figures


@dataclass(frozen=True)
class Figure:
    """A figure of a page: the program that draws it, its runs and flags, and its file."""

    program: str
    arguments: str
    out: str

    def files(self) -> list[Path]:
        """The files of the runs in the figure; [] if there are none for the first name."""
        names = [name for name in self.arguments.split() if name.startswith("results/")]
        found = [sorted(ROOT.glob(name)) for name in names]
        return [path.relative_to(ROOT) for paths in found for path in paths] if found[0] else []

    def ingredients(self) -> str:
        """A hash of the command and the runs."""
        digest = hashlib.sha256(f"{self.program} {self.arguments}".encode())
        for path in self.files():
            digest.update((ROOT / path).read_bytes())
        return digest.hexdigest()

    def draw(self) -> None:
        files, out = self.files(), Path(self.out)
        if self.program == "gradients":
            with np.load(files[0], allow_pickle=False) as found:
                plot_gradients(dict(found), "permuted MNIST", out)
        elif self.program == "semantic":
            plot_networks(files[0], out)
        else:
            flags = [word for word in self.arguments.split() if not word.startswith("results/")]
            plot.main([*map(str, files), *flags, "--out", self.out])


def figures() -> list[Figure]:
    """All figures of the pages, except those without runs."""
    found = [Figure(*match.group(3, 4, 5)) for page in PAGES for match in FIGURE.finditer(read(page))]
    return [each for each in found if each.files()]


def draw_figures() -> None:
    """Draw the figures whose command or runs have changed, and write the hashes of all figures."""
    known = json.loads(read(FIGURES)) if (ROOT / FIGURES).exists() else {}
    made = {each.out: each.ingredients() for each in figures()}
    for each in figures():
        if known.get(each.out) != made[each.out] or not (ROOT / each.out).exists():
            each.draw()
            print(each.out)
    (ROOT / FIGURES).write_text(json.dumps(made, indent=2) + "\n")


# ---- pages


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def filled(page: str) -> str:
    """The text of a page with all its tables and figures."""

    def image(match: re.Match[str]) -> str:
        begin, caption, out, end = match.group(1, 2, 5, 6)
        if not (ROOT / out).exists():
            return begin + end
        return f"{begin}\n![{caption}]({os.path.relpath(ROOT / out, (ROOT / page).parent)})\n\n{end}"

    text = TABLE.sub(lambda match: f"{match[1]}\n{table(match[2], match[3] or '').strip()}\n\n{match[4]}", read(page))
    return FIGURE.sub(image, text)


def write_results_page() -> None:
    """Write the page with the runs of results/README.md, under its headings."""
    parts: dict[str, list[Run]] = {}
    for section in read("results/README.md").split("\n## ")[1:]:
        for match in TABLE.finditer(section):
            folder = Path(match[3].split()[0])
            if any(folder.glob("*.json")):
                parts.setdefault(section.split("\n")[0], []).extend(find_runs(folder))
    write_page(parts, "results", ROOT / PAGE)


def main() -> None:
    os.chdir(ROOT)
    draw_figures()
    for page in PAGES:
        (ROOT / page).write_text(filled(page), encoding="utf-8")
        print(page)
    write_results_page()
    print(PAGE)


if __name__ == "__main__":
    main()
