"""Standard output and standard error that are closed, full or without a reader: no traceback, and runs continue."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from minizone.runs.files import read_rows
from tests.helpers.commands import ROOT
from tests.helpers.runs import make_run

if not Path("/dev/full").exists():
    pytest.skip("redirections and devices of Linux", allow_module_level=True)

TINY = "seq2seq --hidden-size 3 --updates-per-epoch 1 --valid-examples 4 --epochs 1 --out run"
FULL = "run.py: No space left on device\n"


def shell(line, folder):
    """Run `run.py` with the arguments and redirections of a line of the shell, in a folder; lines wait in buffers."""
    program = f"PYTHONUNBUFFERED= {shlex.quote(sys.executable)} {shlex.quote(str(ROOT / 'run.py'))}"
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {program} {line}"], capture_output=True, text=True, cwd=folder, timeout=120
    )


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", ">&- 2>&- <&-"])
def test_a_run_without_standard_output_or_error_trains(closed, tmp_path):
    done = shell(f"{TINY} {closed}", tmp_path)
    assert done.returncode == 0 and done.stderr == ""
    assert bool(done.stdout) == (closed == "2>&-")
    assert len(read_rows(tmp_path / "run" / "metrics.jsonl")) == 1 and (tmp_path / "run" / "summary.json").exists()


@pytest.mark.parametrize(
    ("line", "status", "out", "err"),
    [
        ("report saved >&-", 0, "", ""),
        ("report nowhere >&-", 2, "", "run.py: nowhere is not a folder"),
        ("report saved > /dev/full", 2, "", FULL),
        ("report saved | true", 141, "", ""),
        ("plot --help >&-", 0, "", ""),
        ("plot --help > /dev/full", 2, "", FULL),
        (f"{TINY} > /dev/full", 2, "", FULL),
        ("nonsense 2>&-", 2, "", ""),
        ("nonsense > /dev/full 2> /dev/full", 2, "", ""),
        ("nonsense 2>&1 | true", 2, "", ""),
    ],
)
def test_what_cannot_be_printed_is_a_sentence_or_silence(line, status, out, err, tmp_path):
    make_run(tmp_path / "saved" / "a")
    done = shell(line, tmp_path)
    assert (done.returncode, done.stdout) == (status, out)
    assert done.stderr.startswith(err) and len(done.stderr.splitlines()) == bool(err)
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]


def test_lines_reach_a_pipe_at_once_and_ctrl_c_that_ends_its_reader_too_saves(tmp_path):
    """As in `run.py char-ptb | tee log`. Lines that wait in a buffer come when --max-minutes ends the run."""
    words = [
        sys.executable,
        ROOT / "run.py",
        *shlex.split(TINY)[:-2],
        "--out",
        tmp_path / "run",
        "--max-minutes",
        "0.2",
    ]
    process = subprocess.Popen(
        [*words, "--updates-per-epoch", "1000000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": ""},
    )
    assert process.stdout.readline().startswith(b"seq2seq on")
    time.sleep(0.5)  # from that line to the first update
    process.stdout.close()
    process.send_signal(signal.SIGINT)
    assert (process.stderr.read(), process.wait(60)) == (b"", 130)
    process.stderr.close()
    assert (tmp_path / "run" / "last.safetensors").exists()
