"""`run.py` in processes that can be killed, filled up and raced: what tests/runs/test_faults.py starts.

The processes are forked off a server that has imported everything, so one costs 0.2 seconds.
"""

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
from pathlib import Path

from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT))

import run  # noqa: E402  run.py lies in the folder above

tqdm.set_lock(threading.RLock())  # its own lock is a semaphore, and a killed process leaves it behind

FLAGS = shlex.split(
    "char-ptb --dataset manual --hidden-size 12 --batch-size 10 --seq-len 11 --epochs 3 --train-symbols 1500"
    " --eval-symbols 300 --z-prob-cells 0.5 --z-prob-states 0.05"
)


def server():
    """The multiprocessing context; its server finds this module by PYTHONPATH, and forks without threads."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.helpers.faults"])
    return context


class Run:
    """A run of run.py in a process of its own; ``faults`` are those of `_child`."""

    def __init__(self, context, folder, *flags, said=None, **faults):
        self.said = said or folder.with_name(f"{folder.name}.said")
        words = [*FLAGS, *map(str, flags), "--out", folder.name if "user" in faults else str(folder)]
        if (folder / "config.json").exists():
            words.append("--resume")
        self.process = context.Process(target=_child, args=(words, str(self.said)), kwargs=faults)
        self.began = time.monotonic()
        self.process.start()

    def end(self):
        """Wait for it: its exit status, -9 after SIGKILL, and what it said."""
        self.process.join(120)
        assert self.process.exitcode is not None, "it hangs"
        self.seconds = time.monotonic() - self.began
        return self.process.exitcode, self.said.read_text() if self.said.exists() else ""


def _child(words, said, strike=None, at=0, events=None, largest=None, instant=None, user=None, clock=None):
    """What happens in the process.

    ``strike``, ``at``: the signal that it gets, and at which write, rename or removal in the run folder; ``events``:
    a file for the list of these. ``largest``: no file can be larger. ``instant``: when it begins, by the monotonic
    clock. ``user``: whose rights it has, with the folder of ``said`` as the current one. ``clock``: "back" turns both
    clocks back at every look at them.
    """
    output = io.StringIO()  # and not a file: it would be too large as well
    if strike or events:
        _watch(words[words.index("--out") + 1], strike, at, events)
    if clock:
        ticks = iter(range(10**9, 0, -1))
        time.monotonic = time.time = lambda: float(next(ticks))
    if largest is not None:  # Python ignores SIGXFSZ, so that a write fails with EFBIG
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))
    if user:
        os.chdir(Path(said).parent)
        fit = run.fit  # with these rights, and not before: what is still to be imported may be out of their reach
        run.fit = lambda *arguments: (os.seteuid(user), fit(*arguments))
    while instant and time.monotonic() < instant:
        pass
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        status = run.main(words)
    if largest is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    os.seteuid(os.getuid())
    Path(said).write_text(output.getvalue())
    sys.exit(status)


def _watch(folder, strike, at, events):
    """Count what is done to the files of a folder, and strike before the ``at``-th deed, with half a file written."""
    seen = []

    def note(deed, path):
        seen.append(f"{deed} {os.path.basename(path)}")
        if events:
            with os.fdopen(os.open(events, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "w") as file:
                file.write(seen[-1] + "\n")
        if len(seen) == at:
            os.kill(os.getpid(), strike)

    def hook(event, arguments):
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        if event in ("open", "os.rename", "os.remove") and str(arguments[0]).startswith(folder + os.sep):
            note(event, str(arguments[0]))

    def fsync(number):
        info, path = os.fstat(number), os.readlink(f"/proc/self/fd/{number}")
        if stat.S_ISREG(info.st_mode) and len(seen) + 1 == at and strike == signal.SIGKILL:
            # only half of a file has come to the disk, and of the log not all of its last row
            os.ftruncate(number, info.st_size // 2 if path.endswith(".tmp") else info.st_size - 20)
        note("fsync", path)
        sync(number)

    sync, os.fsync = os.fsync, fsync
    sys.addaudithook(hook)
