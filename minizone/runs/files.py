"""The files of a run: JSON, JSON Lines and safetensors. At any moment, a file is either complete or absent."""

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

Row = dict[str, Any]  # a row of metrics.jsonl: the results of an epoch
Run = dict[str, Any]  # see `read_run`


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, flush it to disk, and rename it. An incomplete file never has its name.

    Raises UserError if that fails, for example because the disk is full. After any exception the temporary file is
    removed.
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
    """Read a JSON file. Raises UserError if it is missing or is not JSON."""
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
    """Read the rows of a .jsonl file; [] if there is no file. An incomplete last line is ignored."""
    if not path.exists():
        return []
    complete, _, _ = path.read_text(encoding="utf-8").rpartition("\n")
    try:
        return [json.loads(line) for line in complete.splitlines()]
    except ValueError as error:
        raise UserError(f"{path} has a line that is not JSON: {error}") from None


# ---- arrays


def save_arrays(path: Path, arrays: Mapping[str, Array], /, **metadata: Any) -> None:
    """Write named arrays, and metadata as JSON, to a safetensors file. The same content gives the same bytes.

    All metadata is stored under one key, because safetensors writes several keys in a random order.
    """
    on_host = {name: np.asarray(to_host(array), order="C") for name, array in arrays.items()}
    write_whole(path, safetensors.numpy.save(on_host, {"minizone": json.dumps(metadata)}))


def load_arrays(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read the arrays and the metadata of a safetensors file. Raises UserError if it is missing or damaged.

    The metadata is {} if another program wrote the file.
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
    """Write named arrays as an .npz file. Reading it needs only NumPy."""
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    write_whole(path, content.getvalue())


def prefixed(prefix: str, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Put a prefix before the names: ``{"W": ...}`` becomes ``{"prefix.W": ...}``."""
    return {f"{prefix}.{name}": array for name, array in arrays.items()}


def without_prefix(prefix: str, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """The arrays whose names start with ``prefix.``, without that prefix."""
    return {name.removeprefix(prefix + "."): a for name, a in arrays.items() if name.startswith(prefix + ".")}


# ---- whole runs


def read_run(path: Path) -> Run:
    """Read a run as a dict: its ``name``, its ``config``, the ``rows`` of its epochs, and its ``summary``.

    ``path`` is a run folder, or a JSON file that `minizone.runs.report.save_runs` made from one. The summary is None if
    the run has not finished. The name of a run in the folder `lstm/seed1` is "lstm-seed1". Raises UserError if ``path``
    is not a run, or if the row of its best epoch is missing.
    """
    if path.is_file():
        run = read_json(path)
        if not isinstance(run, dict) or not {"config", "rows", "summary"} <= run.keys():
            raise UserError(f"{path} is not a run: it must have config, rows and summary")
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
        raise UserError(f"{path} has no row in its log for epoch {run['summary']['best_epoch']}, its best epoch")
    return run


def _name(path: Path) -> str:
    return path.name if not re.fullmatch(r"seed\d+", path.name) else f"{path.parent.name}-{path.name}"
