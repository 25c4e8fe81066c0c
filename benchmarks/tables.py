"""The tables of benchmarks/README.md, from what the benchmarks wrote.

python benchmarks/tables.py layers results/cpu/lstm.json
python benchmarks/tables.py updates results/cpu/update.json
python benchmarks/tables.py memory results/cpu/memory.json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

GOALS = {  # of lstm: torch loop, jax, torch.nn and floor, each divided by ours
    (100, 32, 50, 1000): (2.8, 1.6, 1.0, 0.85),
    (784, 100, 1, 100): (3.5, 3, 1.9, 0.65),
    (35, 20, 1500, 1500): (2.4, 1.3, 1.1, 0.85),
    (180, 128, 27, 256): (3, 2.7, 1.4, 0.65),
    (100, 32, 50, 256): (3, 2.5, 0.8, 0.65),
}


def layers(found: dict[str, Any]) -> str:
    """Milliseconds of minizone, and how many times longer the others take; of torch's loops the best one."""
    rows = []
    for result in found["results"]:
        times = {name: c["of_ours"] for name, c in result["candidates"].items()}
        loops = [times[name] for name in times if name.startswith(("torch loop", "LSTMCell"))]
        ratios = [min(loops, default=None), *(times.get(n) for n in ("jax scan", "torch.nn, no zoneout", "floor"))]
        goals = GOALS.get(tuple(result["shape"]), (None,) * 4) if result["cell"] == "lstm" else (None,) * 4
        row = ["x".join(map(str, result["shape"])), f"{result['candidates']['minizone']['median_ms']:.4g} ms"]
        row += [_beside(ratio, goal) for ratio, goal in zip(ratios, goals, strict=True)]
        rows.append(row + ([f"{1 / times['minizone lstm']:.2f}"] if "minizone lstm" in times else []))
    head = ["T x B x D x H", "minizone", "torch loop / ours", "jax scan / ours", "torch.nn, no zoneout / ours"]
    return _table([*head, "floor / ours", "ours / our lstm"][: len(rows[0])], rows)


def updates(found: dict[str, Any]) -> str:
    """A whole training update: time, share of the recurrent layers, peak memory, beside PyTorch."""
    rows = []
    for result in found["results"]:
        ours, recurrent, torch = (
            result["candidates"].get(name) for name in ("minizone", "minizone, recurrent layers", "torch")
        )
        row = [result["task"], f"{ours['median_ms']:.0f} ms", f"{max(0.0, 1 - recurrent['of_ours']):.0%}"]
        row += [f"{torch['of_ours']:.2f}" if torch else "", f"{ours['peak_mb']:.0f} MB"]
        rows.append([*row, f"{torch['peak_mb']:.0f} MB" if torch else ""])
    head = ["task", "minizone", "outside the recurrent layers", "torch / ours", "peak memory", "of torch"]
    return _table(head, rows)


def memory(found: dict[str, Any]) -> str:
    """Megabytes in use while training."""
    rows = []
    for result in found["growth"]:
        own, before = result["parameters_and_optimizer"], result["before"]
        after = [f"{megabytes:.0f} MB" for megabytes in result["after"].values()]
        rows.append(
            [result["task"], f"{before:.0f} MB", f"{own:.0f} MB", *after, f"{result['peak'] - before - own:.0f} MB"]
        )
    steps = [f"after {int(n):,} updates" for n in found["growth"][0]["after"]]
    return _table(["task", "Python", "parameters and optimizer", *steps, "peak above these"], rows)


def tricks(found: dict[str, Any]) -> str:
    """The time with each trick, and how many times longer it takes without."""
    rows = [[name, f"{t['with_ms']:.4g} ms", f"{t['of']:.2f}"] for name, t in found["tricks"].items()]
    return _table(["trick", "with it", "without / with"], rows)


def where(found: dict[str, Any]) -> str:
    """What the milliseconds of minizone's LSTM are spent on."""
    parts = list(found["results"][0]["ms"])
    rows = [["x".join(map(str, r["shape"])), *(f"{r['ms'][part]:.3g}" for part in parts)] for r in found["results"]]
    return _table(["T x B x D x H, ms", *parts], rows)


def _beside(ratio: float | None, goal: float | None) -> str:
    """A ratio, and whether it reaches its goal."""
    if ratio is None:
        return ""
    return f"{ratio:.2f}" + ("" if goal is None else f" {'≥' if round(ratio, 2) >= goal else '<'} {goal:g}")


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "layers": layers,
    "updates": updates,
    "memory": memory,
    "tricks": tricks,
    "where": where,
}


def main(kind: str, path: str) -> str:
    """The table, under a line that says where it was measured."""
    found = json.loads(Path(path).read_text())
    m = found["machine"]
    blas = (
        ", ".join(f"{b['internal_api']} {b['version']} {b['architecture']}" for b in m["blas"])
        if m["blas"] != "unknown"
        else ""
    )
    return f"{m['processor']}, {m['cores']} cores, NumPy {m['numpy']}, {blas}\n\n{TABLES[kind](found)}"


if __name__ == "__main__":
    print(main(*sys.argv[1:3]), end="")
