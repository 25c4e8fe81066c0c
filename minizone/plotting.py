"""Figures, from the logs of runs alone."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import MaxNLocator

from minizone.checkpoint import read_run
from minizone.errors import UserError


def plot_runs(folders: list[Path], out: Path) -> None:
    """Learning curves of runs of one task: training thin, validation thick, the paper's numbers dashed.

    Raises UserError when a folder holds no run or no finished epoch, or when the runs cannot share an axis.
    """
    runs = [read_run(folder) for folder in folders]
    for folder, run in zip(folders, runs, strict=True):
        if not run["rows"]:
            raise UserError(f"{folder} has no finished epoch yet, there is nothing to plot")
    tasks = {(run["config"]["task"], run["config"]["metric"]) for run in runs}
    if len(tasks) > 1:
        raise UserError(f"these runs have no common axis: {', '.join(sorted(task for task, _ in tasks))}")
    (task, metric), unit = tasks.pop(), runs[0]["config"]["unit"]
    datasets = {run["config"]["dataset"]["name"] for run in runs}

    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for number, run in enumerate(runs):
        color, rows = f"C{number % 10}", run["rows"]
        name = run["name"] if len(datasets) == 1 else f"{run['name']}, {run['config']['dataset']['name']}"
        epochs = [row["epoch"] for row in rows]
        best = min(rows, key=lambda row: row[f"valid_{metric}"])
        marker = "o" if len(rows) == 1 else None
        axes.plot(epochs, [row[f"train_{metric}"] for row in rows], color=color, lw=0.9, alpha=0.6, marker=marker, ms=3)
        axes.plot(epochs, [row[f"valid_{metric}"] for row in rows], color=color, lw=2, marker=marker,
                  label=f"{name}: best {best[f'valid_{metric}']:.3f}")  # fmt: skip
        axes.plot(best["epoch"], best[f"valid_{metric}"], "o", color=color, ms=5)
    for name, numbers in runs[0]["config"]["reference"].items():
        axes.axhline(numbers["valid"], color="0.4", ls="--", lw=0.8)
        axes.annotate(f"paper, {name}: {numbers['valid']}", (1, numbers["valid"]), xycoords=("axes fraction", "data"),
                      ha="right", va="bottom", fontsize=8, color="0.3")  # fmt: skip
    axes.set(xlabel="epoch", ylabel=unit)
    axes.set_title(
        f"{task} on {', '.join(sorted(datasets)) if len(datasets) == 1 else 'several data sets'}", fontsize=10
    )
    axes.set_xlim(0.5, max(run["rows"][-1]["epoch"] for run in runs) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(alpha=0.3)
    axes.legend(title="thick: validation, thin: training (with its noise)", title_fontsize=8, fontsize=8)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = out.with_name(f".tmp-{out.name}")
        figure.savefig(temporary, dpi=120)
        temporary.replace(out)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot write the figure {out}: {error}") from None
    finally:
        plt.close(figure)
