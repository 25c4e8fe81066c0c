"""All chapters, one after the other: each in a process of its own, with what it prints and the seconds it takes.

python chapters/all.py                              run them, preset quick
python chapters/all.py --preset small --json FILE   and write the seconds to a file
python chapters/all.py --table FILE                 run nothing: the table of chapters/README.md
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
    """How large."""
    device: shared.DeviceName = "cpu"
    """Where."""
    json: str | None = None
    """Write the seconds of each chapter to this file."""
    table: str | None = None
    """Print the table of the chapters with the seconds of this file, and run nothing."""


def opening(chapter: Path) -> tuple[str, str, str]:
    """Title, claim and item of the paper, from the first cell of a chapter."""
    cell = chapter.read_text().split("# %%")[1]
    text = "\n".join(line.removeprefix("#").strip() for line in cell.splitlines())
    title = re.search(r"^# \d+\. (.+)$", text, re.MULTILINE)
    claim = re.search(r"\*\*Claim\.\*\* (.+?[.?!])(?=\s[A-Z`]|\s*\n\n)", text, re.DOTALL)
    paper = re.search(r"^Paper: (.+?)(?<! al)\.(?=\s)", text, re.MULTILINE | re.DOTALL)
    if not (title and claim and paper):
        raise ValueError(f"{chapter.name} must open with '# N. Title', '**Claim.** ...' and 'Paper: ...'")
    return title[1], " ".join(claim[1].split()), " ".join(paper[1].split())


def table(found: dict) -> str:
    """Every chapter with its claim and its seconds."""
    lines = [f"{found['device']}, preset {found['preset']}", ""]
    lines += ["| chapter | claim | in the paper | seconds |", "| --- | --- | --- | --- |"]
    for chapter in CHAPTERS:
        title, claim, paper = opening(chapter)
        number = int(chapter.name[:2])
        link = f"[{number}. {title}]({chapter.name})"
        lines.append(f"| {link} | {claim} | {paper} | {found['seconds'][chapter.stem]:.0f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    settings = tyro.cli(Settings, description=__doc__)
    if settings.table:
        print(table(json.loads(Path(settings.table).read_text())), end="")
        return
    found: dict = {"device": Device(settings.device).description, "preset": settings.preset, "seconds": {}}
    for chapter in CHAPTERS:
        print(f"==== {chapter.name}", flush=True)
        start = time.perf_counter()
        flags = ["--preset", settings.preset, "--device", settings.device]
        subprocess.run([sys.executable, str(chapter), *flags], check=True)
        found["seconds"][chapter.stem] = round(time.perf_counter() - start, 1)
        print(f"==== {found['seconds'][chapter.stem]} seconds\n", flush=True)
        if settings.json:
            write_json(Path(settings.json), found)
    print(f"{len(CHAPTERS)} chapters, {sum(found['seconds'].values()):.0f} seconds")


if __name__ == "__main__":
    main()
