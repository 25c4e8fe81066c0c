"""An argument of a wrong shape is refused with both shapes in the error. It is never broadcast.

The table has every layer and function, with the axes of its arguments. Each argument is tried with one axis less, one
axis more, and one length changed: for sizes that differ, and for equal sizes, where a wrong axis could fit by accident.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest

from minizone import Tensor, bn_lstm, gru, lstm, rnn
from minizone.autograd.ops import softmax_cross_entropy
from minizone.layers import BNLSTM, GRU, LSTM, RNN, Dropout, Embedding, Stack
from minizone.layers.regularizers import norm_stabilizer
from minizone.recurrent import cells
from minizone.zoneout import zone_out
from tests.helpers import as_tuple, rng

Shape = tuple[int, ...]
Sizes = dict[str, int]

DIFFERENT = {"T": 11, "D": 3, "H": 5, "B": 8, "V": 6, "1": 1}
EQUAL = dict.fromkeys("TDHBV", 4) | {"1": 1}
MASKS = ("keep_h", "keep_c", "input_mask", "hidden_mask", "keep")
BY_NAME = (*MASKS, "mean", "variance")
WANTED = re.compile(r"must (be|have) [^(]*\(|must have the shape|does not broadcast to [^(]*\(")
TABLE = []


def row(name: str, make: Callable[[Sizes], Callable[..., Any]], outputs: str, free: str = "", **axes: str) -> None:
    """Add a row: a function for some sizes, and the axes of its outputs and of its arguments.

    The lengths of the ``free`` axes may change.
    """
    TABLE.append(pytest.param(make, outputs, free, axes, id=name))


# ---- the table

lstm_masks = dict.fromkeys(MASKS[:4], "T H B")
gru_masks = dict.fromkeys(("keep_h", "input_mask", "hidden_mask"), "T H B")
rnn_masks = dict.fromkeys(("keep_h", "hidden_mask"), "T H B")
gains = {"gamma_x": "4H", "gamma_h": "4H", "gamma_c": "H", "beta_c": "H"}
paper = partial(partial, output_gate="paper", input_mask=0.5)

for x, letters, free in (("x", "T D B", "T"), ("tokens", "T B", "TD")):
    for name, G, states, options, fused, unrolled, step, step_states in (
        ("lstm", 4, "hc", lstm_masks, lstm, cells.lstm_unrolled, cells.lstm_cell, "hc"),
        ("gru", 3, "h", gru_masks, gru, cells.gru_unrolled, cells.gru_cell, "h"),
        ("rnn", 1, "h", rnn_masks, rnn, cells.rnn_unrolled, cells.rnn_cell, "h"),
        ("bn_lstm", 4, "hc", gains | lstm_masks, bn_lstm, cells.bn_lstm_unrolled, cells.bn_lstm_cell, "hc"),
        ("paper", 4, "hc", lstm_masks, paper(lstm), paper(cells.lstm_unrolled), paper(cells.output_gate_cell), "hco"),
    ):
        options = {"W_x": f"{G}H D", "W_h": f"{G}H H", "b": f"{G}H"} | options
        for form, function in (("fused", fused), ("unrolled", unrolled)):
            axes = {x: letters} | dict.fromkeys(states, "H B") | options
            row(f"{name}, {x}, {form}", lambda n, f=function: f, "T H B", free, **axes)
        axes = {x: letters} | dict.fromkeys(step_states, "H B") | options
        axes = {key: value.removeprefix("T ") for key, value in axes.items()}
        axes |= {"mean": "9H 1", "variance": "9H 1"} if name == "bn_lstm" else {}
        row(f"{name}, {x}, step", lambda n, f=step: f, "H B", free, **axes)


def layer(kind: Any, generator: Any) -> Callable[[Sizes], Callable[..., Any]]:
    def make(n: Sizes) -> Callable[..., Any]:
        made = kind(n["D"], n["H"], rng=rng())
        return lambda x, *state: made(x, state or None, generator)[0]

    return make


def stack(n: Sizes) -> Callable[..., Any]:
    made = Stack([LSTM(n["D"], n["H"], rng=rng()), GRU(n["H"], n["H"], rng=rng())], variational=0.5)
    return lambda x, h, c, h2: made(x, [(h, c), (h2,)], rng())[0]


for x, letters in (("x", "T D B"), ("tokens", "T B")):
    for generator in (None, rng()):
        mode = "evaluation" if generator is None else "training"
        for name, kind, states in (
            ("LSTM", LSTM, "hc"),
            ("GRU", GRU, "h"),
            ("RNN", RNN, "h"),
            ("BNLSTM", partial(BNLSTM, steps=3), "hc"),
        ):
            row(f"{name}, {x}, {mode}", layer(kind, generator), "T H B", "TB", **{x: letters})
            axes = {x: letters} | dict.fromkeys(states, "H B")
            row(f"{name}, {x}, {mode}, state", layer(kind, generator), "T H B", "T", **axes)
    row(f"Stack, {x}", stack, "T H B", "T", **{x: letters}, h="H B", c="H B", h2="H B")
for generator in (None, rng()):
    variational = partial(Dropout(0.5, variational=True), rng=generator)
    row(f"Dropout, {generator}", lambda n, f=variational: f, "T H B", "THB", x="T H B")
row("Embedding", lambda n: Embedding(n["V"], n["D"], rng=rng()), "T D B", "TB", tokens="T B")
row("norm_stabilizer", lambda n: norm_stabilizer, "", "THB", states="T H B")
row("zone_out", lambda n: partial(zone_out, keep=0.5), "H B", old="H B", new="H B", keep="H B")
row("softmax_cross_entropy", lambda n: softmax_cross_entropy, "", "V", scores="T V B", targets="T B")
row("batch_normalize", lambda n: cells.batch_normalize, "H B", "B", s="H B", gamma="H 1", beta="H 1", mean="H 1",
    variance="H 1")  # fmt: skip


# ---- the test


def lengths(axes: str, sizes: Sizes) -> Shape:
    """The shape that axes such as "4H B" stand for."""
    return tuple(int(axis[:-1] or 1) * sizes[axis[-1]] for axis in axes.split())


def changes(axes: str, free: str, sizes: Sizes) -> Iterator[tuple[Shape, Sizes | None]]:
    """Other shapes for an argument, with the sizes they are right for, or None."""
    shape = lengths(axes, sizes)
    for k, axis in enumerate(axes.split()):
        yield shape[:k] + shape[k + 1 :], None
        for n in {1, shape[k] + 1} - {shape[k]}:
            yield (*shape[:k], n, *shape[k + 1 :]), sizes | {axis: n} if axis in free else None
    for n in (1, 2, sizes["B"]):
        yield (n, *shape), None
        yield (*shape, n), None


def call(function: Callable[..., Any], shapes: dict[str, Shape]) -> set[Shape]:
    """The shapes of the outputs for arguments of these shapes."""
    options = {name: rng().random(shape) for name, shape in shapes.items() if name in BY_NAME}
    arguments = [
        np.zeros(shape, int) if name in ("tokens", "targets") else Tensor(rng().random(shape))
        for name, shape in shapes.items()
        if name not in BY_NAME
    ]
    return {y.shape for y in as_tuple(function(*arguments, **options))}


def broadcasts(shape: Shape, target: Shape) -> bool:
    try:
        return np.broadcast_shapes(shape, target) == target
    except ValueError:
        return False


@pytest.mark.parametrize("sizes", [DIFFERENT, EQUAL], ids=["different", "equal"])
@pytest.mark.parametrize(("make", "outputs", "free", "axes"), TABLE)
def test_argument_of_a_wrong_shape_is_refused_and_never_broadcast(make, outputs, free, axes, sizes):
    function = make(sizes)
    right = {name: lengths(letters, sizes) for name, letters in axes.items()}
    assert call(function, right) == {lengths(outputs, sizes)}
    unmasked = {name: shape for name, shape in right.items() if name not in MASKS}
    for name, letters in axes.items():
        others = right if name in MASKS else unmasked
        for shape, fitting in changes(letters, free, sizes):
            if name in MASKS and broadcasts(shape, right[name]):
                assert call(function, others | {name: shape}) == {lengths(outputs, sizes)}, f"{name} {shape}"
            elif fitting and name not in MASKS:
                assert call(function, others | {name: shape}) == {lengths(outputs, fitting)}, f"{name} {shape}"
            else:
                with pytest.raises((ValueError, TypeError, IndexError)) as error:
                    call(function, others | {name: shape})
                    pytest.fail(f"{name} {shape} was accepted, {right[name]} is right")
                sentence = str(error.value)
                named = any(str(s) in sentence for s in (shape, *others.values()))  # or the shape that it does not fit
                assert named and WANTED.search(sentence), f"{name} {shape}: {sentence}"
