"""benchmarks/gpu.py without a GPU: on the stand-in for CuPy, in this process."""

from __future__ import annotations

import importlib
import json
import sys

import numpy as np
import pytest

from minizone import backend
from minizone.backend import to_host
from minizone.kernels.gpu import cuda


@pytest.fixture
def tiny(gpu, monkeypatch):
    """Candidates of minizone that are no processes, and see the stand-in or the device as the GPU."""
    import harness
    import lstm
    import update

    class Local(harness.Candidate):
        def start(self, function, arguments, checkout, setup):
            self.function, self.arguments = function, arguments

        def build(self):
            module, _, name = self.function.rpartition(".")
            if module != "ours":
                self.error = "no peers here"
                return
            self.built, self.on_gpu = getattr(importlib.import_module(module), name)(*self.arguments), True

        def ask(self, repetitions):
            return harness.take_turn(self.built, repetitions)

        def stop(self):
            pass

    monkeypatch.setattr(lstm, "Candidate", Local)
    monkeypatch.setattr(update, "Candidate", Local)
    monkeypatch.setattr(harness, "TURN", 1e-4)
    monkeypatch.setattr(cuda, "graphs_allowed", True)


def run_gpu(monkeypatch, path, *flags):
    import gpu

    monkeypatch.setattr(sys, "argv", ["gpu.py", "--tiny", "--rounds", "2", "--json", str(path), *flags])
    assert gpu.main() == 0
    return json.loads(path.read_text())


def test_every_cell_and_task_is_timed_with_and_without_graphs(tiny, tmp_path, monkeypatch):
    import tables

    path = tmp_path / "gpu.json"
    found = run_gpu(monkeypatch, path)
    assert {"device", "date", "cupy", "cuda"} <= found["machine"].keys()
    assert [row.get("task", row.get("cell")) for row in found["results"]] == [
        "char-ptb", "pmnist", "word-ptb", "lstm", "gru", "rnn", "bn_lstm",
    ]  # fmt: skip
    for row in found["results"]:
        for name in ("minizone", "minizone, no graphs"):
            numbers = row["candidates"][name]
            assert len(numbers["seconds"]) == 2 and numbers["of_ours"] > 0
            assert numbers["host_ms"] > 0 and numbers["peak_mb"] > 0
        assert ("floor" in row["candidates"]) == ("cell" in row)
    assert "| lstm 5x3x2x4 |" in tables.main("layers", str(path))
    assert "| word-ptb |" in tables.main("updates", str(path))


def test_no_row_is_begun_after_the_minutes_are_over(tiny, monkeypatch, capsys):
    import gpu

    monkeypatch.setattr(sys, "argv", ["gpu.py", "--tiny", "--parts", "layers", "--max-minutes", "-1"])
    assert gpu.main() == 0
    assert "4 of 4 rows were not measured" in capsys.readouterr().out


def test_with_graphs_the_loops_are_replayed_and_without_they_are_launched(tiny, cupy):
    import harness
    import ours
    from problems import TINY_SHAPE

    replays = {}
    for graphs in (True, False):
        built = ours.layer("lstm", TINY_SHAPE, "gpu", graphs)
        for _ in range(2):
            built.repeat()
        with cupy.counting() as counts:
            harness.take_turn(built, 3)
        replays[graphs] = counts.graph_launches
    assert replays == {True: 8, False: 0}  # forward and back, of one repetition that is not timed and three that are


def test_the_floor_is_all_products_of_the_layer_in_one_graph(tiny, cupy):
    import ours
    from problems import TINY_SHAPE

    T = TINY_SHAPE[0]
    floor = ours.floor("lstm", TINY_SHAPE, "gpu")
    with cupy.counting() as counts:
        floor.repeat()
    assert (counts.graph_launches, counts.replayed) == (1, 2 * T + 3)


@pytest.mark.parametrize("task", ["char-ptb", "pmnist", "word-ptb"])
def test_an_update_changes_the_weights_and_the_host_does_not_wait(tiny, cupy, task):
    import ours
    from problems import TINY_TASKS

    built = ours.update(task, TINY_TASKS[task], "gpu")
    weight = built.holds.output.W
    before = to_host(weight.data).copy()
    for _ in range(3):
        built.repeat()
    with cupy.counting() as counts:
        built.repeat()
    assert counts.to_host == 0
    after = to_host(weight.data)
    assert np.isfinite(after).all() and (after != before).any()


def test_without_a_gpu_there_is_one_sentence_and_status_2(monkeypatch, capsys):
    import gpu

    monkeypatch.setattr(backend, "cupy", None)
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    with pytest.raises(SystemExit) as end:
        gpu.main()
    said = capsys.readouterr()
    assert end.value.code == 2 and not said.out
    assert said.err == "gpu.py: device gpu needs CuPy: pip install -r requirements-gpu.txt, or use --device cpu\n"
