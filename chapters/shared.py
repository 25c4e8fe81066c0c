"""What the chapters share: the path to minizone, the command line, checks, figures, and training in one call."""

from __future__ import annotations

import functools
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # so that minizone need not be installed

import matplotlib
import tyro

from minizone import UserError
from minizone.commands.train import paper_of
from minizone.runs.experiment import Experiment
from minizone.runs.files import read_rows
from minizone.runs.report import report
from minizone.runs.training import Interrupted, fit

IN_NOTEBOOK = "ipykernel" in sys.modules
if not IN_NOTEBOOK:
    matplotlib.use("Agg")  # draws to files, needs no display
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

Preset = Literal["small", "quick", "paper"]
"""small: seconds, shows that everything runs; quick: about a minute; paper: the real experiment, hours on a GPU."""
DeviceName = Literal["cpu", "gpu"]

plt.rcParams.update(
    {
        "figure.figsize": (8, 3),
        "figure.constrained_layout.use": True,
        "font.size": 9,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.alpha": 0.3,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
    }
)


figures = HERE / "figures"  # where `save` writes; the repository holds those of preset quick


def run(main: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """Call ``main(preset, device)`` with the flags of the command line; in a notebook, with its defaults."""
    if IN_NOTEBOOK:
        return main()

    @functools.wraps(main)
    def with_figures(preset: Preset = "quick", device: DeviceName = "cpu") -> dict[str, Any]:
        global figures
        if preset != "quick":
            figures = Path("runs/chapters/figures")
        return main(preset, device)

    try:
        return tyro.cli(with_figures)
    except Interrupted as stop:
        print(f"stopped ({stop}); the run is saved in runs/chapters, and the same command continues it")
        sys.exit(stop.status)
    except UserError as error:
        sys.exit(f"error: {error}")


def check(claim: str, holds: Any) -> None:
    """Print the claim, or raise AssertionError if it does not hold."""
    if not holds:
        raise AssertionError(f"this claim does not hold: {claim}")
    print(f"check: {claim}")


def save(figure: Figure, name: str) -> None:
    """Write the figure NAME.png: to ``chapters/figures/`` with preset quick, else to ``runs/chapters/figures/``.

    $MINIZONE_FIGURES is another folder for all presets.
    """
    folder = Path(os.environ.get("MINIZONE_FIGURES", figures))
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"{name}.png", dpi=110)
    plt.close(figure)
    print(f"figure: {name}.png")
    if folder != HERE / "figures":
        print(f"in the folder {folder}")


@dataclass
class Learned:
    """The result of a training run: the rows of its log, its summary, the experiment with the best parameters."""

    rows: list[dict[str, Any]]
    summary: dict[str, Any]
    experiment: Experiment

    def curve(self, column: str) -> list[float]:
        """One number for each epoch, such as ``curve("valid_bpc")``."""
        return [row[column] for row in self.rows]


def print_results(folder: str) -> None:
    """Print the table of the large runs whose logs are in ``results/FOLDER``, beside the paper's results."""
    print(report(HERE.parent / "results" / folder, short=paper_of), end="")


def quiet(*words: object) -> None:
    """Take the place of ``print`` where the log of a run should not be seen."""


def learn(task: type[Experiment], preset: Preset, device: DeviceName, name: str, **changes: Any) -> Learned:
    """Train an experiment of `minizone.experiments` with its quick or paper settings, except for ``changes``.

    Runs of preset "paper" are kept in ``runs/chapters/NAME``, and a stopped run continues from its checkpoint. Other
    runs leave no files.
    """
    paper = preset == "paper"
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path("runs/chapters", name) if paper else Path(scratch, name)
        started = (folder / "config.json").exists()
        settings = replace(task.presets["paper" if paper else "quick"], device=device, resume=started, **changes)
        settings.check()
        experiment = task(settings, quiet)
        summary = fit(experiment, folder, print if paper else quiet)
        rows = read_rows(folder / "metrics.jsonl")
    return Learned(rows, summary, experiment)
