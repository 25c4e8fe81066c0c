"""A run can be killed at any moment and resumed from its files. It then ends with the same bits."""

import signal
import sys

import pytest

if sys.platform != "linux":
    pytest.skip("signals of Linux", allow_module_level=True)

from tests.helpers.faults import WRITES, Run, finish, write_number


def test_the_writes_of_a_run_are_those_at_which_it_is_killed_below(context, whole, tmp_path):
    log = tmp_path / "log"
    assert Run(context, tmp_path / "run", log=str(log)).end()[0] == 0
    assert log.read_text().splitlines() == WRITES


@pytest.mark.parametrize("at", range(1, len(WRITES) + 1), ids=lambda at: f"{at} {WRITES[at - 1]}")
def test_a_kill_before_any_write_rename_or_removal(at, context, whole, tmp_path):
    status, text = Run(context, tmp_path / "run", signal_number=signal.SIGKILL, at=at).end()
    assert status == -signal.SIGKILL, text
    finish(context, whole, tmp_path / "run")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_a_checkpoint_is_written(number, context, whole, tmp_path):
    """The checkpoint is written to its end, one more update is made and saved."""
    at = write_number("rename last.safetensors")
    status, text = Run(context, tmp_path / "run", signal_number=number, at=at).end()
    assert status == 128 + number and f"stopped by {number.name} in epoch 2 after update 1;" in text
    finish(context, whole, tmp_path / "run")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("name", ["config.json", "summary.json"])
def test_a_signal_before_and_after_the_training(name, number, context, whole, tmp_path):
    """SIGTERM ends the process there as it ends any other."""
    at = write_number(f"rename {name}")
    status, text = Run(context, tmp_path / "run", signal_number=number, at=at).end()
    assert status == (130 if number == signal.SIGINT else -signal.SIGTERM) and "Traceback" not in text
    finish(context, whole, tmp_path / "run")
