"""The commands of the README do what it shows."""

import contextlib
import io
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_examples_print_what_the_readme_says():
    examples = re.findall(r"```python\n(.*?)\n# ([^\n]*\n)```", README, re.DOTALL)
    assert len(examples) == README.count("```python") == 2
    for code, printed in examples:
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            exec(compile(code, "README.md", "exec"), {})
        assert said.getvalue() == printed


def test_every_file_that_the_readme_names_exists():
    for name in re.findall(r"`(minizone/[\w/]+(?:\.py|/))`", README) + re.findall(r"\]\(([\w./-]+)[#)]", README):
        assert (ROOT / name).exists(), name
