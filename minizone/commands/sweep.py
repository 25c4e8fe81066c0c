"""`run.py sweep GRID.toml`: a grid of runs, several at a time, on this machine or on a cluster. See docs/sweeps.md.

Each run is a task of dask.distributed, and trains in the process of its worker. When that process dies, the kernel
frees the lock of the run folder, dask gives the task to another worker, and the run continues from its checkpoint.
"""

from __future__ import annotations

import logging
import math
import os
import re
import shutil
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import asdict, dataclass, fields, replace
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import tyro
from filelock import FileLock, Timeout
from tqdm import tqdm

from minizone.backend import cores
from minizone.commands.flags import parse
from minizone.commands.grid import Grid, GridRun, read_grid
from minizone.commands.train import TASKS, is_started, settings_of_run, train
from minizone.errors import UserError
from minizone.experiments.gradients import METHODS
from minizone.optim import make
from minizone.runs import files
from minizone.runs import folder as run_folder
from minizone.runs.experiment import Experiment
from minizone.runs.groups import group_by_settings
from minizone.runs.plotting import plot_grid, plot_runs
from minizone.runs.report import report
from minizone.runs.settings import RunSettings, require
from minizone.runs.training import Interrupted, Stop, stop_signals

if TYPE_CHECKING:  # importing dask takes a second: only a sweep that trains imports it
    from distributed import Client, Event, Future

CONNECT_SECONDS = 10  # to wait for the scheduler
# Workers ignore signals: Ctrl-C, among others, sends them to all processes, but workers still have to save.
IGNORE_SIGNALS = "import signal; [signal.signal(s, signal.SIG_IGN) for s in (signal.SIGINT, signal.SIGTERM)]"
LOCK_SECONDS = 30  # to wait for the lock of a worker that has just died: cluster file systems free it late


@dataclass(frozen=True)
class Sweep:
    """Train the runs of a grid, several at a time, and make their tables and curves.

    The same command continues a sweep that was stopped.
    """

    grid: tyro.conf.Positional[str]
    """The TOML file of the grid; sweeps/ has one for each table and figure of the paper."""
    part: str | None = None
    """The part of the file, if it has parts: laptop or paper in sweeps/."""
    out: str | None = None
    """Folder that will contain the run folders. The default is runs/GRID or runs/GRID-PART."""
    workers: int | None = None
    """Number of runs at a time, with one thread each. The default is the number of cores."""
    scheduler: str | None = None
    """Address of a dask scheduler, tcp://HOST:PORT, whose workers train instead of this machine."""
    dry_run: bool = False
    """Print the command of each run, and train nothing."""


def main(arguments: list[str]) -> int:
    """Returns 0 if all runs have finished, 1 if one has failed or its time has run out."""
    settings = parse(Sweep, arguments, "sweep")
    require(settings.workers is None or settings.workers >= 1, "workers", settings.workers, "be at least 1")
    if settings.workers and settings.scheduler:
        raise UserError("--workers is for this machine: leave it out with --scheduler, which has its own workers")
    if settings.scheduler is not None and not re.fullmatch(r"(tcp|tls|wss?)://.+:\d+", settings.scheduler):
        raise UserError(f"--scheduler must be an address such as tcp://host:8786, got {settings.scheduler!r}")
    path = Path(settings.grid)
    out = Path(settings.out or Path("runs") / "-".join(filter(None, [path.stem, settings.part])))
    grid = read_grid(path, settings.part, out)
    if settings.dry_run:
        for run in grid.runs:
            print(run.command)
        return 0

    free = free_space(out)
    with run_folder.locked(out, "another sweep is running"):
        left = [run for run in grid.runs if not is_finished(run)]
        started = sum(is_started(run.folder) for run in left)
        counts = {"finished": len(grid.runs) - len(left), "started": started, "new": len(left) - started}
        states = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
        print(f"{len(grid.runs)} {'run' if len(grid.runs) == 1 else 'runs'} in {out}: {states}")
        failures: list[str] = []
        if left:
            taken = tqdm.format_sizeof(disk_space(grid.runs), "B")
            print(f"checkpoints take {taken} of disk space, {tqdm.format_sizeof(free, 'B')} are free")
            failures = train_all(left, settings, out)
        print_results(grid, out)
    print_failures(failures)
    return 1 if failures else 0


def print_failures(failures: list[str]) -> None:
    for failure in failures:
        print(f"run.py: {failure}", file=sys.stderr)


# ---- before the runs


def is_finished(run: GridRun) -> bool:
    """Whether a run has finished. Raises UserError if its folder holds a run with other settings."""
    several = run.task == "gradients"
    folder = run.folder / "unregularized" if several else run.folder
    if not (folder / "config.json").exists():
        return False
    task, before = settings_of_run(folder)
    if task != run.task:
        raise UserError(f"{folder} holds a run of {task}: choose another --out")
    for field in fields(before):
        old, new = getattr(before, field.name), getattr(run.settings, field.name)
        if field.name not in run_folder.MAY_CHANGE and old != new:
            raise UserError(f"{folder} holds a run whose {field.name} is {old}, not {new}: choose another --out")
    if several:
        return (run.folder / "gradients.npz").exists()
    return run_folder.is_finished(folder, run.settings)


def disk_space(runs: list[GridRun]) -> int:
    """The size of the checkpoints of runs in bytes. Raises UserError if their data are missing.

    Runs that differ only in the seed and in floats, such as probabilities, have models of the same size.
    """
    sizes: dict[tuple[object, ...], int] = {}
    total = 0
    for run in runs:
        values = asdict(replace(run.settings, seed=0))
        shape = (run.task, *(value for value in values.values() if not isinstance(value, float)))
        if shape not in sizes:
            sizes[shape] = checkpoint_size(run.task, run.settings)
        total += sizes[shape]
    return total


def checkpoint_size(task: str, settings: RunSettings) -> int:
    """The size of best.safetensors and last.safetensors of a run in bytes."""
    changes: dict[str, Any] = {"device": "cpu", "initialization": "uniform"}  # fastest to build
    known = {field.name for field in fields(settings)}
    settings = replace(settings, **{name: value for name, value in changes.items() if name in known})
    experiment = TASKS["pmnist" if task == "gradients" else task](settings)
    parameters = experiment.model.state_dict()
    optimizer = make(settings.algorithm, experiment.model.parameters(), settings.learning_rate, clip=settings.clipping)
    arrays = (*parameters.values(), *parameters.values(), *optimizer.state_dict().values())
    size = sum(array.nbytes for array in arrays)
    return size * (len(METHODS) if task == "gradients" else 1)


def free_space(folder: Path) -> int:
    """Free bytes on the disk of a folder, which need not exist. Raises UserError if it cannot be created."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise UserError(f"cannot write in {folder}: {there} is not a folder")
    return shutil.disk_usage(there).free


# ---- the runs


def train_all(runs: list[GridRun], settings: Sweep, out: Path) -> list[str]:
    """Train runs, as many at a time as there are workers. Returns a sentence for each run that has not finished.

    Raises Interrupted after SIGINT or SIGTERM, once the runs have saved checkpoints. A second signal ends the program.
    """
    from distributed import Event

    failures = []
    stopping = False
    with stop_signals(end_at_once) as signals, connected(settings, len(runs)) as client, Display(runs) as display:
        stop = Event(f"stop-{uuid.uuid4()}", client)
        environment = {name: os.environ[name] for name in ("MINIZONE_DATA",) if name in os.environ}
        waiting: dict[Future, GridRun] = {}
        for run in runs:
            arguments = (TASKS[run.task], run.settings, run.folder.absolute(), stop.name, Path.cwd(), environment)
            waiting[client.submit(train_in_worker, *arguments, pure=False)] = run
        while waiting:
            time.sleep(0.5)
            if client.status != "running":
                raise UserError("lost the connection to the dask scheduler: run the same command again to continue")
            if signals and not stopping:
                stopping = True
                display.line("stopping: the runs are saving checkpoints")
                stop.set()
                on_workers = {key for keys in client.processing().values() for key in keys}
                client.cancel([future for future in waiting if future.key not in on_workers])
            display.update()
            for future in [future for future in waiting if future.done()]:
                run = waiting.pop(future)
                problem = problem_of(future)
                if problem and not stopping:
                    failures.append(f"{run.folder}: {problem}")
                    problem = "stopped" if problem.startswith("stopped") else "failed"  # `main` prints the reason
                display.end(run, problem)
    if stopping:
        print_failures(failures)
        raise Interrupted(
            f"stopped, and the runs in {out} are saved: run the same command again to continue", 128 + signals[0]
        )
    return failures


def end_at_once(number: int, frame: FrameType | None) -> NoReturn:
    """The handler of a second signal: end the program, and with it the workers on this machine."""
    sentence = b"\nrun.py: stopped at once: run the same command again to continue from the last checkpoints\n"
    with suppress(OSError, ValueError):  # no standard output
        os.write(sys.stdout.fileno(), sentence)  # `print` fails if the signal has interrupted another `print`
    os._exit(128 + number)


@contextmanager
def connected(settings: Sweep, runs: int) -> Iterator[Client]:
    """A client of the scheduler in the settings, or else of a new scheduler with workers on this machine."""
    import dask
    from distributed import Client, LocalCluster

    for name in ("distributed", "distributed.client"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if settings.scheduler:
        try:
            client = Client(settings.scheduler, timeout=CONNECT_SECONDS, set_as_default=False)
        except OSError as error:
            raise UserError(f"there is no dask scheduler at {settings.scheduler}: {error}") from None
        with client:
            threads = client.nthreads().values()
            if any(number > 1 for number in threads):
                raise UserError(
                    f"a worker of {settings.scheduler} has {max(threads)} threads: start it with --nthreads 1"
                )
            found = client.run(find_spec, "minizone")
            if not all([client.run_on_scheduler(find_spec, "minizone"), *found.values()]):
                raise UserError(f"{settings.scheduler} or its workers do not have minizone: install it there with pip")
            if not threads:
                print(f"{settings.scheduler} has no workers yet: the runs begin when workers connect")
            yield client
        return
    # Suppress the warning that Python frees the semaphores of the workers after a second Ctrl-C.
    os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker:UserWarning")
    dask.config.set({"distributed.scheduler.worker-saturation": 1.0})  # the first free worker gets the next run
    with (
        LocalCluster(
            n_workers=min(settings.workers or cores(), runs),
            threads_per_worker=1,  # dask also gives each worker OMP_NUM_THREADS=1
            memory_limit=0,
            scheduler_kwargs={"dashboard": False, "dashboard_address": "127.0.0.1:0"},  # any free port
            silence_logs=logging.CRITICAL,
            preload=IGNORE_SIGNALS,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def train_in_worker(
    experiment: type[Experiment],
    settings: RunSettings,
    folder: Path,
    stop: str,
    here: Path,
    environment: dict[str, str],
) -> str:
    """Train a run in a dask worker, from its checkpoint if it has one. Returns "", or why it has not finished.

    ``experiment`` can be a class of the user's program. Workers cannot import that, so dask sends the class itself.
    ``stop`` is the name of the event that stops the run. ``here`` and ``environment`` are the working directory of the
    sweep and its environment variables for the data, so that relative paths and the data are the same.
    """
    from distributed import Event

    TASKS[experiment.task] = experiment
    os.chdir(here)
    os.environ.update(environment)
    asked = once_a_second(Event(stop))
    if asked():
        return "stopped"
    for lock in folder.rglob("lock"):
        with suppress(Timeout), FileLock(lock, timeout=LOCK_SECONDS):
            pass
    try:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
            train(experiment.task, replace(settings, resume=is_started(folder)), folder, asked)
    except Interrupted as stopped:
        return str(stopped).partition(";")[0]  # without the advice on how to continue
    except UserError as error:
        return str(error)
    return ""


def once_a_second(event: Event) -> Stop:
    """A function that returns whether an event is set. It asks the scheduler at most once a second."""
    last = -math.inf

    def asked() -> bool:
        nonlocal last
        if time.monotonic() < last + 1:
            return False
        last = time.monotonic()
        return event.is_set()

    return asked


def problem_of(future: Future) -> str:
    """Why a run has not finished, or ""."""
    from distributed import KilledWorker

    if future.status == "finished":
        return future.result()
    if future.status != "error":
        return "stopped"
    error = future.exception()
    if isinstance(error, KilledWorker):
        return "every worker that trained it has died, perhaps because its machine has too little memory"
    return " ".join(f"{type(error).__name__}: {error}".split())


class Display:
    """The progress of runs: in a terminal a bar for all and one for each current run, elsewhere a line an epoch."""

    def __init__(self, runs: list[GridRun]):
        self.epochs = {run: run.settings.epochs * (len(METHODS) if run.task == "gradients" else 1) for run in runs}
        self.seen = {run: len(rows_of(run)) for run in runs}  # epochs in the logs
        self.bars: dict[GridRun, tqdm] = {}
        self.terminal = sys.stdout.isatty()

    def __enter__(self) -> Display:
        self.total = self.bar("all", sum(self.epochs.values()), sum(self.seen.values()))
        return self

    def __exit__(self, *_: object) -> None:
        for bar in [*self.bars.values(), self.total]:
            bar.close()

    def bar(self, name: str, epochs: int, done: int) -> tqdm:
        return tqdm(
            total=epochs,
            initial=done,
            desc=name,
            unit="epoch",
            disable=not self.terminal,
            file=sys.stdout,
            leave=False,
        )

    def line(self, sentence: str) -> None:
        """Print a line above the bars."""
        tqdm.write(sentence)

    def update(self) -> None:
        """Show the epochs that have finished, from the logs of the runs."""
        for run, epochs in self.epochs.items():
            try:
                training, rows = any(run.folder.rglob("lock")), rows_of(run)
            except FileNotFoundError:  # removed a moment ago: a run that fails early leaves no file
                continue
            if run not in self.bars and not training and len(rows) <= self.seen[run]:
                continue  # it has not started
            metric = f"valid_{TASKS[run.task].metric}"
            if run not in self.bars:
                self.bars[run] = self.bar(run.folder.name, epochs, self.seen[run])
            for row in rows[self.seen[run] :]:
                self.total.update()
                self.bars[run].update()
                self.bars[run].set_postfix_str(f"valid {row[metric]:.4f}")
                if not self.terminal:
                    self.line(
                        f"{run.folder.name}: epoch {row['epoch']} of {run.settings.epochs}, valid {row[metric]:.4f}"
                    )
            self.seen[run] = len(rows)

    def end(self, run: GridRun, problem: str) -> None:
        """Close the bar of a run, and print how it ended."""
        self.update()
        if run in self.bars:
            self.bars.pop(run).close()
        epochs = self.epochs.pop(run)
        if not problem:
            self.total.update(epochs - self.seen[run])  # fewer were trained if --patience ended the run
        self.line(f"{run.folder.name}: {problem or 'finished'}")


def rows_of(run: GridRun) -> list[files.Row]:
    """The rows of a run (of the task gradients: of all its parts), with the latest log last."""
    logs = sorted(run.folder.rglob("metrics.jsonl"), key=lambda path: path.stat().st_mtime)
    return [row for path in logs for row in files.read_rows(path)]


# ---- after the runs


def print_results(grid: Grid, out: Path) -> None:
    """Print the tables of the finished runs, and draw their curves; for a grid of two lists also a heat map."""
    finished = [path.parent for run in grid.runs for path in sorted(run.folder.rglob("summary.json"))]
    if not finished:
        return
    print(report(out), end="")
    plot_runs(finished, out / "curves.png")
    print(out / "curves.png")
    if len(grid.lists) == 2 and grid.runs[0].task != "gradients":  # a run of gradients has several results
        ended = [run for run in grid.runs if (run.folder / "summary.json").exists()]
        shown = [run for run in ended if length(settings_of_run(run.folder)[1]) == length(run.settings)]
        if shown:
            groups = group_by_settings([files.read_run(run.folder) for run in shown])
            plot_grid(groups, out / "heat-map.png", [name.replace("-", "_") for name in grid.lists])
            print(out / "heat-map.png")
        for run in ended:
            if run not in shown:
                print(f"the heat map leaves out {run.folder}, whose epochs or patience differ from the grid's")


def length(settings: RunSettings) -> tuple[int, int]:
    """The settings that `run.py resume` can change and that affect the results."""
    return settings.epochs, settings.patience
