"""The recurrent cells in one table, and the two checks that each of them must pass for every kind of masks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from minizone import bn_lstm, gradcheck, gru, lstm, rnn
from minizone.recurrent.cells import bn_lstm_unrolled, gru_unrolled, lstm_unrolled, rnn_unrolled
from tests.helpers import KINDS, LOSSES, ROUNDING, Arrays, H, assert_same, hidden_mask, masks, problem, run
from tests.helpers.bn import bn_problem, known_statistics


@dataclass(frozen=True)
class Cell:
    """A fused function, the readable reference beside it, and what their arguments are."""

    fused: Callable[..., Any]
    reference: Callable[..., Any]
    gates: int
    mask_names: tuple[str, ...]
    batch_normalized: bool = False
    population: bool = False  # with known population statistics

    def problem(self, T: int, B: int, **options: Any) -> Arrays:
        return bn_problem(T, B, **options) if self.batch_normalized else problem(T, B, gates=self.gates, **options)

    def masks(
        self, kind: str, T: int, B: int, hidden: str = "", inputs: bool = True, units: int = H, dtype: Any = np.float64
    ) -> Arrays:
        """The options of the cell for masks of one of the ``KINDS``; ``inputs``: with recurrent dropout, if it can."""
        given = masks(kind, T, units, B, inputs=inputs, dtype=dtype)
        given["hidden_mask"] = hidden_mask(hidden, T, units, B)
        options = {name: given[name] for name in self.mask_names}
        if self.population:
            options["statistics"] = known_statistics(5, dtype, units)  # 5 steps: later ones use those of the last
        return options


LSTM_MASKS = ("keep_h", "keep_c", "input_mask", "hidden_mask")
tanh, tanh_unrolled = partial(rnn, activation="tanh"), partial(rnn_unrolled, activation="tanh")
relu, relu_unrolled = partial(rnn, activation="relu"), partial(rnn_unrolled, activation="relu")

CELLS = {
    "lstm": Cell(lstm, lstm_unrolled, 4, LSTM_MASKS),
    "gru": Cell(gru, gru_unrolled, 3, ("keep_h", "input_mask", "hidden_mask")),
    "tanh": Cell(tanh, tanh_unrolled, 1, ("keep_h", "hidden_mask")),
    "relu": Cell(relu, relu_unrolled, 1, ("keep_h", "hidden_mask")),
    "bn_lstm": Cell(bn_lstm, bn_lstm_unrolled, 4, LSTM_MASKS, batch_normalized=True),
    "bn_lstm, population": Cell(bn_lstm, bn_lstm_unrolled, 4, LSTM_MASKS, batch_normalized=True, population=True),
}


@dataclass(frozen=True)
class Case:
    """A kind of zoneout masks, of masks on h_{t-1}, and whether there is recurrent dropout."""

    kind: str
    hidden: str = ""
    inputs: bool = True

    def __str__(self) -> str:
        return ", ".join(part for part in (self.kind, self.hidden, "" if self.inputs else "no dropout") if part)


CASES = [
    Case("no mask", inputs=False),
    Case("no mask", "constant hidden mask"),
    Case("independent", inputs=False),
    Case("independent", "constant hidden mask"),
    Case("independent", "hidden mask"),
    Case("evaluation", "hidden mask"),
    *(Case(kind) for kind in KINDS),
]


def assert_fused_equals_reference(cell: Cell, case: Case) -> None:
    """h, c and every gradient, with dense inputs and tokens, for long and short sequences, for every loss."""
    losses = LOSSES if cell.gates == 4 else ("h", "the last step")
    for tokens in (False, True):
        for T, B in ((1, 1), (2, 3), (7, 3)):
            arguments = cell.problem(T, B, tokens=tokens)
            options = cell.masks(case.kind, T, B, case.hidden, case.inputs)
            for loss in losses if case.kind == "independent" else losses[:1]:
                expected = run(cell.reference, arguments, options, loss)
                assert_same(run(cell.fused, arguments, options, loss), expected, ROUNDING)


def assert_gradient_is_complex_step(cell: Cell, case: Case) -> None:
    """To 1e-9: in every element for the cases with all masks, along random directions for the others."""
    directions = None if case.hidden == "hidden mask" else 2
    for tokens in (False, True):
        arguments = cell.problem(4, 3, tokens=tokens)
        options = cell.masks(case.kind, 4, 3, case.hidden, case.inputs)
        fused = partial(call, cell.fused, list(arguments), options)
        gradcheck(fused, *arguments.values(), names=list(arguments), directions=directions)


def call(function: Callable[..., Any], names: list[str], options: Arrays, *values: Any) -> Any:
    """The function with the arguments of these names."""
    return function(**dict(zip(names, values, strict=True)), **options)
