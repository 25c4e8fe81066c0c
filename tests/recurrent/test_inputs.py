"""Products with all columns of a stack at once."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from minizone import Tensor
from minizone.kernels.cpu import tokens as cpu_tokens

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(4, 3, 2), (1, 3, 5), (4, 3, 1), (0, 3, 2), (4, 3, 0)])
@pytest.mark.parametrize("worth", [1, 1000])
def test_one_matrix_for_a_stack_is_the_same_by_one_product_or_by_many(monkeypatch, worth, shape):
    monkeypatch.setattr(cpu_tokens, "WORTH_COLUMNS", worth)
    a, b, gy = RNG.standard_normal((5, 3)), RNG.standard_normal(shape), RNG.standard_normal((shape[0], 5, shape[2]))
    x, stack = Tensor(a), Tensor(b)
    y = x @ stack
    y.backward(gy)
    assert_allclose(y.data, np.einsum("mk,tkb->tmb", a, b), rtol=1e-13, atol=1e-14)
    assert_allclose(x.grad, np.einsum("tmb,tkb->mk", gy, b), rtol=1e-13, atol=1e-14)
    assert_allclose(stack.grad, np.einsum("mk,tmb->tkb", a, gy), rtol=1e-13, atol=1e-14)
    assert x.grad.shape == a.shape and stack.grad.shape == b.shape
