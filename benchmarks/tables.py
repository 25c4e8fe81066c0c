"""The tables of benchmarks/README.md, from what the benchmarks wrote.

python benchmarks/tables.py layers results/cpu/lstm.json
python benchmarks/tables.py updates results/cpu/update.json
python benchmarks/tables.py memory results/cpu/memory.json
python benchmarks/tables.py gpu results/gpu/gpu.json
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
GPU_GOALS = {  # of lstm: the best of PyTorch's eager loops with zoneout, and cuDNN without, each divided by ours
    ("lstm", (100, 32, 50, 1000)): {"torch": 8, "cuDNN": 0.6},
    ("lstm", (784, 100, 1, 100)): {"torch": 8, "cuDNN": 0.6},
}
EPOCH_GOAL = 15  # seconds of an epoch of char-ptb with the paper's settings


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


def gpu(found: dict[str, Any]) -> str:
    """Layers, updates and memory on a GPU, those that were measured; what failed is in the lines below them."""
    tables = [_gpu_layers(found), _gpu_updates(found), _gpu_memory(found)]
    failed = [
        f"- {row['part']}, {row['what']} {'x'.join(map(str, row['shape']))}, {name}: {each['error']}"
        for row in found["rows"]
        for name, each in row["candidates"].items()
        if "error" in each
    ]
    return "\n".join(filter(None, [*tables, "Left out:\n\n" + "\n".join(failed) + "\n" if failed else ""]))


def least(candidates: dict[str, dict[str, Any]], name: str, number: str) -> float | None:
    """The smallest number of the candidates of a kind: "torch" is torch loop and torch LSTMCell; "cuDNN" is itself."""
    kind = [each.get(number) for key, each in candidates.items() if key == name or key.startswith(name + " ")]
    return min((each for each in kind if each is not None), default=None)


def _gpu_layers(found: dict[str, Any]) -> str:
    compiled = {(r["what"], *r["shape"]): r["candidates"] for r in found["rows"] if r["part"] == "compiled"}
    head = {"no graphs": "minizone, no graphs", "torch": "torch", "torch, graph": "graphed torch"}
    head |= {"torch, compiled": "compiled", "cuDNN, no zoneout": "cuDNN", "cuDNN, TF32": "cuDNN, TF32"}
    head |= {"products": "floor: products", "bytes": "floor: bytes"}
    rows = []
    for row in found["rows"]:
        if row["part"] == "layers":
            times = compiled.get((row["what"], *row["shape"]), {}) | row["candidates"]
            goals = GPU_GOALS.get((row["what"], tuple(row["shape"])), {})
            ratios = [_beside(least(times, name, "of_ours"), goals.get(name)) for name in head.values()]
            rows.append([row["what"], "x".join(map(str, row["shape"])), _ms(times["minizone"]), *ratios])
    return _table(["cell", "T x B x D x H", "minizone", *(f"{name} / ours" for name in head)], rows) if rows else ""


def _gpu_updates(found: dict[str, Any]) -> str:
    rows = []
    for row in found["rows"]:
        if row["part"] == "updates":
            times, ours = row["candidates"], row["candidates"]["minizone"].get("median_ms")
            ratios = [_beside(least(times, name, "of_ours"), None) for name in ("torch", "graphed torch")]
            epoch = ours and ours * times["minizone"]["updates_per_epoch"] / 1000
            goal = EPOCH_GOAL if row["what"] == "char-ptb" else None
            beside = (
                f"{epoch:.1f} s" + (f" {'≤' if epoch <= goal else '>'} {goal:g} s" if goal else "") if epoch else ""
            )
            rows.append([row["what"], _ms(times["minizone"]), f"{1000 / ours:.1f}" if ours else "", beside, *ratios])
    head = ["task", "minizone", "updates/s", "an epoch", "torch / ours", "torch, graph / ours"]
    return _table(head, rows) if rows else ""


def _gpu_memory(found: dict[str, Any]) -> str:
    rows = []
    for row in found["rows"]:
        if row["part"] == "memory":
            kinds = [
                least(row["candidates"], name, number)
                for name in ("minizone", "torch", "graphed torch")
                for number in ("held_mib", "taken_mib")
            ]
            rows.append([row["what"], *("" if each is None else f"{each:,.0f} MiB" for each in kinds)])
    names = [f"{name}, {what}" for name in ("minizone", "torch", "torch, graph") for what in ("its pool", "of the GPU")]
    return _table(["task", *names], rows) if rows else ""


def _ms(candidate: dict[str, Any]) -> str:
    return f"{candidate['median_ms']:.4g} ms" if "median_ms" in candidate else ""


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
    "gpu": gpu,
}


def main(kind: str, path: str) -> str:
    """The table, under a line that says where it was measured."""
    found = json.loads(Path(path).read_text())
    if kind == "gpu":
        torch = f", PyTorch {found['torch']}" if found["torch"] else ""
        versions = f"CUDA {found['cuda']}, driver {found['driver']}, CuPy {found['cupy']}{torch}"
        copy = f"copies at {found['bandwidth_gb_s']:,.0f} GB/s"
        return f"{found['device']}, {found['memory_gib']:g} GiB, {versions}, {copy}, {found['date']}\n\n{gpu(found)}"
    m = found["machine"]
    blas = (
        ", ".join(f"{b['internal_api']} {b['version']} {b['architecture']}" for b in m["blas"])
        if m["blas"] != "unknown"
        else ""
    )
    return f"{m['processor']}, {m['cores']} cores, NumPy {m['numpy']}, {blas}\n\n{TABLES[kind](found)}"


if __name__ == "__main__":
    print(main(*sys.argv[1:3]), end="")
