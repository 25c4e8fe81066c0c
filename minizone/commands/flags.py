"""Flags of the command line to a dataclass of settings."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import TypeVar

import tyro

from minizone.errors import UserError

Settings = TypeVar("Settings")


def parse(kind: type[Settings], arguments: list[str], command: str, default: Settings | None = None) -> Settings:
    """The settings that the arguments name; fields without a flag are those of ``default``.

    Raises UserError, in one sentence, for flags and values that ``kind`` does not have, and for an empty --out or
    --save. Flags can be written with hyphens or with underscores.
    """
    message = io.StringIO()
    try:
        with contextlib.redirect_stderr(message):
            settings = tyro.cli(
                kind,
                args=arguments,
                default=tyro.MISSING_NONPROP if default is None else default,
                prog=f"run.py {command}",
                use_underscores=False,
            )
    except SystemExit as stop:
        if stop.code == 0:  # after --help
            raise
        sentence = re.sub("[│╭╮╰╯─]|-{4,}", " ", message.getvalue())  # without the box that tyro draws around it
        raise UserError(f"{command}: {sentence}") from None
    for name in ("out", "save"):
        if getattr(settings, name, None) == "":
            raise UserError(f"{command}: --{name} is empty: give it a name, or leave it out")
    return settings


def file_to_write(name: str) -> Path:
    """The path of a file that a command will write; UserError, before the command begins, when it is a folder."""
    path = Path(name)
    if path.is_dir():
        raise UserError(f"cannot write {path}: it is a folder; give the name of a file")
    return path
