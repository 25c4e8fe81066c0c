"""A run in its own process that is not interrupted."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def context():
    """The server that forks the processes."""
    if sys.platform != "linux":
        pytest.skip("signals, locks and limits of Linux")
    from tests.helpers.faults import ROOT, server

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("OMP_NUM_THREADS", "1")
        yield server()


@pytest.fixture(scope="session")
def whole(context, tmp_path_factory) -> Path:
    """The folder of the run that nothing happens to. Not to be changed."""
    from tests.helpers.faults import Run

    folder = tmp_path_factory.mktemp("whole") / "run"
    status, text = Run(context, folder).end()
    assert status == 0, text
    return folder
