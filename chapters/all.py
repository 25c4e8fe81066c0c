"""Run all chapters, each in a process of its own, and measure the seconds that each takes.

python chapters/all.py                              run them with preset quick
python chapters/all.py --preset small --json FILE   also write the seconds to a file
python chapters/all.py --table FILE                 run nothing, print the table of chapters/README.md
python chapters/all.py --pages                      run them as notebooks, and write chapters/pages/
python chapters/all.py --html                       write chapters/html/ from the pages
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import shared  # finds minizone
import tyro

from minizone import Device
from minizone.runs.files import write_json

CHAPTERS = sorted(shared.HERE.glob("[0-9][0-9]_*.py"))


@dataclass(frozen=True)
class Settings:
    """Run every chapter."""

    preset: shared.Preset = "quick"
    """The size of the runs."""
    device: shared.DeviceName = "cpu"
    """The device that computes."""
    json: str | None = None
    """Write the seconds of each chapter to this file."""
    table: str | None = None
    """Run nothing, and print the table of the chapters with the seconds of this file."""
    pages: bool = False
    """Run them with preset quick as notebooks, and write their pages to chapters/pages/."""
    only: tuple[int, ...] = ()
    """The numbers of the chapters to run; by default all."""
    html: bool = False
    """Run nothing, and write the pages as HTML to chapters/html/."""


def opening(chapter: Path) -> tuple[str, str, str]:
    """The title, the first sentence of the claim, and the part of the paper, from the first cell of a chapter."""
    first_cell = chapter.read_text().split("# %%")[1]
    text = "\n".join(line.removeprefix("#").strip() for line in first_cell.splitlines())
    title = re.search(r"^# \d+\. (.+)$", text, re.MULTILINE)
    claim = re.search(r"\*\*Claim\.\*\* (.+?[.?!])(?=\s[A-Z`]|\s*\n\n)", text, re.DOTALL)
    paper = re.search(r"^Paper: (.+?)(?<! al)\.(?=\s)", text, re.MULTILINE | re.DOTALL)
    if not (title and claim and paper):
        raise ValueError(f"{chapter.name} must open with '# N. Title', '**Claim.** ...' and 'Paper: ...'")
    return title[1], " ".join(claim[1].split()), " ".join(paper[1].split())


def table(found: dict) -> str:
    """A Markdown table of the chapters with their claims and seconds."""
    lines = [
        f"{found['device']}, preset {found['preset']}",
        "",
        "| chapter | claim | in the paper | seconds |",
        "| --- | --- | --- | --- |",
    ]
    for chapter in CHAPTERS:
        title, claim, paper = opening(chapter)
        number = int(chapter.name[:2])
        seconds = found["seconds"][chapter.stem]
        lines.append(f"| [{number}. {title}](pages/{chapter.stem}.md) | {claim} | {paper} | {seconds:.0f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    settings = tyro.cli(Settings, description=__doc__)
    if settings.table:
        print(table(json.loads(Path(settings.table).read_text())), end="")
        return
    chapters = [chapter for chapter in CHAPTERS if not settings.only or int(chapter.name[:2]) in settings.only]
    if settings.pages or settings.html:
        import book  # needs requirements-dev.txt

        if settings.pages:
            book.write_pages(CHAPTERS, chapters)
        if settings.html:
            book.write_html(CHAPTERS)
        return
    seconds: dict[str, float] = {}
    found = {"device": Device(settings.device).description, "preset": settings.preset, "seconds": seconds}
    flags = ["--preset", settings.preset, "--device", settings.device]
    for chapter in chapters:
        print(f"==== {chapter.name}", flush=True)
        start = time.perf_counter()
        subprocess.run([sys.executable, str(chapter), *flags], check=True)
        seconds[chapter.stem] = round(time.perf_counter() - start, 1)
        print(f"==== {seconds[chapter.stem]} seconds\n", flush=True)
        if settings.json:
            write_json(Path(settings.json), found)
    print(f"{len(chapters)} chapters, {sum(seconds.values()):.0f} seconds")


if __name__ == "__main__":
    main()
