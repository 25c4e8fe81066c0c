"""Properties that hold for all shapes, masks, dtypes and memory layouts, including empty axes.

The number of cases and the largest error are printed at the end of a test run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from minizone import Tensor
from minizone.recurrent.bn_lstm import Statistics
from tests.helpers import Arrays, as_tuple, rng, run
from tests.helpers.cells import CELLS, Cell

MANY = settings(max_examples=120, deadline=None, derandomize=True)  # the same cases in every run
SOME = settings(MANY, max_examples=40)
LAYOUTS = {
    "Fortran order": np.asfortranarray,
    "every second": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "backwards": lambda a: np.ascontiguousarray(a[::-1])[::-1],
    "transposed": lambda a: np.ascontiguousarray(a.T).T,
    "read-only": lambda a: np.broadcast_to(a, a.shape),
}
TOKENS = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"]
sizes = st.integers(0, 4)
every_cell = pytest.mark.parametrize("name", ["lstm", "gru", "tanh", "relu", "bn_lstm"])


class Worst:
    """How many cases were tried, and the largest error relative to the largest element of its array."""

    def __init__(self) -> None:
        self.cases, self.error = 0, 0.0

    def compare(self, found: Arrays, expected: Arrays, tolerance: float) -> None:
        """Same names, shapes and dtypes, and values up to the tolerance."""
        self.cases += 1
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert found[name].shape == value.shape and found[name].dtype == value.dtype, name
            error = np.abs(found[name] - value).max(initial=0) / max(np.abs(value).max(initial=0), 1e-3)
            assert error <= tolerance, f"{name} is off by {error:.1e}"
            self.error = max(self.error, float(error))

    def record(self, what: str, record_property: Callable[[str, Any], None]) -> None:
        record_property(f"{what}: cases", self.cases)
        record_property(f"{what}: largest relative error", self.error)


def draw_arguments(draw: Any, cell: Cell, T: int, B: int, D: int, H: int, dtype: Any) -> Arrays:
    """Arguments of a cell by name; `problem` has at least one feature and one unit, of which some may be cut off."""
    tokens = draw(st.booleans()) and (D > 0 or T * B == 0)
    seed = draw(st.integers(0, 10**6))
    arguments = cell.problem(T, B, D=max(D, 1), H=max(H, 1), tokens=tokens, dtype=dtype, seed=seed)
    if tokens:
        arguments["x"] = arguments["x"].astype(draw(st.sampled_from(TOKENS)))
    else:
        arguments["x"] = arguments["x"][:, :D]
    arguments["W_x"] = arguments["W_x"][:, :D]
    if H == 0:
        arguments["W_h"] = arguments["W_h"][:, :0]
        for name in arguments.keys() - {"x"}:
            arguments[name] = arguments[name][:0]
    return arguments


def draw_masks(draw: Any, cell: Cell, T: int, B: int, H: int, dtype: Any) -> Arrays:
    """Some of the masks of a cell, of every shape that broadcasts to (T, H, B)."""
    generator, masks = rng(draw(st.integers(0, 10**6))), {}
    for name in cell.mask_names:
        if draw(st.booleans()):
            shape = [size if draw(st.booleans()) else 1 for size in (T, H, B)]
            values = generator.random(shape[draw(st.integers(0, 3)) :])  # without the first axes, or with none at all
            kind = draw(st.sampled_from(["0 and 1", "boolean", "probability"]))
            masks[name] = np.asarray(values if kind == "probability" else values < 0.5)
            if kind != "boolean":
                masks[name] = masks[name].astype(dtype)
    return masks


@every_cell
def test_fused_equals_reference_in_all_shapes_masks_dtypes_and_layouts(name, record_property):
    """And changes no argument. In float32 a rectifier may see another side of 0, so it is compared in float64 alone."""
    cell, worst = CELLS[name], Worst()

    @MANY
    @given(st.data(), sizes, sizes, sizes, sizes, st.booleans(), st.booleans())
    def check(data, T, B, D, H, single, population):
        dtype = np.float32 if single and name not in ("relu", "bn_lstm") else np.float64
        arguments = draw_arguments(data.draw, cell, T, B, D, H, dtype)
        masks = draw_masks(data.draw, cell, T, B, H, dtype)
        statistics = {}
        if cell.batch_normalized:
            assume(population or B > 0 or T == 0)
            statistics = {"statistics": Statistics(2, H, dtype=dtype) if population else None}
        moved = {}
        for key, array in (arguments | masks).items():
            layout = LAYOUTS[data.draw(st.sampled_from(sorted(LAYOUTS)))]
            moved[key] = layout(array) if array.ndim else array
        before = {key: array.copy() for key, array in moved.items()}
        moved_arguments = {key: moved[key] for key in arguments}
        found = run(cell.fused, moved_arguments, {key: moved[key] for key in masks} | statistics)
        assert all(np.array_equal(moved[key], array) for key, array in before.items()), "an argument was changed"
        masks = {key: mask.astype(dtype) for key, mask in masks.items()}  # 1 - boolean is an integer
        expected = run(cell.reference, arguments, masks | statistics)
        worst.compare(found, expected, 1e-4 if dtype is np.float32 else 1e-8)

    check()
    worst.record("fused = reference", record_property)


@every_cell
def test_one_tensor_in_every_place_where_it_fits_gets_the_sum_of_its_gradients(name, record_property):
    """The same Tensor as h0 and c0, as W_x and W_h, as both gains; and x is also the initial state."""
    cell, worst = CELLS[name], Worst()

    def shared(function: Any, arguments: Arrays, masks: Arrays) -> Arrays:
        x, h0, W, b = (Tensor(arguments[key]) for key in ("x", "h0", "W_h", "b"))
        states = [h0 * 1.0 + x[0], h0] if cell.gates == 4 else [h0 * 1.0 + x[0]]  # of two nodes, and the leaf itself
        gains = [b, b, h0[:, 0], h0[:, 0]] if cell.batch_normalized else []
        h, *c = as_tuple(function(x, *states, W, W, b, *gains, **masks))
        again = as_tuple(function(h + x, *states, W, W, b, *gains, **masks))[0]
        ((h * again).sum() + sum((each * each).sum() for each in c)).backward()
        return {"h": h.data, "again": again.data, "dx": x.grad, "dh0": h0.grad, "dW": W.grad, "db": b.grad}

    @SOME
    @given(st.data(), st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))
    def check(data, T, B, H):
        arguments = draw_arguments(data.draw, cell, T, B, H, H, np.float64)
        arguments["x"] = rng(T + B + H).standard_normal((T, H, B))
        masks = draw_masks(data.draw, cell, T, B, H, np.float64)
        worst.compare(shared(cell.fused, arguments, masks), shared(cell.reference, arguments, masks), 1e-6)

    check()
    worst.record("fused = reference, one tensor in several places", record_property)
