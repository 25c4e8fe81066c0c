"""The training loop: updates, validation, the log, checkpoints, and an orderly stop.

All random numbers of an update come from streams that are keyed by (seed, purpose, epoch, update). A checkpoint
therefore holds the parameters, the optimizer's state and a few counters, but no generators. A resumed run equals the
uninterrupted one, bit for bit.
"""

from __future__ import annotations

import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from minizone.backend import Array, keep_freed_memory, stream, to_numbers
from minizone.errors import UserError
from minizone.layers.regularizers import l2_penalty, weight_noise
from minizone.optim import Optimizer, make
from minizone.runs import files
from minizone.runs import folder as run_folder
from minizone.runs.experiment import Experiment
from minizone.runs.folder import Progress
from minizone.runs.plotting import plot_runs

Say = Callable[[str], None]
Stop = Callable[[], bool]


class Interrupted(Exception):
    """The run has written a checkpoint and stopped. ``status`` is the exit status of the program."""

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status


class UpdateResult(NamedTuple):
    """What is known after an update. On a GPU the numbers are arrays () that have not been copied to the host."""

    loss: Array
    measure: Array | float  # see `minizone.runs.experiment.Measured`
    measure_count: int
    grad_norm: Array | float


def never() -> bool:
    return False


def fit(experiment: Experiment, folder: Path, say: Say = print, stop: Stop = never) -> dict[str, Any]:
    """Train, validate after each epoch, keep the best parameters, and test them at the end.

    Returns the content of summary.json. An exception before the first checkpoint leaves no files of a new run; later,
    the run can be resumed. ``stop`` is called after each update; if it returns True, the run saves a checkpoint and
    stops. Outside the main thread, signals do not stop the run; ``stop`` and ``max_minutes`` do.

    Raises
    ------
    UserError
        The loss is no longer finite, a file cannot be written, a resumed run has other settings, or another process is
        training in the folder.
    Interrupted
        After SIGINT, SIGTERM, ``max_minutes`` or ``stop``; a checkpoint has been written.
    """
    settings = experiment.settings
    keep_freed_memory()
    optimizer = make(
        settings.algorithm,
        experiment.model.parameters(),
        settings.learning_rate,
        clip=settings.clipping,
        clip_what=settings.clip_what,
        momentum=settings.momentum,
        decay=settings.rms_decay,
    )
    if settings.resume:
        files.read_json(folder / "config.json")  # UserError if it is not the folder of a run
    elif settings.load_path:
        run_folder.load_parameters(experiment, Path(settings.load_path))
    with run_folder.locked(folder):
        if settings.resume:
            progress = run_folder.resume(experiment, optimizer, folder, say)
            train(experiment, optimizer, progress, folder, say, stop)
        else:
            with run_folder.new_run(folder):
                progress = run_folder.start(experiment, folder)
                train(experiment, optimizer, progress, folder, say, stop)
        return summarize(experiment, progress, folder, say)


def train(
    experiment: Experiment, optimizer: Optimizer, progress: Progress, folder: Path, say: Say, stop: Stop = never
) -> None:
    """Run the remaining updates and epochs. Raises the exceptions of `fit`."""
    settings, device = experiment.settings, experiment.device
    if device.free_memory is not None:
        say(f"device {device.name}: {device.description}, {device.free_memory / 2**30:.1f} GiB free")
    parameters = sum(parameter.data.size for parameter in experiment.model.parameters())
    say(f"{experiment.task} on {experiment.data.name}, {parameters:,} parameters, run folder {folder}")
    start = time.monotonic() - progress.seconds
    deadline = time.monotonic() + 60 * settings.max_minutes

    with stop_signals() as signals:
        while progress.epoch <= settings.epochs and not progress.finished:
            batches = experiment.batches(progress.epoch)
            optimizer.learning_rate = experiment.learning_rate(progress.epoch)
            results: list[UpdateResult] = []  # not yet copied to the host
            reason = ""  # to stop
            with progress_bar(progress, len(batches)) as bar:
                for index in range(progress.update, len(batches)):
                    results.append(train_on_batch(experiment, optimizer, batches[index], progress.epoch, index + 1))
                    if signals:
                        reason = f"stopped by {signal.Signals(signals[0]).name}"
                    elif time.monotonic() >= deadline:
                        reason = "stopped after --max-minutes"
                    elif stop():
                        reason = "stopped"
                    if reason or index + 1 == len(batches) or len(results) == device.updates_per_look:
                        read_results(results, progress, settings.learning_rate, folder)
                        bar.update(len(results))
                        metric = train_metric(experiment, progress)
                        bar.set_postfix_str(f"{experiment.metric} {metric:.3f}", refresh=False)
                        results.clear()
                    if reason:
                        break

            progress.seconds = time.monotonic() - start
            if reason:
                run_folder.save_checkpoint(experiment, optimizer, progress, folder)
                raise Interrupted(
                    f"{reason} in epoch {progress.epoch} after update {progress.update}; saved in {folder}; continue"
                    f" with `run.py resume {folder}`, or with the same command and --resume",
                    128 + signals[0] if signals else 0,
                )
            finish_epoch(experiment, optimizer, progress, folder, say)
            progress.seconds = time.monotonic() - start  # including validation


def train_on_batch(experiment: Experiment, optimizer: Optimizer, batch: Any, epoch: int, update: int) -> UpdateResult:
    """One update: loss, gradient, step. A gradient that is not finite leaves the parameters unchanged."""
    settings, model, device = experiment.settings, experiment.model, experiment.device
    rng = stream(settings.seed, "noise", epoch, update, device=device)
    weight_rng = stream(settings.seed, "weight noise", epoch, update, device=device) if settings.weight_noise else None
    with np.errstate(over="ignore", invalid="ignore"):  # `read_results` checks for values that are not finite
        with weight_noise(model, settings.weight_noise, weight_rng):
            loss, measure, count = experiment.loss(batch, rng)
            if settings.l2_regularization:
                loss = loss + settings.l2_regularization * l2_penalty(model)
            loss.backward()
        grad_norm = optimizer.step()
    return UpdateResult(loss.data, measure, count, grad_norm)


def read_results(results: Sequence[UpdateResult], progress: Progress, learning_rate: float, folder: Path) -> None:
    """Add the results of updates to the sums of the epoch. Raises UserError if a loss or norm is not finite.

    On a GPU this blocks until the updates are done, and copies all their numbers at once.
    """
    numbers = to_numbers([number for r in results for number in (r.loss, r.measure, r.grad_norm)])
    rows = np.reshape(numbers, (-1, 3)).tolist()
    for result, (loss, measure, grad_norm) in zip(results, rows, strict=True):
        progress.update += 1
        progress.updates += 1
        if not math.isfinite(loss) or not math.isfinite(grad_norm):
            problem = f"norm of the gradient is {grad_norm}" if math.isfinite(loss) else f"loss is {loss}"
            saved = (folder / "last.safetensors").exists()
            raise UserError(
                f"the {problem} in epoch {progress.epoch}, update {progress.update}: the run has diverged."
                f"{' The last checkpoint is kept.' if saved else ''} Try a --learning-rate below {learning_rate:g}"
            )
        progress.measure_sum += measure * result.measure_count
        progress.measure_count += result.measure_count
        progress.norm_sum += grad_norm


def train_metric(experiment: Experiment, progress: Progress) -> float:
    """The metric over the updates of this epoch so far, with the noise of training."""
    return experiment.score(progress.measure_sum / progress.measure_count)


def finish_epoch(experiment: Experiment, optimizer: Optimizer, progress: Progress, folder: Path, say: Say) -> None:
    """Validate, write the best parameters, the row and the checkpoint, and advance to the next epoch."""
    settings, metric = experiment.settings, experiment.metric
    valid = experiment.validate()
    columns = experiment.extra_columns()
    row = {
        "epoch": progress.epoch,
        "update": progress.updates,
        "seconds": round(progress.seconds, 3),
        f"train_{metric}": train_metric(experiment, progress),
        f"valid_{metric}": valid,
        "grad_norm": progress.norm_sum / progress.update,
        "learning_rate": optimizer.learning_rate,
        **columns,
        **(experiment.test() if settings.test_cost else {}),
    }
    is_best = valid < progress.best_valid or progress.task_changed
    if is_best:
        progress.best_valid, progress.best_epoch = valid, progress.epoch
        run_folder.save_best(experiment, progress, folder)
    files.append_row(folder / "metrics.jsonl", row)

    epochs_without_best = progress.epoch - progress.best_epoch
    progress.task_changed = experiment.end_epoch(valid, optimizer)
    progress.finished = 0 < settings.patience <= epochs_without_best and not progress.task_changed
    progress.epoch += 1
    progress.update, progress.measure_count = 0, 0
    progress.measure_sum, progress.norm_sum = 0.0, 0.0
    run_folder.save_checkpoint(experiment, optimizer, progress, folder)

    extra = "".join(f"  {name} {value:g}" for name, value in columns.items() if isinstance(value, float | int))
    say(
        f"epoch {row['epoch']:3d}  train {row[f'train_{metric}']:.4f}  valid {valid:.4f} {metric}{extra}"
        f"  {updates_per_second(progress):.1f} updates/s{'  best' if is_best else ''}"
    )


def summarize(experiment: Experiment, progress: Progress, folder: Path, say: Say) -> dict[str, Any]:
    """Test the best parameters, write summary.json and the figures, and return the summary."""
    metric = experiment.metric
    run_folder.load_best(experiment, progress, folder)
    summary = {
        "task": experiment.task,
        "dataset": experiment.data.name,
        "best_epoch": progress.best_epoch,
        f"best_valid_{metric}": progress.best_valid,
        **experiment.test(),
        "seconds": round(progress.seconds, 3),
        "updates": progress.updates,
        "updates_per_second": round(updates_per_second(progress), 3),
    }
    files.write_json(folder / "summary.json", summary)
    plot_runs([folder], folder / "curves.png")
    experiment.figure(folder)
    experiment.print_results()
    say(
        f"best validation {progress.best_valid:.4f} {metric} ({experiment.unit}) in epoch {progress.best_epoch},"
        f" test {summary[f'test_{metric}']:.4f}; curves in {folder / 'curves.png'}"
    )
    return summary


def updates_per_second(progress: Progress) -> float:
    return progress.updates / max(progress.seconds, 1e-9)


def progress_bar(progress: Progress, updates: int) -> tqdm:
    """The progress bar of an epoch. It is shown only in a terminal."""
    return tqdm(
        total=updates,
        initial=progress.update,
        desc=f"epoch {progress.epoch}",
        unit=" updates",
        disable=not sys.stdout.isatty(),
        file=sys.stdout,
        leave=False,
    )


@contextmanager
def stop_signals(second: Any = signal.SIG_DFL) -> Iterator[list[int]]:
    """A context that appends SIGINT and SIGTERM to a list. After the first signal, ``second`` is the handler.

    By default the second signal ends the program at once.

    Python allows signal handlers only in the main thread. In other threads, nothing changes and the list stays empty.
    """
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for each in handlers:
            signal.signal(each, second)

    in_main_thread = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGINT, signal.SIGTERM) if in_main_thread else ()
    handlers = {number: signal.signal(number, note) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
