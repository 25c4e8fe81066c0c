"""Every kernel function for a GPU against the function of the same name for a CPU, called with the same arrays."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from itertools import product
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from minizone import Device, Tensor
from minizone.backend import to_host
from minizone.kernels import cpu as on_cpu_package
from minizone.kernels import gpu as on_gpu_package
from minizone.kernels.gpu import bn_lstm as gpu_bn
from minizone.kernels.gpu import cells as gpu
from minizone.kernels.gpu import optim as gpu_optim
from minizone.optim import Optimizer
from tests.helpers import Arrays, rng
from tests.test_optim import all_kinds, give, gradients, parameters

TOLERANCE = {np.float32: 1e-5, np.float64: 1e-12}  # times the largest element
SIZES = [(5, 7), (1, 1), (33, 2), (2, 33)]  # H, B
KINDS = [None, 0.25, "HB", "H1", "1B", "B", "", "mixed"]  # of masks: none, a number, arrays by shape, "" is 0-d
MIXED = {"keep_h": "H1", "keep_c": None, "input_mask": "HB", "hidden_mask": "1B"}
MORE = [{}, {"more_h": None}, {"more_c": None}, {"more_h": None, "more_c": None}]  # what the loss asks of a step itself
BLOCKS = {"lstm": 4, "gru": 3, "rnn": 1, "bn": 4, "scratch": 8, "s_hat": 8}  # of H rows in a and in other arrays
VECTORS = {"gamma": 8, "b": 4, "gamma_c": 1, "beta_c": 1, "scale": 9, "d_gamma": 9, "d_beta": 5}  # blocks of H numbers
USED_UP = {  # besides scratch: what no docstring promises a value of
    **dict.fromkeys(("lstm_backward", "gru_backward"), ("dh",)),
    "gru_gates_backward": ("d_reset",),
    "bn_lstm_backward": ("a", "c_hat", "tanh_c", "room"),
}

both_dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])
every_kind = pytest.mark.parametrize("kind", KINDS, ids=str)


def public(module: ModuleType) -> dict[str, Callable[..., Any]]:
    functions = inspect.getmembers(module, inspect.isfunction)
    return {name: f for name, f in functions if f.__module__ == module.__name__ and not name.startswith("_")}


STEPS = [name for module in (gpu, gpu_bn) for name in public(module) if name.endswith(("forward", "backward"))]
KEEPING = [name for name in STEPS if "gates" not in name]  # with zoneout
every_step = pytest.mark.parametrize("name", STEPS)


def of(device: Device, name: str) -> Callable[..., Any]:
    """The function of that name."""
    return getattr(on_cpu_package if device.name == "cpu" else on_gpu_package, name)


def there(device: Device, v: Any) -> Any:
    """A copy on the device; an array () is a float on the host, as a norm is."""
    if not isinstance(v, np.ndarray):
        return v
    return float(v) if device.name == "cpu" and v.ndim == 0 else device.to_device(v.copy())


def run(device: Device, name: str, arguments: Arrays) -> Arrays:
    """Call the function with copies; all arrays as they are afterwards, and what is returned."""
    given = {key: there(device, v) for key, v in arguments.items()}
    returned = of(device, name)(*given.values())
    if callable(returned):  # of a projection: called for every step
        for t in range(len(arguments["x"])):
            returned(t)
    results = () if returned is None or callable(returned) else returned
    found = {f"result {k}": to_host(v) for k, v in enumerate(results if isinstance(results, tuple) else (results,))}
    kept = sorted(given.keys() - {"scratch", *USED_UP.get(name, ())})
    return {key: to_host(given[key]) for key in kept if getattr(given[key], "ndim", 0)} | found


def assert_close(found: Arrays, expected: Arrays, dtype: Any) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].shape == value.shape, name
        assert not value.ndim or found[name].dtype == value.dtype, name
        largest = np.nanmax(np.abs(value), initial=0)
        np.testing.assert_allclose(found[name], value, rtol=0, atol=TOLERANCE[dtype] * largest, err_msg=name)


def assert_same_bits(found: Arrays, expected: Arrays) -> None:
    for name, value in found.items():
        assert value.tobytes() == expected[name].tobytes(), name


def check(gpu: Device, name: str, arguments: Arrays, dtype: Any) -> Arrays:
    found = run(gpu, name, arguments)
    assert_close(found, run(Device(), name, arguments), dtype)
    return found


@pytest.mark.parametrize("file", ["cells", "bn_lstm", "tokens", "optim"])
def test_both_devices_have_the_same_functions_with_the_same_parameters(file):
    """In batch normalization the CPU has parts that on a GPU are inside one kernel.

    The optimizers' formulas for the CPU are in `minizone.optim`.
    """
    cpu_module, gpu_module = (getattr(package, file) for package in (on_cpu_package, on_gpu_package))
    on_cpu, on_gpu = (
        {name: list(inspect.signature(f).parameters) for name, f in public(module).items()}
        for module in (cpu_module, gpu_module)
    )
    if gpu_module is gpu_bn:
        on_cpu = {name: on_cpu[name] for name in ("bn_lstm_forward", "bn_lstm_backward")}
    if gpu_module is gpu_optim:
        on_gpu = {name: on_gpu[name] for name in on_cpu}
    assert on_gpu == on_cpu
    assert hasattr(cpu_module, "PART") == hasattr(gpu_module, "PART")


# ---- steps of the cells


def mask(kind: Any, H: int, B: int, generator: np.random.Generator, dtype: Any) -> Any:
    if not isinstance(kind, str):
        return kind
    return np.asarray(generator.random([{"H": H, "B": B, "1": 1}[axis] for axis in kind]), dtype)


def step_arguments(name: str, H: int, B: int, dtype: Any, masks: Any = None, **given: Any) -> Arrays:
    """Random ones, by name, but for those that are given; masks of a kind, or as they are."""
    generator, blocks = rng(H + B), {"a": BLOCKS[name.split("_")[0]]} | BLOCKS
    arguments: Arrays = {"relu": False, "given": False, "epsilon": 1e-5, "ones": np.ones(B, dtype)} | given
    for key in inspect.signature(of(Device(), name)).parameters:
        if key in MIXED:
            value = mask(MIXED[key] if isinstance(masks, str) and masks == "mixed" else masks, H, B, generator, dtype)
        elif key == "statistics":
            value = generator.random((3, 9 * H)).astype(dtype)
        else:
            shape = (VECTORS[key] * H,) if key in VECTORS and name[:2] == "bn" else (blocks.get(key, 1) * H, B)
            value = generator.standard_normal(shape).astype(dtype)
        arguments.setdefault(key, value)
    return {key: arguments[key] for key in inspect.signature(of(Device(), name)).parameters}


@both_dtypes
@every_kind
@every_step
def test_a_step_gives_the_same(gpu, name, kind, dtype):
    for (H, B), flag, more in product(SIZES, (False, True), MORE):
        check(gpu, name, step_arguments(name, H, B, dtype, kind, relu=flag, given=flag, **more), dtype)


@both_dtypes
@pytest.mark.parametrize("name", KEEPING)
def test_who_keeps_has_the_old_value_to_the_bit_and_who_does_not_the_new_one(gpu, name, dtype):
    (H, B), free = (5, 7), {"input_mask": None} | MORE[-1]
    old, new = ("{}", "new_{}") if name.endswith("forward") else ("d{}", "d{}_old")
    states = [each for each in "hc" if f"keep_{each}" in step_arguments(name, H, B, dtype)]
    for every in (lambda v: v, lambda v: np.full((H, B), v, dtype)):
        nobody = run(gpu, name, step_arguments(name, H, B, dtype, every(0.0), **free))
        for key, value in run(gpu, name, step_arguments(name, H, B, dtype, None, **free)).items():
            np.testing.assert_array_equal(nobody[key], value, key)  # 0 may be -0
        arguments = step_arguments(name, H, B, dtype, every(1.0), **free)
        found = run(gpu, name, arguments)
        for each in states:
            np.testing.assert_array_equal(found[new.format(each)], arguments[old.format(each)], each)


@both_dtypes
def test_a_rectifier_keeps_what_is_not_a_number(gpu, dtype):
    arguments = step_arguments("rnn_forward", 5, 7, dtype, None, relu=True)
    arguments["a"][:2, 0] = np.nan, -np.inf
    np.testing.assert_array_equal(run(gpu, "rnn_forward", arguments)["new_h"][:2, 0], [np.nan, 0])


# ---- products


@both_dtypes
@every_kind
def test_products_with_and_without_a_mask(gpu, kind, dtype):
    for M, K, B, pieces in ((12, 6, 7, 2), (1, 1, 1, 1), (96, 33, 2, 3)):
        generator, found = rng(M), {}
        W, h, out = (generator.standard_normal(shape).astype(dtype) for shape in ((M, K), (K, B), (M, B)))
        keep = mask("HB" if kind == "mixed" else kind, M, B, generator, dtype)
        for device, cells in ((gpu, on_gpu_package), (Device(), on_cpu_package)):
            blocks, here = cells.small_blocks(there(device, W), B, pieces), there(device, h)
            first, second, room, scratch = (there(device, v) for v in (out, out, out, np.empty((pieces * M, B), dtype)))
            assert cells.product(blocks, here, first, scratch) is first
            cells.add_product(blocks, here, second, there(device, keep), room, scratch)
            found[device.name] = {"product": to_host(first), "sum": to_host(second), "h": to_host(here)}
        assert_close(found["gpu"], found["cpu"], dtype)


# ---- optimizers


def step_and_averages(device: Device, kind: type[Optimizer], N: int, dtype: Any, bad: float | None = None) -> Arrays:
    """What the formula of an optimizer makes of a gradient and averages (N,), the third step.

    A third of the numbers is so small that RMSProp's floor and Adam's epsilon count.
    """
    generator = rng(N)
    optimizer = kind([Tensor(np.zeros(N, dtype))], 0.02)
    optimizer.steps = 3
    g, *averages = (generator.standard_normal(N).astype(dtype) for _ in range(1 + len(kind.AVERAGES)))
    for array in (g, *averages):
        array[1::3] *= 1e-7
    averages = [array**2 if name in ("ms", "v") else array for name, array in zip(kind.AVERAGES, averages, strict=True)]
    if bad is not None:
        g[:] = bad
    g, *averages = (device.to_device(array) for array in (g, *averages))
    before = [to_host(array).copy() for array in averages]
    update = optimizer.update if device.name == "cpu" else optimizer.fused_update
    found = {"step": to_host(update(g, *averages)).copy()}
    found |= {name: to_host(array) for name, array in zip(kind.AVERAGES, averages, strict=True)}
    return found | {f"{name} before": array for name, array in zip(kind.AVERAGES, before, strict=True)}


@both_dtypes
@all_kinds
def test_the_formula_of_an_optimizer_is_the_same(gpu, kind, dtype):
    for N in (1, 33, 70_000):
        found, expected = (step_and_averages(device, kind, N, dtype) for device in (gpu, Device()))
        assert_close(found, expected, dtype)


@both_dtypes
@all_kinds
def test_a_gradient_that_is_not_a_number_makes_no_step_and_changes_no_average(gpu, kind, dtype):
    found = step_and_averages(gpu, kind, 33, dtype, bad=np.nan)
    assert not found["step"].any()
    for name in kind.AVERAGES:
        assert found[name].tobytes() == found[f"{name} before"].tobytes()


@both_dtypes
def test_the_norm_and_the_factor_stay_on_the_device(gpu, never_waiting, dtype):
    arrays = [rng(k).standard_normal(shape).astype(dtype) for k, shape in enumerate([(1000,), (3, 4), ()])]
    expected = of(Device(), "norm")(arrays)
    on_gpu = [gpu.to_device(array) for array in arrays]
    with never_waiting():
        norm = of(gpu, "norm")(on_gpu)
        factors = [of(gpu, "clip_factor")(norm, clip * expected) for clip in (0.0, 0.05, 2.0)]
        factors += [of(gpu, "clip_factor")(norm * bad, 0.5) for bad in (0.0, np.nan, np.inf)]
    assert norm.shape == () and norm.dtype == dtype
    assert float(norm) == pytest.approx(expected, rel=TOLERANCE[dtype])
    assert {(factor.shape, factor.dtype) for factor in factors} == {((), np.dtype(dtype))}
    np.testing.assert_allclose(
        [float(factor) for factor in factors], [1, 0.05, 1, 1, np.nan, np.nan], rtol=TOLERANCE[dtype]
    )
    assert [of(Device(), "clip_factor")(4.0, clip) for clip in (0.0, 1.0, 8.0)] == [1.0, 0.25, 1.0]


@both_dtypes
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("clip_what", ["step", "gradient"])
@all_kinds
def test_five_updates_of_an_optimizer_and_one_with_a_gradient_that_is_not_finite(
    gpu, never_waiting, kind, clip_what, bad, dtype
):
    for clip in (0.0, 0.05, 100.0):
        after: dict[str, list[Arrays]] = {}
        for device in (gpu, Device()):
            owners = [Tensor(device.to_device(p.data)) for p in parameters(dtype)]
            optimizer, after[device.name] = kind(owners, 0.02, clip=clip, clip_what=clip_what), []
            for update in range(6):
                given = gradients(update, dtype=dtype)
                given[2][...] = bad if update == 5 else given[2]
                give(owners, [device.to_device(g) for g in given])
                with never_waiting():
                    norm = optimizer.step()
                arrays = {str(k): p.data for k, p in enumerate(owners)} | optimizer.state_dict()
                after[device.name].append({key: to_host(v).copy() for key, v in arrays.items() if key != "steps"})
                assert np.isfinite(float(norm)) == (update < 5)
        for found, expected in zip(after["gpu"], after["cpu"], strict=True):
            assert_close(found, expected, dtype)
        assert_same_bits(*after["gpu"][-2:])


# ---- inputs, tokens and scores

every_integer = pytest.mark.parametrize("integer", [np.int32, np.int64, np.uint8])


def out_of_range(V: int, integer: Any) -> np.ndarray:
    numbers = np.array([V, -1, np.iinfo(integer).max, np.iinfo(integer).min]).astype(integer)
    return numbers[(numbers < 0) | (numbers >= V)]


def input_arguments(name: str, x: np.ndarray, M: int, V: int, dtype: Any) -> Arrays:
    """Of the functions that multiply with inputs or take columns: W (M, V)."""
    generator = rng(M)
    W, b, out = (generator.standard_normal(shape).astype(dtype) for shape in ((M, V), M, (len(x), M, x.shape[-1])))
    return {
        "projection": {"x": x, "W_x": W, "b": b, "a": out},
        "projector": {"x": x, "W_x": W, "s": out},
        "times_columns": {"a": W, "x": x},
        "take_columns": {"W": W, "tokens": x},
    }[name]


@both_dtypes
@pytest.mark.parametrize("T, D, B, M", [(3, 5, 7, 6), (1, 1, 1, 1), (3, 130, 5, 140)])
@pytest.mark.parametrize("name", ["projection", "projector", "times_columns"])
def test_products_of_all_steps_at_once(gpu, name, T, D, B, M, dtype):
    check(gpu, name, input_arguments(name, rng(T).standard_normal((T, D, B)).astype(dtype), M, D, dtype), dtype)


@both_dtypes
@every_integer
@pytest.mark.parametrize("name", ["projection", "projector", "take_columns"])
def test_a_token_takes_its_column_and_one_that_is_out_of_range_nan(gpu, name, integer, dtype):
    for T, B, M, V in ((3, 4, 5, 6), (1, 1, 1, 1), (2, 33, 3, 250)):
        tokens, bad = rng(T).integers(V, size=(T, B)).astype(integer), np.arange(T * B).reshape(T, B) % 5 == 0
        expected = run(Device(), name, input_arguments(name, tokens, M, V, dtype))
        assert_same_bits(run(gpu, name, input_arguments(name, tokens, M, V, dtype)), expected)
        for wrong in out_of_range(V, integer):
            asked = np.where(bad, wrong, tokens)
            of(gpu, "check_tokens")(gpu.to_device(asked), V)
            found = run(gpu, name, input_arguments(name, asked, M, V, dtype))
            key = {"projection": "a", "projector": "s", "take_columns": "result 0"}[name]
            expected[key] = np.where(bad[:, None], np.array(np.nan, dtype), expected[key])
            for other in {*found} - {"x", "tokens"}:
                np.testing.assert_array_equal(found[other], expected[other])


@both_dtypes
@every_integer
@pytest.mark.parametrize("whole", [True, False], ids=["in one piece", "columns of a larger matrix"])
def test_gradients_of_tokens_are_added_up_in_their_columns_alone(gpu, whole, integer, dtype):
    """Those that are out of range are nobody's. Twice the same is the same to the bit."""
    (M, V), some = (3, 6), rng().integers(6, size=(5, 40)).astype(integer)
    part, shape = (slice(1, -1), (M + 2, V)) if whole else ((slice(1, -1), slice(1, -1)), (M + 2, V + 2))
    wrong = [np.where(some == 3, number, some) for number in out_of_range(V, integer)]
    for x in (some, np.sort(some.ravel())[None], 0 * some, some[:1, :1], *wrong, 0 * some + V):
        before = rng(2).standard_normal(shape).astype(dtype)
        da, known = rng(1).standard_normal((M, x.size)).astype(dtype), ((x >= 0) & (x < V)).ravel()
        found, expected = [gpu.to_device(before.copy()) for _ in "ab"], before.copy()
        for _ in range(2):
            for each in found:
                of(gpu, "add_up_tokens")(gpu.to_device(da), gpu.to_device(x), each[part])
            np.add.at(expected[part], (slice(None), x.ravel()[known]), da[:, known])
        first, second = map(to_host, found)
        assert first.tobytes() == second.tobytes()
        np.testing.assert_allclose(first, expected, rtol=0, atol=TOLERANCE[dtype] * abs(expected).max())
        assert (first != before).any(axis=0).sum() == len(np.unique(x.ravel()[known]))


@both_dtypes
@every_integer
@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize("shape", [(6, 7), (3, 5, 2), (2, 3, 5, 4), (1, 1), (3, 1, 2), (2, 1000, 3)], ids=str)
def test_cross_entropy_and_a_target_that_is_no_class(gpu, shape, scale, integer, dtype):
    """Where there is one the loss is NaN. The gradient of its scores is as of a class that they are not about."""
    *leading, V, B = shape
    targets = rng(B).integers(min(V, 200), size=(*leading, B)).astype(integer)
    forward = {"scores": (scale * rng(V).standard_normal(shape)).astype(dtype), "targets": targets}
    p, loss = (found := check(gpu, "cross_entropy_forward", forward, dtype))["result 0"], found["result 1"]
    backward = {"p": p, "targets": targets, "gy": np.asarray(0.7, dtype)}
    gx = check(gpu, "cross_entropy_backward", backward, dtype)["result 0"]
    for wrong in out_of_range(V, integer):
        asked = targets.copy()
        asked.flat[0] = wrong
        found = run(gpu, "cross_entropy_forward", forward | {"targets": asked})
        assert np.isnan(found["result 1"]) and np.isfinite(loss)
        assert_same_bits({"p": found["result 0"]}, {"p": p})
        found = run(gpu, "cross_entropy_backward", backward | {"targets": asked})
        assert (found["result 0"] != gx).sum() == 1
