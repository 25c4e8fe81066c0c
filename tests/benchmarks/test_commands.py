"""The benchmarks run without their optional peers, and write what they print."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def benchmark(name: str, *flags: str, status: int = 0) -> str:
    command = [sys.executable, f"benchmarks/{name}.py", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr


def test_layers_are_timed_beside_the_floor(tmp_path):
    out = tmp_path / "new" / "layer.json"
    printed = benchmark("lstm", "--cell", "bn_lstm", "--rounds", "2", "--shapes", "3,4,2,5", "--json", str(out))
    found = json.loads(out.read_text())
    (result,) = found["results"]
    assert {"device", "date", "numpy", "blas"} <= found["machine"].keys()
    assert result["cell"] == "bn_lstm" and result["shape"] == [3, 4, 2, 5]
    for name in ("minizone", "minizone lstm", "floor"):
        numbers = result["candidates"][name]
        assert len(numbers["seconds"]) == 2 and min(numbers["seconds"]) > 0
        assert numbers["of_ours"] > 0 and numbers["peak_mb"] > 1
        assert name in printed
    assert result["candidates"]["minizone"]["of_ours"] == 1


def test_updates_are_timed(tmp_path):
    out = tmp_path / "update.json"
    benchmark("update", "--tiny", "--rounds", "1", "--tasks", "word-ptb", "pmnist", "--json", str(out))
    results = json.loads(out.read_text())["results"]
    assert [result["task"] for result in results] == ["word-ptb", "pmnist"]
    for result in results:
        assert result["candidates"]["minizone"]["median_ms"] > 0
        assert {"torch loop"} < result["candidates"].keys()


def test_tricks_are_timed_on_layers_and_on_updates(tmp_path, monkeypatch):
    import tricks

    of_a_layer, of_an_update = tricks.TRICKS[0], next(t for t in tricks.TRICKS if isinstance(t.problem, str))
    monkeypatch.setattr(tricks, "TRICKS", (of_a_layer, of_an_update))
    out = tmp_path / "tricks.json"
    monkeypatch.setattr(sys, "argv", ["tricks.py", "--tiny", "--rounds", "1", "--json", str(out)])
    tricks.main()
    found = json.loads(out.read_text())["tricks"]
    assert list(found) == [of_a_layer.name, of_an_update.name]
    assert all(numbers["of"] == numbers["without_ms"] / numbers["with_ms"] for numbers in found.values())


@pytest.mark.parametrize(("name", "flags"), [("lstm", []), ("update", ["--tasks", "char-ptb"])])
def test_two_checkouts_are_timed_against_each_other(tmp_path, name, flags):
    out = tmp_path / "both.json"
    benchmark(name, "--tiny", "--rounds", "2", "--against", str(ROOT), "--json", str(out), *flags)
    for result in json.loads(out.read_text())["results"]:
        names = ["minizone", f"minizone of {ROOT}"]
        assert list(result["candidates"]) == names
        assert all(result["candidates"][each]["of_ours"] > 0 for each in names)


def test_the_other_checkout_is_another_program(tmp_path):
    (tmp_path / "minizone").mkdir()
    (tmp_path / "minizone" / "__init__.py").write_text("raise RuntimeError('this is the other checkout')")
    printed = benchmark("lstm", "--tiny", "--rounds", "1", "--against", str(tmp_path), status=1)
    assert f"minizone of {tmp_path}" in printed and "RuntimeError: this is the other checkout" in printed


def test_a_folder_without_minizone_is_not_timed_as_if_it_were_another_checkout(tmp_path):
    flags = "--tiny", "--rounds", "1", "--against", str(tmp_path)
    assert "minizone was imported from" in benchmark("lstm", *flags, status=1)


def test_the_setup_is_run_in_the_other_checkout_alone():
    flags = "--tiny", "--rounds", "1", "--against", str(ROOT), "--setup", "import minizone; minizone.lstm = None"
    printed = benchmark("lstm", *flags, status=1)
    assert printed.count("left out: TypeError: 'NoneType' object is not callable") == 1


def test_a_shape_that_is_none_is_a_sentence():
    assert "--shapes must be T,B,D,H, for example" in benchmark("lstm", "--shapes", "1,2,3", status=2)


def test_a_candidate_that_fails_or_dies_does_not_end_the_others():
    import harness
    from problems import TINY_SHAPE

    def candidate(name, setup=""):
        return harness.Candidate(name, "ours.layer", "rnn", TINY_SHAPE, setup=setup)

    made = [
        candidate("whole", "import sys; assert not {'numpy', 'minizone'} & sys.modules.keys()"),  # a setup is first
        candidate("fails", "raise ValueError('no')"),
        candidate("dies", "import os; os._exit(1)"),
        candidate("dies later", "import os, minizone, itertools; minizone.rnn = lambda *_, n=itertools.count(), "
                  "f=minizone.rnn, **k: f(*_, **k) if next(n) < 4 else os._exit(1)"),
    ]  # fmt: skip
    found = harness.compare(made, rounds=3)
    assert len(found["whole"]["seconds"]) == 3
    assert found["fails"] == {"error": "ValueError: no"}
    assert found["dies"] == found["dies later"] == {"error": "its process died"}
    assert not any(each.process.is_alive() for each in made)
