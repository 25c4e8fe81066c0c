"""config.json records the commit of a run, if there is one."""

from __future__ import annotations

import subprocess

import pytest

import minizone
from minizone.runs.files import read_json
from minizone.runs.folder import commit
from tests.helpers.runs import run


def git(folder, *words):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    done = subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A checkout with a package, of which `minizone` is said to be."""
    file = tmp_path / "checkout" / "minizone" / "__init__.py"
    file.parent.mkdir(parents=True)
    file.write_text("")
    monkeypatch.setattr(minizone, "__file__", str(file))
    monkeypatch.delenv("GIT_DIR", raising=False)
    commit.cache_clear()
    yield file
    commit.cache_clear()


def test_the_config_has_the_commit_and_whether_files_have_changed_since(package, tmp_path):
    checkout = package.parents[1]
    git(checkout, "init", "-q")
    git(checkout, "add", ".")
    git(checkout, "commit", "-qm", "first")
    git(checkout, "tag", "-a", "v1", "-m", "v1")
    run(tmp_path / "clean", epochs=1)
    sha = git(checkout, "rev-parse", "HEAD")
    assert read_json(tmp_path / "clean" / "config.json")["commit"] == sha
    (checkout / "untracked").write_text("")
    commit.cache_clear()
    assert commit() == sha
    package.write_text("changed")
    commit.cache_clear()
    assert commit() == f"{sha}-dirty"


def test_without_a_repository_or_without_git_there_is_no_commit(package, monkeypatch):
    assert commit() is None
    checkout = package.parents[1]
    git(checkout, "init", "-q")  # without a commit
    commit.cache_clear()
    assert commit() is None
    monkeypatch.setenv("PATH", "")
    commit.cache_clear()
    assert commit() is None
