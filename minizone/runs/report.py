"""Tables of finished runs, made from their logs alone. Runs that differ in nothing but the seed share a row."""

from __future__ import annotations

import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

from minizone.errors import UserError
from minizone.runs.files import Run, read_run, write_json

NOT_A_DIFFERENCE = {"seed", "data_dir", "offline", "max_minutes"}  # runs of one row may differ in these


def save_run(run: Run, folder: Path) -> Path:
    """Write a run, without its weights and the place of its data, as one JSON file into a folder; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    config = dict(run["config"])
    for part in ("settings", "changed"):
        config[part] = {name: value for name, value in config[part].items() if name != "data_dir"}
    path = folder / f"{run['name']}.json"
    write_json(path, {"rows": run["rows"], "summary": run["summary"], "config": config})
    return path


def find_runs(root: Path) -> list[Run]:
    """All finished runs below a folder, in the order of their paths; UserError when there is none."""
    if not root.is_dir():
        raise UserError(f"{root} is not a folder with runs")
    folders = [path.parent for path in root.rglob("summary.json")]
    saved = [path for path in root.rglob("*.json") if path.name not in ("config.json", "summary.json")]
    runs = [read_run(path) for path in sorted([*folders, *saved])]
    if not runs:
        raise UserError(f"there is no finished run below {root}")
    return runs


def report(root: Path) -> str:
    """The runs below a folder as Markdown tables, one for each task and data set.

    A row has the mean over the seeds, the number of each seed, the spread (sample standard deviation), the time of a
    run and the command that makes it.
    """
    tables: dict[tuple[str, str, str], dict[str, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for run in find_runs(root):
        config = run["config"]
        table = (config["task"], config["dataset"]["name"], config["metric"])
        tables[table][_command(config)].append(run)
    return "\n".join(_table(*key, groups) for key, groups in tables.items())


def _table(task: str, dataset: str, metric: str, groups: dict[str, list[Run]]) -> str:
    """One table; ``groups`` has the runs of each row by their command."""
    lines = [
        f"**{task}** on {dataset}, {metric}\n",
        "| run | best valid (spread) | each seed | test (spread) | best epoch | minutes | device | command |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for command, runs in groups.items():
        runs.sort(key=lambda run: run["config"]["settings"]["seed"])
        valid = [run["summary"][f"best_valid_{metric}"] for run in runs]
        cells = [
            runs[0]["name"].split("-seed")[0],
            _mean(valid),
            ", ".join(f"{run['config']['settings']['seed']}: {v:.4f}" for run, v in zip(runs, valid, strict=True)),
            _mean([run["summary"][f"test_{metric}"] for run in runs]),
            ", ".join(f"{run['summary']['best_epoch']}/{len(run['rows'])}" for run in runs),
            f"{statistics.mean(run['summary']['seconds'] for run in runs) / 60:.1f}",
            ", ".join(sorted({run["config"]["machine"] for run in runs})),
            f"`{command}`",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    for name, numbers in next(iter(groups.values()))[0]["config"]["reference"].items():
        lines.append(f"| *paper: {name}* | {numbers['valid']} | | {numbers['test']} | | | | |")
    return "\n".join(lines) + "\n"


def _mean(values: list[float]) -> str:
    """The mean, with the spread behind it where there are several values."""
    spread = f" ({statistics.stdev(values):.4f})" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{spread}"


def _command(config: dict[str, Any]) -> str:
    """The command line of a run, but for its seed."""
    words = ["python run.py", config["task"]]
    if config["settings"]["preset"] != "quick":
        words.append(f"--preset {config['settings']['preset']}")
    for name, value in config["changed"].items():
        if name in NOT_A_DIFFERENCE:
            continue
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words.append(f"--{flag} {value}")
    return " ".join(words)
