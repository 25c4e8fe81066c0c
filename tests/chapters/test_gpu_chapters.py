"""Every chapter runs on a GPU at its small size; all its checks hold there too."""

from __future__ import annotations

import importlib.util
import sys

import pytest

from tests.chapters.test_chapters import CHAPTERS

LONG = ("09_char_ptb", "10_word_ptb", "11_text8", "13_addition")  # the stand-in needs 10 s and more for these
chapters = [pytest.param(c, marks=pytest.mark.slow if c.stem in LONG else (), id=c.stem) for c in CHAPTERS]


@pytest.mark.parametrize("chapter", chapters)
def test_a_chapter_runs_on_a_gpu(gpu, chapter, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MINIZONE_FIGURES", str(tmp_path))
    monkeypatch.syspath_prepend(chapter.parent)
    spec = importlib.util.spec_from_file_location(chapter.stem, chapter)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, chapter.stem, module)
    spec.loader.exec_module(module)
    module.main(preset="small", device="gpu")
    assert "check: " in capsys.readouterr().out and (tmp_path / f"{chapter.stem}.png").exists()
