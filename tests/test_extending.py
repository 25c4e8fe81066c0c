"""The examples of docs/extending.md run unchanged."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from minizone.runs.files import read_json, read_rows

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
FILES = {name: text for text, name in re.findall(r"```python\n(# (\w+\.py)\n.*?)```", PAGE, re.DOTALL)}
TEXT = "--hidden-size 12 --batch-size 10 --seq-len 11 --train-symbols 1500 --eval-symbols 300 --epochs 1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the files of the page."""
    made = tmp_path_factory.mktemp("examples")
    for name, text in FILES.items():
        (made / name).write_text(text)
    return made


def run(folder, line, status=0):
    """Run a line such as "slow.py slow --epochs 1" in the folder; returns what it prints."""
    done = subprocess.run(
        [sys.executable, *shlex.split(line)],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "80"},
        timeout=120,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_an_example_is_at_most_40_lines_of_code():
    assert len(FILES) == PAGE.count("```python") == 4
    for name, text in FILES.items():
        assert len([line for line in text.splitlines()[1:] if line]) <= 40, name


def test_the_commands_of_the_page_name_its_files_and_their_tasks():
    commands = re.findall(r"^    python (.+)$", PAGE, re.MULTILINE)
    assert len(commands) >= 3
    for command in commands:
        name, task, *_ = command.split()
        assert f'task = "{task}"' in FILES[name] or f'= "{task}", ' in FILES[name]


def test_a_regularizer_is_a_flag_with_help_and_changes_the_run(folder):
    for slowness in ("0", "50"):
        run(folder, f"slow.py slow {TEXT} --dataset manual --slowness {slowness} --out slow{slowness}")
    plain, slow = (read_rows(folder / f"slow{slowness}" / "metrics.jsonl")[0] for slowness in ("0", "50"))
    assert plain["valid_bpc"] != slow["valid_bpc"] and plain["grad_norm"] < slow["grad_norm"]
    page = " ".join(run(folder, "slow.py slow --help").replace("│", "").split())
    assert "slow options" in page and "--slowness FLOAT Weight of the mean of (h_t - h_{t-1})^2: temporal" in page
    assert "--slowness must be at least 0" in run(folder, "slow.py slow --slowness -1", status=2)
    run(folder, "slow.py resume slow50 --epochs 2")
    assert len(read_rows(folder / "slow50" / "metrics.jsonl")) == 2


def test_a_data_set_is_named_and_verified_by_its_sha256(folder):
    run(folder, f"source.py source {TEXT} --modules 10 --out source")
    data = read_json(folder / "source" / "config.json")["dataset"]
    assert data["name"].startswith("source of 10 Python modules, first 1,500 characters") and len(data["sha256"]) == 10


def test_an_experiment_learns_and_has_the_flags_of_recurrent_layers(folder):
    run(folder, "recall.py recall --z-prob-states 0.1 --epochs 4 --out recall")
    errors = [row["valid_error"] for row in read_rows(folder / "recall" / "metrics.jsonl")]
    assert errors[0] > 0.3 and errors[-1] < 0.1, errors
    (folder / "grid.toml").write_text('task = "recall"\nseeds = [1, 2]\nflags = {epochs = 1, hidden-size = 8}\n')
    assert run(folder, "recall.py sweep grid.toml").count(": finished\n") == 2
    assert "has no preset 'paper'" in run(folder, "recall.py recall --preset paper", status=2)
    results = [
        re.findall(r"of 1,000 first symbols, \d+ were not remembered", run(folder, "from_python.py")) for _ in "12"
    ]
    assert len(results[0]) == 1 and results[0] == results[1]
    other = subprocess.run(
        [sys.executable, ROOT / "run.py", "resume", folder / "recall"], capture_output=True, text=True, timeout=120
    )
    assert other.returncode == 2 and "'recall', which run.py does not have: run the file that adds" in other.stderr
