"""Tables, from the logs of runs alone: one row a group of runs that differ in nothing but the seed."""

from __future__ import annotations

import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

from minizone.errors import UserError
from minizone.runs.files import check_fields, read_run, write_json

NOT_A_DIFFERENCE = {"seed", "data_dir", "offline", "max_minutes"}  # between runs of one row of a table


def save_run(run: dict[str, Any], folder: Path) -> Path:
    """Write all that is known of a run, but its weights and where its data lay, as one JSON file; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    config = dict(run["config"])
    for part in ("settings", "changed"):
        config[part] = {name: value for name, value in config[part].items() if name != "data_dir"}
    write_json(folder / f"{run['name']}.json", {**{key: run[key] for key in ("rows", "summary")}, "config": config})
    return folder / f"{run['name']}.json"


def find_runs(root: Path) -> list[dict[str, Any]]:
    """All finished runs below a folder, in the order of their paths."""
    if not root.is_dir():
        raise UserError(f"{root} is not a folder with runs")
    folders = [path.parent for path in root.rglob("summary.json")]
    singles = [path for path in root.rglob("*.json") if path.name not in ("config.json", "summary.json")]
    runs = [read_run(path) for path in sorted([*folders, *singles])]
    if not runs:
        raise UserError(f"there is no finished run below {root}")
    for run in runs:
        check_fields(f"the run {run['name']} below {root}", run, summary=dict)
    return runs


def report(root: Path) -> str:
    """The runs below a folder as Markdown tables, one for each task and data set.

    Mean over the seeds, the single numbers behind it, the spread (sample standard deviation), the time of a run and
    the command that makes it.
    """
    tables: dict[tuple[str, str, str], dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for run in find_runs(root):
        config = run["config"]
        table = (config["task"], config["dataset"]["name"], config["metric"])
        tables[table][_command(config)].append(run)
    return "\n".join(_table(*key, groups) for key, groups in tables.items())


def _table(task: str, dataset: str, metric: str, groups: dict[str, list[dict[str, Any]]]) -> str:
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
    spread = f" ({statistics.stdev(values):.4f})" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{spread}"


def _command(config: dict[str, Any]) -> str:
    """The command line of a run, but for its seed."""
    flags = [f"--preset {config['settings']['preset']}"] if config["settings"]["preset"] != "quick" else []
    for name, value in config["changed"].items():
        if name not in NOT_A_DIFFERENCE:
            flag = name.replace("_", "-")
            flags.append(f"--{flag}" if value is True else f"--no-{flag}" if value is False else f"--{flag} {value}")
    return " ".join([f"python run.py {config['task']}", *flags])
