"""The command line: choose a command, run it, and turn what goes wrong into one sentence and an exit status."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from minizone.commands import conformance, export, plot, report, sample, train
from minizone.commands.train import TASKS
from minizone.errors import UserError
from minizone.runs.training import Interrupted

COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "plot": plot.main,
    "report": report.main,
    "sample": sample.main,
    "conformance": conformance.main,
    "export": export.main,
}
USAGE = """usage: python run.py TASK [flags]          train; the flags of a task: python run.py TASK --help
       python run.py plot RUN [RUN ...]    learning curves of runs
       python run.py report [RUNS_DIR]     tables of runs
       python run.py sample RUN            text from a trained language model
       python run.py conformance MODULE:ADAPTER    is THIS a correct zoneout? (minizone/conformance/__init__.py)
       python run.py export RUN            best weights of a run in PyTorch's names; --load-path takes them back

tasks (sections of the paper):
  char-ptb    character-level language model on Penn Treebank (4.1.1)
  word-ptb    word-level language model on Penn Treebank (4.1.2)
  text8       character-level language model on Wikipedia (4.2)
  pmnist      images of digits, read pixel by pixel in a random order (4.3)
  gradients   how far back gradients reach, with each regularizer (4.4)
  seq2seq     addition of numbers, digit by digit (a toy task of the authors' code)
  semantic    do units mean the same thing at every step? (another one)

  python run.py char-ptb                                             an LSTM, no regularizer
  python run.py char-ptb --z-prob-cells 0.5 --z-prob-states 0.05     the same with zoneout
"""


def main(arguments: list[str]) -> int:
    """Run one command.

    Returns the exit status: 0, 1 for an implementation that is not conformant, 2 for an error that the user can
    correct, 128 + n for signal n.
    """
    try:
        return run_command(arguments)
    except UserError as error:
        return print_error(str(error))
    except BrokenPipeError:  # `run_and_exit` handles it
        raise
    except OSError as error:  # a name that is too long, a folder without permission, ...
        reason = error.strerror or str(error)
        return print_error(f"{reason}: {error.filename}" if error.filename else reason)
    except KeyboardInterrupt:
        print("run.py: stopped; if there was a checkpoint it is whole, and --resume goes on from it")
        return 130
    except Interrupted as stop:
        print(f"run.py: {stop}")
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


def print_error(sentence: str) -> int:
    """Print a sentence on stderr, in one line; returns the exit status 2."""
    print(f"run.py: {' '.join(sentence.split())}", file=sys.stderr)
    return 2


def run_and_exit() -> NoReturn:
    """`main` with the arguments of this process, which ends with its status."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for file names that are not UTF-8
    try:
        status = main(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of the pipe has ended, as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 141
    sys.exit(status)
