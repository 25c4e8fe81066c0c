"""`minizone.lstm`: the readable reference, complex steps, the paper's equations, PyTorch's numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from minizone import GradientError, gradcheck, lstm
from minizone.recurrent.cells import lstm_unrolled
from tests.helpers import assert_same, problem, tensors
from tests.helpers.by_hand import lstm_by_hand
from tests.helpers.cells import CASES, CELLS, assert_fused_equals_reference, assert_gradient_is_complex_step

every_case = pytest.mark.parametrize("case", CASES, ids=str)


@every_case
def test_fused_lstm_equals_the_readable_reference(case):
    assert_fused_equals_reference(CELLS["lstm"], case)


@every_case
def test_gradient_of_the_lstm_is_the_complex_step(case):
    assert_gradient_is_complex_step(CELLS["lstm"], case)


@every_case
@pytest.mark.parametrize("function", [lstm, lstm_unrolled], ids=["fused", "reference"])
def test_lstm_computes_the_equations_of_the_paper(function, case):
    arguments, options = problem(4, 3), CELLS["lstm"].masks(case.kind, 4, 3, case.hidden, case.inputs)
    h, c = function(**tensors(arguments), **options)
    expected_h, expected_c = lstm_by_hand(**arguments, **options)
    assert_same({"h": h.data, "c": c.data}, {"h": expected_h, "c": expected_c}, 1e-14)


@pytest.mark.parametrize("kind", ["independent", "evaluation", "gaussian", "shape (1,B)"])
def test_complex_step_sees_a_mask_that_was_forgotten_in_backward(kind):
    arguments, options = problem(3, 2), CELLS["lstm"].masks(kind, 3, 2)

    def without_masks_in_backward(*values):
        right, plain = lstm(*values, **options), lstm(*values)
        return tuple(p + (r.data - p.data) for r, p in zip(right, plain, strict=True))  # value of r, gradient of p

    with pytest.raises(GradientError):
        gradcheck(without_masks_in_backward, *arguments.values(), directions=2)


@pytest.mark.parametrize("case", ["long", "single", "zoneout"])
def test_outputs_and_gradients_equal_those_of_torch(case):
    with np.load(Path(__file__).parents[1] / "fixtures" / "torch_lstm.npz") as file:
        frozen = dict(file)
    own = {name.removeprefix(f"{case}/"): array for name, array in frozen.items() if name.startswith(f"{case}/")}
    weights = {"W_x": frozen["W_x"], "W_h": frozen["W_h"], "b": frozen["b_ih"] + frozen["b_hh"]}
    leaves = tensors({name: own[name] for name in ("x", "h0", "c0")} | weights)
    h, c = lstm(**leaves, keep_h=own.get("keep_h"), keep_c=own.get("keep_c"))
    ((h * own["weight_h"]).sum() + (c[-1] * own["weight_c"]).sum()).backward()
    actual = {"h": h.data, "c_last": c[-1].data} | {f"d{name}": leaf.grad for name, leaf in leaves.items()}
    assert_same(actual, {name: own[name] for name in actual}, 1e-5)
