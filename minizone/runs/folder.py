"""The run folder: the lock, the config, the checkpoints, and how a run is resumed.

A process can be killed between any two writes. An epoch ends with these writes, in this order:

    best.safetensors     if the epoch is the best so far
    metrics.jsonl        one more row
    last.safetensors     the checkpoint

A run is resumed from last.safetensors alone. If the process was killed before that file was written, the epoch is
trained again and gives the same numbers. Its row, which is later than the checkpoint, is removed and written again, and
best.safetensors is overwritten.

Two runs with the same settings and the same folder name, on the same machine and with the same versions, write the same
bytes to best.safetensors, config.json, vocabulary.json, the figures, and the files of `run.py export`. The other files
(metrics.jsonl, summary.json, last.safetensors) contain times. The arrays in last.safetensors are the same.
"""

from __future__ import annotations

import math
import platform
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

import minizone
from minizone.errors import UserError
from minizone.optim import Optimizer
from minizone.runs import files
from minizone.runs.experiment import Experiment
from minizone.runs.settings import RunSettings
from minizone.runs.torch_names import from_torch, is_torch

FILES = ("config.json", "metrics.jsonl", "best.safetensors", "last.safetensors", "summary.json")
TEXTS = ("text", "valid_text", "test_text")  # settings that name text files of the user
MAY_CHANGE = {  # settings that a resumed run may change
    "epochs", "patience", "max_minutes", "out", "resume", "data_dir", "device", "load_path", "test_cost", "offline",
    *TEXTS,  # the paths can change, the sha256 of the texts cannot
}  # fmt: skip


@dataclass
class Progress:
    """The counters of a run. A checkpoint stores them with the parameters and the optimizer's state."""

    epoch: int = 1  # the epoch that is being trained
    update: int = 0  # updates made in this epoch
    updates: int = 0  # updates made in all epochs
    seconds: float = 0.0
    measure_sum: float = 0.0  # over the examples (symbols, words) of this epoch
    measure_count: int = 0
    norm_sum: float = 0.0  # of the gradient norms of this epoch
    best_valid: float = math.inf
    best_epoch: int = 0
    task_changed: bool = False  # since the last validation: the next result counts as the best
    finished: bool = False  # early, because of --patience


@contextmanager
def locked(folder: Path, already: str = "another process is training") -> Iterator[None]:
    """Lock a folder against other processes. It is created if needed, and removed at the end if it is empty.

    The kernel releases the lock when the process ends, even if it is killed.

    Raises
    ------
    UserError
        Another process has the lock (``already`` begins the message), or the folder cannot be created or written.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    lock = FileLock(folder / "lock")
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except Timeout:
            raise UserError(f"{already} in {folder}: wait until it ends, or choose another folder (--out)") from None
        except OSError as error:
            raise UserError(f"cannot write in the run folder {folder}: {error.strerror}") from None
        try:
            yield
        finally:
            with suppress(OSError):
                (folder / "lock").unlink()  # before the release: afterwards the file can be another process's
            lock.release()
    finally:
        with suppress(OSError):  # a folder is not empty
            for path in made:
                path.rmdir()


@contextmanager
def new_run(folder: Path) -> Iterator[None]:
    """A context for a new run: an exception before its first checkpoint removes its files.

    The same command can then be given again. Raises UserError, and keeps all files, if the folder already has a run.
    """
    if (folder / "config.json").exists():
        raise UserError(
            f"{folder} holds a run already: continue it with `run.py resume {folder}`, or choose another folder (--out)"
        )
    for name in FILES:
        if (folder / name).exists():
            raise UserError(f"{folder} holds {name} of a run that has no config.json: choose another folder (--out)")
    try:
        yield
    except BaseException:
        if not (folder / "last.safetensors").exists():
            for name in (*FILES, "vocabulary.json"):
                (folder / name).unlink(missing_ok=True)
        raise


def start(experiment: Experiment, folder: Path) -> Progress:
    """Write the files that the experiment needs, then the config of a new run, and return its progress."""
    experiment.begin(folder)
    files.write_json(
        folder / "config.json",
        {
            "task": experiment.task,
            "metric": experiment.metric,
            "unit": experiment.unit,
            **settings_in_config(experiment),
            "dataset": {"name": experiment.data.name, "sha256": experiment.data.sha256},
            "reference": experiment.reference,
            "machine": experiment.device.description,
            "commit": commit(),
            "versions": {
                "minizone": minizone.__version__,
                "python": platform.python_version(),
                "numpy": version("numpy"),
                "safetensors": version("safetensors"),
                **experiment.device.versions,
            },
        },
    )
    return Progress()


def settings_in_config(experiment: Experiment) -> dict[str, dict[str, Any]]:
    """The part of config.json that a resumed run may change: all settings, and those that differ from the preset.

    In ``settings`` paths are absolute, so that the run can be resumed from any folder. In ``changed``, which reports
    show, a text of the user is given by its file name.
    """
    preset = experiment.presets[experiment.settings.preset]
    settings = {name: value for name, value in asdict(experiment.settings).items() if name not in ("out", "resume")}
    changed = {name: value for name, value in settings.items() if value != getattr(preset, name)}
    given = [name for name in (*TEXTS, "data_dir") if settings.get(name)]
    return {
        "settings": {name: None if value == math.inf else value for name, value in settings.items()}
        | {name: str(Path(settings[name]).absolute()) for name in given},
        "changed": changed | {name: Path(settings[name]).name for name in TEXTS if name in given},
    }


@cache
def commit() -> str | None:
    """The git commit of minizone, followed by "-dirty" if files have changed since; None without a checkout."""
    checkout = Path(minizone.__file__).parents[1]
    if not (checkout / ".git").exists():
        return None
    describe = ["git", "--no-optional-locks", "describe", "--always", "--exclude=*", "--abbrev=40", "--dirty"]
    try:
        done = subprocess.run(describe, cwd=checkout, capture_output=True, text=True, check=True, timeout=5)
    except (OSError, subprocess.SubprocessError):  # git is missing, or cannot read this checkout
        return None
    return done.stdout.strip()


# ---- checkpoints


def save_checkpoint(experiment: Experiment, optimizer: Optimizer, progress: Progress, folder: Path) -> None:
    """Write last.safetensors, from which the run continues as if it had not been interrupted."""
    arrays = {
        **files.prefixed("model", experiment.model.state_dict()),
        **files.prefixed("optimizer", optimizer.state_dict()),
        **files.prefixed("carried", experiment.carried()),
    }
    files.save_arrays(folder / "last.safetensors", arrays, progress=asdict(progress), memory=experiment.memory)


def load_checkpoint(experiment: Experiment, optimizer: Optimizer, folder: Path) -> Progress:
    """Load last.safetensors. Raises UserError if it is damaged or belongs to another model."""
    path = folder / "last.safetensors"
    arrays, metadata = files.load_arrays(path)
    if "progress" not in metadata:
        raise UserError(f"{path} is not a checkpoint of this run: it has no record of the progress of the run")
    try:
        experiment.model.load_state_dict(files.without_prefix("model", arrays))
        optimizer.load_state_dict(files.without_prefix("optimizer", arrays))
    except ValueError as error:
        raise UserError(f"{path} is not a checkpoint of this run: {error}") from None
    experiment.load_carried(files.without_prefix("carried", arrays))
    experiment.memory = metadata["memory"]
    return Progress(**metadata["progress"])


def is_finished(folder: Path, settings: RunSettings) -> bool:
    """Whether a run has been trained and tested, and ``settings`` leave no epochs to train."""
    if not (folder / "summary.json").exists():
        return False
    _, metadata = files.load_arrays(folder / "last.safetensors")
    return "progress" in metadata and nothing_left(Progress(**metadata["progress"]), settings)


def nothing_left(progress: Progress, settings: RunSettings) -> bool:
    """Whether all epochs have been trained, or --patience, which may have changed, has run out."""
    epochs_without_best = progress.epoch - 1 - progress.best_epoch
    return progress.epoch > settings.epochs or (progress.finished and 0 < settings.patience <= epochs_without_best)


def resume(experiment: Experiment, optimizer: Optimizer, folder: Path, say: Callable[[str], None]) -> Progress:
    """Load the checkpoint, or start from the beginning if there is none. Write the new settings to config.json.

    Raises UserError if the data or a setting outside ``MAY_CHANGE`` changed, or if the checkpoint is damaged.
    """
    config = files.read_json(folder / "config.json")
    before, now = config["dataset"], {"name": experiment.data.name, "sha256": experiment.data.sha256}
    refuse_changes(
        folder,
        {"task": config["task"], **config["settings"], "dataset": before["name"]},
        {"task": experiment.task, **asdict(experiment.settings), "dataset": now["name"]},
    )
    both = before["sha256"] | now["sha256"]
    changed = [name for name in both if before["sha256"].get(name) != now["sha256"].get(name)]
    if changed:
        raise UserError(f"cannot resume {folder}: {', '.join(changed)} changed since the run began")
    experiment.begin(folder)
    if (folder / "last.safetensors").exists():
        progress = load_checkpoint(experiment, optimizer, folder)
        progress.finished = nothing_left(progress, experiment.settings)
    else:
        say(f"there is no checkpoint in {folder} yet: the run starts from the beginning")
        progress = Progress()
    new_config = config | settings_in_config(experiment)
    if new_config != config:
        files.write_json(folder / "config.json", new_config)
    log = folder / "metrics.jsonl"
    files.write_rows(log, [row for row in files.read_rows(log) if row["epoch"] < progress.epoch])
    return progress


def refuse_changes(folder: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise UserError if settings outside ``MAY_CHANGE`` differ, as in "learning_rate was 0.002, is 0.1"."""
    differences = [
        f"{name} was {before.get(name)}, is {value}"
        for name, value in now.items()
        if name not in MAY_CHANGE and before.get(name) != value
    ]
    if differences:
        raise UserError(f"cannot resume {folder} with other settings: {'; '.join(differences)}")


# ---- parameters alone


def save_best(experiment: Experiment, progress: Progress, folder: Path) -> None:
    """Write best.safetensors: the parameters, with their epoch and validation result as metadata."""
    metadata = {"epoch": progress.best_epoch, f"valid_{experiment.metric}": progress.best_valid}
    files.save_arrays(folder / "best.safetensors", experiment.model.state_dict(), **metadata)


def load_best(experiment: Experiment, progress: Progress, folder: Path) -> None:
    """Load the parameters of the best epoch. Raises UserError if the file is missing or from another epoch."""
    path = folder / "best.safetensors"
    arrays, metadata = files.load_arrays(path)
    if "epoch" not in metadata:
        raise UserError(f"{path} is not a checkpoint of this run: it does not say which epoch it is from")
    if metadata["epoch"] != progress.best_epoch:  # killed before the checkpoint, and resumed with fewer epochs
        raise UserError(
            f"{path} is of epoch {metadata['epoch']}, and the best of the {progress.epoch - 1} epochs that were trained"
            f" is {progress.best_epoch}: continue with --epochs {metadata['epoch']} or more"
        )
    experiment.model.load_state_dict(arrays)


def load_parameters(experiment: Experiment, path: Path) -> None:
    """Load the parameters of --load-path: best or last.safetensors, or a file with PyTorch's names.

    Raises UserError if they belong to another model.
    """
    arrays, _ = files.load_arrays(path)
    try:
        if is_torch(arrays):
            arrays = from_torch(arrays, experiment.model.state_dict())
        experiment.model.load_state_dict(files.without_prefix("model", arrays) or arrays)
    except ValueError as error:
        raise UserError(f"--load-path {path} holds another model: {error}") from None
