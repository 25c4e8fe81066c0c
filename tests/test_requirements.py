"""Both ways to install minizone, `pip install -r requirements.txt` and `pip install .`, install the same packages."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def requirements(name: str) -> set[str]:
    """The packages that a requirements file lists itself."""
    lines = (ROOT / name).read_text().splitlines()
    return {line for line in lines if line and not line.startswith(("#", "-r"))}


def test_requirements_and_pyproject_list_the_same_packages():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert requirements("requirements.txt") == {*project["dependencies"], *extras["test"]}
    assert requirements("requirements-gpu.txt") == set(extras["gpu"])
