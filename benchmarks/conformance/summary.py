"""What each implementation passes and fails, from the tables that `run.py conformance --save FILE` wrote.

python benchmarks/conformance/summary.py results/conformance
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

STATUSES = ("pass", "FAIL", "not offered")
ROW = re.compile(r"(?P<name>[\w ]+): .+?  (?P<status>pass|FAIL|not offered)  +(?P<seen>\S.*?)  ")


def main(folder: str) -> str:
    """A row for each file: how many invariants passed, which failed, which could not be tried, with what was seen."""
    lines = ["| implementation | passes | fails | not offered |", "| --- | --- | --- | --- |"]
    for path in sorted(Path(folder).glob("*.txt")):
        title, _, *rows = path.read_text(encoding="utf-8").splitlines()
        found = [match.groupdict() for match in map(ROW.match, rows) if match]
        cells = {status: [f"{r['name']}: {r['seen']}" for r in found if r["status"] == status] for status in STATUSES}
        adapter = f"{path.stem.replace('-', ' ')} (`{title.rpartition('/')[2].rpartition(' ')[2]}`)"
        rest = "; ".join(cells["FAIL"]), "; ".join(cells["not offered"])
        lines.append(f"| {adapter} | {len(cells['pass'])} of {len(found)} | {rest[0]} | {rest[1]} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(main(*sys.argv[1:2]), end="")
