"""The command line of minizone: `python run.py TASK [flags]`, and `plot` and `report` for the runs it makes."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from minizone import UserError
from minizone.commands.export import export
from minizone.experiments import char_ptb, gradients, pmnist, semantic, seq2seq, text8, word_ptb
from minizone.runs.files import write_whole
from minizone.runs.plotting import plot_runs
from minizone.runs.report import find_runs, report, save_run
from minizone.runs.training import Interrupted, fit

TASKS: dict[str, Any] = {
    "char-ptb": char_ptb.CharPTB,
    "word-ptb": word_ptb.WordPTB,
    "text8": text8.Text8,
    "pmnist": pmnist.PMNIST,
    "seq2seq": seq2seq.Seq2Seq,
    "semantic": semantic.Semantic,
    "gradients": gradients.Gradients,
}
USAGE = """usage: python run.py TASK [flags]          train; the flags of a task: python run.py TASK --help
       python run.py plot RUN [RUN ...]    learning curves of runs
       python run.py report [RUNS_DIR]     tables of runs
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


@dataclass(frozen=True)
class Plot:
    """Draw the learning curves of runs into one figure."""

    runs: tyro.conf.Positional[tuple[str, ...]]
    """Run folders."""
    out: str = "curves.png"
    """The figure, PNG, PDF or SVG by its ending."""


@dataclass(frozen=True)
class Report:
    """Print the finished runs below a folder as tables; runs that differ in nothing but the seed share a row."""

    runs_dir: tyro.conf.Positional[str] = "runs"
    """Folder to look for runs in."""
    save: str | None = None
    """Also write each run, without its weights, as one JSON file into this folder."""


@dataclass(frozen=True)
class Export:
    """Write the best weights of a run as a state dict of torch.nn.LSTM (or RNN), Linear and Embedding, in safetensors.

    The head of minizone/runs/torch_names.py has the module of PyTorch that it fits, and what becomes of h0, c0 and
    zoneout.
    The way back is --load-path FILE of the same task.
    """

    run: tyro.conf.Positional[str]
    """The folder of the run."""
    out: str | None = None
    """The file; without it torch.safetensors in the folder of the run."""


@dataclass(frozen=True)
class Conformance:
    """Is THIS a correct zoneout? Ends with status 0 when all invariants pass, with 1 when one fails."""

    adapter: tyro.conf.Positional[str]
    """MODULE:ADAPTER, a class that makes the implementation runnable (minizone/conformance/__init__.py has an example); MODULE
    is a .py file or an importable module, for example minizone.conformance:Layer."""
    save: str | None = None
    """Also write the table, below the name of the adapter, into this file."""


def main(arguments: list[str]) -> int:
    """Run one command; returns the exit status: 0, 2 for what the user can mend, 128 + n for signal n."""
    try:
        if not arguments or arguments[0] in ("-h", "--help"):
            print(USAGE, end="")
            return 0 if arguments else 2
        command, *rest = arguments
        if command == "plot":
            plot = parse(Plot, rest, command)
            if not plot.runs:
                raise UserError("run.py plot needs at least one run folder")
            plot_runs([Path(run) for run in plot.runs], Path(plot.out))
            print(plot.out)
        elif command == "report":
            settings = parse(Report, rest, command)
            print(report(Path(settings.runs_dir)), end="")
            for run in find_runs(Path(settings.runs_dir)) if settings.save else []:
                save_run(run, Path(settings.save))
        elif command == "export":
            chosen = parse(Export, rest, command)
            print(export(Path(chosen.run), Path(chosen.out or Path(chosen.run) / "torch.safetensors")))
        elif command == "conformance":
            return conformance(parse(Conformance, rest, command))
        elif command in TASKS:
            train(command, rest)
        else:
            raise UserError(
                f"there is no task {command!r}; the tasks: {', '.join(TASKS)};"
                " the other commands: plot, report, export, conformance"
            )
    except UserError as error:
        return refuse(str(error))
    except BrokenPipeError:
        raise
    except OSError as error:  # a full disk, a name too long, ...: the system's words, and what they are about
        return refuse(": ".join(map(str, filter(None, (error.strerror or str(error), error.filename)))))
    except KeyboardInterrupt:
        print("run.py: stopped; if there was a checkpoint it is whole, and --resume goes on from it")
        return 130
    except Interrupted as stop:
        print(f"run.py: {stop}")
        return stop.status
    return 0


def refuse(sentence: str) -> int:
    """Say in one line what is wrong, whatever is in the names that it quotes; returns the exit status."""
    line = " ".join(sentence.split())
    print(f"run.py: {line if len(line) < 1000 else f'{line[:600]} ... {line[-300:]}'}", file=sys.stderr)
    return 2


def conformance(settings: Conformance) -> int:
    """Print the table of an implementation; the exit status is 1 when it fails an invariant."""
    from minizone.conformance import conform, load, table  # here, because no other command needs it

    results = conform(load(settings.adapter))
    print(said := table(results), end="")
    if settings.save:
        file = Path(settings.save)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, f"python run.py conformance {settings.adapter}\n\n{said}".encode())
    return int(any(result.status == "FAIL" for result in results))


def train(task: str, arguments: list[str]) -> None:
    """Build the experiment of a task from its flags, and train it."""
    experiment = TASKS[task]
    presets = experiment.presets
    first = argparse.ArgumentParser(add_help=False, exit_on_error=False, allow_abbrev=False)
    first.add_argument("--preset", default="quick", nargs="?")
    preset = first.parse_known_args(arguments)[0].preset
    default = presets.get(preset, presets["quick"])  # a wrong name, or none, is refused by the next line
    settings = parse(type(default), arguments, task, default)
    settings.check()
    folder = Path(settings.out) if settings.out else run_folder(Path("runs") / task / settings.label(), settings.resume)
    try:
        if task == "gradients":  # one run for each regularizer
            gradients.run(settings, folder)
        else:
            fit(experiment(settings), folder)
    except MemoryError as error:
        half = f"--batch-size {settings.batch_size // 2} or " if settings.batch_size > 1 else ""
        raise UserError(f"out of memory: {str(error).rstrip('.')}; try {half}a smaller --hidden-size") from None


def run_folder(folder: Path, resume: bool) -> Path:
    """The folder itself when it is free, else with the first free number; to resume, the last one that is taken."""
    names = [folder, *(folder.with_name(f"{folder.name}-{n}") for n in range(2, 10_000))]
    free = next(n for n, name in enumerate(names) if not name.exists())
    return names[max(0, free - 1)] if resume else names[free]


def parse(kind: Any, arguments: list[str], command: str, default: Any = None) -> Any:
    """Flags to a dataclass; what tyro says of an error becomes one line."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(kind, args=arguments, default=default, prog=f"run.py {command}", use_underscores=False)
    except SystemExit as stop:
        if stop.code == 0:
            raise
        words = re.sub("[│╭╮╰╯─]|-{4,}", " ", said.getvalue())  # without the box that tyro draws around them
        raise UserError(f"{command}: {words}") from None


if __name__ == "__main__":
    try:
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # names that are not UTF-8
        status = main(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of a pipe, `| head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 141
    sys.exit(status)
