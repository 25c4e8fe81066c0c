"""The tables of README.md and benchmarks/README.md, from the files that the benchmarks wrote.

    python benchmarks/tables.py layers FILE [FILE ...]                layers, updates, tricks or paper
    python benchmarks/tables.py layers results/cpu/lstm.json results/cpu/lstm-intel.json

The files of several machines are shown side by side, with the rows of the first file. "paper" is a short table of the
LSTMs of the paper. `python results/make.py` writes all tables into their pages.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

OLD_NAMES = ("torch", "torch loop, where", "torch loop, lerp", "LSTMCell, where", "LSTMCell, lerp")
PEERS = {  # column: its candidates, of which the fastest is shown
    "no graphs": ("minizone, no graphs",),
    "torch loop": ("torch loop", "LSTMCell", *OLD_NAMES),
    "graphed torch loop": ("graphed torch loop", "graphed LSTMCell"),
    "jax scan": ("jax scan",),
    "torch.nn, no zoneout": ("torch.nn, no zoneout",),
    "torch.nn TF32, no zoneout": ("torch.nn TF32, no zoneout",),
    "floor": ("floor",),
    "our lstm": ("minizone lstm",),
}
LSTMS_OF_THE_PAPER = {  # name of the row -> title
    "lstm 100x32x50x1000": "char-PTB, 1,000 units",
    "lstm 784x100x1x100": "permuted MNIST, 100 units",
    "lstm 35x20x1500x1500": "word-PTB, 1,500 units",
}
IN_SHORT = ("torch loop", "jax scan")  # columns of the short table
Numbers = dict[str, Any]  # of a candidate
Column = list[str]  # the heading, then a cell for each row


def main(kind: str, *paths: str) -> str:
    """A line for each machine, and the table."""
    files = [json.loads(Path(path).read_text()) for path in paths]
    columns = tricks(files) if kind == "tricks" else times(kind, files)
    columns = [columns[0]] + [column for column in columns[1:] if any(column[1:])]
    return "\n".join(described(each["machine"]) for each in files) + "\n\n" + markdown(columns)


def times(kind: str, files: list[dict[str, Any]]) -> list[Column]:
    """Layers or updates: minizone's time, its speed relative to the others, and peak memory."""
    key = "task" if kind == "updates" else "cell"
    results = [[row for row in each["results"] if key in row] for each in files]
    names = [row_name(row) for row in results[0] if kind != "paper" or row_name(row) in LSTMS_OF_THE_PAPER]
    by_name = [{row_name(row): row["candidates"] for row in rows} for rows in results]
    heading = {"updates": "task", "layers": "cell, T x B x D x H", "paper": "one sequence, forward and backward"}[kind]
    columns = [[heading, *(LSTMS_OF_THE_PAPER[name] if kind == "paper" else name for name in names)]]
    machines = [short_name(each["machine"]) for each in files]

    def add(heading: str, cell: Any) -> None:
        for machine, rows in zip(machines, by_name, strict=True):
            title = f"{heading}, {machine}" if len(files) > 1 else heading
            columns.append([title, *(cell(rows.get(name, {})) for name in names)])

    add("minizone", milliseconds)
    for peer, kinds in PEERS.items():
        if kind != "paper" or peer in IN_SHORT:
            add(peer, lambda row, kinds=kinds: ratio(row, kinds))
    if kind == "updates":
        add("peak memory", lambda row: megabytes(row, ("minizone",)))
        add("of torch", lambda row: megabytes(row, PEERS["torch loop"]))
        add("of graphed torch", lambda row: megabytes(row, PEERS["graphed torch loop"]))
    return columns


def tricks(files: list[dict[str, Any]]) -> list[Column]:
    """How many times as fast a problem is with a trick as without it."""
    names = list(files[0]["tricks"])
    columns = [["trick", *names]]
    for each in files:
        found, machine = each["tricks"], short_name(each["machine"])
        columns.append([f"with it, {machine}", *(f"{found[n]['with_ms']:.4g} ms" if n in found else "" for n in names)])
        columns.append([f"gain, {machine}", *(f"{found[n]['of']:.2f}x" if n in found else "" for n in names)])
    return columns


def row_name(row: dict[str, Any]) -> str:
    if "task" in row:
        return row["task"]
    return f"{row['cell']} {'x'.join(map(str, row['shape']))}"


def milliseconds(row: dict[str, Numbers]) -> str:
    ours = row.get("minizone", {})
    return f"{ours['median_ms']:.4g} ms" if "median_ms" in ours else ""


def ratio(row: dict[str, Numbers], kinds: tuple[str, ...]) -> str:
    found = [row[name]["of_ours"] for name in kinds if row.get(name, {}).get("of_ours") is not None]
    return f"{min(found):.2f}x" if found else ""


def megabytes(row: dict[str, Numbers], kinds: tuple[str, ...]) -> str:
    found = [row[name]["peak_mb"] for name in kinds if "peak_mb" in row.get(name, {})]
    return f"{min(found):,.0f} MB" if found else ""


def described(machine: dict[str, Any]) -> str:
    """A machine in one line."""
    parts = [device(machine)]
    parts += [f"{name} {machine[name]}" for name in ("numpy", "cupy", "cuda", "torch", "jax") if name in machine]
    parts += [f"{blas['internal_api']} {blas['version']} {blas['architecture']}" for blas in machine["blas"]]
    return f"- {', '.join(parts)}"


def device(machine: dict[str, Any]) -> str:
    return machine.get("device") or f"{machine['processor']}, {machine['cores']} cores"  # in older files


def short_name(machine: dict[str, Any]) -> str:
    """AMD, Intel or NVIDIA."""
    return re.split(r"[\s(]", device(machine))[0]


def markdown(columns: list[Column]) -> str:
    heading, *rows = zip(*columns, strict=True)
    lines = [heading, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


if __name__ == "__main__":
    print(main(*sys.argv[1:]), end="")
