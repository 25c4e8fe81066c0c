"""Fixtures: a GPU; small files in place of PTB's, and none of the reader's own."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import minizone.commands.main
from minizone import Device, backend
from minizone.data.download import KNOWN_FILES
from minizone.kernels.gpu import cuda
from tests import standin
from tests.helpers import SMALL, known


def pytest_terminal_summary(terminalreporter):
    """What the tests recorded: of whole numbers the sum over all tests, of others the largest."""
    seen: dict[str, list[Any]] = {}
    for report in terminalreporter.getreports("passed"):
        for name, number in report.user_properties if report.when == "call" else ():
            seen.setdefault(name, []).append(number)
    if seen:
        terminalreporter.section("recorded")
    for name, numbers in sorted(seen.items()):
        total = f"{sum(numbers):,}" if isinstance(numbers[0], int) else f"{max(numbers):.1e}"
        terminalreporter.line(f"{name}: {total}")


@pytest.fixture(params=["stand-in", pytest.param("device", marks=pytest.mark.gpu)])
def gpu(request, monkeypatch) -> Iterator[Device]:
    """A GPU: the stand-in for CuPy (standin.py), and with ``-m gpu`` the real one."""
    if request.param == "stand-in":
        monkeypatch.setattr(cuda, "CUBLAS_WORKSPACE", 4096)
        xp = standin.make()
        monkeypatch.setattr(backend, "cupy", xp)
        monkeypatch.setattr(backend, "load_cublas", xp.cublas)
    yield Device("gpu")
    if request.param == "stand-in":  # each test has a stand-in of its own: what is kept for it must not pile up
        cuda._blas.cache_clear()
        cuda._compiled.cache_clear()
        cuda._free.clear()


@pytest.fixture
def never_waiting(gpu) -> Callable[[], AbstractContextManager[Any]]:
    """A context in which the host may not wait for the GPU: what it launches goes into a queue."""

    @contextmanager
    def on_stand_in() -> Iterator[None]:
        with backend.cupy.counting() as counts:
            yield
        assert counts.synchronizations == 0

    if isinstance(backend.cupy, standin.Cupy):
        return on_stand_in
    cupyx = pytest.importorskip("cupyx")
    if not hasattr(cupyx, "allow_synchronize"):
        pytest.skip("this CuPy cannot tell where it waits")

    @contextmanager
    def on_device() -> Iterator[None]:
        with warnings.catch_warnings():  # CuPy warns that it does not see every wait
            warnings.simplefilter("ignore")
            refusing = cupyx.allow_synchronize(False)
            refusing.__enter__()
        try:
            yield
        finally:
            refusing.__exit__(None, None, None)

    return on_device


@pytest.fixture
def cupy(gpu, request) -> standin.Cupy:
    """The stand-in by itself, for its counters."""
    if request.node.callspec.params["gpu"] != "stand-in":
        pytest.skip("counted on the stand-in alone")
    return backend.cupy


@pytest.fixture
def nobody_elses_files(monkeypatch, tmp_path):
    """Keep the tests off the reader's own data, cache and proxy."""
    monkeypatch.setenv("MINIZONE_DATA", str(tmp_path / "environment"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def small(tmp_path, monkeypatch) -> Path:
    """A data folder with the small files, which are also what the table expects."""
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
