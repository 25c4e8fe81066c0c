"""The pages of the chapters agree with their scripts, and the book is made from them."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.chapters.test_chapters import CHAPTERS, ROOT, each_chapter, expected_lines

jupytext = pytest.importorskip("jupytext", reason="pip install -r requirements-dev.txt")
sys.path.insert(0, str(ROOT / "chapters"))
import book  # noqa: E402

PRINTED = re.compile(r"^```text\n(?:.*\n)*?```\n|^!\[figure of the chapter\].*\n|^\|.*\n", re.MULTILINE)


def without_output(page: str) -> list[str]:
    """The lines of a page without what its code printed, and without blank ones."""
    return [line for line in PRINTED.sub("", page).splitlines() if line.strip()]


def read_page(chapter: Path) -> str:
    return (book.PAGES / f"{chapter.stem}.md").read_text(encoding="utf-8")


@each_chapter
def test_a_page_has_the_prose_and_the_code_of_its_script(chapter):
    notebook = jupytext.read(chapter)
    assert without_output(read_page(chapter)) == without_output(book.page(chapter, notebook, CHAPTERS)), (
        f"run python chapters/all.py --pages --only {int(chapter.name[:2])}"
    )


@each_chapter
def test_a_page_has_the_checks_and_the_figure_of_its_chapter(chapter):
    page = read_page(chapter)
    for line in expected_lines()[chapter.stem]:
        kind, _, text = line.partition(": ")
        assert (f"(../figures/{text})" if kind == "figure" else line) in page


@each_chapter
def test_all_links_of_a_page_lead_to_files(chapter):
    for path in re.findall(r"\]\(([^)#:]+)\)", read_page(chapter)):
        assert (book.PAGES / path).exists(), path


def test_what_a_cell_printed_becomes_text_tables_and_figures():
    assert book.blocks("a\nb\n| x | y |\n|---|---|\nfigure: 05_zoneout.png\nc\n") == [
        "```text\na\nb\n```",
        "| x | y |\n|---|---|",
        "![figure of the chapter](../figures/05_zoneout.png)",
        "```text\nc\n```",
    ]


def test_the_book_is_made_from_the_pages_and_has_no_raw_formulas(tmp_path, monkeypatch):
    pytest.importorskip("pypandoc", reason="pip install -r requirements-dev.txt")
    monkeypatch.setattr(book, "HTML", tmp_path / "html")
    book.write_html(CHAPTERS)
    assert {path.stem for path in book.HTML.glob("*.html")} == {"index", *(each.stem for each in CHAPTERS)}
    for path in book.HTML.glob("*.html"):
        text = path.read_text(encoding="utf-8")
        prose = re.sub(r"<pre.*?</pre>|<code.*?</code>|<annotation.*?</annotation>", "", text, flags=re.DOTALL)
        assert "$" not in prose and "\\" not in prose, path.name
        for link in re.findall(r'(?:href|src)="([^"#:]+)"', text):
            assert (path.parent / link).exists() or link.startswith("../../"), (path.name, link)


@pytest.mark.slow
def test_the_pages_can_be_made_anew(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIZONE_FIGURES", str(tmp_path))
    monkeypatch.setattr(book, "PAGES", tmp_path)
    book.write_pages(CHAPTERS, CHAPTERS[:5])
    for chapter in CHAPTERS[:5]:
        assert "check: " in read_page(chapter)
