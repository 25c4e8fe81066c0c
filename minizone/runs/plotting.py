"""Figures of runs, drawn from their logs."""

from __future__ import annotations

import io
import re
import statistics
import textwrap
import warnings
from pathlib import Path
from typing import Any, Literal

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from minizone.errors import UserError
from minizone.runs.files import Run, read_run, write_whole
from minizone.runs.groups import (
    Group,
    PaperResults,
    best_row,
    changed_settings,
    group_by_settings,
    mean_and_spread,
    number,
    paper_results,
)

Kind = Literal["curves", "zoom", "bars", "heat-map"]
FORMATS = (".png", ".pdf", ".svg")
COLORS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")  # Okabe and Ito: color-blind safe
STYLES = ("-", "-.", (0, (5, 1, 1, 1, 1, 1)))  # of curves 1 to 6, 7 to 12, 13 to 18
UNREGULARIZED = "Unregularized LSTM"  # its row in the paper's tables
LEAST_COST = 1e-8  # smaller costs are rounding errors of float32: `draw_networks` draws them as this value
AUTHORS_LOG = Path(__file__).with_name("char_ptb_authors.csv")
FIGURE_3_EPOCHS = 26  # on the axis of the paper's figure of char-ptb


# ---- learning curves


def plot_runs(paths: list[Path], out: Path, kind: Kind = "curves", paper: PaperResults | None = None) -> None:
    """Write a figure of runs of one task. A run is a folder or a saved JSON file.

    Kinds: learning curves (`draw_runs`); "zoom", the same with the end of the validation curves enlarged beside them;
    bars (`draw_bars`, with the ``paper``'s results); a heat map (`plot_grid`).

    Raises UserError if a path is not a run or has no finished epoch, if the runs are of different tasks or do not fit
    the kind, or if ``out`` cannot be written or does not end in .png, .pdf or .svg.
    """
    runs = [read_run(path) for path in paths]
    for path, run in zip(paths, runs, strict=True):
        if not run["rows"]:
            raise UserError(f"{path} has no finished epoch yet: there is nothing to plot")
    tasks = sorted({run["config"]["task"] for run in runs})
    if len(tasks) > 1:
        raise UserError(f"runs of different tasks cannot share a figure: {', '.join(tasks)}")
    groups = group_by_settings(runs)
    if kind in ("bars", "heat-map"):
        _require_results(runs, groups)
    if kind == "heat-map":
        plot_grid(groups, out)
    elif kind == "bars":
        _save(draw_bars(groups, paper or {}), out)
    else:
        _save(draw_runs(groups, zoom=kind == "zoom"), out)


def draw_runs(groups: list[Group], width: float = 7, *, zoom: bool = False) -> Figure:
    """Learning curves of runs of one task: training thin, validation thick, the paper's results dashed.

    The curves of a group are means over its runs, and a band shows the standard deviation of the validation. If runs
    have different lengths, a mean is over the runs that have the epoch. ``width`` is in inches; the legend below the
    axes adds to the height. With ``zoom`` a second panel shows the validation curves enlarged.
    """
    config = groups[0].config
    datasets = sorted({group.config["dataset"]["name"] for group in groups})
    last_epoch = max(run["rows"][-1]["epoch"] for group in groups for run in group.runs)
    figure, panels = plt.subplots(1, 2 if zoom else 1, squeeze=False, layout="constrained")
    axes = panels[0, 0]
    for k, group in enumerate(groups):
        name = group.label if len(datasets) == 1 else f"{group.label}, {group.config['dataset']['name']}"
        style = {"color": COLORS[k % len(COLORS)], "ls": STYLES[k // len(COLORS) % len(STYLES)]}
        _draw_group(axes, group, name, style)
        if zoom:
            _draw_group(panels[0, 1], group, name, style, only_valid=True)
    if len(datasets) == 1 and paper_results(groups):
        _draw_paper(axes, groups)
        if datasets[0] == "PTB, authors' form":  # char-ptb, the whole text
            epochs, _, valid = np.loadtxt(AUTHORS_LOG, delimiter=",", unpack=True)
            label = f"the authors' published run, zoneout 0.5 and 0.05: best {valid.min():.3f}"
            axes.plot(epochs, valid, color="black", lw=1, label=label)
            last_epoch = max(last_epoch, FIGURE_3_EPOCHS)
    for panel in panels.flat:
        panel.set(xlabel="epoch", xlim=(0.5, last_epoch + 0.5))
        panel.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        panel.grid(alpha=0.3)
    axes.set_ylabel(config["unit"])
    if zoom:
        _enlarge(panels[0, 1], groups)
    title = f"{config['task']} on {datasets[0] if len(datasets) == 1 else 'several data sets'}"
    whole_width = 1.4 * width if zoom else width
    if zoom:
        figure.suptitle(_wrapped(title, whole_width), fontsize=10)
    else:
        axes.set_title(_wrapped(title, width), fontsize=10)

    lines = _add_legend(axes, groups, whole_width, columns=2 if zoom else 1)
    figure.set_size_inches(whole_width, 0.62 * width + 0.17 * lines)
    return figure


def _add_legend(axes: Axes, groups: list[Group], width: float, columns: int) -> float:
    """Put the legend below the curves, and return its height in lines."""
    note = "thick: validation, thin: training (with its noise)"
    if any(len(group.runs) > 1 for group in groups):
        if _is_averaged(groups[0]):
            note += "; n seeds: their mean, with a band of one standard deviation"
        else:
            note += "; each seed has its own curves, because the task becomes harder"
    note = _wrapped(note, width)
    handles, labels = axes.get_legend_handles_labels()
    labels = [_wrapped(label, width / columns) for label in labels]
    style: dict[str, Any] = {"fontsize": 8, "title_fontsize": 8, "frameon": False, "handlelength": 3.5}
    axes.figure.legend(handles, labels, title=note, loc="outside lower center", ncols=columns, **style)
    return note.count("\n") + 1 + sum(label.count("\n") + 1 for label in labels) / columns


def _enlarge(axes: Axes, groups: list[Group]) -> None:
    """Limit the axes to the best validation results, where the groups differ."""
    best = [statistics.mean(value for value, _ in results) for results in (g.best_valid() for g in groups) if results]
    if best and max(best) > min(best):
        height = max(best) - min(best)
        axes.set_ylim(min(best) - 0.2 * height, max(best) + 0.8 * height)
    axes.set_title("validation, enlarged: higher values are cut off", fontsize=9)


def _draw_group(axes: Axes, group: Group, name: str, style: dict[str, Any], *, only_valid: bool = False) -> None:
    """Draw the curves of a group: means over its runs, or curves for each run."""
    for runs in [group.runs] if _is_averaged(group) else [[run] for run in group.runs]:
        epochs, train = _over_epochs(runs, f"train_{group.metric}")
        _, valid = _over_epochs(runs, f"valid_{group.metric}")
        mean = valid.mean(axis=0)
        marker = "o" if len(epochs) == 1 else None
        if not only_valid:
            axes.plot(epochs, train.mean(axis=0), **style, lw=0.9, alpha=0.6, marker=marker, ms=3)
        (line,) = axes.plot(epochs, mean, **style, lw=2, marker=marker)
        if len(runs) > 1:
            spread = valid.std(axis=0, ddof=1)  # masked where there is only one run
            axes.fill_between(epochs, mean - spread, mean + spread, color=style["color"], alpha=0.2, lw=0)
        elif row := best_row(runs[0]):
            axes.plot(row["epoch"], row[f"valid_{group.metric}"], "o", color=style["color"], ms=5)

    best = group.best_valid()
    label = f"{name}: best {mean_and_spread(best, group.metric)}" if best else f"{name}: not a number"
    if len(group.runs) > 1:
        label += f", n = {len(group.runs)}"
        lengths = sorted(run["rows"][-1]["epoch"] for run in group.runs)
        if lengths[0] < lengths[-1]:
            label += f" with {lengths[0]} to {lengths[-1]} epochs"
    line.set_label(re.sub("^_", " _", label))  # matplotlib hides labels that begin with _


def _is_averaged(group: Group) -> bool:
    """Whether runs are averaged. They are not if the task becomes harder, in each run at a different epoch."""
    return "difficulty" not in group.runs[0]["rows"][0]


def _over_epochs(runs: list[Run], column: str) -> tuple[list[int], np.ma.MaskedArray]:
    """All epochs, and a column of the logs: (runs, epochs), masked where a run lacks the epoch."""
    logs = [{row["epoch"]: row[column] for row in run["rows"]} for run in runs]
    epochs = sorted({epoch for log in logs for epoch in log})
    values = np.array([[log.get(epoch, 0.0) for epoch in epochs] for log in logs])
    return epochs, np.ma.array(values, mask=[[epoch not in log for epoch in epochs] for log in logs])


def _draw_paper(axes: Axes, groups: list[Group]) -> None:
    """Draw the paper's validation results for the regularizers of the groups, in the colors of the groups.

    The results without a regularizer and with zoneout are always drawn.
    """
    colors = {group.paper: COLORS[k % len(COLORS)] for k, group in enumerate(groups)}
    shown = {UNREGULARIZED, "Zoneout", *colors}
    results = {name: r["valid"] for name, r in paper_results(groups).items() if name in shown and "valid" in r}
    for k, (name, valid) in enumerate(results.items()):
        dashes = (0, (6 - k, 1 + k))
        label = f"paper, {name}: {valid:g}"
        axes.axhline(valid, color=colors.get(name, "0.5"), ls=dashes, lw=1, label=label)


def _wrapped(text: str, width: float) -> str:
    """Wrap a text to ``width`` inches at 10 points, and escape $, which would start a formula."""
    text = textwrap.fill(text, round(11 * width))
    return text.replace("$", r"\$")


# ---- the best results


def _require_results(runs: list[Run], groups: list[Group]) -> None:
    """Raise UserError unless all runs have finished and their results are comparable."""
    for run in runs:
        if not run["summary"]:
            raise UserError(f"{run['name']} has not finished: bars and heat maps need finished runs")
    if not _is_averaged(groups[0]):
        raise UserError("bars and heat maps need results of one difficulty, but this task becomes harder during a run")


def draw_bars(groups: list[Group], paper: PaperResults, width: float = 7) -> Figure:
    """Draw how far the results of each group are below those of the unregularized group: validation and test.

    Bars are means over the seeds, lines the standard deviation, dots the seeds. Diamonds are the differences in the
    ``paper``'s table, for its data and model size.
    """
    plain = next((group for group in groups if group.row_of_paper == UNREGULARIZED), None)
    if plain is None:
        raise UserError("bars are differences from a run without regularizers, and there is none among these runs")
    metric = plain.metric
    figure, panels = plt.subplots(1, 2, figsize=(width, 1.4 + 0.4 * len(groups)), sharey=True, layout="constrained")
    for axes, split in zip(panels, ("valid", "test"), strict=True):
        base = statistics.mean(value for value, _ in plain.results(split))
        of_paper = {name: result[split] for name, result in paper.items() if split in result}
        for y, group in enumerate(groups):
            gains = [base - value for value, _ in group.results(split)]
            spread = statistics.stdev(gains) if len(gains) > 1 else None
            axes.barh(y, statistics.mean(gains), xerr=spread, height=0.6, color=COLORS[y % len(COLORS)], alpha=0.6)
            axes.plot(gains, [y] * len(gains), ".", color="black", ms=4)
            if group.row_of_paper in of_paper and UNREGULARIZED in of_paper and group is not plain:
                gain = of_paper[UNREGULARIZED] - of_paper[group.row_of_paper]
                axes.plot(gain, y, "D", mfc="none", mec="black", ms=7)
        axes.axvline(0, color="black", lw=0.8)
        axes.set(title=f"{'validation' if split == 'valid' else 'test'}: {number(base, metric)} without regularizer")
        axes.title.set_fontsize(9)
        axes.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(range(len(groups)), [f"{group.label}, n = {len(group.runs)}" for group in groups])
    panels[0].invert_yaxis()
    note = f"{plain.config['unit']} below the run without regularizer; further right is better\ndots: the seeds"
    figure.supxlabel(note + "; diamonds: the paper, at its size" if paper else note, fontsize=9)
    return figure


def plot_grid(groups: list[Group], out: Path, names: list[str] | None = None) -> None:
    """Write a heat map of the best validation results over two settings, as means over the seeds.

    ``names`` are the settings of the rows and of the columns. The default is the settings in which the groups differ.
    Raises UserError unless these are two, and for the reasons in `plot_runs`.
    """
    settings = [group.config["settings"] for group in groups]
    if names is None:
        changed = dict.fromkeys(name for group in groups for name in changed_settings(group.config))
        names = [name for name in changed if len({str(each.get(name)) for each in settings}) > 1]
    if len(names) != 2:
        raise UserError(
            f"a heat map needs runs that differ in two settings, but these differ in {', '.join(names) or 'none'}"
        )
    down, across = (_axis([each[name] for each in settings]) for name in names)
    values = np.full((len(down), len(across)), np.nan)
    for group, each in zip(groups, settings, strict=True):
        cell = down.index(str(each[names[0]])), across.index(str(each[names[1]]))
        values[cell] = statistics.mean(value for value, _ in group.best_valid())
    flags = [name.replace("_", "-") for name in names]
    plot_heat_map(values, (flags[0], down), (flags[1], across), groups[0].config["unit"], out)


def _axis(values: list[Any]) -> list[str]:
    """The distinct values of a setting as labels, in numerical order or else in alphabetical order."""
    numbers = all(isinstance(value, int | float) for value in values)
    return list(dict.fromkeys(str(value) for value in sorted(values, key=None if numbers else str)))


# ---- the figures of single tasks


def plot_networks(folder: Path, out: Path) -> None:
    """Write the figure of the run of the semantic task in ``folder``, see `draw_networks`."""
    _save(draw_networks(read_run(folder)), out)


def draw_networks(run: Run) -> Figure:
    """Draw a run of the semantic task: every element of W, with and without zoneout, and both costs below."""
    rows, settings = run["rows"], run["config"]["settings"]
    thousands = [row["update"] / 1000 for row in rows]
    marker = "o" if len(rows) == 1 else None
    figure, axes = plt.subplot_mosaic(
        [["zoneout", "plain"], ["cost", "cost"]], figsize=(8, 6), layout="constrained", height_ratios=[3, 2]
    )
    for color, style, name, title, cost in (
        (COLORS[0], "-", "zoneout", f"zoneout {settings['zoneout_prob']:g}", "valid_cost"),
        (COLORS[1], "--", "plain", "no zoneout", "valid_cost_plain"),
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
    return figure


def plot_gradients(found: dict[str, np.ndarray], what: str, out: Path) -> None:
    """Write the figure of the task gradients, see `draw_gradients`."""
    _save(draw_gradients(found, what), out)


def draw_gradients(found: dict[str, np.ndarray], what: str) -> Figure:
    """Draw Figure 6 of the paper, before training and after the last epoch; and Figure 1a of Cooijmans et al. (2017).

    ``found``: the arrays that `minizone.experiments.gradients.run` writes.
    """
    figure, axes = plt.subplots(2, 2, figsize=(9, 7), layout="constrained")
    epochs = found["norms"].shape[1] - 1
    panels = [(axes[0, 0], 0, 0, "c"), (axes[1, 0], epochs, 0, "c"), (axes[1, 1], epochs, 1, "h")]
    for axis, epoch, kind, state in panels:
        for k, (method, norms) in enumerate(zip(found["methods"], found["norms"], strict=True)):
            share = _positive(norms[epoch, kind] / norms[epoch, kind].sum())
            axis.plot(np.arange(1, len(share) + 1), share, color=COLORS[k], lw=1.2, label=method)
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
    return figure


def _positive(values: np.ndarray) -> np.ndarray:
    """The values, with NaN instead of zeros, which a log axis cannot show."""
    return np.where(values > 0, values, np.nan)


def plot_heat_map(
    values: np.ndarray, down: tuple[str, list[str]], across: tuple[str, list[str]], unit: str, out: Path
) -> None:
    """Write numbers (rows, columns) as a heat map with the numbers in its cells; NaN is an empty cell.

    ``down`` and ``across`` are the axis label and the tick labels of the rows and of the columns.
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


# ---- files


def to_svg(figure: Figure, prefix: str) -> str:
    """Render a figure as an SVG element, and close it. All ids begin with ``prefix``, which is unique on its page."""
    _, start, rest = _render(figure, "svg").decode().partition("<svg")
    plt.close(figure)
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\1{prefix}-", start + rest)


def _save(figure: Figure, out: Path) -> None:
    """Write the figure in the format of the file's ending, and close it.

    Raises UserError, and leaves no file, if the ending is not one of ``FORMATS`` or if the file cannot be written.
    """
    try:
        if out.suffix.lower() not in FORMATS:
            raise ValueError(f"its name must end in {', '.join(FORMATS)}")
        content = _render(figure, out.suffix[1:].lower())
        out.parent.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot write the figure {out}: {error}") from None
    finally:
        plt.close(figure)
    write_whole(out, content)


def _render(figure: Figure, kind: str) -> bytes:
    """Render the figure to the content of a "png", "pdf" or "svg" file."""
    content = io.BytesIO()
    no_date = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
    with (
        warnings.catch_warnings(),
        plt.rc_context({"svg.hashsalt": "minizone", "svg.fonttype": "none"}),
    ):  # the same ids every time
        warnings.filterwarnings("ignore", "Glyph .* missing")  # in a name: the glyph is drawn as a box
        figure.savefig(content, format=kind, dpi=120, metadata=no_date)
    return content.getvalue()
