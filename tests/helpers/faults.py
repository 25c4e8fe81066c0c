"""`run.py` in processes that can be killed, stopped, run concurrently, or left without disk space.

The processes are forked from a server that has imported everything, so that one starts in 0.2 seconds.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import resource
import shlex
import signal
import stat
import sys
import threading
import time
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT))

from minizone.commands import train  # noqa: E402
from minizone.commands.main import main  # noqa: E402
from tests.helpers.runs import same_run  # noqa: E402

tqdm.set_lock(threading.RLock())  # its own lock is a semaphore, which a killed process would leave behind

FLAGS = shlex.split(
    "char-ptb --dataset manual --hidden-size 12 --batch-size 10 --seq-len 11 --epochs 2 --train-symbols 1500"
    " --eval-symbols 300 --z-prob-cells 0.5 --z-prob-states 0.05"
)
WRITES = [  # what a run does to the files in its folder, in order
    "open lock",
    *[f"{what} vocabulary.json" for what in ("open", "fsync", "rename")],
    *[f"{what} config.json" for what in ("open", "fsync", "rename")],
    *[
        *[f"{what} best.safetensors" for what in ("open", "fsync", "rename")],
        *[f"{what} metrics.jsonl" for what in ("open", "fsync")],
        *[f"{what} last.safetensors" for what in ("open", "fsync", "rename")],
    ]
    * 2,
    *[f"{what} summary.json" for what in ("open", "fsync", "rename")],
    *[f"{what} curves.png" for what in ("open", "fsync", "rename")],
    "remove lock",
]


def write_number(name: str, epoch: int = 1) -> int:
    """The number of a write, counted from 1; of those of an epoch, that of epoch 1 or 2."""
    first = WRITES.index(name)
    return 1 + (first if epoch == 1 else WRITES.index(name, first + 1))


def server() -> ForkServerContext:
    """The multiprocessing context. Its server finds this module by PYTHONPATH."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.helpers.faults"])
    return context


class Run:
    """A run of run.py in a process of its own. It resumes where there is a run already.

    ``faults`` are the arguments of `_child`; ``output`` is the file for what it prints.
    """

    def __init__(
        self, context: ForkServerContext, folder: Path, *flags: object, output: Path | None = None, **faults: Any
    ):
        self.output = output or folder.with_name(f"{folder.name}.output")
        words = [*FLAGS, *map(str, flags), "--out", folder.name if "user" in faults else str(folder)]
        if (folder / "config.json").exists():
            words.append("--resume")
        self.process = context.Process(target=_child, args=(words, str(self.output)), kwargs=faults)
        self.process.start()

    def end(self) -> tuple[int, str]:
        """Wait for it: its exit status, -9 after SIGKILL, and what it printed."""
        self.process.join(120)
        assert self.process.exitcode is not None, "it hangs"
        return self.process.exitcode, self.output.read_text() if self.output.exists() else ""

    def refused(self) -> str:
        """Wait for it: it must end with status 2 and one sentence, which is returned."""
        status, text = self.end()
        lines = [line for line in text.splitlines() if not line.startswith(("char-ptb on", "epoch "))]
        assert status == 2 and len(lines) == 1 and lines[0].startswith("run.py: "), text
        return lines[0]


def finish(context: ForkServerContext, whole: Path, folder: Path) -> None:
    """Resume a run, or start it where nothing was written yet, and compare it with the run that nothing happened to."""
    status, text = Run(context, folder).end()
    assert status == 0, text
    same_run(whole, folder)
    assert {path.name for path in folder.iterdir()} == {path.name for path in whole.iterdir()}


def _child(
    words: list[str],
    output: str,
    signal_number: int | None = None,
    at: int = 0,
    log: str | None = None,
    largest: int | None = None,
    instant: float | None = None,
    user: int | None = None,
) -> None:
    """What happens in the process.

    signal_number, at : the signal that it gets, before which of the writes in the run folder
    log : a file for the list of these writes
    largest : the size that no file can exceed, as if the disk were full
    instant : when it begins, in `time.monotonic`
    user : the user whose rights it has while it trains; the folder of ``output`` is then the current one
    """
    printed = io.StringIO()  # not a file, which would also be too large
    if signal_number or log:
        _watch(words[words.index("--out") + 1], signal_number, at, log)
    if largest is not None:  # Python ignores SIGXFSZ: a write fails with EFBIG
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))
    if user:
        os.chdir(Path(output).parent)
        fit = train.fit  # only from there on: what is still to be imported may be out of the user's reach

        def fit_as_user(*arguments: Any, **options: Any) -> Any:
            os.seteuid(user)
            return fit(*arguments, **options)

        train.fit = fit_as_user
    while instant and time.monotonic() < instant:
        pass
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        status = main(words)
    if largest is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    os.seteuid(os.getuid())
    Path(output).write_text(printed.getvalue())
    sys.exit(status)


def _watch(folder: str, signal_number: int | None, at: int, log: str | None) -> None:
    """Count the writes to the files of a folder, and send the signal before write ``at``.

    Before a SIGKILL instead of an fsync, half of the file is taken away, as if the disk had not received it.
    """
    writes: list[str] = []

    def note(what: str, path: str) -> None:
        name = os.path.basename(path).removesuffix(".tmp")
        writes.append(f"{what} {name}")
        if log:
            with os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "w") as file:
                file.write(writes[-1] + "\n")
        if len(writes) == at and signal_number:
            os.kill(os.getpid(), signal_number)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in ("open", "os.rename", "os.remove") or not str(arguments[0]).startswith(folder + os.sep):
            return
        for_reading = event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR)
        if not for_reading:
            note(event.removeprefix("os."), str(arguments[0]))

    def fsync(number: int) -> None:
        path = os.readlink(f"/proc/self/fd/{number}")
        if stat.S_ISREG(os.fstat(number).st_mode) and len(writes) + 1 == at and signal_number == signal.SIGKILL:
            size = os.fstat(number).st_size
            os.ftruncate(number, size // 2 if path.endswith(".tmp") else size - 20)
        note("fsync", path)
        real_fsync(number)

    real_fsync, os.fsync = os.fsync, fsync
    sys.addaudithook(hook)
