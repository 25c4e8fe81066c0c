"""`run.py conformance MODULE:ADAPTER`: is this zoneout correct?"""

from __future__ import annotations

from dataclasses import dataclass

import tyro

from minizone.commands.flags import file_to_write, parse
from minizone.conformance import conform, load, table
from minizone.runs.files import write_whole


@dataclass(frozen=True)
class Conformance:
    """Test an implementation of zoneout. The exit status is 0 if all invariants pass, and 1 if one fails."""

    adapter: tyro.conf.Positional[str]
    """MODULE:ADAPTER, a class that runs the implementation (minizone/conformance/__init__.py has an example). MODULE is
    a .py file or an importable module, for example minizone.conformance:Layer."""
    save: str | None = None
    """Also write the command and the table to this file."""


def main(arguments: list[str]) -> int:
    settings = parse(Conformance, arguments, "conformance")
    file = file_to_write(settings.save) if settings.save else None
    results = conform(load(settings.adapter))
    text = table(results)
    print(text, end="")
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, f"python run.py conformance {settings.adapter}\n\n{text}".encode())
    failed = any(result.status == "FAIL" for result in results)
    return 1 if failed else 0
