"""Every chapter runs offline at its small size, prints the expected checks, and can be opened as a notebook."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHAPTERS = sorted((ROOT / "chapters").glob("[0-9][0-9]_*.py"))
KEY_LINES = ROOT / "tests" / "fixtures" / "chapter_lines.txt"  # written by: python tests/chapters/test_chapters.py
each_chapter = pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)


def key_lines(chapter: Path, folder: Path) -> list[str]:
    """Run a chapter, which writes its figure to the folder, and return its lines "check: ..." and "figure: ..."."""
    done = subprocess.run(
        [sys.executable, str(chapter), "--preset", "small"],
        cwd=folder,  # a chapter runs from any directory
        env={**os.environ, "MINIZONE_FIGURES": str(folder), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return [line for line in done.stdout.splitlines() if line.startswith(("check: ", "figure: "))]


def expected_lines() -> dict[str, list[str]]:
    """The lines of every chapter, from the file that is kept with the tests."""
    found: dict[str, list[str]] = {}
    for line in KEY_LINES.read_text().splitlines():
        if line.startswith("# "):
            chapter = line.removeprefix("# ")
            found[chapter] = []
        elif line:
            found[chapter].append(line)
    return found


def test_there_are_nineteen_chapters():
    assert [int(path.name[:2]) for path in CHAPTERS] == list(range(1, 20))
    assert expected_lines().keys() == {path.stem for path in CHAPTERS}


@each_chapter
def test_a_chapter_makes_all_its_checks_and_its_figure(tmp_path, chapter):
    lines = key_lines(chapter, tmp_path)
    assert lines == expected_lines()[chapter.stem]
    assert f"figure: {chapter.stem}.png" in lines
    assert (tmp_path / f"{chapter.stem}.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("flags", "tracked"), [([], True), (["--preset", "small"], False), (["--preset=paper"], False)]
)
def test_only_preset_quick_draws_into_the_figures_of_the_repository(flags, tracked, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT / "chapters")
    shared = importlib.import_module("shared")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MINIZONE_FIGURES", raising=False)
    monkeypatch.setattr(sys, "argv", ["chapter.py", *flags])
    monkeypatch.setattr(shared, "HERE", tmp_path / "chapters")
    monkeypatch.setattr(shared, "figures", tmp_path / "chapters" / "figures")

    def main(preset="quick", device="cpu"):
        shared.save(shared.plt.figure(), "figure")
        return {}

    shared.run(main)
    folder = "chapters/figures" if tracked else "runs/chapters/figures"
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png")] == [f"{folder}/figure.png"]
    assert (folder in capsys.readouterr().out) == (not tracked)


@each_chapter
def test_a_chapter_opens_with_its_claim(chapter):
    text = chapter.read_text()
    number = int(chapter.name[:2])
    first = text.split("# %%")[1]
    assert first.startswith(f" [markdown]\n# # {number}. ")
    for part in ("**Claim.**", "# Paper: ", "python "):
        assert part in first
    assert re.search(r"# ## Exercises\n#\n(# .*\n)*# 3\. ", text)
    figure = ROOT / "chapters" / "figures" / f"{chapter.stem}.png"
    assert 5_000 < figure.stat().st_size < 300_000, "the figure of preset quick must be committed, and small"


@each_chapter
def test_every_exercise_has_an_answer(chapter):
    script = chapter.read_text(encoding="utf-8")
    answers = ROOT / "chapters" / "answers" / chapter.name
    exercises = re.findall(r"^# (\d)\. ", script.partition("# ## Exercises")[2], re.MULTILINE)
    assert re.findall(r"^# ## (\d)\. ", answers.read_text(encoding="utf-8"), re.MULTILINE) == exercises
    assert "# ## What to take away" in script


@each_chapter
def test_the_answers_hold(chapter, tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "chapters" / "answers" / chapter.name)],
        cwd=tmp_path,
        env={**os.environ, "MINIZONE_FIGURES": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert done.stdout.count("check: ") >= 3


@each_chapter
def test_a_chapter_is_a_notebook(chapter):
    jupytext = pytest.importorskip("jupytext", reason="pip install jupytext: converts the chapters to notebooks")
    notebook = jupytext.read(chapter)
    kinds = {cell.cell_type for cell in notebook.cells}
    assert kinds == {"markdown", "code"} and len(notebook.cells) >= 8


def test_a_notebook_runs(tmp_path, monkeypatch):
    jupytext = pytest.importorskip("jupytext")
    nbclient = pytest.importorskip("nbclient", reason="pip install nbclient ipykernel: executes a notebook")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("MINIZONE_FIGURES", str(tmp_path))
    notebook = jupytext.read(ROOT / "chapters" / "05_zoneout.py")
    nbclient.NotebookClient(notebook, resources={"metadata": {"path": str(ROOT / "chapters")}}).execute()
    assert (tmp_path / "05_zoneout.png").exists()


if __name__ == "__main__":
    import tempfile

    blocks = []
    with tempfile.TemporaryDirectory() as folder:
        for path in CHAPTERS:
            lines = key_lines(path, Path(folder))
            blocks.append("\n".join([f"# {path.stem}", *lines]))
    KEY_LINES.write_text("\n\n".join(blocks) + "\n")
