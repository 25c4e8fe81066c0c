"""What the chapters share: where minizone lies, the command line, checks, figures, and training in one call."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # minizone is used where it lies, beside chapters/

import minizone  # noqa: F401  (before matplotlib, which imports NumPy: see minizone/__init__.py)
import matplotlib

from minizone.runs.files import read_rows
from minizone.errors import UserError
from minizone.runs.experiment import Experiment
from minizone.runs.training import Interrupted, fit

if "ipykernel" not in sys.modules:
    matplotlib.use("Agg")
import matplotlib.pyplot as plt
import tyro
from matplotlib.figure import Figure

Preset = Literal["small", "quick", "paper"]
"""small: seconds, to see that all runs; quick: a minute or so; paper: the real experiment, hours on a GPU."""
DeviceName = Literal["cpu", "gpu"]

plt.rcParams.update({
    "figure.figsize": (8, 3), "figure.constrained_layout.use": True, "font.size": 9, "axes.grid": True,
    "grid.alpha": 0.3, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False,
})  # fmt: skip


def run(main: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """Call ``main(preset, device)`` with the flags of the command line; in a notebook, as it is."""
    if "ipykernel" in sys.modules:
        return main()
    try:
        return tyro.cli(main)
    except Interrupted as stop:
        print(f"stopped, and saved in runs/chapters: the same command goes on ({stop})")
        sys.exit(stop.status)
    except UserError as error:
        sys.exit(f"error: {error}")


def check(claim: str, holds: Any) -> None:
    """Print what has been shown; AssertionError where it does not hold."""
    if not holds:
        raise AssertionError(f"this should hold, and does not: {claim}")
    print(f"check: {claim}")


def save(figure: Figure, name: str) -> None:
    """The figure as ``chapters/figures/NAME.png``, or in the folder that $MINIZONE_FIGURES names."""
    folder = Path(os.environ.get("MINIZONE_FIGURES", HERE / "figures"))
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"{name}.png", dpi=110)
    plt.close(figure)
    print(f"figure: {name}.png")


@dataclass
class Learned:
    """What a training run left: the rows of its log, its summary, the experiment with the best parameters."""

    rows: list[dict[str, Any]]
    summary: dict[str, Any]
    experiment: Experiment

    def curve(self, column: str) -> list[float]:
        """One number for each epoch, such as ``curve("valid_bpc")``."""
        return [row[column] for row in self.rows]


def learn(task: type[Experiment], preset: Preset, device: DeviceName, name: str, **changes: Any) -> Learned:
    """Train an experiment of `minizone.experiments` with its quick or paper settings, but for ``changes``.

    Runs of preset "paper" are kept in ``runs/chapters/NAME`` and go on where they stopped; others leave nothing.
    """
    paper = preset == "paper"
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path("runs/chapters", name) if paper else Path(scratch, name)
        again = (folder / "config.json").exists()
        settings = replace(task.presets["paper" if paper else "quick"], device=device, resume=again, **changes)
        settings.check()
        experiment = task(settings, lambda *_: None)  # type: ignore[arg-type]
        summary = fit(experiment, folder, print if paper else lambda *_: None)
        return Learned(read_rows(folder / "metrics.jsonl"), summary, experiment)
