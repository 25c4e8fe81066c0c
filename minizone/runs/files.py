"""A run's files: JSON, rows of JSON, and safetensors; each appears whole or not at all."""

from __future__ import annotations

import io
import json
import os
import reprlib
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
import safetensors
import safetensors.numpy

from minizone.backend import Array, to_host
from minizone.errors import UserError


def write_whole(path: Path, content: bytes, put_aside: Path | None = None) -> None:
    """Write a file under a temporary name, bring it to the disk, and rename it: at no moment is there half a file.

    ``put_aside`` is the name that the file which was there before gets.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if put_aside and path.exists():
            os.replace(path, put_aside)
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise UserError(f"cannot write {path}: {error.strerror}") from None
    with suppress(OSError):  # the new name must survive a power cut too; not every system can be told so
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def rename(path: Path, to: Path) -> None:
    """Give a file the name of another, which it replaces."""
    try:
        os.replace(path, to)
    except OSError as error:
        raise UserError(f"cannot rename {path} to {to}: {error.strerror}") from None


def is_at(file: IO[bytes], path: Path) -> bool:
    """Whether an open file is still the one of that path."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def write_json(path: Path, value: Any) -> None:
    write_whole(path, (json.dumps(value, indent=2) + "\n").encode())


def read_json(path: Path) -> Any:
    """The content of a JSON file; UserError when it is missing or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: {path.parent} is not the folder of a run") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Add one line to a .jsonl file."""
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())  # a checkpoint of later, which is on the disk, counts on it
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a .jsonl file; a last line that was cut off by a crash does not count."""
    if not path.exists():
        return []
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            if number < len(lines):
                raise UserError(f"{path}, line {number} is not JSON: the file was edited or is damaged") from None
            continue
        check_fields(f"{path}, line {number}", row, epoch=int)
        rows.append(row)
    return rows


def check_fields(where: str, found: Any, **kinds: Any) -> None:
    """UserError unless ``found`` is a dict whose fields have these types; True is no number."""
    for name, kind in kinds.items():
        value = found.get(name) if isinstance(found, dict) else found
        good = isinstance(found, dict) and isinstance(value, kind) and not isinstance(value, bool)
        if not good or (isinstance(value, int) and abs(value) >= 2**63):
            problem = f"{name!r} is {reprlib.repr(value)}" if isinstance(found, dict) else reprlib.repr(found)
            raise UserError(f"{where} is not of a run, or damaged: {problem}")


def save_arrays(path: Path, arrays: Mapping[str, Array], put_aside: Path | None = None, /, **metadata: Any) -> None:
    """Write named arrays and JSON-able metadata, and a checksum of both, as a safetensors file."""
    on_host = {name: np.asarray(to_host(array), order="C") for name, array in arrays.items()}
    words = {key: json.dumps(value) for key, value in metadata.items()}
    words["crc32"] = str(_checksum(on_host, words))
    write_whole(path, safetensors.numpy.save(on_host, words), put_aside)


def _checksum(arrays: Mapping[str, np.ndarray], words: Mapping[str, str]) -> int:
    """The crc32 of names, types, shapes, numbers and words: a file can have its length, and zeros for numbers."""
    crc = zlib.crc32(json.dumps(sorted(words.items())).encode())
    for name in sorted(arrays):
        array = arrays[name]
        crc = zlib.crc32(f"{name} {array.dtype} {array.shape}".encode(), crc)
        crc = zlib.crc32(array.reshape(-1).view(np.uint8).data, crc)
    return crc


def write_npz(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write named arrays as an .npz file, for whoever wants to read them with NumPy alone."""
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    write_whole(path, content.getvalue())


def load_arrays(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and metadata of a file that `save_arrays` wrote; UserError when it is missing or damaged."""
    try:
        with safetensors.safe_open(path, framework="np") as file:
            words = dict(file.metadata() or {})
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        crc = words.pop("crc32", None)  # files that others made have none
        if crc is not None and crc != str(_checksum(arrays, words)):
            raise ValueError("its checksum is wrong")
        return arrays, {key: json.loads(value) for key, value in words.items()}
    except FileNotFoundError:
        raise UserError(f"there is no checkpoint {path}") from None
    except (safetensors.SafetensorError, ValueError, OSError, TypeError, AttributeError, RecursionError) as error:
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
        run = {**run, "name": path.stem}
    else:
        run = {
            "name": path.resolve().name,
            "config": read_json(path / "config.json"),
            "rows": read_rows(path / "metrics.jsonl"),
            "summary": read_json(path / "summary.json") if (path / "summary.json").exists() else None,
        }
    _check_run(path, run)
    return run


def _check_run(path: Path, run: dict[str, Any]) -> None:
    """UserError unless what tables and figures read of a run is there, and of the right kind."""
    config, number = run["config"], (int, float)
    where = f"the config of {path}"
    check_fields(where, config, task=str, metric=str, unit=str, machine=str)
    check_fields(where, config, settings=dict, changed=dict, dataset=dict, reference=dict)
    check_fields(where, config["settings"], preset=str, seed=int)
    check_fields(where, config["dataset"], name=str)
    for numbers in config["reference"].values():
        check_fields(where, numbers, valid=number, test=number)
    metric = config["metric"]
    check_fields(f"the log of {path}", run, rows=list)
    for row in run["rows"]:
        check_fields(f"the log of {path}", row, **{"epoch": int, f"train_{metric}": number, f"valid_{metric}": number})
    if run["summary"] is not None:
        best, test = f"best_valid_{metric}", f"test_{metric}"
        kinds = {"best_epoch": int, best: number, test: number, "seconds": number}
        check_fields(f"the summary of {path}", run["summary"], **kinds)
