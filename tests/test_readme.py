"""What the README shows is what happens."""

import contextlib
import io
import re
from pathlib import Path

from minizone.runs.report import report

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_example_prints_what_the_readme_says():
    code, printed = re.search(r"```python\n(.*?)```\n\nprints\n\n```\n(.*?)```", README, re.DOTALL).groups()
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(code, "README.md", "exec"), {})
    assert said.getvalue() == printed


def test_every_table_is_the_output_of_the_command_above_it(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.syspath_prepend(ROOT / "benchmarks" / "conformance")
    import summary
    import tables

    programs = {"run.py report": lambda folder: report(Path(folder)), "benchmarks/tables.py": tables.main}
    programs["benchmarks/conformance/summary.py"] = summary.main
    pages = README + (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    found = re.findall(
        r"<!-- table: python (run.py report|benchmarks/[\w/]+\.py) (.+?) -->\n(.*?)<!-- end -->", pages, re.DOTALL
    )
    assert {program for program, _, _ in found} == programs.keys()
    assert len(found) == pages.count("<!-- table:") == pages.count("<!-- end -->")
    for program, arguments, table in found:
        expected = programs[program](*arguments.split())
        assert table.strip() == expected.strip(), f"run python {program} {arguments} again"


def test_every_file_that_the_readme_names_exists():
    for name in re.findall(r"`(minizone/[\w/]+(?:\.py|/))`", README) + re.findall(r"\]\(([\w./-]+\.png)\)", README):
        assert (ROOT / name).exists(), name
