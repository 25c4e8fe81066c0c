"""A run's files: JSON, rows of JSON, and safetensors; each appears whole or not at all."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from minizone.backend import Array, to_host
from minizone.errors import UserError


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, bring it to the disk, and rename it: at no moment is there half a file."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"cannot write {path}: {error.strerror}") from None


def write_json(path: Path, value: Any) -> None:
    write_whole(path, (json.dumps(value, indent=2) + "\n").encode())


def read_json(path: Path) -> Any:
    """The content of a JSON file; UserError when it is missing or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: {path.parent} is not the folder of a run") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Add one line to a .jsonl file."""
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a .jsonl file; a last line that was cut off by a crash does not count."""
    if not path.exists():
        return []
    rows = []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except ValueError:
            if number < len(lines):
                raise UserError(f"{path}, line {number} is not JSON: the file was edited or is damaged") from None
    return rows


def save_arrays(path: Path, arrays: Mapping[str, Array], **metadata: Any) -> None:
    """Write named arrays and JSON-able metadata as a safetensors file."""
    on_host = {name: np.ascontiguousarray(to_host(array)) for name, array in arrays.items()}
    write_whole(path, safetensors.numpy.save(on_host, {key: json.dumps(value) for key, value in metadata.items()}))


def write_npz(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write named arrays as an .npz file, for whoever wants to read them with NumPy alone."""
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    write_whole(path, content.getvalue())


def load_arrays(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and metadata of a file that `save_arrays` wrote; UserError when it is missing or damaged."""
    try:
        with safetensors.safe_open(path, framework="np") as file:
            metadata = {key: json.loads(value) for key, value in (file.metadata() or {}).items()}
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118
    except FileNotFoundError:
        raise UserError(f"there is no checkpoint {path}") from None
    except (safetensors.SafetensorError, ValueError, OSError) as error:
        raise UserError(f"{path} is not a readable checkpoint: {error}") from None


def prefixed(prefix: str, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """``{"W": ...}`` as ``{"prefix.W": ...}``."""
    return {f"{prefix}.{name}": array for name, array in arrays.items()}


def without_prefix(prefix: str, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """The arrays whose name starts with ``prefix.``, under the rest of their names."""
    return {name.removeprefix(prefix + "."): a for name, a in arrays.items() if name.startswith(prefix + ".")}


def read_run(path: Path) -> dict[str, Any]:
    """A run as a dict: its ``config``, the ``rows`` of its epochs and, once it has ended, its ``summary``.

    ``path`` is a run folder, or a JSON file that `save_run` made of one.
    """
    if path.is_file():
        run = read_json(path)
        if not isinstance(run, dict) or not {"config", "rows", "summary"} <= run.keys():
            raise UserError(f"{path} is not a run: it has no config, rows and summary")
        return {"name": path.stem, **run}
    config = read_json(path / "config.json")
    summary = read_json(path / "summary.json") if (path / "summary.json").exists() else None
    return {
        "name": path.resolve().name,
        "config": config,
        "rows": read_rows(path / "metrics.jsonl"),
        "summary": summary,
    }
