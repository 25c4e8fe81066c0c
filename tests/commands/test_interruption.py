"""Ctrl-C and kill -9 in the middle of an epoch: the resumed run equals the uninterrupted one.

Ctrl-C before and after a command prints nothing.
"""

import os
import shlex
import signal
import subprocess
import sys
import time

import pytest

from minizone.runs.files import read_rows
from tests.helpers.commands import ROOT, command
from tests.helpers.runs import same_run

FLAGS = shlex.split(
    "char-ptb --dataset manual --hidden-size 48 --batch-size 10 --seq-len 26 --epochs 3 --train-symbols 30000"
    " --eval-symbols 300 --z-prob-cells 0.5 --z-prob-states 0.05"
)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert command(*FLAGS, "--out", folder).returncode == 0
    return folder


def interrupted(folder, number):
    """Start a run, send it a signal in epoch 2, and wait; its exit status and what it printed."""
    process = subprocess.Popen(
        [sys.executable, ROOT / "run.py", *FLAGS, "--out", folder],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while len(read_rows(folder / "metrics.jsonl")) < 1:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    time.sleep(0.15)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_ctrl_c_saves_says_so_and_the_resumed_run_equals_the_uninterrupted_one(uninterrupted, tmp_path):
    status, out, err = interrupted(tmp_path / "run", signal.SIGINT)
    assert status == 130 and err == ""
    assert "stopped by SIGINT in epoch 2 after update" in out and "--resume" in out
    assert command(*FLAGS, "--out", tmp_path / "run", "--resume").returncode == 0
    same_run(uninterrupted, tmp_path / "run")


def test_kill_9_in_the_middle_of_an_epoch_and_the_resumed_run_equals_the_uninterrupted_one(uninterrupted, tmp_path):
    status, _, _ = interrupted(tmp_path / "run", signal.SIGKILL)
    assert status == -signal.SIGKILL and not (tmp_path / "run" / "summary.json").exists()
    assert command(*FLAGS, "--out", tmp_path / "run", "--resume").returncode == 0
    same_run(uninterrupted, tmp_path / "run")


SITECUSTOMIZE = """
import _signal, atexit, os, sys

class SignalAtImport:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["SIGNAL_AT"]:
            os.kill(os.getpid(), _signal.SIGINT)

sys.meta_path.insert(0, SignalAtImport())
if os.environ["SIGNAL_AT"] == "exit":
    atexit.register(os.kill, os.getpid(), _signal.SIGINT)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize(
    ("program", "moment"),
    [
        *[("run.py", moment) for moment in ("minizone", "numpy", "matplotlib.pyplot", "tyro", "exit")],
        # Python imports minizone/__init__.py, and NumPy with it, before the first line of minizone/__main__.py.
        *[("-m minizone", moment) for moment in ("minizone.commands.main", "matplotlib.pyplot", "exit")],
    ],
)
def test_ctrl_c_during_the_imports_and_at_the_exit_is_silent(program, moment, tmp_path):
    """Python imports `sitecustomize` before the program; it sends SIGINT when a module is about to be imported."""
    (tmp_path / "sitecustomize.py").write_text(SITECUSTOMIZE)
    done = subprocess.run(
        [sys.executable, *program.split(), "--help"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "SIGNAL_AT": moment},
        timeout=60,
    )
    assert done.returncode == 130
    assert done.stderr == "" and bool(done.stdout) == (moment == "exit")


def test_a_second_ctrl_c_while_the_first_is_reported_is_silent():
    """The first comes in `main`, the second when it prints that it has stopped."""
    script = """if True:
        import os, signal, sys
        from minizone.commands import main
        def stop(*_):
            os.kill(os.getpid(), signal.SIGINT)
        main.run_command = main.print_sentence = stop
        main.run_and_exit()
    """
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
