"""Grids of runs, from a TOML file.

task = "char-ptb"
seeds = [1, 2, 3]                       # without it: [1]

[flags]                                 # flags of `run.py TASK`, for all runs
hidden-size = 400
z-prob-cells = [0.0, 0.25, 0.5]         # a list: a run for each value; several lists: a run for each combination

[rows."recurrent dropout"]              # a named row of the table, with further flags
drop-prob-igates = 0.7

[part.laptop]                           # --part laptop: its seeds, flags and rows override those above
seeds = [1]
flags = {hidden-size = 100}
"""

from __future__ import annotations

import itertools
import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from minizone.commands.flags import unknown_flag
from minizone.commands.train import TASKS, parse_settings
from minizone.errors import UserError
from minizone.runs.settings import RunSettings

Flags = dict[str, Any]  # from flag names to values; names are without "--" and with hyphens
OF_THE_GRID = {"seed", "out", "resume"}  # flags that the grid itself sets


@dataclass(frozen=True, eq=False)
class GridRun:
    """One run: its task, its flags, the resulting settings, and its folder."""

    task: str
    flags: Flags
    settings: RunSettings
    folder: Path

    @property
    def command(self) -> str:
        """The command that trains this run alone."""
        words = [*to_arguments(self.flags), "--seed", str(self.settings.seed), "--out", str(self.folder)]
        return f"python run.py {self.task} {shlex.join(words)}"


@dataclass(frozen=True)
class Grid:
    """Runs in the order of seeds, and the lists of values by flag ({} if there are named rows)."""

    runs: list[GridRun]
    lists: dict[str, list[Any]]


def read_grid(path: Path, part: str | None, out: Path) -> Grid:
    """Read the runs of a grid file. Their folders will be below ``out``.

    Raises UserError unless all runs have valid settings and folders of their own.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        return make_grid(content, part, out)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except ValueError as error:
        raise UserError(f"{path} is not TOML: {error}") from None


def make_grid(content: dict[str, Any], part: str | None, out: Path) -> Grid:
    """The grid that a TOML file describes; see `read_grid`."""
    content = {**content, **chosen_part(content, part)}
    unknown = content.keys() - {"task", "seeds", "flags", "rows", "part"}
    if unknown:
        raise UserError(f"{unknown.pop()!r} is not one of task, seeds, flags, rows, part")
    if "task" not in content:
        raise UserError(f'it has no task; give it one of {", ".join(TASKS)}, as in task = "char-ptb"')
    task, seeds = content["task"], content.get("seeds", [1])
    if not isinstance(task, str) or task not in TASKS:
        raise UserError(f"task must be one of {', '.join(TASKS)}, got {task!r}")
    if not (isinstance(seeds, list) and seeds and all(type(seed) is int and seed >= 0 for seed in seeds)):
        raise UserError(f"seeds must be a list of non-negative integers, as in [1, 2, 3], got {seeds!r}")

    variants = []
    for row, flags_of_row in (table(content, "rows") or {"": {}}).items():
        flags = {**table(content, "flags"), **flags_table({row: flags_of_row}, row)}
        check_flags(task, flags)
        for each in combinations(flags):
            changing = [f"{name}{short(value)}" for name, value in each.items() if isinstance(flags[name], list)]
            label = "-".join(filter(None, [row, *changing]))
            try:
                settings = parse_settings(task, to_arguments(each))
            except UserError as error:
                raise UserError(f"run {label}: {error}" if label else str(error)) from None
            label = re.sub(r"[^\w.,=+-]+", "-", label or "-".join(settings.label_parts()))
            variants.append((label, each, settings))

    runs: dict[Path, GridRun] = {}
    for seed in seeds:
        for label, flags, settings in variants:
            folder = out / f"{label}-seed{seed}"
            if folder in runs:
                raise UserError(f"two runs would have the folder {folder}: give rows, values and seeds that differ")
            runs[folder] = GridRun(task, flags, replace(settings, seed=seed), folder)
    lists = {name: value for name, value in table(content, "flags").items() if isinstance(value, list)}
    return Grid(list(runs.values()), {} if table(content, "rows") else lists)


def chosen_part(content: dict[str, Any], part: str | None) -> dict[str, Any]:
    """The seeds, flags and rows of a file, overridden by those of one of its parts."""
    parts = table(content, "part")
    if part not in parts and (parts or part):
        choose = f"choose a part with --part: {', '.join(parts)}" if parts else "the file has no parts"
        raise UserError(f"there is no part {part!r}; {choose}" if parts and part else choose)
    chosen = table(parts, part) if part else {}
    unknown = chosen.keys() - {"seeds", "flags", "rows"}
    if unknown:
        raise UserError(f"part {part}: {unknown.pop()!r} is not one of seeds, flags, rows")
    merged = {
        "flags": {**flags_table(content, "flags"), **flags_table(chosen, "flags")},
        "rows": {**table(content, "rows"), **table(chosen, "rows")},
    }
    return {**chosen, **{name: value for name, value in merged.items() if value}}


def table(content: dict[str, Any], name: str) -> dict[str, Any]:
    """A table of a TOML file, or {} if it is missing. Raises UserError if the name is not that of a table."""
    value = content.get(name, {})
    if not isinstance(value, dict):
        raise UserError(f"{name} must be a table, as in [{name}], got {value!r}")
    return value


def flags_table(content: dict[str, Any], name: str) -> Flags:
    """A table of flags, with hyphens instead of underscores in their names."""
    return {flag.replace("_", "-"): value for flag, value in table(content, name).items()}


def check_flags(task: str, flags: Flags) -> None:
    """Raise UserError for a flag that the task lacks or the grid sets, and for a value of a wrong type."""
    settings = type(TASKS[task].presets["quick"])
    known = {field.name for field in fields(settings)} - OF_THE_GRID
    for name, value in flags.items():
        if problem := unknown_flag(f"--{name}", settings):
            raise UserError(f"{task}: {problem}")
        if name.replace("-", "_") not in known:
            also = "; give seeds = [1, 2] in the file, and --out to the sweep" if name in OF_THE_GRID else ""
            raise UserError(f"{name!r} is not a flag of {task} that a grid can set{also}")
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(each, bool | int | float | str) for each in values):
            raise UserError(f"{name} must be a value or a list of values, got {value!r}")
        if not values:
            raise UserError(f"{name} is an empty list")


def combinations(flags: Flags) -> Iterator[Flags]:
    """All combinations of flags with one value from each list. The last list changes fastest."""
    choices = [value if isinstance(value, list) else [value] for value in flags.values()]
    for values in itertools.product(*choices):
        yield dict(zip(flags, values, strict=True))


def short(value: Any) -> str:
    """The value of a flag for names."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def to_arguments(flags: Flags) -> list[str]:
    """Convert flags to command-line arguments."""
    arguments = []
    for name, value in flags.items():
        if isinstance(value, bool):
            arguments.append(f"--{name}" if value else f"--no-{name}")
        else:
            arguments += [f"--{name}", str(value)]
    return arguments
