"""The loop: epochs, logs, checkpoints, and every way a run can end.

All randomness of an update comes from streams keyed by (seed, purpose, epoch, update). What a checkpoint holds is
therefore the parameters, the optimizer's averages and a few counters, and a resumed run goes on as if it had never
stopped, to the bit.
"""

from __future__ import annotations

import math
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from minizone.backend import keep_freed_memory, stream, to_numbers
from minizone.errors import UserError
from minizone.layers.regularizers import l2_penalty, weight_noise
from minizone.optim import Optimizer, make
from minizone.runs import files
from minizone.runs import folder as run_folder
from minizone.runs.experiment import Experiment
from minizone.runs.folder import Progress
from minizone.runs.plotting import plot_runs

Outcome = tuple[Any, Any, Any, int]  # of an update: loss, measure, norm of the gradient; how many numbers it measures


class Interrupted(Exception):
    """The run was told to stop, and has saved itself. ``status`` is the exit status that says by what."""

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status


def fit(experiment: Experiment, folder: Path, say: Any = print) -> dict[str, Any]:
    """Train, validate after each epoch, keep the best, test it at the end; returns what summary.json holds.

    Raises
    ------
    UserError
        The loss is no longer finite, a file cannot be written, a resumed run has other settings, or another process
        trains in the folder.
    Interrupted
        After SIGINT, SIGTERM or ``max_minutes``; a checkpoint has been written.
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
    if settings.load_path and not settings.resume:
        run_folder.load_parameters(experiment, Path(settings.load_path))
    with run_folder.claimed(folder, new=not settings.resume):
        progress = (
            run_folder.go_on(experiment, optimizer, folder, say)
            if settings.resume
            else run_folder.begin(experiment, folder)
        )
        with run_folder.all_or_nothing(folder):
            _train(experiment, optimizer, progress, folder, say)
        return _summarize(experiment, progress, folder, say)


def _train(experiment: Experiment, optimizer: Optimizer, progress: Progress, folder: Path, say: Any) -> None:
    """All epochs that are left."""
    settings = experiment.settings
    if experiment.device.free_memory is not None:
        free = experiment.device.free_memory / 2**30
        say(f"device {experiment.device.name}: {experiment.device.description}, {free:.1f} GiB of it free")
    size = sum(p.data.size for p in optimizer.parameters)
    say(f"{experiment.task} on {experiment.data.name}, {size:,} parameters, run folder {folder}")
    clock = time.monotonic() - progress.seconds  # not the time of day, which people and daemons set
    deadline = time.monotonic() + 60 * settings.max_minutes

    with _signals() as received:
        while not progress.done and progress.epoch <= settings.epochs:
            batches = experiment.batches(progress.epoch)
            optimizer.learning_rate = experiment.learning_rate(progress.epoch)
            bar = tqdm(total=len(batches), initial=progress.update, desc=f"epoch {progress.epoch}", unit=" updates",
                       disable=not sys.stdout.isatty(), file=sys.stdout, leave=False)  # fmt: skip
            unseen: list[Outcome] = []
            while progress.update < len(batches):
                update = progress.update + len(unseen)
                unseen.append(_update(experiment, optimizer, batches[update], progress.epoch, update + 1))
                stop = bool(received) or time.monotonic() >= deadline
                if stop or update + 1 == len(batches) or len(unseen) == experiment.device.updates_per_look:
                    bar.update(len(unseen))
                    _look(unseen, progress, settings.learning_rate)
                    mean = experiment.score(progress.measure_sum / progress.measure_count)
                    bar.set_postfix_str(f"{experiment.metric} {mean:.3f}", refresh=False)
                if stop:
                    bar.close()
                    progress.seconds = max(progress.seconds, time.monotonic() - clock)
                    run_folder.save(experiment, optimizer, progress, folder)
                    raise _interrupted(received, progress, folder)
            bar.close()
            progress.seconds = max(progress.seconds, time.monotonic() - clock)
            _finish_epoch(experiment, optimizer, progress, folder, say)
            progress.seconds = max(progress.seconds, time.monotonic() - clock)


def _update(experiment: Experiment, optimizer: Optimizer, batch: Any, epoch: int, update: int) -> Outcome:
    """One minibatch: loss, gradient, step. A gradient that is not finite changes nothing."""
    settings, model, device = experiment.settings, experiment.model, experiment.device
    noise, weights = (
        partial(stream, settings.seed, p, epoch, update, device=device) for p in ("noise", "weight noise")
    )
    with np.errstate(over="ignore", invalid="ignore"):  # they show in the loss or the norm, and become a sentence
        with weight_noise(model, settings.weight_noise, weights() if settings.weight_noise else None):
            loss, measure, count = experiment.loss(batch, noise())
            if settings.l2_regularization:
                loss = loss + settings.l2_regularization * l2_penalty(model)
            loss.backward()
        return loss.data, measure, optimizer.step(), count


def _look(unseen: list[Outcome], progress: Progress, learning_rate: float) -> None:
    """Take the outcomes of some updates into the sums of the epoch, in one transfer from a GPU; empties the list.

    UserError at the first loss or norm that is not finite.
    """
    values = to_numbers([value for outcome in unseen for value in outcome[:3]])
    for k, (*_, count) in enumerate(unseen):
        loss, measure, norm = values[3 * k : 3 * k + 3]
        progress.update, progress.updates = progress.update + 1, progress.updates + 1
        if not (math.isfinite(loss) and math.isfinite(norm)):
            what = f"loss is {loss}" if not math.isfinite(loss) else f"norm of the gradient is {norm}"
            raise UserError(
                f"the {what} in epoch {progress.epoch}, update {progress.update}: the run has diverged. What was saved"
                f" before is kept; try a --learning-rate below {learning_rate:g}"
            )
        progress.measure_sum += measure * count
        progress.measure_count += count
        progress.norm_sum += norm
    unseen.clear()


def _finish_epoch(experiment: Experiment, optimizer: Optimizer, progress: Progress, folder: Path, say: Any) -> None:
    """Validate, write the row and the checkpoints, and make ready for the next epoch."""
    settings, metric = experiment.settings, experiment.metric
    valid = experiment.validate()
    columns = experiment.columns()
    row = {
        "epoch": progress.epoch,
        "update": progress.updates,
        "seconds": round(progress.seconds, 3),
        f"train_{metric}": experiment.score(progress.measure_sum / progress.measure_count),
        f"valid_{metric}": valid,
        "grad_norm": progress.norm_sum / progress.update,
        "learning_rate": optimizer.learning_rate,
        **columns,
        **(experiment.test() if settings.test_cost else {}),
    }
    better = valid < progress.best_valid or progress.changed
    if better:
        progress.best_valid, progress.best_epoch = valid, progress.epoch
        files.save_arrays(
            folder / "best.safetensors",
            experiment.model.state_dict(),
            epoch=progress.epoch,
            **{f"valid_{metric}": valid},
        )
    progress.done = settings.patience > 0 and progress.epoch - progress.best_epoch >= settings.patience
    files.append_row(folder / "metrics.jsonl", row)
    more = "".join(f"  {name} {value:g}" for name, value in columns.items() if isinstance(value, float | int))
    progress.changed = experiment.end_epoch(valid, optimizer)
    progress.done = progress.done and not progress.changed
    progress.epoch += 1
    progress.update = progress.measure_count = 0
    progress.measure_sum = progress.norm_sum = 0.0
    run_folder.save(experiment, optimizer, progress, folder)
    say(
        f"epoch {row['epoch']:3d}  train {row[f'train_{metric}']:.4f}  valid {valid:.4f} {metric}"
        f"{more}  {progress.updates / max(progress.seconds, 1e-9):.1f} updates/s{'  best' if better else ''}"
    )


def _summarize(experiment: Experiment, progress: Progress, folder: Path, say: Any) -> dict[str, Any]:
    """Test the best parameters and write summary.json and curves.png."""
    metric = experiment.metric
    arrays, epoch = run_folder.best_parameters(experiment, folder)
    if epoch != progress.best_epoch:  # of an epoch that was lost with its checkpoint, and is not trained again
        raise UserError(
            f"{folder / 'best.safetensors'} is of epoch {epoch}, and the best of the {progress.epoch - 1} epochs that"
            f" were trained is {progress.best_epoch}: go on with --resume --epochs {epoch} or more"
        )
    experiment.model.load_state_dict(arrays)
    summary = {
        "task": experiment.task,
        "dataset": experiment.data.name,
        "best_epoch": progress.best_epoch,
        f"best_valid_{metric}": progress.best_valid,
        **experiment.test(),
        "seconds": round(progress.seconds, 3),
        "updates": progress.updates,
        "updates_per_second": round(progress.updates / max(progress.seconds, 1e-9), 3),
    }
    if experiment.settings.write_predictions:
        files.save_arrays(folder / "predictions.safetensors", experiment.predictions())
    files.write_json(folder / "summary.json", summary)
    plot_runs([folder], folder / "curves.png")
    experiment.figure(folder)
    experiment.farewell()
    (folder / "previous.safetensors").unlink(missing_ok=True)
    say(
        f"best validation {summary[f'best_valid_{metric}']:.4f} {metric} ({experiment.unit}) in epoch"
        f" {progress.best_epoch}, test {summary[f'test_{metric}']:.4f}; curves in {folder / 'curves.png'}"
    )
    return summary


@contextmanager
def _signals() -> Iterator[list[int]]:
    """While inside, SIGINT and SIGTERM are noted in a list; a second one ends the program at once."""
    received: list[int] = []

    def note(number: int, frame: Any) -> None:
        received.append(number)
        for each in before:
            signal.signal(each, signal.SIG_DFL)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupted(received: list[int], progress: Progress, folder: Path) -> Interrupted:
    why = f"stopped by {signal.Signals(received[0]).name}" if received else "stopped after --max-minutes"
    return Interrupted(
        f"{why} in epoch {progress.epoch} after update {progress.update}; saved in {folder}, go on with --resume",
        128 + received[0] if received else 0,
    )
