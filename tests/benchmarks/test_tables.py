"""The tables have the fastest peer of each kind, and several machines side by side."""

from __future__ import annotations

import json


def written(path, machine, results):
    path.write_text(json.dumps({"machine": machine, "results": results}))
    return str(path)


AMD = {"device": "AMD EPYC, 2 cores", "numpy": "2.4", "blas": []}
INTEL = {"processor": "Intel(R) Xeon(R)", "cores": 2, "blas": []}  # as older files have it


def row(**times):
    names = {"loop": "torch loop", "cell": "LSTMCell", "floor": "floor", "jax": "jax scan"}
    peers = {names[name]: {"median_ms": 1.0, "of_ours": ratio} for name, ratio in times.items()}
    candidates = {"minizone": {"median_ms": 2.5, "of_ours": 1.0}} | peers
    return {"cell": "lstm", "shape": [5, 4, 3, 2], "candidates": candidates}


def test_the_fastest_of_torch_s_loops_counts_and_what_failed_is_left_out(tmp_path):
    import tables

    result = row(loop=3.0, cell=2.0, floor=0.5)
    result["candidates"]["jax scan"] = {"error": "ImportError: no"}
    table = tables.main("layers", written(tmp_path / "a.json", AMD, [result]))
    assert table == (
        "- AMD EPYC, 2 cores, numpy 2.4\n\n"
        "| cell, T x B x D x H | minizone | torch loop | floor |\n| --- | --- | --- | --- |\n"
        "| lstm 5x4x3x2 | 2.5 ms | 2.00x | 0.50x |\n"
    )


def test_two_machines_stand_side_by_side(tmp_path):
    import tables

    first = written(tmp_path / "a.json", AMD, [row(loop=3.0), row(loop=1.0) | {"shape": [1, 1, 1, 1]}])
    second = written(tmp_path / "b.json", INTEL, [row(loop=1.5, jax=1.25)])
    lines = tables.main("layers", first, second).splitlines()
    assert lines[:2] == ["- AMD EPYC, 2 cores, numpy 2.4", "- Intel(R) Xeon(R), 2 cores"]
    heading = ["cell, T x B x D x H", "minizone, AMD", "minizone, Intel", "torch loop, AMD", "torch loop, Intel"]
    assert lines[3] == "| " + " | ".join([*heading, "jax scan, Intel"]) + " |"
    assert lines[5:] == [
        "| lstm 5x4x3x2 | 2.5 ms | 2.5 ms | 3.00x | 1.50x | 1.25x |",
        "| lstm 1x1x1x1 | 2.5 ms |  | 1.00x |  |  |",
    ]


def test_the_memory_of_updates_stands_beside_their_time(tmp_path):
    import tables

    candidates = {
        "minizone": {"median_ms": 10.0, "of_ours": 1.0, "peak_mb": 1000.4},
        "torch loop": {"median_ms": 30.0, "of_ours": 3.0, "peak_mb": 2000.0},
    }
    path = written(tmp_path / "a.json", AMD, [{"task": "pmnist", "shape": [9], "candidates": candidates}])
    assert "| pmnist | 10 ms | 3.00x | 1,000 MB | 2,000 MB |" in tables.main("updates", path)


def test_the_short_table_has_the_lstms_of_the_paper_alone(tmp_path):
    import tables

    results = [{**row(loop=3.0), "shape": [784, 100, 1, 100]}, row(loop=2.0)]
    lines = tables.main("paper", written(tmp_path / "a.json", AMD, results)).splitlines()
    assert lines[2:] == [
        "| one sequence, forward and backward | minizone | torch loop |",
        "| --- | --- | --- |",
        "| permuted MNIST, 100 units | 2.5 ms | 3.00x |",
    ]
