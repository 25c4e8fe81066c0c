"""The files of a run: JSON, rows of JSON, and safetensors. Each file is whole or absent at any moment."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from minizone.backend import Array, to_host
from minizone.errors import UserError

Row = dict[str, Any]  # of metrics.jsonl: the numbers of an epoch
Run = dict[str, Any]  # see `read_run`


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, flush it to the disk, and rename it, so that no half file has its name.

    Raises UserError when that is not possible, for example when the disk is full. After any exception the temporary
    file is removed.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise UserError(f"cannot write {path}: {error.strerror}") from None
        raise


# ---- JSON


def write_json(path: Path, value: Any) -> None:
    write_whole(path, (json.dumps(value, indent=2) + "\n").encode())


def read_json(path: Path) -> Any:
    """The content of a JSON file; UserError when it is missing or is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: {path.parent} is not the folder of a run") from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from None


def append_row(path: Path, row: Row) -> None:
    """Add one line to a .jsonl file."""
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Replace a .jsonl file."""
    write_whole(path, "".join(json.dumps(row) + "\n" for row in rows).encode())


def read_rows(path: Path) -> list[Row]:
    """The rows of a .jsonl file, or [] when there is none. A last line that is not complete does not count."""
    if not path.exists():
        return []
    complete, _, _ = path.read_text(encoding="utf-8").rpartition("\n")
    try:
        return [json.loads(line) for line in complete.splitlines()]
    except ValueError as error:
        raise UserError(f"{path} has a line that is not JSON: {error}") from None


# ---- arrays


def save_arrays(path: Path, arrays: Mapping[str, Array], /, **metadata: Any) -> None:
    """Write named arrays, and metadata as JSON, into a safetensors file. The same content gives the same bytes.

    All metadata is under one key, because safetensors writes several keys in a random order.
    """
    on_host = {name: np.asarray(to_host(array), order="C") for name, array in arrays.items()}
    write_whole(path, safetensors.numpy.save(on_host, {"minizone": json.dumps(metadata)}))


def load_arrays(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and the metadata of a safetensors file; UserError when it is missing or damaged.

    A file that another program wrote has no metadata: {}.
    """
    try:
        with safetensors.safe_open(path, framework="np") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except FileNotFoundError:
        raise UserError(f"there is no checkpoint {path}") from None
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a readable checkpoint: {error}") from None
    return arrays, json.loads(metadata.get("minizone", "{}"))


def write_npz(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write named arrays as an .npz file, which NumPy alone can read."""
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    write_whole(path, content.getvalue())


def prefixed(prefix: str, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """``{"W": ...}`` as ``{"prefix.W": ...}``."""
    return {f"{prefix}.{name}": array for name, array in arrays.items()}


def without_prefix(prefix: str, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """The arrays whose name starts with ``prefix.``, under the rest of their names."""
    return {name.removeprefix(prefix + "."): a for name, a in arrays.items() if name.startswith(prefix + ".")}


# ---- whole runs


def read_run(path: Path) -> Run:
    """A run as a dict: its ``name``, its ``config``, the ``rows`` of its epochs, and its ``summary``.

    ``path`` is a run folder, or a JSON file that `minizone.runs.report.save_runs` made of one. The summary of a run
    that has not ended is None. The name of a run in a folder `lstm/seed1` is "lstm-seed1". Raises UserError for what is
    no run, and for a run without the row of its best epoch.
    """
    if path.is_file():
        run = read_json(path)
        if not isinstance(run, dict) or not {"config", "rows", "summary"} <= run.keys():
            raise UserError(f"{path} is not a run: it has no config, rows and summary")
        run = {**run, "name": _name(path.resolve().with_suffix(""))}
    else:
        summary = path / "summary.json"
        run = {
            "name": _name(path.resolve()),
            "config": read_json(path / "config.json"),
            "rows": read_rows(path / "metrics.jsonl"),
            "summary": read_json(summary) if summary.exists() else None,
        }
    if run["summary"] and run["summary"]["best_epoch"] not in [row["epoch"] for row in run["rows"]]:
        raise UserError(f"{path} has no finished epoch {run['summary']['best_epoch']} in its log, and it was the best")
    return run


def _name(path: Path) -> str:
    return path.name if not re.fullmatch(r"seed\d+", path.name) else f"{path.parent.name}-{path.name}"
