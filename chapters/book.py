"""The chapters as pages: Markdown for GitHub in chapters/pages/, and the whole book as a folder of HTML.

`python chapters/all.py --pages` and `--html`. A page has the prose, the code, what the code printed and the figure.
Times in what was printed are those of one machine.
"""

from __future__ import annotations

import re
import shutil
from functools import partial
from pathlib import Path

import jupytext
import shared
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell, new_notebook

PAGES = shared.HERE / "pages"
HTML = shared.HERE / "html"  # git ignores it
LINK = re.compile(r"(!?\[[^\]]*\])\(([^)#:]+)\)")  # [text](path), not to an address or into the same page
FIGURE = re.compile(r"^figure: (\w+\.png)$", re.MULTILINE)
PLAIN = {"jupytext": {"notebook_metadata_filter": "-all", "cell_metadata_filter": "-all"}}
STYLE = """
body { max-width: 64rem; margin: 2rem auto; padding: 0 1rem; font: 1rem/1.6 Georgia, serif; color: #222; }
p, ul, ol { max-width: 46rem; }
pre { overflow-x: auto; padding: 0.6rem 0.8rem; background: #f6f6f4; font-size: 0.8rem; line-height: 1.45; }
code { font-size: 0.85em; overflow-wrap: anywhere; }
pre code { font-size: inherit; overflow-wrap: normal; }
img { max-width: 100%; }
table { display: block; overflow-x: auto; border-collapse: collapse; font-size: 0.85rem; }
th, td { padding: 0.2rem 0.6rem; border-bottom: 1px solid #ddd; text-align: left; }
math[display="block"] { overflow-x: auto; overflow-y: hidden; padding: 0.2rem 0; }
"""


# ---- pages


def executed(chapter: Path) -> NotebookNode:
    """The notebook of a chapter after it has run with its defaults."""
    from nbclient import NotebookClient

    notebook = jupytext.read(chapter)
    NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": str(shared.HERE)}}).execute()
    return notebook


def page(chapter: Path, notebook: NotebookNode, chapters: list[Path]) -> str:
    """The Markdown of a chapter: its cells, and after each of them what it printed."""
    links = navigation(chapter, chapters)
    cells = [new_markdown_cell(links)]
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cells.append(new_markdown_cell(LINK.sub(moved, cell.source)))
            continue
        cells.append(cell)
        printed = "".join(output.get("text", "") for output in cell.outputs if output.output_type == "stream")
        cells += [new_markdown_cell(text) for text in blocks(printed)]
    return jupytext.writes(new_notebook(cells=[*cells, new_markdown_cell(links)], metadata=PLAIN), "md")


def blocks(printed: str) -> list[str]:
    """What a cell printed as blocks of Markdown: text, tables and figures."""
    found = []
    for part in re.split(r"(^figure: \w+\.png\n|(?:^\|.*\n)+)", printed, flags=re.MULTILINE):
        if figure := FIGURE.match(part.strip()):
            found.append(f"![figure of the chapter](../figures/{figure[1]})")
        elif part.startswith("|"):
            found.append(part.strip())
        elif part.strip():
            found.append(f"```text\n{part.strip(chr(10))}\n```")
    return found


def moved(link: re.Match[str]) -> str:
    """A link of a chapter as its page has it: one folder further down, and to the pages of other chapters."""
    text, path = link.groups()
    if re.fullmatch(r"\d\d_\w+\.py", path):
        return f"{text}({path.removesuffix('.py')}.md)"
    return f"{text}(../{path})"


def navigation(chapter: Path, chapters: list[Path]) -> str:
    """Links to the pages before and after, to all of them, to the script and to the answers."""
    place = chapters.index(chapter)
    links = [f"[Chapter {place}]({chapters[place - 1].stem}.md)"] if place else []
    links += ["[all chapters](../README.md)", f"[script](../{chapter.name})", f"[answers](../answers/{chapter.name})"]
    if place + 1 < len(chapters):
        links.append(f"[Chapter {place + 2}]({chapters[place + 1].stem}.md)")
    return " | ".join(links)


def write_pages(chapters: list[Path], run: list[Path]) -> None:
    """Run the chapters ``run`` and write their pages."""
    PAGES.mkdir(exist_ok=True)
    for chapter in run:
        (PAGES / f"{chapter.stem}.md").write_text(page(chapter, executed(chapter), chapters), encoding="utf-8")
        print(f"chapters/pages/{chapter.stem}.md")


# ---- the book


def write_html(chapters: list[Path]) -> None:
    """Write the pages as HTML that needs no network: the formulas are MathML, the figures are beside them."""
    import pypandoc

    shutil.rmtree(HTML, ignore_errors=True)
    HTML.mkdir()
    shutil.copytree(shared.HERE / "figures", HTML / "figures")
    (HTML / "style.css").write_text(STYLE)
    sources = {"index": shared.HERE / "README.md", **{each.stem: PAGES / f"{each.stem}.md" for each in chapters}}
    for name, source in sources.items():
        text = LINK.sub(partial(in_book, source), source.read_text(encoding="utf-8"))
        title = re.search(r"^# (.+)$", text, re.MULTILINE)
        pypandoc.convert_text(
            text,
            "html",
            format="gfm+tex_math_dollars",
            outputfile=str(HTML / f"{name}.html"),
            extra_args=[
                "--standalone",
                "--mathml",
                "--css=style.css",
                f"--metadata=pagetitle:{title[1] if title else name}",
            ],
        )
    print(f"chapters/html/index.html and {len(chapters)} chapters")


def in_book(source: Path, link: re.Match[str]) -> str:
    """A link of a page as the book has it: to its own files, or to those of the repository."""
    text, path = link.groups()
    target = (source.parent / path).resolve()
    if target.parent == PAGES or target == shared.HERE / "README.md":
        return f"{text}({'index' if target.name == 'README.md' else target.stem}.html)"
    if target.parent == shared.HERE / "figures":
        return f"{text}(figures/{target.name})"
    if text.startswith("!"):  # a figure of results/
        shutil.copy(target, HTML / "figures" / f"{target.parent.name}-{target.name}")
        return f"{text}(figures/{target.parent.name}-{target.name})"
    return f"{text}(../../{target.relative_to(shared.HERE.parent)})"
