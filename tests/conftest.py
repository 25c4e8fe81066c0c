"""Fixtures of the tests on data: small files in place of PTB's, and none of the reader's own."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import SMALL, known

from minizone.data.download import KNOWN_FILES


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
