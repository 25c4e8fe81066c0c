"""Fixtures: a GPU; small files in place of PTB's, and none of the reader's own."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import standin
from helpers import SMALL, known

from minizone import Device, backend
from minizone.data.download import KNOWN_FILES
from minizone.kernels import gpu_bn


@pytest.fixture(params=["stand-in", pytest.param("device", marks=pytest.mark.gpu)])
def gpu(request, monkeypatch) -> Device:
    """A GPU: the stand-in for CuPy (standin.py), and with ``-m gpu`` the real one."""
    if request.param == "stand-in":
        xp = standin.make()
        monkeypatch.setattr(backend, "cupy", xp)
        monkeypatch.setattr(backend, "load_cublas", xp.cublas)
        monkeypatch.setattr(gpu_bn, "LANES", 1)  # a warp of one lane: threads for 32 lanes would take minutes
    return Device("gpu")


@pytest.fixture
def cupy(gpu, request) -> standin.Module:
    """The stand-in by itself, for its counters."""
    if request.node.callspec.params["gpu"] != "stand-in":
        pytest.skip("counted on the stand-in alone")
    return backend.cupy


@pytest.fixture
def nobody_elses_files(monkeypatch, tmp_path, request):
    """Keep the tests off the reader's own data, cache and proxy, the real-data tests excepted."""
    if "real_ptb" not in request.fixturenames:
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
def program(monkeypatch):
    """run.py as a module."""
    monkeypatch.syspath_prepend(Path(__file__).resolve().parent.parent)
    return importlib.import_module("run")
