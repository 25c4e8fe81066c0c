"""What the README shows is what happens."""

import contextlib
import io
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_example_prints_what_the_readme_says():
    code, printed = re.search(r"```python\n(.*?)```\n\nprints\n\n```\n(.*?)```", README, re.DOTALL).groups()
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(code, "README.md", "exec"), {})
    assert said.getvalue() == printed


def test_every_file_that_the_readme_names_exists():
    for name in re.findall(r"`(minizone/[\w/]+(?:\.py|/))`", README) + re.findall(r"\]\(([\w./-]+\.png)\)", README):
        assert (ROOT / name).exists(), name
