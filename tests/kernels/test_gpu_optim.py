"""Every optimizer on a GPU against the same optimizer on a CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from minizone import Device, Tensor
from minizone.backend import to_host
from minizone.optim import SGD, Adam, Momentum, RMSProp
from tests.helpers import Arrays, rng

TOLERANCE = {np.float32: 1e-5, np.float64: 1e-12}  # times the largest element
SHAPES = [(4, 3), (5,), (300, 250)]
UPDATES = 5


def after_updates(device: Device, kind: Any, dtype: Any, clip: float, clip_what: str) -> list[Arrays]:
    """Parameters and moving averages after each update. The last gradient is not a number."""
    parameters = [
        Tensor(device.to_device(rng(k).standard_normal(shape).astype(dtype))) for k, shape in enumerate(SHAPES)
    ]
    optimizer = kind(parameters, 0.02, clip=clip, clip_what=clip_what)
    after = []
    for update in range(UPDATES + 1):
        for k, p in enumerate(parameters):
            g = (10.0**-k * rng(10 * update + k).standard_normal(p.shape)).astype(dtype)
            g.flat[1::3] *= 1e-7  # where RMSProp divides by its floor
            if update == UPDATES and k == 1:
                g[...] = np.nan
            p.grad = device.to_device(g)
        norm = optimizer.step()
        assert np.isnan(float(norm)) == (update == UPDATES)
        state = {name: value for name, value in optimizer.state_dict().items() if name != "steps"}
        arrays = {f"parameter {k}": p.data for k, p in enumerate(parameters)} | state
        after.append({name: to_host(value).copy() for name, value in arrays.items()})
    return after


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("clip_what", ["step", "gradient"])
@pytest.mark.parametrize("clip", [0.0, 0.05, 100.0])
@pytest.mark.parametrize("kind", [SGD, Momentum, RMSProp, Adam])
def test_updates_are_those_of_the_cpu_and_a_gradient_that_is_not_a_number_changes_nothing(
    gpu, never_waiting, kind, clip, clip_what, dtype
):
    on_gpu = after_updates(gpu, kind, dtype, clip, clip_what)
    on_cpu = after_updates(Device(), kind, dtype, clip, clip_what)
    for found, expected in zip(on_gpu, on_cpu, strict=True):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert found[name].dtype == value.dtype
            np.testing.assert_allclose(
                found[name], value, rtol=0, atol=TOLERANCE[dtype] * abs(value).max(), err_msg=name
            )
    for name, value in on_gpu[-1].items():
        assert value.tobytes() == on_gpu[-2][name].tobytes(), name


@pytest.mark.parametrize("clip_what", ["step", "gradient"])
@pytest.mark.parametrize("kind", [SGD, Momentum, RMSProp, Adam])
def test_float16_parameters_move_as_on_the_cpu(gpu, kind, clip_what):
    found, dtype, size = [], np.float16, 300
    for device in (gpu, Device()):
        p = Tensor(device.to_device(np.ones(4, dtype)))
        optimizer = kind([p], 0.02 / size if kind in (SGD, Momentum) else 0.02, clip=1.0, clip_what=clip_what)
        for _ in range(2):
            p.grad = device.to_device(np.full(4, size, dtype))
            norm = optimizer.step()
        assert float(norm) == pytest.approx(2 * size) and p.dtype == dtype
        found.append(to_host(p.data))
    np.testing.assert_allclose(*found, rtol=np.finfo(dtype).eps)


def test_what_is_not_a_number_stays_so_on_both_devices(gpu):
    """The floor of RMSProp must not hide a NaN in its average."""
    for device in (gpu, Device()):
        p = Tensor(device.to_device(np.zeros(2)))
        optimizer = RMSProp([p], 0.1)
        optimizer.load_state_dict({"ms.0": np.array([np.nan, 1.0]), "steps": np.array([1])})
        p.grad = device.to_device(np.ones(2))
        optimizer.step()
        assert np.isnan(to_host(p.data)).tolist() == [True, False]


def test_the_norm_stays_on_the_device(gpu, never_waiting):
    p = Tensor(gpu.to_device(np.ones((3, 2), np.float32)))
    optimizer = Adam([p], 0.1, clip=1.0)
    for _ in range(2):
        p.grad = gpu.to_device(np.full((3, 2), 2.0, np.float32))
        with never_waiting():
            norm = optimizer.step()
        assert norm.shape == () and float(norm) == pytest.approx(24**0.5)
