"""Load an adapter by its name, check it against all invariants, and print the results."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np

from minizone.conformance.implementation import Adapter, Implementation, NotOffered
from minizone.conformance.invariants import INVARIANTS, Invariant
from minizone.errors import UserError

STATUSES = ("pass", "FAIL", "not offered")


@dataclass(frozen=True)
class Result:
    """The result of a check: the invariant, its status, one of `STATUSES`, and what was seen."""

    invariant: Invariant
    status: str
    seen: str


def conform(adapter: Adapter) -> list[Result]:
    """Check all invariants on an adapter class, in the order of `INVARIANTS`.

    Raises
    ------
    UserError
        The adapter raises anything but NotOffered, or returns something other than the arrays it should.
    """
    results = []
    with np.errstate(all="ignore"):  # some bugs divide 0 by 0; NaN fails a check
        tested = Implementation(adapter)
        for invariant in INVARIANTS:
            try:
                passed, seen = invariant.check(tested)
                results.append(Result(invariant, "pass" if passed else "FAIL", seen))
            except NotOffered as reason:
                results.append(Result(invariant, "not offered", str(reason)))
    return results


def table(results: list[Result]) -> str:
    """Format results: a row for each invariant, and a last line with the number of each status."""
    rows = [("invariant", "result", "seen", "fails with")]
    for result in results:
        invariant = result.invariant
        rows.append((f"{invariant.name}: {invariant.claim}", result.status, result.seen, invariant.bugs))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = []
    for *cells, bugs in rows:
        padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
        lines.append("  ".join([*padded, bugs]))
    statuses = [result.status for result in results]
    counts = ", ".join(f"{statuses.count(status)} {status}" for status in STATUSES)
    return "\n".join([*lines, f"{len(results)} invariants: {counts}", ""])


def load(name: str) -> Adapter:
    """The class of "MODULE:ADAPTER", where MODULE is a .py file or an importable module."""
    module_name, _, class_name = name.rpartition(":")
    if not module_name or not class_name:
        raise UserError(f"expected MODULE:ADAPTER, for example minizone.conformance:Layer, got {name!r}")
    in_a_file = module_name.endswith(".py")
    try:
        module = load_file(Path(module_name)) if in_a_file else import_from(os.getcwd(), module_name)
    except UserError:
        raise
    except ModuleNotFoundError as error:
        missing = (
            f"needs {error.name}, which is not installed" if error.name != module_name else "is not a file or a module"
        )
        raise UserError(f"{module_name} {missing}") from error
    except Exception as error:
        message = " ".join(str(error).split())
        raise UserError(f"{module_name} cannot be imported: {type(error).__name__}: {message}") from error
    if not callable(getattr(module, class_name, None)):
        classes = [
            n for n, v in vars(module).items() if isinstance(v, type) and v.__module__.startswith(module.__name__)
        ]
        raise UserError(
            f"there is no class {class_name!r} in {module_name}; its classes: {', '.join(classes) or 'none'}"
        )
    return getattr(module, class_name)


def load_file(path: Path) -> ModuleType:
    """Import a file as a module. It can import the files beside it."""
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(f"conformance_of_{path.stem}", path)
    assert spec and spec.loader  # not None for a name that ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.resolve().parent))
    try:
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.resolve().parent))
    return module


def import_from(folder: str, module_name: str) -> ModuleType:
    """Import a module that is installed or lies in the folder."""
    sys.path.insert(0, folder)
    try:
        return importlib.import_module(module_name)
    finally:
        sys.path.remove(folder)
