"""Every chapter runs on a GPU at its small size, and its checks hold there."""

from __future__ import annotations

import importlib.util
import sys

import pytest

from tests.chapters.test_chapters import CHAPTERS

# On the stand-in all chapters together take minutes.
slow_stand_in = pytest.mark.parametrize(
    "gpu",
    [pytest.param("stand-in", marks=pytest.mark.slow), pytest.param("device", marks=pytest.mark.gpu)],
    indirect=True,
)


@slow_stand_in
@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.stem)
def test_a_chapter_runs_on_a_gpu(gpu, chapter, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MINIZONE_FIGURES", str(tmp_path))
    monkeypatch.syspath_prepend(chapter.parent)
    spec = importlib.util.spec_from_file_location(chapter.stem, chapter)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, chapter.stem, module)
    spec.loader.exec_module(module)
    module.main(preset="small", device="gpu")
    assert "check: " in capsys.readouterr().out and (tmp_path / f"{chapter.stem}.png").exists()
