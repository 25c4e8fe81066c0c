"""The command line: choose a command, run it, and turn errors into one sentence and an exit status."""

from __future__ import annotations

import io
import os
import shutil
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn, TextIO

from minizone.commands import conformance, export, plot, report, resume, sample, sweep, train
from minizone.commands.train import TASKS
from minizone.errors import UserError
from minizone.runs.experiment import Experiment
from minizone.runs.training import Interrupted

COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "resume": resume.main,
    "plot": plot.main,
    "report": report.main,
    "sample": sample.main,
    "conformance": conformance.main,
    "export": export.main,
    "sweep": sweep.main,
}
LEAST_COLUMNS = 50  # of --help: tyro does not end with 5, and prints one letter a line with 24
USAGE = """usage: python run.py TASK [flags]          train; the flags of a task: python run.py TASK --help
       python run.py resume RUN            continue a run; its flags are in its config.json
       python run.py plot RUN [RUN ...]    learning curves of runs
       python run.py report [RUNS_DIR]     tables of runs
       python run.py sample RUN            text from a trained language model
       python run.py conformance MODULE:ADAPTER    is this zoneout correct? (minizone/conformance/__init__.py)
       python run.py export RUN            weights and model of a run for PyTorch; --load-path takes them back
       python run.py sweep GRID.toml       a grid of runs, several at a time, also on a cluster (docs/sweeps.md)

tasks (sections of the paper):
  char-ptb    character-level language model on Penn Treebank (4.1.1)
  word-ptb    word-level language model on Penn Treebank (4.1.2)
  text8       character-level language model on Wikipedia (4.2)
  pmnist      images of digits, read pixel by pixel in a random order (4.3)
  gradients   how far back gradients reach, with each regularizer (4.4)
  seq2seq     addition of numbers, digit by digit (a toy task of the authors' code)
  semantic    do units mean the same thing at every time step? (another toy task)

  python run.py char-ptb                                             an LSTM, no regularizer
  python run.py char-ptb --z-prob-cells 0.5 --z-prob-states 0.05     the same with zoneout
"""


def main(arguments: list[str]) -> int:
    """Run one command.

    Returns the exit status: 0; 1 for an implementation that is not conformant, an export that differs or a sweep with a
    failed run; 2 for an error that the user can correct; 128 + n for signal n. It is 141 (SIGPIPE) if the reader of
    standard output has exited, as in `| head`.
    """
    try:
        return run_command(arguments)
    except SystemExit as end:
        if end.code:
            raise
        return 0  # after --help
    except UserError as error:
        print_sentence(str(error), sys.stderr)
        return 2
    except BrokenPipeError:
        return 141
    except OSError as error:  # a name that is too long, a folder without permission, a full disk behind `>`, ...
        reason = error.strerror or str(error)
        print_sentence(f"{reason}: {error.filename}" if error.filename else reason, sys.stderr)
        return 2
    except KeyboardInterrupt:
        print_sentence(
            "stopped; a checkpoint, if there is one, is complete: continue with `run.py resume RUN`", sys.stdout
        )
        return 130
    except Interrupted as stop:
        print_sentence(str(stop), sys.stdout)
        return stop.status


def run_command(arguments: list[str]) -> int:
    """Find the command that the first argument names, and run it with the others."""
    if not arguments:
        print(USAGE, end="")
        return 2
    command, *flags = arguments
    if command in ("-h", "--help"):
        print(USAGE, end="")
        return 0
    if command in COMMANDS:
        return COMMANDS[command](flags)
    if command in TASKS:
        return train.main(command, flags)
    raise UserError(
        f"there is no task {command!r}; the tasks: {', '.join(TASKS)}; the other commands: {', '.join(COMMANDS)}"
    )


def print_sentence(sentence: str, stream: TextIO) -> None:
    """Print a sentence on one line, or nothing if the stream cannot be written."""
    with suppress(OSError):
        print(f"run.py: {' '.join(sentence.split())}", file=stream)


def run_and_exit(*own_tasks: type[Experiment]) -> NoReturn:
    """Run `main` with the arguments of this process, and exit with its status. ``own_tasks`` are added to the tasks.

    There is no traceback if standard output or standard error is closed, full or without a reader, or after Ctrl-C
    before, during or after `main`. Each line is written when it is complete, also to a file or a pipe.
    """
    TASKS.update({kind.task: kind for kind in own_tasks})
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed, as by `>&-`
            setattr(sys, name, open(os.devnull, "w", errors="backslashreplace"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):  # backslashes for file names that are not UTF-8
        sys.stdout.reconfigure(errors="backslashreplace", line_buffering=True)
    os.environ["COLUMNS"] = str(max(LEAST_COLUMNS, shutil.get_terminal_size().columns))
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # KeyboardInterrupt, so that the command can clean up
        status = main(sys.argv[1:])
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # no traceback at interpreter exit
    except KeyboardInterrupt:  # a second one in `main`, or one between these lines
        status = 130
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # its content is lost; at exit the interpreter would fail to flush it again
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(status)
