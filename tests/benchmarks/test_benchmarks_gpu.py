"""benchmarks/gpu.py without a GPU: the stand-in for CuPy runs all but PyTorch, whose tests are beside this file."""

from __future__ import annotations

import json
import os
import signal
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from minizone import backend
from minizone.backend import to_host
from minizone.kernels.gpu import cuda

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import gpu as program
import gpu_ours
import tables
from gpu_workers import Bench, Candidate, PeerError, Worker, Workers, difference, one_line, time_together

SHAPE = (5, 3, 2, 4)
TASKS = {"char-ptb": (5, 3, 7, 4, 1, 0.5, 0.05), "pmnist": (9, 3, 10, 4, 1, 0.15, 0.15),
         "word-ptb": (4, 3, 11, 5, 2, 0.25, 0.025)}  # fmt: skip


# ---- minizone's side, on the stand-in for CuPy


class Local:
    """A worker that is no process; its PyTorch fails where a name says "graphed"."""

    stopped = 0

    def __init__(self, library):
        self.library, self.bench = library, None

    def ask(self, method, *arguments, seconds):
        if self.library == "torch":
            return self.torch(method, *arguments)
        try:
            self.bench = self.bench or Bench(self.library)
            return getattr(self.bench, method)(*arguments)
        except Exception as error:
            raise PeerError(one_line(error)) from None

    def torch(self, method, *arguments):
        if method == "build" and "graphed" in arguments[0]:
            raise PeerError("RuntimeError: no graphs today")
        answers = {"describe": {"torch": "2.0"}, "build": ({}, {}), "time": (2.0, 1.0), "clear": None}
        return (answers | {"memory": {"held_mib": 1.0, "taken_mib": 2.0}})[method]

    def stop(self):
        Local.stopped += 1


@pytest.fixture
def tiny(gpu, monkeypatch):
    """Problems that a CPU can do, with the stand-in or the device as the GPU."""
    layers = [("lstm", SHAPE), ("gru", SHAPE), ("rnn", SHAPE), ("bn_lstm", SHAPE), ("lstm", (6, 2, 1, 3))]
    monkeypatch.setattr(program, "LAYERS", layers)
    monkeypatch.setattr(program, "TASKS", TASKS)
    monkeypatch.setattr(gpu_ours, "SIZES", {"char-ptb": 200, "pmnist": 20, "word-ptb": 200})
    monkeypatch.setattr(gpu_ours.Gpu.bandwidth, "__defaults__", (2**12,))
    monkeypatch.setattr("gpu_workers.TURN", 0.1)
    monkeypatch.setattr(cuda, "graphs_allowed", True)


def measured(path, *flags, says=None):
    settings = program.Settings(json=str(path), rounds=2, **dict(flags))
    lines = []
    program.run(settings, Workers(Local), lambda *line, **_: lines.append(*line))
    if says:
        assert any(says in line for line in lines), lines
    return json.loads(path.read_text())


def test_every_row_is_measured_and_minizone_has_its_own_numbers_with_and_without_graphs(tiny, tmp_path):
    found = measured(tmp_path / "gpu.json")
    assert {"device", "memory_gib", "driver", "cuda", "cupy", "torch", "date", "bandwidth_gb_s"} < found.keys()
    assert [row["part"] for row in found["rows"]] == 5 * ["layers"] + 3 * ["updates"] + 3 * ["memory"]
    for row in found["rows"]:
        for name, each in row["candidates"].items():
            if "graphed" in name:
                assert each == {"error": "RuntimeError: no graphs today"}
            elif row["part"] == "memory":
                assert each["held_mib"] > 0
            elif name != "floor: bytes":
                assert each["n"] == 2 == len(each["ms"]) and each["quartiles_ms"][0] <= each["median_ms"]
                assert each["median_ms"] > 0 and each["of_ours"] > 0
        if row["part"] == "layers":
            assert {"minizone", "minizone, no graphs", "floor: products", "floor: bytes"} < row["candidates"].keys()
            assert row["candidates"]["minizone, no graphs"]["difference"] < 1e-6
    assert found["rows"][5]["candidates"]["minizone"]["updates_per_epoch"] == 11  # 33 chunks of 6 at most
    assert "| lstm | 5x3x2x4 |" in tables.gpu(found)


def test_with_graphs_the_loops_are_played_back_and_without_they_are_launched(tiny, cupy):
    played = {}
    for graphs in (True, False):
        bench = Bench("cupy")
        bench.build("minizone", "gpu_ours.layer", ("lstm", graphs, SHAPE))
        with cupy.counting() as counts:
            bench.time("minizone", 3)
        played[graphs] = counts.graph_launches
        assert counts.gemms if not graphs else counts.replayed
    assert played == {True: 8, False: 0}  # forward and back, of the repetition before and three that are timed


def test_nothing_is_left_of_a_row_when_the_next_one_begins(tiny, cupy):
    bench = Bench("cupy")
    for function, arguments in (("gpu_ours.layer", ("lstm", True, SHAPE)), ("gpu_ours.floor", ("lstm", SHAPE))):
        bench.clear()  # cuBLAS keeps its workspace
        before = cupy.get_default_memory_pool().used_bytes()
        bench.build("one", function, arguments)
        assert cupy.get_default_memory_pool().used_bytes() > before
    bench.clear()
    assert cupy.get_default_memory_pool().used_bytes() == before


def test_the_floor_is_all_products_of_the_layer_in_one_graph(tiny, cupy):
    T, B, D, H = SHAPE
    for cell, groups, gates in (("lstm", 1, 4), ("gru", 2, 3), ("rnn", 1, 1)):
        floor = gpu_ours.floor(cell, SHAPE)
        with cupy.counting() as counts:
            floor.repeat()
        assert (counts.graph_launches, counts.replayed) == (1, 2 * T * groups + groups + 2)
        assert gpu_ours.least_bytes(cell, *SHAPE) > 4 * (2 * gates * H * (H + D) + 2 * (gates + 1) * T * B * H)


def test_the_layer_on_the_device_has_the_numbers_of_the_cpu(tiny):
    for cell in ("lstm", "gru", "rnn", "bn_lstm"):
        here, there = (gpu_ours.layer(cell, True, SHAPE, device, "float64").check() for device in ("cpu", "gpu"))
        assert difference(there, here) < 1e-10


@pytest.mark.parametrize("task", TASKS)
def test_an_update_looks_at_the_losses_as_seldom_as_a_run(tiny, cupy, task):
    built = gpu_ours.update(task, TASKS[task], 200 if task != "pmnist" else 20)
    look = backend.Device("gpu").updates_per_look
    model = built.holds.model
    before = to_host(model.output.W.data).copy()
    for _ in range(look - 1):
        built.repeat()
    with cupy.counting() as counts:
        built.repeat()
        built.repeat()
    assert counts.to_host == 1
    assert np.isfinite(to_host(model.output.W.data)).all() and (to_host(model.output.W.data) != before).any()


def test_an_error_of_minizone_is_a_line_too(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_ours, "layer", lambda *_: 1 / 0)
    (row,) = measured(tmp_path / "gpu.json", ("parts", "layers"), ("only", ("gru",)), says="left out")["rows"]
    assert row["candidates"]["minizone"] == {"error": "ZeroDivisionError: division by zero"}
    assert row["candidates"]["floor: products"]["of_ours"] is None
    tables.gpu(json.loads((tmp_path / "gpu.json").read_text()))
    monkeypatch.undo()


def test_a_failure_rebuilds_the_others_of_its_worker():
    built, now = [], []

    class Fragile:
        def __init__(self, library):
            self.names = set()

        def ask(self, method, name, *arguments, seconds):
            if method == "build":
                built.append(name)
                self.names.add(name)
                return {}, {}
            now.append(name)
            assert name in self.names, f"{name} is asked of a worker that has not built it"
            if name == "breaks" and now.count(name) == 3:
                raise PeerError("its process died")
            return 100.0, 1.0

        def stop(self):
            self.names.clear()

    three = [Candidate(name, "cupy", "", ()) for name in ("one", "breaks", "two")]
    time_together(three, Workers(Fragile), 4)
    assert [c.error for c in three] == [None, "its process died", None]
    assert [len(c.ms) for c in three] == [4, 1, 4] and built == ["one", "breaks", "two", "one", "two"]


# ---- the file


def test_a_run_goes_on_where_the_file_stops(tiny, tmp_path):
    path = tmp_path / "new" / "gpu.json"
    first = measured(path, ("parts", "layers"), ("only", ("gru", "6,2,1,3")))
    assert [row["what"] for row in first["rows"]] == ["gru", "lstm"]
    second = measured(path, ("parts", "layers"), says="2 of 5 rows are in")
    assert second["rows"][:2] == first["rows"] and len(second["rows"]) == 5
    assert second["bandwidth_gb_s"] == first["bandwidth_gb_s"]
    again = measured(path, ("parts", "layers"), ("only", ("gru",)), ("again", True))
    assert len(again["rows"]) == 5 and again["rows"][-1]["what"] == "gru"
    assert again["rows"][-1] != first["rows"][0] and again["rows"][:-1] == second["rows"][1:]


def test_a_row_in_which_minizone_failed_is_measured_again(tiny, tmp_path):
    path = tmp_path / "gpu.json"
    found = measured(path, ("parts", "layers"), ("only", ("gru",)))
    found["rows"][0]["candidates"]["minizone"] = {"error": "MemoryError: "}
    path.write_text(json.dumps(found))
    found = measured(path, ("parts", "layers"), ("only", ("gru",)))
    assert len(found["rows"]) == 1 and "median_ms" in found["rows"][0]["candidates"]["minizone"]


def test_no_row_is_begun_after_the_minutes_are_over(tiny, tmp_path):
    flags = ("parts", "layers"), ("max_minutes", 0.0)
    lines = []
    found = program.run(program.Settings(**dict(flags)), Workers(Local), lambda *line, **_: lines.append(*line))
    assert not found["rows"] and "5 rows are left" in lines[-1]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [("{", "cannot be read"), ("[]", "was not written by"), ('{"device": "another", "rows": []}', "is of a another")],
)
def test_a_file_that_is_not_of_this_device_is_left_alone(tiny, tmp_path, capsys, content, complaint):
    path = tmp_path / "gpu.json"
    path.write_text(content)
    assert program.main(["--json", str(path)], Local) == 2
    assert complaint in capsys.readouterr().err and path.read_text() == content


# ---- the command


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [(["--parts", "layer"], "'layer' is none of"), (["--only", "1,2,3,4"], "none of"), (["--rounds", "0"], "--rounds")],
)
def test_a_word_that_names_nothing_is_a_sentence(tiny, capsys, flags, complaint):
    assert program.main(flags, Local) == 2
    assert complaint in capsys.readouterr().err


def test_without_a_gpu_there_is_one_sentence_and_status_2(monkeypatch, capsys):
    monkeypatch.setattr(backend, "cupy", None)
    assert program.main([]) == 2
    said = capsys.readouterr()
    assert said.err == "gpu.py: device gpu needs CuPy: pip install -r requirements-gpu.txt\n" and not said.out


def test_a_worker_that_fails_is_late_or_dies_is_a_line(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    worker = Worker("no such library")
    with pytest.raises(PeerError, match="no answer within 0 s"):
        worker.ask("describe", seconds=0.0)
    worker.stop()  # its answer may still come
    worker = Worker("no such library")
    with pytest.raises(PeerError, match="KeyError: 'no such library'"):
        worker.ask("describe")
    os.kill(worker.process.pid, signal.SIGKILL)
    with pytest.raises(PeerError, match="its process died"):
        [worker.ask("describe") for _ in range(3)]
    worker.stop()
    assert not worker.process.is_alive()


# ---- the tables

LAYER = {"minizone": {"median_ms": 2.0, "of_ours": 1.0}, "minizone, no graphs": {"median_ms": 6.0, "of_ours": 3.0},
         "torch loop, where": {"median_ms": 20.0, "of_ours": 10.0}, "torch loop, lerp": {"error": "OSError: no"},
         "torch LSTMCell, where": {"median_ms": 15.0, "of_ours": 7.5}, "cuDNN": {"median_ms": 1.3, "of_ours": 0.65},
         "graphed torch loop, where": {"median_ms": 5.0, "of_ours": 2.5},
         "cuDNN, TF32": {"median_ms": 1.0, "of_ours": 0.5}}  # fmt: skip


def test_the_tables_have_the_best_of_each_kind_and_the_targets():
    update = {"minizone": {"median_ms": 10.0, "of_ours": 1.0, "updates_per_epoch": 1501}}
    memory = {"minizone": {"held_mib": 1000.0, "taken_mib": 2000.0}}
    found = {
        "device": "a device", "memory_gib": 8, "driver": "1.2", "cuda": "13.0", "cupy": "14", "torch": None,
        "date": "2000-01-01", "bandwidth_gb_s": 1000.0,
        "rows": [
            {"part": "layers", "what": "lstm", "shape": [100, 32, 50, 1000], "candidates": LAYER},
            {"part": "compiled", "what": "lstm", "shape": [100, 32, 50, 1000], "candidates": {
                "minizone": {"error": "unlike the one above"}, "compiled torch loop, where": {"of_ours": 4.0}}},
            {"part": "updates", "what": "char-ptb", "shape": [99], "candidates": update},
            {"part": "memory", "what": "char-ptb", "shape": [99], "candidates": memory},
        ],
    }  # fmt: skip
    table = tables.gpu(found)
    row = "| lstm | 100x32x50x1000 | 2 ms | 3.00 | 7.50 < 8 | 2.50 | 4.00 | 0.65 ≥ 0.6 | 0.50 |  |  |"
    assert row in table
    assert "| char-ptb | 10 ms | 100.0 | 15.0 s > 15 s |  |  |" in table
    assert "| char-ptb | 1,000 MiB | 2,000 MiB |  |  |  |  |" in table
    assert "- layers, lstm 100x32x50x1000, torch loop, lerp: OSError: no" in table
    assert tables.least(LAYER, "minizone", "of_ours") == 1 and tables.least({}, "torch", "of_ours") is None


def test_the_line_over_the_tables_says_where_they_were_measured(tmp_path):
    head = {"device": "a device", "memory_gib": 8, "driver": "1.2", "cuda": "13.0", "cupy": "14", "torch": "2.0"}
    path = tmp_path / "gpu.json"
    path.write_text(json.dumps(head | {"date": "2000-01-01", "bandwidth_gb_s": 1000.4, "rows": []}))
    first = tables.main("gpu", str(path)).splitlines()[0]
    assert first == "a device, 8 GiB, CUDA 13.0, driver 1.2, CuPy 14, PyTorch 2.0, copies at 1,000 GB/s, 2000-01-01"


def test_the_targets_are_printed_beside_the_row():
    lines = []
    row = {"part": "layers", "what": "lstm", "shape": [100, 32, 50, 1000], "candidates": LAYER}
    program.show(row, partial(lines.append))
    assert "  target, torch / ours at least 8: 7.50, missed" in lines
    assert "  target, cuDNN / ours at least 0.6: 0.65, reached" in lines
