"""Two processes in one folder: one trains, the other is refused in a sentence."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("signals of Linux", allow_module_level=True)

from tests.helpers.faults import Run, write_number
from tests.helpers.runs import same_run


def test_of_two_processes_that_start_at_the_same_instant_one_trains(context, whole, tmp_path):
    for number in range(5):
        folder, instant = tmp_path / str(number) / "run", time.monotonic() + 0.2
        folder.parent.mkdir()
        runs = [Run(context, folder, instant=instant, output=folder.with_name(name)) for name in ("a", "b")]
        (status, _), (other_status, sentence) = sorted(run.end() for run in runs)
        assert (status, other_status) == (0, 2), sentence
        assert "another process is training in" in sentence or "holds a run already" in sentence
        same_run(whole, folder)


def test_a_second_run_is_refused_and_the_first_is_not_disturbed(context, whole, tmp_path):
    """The first is halted in the middle of a checkpoint, and goes on when the second has ended."""
    folder, at = tmp_path / "run", write_number("rename last.safetensors")
    first = Run(context, folder, signal_number=signal.SIGSTOP, at=at)
    while not (folder / "last.safetensors.tmp").exists() or process_state(first.process.pid) != "T":
        assert first.process.is_alive()
        time.sleep(0.01)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert "another process is training in" in Run(context, folder, output=tmp_path / "second").refused()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    os.kill(first.process.pid, signal.SIGCONT)
    assert first.end()[0] == 0
    same_run(whole, folder)


def process_state(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
