"""`minizone.gru`: the readable reference, complex steps, the equations."""

from __future__ import annotations

import pytest

from minizone import gru
from minizone.recurrent.cells import gru_unrolled
from tests.helpers import assert_same, problem, tensors
from tests.helpers.by_hand import gru_by_hand
from tests.helpers.cells import CASES, CELLS, assert_fused_equals_reference, assert_gradient_is_complex_step

every_case = pytest.mark.parametrize("case", CASES, ids=str)


@every_case
def test_fused_gru_equals_the_readable_reference(case):
    assert_fused_equals_reference(CELLS["gru"], case)


@every_case
def test_gradient_of_the_gru_is_the_complex_step(case):
    assert_gradient_is_complex_step(CELLS["gru"], case)


@every_case
@pytest.mark.parametrize("function", [gru, gru_unrolled], ids=["fused", "reference"])
def test_gru_computes_the_equations(function, case):
    arguments, options = problem(4, 3, gates=3), CELLS["gru"].masks(case.kind, 4, 3, case.hidden, case.inputs)
    h = function(**tensors(arguments), **options)
    assert_same({"h": h.data}, {"h": gru_by_hand(**arguments, **options)}, 1e-14)
