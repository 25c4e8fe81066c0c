"""The operations of autograd on a GPU: every row of the gradient table, random numbers, and what never synchronizes."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from minizone import Device, Embedding, Linear, Tensor, Zoneout
from minizone.autograd import ops
from minizone.backend import array_module, bernoulli, normal, stream, to_host, to_numbers
from tests.autograd.test_ops import RELU_AT_THE_ENDS, as_tuple, every_row

TOLERANCE = {np.float32: 1e-4, np.float64: 1e-10}


def index_on(device: Device, index: Any) -> Any:
    """The index with its arrays on the device."""
    if isinstance(index, tuple):
        return tuple(index_on(device, part) for part in index)
    return device.to_device(index) if isinstance(index, np.ndarray) else index


def results(device: Device, f: Callable[..., Any], arrays: tuple[np.ndarray, ...], dtype: Any) -> list[np.ndarray]:
    """Outputs of the function and gradients of its inputs."""
    leaves = []
    for v in arrays:
        is_float = v.dtype.kind == "f"
        leaves.append(Tensor(device.to_device(np.array(v, dtype))) if is_float else device.to_device(v))
    outputs = as_tuple(f(*leaves))
    for y in outputs:
        assert array_module(y.data) is device.xp
        gradient = (1 + np.arange(y.data.size) % 5).reshape(y.shape).astype(dtype)
        y.backward(device.to_device(gradient))
    found = [*(y.data for y in outputs), *(leaf.grad for leaf in leaves if isinstance(leaf, Tensor))]
    return [to_host(v) for v in found]


@every_row
def test_every_row_of_the_gradient_table(gpu, f, numpy, arrays):
    if f.__defaults__ and f.__defaults__[0] is True:
        pytest.skip("CuPy has no index True")
    index = f.__defaults__[0] if f.__code__.co_varnames[:2] == ("x", "at") else None
    on_gpu = f if index is None else lambda x: x[index_on(gpu, index)]
    for dtype in (np.float32, np.float64):
        found, expected = results(gpu, on_gpu, arrays, dtype), results(Device(), f, arrays, dtype)
        for a, b in zip(found, expected, strict=True):
            assert (a.shape, a.dtype) == (b.shape, b.dtype)
            np.testing.assert_allclose(a, b, rtol=0, atol=TOLERANCE[dtype] * max(1, abs(b).max(initial=0)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_relu_hides_nothing_that_is_not_a_number(gpu, dtype):
    x = Tensor(gpu.to_device(np.array(RELU_AT_THE_ENDS["x"], dtype)))
    y = ops.relu(x)
    y.backward(gpu.xp.full_like(x.data, 2))
    np.testing.assert_array_equal(to_host(y.data), RELU_AT_THE_ENDS["y"])
    np.testing.assert_array_equal(to_host(x.grad), RELU_AT_THE_ENDS["gx"])


def test_an_array_of_the_device_beside_a_tensor_calls_the_operator_of_the_tensor(gpu):
    a, b = np.random.default_rng(0).uniform(1, 2, (2, 3, 3))
    for operate in (operator.add, operator.sub, operator.mul, operator.truediv, operator.matmul):
        y = operate(gpu.to_device(a), Tensor(gpu.to_device(b)))
        assert isinstance(y, Tensor)
        np.testing.assert_allclose(to_host(y.data), operate(a, b), rtol=1e-12)


def test_without_a_target_that_counts_the_loss_is_nan_and_the_gradient_0(gpu, never_waiting):
    """The CPU raises, and the GPU does not wait. A target that is neither a class nor ignored makes NaN as well."""
    for targets, is_zero in (([-1, -1], True), ([-1, 5], False)):
        x = Tensor(gpu.to_device(np.ones((5, 2), np.float32)))
        on_device = gpu.to_device(np.array(targets))
        with never_waiting():
            loss = ops.softmax_cross_entropy(x, on_device, ignore_index=-1)
            loss.backward()
        assert np.isnan(float(loss)) and loss.dtype == x.grad.dtype == np.float32
        assert (not to_host(x.grad).any()) == is_zero and np.isfinite(to_host(x.grad)).all()


def test_forward_and_backward_never_wait_for_the_device(gpu, never_waiting):
    rng = np.random.default_rng(0)
    embedding, output = Embedding(7, 5, rng=rng), Linear(5, 7, rng=rng)
    for parameter in (*embedding.parameters(), *output.parameters()):
        parameter.data = gpu.to_device(parameter.data)
    tokens, targets = (gpu.to_device(rng.integers(7, size=(4, 3))) for _ in "xy")
    for _ in range(2):  # the first call compiles
        with never_waiting():
            loss = ops.softmax_cross_entropy(ops.tanh(output(embedding(tokens))), targets)
            loss.backward()
    assert np.isfinite(float(loss))
    with pytest.raises(Exception, match=r"assert 1 == 0|ynchroniz"), never_waiting():  # this one does wait
        float(loss)


# ---- numbers and random numbers


def test_numbers_of_many_updates_are_one_copy_to_the_host(gpu, cupy):
    one, two, three = (
        gpu.to_device(np.array(value, dtype))
        for value, dtype in ((1.5, np.float32), (2, np.int64), ([3.25], np.float64))
    )
    with cupy.counting() as counts:
        assert to_numbers([one, 7, two, np.float32(0.5), three, np.array(9)]) == [1.5, 7, 2, 0.5, 3.25, 9]
    assert counts.to_host == 1


def test_masks_are_drawn_on_the_device_from_a_stream_that_is_a_function_of_its_key(gpu):
    def drawn(seed: int, *key: int) -> list[np.ndarray]:
        masks = Zoneout(0.3, 0.6).masks(50, 20, 10, stream(seed, "noise", *key, device=gpu))
        assert {array_module(mask) for mask in masks} == {gpu.xp}
        return [to_host(mask) for mask in masks]

    keep_h, keep_c = drawn(1, 2, 3)
    assert keep_h.dtype == keep_c.dtype == np.float32
    assert set(np.unique(keep_h)) == set(np.unique(keep_c)) == {0.0, 1.0}
    both = keep_h * keep_c  # independent of one another
    for mask, p in ((keep_h, 0.6), (keep_c, 0.3), (both, 0.18)):
        assert abs(mask.mean() - p) < 5 * (p * (1 - p) / mask.size) ** 0.5
    np.testing.assert_array_equal(drawn(1, 2, 3), (keep_h, keep_c))
    for other in ((1, 2, 4), (2, 2, 3)):
        assert (drawn(*other)[0] != keep_h).any()


def test_probabilities_0_and_1_are_certain(gpu):
    for p in (0.0, 1.0):
        assert (to_host(bernoulli(stream(0, "noise", device=gpu), p, (100, 100))) == p).all()


def test_normal_numbers(gpu):
    for dtype in (np.float32, np.float64):
        x = to_host(normal(stream(0, "noise", device=gpu), (100, 100), dtype))
        assert x.dtype == dtype
        assert abs(x.mean()) < 0.05 and abs(x.std() - 1) < 0.05


def test_a_device_says_what_it_is(gpu):
    assert gpu.description.endswith("GiB") and set(gpu.versions) == {"cupy", "cuda"}
    assert gpu.free_memory > 0
    assert Device().versions == {} and Device().free_memory is None
