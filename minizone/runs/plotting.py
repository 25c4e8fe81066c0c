"""Figures, made from the logs of runs alone."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from minizone.errors import UserError
from minizone.runs.files import Run, read_run, write_whole

FORMATS = (".png", ".pdf", ".svg")
LEAST_COST = 1e-8  # `plot_networks` draws smaller costs, which are rounding errors of float32, as this


def plot_runs(folders: list[Path], out: Path) -> None:
    """Learning curves of runs of one task: training thin, validation thick, the paper's results dashed.

    Raises UserError when a folder holds no run or no finished epoch, when the runs are of different tasks, and when
    ``out`` cannot be written or does not end in .png, .pdf or .svg.
    """
    runs = [read_run(folder) for folder in folders]
    for folder, run in zip(folders, runs, strict=True):
        if not run["rows"]:
            raise UserError(f"{folder} has no finished epoch yet, there is nothing to plot")
    tasks = sorted({run["config"]["task"] for run in runs})
    if len(tasks) > 1:
        raise UserError(f"these runs have no common axis: {', '.join(tasks)}")
    datasets = sorted({run["config"]["dataset"]["name"] for run in runs})

    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for number, run in enumerate(runs):
        name = run["name"] if len(datasets) == 1 else f"{run['name']}, {run['config']['dataset']['name']}"
        _plot_run(axes, run, name, f"C{number % 10}")
    config = runs[0]["config"]
    for name, result in config["reference"].items():
        axes.axhline(result["valid"], color="0.4", ls="--", lw=0.8)
        axes.annotate(
            f"paper, {name}: {result['valid']}",
            (1, result["valid"]),
            xycoords=("axes fraction", "data"),
            ha="right",
            va="bottom",
            fontsize=8,
            color="0.3",
        )
    axes.set(xlabel="epoch", ylabel=config["unit"])
    axes.set_title(f"{config['task']} on {datasets[0] if len(datasets) == 1 else 'several data sets'}", fontsize=10)
    axes.set_xlim(0.5, max(run["rows"][-1]["epoch"] for run in runs) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(alpha=0.3)
    axes.legend(title="thick: validation, thin: training (with its noise)", title_fontsize=8, fontsize=8)
    _save(figure, out)


def _plot_run(axes: Axes, run: Run, name: str, color: str) -> None:
    """The two curves of a run, and a dot on its best epoch."""
    rows, metric = run["rows"], run["config"]["metric"]
    epochs = [row["epoch"] for row in rows]
    train = [row[f"train_{metric}"] for row in rows]
    valid = [row[f"valid_{metric}"] for row in rows]
    # The best epoch is not always the least error: the problems of seq2seq become harder.
    best_epoch = run["summary"]["best_epoch"] if run["summary"] else epochs[int(np.argmin(valid))]
    best = valid[epochs.index(best_epoch)]
    marker = "o" if len(rows) == 1 else None
    axes.plot(epochs, train, color=color, lw=0.9, alpha=0.6, marker=marker, ms=3)
    axes.plot(epochs, valid, color=color, lw=2, marker=marker, label=f"{name}: best {best:.3f}")
    axes.plot(best_epoch, best, "o", color=color, ms=5)


def plot_networks(folder: Path, out: Path) -> None:
    """The run of the semantic task in a folder: every element of W, with and without zoneout, and both costs below."""
    run = read_run(folder)
    rows, settings = run["rows"], run["config"]["settings"]
    thousands = [row["update"] / 1000 for row in rows]
    marker = "o" if len(rows) == 1 else None
    figure, axes = plt.subplot_mosaic(
        [["zoneout", "plain"], ["cost", "cost"]], figsize=(8, 6), layout="constrained", height_ratios=[3, 2]
    )
    for color, style, name, title, cost in (
        ("C0", "-", "zoneout", f"zoneout {settings['zoneout_prob']:g}", "valid_cost"),
        ("C1", "--", "plain", "no zoneout", "valid_cost_plain"),
    ):
        W = np.array([row["W"][name] for row in rows])  # (epochs, n, n)
        for i, j in np.ndindex(W.shape[1:]):
            label = {(0, 0): "diagonal of W", (0, 1): "off the diagonal"}.get((i, j))
            axes[name].plot(
                thousands, W[:, i, j], "-" if i == j else ":", color=color, marker=marker, ms=3, label=label
            )
        largest = max(1, abs(W).max())
        axes[name].set_ylim(-1.15 * largest, 1.45 * largest)  # the legend is above the lines
        axes[name].set_title(title, fontsize=10)
        axes[name].legend(fontsize=8, loc="upper center", ncols=2)
        drawn = [max(row[cost], LEAST_COST) for row in rows]
        axes["cost"].plot(thousands, drawn, style, color=color, lw=2, marker=marker, ms=3, label=title)
    of_zero = settings["dim"] * settings["batch_size"]
    axes["cost"].axhline(of_zero, color="0.4", lw=0.8, label=f"{of_zero}: always answer 0")
    axes["cost"].set(yscale="log", ylabel="validation cost")
    axes["cost"].set_title(f"a cost below {LEAST_COST:g} is drawn as {LEAST_COST:g}", fontsize=8, loc="left")
    axes["cost"].legend(fontsize=8, loc="center right")
    for each in axes.values():
        each.set(xlabel="thousands of updates", xlim=(0, 1.02 * thousands[-1]))
        each.grid(alpha=0.3)
    _save(figure, out)


def plot_gradients(found: dict[str, np.ndarray], what: str, out: Path) -> None:
    """Figure 6 of the paper, before training and after the last epoch; and Figure 1a of Cooijmans et al. (2017).

    ``found``: the arrays that `minizone.experiments.gradients.run` writes.
    """
    figure, axes = plt.subplots(2, 2, figsize=(9, 7), layout="constrained")
    epochs = found["norms"].shape[1] - 1
    panels = [(axes[0, 0], 0, 0, "c"), (axes[1, 0], epochs, 0, "c"), (axes[1, 1], epochs, 1, "h")]
    for axis, epoch, kind, state in panels:
        for number, (method, norms) in enumerate(zip(found["methods"], found["norms"], strict=True)):
            share = _positive(norms[epoch, kind] / norms[epoch, kind].sum())
            axis.plot(np.arange(1, len(share) + 1), share, color=f"C{number}", lw=1.2, label=method)
        when = "before training" if epoch == 0 else f"after epoch {epoch}"
        axis.set_title(f"{found['kinds'][kind]}, {when}", fontsize=10)
        axis.set(yscale="log", xlabel="t", ylabel=rf"$|\partial L/\partial {state}_t|$ / sum over t")
    axes[0, 0].legend(fontsize=8)
    for gamma, norms in zip(found["gammas"], found["gamma_norms"], strict=True):
        color = plt.get_cmap("viridis")(gamma)
        axes[0, 1].plot(np.arange(1, len(norms) + 1), norms, color=color, lw=1.2, label=f"{gamma:g}")
    axes[0, 1].set(yscale="log", xlabel="t", ylabel=r"$|\partial L/\partial h_t|$")
    axes[0, 1].set_title("batch-normalized tanh-RNN, at initialization", fontsize=10)
    axes[0, 1].legend(title="gamma", fontsize=7, title_fontsize=8, ncols=2)
    for axis in axes.flat:
        axis.grid(alpha=0.3)
    figure.suptitle(f"gradients over time steps, {what}", fontsize=11)
    _save(figure, out)


def _positive(values: np.ndarray) -> np.ndarray:
    """The values, with NaN in the place of zeros, which a log axis cannot show."""
    return np.where(values > 0, values, np.nan)


def _save(figure: Figure, out: Path) -> None:
    """Write the figure, in the format of its ending, and close it.

    Raises UserError, and leaves no file behind, when the ending is not one of ``FORMATS`` and when the file cannot be
    written.
    """
    content = io.BytesIO()
    try:
        if out.suffix.lower() not in FORMATS:
            raise ValueError(f"its name must end in {', '.join(FORMATS)}")
        figure.savefig(content, format=out.suffix[1:], dpi=120)
        out.parent.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot write the figure {out}: {error}") from None
    finally:
        plt.close(figure)
    write_whole(out, content.getvalue())


def plot_heat_map(
    values: np.ndarray, down: tuple[str, list[str]], across: tuple[str, list[str]], unit: str, out: Path
) -> None:
    """A table of numbers (rows, columns) as colors, with the numbers in the cells; NaN is an empty cell.

    ``down`` and ``across``: what the rows and the columns are, and the value of each.
    """
    width, height = 2.5 + 0.9 * values.shape[1], 1.6 + 0.6 * values.shape[0]
    figure, axes = plt.subplots(figsize=(width, height), layout="constrained")
    image = axes.imshow(values, cmap="viridis_r", aspect="auto")
    axes.set_xticks(range(values.shape[1]), across[1])
    axes.set_yticks(range(values.shape[0]), down[1])
    axes.set(xlabel=across[0], ylabel=down[0])
    middle = (np.nanmin(values) + np.nanmax(values)) / 2
    for (i, j), value in np.ndenumerate(values):
        if not np.isnan(value):
            axes.text(j, i, f"{value:.3f}", ha="center", va="center", color="k" if value < middle else "w", fontsize=9)
    axes.set_title(f"best validation, {unit}", fontsize=10)
    figure.colorbar(image)
    _save(figure, out)
