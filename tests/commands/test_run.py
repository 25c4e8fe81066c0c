"""The command line, as a person uses it: another process, its exit status, and what it says."""

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from minizone.runs.files import read_rows
from tests.runs.test_training import same_run

ROOT = Path(__file__).resolve().parents[2]
TINY = shlex.split(
    "char-ptb --dataset manual --hidden-size 12 --batch-size 10 --seq-len 11 --epochs 2 --train-symbols 1500"
    " --eval-symbols 300"
)


def command(*arguments, cwd=ROOT, **environment):
    return subprocess.run(
        [sys.executable, ROOT / "run.py", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **environment},
        timeout=120,
    )


def refused(*arguments, **options):
    """The one line on stderr of a command that must end with status 2."""
    done = command(*arguments, **options)
    assert done.returncode == 2, done.stderr
    assert done.stdout == "" and len(done.stderr.splitlines()) == 1 and done.stderr.startswith("run.py: ")
    return done.stderr


def test_a_run_prints_its_epochs_its_result_and_no_progress_bar_into_a_pipe(tmp_path):
    done = command(*TINY, "--out", tmp_path / "run")
    assert done.returncode == 0 and done.stderr == ""
    lines = done.stdout.splitlines()
    assert "stand-in" in lines[0] and lines[1].startswith("epoch   1") and lines[-1].startswith("best validation")
    assert "\r" not in done.stdout and len(lines) == 4
    best = json.loads((tmp_path / "run" / "summary.json").read_text())["best_valid_bpc"]
    assert f"best validation {best:.4f} bpc" in lines[-1]


@pytest.mark.skipif(sys.platform != "linux", reason="needs a pseudo-terminal")
def test_in_a_terminal_there_is_a_progress_bar_with_loss_and_speed(tmp_path):
    import fcntl
    import struct
    import termios

    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    words = [sys.executable, ROOT / "run.py", *Background.flags, "--epochs", "1", "--out", tmp_path / "run"]
    process = subprocess.Popen(words, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # Linux: the other side has closed
        while read := os.read(ours, 4096):
            shown += read
    os.close(ours)
    assert process.wait() == 0
    assert re.search(r"\repoch 1: .*\| \d+/11\d .* updates/s, bpc \d\.\d{3}\]", shown.decode())


def test_without_out_a_run_gets_a_folder_named_after_its_regularizer_and_numbered(tmp_path):
    for _ in range(2):
        assert command(*TINY, "--z_prob_cells", "0.5", cwd=tmp_path).returncode == 0, "underscores work too"
    assert command(*TINY, cwd=tmp_path).returncode == 0
    names = sorted(path.name for path in (tmp_path / "runs" / "char-ptb").iterdir())
    assert names == ["lstm-seed1", "zoneout-c0.5-h0-seed1", "zoneout-c0.5-h0-seed1-2"]
    longer = command(*TINY, "--z-prob-cells", "0.5", "--epochs", "3", "--resume", cwd=tmp_path)
    assert longer.returncode == 0 and len(read_rows(tmp_path / "runs/char-ptb" / names[2] / "metrics.jsonl")) == 3


def test_plot_lays_two_runs_on_one_picture(tmp_path):
    command(*TINY, "--out", tmp_path / "a")
    command(*TINY, "--out", tmp_path / "b", "--z-prob-cells", "0.5")
    done = command("plot", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "both.svg")
    assert done.returncode == 0 and done.stdout.strip() == str(tmp_path / "both.svg")
    assert (tmp_path / "both.svg").read_text().count("<svg") == 1
    assert command("plot", tmp_path / "a", "--out", tmp_path / "new" / "a.png").returncode == 0


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--z-prob-cell", "0.5"], "--z-prob-cell"),
        (["--z-prob-cells", "much"], "--z-prob-cells must be a probability in [0, 1], got much"),
        (["--z-prob-cells", "1.5"], "--z-prob-cells must be a probability in [0, 1], got 1.5"),
        (["--z-prob-states", "nan"], "--z-prob-states must be a probability in [0, 1], got nan"),
        (["--drop-prob-igates", "-0.1"], "--drop-prob-igates must be a probability in [0, 1], got -0.1"),
        (["--share-mask", "--z-prob-cells", "0.5", "--z-prob-states", "0.1"], "equal"),
        (["--preset", "huge"], "huge"),
        (["--hidden-size", "0"], "--hidden-size must be at least 1, got 0"),
        (["--hidden-size", "3.5"], "--hidden-size"),
        (["--seq-len", "1"], "--seq-len must be at least 2"),
        (["--seq-len", "100000000", "--train-symbols", "0", "--eval-symbols", "0"], "--seq-len must be at most"),
        (["--learning-rate", "inf"], "--learning-rate must be finite"),
        (["--epochs", "0"], "--epochs must be at least 1, got 0"),
        (["--batch-size"], "--batch-size"),
        (["--data-dir", "nowhere", "--dataset", "ptb"], "nowhere"),
        (["--device", "gpu"], "device gpu"),
        (["--hidden-size", "200000"], "out of memory"),
    ],
)
def test_a_bad_flag_ends_with_status_2_one_sentence_and_no_folder(flags, said, tmp_path):
    if "gpu" in flags and _has_gpu():
        pytest.skip("this machine has a GPU")
    assert said in refused("char-ptb", "--dataset", "manual", "--out", tmp_path / "run", *flags, cwd=tmp_path)
    assert not (tmp_path / "run").exists()


def _has_gpu():
    from minizone import Device, UserError

    try:
        return Device("gpu") is not None
    except UserError:
        return False


def test_what_is_not_a_command_or_not_a_run_is_refused(tmp_path):
    assert "char-ptb" in refused("char-pdb")
    assert "not the folder of a run" in refused("plot", tmp_path)
    assert "at least one" in refused("plot")
    assert "cannot make the run folder" in refused(*TINY, "--out", "/dev/null/run")


def test_a_figure_of_an_unknown_kind_is_refused(tmp_path):
    command(*TINY, "--out", tmp_path / "a", "--epochs", "1")
    assert "curves.xyz" in refused("plot", tmp_path / "a", "--out", tmp_path / "curves.xyz")


@pytest.mark.parametrize("arguments", [["--help"], ["char-ptb", "--help"], ["plot", "--help"]])
def test_help_is_there_and_ends_with_status_0(arguments):
    done = command(*arguments)
    assert done.returncode == 0 and "usage:" in done.stdout and done.stderr == ""


def test_help_explains_every_flag_and_shows_the_defaults_of_the_preset():
    text = command("char-ptb", "--preset", "paper", "--help", COLUMNS="120").stdout
    for flag in ("--z-prob-cells", "--z-prob-states", "--drop-prob-igates", "--static-mask", "--max-minutes", "--out"):
        assert flag in text
    assert "(default: 1000)" in text and "(default: 0.002)" in text


class Background:
    """A run in another process, long enough to be interrupted in the middle of an epoch."""

    flags = shlex.split(
        "char-ptb --dataset manual --hidden-size 48 --batch-size 10 --seq-len 26 --epochs 3 --train-symbols 30000"
        " --eval-symbols 300 --z-prob-cells 0.5 --z-prob-states 0.05"
    )

    def __init__(self, folder):
        self.process = subprocess.Popen(
            [sys.executable, ROOT / "run.py", *self.flags, "--out", folder],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        deadline = time.monotonic() + 60
        while len(read_rows(folder / "metrics.jsonl")) < 1:
            assert time.monotonic() < deadline and self.process.poll() is None
            time.sleep(0.01)
        time.sleep(0.15)

    def end(self, number):
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert command(*Background.flags, "--out", folder).returncode == 0
    return folder


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_saves_says_so_and_the_resumed_run_equals_the_uninterrupted_one(number, uninterrupted, tmp_path):
    status, out, err = Background(tmp_path / "run").end(number)
    assert status == 128 + number and err == ""
    assert f"stopped by {number.name} in epoch 2 after update" in out and "--resume" in out
    assert command(*Background.flags, "--out", tmp_path / "run", "--resume").returncode == 0
    same_run(uninterrupted, tmp_path / "run")


def test_kill_9_in_the_middle_of_an_epoch_and_the_resumed_run_equals_the_uninterrupted_one(uninterrupted, tmp_path):
    status, _, _ = Background(tmp_path / "run").end(signal.SIGKILL)
    assert status == -signal.SIGKILL and not (tmp_path / "run" / "summary.json").exists()
    assert command(*Background.flags, "--out", tmp_path / "run", "--resume").returncode == 0
    same_run(uninterrupted, tmp_path / "run")
