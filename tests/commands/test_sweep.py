"""A sweep from outside: what it trains, prints and leaves behind when it is stopped, killed and started again."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from minizone.commands.grid import read_grid
from minizone.commands.sweep import is_finished
from minizone.runs import plotting
from minizone.runs.files import read_rows
from tests.helpers.commands import ROOT, command, refused, refused_here
from tests.helpers.runs import same_run

FLAGS = """
task = "char-ptb"
[flags]
dataset = "manual"
hidden-size = 24
batch-size = 10
seq-len = 26
eval-symbols = 300
"""
SHORT = FLAGS + "epochs = 1\ntrain-symbols = 1500\n"
LONG = FLAGS + "epochs = 20\ntrain-symbols = 30000\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "grid.toml"
    path.write_text(text)
    return path


def start(*words: object) -> subprocess.Popen[str]:
    """A program in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )


def wait_for(happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_grid_of_two_lists_ends_with_tables_curves_and_a_heat_map_and_is_not_trained_twice(
    program, tmp_path, capsys, monkeypatch
):
    grid = write(tmp_path, SHORT + "z-prob-cells = [0.0, 0.5]\nz-prob-states = [0.0, 0.05]\n")
    out = tmp_path / "a folder"
    with socket.socket() as dashboard, suppress(OSError):  # another program has dask's usual port
        dashboard.bind(("127.0.0.1", 8787))
        first = command("sweep", grid, "--out", out)
    assert (first.returncode, first.stderr) == (0, "")
    assert f"4 runs in {out}: 4 new\n" in first.stdout
    assert first.stdout.count(": epoch 1 of 1, valid ") == first.stdout.count(": finished") == 4
    assert first.stdout.count("`python run.py char-ptb ") == 4
    assert {path.name for path in out.iterdir() if path.is_file()} == {"curves.png", "heat-map.png"}
    written = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    assert program.main(["sweep", str(grid), "--out", str(out)]) == 0
    assert f"4 runs in {out}: 4 finished\n" in capsys.readouterr().out
    assert written == {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")} and len(written) == 8

    longer = out / "z-prob-cells0-z-prob-states0.05-seed1"
    assert program.main(["resume", str(longer), "--epochs", "2"]) == 0
    shown = []
    monkeypatch.setattr(plotting, "plot_heat_map", lambda values, *_: shown.append(np.isnan(values).tolist()))
    assert program.main(["sweep", str(grid), "--out", str(out)]) == 0
    assert shown == [[[False, True], [False, False]]]
    assert f"the heat map leaves out {longer}, whose epochs or patience" in capsys.readouterr().out

    more_epochs = write(tmp_path, grid.read_text().replace("epochs = 1", "epochs = 2"))
    assert [is_finished(run) for run in read_grid(more_epochs, None, out).runs] == [
        run.folder == longer for run in read_grid(more_epochs, None, out).runs
    ]


def test_a_run_that_fails_is_reported_and_stops_nothing(tmp_path):
    bad = '[rows."a bad one"]\nalgorithm = "sgd"\nlearning-rate = 1e30\nclipping = 0\n'
    grid = write(tmp_path, SHORT + bad + "[rows.good]\n")
    done = command("sweep", grid, "--out", tmp_path / "out", "--workers", 1)
    assert done.returncode == 1 and "good-seed1: finished" in done.stdout
    assert "a-bad-one-seed1: failed\n" in done.stdout and "diverged" not in done.stdout, "the reason comes once"
    assert len(done.stderr.splitlines()) == 1 and "a-bad-one-seed1: the " in done.stderr and "diverged" in done.stderr
    assert [path.name for path in (tmp_path / "out").iterdir() if path.is_dir()] == ["good-seed1"]


@pytest.mark.skipif(sys.platform != "linux", reason="signals of POSIX")
def test_a_signal_to_all_processes_saves_the_run_and_the_same_command_goes_on(tmp_path):
    grid, out = write(tmp_path, LONG), tmp_path / "out"
    log = out / "lstm-seed1" / "metrics.jsonl"
    rows = 0
    for number, begins in ((signal.SIGINT, "1 run in {out}: 1 new\n"), (signal.SIGTERM, "1 run in {out}: 1 started\n")):
        process = start(ROOT / "run.py", "sweep", grid, "--out", out)
        wait_for(lambda: len(read_rows(log)) > rows)  # noqa: B023  # it is called in this round
        os.killpg(process.pid, number)
        text, _ = process.communicate(timeout=60)
        assert process.returncode == 128 + number and begins.format(out=out) in text, text
        assert re.search(r"lstm-seed1: stopped in epoch \d+ after update \d+\n", text), text
        assert text.endswith(
            f"run.py: stopped, and the runs in {out} are saved: run the same command again to continue\n"
        )
        rows = len(read_rows(log))
    assert not list(out.rglob("summary.json")) and not list(out.rglob("lock"))


@pytest.mark.skipif(sys.platform != "linux", reason="signals of POSIX")
def test_one_sweep_a_folder_and_a_second_ctrl_c_ends_it_with_a_sentence(tmp_path):
    grid, out = write(tmp_path, LONG), tmp_path / "out"
    process = start(ROOT / "run.py", "sweep", grid, "--out", out)
    wait_for(lambda: read_rows(out / "lstm-seed1" / "metrics.jsonl"))
    sentence = f"run.py: another sweep is running in {out}: wait until it ends, or choose another folder (--out)\n"
    assert refused("sweep", grid, "--out", out) == sentence
    for _ in range(2):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.15)
    text, _ = process.communicate(timeout=60)
    sentence = "run.py: stopped at once: run the same command again to continue from the last checkpoints\n"
    assert process.returncode == 130 and text.endswith(sentence), text
    done = command("sweep", grid, "--out", out)
    assert done.returncode == 0 and f"1 run in {out}: 1 started\n" in done.stdout, done.stdout + done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="signals of POSIX")
def test_kill_9_of_a_worker_and_the_runs_end_with_the_bits_of_undisturbed_ones(program, tmp_path):
    grid, out = write(tmp_path, "seeds = [1, 2]\n" + LONG.replace("epochs = 20", "epochs = 3")), tmp_path / "out"
    file = tmp_path / "scheduler.json"
    quiet = ["--no-dashboard", "--scheduler-file", file]
    processes = [start("-m", "distributed.cli.dask_scheduler", "--host", "tcp://127.0.0.1", "--port", 0, *quiet)]
    try:
        wait_for(file.exists)
        address = "tcp://" + file.read_text().partition('"address": "tcp://')[2].partition('"')[0]
        worker = ["-m", "distributed.cli.dask_worker", "--nthreads", 1, "--no-nanny", *quiet]
        workers = [start(*worker, "--local-directory", tmp_path / f"worker{k}") for k in range(2)]
        processes += workers
        trained = start(ROOT / "run.py", "sweep", grid, "--out", out, "--scheduler", address)
        processes.append(trained)
        wait_for(lambda: len(list(out.rglob("metrics.jsonl"))) == 2)
        workers[0].kill()
        assert not list(out.rglob("summary.json"))
        for run in read_grid(grid, None, tmp_path / "alone").runs:
            assert program.main(shlex.split(run.command)[2:]) == 0
        text, _ = trained.communicate(timeout=60)
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert trained.returncode == 0 and text.count(": finished") == 2, text
    for seed in (1, 2):
        same_run(tmp_path / "alone" / f"lstm-seed{seed}", out / f"lstm-seed{seed}")


def test_a_folder_with_other_settings_is_refused(program, tmp_path, capsys):
    out = tmp_path / "out"
    grid = write(tmp_path, SHORT)
    capsys.readouterr()
    assert program.main(["sweep", str(grid), "--out", str(out), "--dry-run"]) == 0
    words = shlex.split(capsys.readouterr().out)
    assert program.main(words[2:]) == 0
    grid = write(tmp_path, SHORT.replace("hidden-size = 24", "hidden-size = 25"))
    assert "lstm-seed1 holds a run whose hidden_size is 24, not 25" in refused_here(capsys, "sweep", grid, "--out", out)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ("--scheduler nonsense", "--scheduler must be an address such as tcp://host:8786, got 'nonsense'"),
        ("--scheduler tcp://h:1 --workers 2", "--workers is for this machine"),
        ("--workers x", "sweep: --workers must be a whole number, got x; see run.py sweep --help"),
        ("--workers 0", "--workers must be at least 1, got 0"),
        ("--part laptop", "the file has no parts"),
    ],
)
def test_flags_that_cannot_be_used_are_one_sentence(flags, sentence, tmp_path, capsys):
    assert sentence in refused_here(capsys, "sweep", write(tmp_path, SHORT), "--out", tmp_path / "o", *flags.split())
    assert not (tmp_path / "o").exists()


def test_a_scheduler_that_is_not_there_is_one_sentence(tmp_path):
    done = command("sweep", write(tmp_path, SHORT), "--out", tmp_path / "o", "--scheduler", "tcp://127.0.0.1:1")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and not (tmp_path / "o").exists()
    assert "there is no dask scheduler at tcp://127.0.0.1:1: Timed out" in done.stderr and "after 10 s" in done.stderr


def test_only_a_sweep_that_trains_imports_dask():
    code = "import sys, minizone.commands.main; print({'dask', 'distributed'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert (done.stdout, done.stderr) == ("set()\n", "")


def test_an_out_that_is_no_folder_is_one_sentence(tmp_path):
    grid = write(tmp_path, SHORT)
    done = command("sweep", grid, "--out", grid / "x")
    assert (done.returncode, done.stderr) == (2, f"run.py: cannot write in {grid / 'x'}: {grid} is not a folder\n")


def test_a_missing_file_is_one_sentence(capsys):
    assert "No such file or directory: no.toml" in refused_here(capsys, "sweep", "no.toml")
