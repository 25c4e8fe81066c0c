"""Groups of runs that differ only in the seed (a table row, a curve in a figure), and the formatting of results."""

from __future__ import annotations

import math
import re
import shlex
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from minizone.runs.files import Row, Run

PaperResults = dict[str, dict[str, float]]  # the rows of a table of the paper: {"Zoneout": {"valid": ..., "test": ...}}
Result = tuple[float, int | None]  # the metric; the number of digits in a task that becomes harder, else None

NOT_A_DIFFERENCE = {"seed", "data_dir", "offline", "max_minutes"}  # runs of one group may differ in these settings
REGULARIZERS = (
    "z_prob_cells", "z_prob_states", "share_mask", "static_mask", "stoch_depth", "gaussian_drop", "drop_prob_igates",
    "output_gate", "ogates_zoneout", "dropout", "variational_dropout", "input_drop", "norm_cost_coeff", "weight_noise",
    "l2_regularization", "batch_normalization",
)  # fmt: skip
FORMATS = {"ppl": ".1f", "cost": ".3g"}  # other metrics: .3f
OFF = (0, "0", "0.0", "plain", None)  # values that switch a regularizer off; False is 0
PAPER: dict[str, dict[str, dict[str, Any]]] = {  # the regularizers of each row of the paper's tables
    "char-ptb": {
        "Unregularized LSTM": {},
        "Weight noise": {"weight_noise": 0.075},
        "Norm stabilizer": {"norm_cost_coeff": 50},
        "Stochastic depth": {"stoch_depth": True, "z_prob_cells": 0.05, "z_prob_states": 0.05},
        "Recurrent dropout": {"drop_prob_igates": 0.7},
        "Zoneout": {"z_prob_cells": 0.5, "z_prob_states": 0.05},
    },
    "text8": {
        "Unregularized LSTM": {},
        "Recurrent dropout": {"drop_prob_igates": 0.5},
        "Zoneout": {"z_prob_cells": 0.5, "z_prob_states": 0.05},
    },
    "word-ptb": {
        "Unregularized LSTM": {},
        "Non-recurrent dropout": {"dropout": 0.65},
        "Zoneout": {"dropout": 0.65, "z_prob_cells": 0.25, "z_prob_states": 0.025},
    },
    "pmnist": {
        "Unregularized LSTM": {},
        "Recurrent dropout": {"drop_prob_igates": 0.5},
        "Zoneout": {"z_prob_cells": 0.15, "z_prob_states": 0.15},
        "Recurrent batchnorm": {"batch_normalization": True},
        "Recurrent batchnorm & Zoneout": {
            "z_prob_cells": 0.15,
            "z_prob_states": 0.15,
            "share_mask": True,
            "batch_normalization": True,
        },
    },
}


@dataclass
class Group:
    """Runs (see `minizone.runs.files.read_run`) of one task, data set and command, in order of seed."""

    runs: list[Run]

    @property
    def config(self) -> dict[str, Any]:
        """The config of the first run."""
        return self.runs[0]["config"]

    @property
    def metric(self) -> str:
        return self.config["metric"]

    @property
    def name(self) -> str:
        """The name of the runs without their seeds."""
        return ", ".join(dict.fromkeys(re.sub(r"-?seed\d+(?=-|$)", "", run["name"]) for run in self.runs))

    @property
    def label(self) -> str:
        """The name for readers: flags of zoneout as the paper's symbols."""
        return re.sub(r"z-prob-cells([\d.]+)-z-prob-states([\d.]+)", r"z_c = \1, z_h = \2", self.name)

    @property
    def table(self) -> tuple[str, str]:
        """The task and the data set, which are the same for all groups of a table."""
        return self.config["task"], self.config["dataset"]["name"]

    @property
    def row_of_paper(self) -> str | None:
        """The row of the paper's table with the same regularizers, for any data and model size."""
        settings = self.config["settings"]
        if settings.get("rnn_type", "lstm") != "lstm":
            return None
        regularizers = {name: settings[name] for name in REGULARIZERS if settings.get(name) not in OFF}
        rows = PAPER.get(self.config["task"], {})
        return next((name for name, of_paper in rows.items() if regularizers == of_paper), None)

    @property
    def place(self) -> int:
        """The index of `row_of_paper` in the paper's table; the number of rows if it is None."""
        rows = list(PAPER.get(self.config["task"], {}))
        return rows.index(self.row_of_paper) if self.row_of_paper else len(rows)

    @property
    def paper(self) -> str | None:
        """`row_of_paper` if the data are the paper's, so that the results are comparable; else None."""
        return self.row_of_paper if self.row_of_paper in self.config["reference"] else None

    def best_valid(self) -> list[Result]:
        """The validation result of each run in its best epoch; a run that has none yet is left out."""
        rows = [row for row in map(best_row, self.runs) if row]
        return [(row[f"valid_{self.metric}"], row.get("difficulty")) for row in rows]

    def test(self) -> list[Result]:
        """The test result of each run. All runs must have finished."""
        summaries = [run["summary"] for run in self.runs]
        return [(summary[f"test_{self.metric}"], summary.get("difficulty")) for summary in summaries]

    def results(self, split: str) -> list[Result]:
        """`best_valid` for the split "valid", `test` for the split "test"."""
        return self.best_valid() if split == "valid" else self.test()


def group_by_settings(runs: Iterable[Run]) -> list[Group]:
    """Groups in the order of their first runs; within a task and data set, in the order of the paper's table.

    A repeated run, whose seed is already in the group, goes into another group.
    """
    groups: dict[tuple[object, ...], list[Run]] = defaultdict(list)
    times: Counter[tuple[object, ...]] = Counter()
    for run in runs:
        config = run["config"]
        settings = (config["task"], config["dataset"]["name"], command(config))
        seed = config["settings"]["seed"]
        times[*settings, seed] += 1
        groups[*settings, times[*settings, seed]].append(run)
    found = [Group(sorted(group, key=lambda run: run["config"]["settings"]["seed"])) for group in groups.values()]
    tables = list(dict.fromkeys(group.table for group in found))
    return sorted(found, key=lambda group: (tables.index(group.table), group.place))


def paper_results(groups: Iterable[Group]) -> PaperResults:
    """The paper's results for the data of these groups, as in `minizone.runs.experiment.Experiment.reference`."""
    return next((group.config["reference"] for group in groups if group.config["reference"]), {})


def changed_settings(config: dict[str, Any]) -> dict[str, Any]:
    """The settings of a run that differ from its preset, except those in ``NOT_A_DIFFERENCE``."""
    return {name: value for name, value in config["changed"].items() if name not in NOT_A_DIFFERENCE}


def command(config: dict[str, Any]) -> str:
    """The command line of a run, without its seed."""
    words = ["python run.py", config["task"]]
    if config["settings"]["preset"] != "quick":
        words.append(f"--preset {config['settings']['preset']}")
    for name, value in changed_settings(config).items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words.append(f"--{flag} {shlex.quote(str(value))}")
    return " ".join(words)


def best_row(run: Run) -> Row | None:
    """The row of the best epoch; of a run that has not ended, among its last difficulty. None if all are NaN."""
    rows, valid = run["rows"], f"valid_{run['config']['metric']}"
    if run["summary"]:
        return next(row for row in rows if row["epoch"] == run["summary"]["best_epoch"])
    comparable = [r for r in rows if r.get("difficulty") == rows[-1].get("difficulty") and not math.isnan(r[valid])]
    return min(comparable, key=lambda row: row[valid], default=None)


# ---- results as text


def number(value: float, metric: str, sign: str = "") -> str:
    """Format a perplexity with one decimal, a cost with three digits, and other results with three decimals."""
    return format(value, sign + FORMATS.get(metric, ".3f"))


def mean_and_spread(results: Sequence[Result], metric: str) -> str:
    """The mean, and for several results ± the sample standard deviation. Each difficulty has its own mean."""
    values: dict[int | None, list[float]] = defaultdict(list)
    for value, difficulty in results:
        values[difficulty].append(value)
    texts = []
    for difficulty, equal in values.items():
        text = number(statistics.mean(equal), metric)
        if len(equal) > 1:
            text += f" ± {number(statistics.stdev(equal), metric)}"
        text += at_difficulty(difficulty)
        if len(values) > 1:
            text += f" ({len(equal)} of {len(results)} seeds)"
        texts.append(text)
    return "; ".join(texts)


def at_difficulty(difficulty: int | None) -> str:
    return "" if difficulty is None else f" at {difficulty} digit{'s' if difficulty > 1 else ''}"
