"""The operations of the tape on a GPU: every row of the gradient table, the tape itself, and what never waits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from minizone import Device, Embedding, Linear, Tensor, Zoneout
from minizone.autograd import ops
from minizone.backend import array_module, bernoulli, normal, stream, to_host, to_numbers
from tests.autograd.test_ops import as_tuple, every_row

TOLERANCE = {np.float32: 1e-4, np.float64: 1e-10}


def there(device: Device, v: Any, dtype: Any) -> Any:
    """A leaf of the graph, or integers, on the device."""
    return Tensor(device.to_device(np.array(v, dtype))) if v.dtype.kind == "f" else device.to_device(v)


def index_there(device: Device, index: Any) -> Any:
    if isinstance(index, tuple):
        return tuple(index_there(device, part) for part in index)
    return device.to_device(index) if isinstance(index, np.ndarray) else index


def results(device: Device, f: Any, arrays: tuple[np.ndarray, ...], dtype: Any) -> list[np.ndarray]:
    leaves = [there(device, v, dtype) for v in arrays]
    outputs = f(*leaves)
    for y in as_tuple(outputs):
        assert array_module(y.data) is device.xp
        y.backward(device.to_device((1 + np.arange(y.data.size) % 5).reshape(y.shape).astype(dtype)))
    return [
        to_host(v) for v in (*(y.data for y in as_tuple(outputs)), *(x.grad for x in leaves if isinstance(x, Tensor)))
    ]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@every_row
def test_every_row_of_the_gradient_table(gpu, f, numpy, arrays, dtype):
    if f.__defaults__ and f.__defaults__[0] is True:
        pytest.skip("CuPy has no index True")
    at = (f.__defaults__ or (None,))[0] if f.__code__.co_varnames[:2] == ("x", "at") else None
    on_gpu = f if at is None else lambda x: x[index_there(gpu, at)]
    for found, expected in zip(results(gpu, on_gpu, arrays, dtype), results(Device(), f, arrays, dtype), strict=True):
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
        np.testing.assert_allclose(
            found, expected, rtol=0, atol=TOLERANCE[dtype] * max(1, abs(expected).max(initial=0))
        )


@pytest.mark.parametrize("operator", ["__add__", "__sub__", "__mul__", "__truediv__", "__matmul__"])
def test_an_array_of_the_device_beside_a_tensor_leaves_the_work_to_the_tensor(gpu, operator):
    a, b = np.random.default_rng(0).uniform(1, 2, (2, 3, 3))
    array, x = gpu.to_device(a), Tensor(gpu.to_device(b))
    y = {
        "__add__": lambda: array + x,
        "__sub__": lambda: array - x,
        "__mul__": lambda: array * x,
        "__truediv__": lambda: array / x,
        "__matmul__": lambda: array @ x,
    }[operator]()
    assert isinstance(y, Tensor)
    np.testing.assert_allclose(to_host(y.data), getattr(a, operator)(b), rtol=1e-12)


def test_a_chain_of_ten_thousand_nodes(gpu):
    x = Tensor(gpu.to_device(np.ones(3)))
    y = x
    for _ in range(10_000):
        y = y + x
    y.sum().backward()
    np.testing.assert_array_equal(to_host(x.grad), 10_001)


def test_forward_and_backward_never_wait_for_the_device(gpu, never_waiting):
    rng = np.random.default_rng(0)
    embedding, output = Embedding(7, 5, rng=rng), Linear(5, 7, rng=rng)
    for parameter in (*embedding.parameters(), *output.parameters()):
        parameter.data = gpu.to_device(parameter.data)
    tokens, targets = (gpu.to_device(rng.integers(7, size=(4, 3))) for _ in "xy")
    for _ in range(2):  # the first time compiles
        with never_waiting():
            loss = ops.softmax_cross_entropy(ops.tanh(output(embedding(tokens))), targets)
            loss.backward()
    assert np.isfinite(float(loss))
    with pytest.raises(Exception, match=r"assert 1 == 0|ynchroniz"), never_waiting():  # it would have seen it
        float(loss)


# ---- numbers and random numbers


def test_numbers_of_many_updates_are_one_transfer(gpu, cupy):
    arrays = [gpu.to_device(np.array(v, t)) for v, t in ((1.5, np.float32), (2, np.int64), ([3.25], np.float64))]
    with cupy.counting() as counts:
        assert to_numbers([arrays[0], 7, arrays[1], np.float32(0.5), arrays[2], np.array(9)]) == [
            1.5,
            7,
            2,
            0.5,
            3.25,
            9,
        ]
    assert counts.to_host == 1


def test_masks_are_drawn_on_the_device_from_a_stream_that_is_a_function_of_its_key(gpu):
    def drawn(*key: int) -> list[np.ndarray]:
        rng = stream(*key[:1], "noise", *key[1:], device=gpu)
        masks = Zoneout(0.3, 0.6).masks(50, 20, 10, rng)
        assert {array_module(mask) for mask in masks} == {gpu.xp}
        return [to_host(mask) for mask in masks]

    keep_h, keep_c = drawn(1, 2, 3)
    assert keep_h.dtype == keep_c.dtype == np.float32
    assert set(np.unique(keep_h)) == set(np.unique(keep_c)) == {0.0, 1.0}
    for mask, z in ((keep_h, 0.6), (keep_c, 0.3)):
        assert abs(mask.mean() - z) < 5 * (z * (1 - z) / mask.size) ** 0.5
    both = (keep_h * keep_c).mean()
    assert abs(both - 0.18) < 5 * (0.18 * 0.82 / keep_h.size) ** 0.5  # drawn independently
    np.testing.assert_array_equal(drawn(1, 2, 3), (keep_h, keep_c))
    for other in ((1, 2, 4), (2, 2, 3)):
        assert (drawn(*other)[0] != keep_h).any()


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_what_is_certain_is_always_drawn(gpu, p):
    assert (to_host(bernoulli(stream(0, "noise", device=gpu), p, (100, 100))) == p).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_normal_numbers(gpu, dtype):
    x = to_host(normal(stream(0, "noise", device=gpu), (100, 100), dtype))
    assert x.dtype == dtype
    assert abs(x.mean()) < 0.05 and abs(x.std() - 1) < 0.05


def test_the_device_says_what_it_is(gpu):
    assert gpu.description.endswith("GiB") and set(gpu.versions) == {"cupy", "cuda"}
    assert gpu.free_memory > 0
    assert Device().versions == {} and Device().free_memory is None
