"""What the paper claims, and what our runs say: one row a claim, from the JSON files of the runs beside this file.

    python results/claims.py                the table "What reproduces" of the README
    python results/claims.py crossover      from which epoch on zoneout is ahead; --largest: one row a task
    python results/claims.py summary        how many claims have which verdict

With several seeds on both sides a difference counts when it is larger than twice its standard error. With one seed the
direction counts, and the verdict says "one seed". A comparison is not decided when the side that is behind in
validation catches up so fast that it would be level after as many epochs again.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).resolve().parent
sys.path.insert(0, str(RESULTS.parent))

from minizone.commands.train import TASKS
from minizone.runs.groups import Group, group_by_settings, mean_and_spread
from minizone.runs.report import find_runs

NOT_RUN = "not yet run"
VERDICTS = ("reproduced", "in part", "not decided", "not seen", NOT_RUN)  # how they begin
SIZE = {  # settings that make a task smaller than the paper's
    "hidden_size": "units",
    "train_symbols": "symbols",
    "train_examples": "images",
    "epochs": "epochs",
}

Evidence = tuple[str, str]  # what was found, and the verdict


@dataclass(frozen=True)
class Less:
    """The runs ``less`` have a lower result than the runs ``more``. Their names are "folder/run", without the seed."""

    less: str
    more: str
    split: str = "valid"

    def groups(self) -> list[Group]:
        """The groups of the two that have been run."""
        return [one for one in (group(self.less), group(self.more)) if one]

    def verdict(self) -> str:
        """yes, no, "one seed" for a difference in the right direction whose spread is not known, or "not decided"."""
        less, more = ([value for value, _ in one.results(self.split)] for one in self.groups())
        difference = statistics.mean(more) - statistics.mean(less)
        if catches_up(*(self.groups() if difference > 0 else reversed(self.groups()))):
            return "not decided"
        if difference <= 0:
            return "no"
        if min(len(less), len(more)) < 2:
            return "one seed"
        error = math.sqrt(sum(statistics.variance(side) / len(side) for side in (less, more)))
        return "yes" if difference > 2 * error else "no"


@dataclass(frozen=True)
class Claim:
    """A claim of the paper, or of the authors' repository."""

    section: str
    text: str
    evidence: list[Less] | Callable[[], Evidence | None] = field(default_factory=list)  # []: there is no run for it
    note: str = ""
    figure: str = ""  # in results/

    def row(self) -> list[str]:
        """The cells: section, claim, what was found, verdict."""
        found, verdict = (self.evidence() or ("", NOT_RUN)) if callable(self.evidence) else compare(self.evidence)
        if not self.evidence:
            verdict += ", and not planned"
        figure = ""
        if self.figure and verdict != NOT_RUN and (RESULTS / self.figure).exists():
            figure = f"[figure](results/{self.figure})"
        return [self.section, self.text, ". ".join(filter(None, [found, self.note, figure])), verdict]


def compare(comparisons: list[Less]) -> Evidence:
    """The results of all comparisons that have been run, and their joint verdict."""
    made = [each for each in comparisons if len(each.groups()) == 2]
    if not made:
        return "", NOT_RUN
    verdicts = [each.verdict() for each in made]
    holds = sum(verdict in ("yes", "one seed") for verdict in verdicts)
    open_ones = {"not decided": verdicts.count("not decided"), NOT_RUN: len(comparisons) - len(made)}
    sizes = {scale(one) for each in made for one in each.groups()}
    if holds:
        verdict = "reproduced" if sizes == {""} else "reproduced at reduced scale"
        if holds < len(comparisons):
            verdict = f"in part: {verdict} in {holds} of {len(comparisons)} comparisons"
        verdict += ", one seed" if "one seed" in verdicts else ""
        verdict += "".join(f"; {count} {kind}" for kind, count in open_ones.items() if count)
    else:
        verdict = "not seen" if "no" in verdicts else "not decided"
    return "; ".join([*numbers(made), *filter(None, sorted(sizes))]), verdict


def numbers(comparisons: list[Less]) -> list[str]:
    """The results of validation and of test: "validation: zoneout 1.861 ± 0.004 (n = 3), ..."."""
    texts = []
    for split, name in (("valid", "validation"), ("test", "test")):
        found = {one.name: one for each in comparisons if each.split == split for one in each.groups()}
        if found:
            values = [
                f"{short_name(one)} {mean_and_spread(one.results(split), one.metric)} (n = {len(one.runs)})"
                for one in found.values()
            ]
            texts.append(f"{name}: {', '.join(values)}")
    return texts


# ---- runs


@cache
def groups_in(folder: str) -> dict[str, Group]:
    """The groups of a folder by their names; {} when it has no runs yet."""
    path = RESULTS / folder
    return {one.name: one for one in group_by_settings(find_runs(path))} if any(path.glob("*.json")) else {}


def group(name: str) -> Group | None:
    folder, run = name.rsplit("/", 1)
    return groups_in(folder).get(run)


def short_name(one: Group) -> str:
    """The name of the runs, in words."""
    return f"zoneout ({one.label})" if "z_c" in one.label else one.name.replace("-", " ")


def scale(one: Group) -> str:
    """The settings in which the runs are smaller than the paper's; "" if there are none."""
    settings = one.config["settings"]
    paper = asdict(TASKS[one.config["task"]].presets["paper"])
    less = [name for name in SIZE if name in paper and settings[name] != paper[name]]
    return ", ".join(f"{settings[name]:,} {SIZE[name]}" for name in less)


def mean_rows(one: Group, column: str) -> np.ndarray:
    """A column of the logs, (epochs,): means over the seeds, for the epochs that all seeds have."""
    columns = [[row[column] for row in run["rows"]] for run in one.runs]
    return np.array([statistics.mean(values) for values in zip(*columns, strict=False)])


def catches_up(ahead: Group, behind: Group) -> bool:
    """Whether the distance between the best validation results so far, at the rate of the last fifth of the epochs,
    would be 0 after as many epochs again. Epochs that ``ahead`` has not been trained for count as without change."""
    first, second = (np.minimum.accumulate(mean_rows(one, f"valid_{one.metric}")) for one in (ahead, behind))
    n = len(second)
    distance = second - np.pad(first, (0, n), mode="edge")[:n]  # (epochs,)
    last = max(1, n // 5)
    rate = (distance[-1 - last] - distance[-1]) / last if n > 1 else 0.0  # an epoch
    return distance[-1] > 0 and rate * n > distance[-1]


# ---- claims that need more than one number


def training_time() -> Evidence | None:
    """The epoch in which zoneout reaches the best validation result of the run without it."""
    found = []
    for name, plain, zoneout in (
        ("LSTM", "table1-char-ptb/unregularized", "table1-char-ptb/zoneout"),
        ("GRU", "gru-rnn/gru", "gru-rnn/gru-zoneout"),
        ("tanh-RNN", "longer-runs/rnn", "longer-runs/rnn-zoneout"),
    ):
        if (one := group(plain)) is None or (other := group(zoneout)) is None:
            return None
        without, with_zoneout = (mean_rows(each, f"valid_{each.metric}") for each in (one, other))
        reached = np.flatnonzero(with_zoneout <= without.min())
        epoch = reached[0] + 1 if len(reached) else math.inf
        found.append((name, int(without.argmin()) + 1, epoch))
    texts = [
        f"{name}: epoch {best} without, {epoch if epoch < math.inf else 'never'} with zoneout"
        for name, best, epoch in found
    ]
    holds = [found[0][2] < found[0][1], *(epoch > best for _, best, epoch in found[1:])]
    verdict = "reproduced at reduced scale, one seed" if any(holds) else "not seen"
    if any(holds) and not all(holds):
        verdict = f"in part: {verdict}, for {sum(holds)} of 3 models"
    return f"epoch in which the best result of the model without zoneout is reached: {'; '.join(texts)}", verdict


def static_identity() -> Evidence | None:
    """Masks that never change: validation, and training (with its noise) in the last ten epochs."""
    names = ("figure7-static-identity/static-identity", "table1-char-ptb/zoneout", "table1-char-ptb/unregularized")
    found = [group(name) for name in names]
    if not all(found):
        return None
    best = [statistics.mean(value for value, _ in one.best_valid()) for one in found]
    train = [mean_rows(one, "train_bpc")[-10:].mean() for one in found]
    text = (
        f"validation: static {best[0]:.3f}, without zoneout {best[2]:.3f}, with zoneout {best[1]:.3f}; training, mean"
        f" of the last ten epochs: static {train[0]:.3f}, with zoneout and its noise {train[1]:.3f}; {scale(found[0])}"
    )
    holds = {"training": train[0] < train[1], "validation": best[0] > best[2]}
    if not any(holds.values()):
        return text, "not seen"
    verdict = "reproduced at reduced scale, one seed"
    return text, verdict if all(holds.values()) else f"in part: {next(kind for kind in holds if holds[kind])} {verdict}"


def gradient_flow() -> Evidence | None:
    """The share of the gradient norms of c in the first half of the sequence, after the last epoch."""
    path = RESULTS / "figure6-gradients" / "gradients.npz"
    if not path.exists():
        return None
    with np.load(path, allow_pickle=False) as found:
        norms = found["norms"][:, -1, 0]  # (methods, T), after the last epoch, of c
        methods = list(found["methods"])
    shares = {str(m): float(n[: len(n) // 2].sum() / n.sum()) for m, n in zip(methods, norms, strict=True)}
    text = ", ".join(f"{name} {share:.2g}" for name, share in shares.items())
    others = [share for name, share in shares.items() if "zoneout" not in name]
    verdict = "reproduced, one seed" if shares["zoneout z_c = 0.5"] > max(others) else "not seen"
    return f"share of the norms of dL/dc_t that is in the first half of the time steps: {text}", verdict


def semantic() -> Evidence | None:
    """Whether the diagonal of W is positive at the end, with and without zoneout."""
    one = next(iter(groups_in("semantic").values()), None)
    if one is None:
        return None
    ends = {kind: [np.diag(run["rows"][-1]["W"][kind]) for run in one.runs] for kind in ("zoneout", "plain")}
    positive = {kind: sum(bool((diagonal > 0).all()) for diagonal in found) for kind, found in ends.items()}
    n = len(one.runs)
    text = (
        f"all of the diagonal of W is positive at the end in {positive['zoneout']} of {n} runs with zoneout, in"
        f" {positive['plain']} of {n} without"
    )
    return text, "reproduced" if positive["zoneout"] == n > positive["plain"] else "not seen"


TABLE_1 = "table1-char-ptb"
GRID = "figure3-left/z-prob-cells{}-z-prob-states{}"
CLAIMS = [
    Claim(
        "4.1.1, Table 1",
        "Zoneout improves a character-level LSTM: 1.362 against 1.466 BPC in validation, 1.27 against 1.356 in test",
        [Less(f"{TABLE_1}/zoneout", f"{TABLE_1}/unregularized", split) for split in ("valid", "test")],
        figure=f"{TABLE_1}/curves.png",
    ),
    Claim(
        "4.1.1, Figure 3 right",
        "It does better than weight noise, the norm stabilizer and stochastic depth: 1.362 against 1.507, 1.459 and"
        " 1.432 in validation, 1.27 against 1.344, 1.352 and 1.343 in test",
        [
            Less(f"{TABLE_1}/zoneout", f"{TABLE_1}/{other}", split)
            for split in ("valid", "test")
            for other in ("weight-noise", "norm-stabilizer", "stochastic-depth")
        ],
        "After 30 epochs weight noise still improves fast, and after 45 it is below zoneout's result after 30"
        " ([longer runs](results/README.md#longer-runs)); zoneout of that length will decide",
        figure=f"{TABLE_1}/bars.png",
    ),
    Claim(
        "4.1.1",
        "z_c = 0.5 alone and z_h = 0.05 alone do better than recurrent dropout in validation",
        [Less(GRID.format(*z), f"{TABLE_1}/recurrent-dropout") for z in (("0.5", "0"), ("0", "0.05"))],
        "The paper's Table 1 has 1.358 for recurrent dropout, below zoneout's 1.362 and against its own text. Here"
        " recurrent dropout of 0.7 still improves fast in epoch 30; a longer run will decide",
    ),
    Claim(
        "4.1.1, Table 1",
        "Zoneout does better than recurrent dropout in test: 1.27 against 1.321",
        [Less(f"{TABLE_1}/zoneout", f"{TABLE_1}/recurrent-dropout", "test")],
    ),
    Claim(
        "4.1.1, Figure 3 left",
        "z_c = 0.5 with z_h = 0.05 does better than either alone",
        [Less(f"{TABLE_1}/zoneout", GRID.format(*z)) for z in (("0.5", "0"), ("0", "0.05"))],
        figure="figure3-left/heat-map.png",
    ),
    Claim(
        "4.1.1",
        "A mask for each unit does better than stochastic depth, and than one mask for cells and hidden states",
        [
            Less(GRID.format("0.05", "0.05"), f"{TABLE_1}/stochastic-depth"),
            Less(GRID.format("0.05", "0.05"), "shared-mask/shared-0.05"),
            Less(GRID.format("0.5", "0.5"), "shared-mask/shared-0.5"),
        ],
    ),
    Claim(
        "4.1.1",
        "Zoneout improves a GRU: from 1.53 to 1.41 BPC",
        [Less("gru-rnn/gru-zoneout", "gru-rnn/gru")],
        figure="gru-rnn/curves.png",
    ),
    Claim(
        "4.1.1",
        "Zoneout improves a tanh-RNN: from 1.67 to 1.52 BPC",
        [Less("longer-runs/rnn-zoneout", "longer-runs/rnn")],
        figure="longer-runs/rnn.png",
    ),
    Claim(
        "4.1.1",
        "Small probabilities help: 0.05 and 0.1 all three models, 0.05 to 0.25 the GRU and the tanh-RNN",
        [
            Less(GRID.format("0.05", "0.05"), f"{TABLE_1}/unregularized"),
            Less("gru-rnn/gru-zoneout", "gru-rnn/gru"),
            Less("longer-runs/rnn-zoneout", "longer-runs/rnn"),
        ],
    ),
    Claim(
        "4.1.1",
        "Zoneout shortens the training of the LSTM, and lengthens that of the GRU and the tanh-RNN",
        training_time,
    ),
    Claim(
        "4.1.2, Table 1",
        "On top of Zaremba's dropout zoneout improves a word-level LSTM: 81.4 against 82.2 in validation, 77.4 against"
        " 78.4 in test",
        [Less("table1-word-ptb/dropout-and-zoneout", "table1-word-ptb/dropout", split) for split in ("valid", "test")],
        figure="table1-word-ptb/curves.png",
    ),
    Claim(
        "4.1.2",
        "Zoneout alone cannot compete with dropout on words",
        [Less("table1-word-ptb/dropout", "table1-word-ptb/zoneout")],
    ),
    Claim(
        "4.1.2, Table 1",
        "With dropout, zoneout does better than recurrent dropout on words, 77.4 against 87.0 in test, and less well"
        " than variational dropout, 73.4",
        note="The paper gives no probabilities for these two",
    ),
    Claim(
        "4.2, Table 1, Figure 4",
        "Zoneout improves an LSTM on text8: 1.331 against 1.396 BPC in validation, 1.336 against 1.408 in test",
        [Less("table1-text8/zoneout", "table1-text8/unregularized", split) for split in ("valid", "test")],
        figure="table1-text8/curves.png",
    ),
    Claim(
        "4.2, Table 1",
        "Zoneout does better than recurrent dropout on text8: 1.331 against 1.409 in validation, 1.336 against 1.358 in"
        " test",
        [Less("table1-text8/zoneout", "table1-text8/recurrent-dropout", split) for split in ("valid", "test")],
    ),
    Claim(
        "4.2, Table 1",
        "Zoneout does better than weight noise, the norm stabilizer and stochastic depth on text8: 1.331 against 1.356,"
        " 1.382 and 1.337",
        note="The paper does not say how strong these three were on text8",
    ),
    Claim(
        "4.1.1, 4.2, Table 1",
        "Zoneout does better than recurrent batch normalization on texts: test 1.27 against 1.32 on Penn Treebank,"
        " 1.336 against 1.36 on text8",
        note="The numbers of batch normalization are those of Cooijmans et al. (2017); minizone has it for permuted"
        " MNIST only",
    ),
    Claim(
        "4.3, Table 2, Figure 5",
        "Zoneout improves an LSTM on permuted MNIST: error 0.063 against 0.092 in validation, 0.069 against 0.102 in"
        " test",
        [Less("table2-pmnist/zoneout", "table2-pmnist/unregularized", split) for split in ("valid", "test")],
        figure="table2-pmnist/curves.png",
    ),
    Claim(
        "4.3, Table 2, Figure 5",
        "It does better than recurrent dropout on permuted MNIST: 0.063 against 0.083 in validation, 0.069 against"
        " 0.075 in test",
        [Less("table2-pmnist/zoneout", "table2-pmnist/recurrent-dropout", split) for split in ("valid", "test")],
    ),
    Claim(
        "4.3, Table 2",
        "With recurrent batch normalization zoneout is best of all: test error 0.041 against 0.046 and 0.069",
        [
            Less("table2-pmnist/batchnorm-and-zoneout", "table2-pmnist/batchnorm", "test"),
            Less("table2-pmnist/batchnorm-and-zoneout", "table2-pmnist/zoneout", "test"),
        ],
        figure="table2-pmnist/curves.png",
    ),
    Claim(
        "4.4, Figure 6",
        "Zoneout carries gradient to early time steps better than dropout on recurrent connections, and than no noise",
        gradient_flow,
        "The paper does not say which connections its dropout is on; as in the authors' script it is recurrent dropout",
        figure="figure6-gradients/gradients.png",
    ),
    Claim(
        "appendix, Figure 7",
        "Connections that are the identity all the time (static masks) train a little better than zoneout and validate"
        " worse than no regularizer: the noise is needed",
        static_identity,
        "Against the paper, static masks validate a little better than no regularizer. On a tenth of the text the"
        " network over-fits more, and anything that slows it down may help; runs on the whole text would tell",
        figure="figure7-static-identity/curves.png",
    ),
    Claim(
        "2.3, 2.4",
        "Residual connections make recurrent networks unstable; a different update rate for each unit brings no gain",
        note="minizone has neither",
    ),
    Claim(
        "authors' code",
        "Semantic consistency: with zoneout W goes to +I, without it W may stay at -I",
        semantic,
        figure="semantic/semantic.png",
    ),
]


# ---- when zoneout overtakes

RACES = [  # pairs of runs, without and with zoneout; of each task the largest first
    ("table1-char-ptb/unregularized", "table1-char-ptb/zoneout"),
    ("gru-rnn/gru", "gru-rnn/gru-zoneout"),
    ("longer-runs/rnn", "longer-runs/rnn-zoneout"),
    ("table1-word-ptb/dropout", "table1-word-ptb/dropout-and-zoneout"),
    ("table1-text8/unregularized", "table1-text8/zoneout"),
    ("table2-pmnist/unregularized", "table2-pmnist/zoneout"),
    ("quick/char-ptb-manual/lstm", "quick/char-ptb-manual/zoneout-c0.5-h0.05"),
    ("quick/char-ptb/lstm", "quick/char-ptb/zoneout-c0.5-h0.05"),
    ("two-epochs/text8/lstm", "two-epochs/text8/zoneout"),
    ("two-epochs/word-ptb/lstm", "two-epochs/word-ptb/zoneout"),
    ("quick/text8/lstm", "quick/text8/zoneout"),
    ("quick/word-ptb/dropout0.5", "quick/word-ptb/zoneout-c0.25-h0.025-dropout0.5"),
    ("two-epochs/pmnist/lstm", "two-epochs/pmnist/zoneout-c0.15-h0.15"),
    ("quick/pmnist/lstm", "quick/pmnist/zoneout-c0.15-h0.15"),
]


def crossover(plain: Group, zoneout: Group) -> list[str]:
    """The cells of a race: the epoch from which zoneout stays ahead in validation, and both best results."""
    without, with_zoneout = (mean_rows(one, f"valid_{one.metric}") for one in (plain, zoneout))
    n = min(len(without), len(with_zoneout))
    behind = np.flatnonzero(with_zoneout[:n] >= without[:n])
    last = behind[-1] + 1 if len(behind) else 0  # the last epoch in which zoneout is behind
    ahead = f"epoch {last + 1}" if last < n else "not yet"
    bests = [mean_and_spread(one.best_valid(), one.metric) for one in (plain, zoneout)]
    parts = plain.config["dataset"]["name"].split(", ")
    data = ", ".join(part for part in parts if not part.startswith(("first", "evaluated", "authors")))
    network = {"gru": "GRU", "rnn": "tanh-RNN"}.get(plain.config["settings"].get("rnn_type"), "")
    size = ", ".join(filter(None, [data, network, scale(zoneout)]))
    return [plain.config["task"], size, f"{ahead} of {n}" if last < n else f"{ahead}, {n} epochs", *bests]


def line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def claims_table() -> str:
    lines = [line(["section", "the paper", "our runs", "verdict"]), "|---|---|---|---|"]
    return "\n".join([*lines, *(line(claim.row()) for claim in CLAIMS)]) + "\n"


def crossover_table(*flags: str) -> str:
    """All races that have been run; with --largest the first of each task, which has the largest runs."""
    lines = [
        line(["task", "data and size", "zoneout stays ahead from", "best without", "best with"]),
        "|---" * 5 + "|",
    ]
    tasks = set()
    for names in RACES:
        plain, zoneout = map(group, names)
        if plain and zoneout and not ("--largest" in flags and plain.config["task"] in tasks):
            tasks.add(plain.config["task"])
            lines.append(line(crossover(plain, zoneout)))
    return "\n".join(lines) + "\n"


def summary() -> str:
    """The number of claims with each verdict, in one sentence."""
    verdicts = [claim.row()[-1] for claim in CLAIMS]
    counts = {kind: sum(verdict.startswith(kind) for verdict in verdicts) for kind in VERDICTS}
    one_seed = sum(verdict.startswith("reproduced") and "one seed" in verdict for verdict in verdicts)
    found = [f"{count} {kind}" for kind, count in counts.items()]
    found[0] += f" ({one_seed} with one seed)"
    return f"of {len(CLAIMS)} claims: {', '.join(found)}.\n"


def main(kind: str = "claims", *flags: str) -> str:
    return {"claims": claims_table, "crossover": crossover_table, "summary": summary}[kind](*flags)


if __name__ == "__main__":
    print(main(*sys.argv[1:]), end="")
