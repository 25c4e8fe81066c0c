"""The folder of a run: who may write it, how it begins, what a checkpoint is, and how a run goes on from one.

A process can be killed at any moment, between any two writes. So every file appears whole, the checkpoint before the
last is kept while a run trains, and a checkpoint counts as good when all that the run needs to end as if nothing had
happened is there: its arrays, the rows of the epochs before it, and the best parameters so far.
"""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

import minizone
from minizone.errors import UserError
from minizone.optim import Optimizer
from minizone.runs import files
from minizone.runs.experiment import Experiment
from minizone.runs.torch_names import from_torch, is_torch

try:
    import fcntl
except ImportError:  # Windows: two runs in one folder are not noticed
    fcntl = None  # type: ignore[assignment]

MAY_CHANGE = {  # between run and resume
    "epochs", "patience", "max_minutes", "out", "resume", "data_dir", "device", "load_path", "test_cost",
    "write_predictions", "offline",
}  # fmt: skip


@dataclass
class Progress:
    """Where a run stands; with the parameters and the optimizer, all that a checkpoint needs."""

    epoch: int = 1  # the one that is being trained
    update: int = 0  # updates made in it
    updates: int = 0  # updates made in all
    seconds: float = 0.0
    measure_sum: float = 0.0  # over the examples (symbols, words) of this epoch
    measure_count: int = 0
    norm_sum: float = 0.0  # of the gradients of this epoch
    best_valid: float = math.inf
    best_epoch: int = 0
    changed: bool = False  # the task, since: the next result is the best one in any case
    done: bool = False


@contextmanager
def claimed(folder: Path, new: bool) -> Iterator[None]:
    """While inside, the folder is this process's alone; a ``new`` one is made, and goes again if nothing is left in it.

    The lock is the kernel's, on the open file ``lock``: it ends with its process, in whatever way that ends.

    Raises
    ------
    UserError
        Another process has it; it cannot be made or written; it is not new and there is no run in it.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    if new:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot make the run folder {folder}: {error.strerror}") from None
    else:
        files.read_json(folder / "config.json")
    try:
        with _lock(folder / "lock"):
            yield
    finally:
        with suppress(OSError):  # there is something in it
            for path in made:
                path.rmdir()


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold the lock file; it is gone afterwards."""
    while True:
        try:
            file = open(path, "wb")  # noqa: SIM115  closed by the next `with`
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}") from None
        with file:
            try:
                if fcntl:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"another process trains in {path.parent}: wait until it has ended, or choose another --out"
                ) from None
            except OSError:
                pass  # a file system without locks
            if not files.is_at(file, path):
                continue  # its owner has ended and removed it since we opened it: this lock would lock nobody out
            try:
                yield
            finally:
                with suppress(OSError):
                    path.unlink()  # while it is still held
            return


def begin(experiment: Experiment, folder: Path) -> Progress:
    """Write the config of a new run; UserError when the folder has one."""
    if (folder / "config.json").exists():
        raise UserError(f"{folder} holds a run already: go on with it with --resume, or choose another --out")
    settings, preset = asdict(experiment.settings), experiment.presets[experiment.settings.preset]
    files.write_json(
        folder / "config.json",
        {
            "task": experiment.task,
            "metric": experiment.metric,
            "unit": experiment.unit,
            "settings": {k: (None if v == math.inf else v) for k, v in settings.items() if k not in ("out", "resume")},
            "changed": {k: v for k, v in settings.items() if k not in ("out", "resume") and v != getattr(preset, k)},
            "dataset": {"name": experiment.data.name, "sha256": experiment.data.sha256},
            "reference": experiment.reference,
            "machine": experiment.device.description,
            "versions": {
                "minizone": minizone.__version__,
                "python": platform.python_version(),
                **{package: version(package) for package in ("numpy", "safetensors")},
                **experiment.device.versions,
            },
        },
    )
    return Progress()


@contextmanager
def all_or_nothing(folder: Path) -> Iterator[None]:
    """What fails inside before there is a checkpoint takes along the files that it has made in the folder."""
    try:
        yield
    except (UserError, OSError, MemoryError):
        if not (folder / "last.safetensors").exists() and not (folder / "previous.safetensors").exists():
            for name in ("config.json", "metrics.jsonl", "best.safetensors"):
                (folder / name).unlink(missing_ok=True)
        raise


def save(experiment: Experiment, optimizer: Optimizer, progress: Progress, folder: Path) -> None:
    """Write last.safetensors; the one that was there becomes previous.safetensors."""
    arrays = files.prefixed("model", experiment.model.state_dict())
    arrays |= files.prefixed("optimizer", optimizer.state_dict())
    arrays |= files.prefixed("carried", experiment.carried())
    files.save_arrays(
        folder / "last.safetensors",
        arrays,
        folder / "previous.safetensors",
        progress=asdict(progress),
        memory=experiment.memory,
    )


def go_on(experiment: Experiment, optimizer: Optimizer, folder: Path, say: Any) -> Progress:
    """Load the last good checkpoint into the model and the optimizer, and cut the log back to it."""
    differences = _differences(experiment, folder / "config.json")
    if differences:
        raise UserError(f"cannot resume {folder} with other settings: {'; '.join(differences)}")
    for half in folder.glob("*.tmp"):  # of a process that was killed while it wrote
        half.unlink(missing_ok=True)
    log = folder / "metrics.jsonl"
    rows = files.read_rows(log)
    last, previous = folder / "last.safetensors", folder / "previous.safetensors"
    if not last.exists() and not previous.exists():
        say(f"there is no checkpoint in {folder} yet: the run begins again")
        progress = Progress()
    else:
        try:
            progress = _load(experiment, optimizer, last, rows)
        except UserError as damage:
            if not previous.exists():
                raise
            progress = _load(experiment, optimizer, previous, rows)
            say(f"{damage}; going on from the checkpoint before it, epoch {progress.epoch}, update {progress.update}")
            files.rename(previous, last)  # what the next checkpoint puts aside must be a good one
    progress.done = False  # --patience may have changed
    content = "".join(json.dumps(row) + "\n" for row in rows if row["epoch"] < progress.epoch).encode()
    if not log.exists() or log.read_bytes() != content:
        files.write_whole(log, content)
    return progress


def _differences(experiment: Experiment, path: Path) -> list[str]:
    """What cannot change between run and resume, and has: "learning_rate was 0.002, is 0.1"."""
    config = files.read_json(path)
    data = {"name": experiment.data.name, "sha256": experiment.data.sha256}
    now = {"task": experiment.task, **asdict(experiment.settings), "dataset": data["name"], "sha256": data["sha256"]}
    try:
        data = config["dataset"]
        before = {"task": config["task"], **config["settings"], "dataset": data["name"], "sha256": data["sha256"]}
    except (KeyError, TypeError):
        raise UserError(f"{path} is not the config of a run: task, settings or dataset are missing") from None
    return [
        f"{name} was {before.get(name)}, is {now.get(name)}"
        for name in {**now, **before}
        if name not in MAY_CHANGE and before.get(name) != now.get(name)
    ]


def _load(experiment: Experiment, optimizer: Optimizer, path: Path, rows: list[dict[str, Any]]) -> Progress:
    """Load a checkpoint; UserError unless it is whole, of this run, and all that lies before it is there."""
    arrays, metadata = files.load_arrays(path)
    try:
        progress = replace(Progress(), **metadata["progress"])
        experiment.model.load_state_dict(files.without_prefix("model", arrays))
        optimizer.load_state_dict(files.without_prefix("optimizer", arrays))
        experiment.recall(files.without_prefix("carried", arrays))
        experiment.memory = metadata["memory"]
    except KeyError as error:
        raise UserError(f"{path} is not a checkpoint of this run: it has no {error}") from None
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} is not a checkpoint of this run: {error}") from None
    logged = [row["epoch"] for row in rows if row["epoch"] < progress.epoch]
    if logged != [*range(1, progress.epoch)]:
        raise UserError(
            f"{path} is behind epoch {progress.epoch - 1}, and {path.with_name('metrics.jsonl')} lacks rows before it"
        )
    if progress.best_epoch:
        _, best = best_parameters(experiment, path.parent)
        if best != progress.best_epoch and best < progress.epoch:  # a later one will be trained, and written, again
            raise UserError(
                f"{path} needs the parameters of epoch {progress.best_epoch}, best.safetensors is of {best}"
            )
    return progress


def best_parameters(experiment: Experiment, folder: Path) -> tuple[dict[str, np.ndarray], int]:
    """best.safetensors and its epoch; UserError when it is missing, damaged or of another model."""
    path = folder / "best.safetensors"
    arrays, metadata = files.load_arrays(path)
    shapes = [{name: a.shape for name, a in each.items()} for each in (arrays, experiment.model.state_dict())]
    if shapes[0] != shapes[1] or "epoch" not in metadata:
        raise UserError(f"{path} does not hold the parameters of this run")
    return arrays, metadata["epoch"]


def load_parameters(experiment: Experiment, path: Path) -> None:
    """Parameters from a checkpoint, or a file in the names of PyTorch; UserError when they are of another model."""
    arrays, _ = files.load_arrays(path)
    try:
        if is_torch(arrays):
            arrays = from_torch(arrays, experiment.model.state_dict())
        experiment.model.load_state_dict(files.without_prefix("model", arrays) or arrays)
    except ValueError as error:
        raise UserError(f"--load-path {path} holds another model: {error}") from None
