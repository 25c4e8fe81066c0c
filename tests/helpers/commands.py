"""Run commands of run.py, in a new process as a user does, or in this process, which is faster."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from minizone.commands.main import main

ROOT = Path(__file__).resolve().parents[2]


def command(*arguments: object, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `python run.py` with these arguments."""
    return subprocess.run(
        [sys.executable, ROOT / "run.py", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **environment},
        timeout=120,
    )


def refused(*arguments: object, cwd: Path = ROOT, **environment: str) -> str:
    """The one line on stderr of a `command` that must end with status 2."""
    done = command(*arguments, cwd=cwd, **environment)
    return _one_line(done.returncode, done.stdout, done.stderr)


def refused_here(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The same in this process."""
    capsys.readouterr()
    status = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return _one_line(status, out, err)


def _one_line(status: int, out: str, err: str) -> str:
    assert status == 2 and out == "", (status, out, err)
    assert err.startswith("run.py: ") and err.endswith("\n") and len(err.splitlines()) == 1, err
    return err
