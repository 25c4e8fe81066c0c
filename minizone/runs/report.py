"""Reports of finished runs, from their logs: tables in Markdown, a page in HTML, and a JSON file for each run."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment
from matplotlib.figure import Figure

from minizone.errors import UserError
from minizone.runs.files import Run, read_json, read_run, write_json, write_whole
from minizone.runs.folder import TEXTS
from minizone.runs.groups import (
    Group,
    PaperResults,
    at_difficulty,
    changed_settings,
    command,
    group_by_settings,
    mean_and_spread,
    number,
    paper_results,
)
from minizone.runs.plotting import draw_gradients, draw_networks, draw_runs, to_svg

Say = Callable[[str], None]
PaperOf = Callable[[str], PaperResults]  # from a task to `minizone.runs.experiment.Experiment.paper`
Sampler = Callable[[Path], str | None]  # from a run folder with weights to text drawn from it, or to None

TEMPLATE = Path(__file__).with_name("report.html")
FIGURE_WIDTH = 4.6  # inches; the text is legible on a phone
PAPERS_DATA = {
    "char-ptb": "Penn Treebank",
    "word-ptb": "Penn Treebank",
    "text8": "text8",
    "pmnist": "MNIST",
    "gradients": "MNIST",
}


# ---- runs


def nothing(remark: str) -> None:
    """Ignore a remark: the default of ``say``."""


def find_runs(root: Path, say: Say = nothing) -> list[Run]:
    """All finished runs below a folder, in the order of their paths. Raises UserError if there are none.

    A run is a folder, or a JSON file that `save_runs` wrote; other JSON files are ignored. Each run has the keys of
    `read_run` and its ``path``. Damaged runs are left out and reported to ``say``.
    """
    if not root.is_dir():
        raise UserError(f"{root} is not a folder with runs")
    folders = [path.parent for path in root.rglob("summary.json")]
    files = [path for path in root.rglob("*.json") if not (path.parent / "config.json").exists()]
    runs, problems = [], []
    for path in sorted([*folders, *files]):
        try:
            if path.is_dir() or _is_run(path):
                runs.append({**read_run(path), "path": path})
        except UserError as error:
            problems.append(str(error))
    if not any(run["summary"] for run in runs):
        raise UserError(problems[0] if problems else f"there is no finished run below {root}")
    for problem in problems:
        say(f"{problem}; it is left out")
    return [run for run in runs if run["summary"]]


def _is_run(path: Path) -> bool:
    content = read_json(path)
    return isinstance(content, dict) and {"config", "rows", "summary"} <= content.keys()


def save_runs(root: Path, folder: Path) -> None:
    """Write each run below ``root`` as a JSON file: `root/task/run/` becomes `folder/task/run.json`.

    Weights and the folders of the data are left out.

    Raises
    ------
    UserError
        If ``folder`` is a file; if it is inside ``root``, where the next report would find each run twice; or if a file
        would replace another run. Nothing is written in these cases.
    """
    if folder.is_file():
        raise UserError(f"cannot save runs in {folder}: it is a file; give the name of a folder")
    if folder.resolve().is_relative_to(root.resolve()):
        raise UserError(
            f"cannot save runs in {folder}: the next report of {root} would find each run twice; choose another folder"
        )
    contents: dict[Path, dict[str, Any]] = {}
    for run in find_runs(root):
        config = dict(run["config"])
        for part in ("settings", "changed"):
            config[part] = {
                name: _without_folder(name, value) for name, value in config[part].items() if name != "data_dir"
            }
        path = folder / run["path"].relative_to(root).parent / f"{run['name']}.json"
        taken = contents.get(path) or (read_run(path) if path.exists() else None)
        if taken and _identity(taken["config"]) != _identity(config):
            raise UserError(f"cannot save {run['path']}: {path} is another run; choose another folder")
        contents[path] = {"rows": run["rows"], "summary": run["summary"], "config": config}
    for path, content in contents.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, content)


def _without_folder(name: str, value: Any) -> Any:
    """The value of a setting; for the path of a user's text, only the file name."""
    return Path(value).name if value and name in TEXTS else value


def _identity(config: dict[str, Any]) -> tuple[object, ...]:
    return config["task"], config["dataset"], command(config), config["settings"]["seed"]


# ---- tables


def report(root: Path, say: Say = nothing, short: PaperOf | None = None) -> str:
    """The runs below a folder as Markdown tables, one for each task and data set, with ``say`` as in `find_runs`.

    With ``short``, which gives the paper's results, the tables are those of `short_rows`.
    """
    found = tables(find_runs(root, say))
    if short is None:
        return "\n".join(_markdown(groups, table_rows(groups)) for groups in found)
    return "\n".join(_markdown(groups, short_rows(groups, short(groups[0].config["task"]))) for groups in found)


def tables(runs: list[Run]) -> list[list[Group]]:
    """The groups of each table. A table has one task and data set."""
    found: dict[tuple[str, str], list[Group]] = {}
    for group in group_by_settings(runs):
        found.setdefault(group.table, []).append(group)
    return list(found.values())


def table_rows(groups: list[Group]) -> list[dict[str, str]]:
    """The rows of a table as cells by column: one for each group, and one for each other result of the paper.

    Results are means over the seeds, with the sample standard deviation; times are means.
    """
    paper = paper_results(groups)
    rows = [_row(group, paper) for group in groups]
    for name, result in paper.items():
        if name not in [group.paper for group in groups]:
            of_paper = {f"{split}: paper": f"{value:g}" for split, value in result.items()}
            rows.append({**dict.fromkeys(rows[0], ""), "run": f"paper: {name}", **of_paper})
    return rows


def _row(group: Group, paper: PaperResults) -> dict[str, str]:
    metric, summaries = group.metric, [run["summary"] for run in group.runs]
    cells = {"run": group.label}
    for split in ("valid", "test"):
        results = group.results(split)
        ours = mean_and_spread(results, metric)
        if not paper:
            cells[split] = ours
            continue
        cells |= {f"{split}: paper": "", f"{split}: ours": ours, f"{split}: difference": ""}
        of_paper = paper[group.paper].get(split) if group.paper else None
        if of_paper is not None:
            cells[f"{split}: paper"] = f"{of_paper:g}"
            mean = statistics.mean(value for value, _ in results)
            cells[f"{split}: difference"] = number(mean - of_paper, metric, "+")
    cells |= _at_difficulties(group)
    seeds = zip(group.runs, group.best_valid(), strict=True)
    return {
        **cells,
        "valid of each seed": ", ".join(
            f"{run['config']['settings']['seed']}: {number(value, metric)}{at_difficulty(difficulty)}"
            for run, (value, difficulty) in seeds
        ),
        "best epoch": ", ".join(f"{run['summary']['best_epoch']}/{len(run['rows'])}" for run in group.runs),
        "minutes": f"{statistics.mean(summary['seconds'] for summary in summaries) / 60:.1f}",
        "device": ", ".join(sorted({run["config"]["machine"] for run in group.runs})),
        "command": command(group.config),
    }


def _at_difficulties(group: Group) -> dict[str, str]:
    """For a task that becomes harder, the cell of the test results at each difficulty; else {}."""
    metric, summaries = group.metric, [run["summary"] for run in group.runs]
    digits = [n for n in range(1, 10) if f"test_{metric}_{n}" in summaries[0]]
    errors = [[(summary[f"test_{metric}_{n}"], None) for summary in summaries] for n in digits]
    column = f"test at {', '.join(map(str, digits))} digits"
    return {column: ", ".join(mean_and_spread(of_n, metric) for of_n in errors)} if digits else {}


def short_rows(groups: list[Group], paper: PaperResults) -> list[dict[str, str]]:
    """The results alone: a row for each group, with the paper's results for its regularizers, for any model size."""
    rows = []
    for group in groups:
        cells = {"run": group.label}
        for split in ("valid", "test"):
            if paper:
                of_paper = paper.get(group.row_of_paper or "", {}).get(split)
                cells[f"{split}: paper"] = "" if of_paper is None else f"{of_paper:g}"
            cells[f"{split}: ours" if paper else split] = mean_and_spread(group.results(split), group.metric)
        epochs = sorted({len(run["rows"]) for run in group.runs})
        best = ", ".join(str(run["summary"]["best_epoch"]) for run in group.runs)
        cells |= {**_at_difficulties(group), "seeds": str(len(group.runs))}
        rows.append({**cells, "best epoch": f"{best} of {' or '.join(map(str, epochs))}"})
    return rows


def _markdown(groups: list[Group], rows: list[dict[str, str]]) -> str:
    lines = [f"**{groups[0].config['task']}** on {groups[0].config['dataset']['name']}, {groups[0].metric}\n"]
    lines += [_line(rows[0]), "|---" * len(rows[0]) + "|"]
    for row in rows:
        if row.get("command"):
            row["command"] = f"`{row['command']}`"
        elif "command" in row:
            row["run"] = f"*{row['run']}*"
        lines.append(_line(row.values()))
    return "\n".join(lines) + "\n"


def _line(cells: Iterable[str]) -> str:
    """One line of a Markdown table; each | in a cell is escaped."""
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


# ---- the page


def write_page(parts: dict[str, list[Run]], name: str, out: Path, sample: Sampler | None = None) -> None:
    """Write runs (see `find_runs`) as one HTML page that has no scripts and needs no other file and no network.

    ``parts`` maps titles, or "" for none, to runs. ``sample`` draws a text from the first run of each row that has
    weights.
    """
    found = [(title, groups) for title, runs in parts.items() for groups in tables(runs)]
    sections = [_section(groups, title, f"s{k}", sample) for k, (title, groups) in enumerate(found, start=1)]
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(name=name, sections=sections)
    with suppress(FileExistsError):  # a file is in the way: `write_whole` raises UserError
        out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, page.encode())


def _section(groups: list[Group], title: str, name: str, sample: Sampler | None) -> dict[str, Any]:
    """The values that the template shows for a task and data set."""
    config = groups[0].config
    rows = table_rows(groups)
    subject = f"{config['task']} on {config['dataset']['name']}"
    return {
        "id": name,
        "title": f"{title}: {subject}" if title else subject,
        "task": config["task"],
        "dataset": config["dataset"]["name"],
        "unit": config["unit"],
        "compared": bool(paper_results(groups)),
        "real_data": PAPERS_DATA.get(config["task"]),
        "own_text": bool(config["settings"].get("text")),
        "columns": [column for column in rows[0] if column != "command"],
        "rows": rows,
        "settings": [_settings(group.config) for group in groups],
        "figures": [
            {"wide": figure.get_figwidth() > FIGURE_WIDTH, "svg": to_svg(figure, f"{name}-{k}")}
            for k, figure in enumerate(_figures(groups))
        ],
        "samples": _samples(groups, sample) if sample else {},
    }


def _settings(config: dict[str, Any]) -> str:
    changed = ", ".join(f"{name} = {value}" for name, value in changed_settings(config).items())
    return f"preset {config['settings']['preset']}" + (f", but {changed}" if changed else "")


def _figures(groups: list[Group]) -> list[Figure]:
    """The learning curves, or W for the task semantic; for the task gradients also the gradients."""
    runs = [run for group in groups for run in group.runs]
    if groups[0].config["task"] == "semantic":
        return [draw_networks(runs[0])]
    figures = [draw_runs(groups, FIGURE_WIDTH)]
    for folder in dict.fromkeys(run["path"].parent for run in runs):
        if (folder / "gradients.npz").exists():
            with np.load(folder / "gradients.npz", allow_pickle=False) as found:
                figures.append(draw_gradients(dict(found), groups[0].config["dataset"]["name"]))
    return figures


def _samples(groups: list[Group], sample: Sampler) -> dict[str, str]:
    """Texts by the name of their group, for groups with weights whose task has texts."""
    samples = {}
    for group in groups:
        with_weights = [run["path"] for run in group.runs if (run["path"] / "best.safetensors").exists()]
        text = sample(with_weights[0]) if with_weights else None
        if text:
            samples[group.label] = text
    return samples
