"""Fixtures: a GPU, small data files in place of those of Penn Treebank, and the command line."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy: pytest -n auto already has a process on every core

import pytest

import minizone.commands.main
from minizone import Device, backend
from minizone.data.download import KNOWN_FILES
from minizone.kernels.gpu import cuda
from tests import standin
from tests.helpers import SMALL, known


def pytest_terminal_summary(terminalreporter):
    """Print what the tests recorded: the sum of integers over all tests, the maximum of other numbers."""
    recorded: dict[str, list[Any]] = {}
    for report in terminalreporter.getreports("passed"):
        if report.when == "call":
            for name, number in report.user_properties:
                recorded.setdefault(name, []).append(number)
    if recorded:
        terminalreporter.section("recorded")
    for name, numbers in sorted(recorded.items()):
        total = f"{sum(numbers):,}" if isinstance(numbers[0], int) else f"{max(numbers):.1e}"
        terminalreporter.line(f"{name}: {total}")


@pytest.fixture(params=["stand-in", pytest.param("device", marks=pytest.mark.gpu)])
def gpu(request, monkeypatch) -> Iterator[Device]:
    """A GPU: the stand-in for CuPy (tests/standin), and with ``-m gpu`` the real one."""
    if request.param == "stand-in":
        monkeypatch.setattr(cuda, "CUBLAS_WORKSPACE", 4096)
        xp = standin.make()
        monkeypatch.setattr(backend, "cupy", xp)
        monkeypatch.setattr(backend, "load_cublas", xp.cublas)
    yield Device("gpu")
    if request.param == "stand-in":  # each test has its own stand-in: clear what was cached for it
        cuda._blas.cache_clear()
        cuda._compiled.cache_clear()
        cuda._free.clear()


@pytest.fixture
def cupy(gpu) -> standin.Cupy:
    """The stand-in itself, for its counters. Without it a test is skipped."""
    if not isinstance(backend.cupy, standin.Cupy):
        pytest.skip("only the stand-in counts")
    return backend.cupy


@pytest.fixture
def never_waiting(gpu) -> Callable[[], AbstractContextManager[None]]:
    """A context in which it is an error to synchronize the host with the GPU."""

    @contextmanager
    def on_stand_in() -> Iterator[None]:
        with backend.cupy.counting() as counts:
            yield
        assert counts.synchronizations == 0

    @contextmanager
    def on_device() -> Iterator[None]:
        with warnings.catch_warnings():  # CuPy warns that it does not see every synchronization
            warnings.simplefilter("ignore")
            refusing = cupyx.allow_synchronize(False)
            refusing.__enter__()
        try:
            yield
        finally:
            refusing.__exit__(None, None, None)

    if isinstance(backend.cupy, standin.Cupy):
        return on_stand_in
    cupyx = pytest.importorskip("cupyx")
    if not hasattr(cupyx, "allow_synchronize"):
        pytest.skip("this CuPy cannot detect synchronizations")
    return on_device


@pytest.fixture
def nobody_elses_files(monkeypatch, tmp_path):
    """Isolate tests from the data folder, cache and proxy of the user, except tests on real data."""
    monkeypatch.setenv("MINIZONE_DATA", str(tmp_path / "environment"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def small(tmp_path, monkeypatch) -> Path:
    """A data folder with small files. Their sizes and checksums are in the table of known files."""
    folder = tmp_path / "data"
    (folder / "ptb").mkdir(parents=True)
    for relative, raw in SMALL.items():
        (folder / relative).write_bytes(raw)
        monkeypatch.setitem(KNOWN_FILES, relative, known(raw))
    return folder


@pytest.fixture
def program() -> ModuleType:
    """The command line; its ``main`` runs a command and returns the exit status."""
    return minizone.commands.main
