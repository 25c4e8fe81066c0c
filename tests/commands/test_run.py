"""The command line as a person uses it: what it prints, where it writes, and its exit status."""

import contextlib
import json
import os
import re
import shlex
import subprocess
import sys

import pytest

from minizone.runs.files import read_rows
from tests.helpers.commands import ROOT, command, refused, refused_here

TINY = shlex.split(
    "char-ptb --dataset manual --hidden-size 12 --batch-size 10 --seq-len 11 --epochs 2 --train-symbols 1500"
    " --eval-symbols 300"
)


def test_a_run_prints_its_epochs_its_result_and_no_progress_bar_into_a_pipe(tmp_path):
    done = command(*TINY, "--out", tmp_path / "run")
    assert done.returncode == 0 and done.stderr == ""
    lines = done.stdout.splitlines()
    assert "stand-in" in lines[0] and lines[1].startswith("epoch   1") and lines[-1].startswith("best validation")
    assert "\r" not in done.stdout and len(lines) == 5 and lines[3].startswith("sample: ")
    best = json.loads((tmp_path / "run" / "summary.json").read_text())["best_valid_bpc"]
    assert f"best validation {best:.4f} bpc" in lines[-1]


@pytest.mark.skipif(sys.platform != "linux", reason="needs a pseudo-terminal")
def test_in_a_terminal_there_is_a_progress_bar_with_loss_and_speed(tmp_path):
    import fcntl
    import struct
    import termios

    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    flags = "--hidden-size 48 --batch-size 10 --seq-len 26 --epochs 1 --train-symbols 30000 --eval-symbols 300"
    words = [sys.executable, ROOT / "run.py", "char-ptb", "--dataset", "manual", *shlex.split(flags)]
    process = subprocess.Popen([*words, "--out", tmp_path / "run"], stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # Linux: the other side has closed
        while read := os.read(ours, 4096):
            shown += read
    os.close(ours)
    assert process.wait() == 0
    assert re.search(r"\repoch 1: .*\| \d+/11\d .* updates/s, bpc \d\.\d{3}\]", shown.decode())


def test_without_out_a_run_gets_a_folder_named_after_its_regularizer_and_numbered(program, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert program.main([*TINY, "--z_prob_cells", "0.5"]) == 0, "underscores work too"
    assert program.main(TINY) == 0
    names = sorted(path.name for path in (tmp_path / "runs" / "char-ptb").iterdir())
    assert names == ["lstm-seed1", "zoneout-c0.5-h0-seed1", "zoneout-c0.5-h0-seed1-2"]
    assert program.main([*TINY, "--z-prob-cells", "0.5", "--epochs", "3", "--resume"]) == 0
    assert len(read_rows(tmp_path / "runs/char-ptb" / names[2] / "metrics.jsonl")) == 3


def test_python_m_minizone_is_the_same_as_run_py(tmp_path):
    done = command("--help")
    assert done.returncode == 0 and done.stdout.startswith("usage:") and done.stderr == ""
    module = subprocess.run(
        [sys.executable, "-m", "minizone", "--help"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (module.returncode, module.stdout) == (0, done.stdout)


@pytest.mark.parametrize("name", ["char-ptb", "resume", "plot", "report", "sample", "export", "conformance"])
def test_each_command_has_help_and_status_0(name, program, capsys):
    assert program.main([name, "--help"]) == 0 and f"run.py {name} " in capsys.readouterr().out


HELP_OF_ALL = """
import os, sys
from minizone.commands.main import COMMANDS, TASKS, run_and_exit
for columns in ("5", "1", "0", "-3", "abc"):
    for name in [*TASKS, *(COMMANDS.keys() - {"resume"})]:
        for flag in ("--help", "--mistyped"):
            os.environ["COLUMNS"], sys.argv = columns, ["run.py", name, flag]
            try:
                run_and_exit()
            except SystemExit:
                pass
"""


def test_help_ends_and_is_readable_however_narrow_the_terminal(program):
    words = [sys.executable, "-c", HELP_OF_ALL]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, timeout=60)
    number = 5 * (len(program.TASKS) + len(program.COMMANDS) - 1)
    assert done.stdout.count("usage: ") == done.stdout.count("show this help") == number
    assert done.stderr.count(": there is no flag --mistyped; see run.py ") == len(done.stderr.splitlines()) == number


def test_what_is_not_a_command_is_refused(program, capsys):
    assert "there is no task 'char-pdb'; the tasks: char-ptb, word-ptb" in refused("char-pdb")
    assert program.main([]) == 2 and capsys.readouterr().out.startswith("usage: ")
    assert "cannot write in the run folder" in refused_here(capsys, *TINY, "--out", "/dev/null/run")
