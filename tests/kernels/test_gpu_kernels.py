"""Every kernel function for a GPU against the function of the same name for a CPU, called with the same arrays.

To add a kernel, add its row to `step_arguments` or to `stack_arguments`. A function without a row fails a test.
"""

from __future__ import annotations

import inspect
from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from minizone import Device
from minizone.backend import to_host
from minizone.kernels import cpu as cpu_kernels
from minizone.kernels import gpu as gpu_kernels
from minizone.kernels.step import Gradients, Masks, Normalization
from tests.helpers import Arrays, rng

TOLERANCE = {np.float32: 1e-5, np.float64: 1e-12}  # times the largest element
SIZES = [(5, 7), (1, 1), (33, 2), (2, 33)]  # H, B
OPTIMIZERS = {"clip_factor", "norm"}  # tested in test_gpu_optim.py
OTHERS = {
    "product",
    "add_product",
    "check_tokens",
    "add_up_tokens",
    "which_count",
}  # one by one below, and in test_gpu_ops.py

both_dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


# ---- the table: the arguments of every function by name, a shape for each array

MASK = "mask"  # an array that broadcasts to (H, B), a number, or None
MAYBE = "maybe"  # an array (H, B) or None
FLAG = "flag"  # a bool


def step_arguments(H: int, B: int) -> dict[str, dict[str, Any]]:
    """The arguments of the functions for one time step, the fields of Masks, Gradients and Normalization by name."""
    state = (H, B)
    masks_of_lstm = {"keep_h": MASK, "keep_c": MASK, "input_mask": MASK}
    masks_of_gru = {"keep_h": MASK, "input_mask": MASK}
    d_h = {"dh": state, "dh_out": MAYBE, "dh_before": state}
    d_c = {"dc": state, "dc_out": MAYBE, "dc_before": state}
    norm = {
        "gamma": (8 * H,), "b": (4 * H,), "gamma_c": (H,), "beta_c": (H,), "mean": (9 * H,), "variance": (9 * H,),
        "inverse": (9 * H,), "ones": (B,), "epsilon": 1e-5, "given": FLAG,
    }  # fmt: skip
    return {
        "lstm_forward": {
            "a": (4 * H, B), "h": state, "c": state, **masks_of_lstm, "new_h": state, "new_c": state,
            "tanh_c": state, "scratch": (4 * H, B),
        },
        "lstm_backward": {
            "a": (4 * H, B), "c": state, "tanh_c": state, **masks_of_lstm, **d_h, **d_c, "scratch": (8 * H, B),
        },
        "gru_gates_forward": {"a": (3 * H, B), "h": state, "reset_h": state},
        "gru_forward": {"a": (3 * H, B), "h": state, **masks_of_gru, "new_h": state, "scratch": (3 * H, B)},
        "gru_backward": {"a": (3 * H, B), "h": state, **masks_of_gru, **d_h, "scratch": (3 * H, B)},
        "gru_gates_backward": {
            "a": (3 * H, B), "h": state, "hidden_mask": MASK, "d_reset": state, "h_before": state,
            "scratch": (3 * H, B),
        },
        "rnn_forward": {"a": state, "h": state, "keep_h": MASK, "relu": FLAG, "new_h": state, "scratch": (2 * H, B)},
        "rnn_backward": {"a": state, "keep_h": MASK, "relu": FLAG, **d_h},
        "bn_lstm_forward": {
            **norm, "s_hat": (8 * H, B), "h": state, "c": state, **masks_of_lstm, "a": (4 * H, B), "new_h": state,
            "new_c": state, "c_hat": state, "tanh_c": state, "scratch": (8 * H, B),
        },
        "bn_lstm_backward": {
            **norm, "a": (4 * H, B), "s_hat": (8 * H, B), "c_hat": state, "tanh_c": state, "c": state,
            **masks_of_lstm, **d_h, **d_c, "d_gamma": (9 * H,), "d_beta": (5 * H,),
            "scratch": (8 * H, B),
        },
    }  # fmt: skip


POSITIVE = {"mean", "variance", "inverse"}  # random numbers of these arguments are in [0, 1)


def grouped(function: Any, given: Arrays) -> Arrays:
    """The arguments as the function takes them: masks, gradients and normalization in their tuples."""
    flat = dict(given)

    def taken(**names: str) -> Arrays:
        return {field: flat.pop(name, None) for field, name in names.items()}

    parameters = inspect.signature(function).parameters
    if "masks" in parameters:
        flat["masks"] = Masks(**taken(**{field: field for field in Masks._fields}))
    if "d" in parameters:
        flat["d"] = Gradients(**taken(**{field: f"d{field}" for field in Gradients._fields}))
    if "norm" in parameters and "norm" not in flat:
        flat["norm"] = Normalization(**taken(**{field.name: field.name for field in fields(Normalization)}))
    return flat


def stack_arguments(x: np.ndarray, M: int, D: int) -> dict[str, dict[str, Any]]:
    """The arguments of the functions for many time steps: x (T, D, B), or tokens (T, B) below D."""
    out = (len(x), M, x.shape[-1])
    return {
        "project": {"x": x, "W_x": (M, D), "b": (M,), "out": out},
        "times_stack": {"W": (M, D), "x": x},
        "take_columns": {"W": (M, D), "tokens": x},
        "cross_entropy_forward": {"scores": (len(x), D, x.shape[-1]), "targets": x},
        "cross_entropy_backward": {"p": (len(x), D, x.shape[-1]), "targets": x, "scale": np.asarray(0.7)},
    }


UNSPECIFIED = {  # arguments whose values after the call have no meaning
    "lstm_backward": ["dh", "dc"],
    "gru_backward": ["dh"],
    "rnn_backward": ["dh"],
    "gru_gates_backward": ["d_reset"],
    "bn_lstm_backward": ["a", "c_hat", "tanh_c", "dh", "dc"],
}
STEPS = list(step_arguments(1, 1))
STACKS = list(stack_arguments(np.zeros((1, 1), int), 1, 1))
ZONEOUT = [name for name in STEPS if "keep_h" in step_arguments(1, 1)[name]]
MASKS = {  # by name, the shapes of an array or numbers
    "none": None,
    "number": 0.25,
    "(H, B)": "HB",
    "(H, 1)": "H1",
    "(1, B)": "1B",
    "(B,)": "B",
    "()": "",
}
MIXED = {"keep_h": "H1", "keep_c": None, "input_mask": "HB", "hidden_mask": "1B"}


def mask(kind: str | float | None, H: int, B: int, generator: np.random.Generator) -> Any:
    if not isinstance(kind, str):
        return kind
    sizes = {"H": H, "B": B, "1": 1}
    return np.asarray(generator.random([sizes[axis] for axis in kind]))


def filled(row: dict[str, Any], H: int, B: int, dtype: Any, **given: Any) -> Arrays:
    """The arguments of a row of the table, with random numbers in arrays, except for those in ``given``.

    ``given`` has values by the name of an argument, or by kind: MASK, MAYBE (whether there is an array) and FLAG.
    """
    generator = rng(H + B)

    def value_of(name: str, what: Any) -> Any:
        if name in given:
            return given[name]
        if isinstance(what, tuple):
            return generator.random(what) if name in POSITIVE else generator.standard_normal(what)
        if not isinstance(what, str):
            return what  # a number, or an array of inputs
        if what == MASK:
            kind = given.get(MASK)
            return mask(MIXED[name] if kind == "mixed" else kind, H, B, generator)
        if what == MAYBE:
            return generator.standard_normal((H, B)) if given.get(MAYBE, True) else None
        return given.get(FLAG, False)

    arguments = {name: value_of(name, what) for name, what in row.items()}
    if "ones" in arguments:
        arguments["ones"] = np.ones(B)
    return {name: value.astype(dtype) if is_float(value) else value for name, value in arguments.items()}


def is_float(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind == "f"


# ---- calls


def there(device: Device, value: Any) -> Any:
    """A copy of an argument on the device."""
    return device.to_device(value.copy()) if isinstance(value, np.ndarray) else value


def call(device: Device, name: str, arguments: Arrays) -> Arrays:
    """All arguments that are arrays, as they are after the call, and what the function returns."""
    kernels = cpu_kernels if device.name == "cpu" else gpu_kernels
    given = {key: there(device, value) for key, value in arguments.items()}
    function = getattr(kernels, name)
    returned = function(**grouped(function, given))
    results = returned if isinstance(returned, tuple) else (returned,)
    named = given | {f"result {k}": value for k, value in enumerate(results)}
    for unspecified in ("scratch", *UNSPECIFIED.get(name, ())):
        named.pop(unspecified, None)
    return {key: to_host(value) for key, value in named.items() if hasattr(value, "dtype")}


def assert_close(found: Arrays, expected: Arrays, dtype: Any) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert (found[name].shape, found[name].dtype) == (value.shape, value.dtype), name
        largest = np.nanmax(np.abs(value), initial=0)
        np.testing.assert_allclose(found[name], value, rtol=0, atol=TOLERANCE[dtype] * largest, err_msg=name)


def check(gpu: Device, name: str, arguments: Arrays, dtype: Any) -> Arrays:
    """What the GPU has computed, if it is what the CPU computes."""
    found = call(gpu, name, arguments)
    assert_close(found, call(Device(), name, arguments), dtype)
    return found


def functions(package: Any) -> set[str]:
    return {name for name in package.__all__ if inspect.isfunction(getattr(package, name))}


def test_every_function_is_tested_and_both_devices_have_it_with_the_same_parameters():
    assert functions(gpu_kernels) == {*STEPS, *STACKS, *OPTIMIZERS, *OTHERS}
    for name in functions(gpu_kernels):
        on_cpu, on_gpu = (getattr(package, name) for package in (cpu_kernels, gpu_kernels))
        assert list(inspect.signature(on_cpu).parameters) == list(inspect.signature(on_gpu).parameters), name


# ---- one time step


@both_dtypes
@pytest.mark.parametrize("masks", [*MASKS, "mixed"])
@pytest.mark.parametrize("name", STEPS)
def test_a_step(gpu, name, masks, dtype):
    kind = MASKS.get(masks, masks)
    for H, B in SIZES:
        row = step_arguments(H, B)[name]
        for flag in (False, True) if FLAG in row.values() else (False,):
            for maybe in (False, True) if MAYBE in row.values() else (False,):
                arguments = filled(row, H, B, dtype, **{MASK: kind, FLAG: flag, MAYBE: maybe})
                if name == "rnn_backward" and flag:
                    np.maximum(arguments["a"], 0, out=arguments["a"])  # what a rectifier gives
                check(gpu, name, arguments, dtype)


@both_dtypes
@pytest.mark.parametrize("name", [name for name in STEPS if name.startswith("bn")])
@pytest.mark.parametrize("B", [31, 32, 70])
def test_minibatches_that_a_warp_does_not_divide(gpu, name, B, dtype):
    for flag in (False, True):
        check(gpu, name, filled(step_arguments(3, B)[name], 3, B, dtype, **{MASK: "mixed", FLAG: flag}), dtype)


def test_without_examples_the_gradients_of_gain_and_bias_are_0(gpu):
    found = call(gpu, "bn_lstm_backward", filled(step_arguments(3, 0)["bn_lstm_backward"], 3, 0, np.float64))
    assert not found["d_gamma"].any() and not found["d_beta"].any()


@both_dtypes
@pytest.mark.parametrize("name", ZONEOUT)
def test_a_mask_of_1_keeps_the_old_value_to_the_bit_and_a_mask_of_0_takes_the_new_one(gpu, name, dtype):
    H, B = 5, 7
    row = step_arguments(H, B)[name]
    keeps = [each for each in ("keep_h", "keep_c") if each in row]
    free = call(gpu, name, filled(row, H, B, dtype, **{MAYBE: False}))
    for of in (lambda value: value, lambda value: np.full((H, B), value, dtype)):
        arguments = filled(row, H, B, dtype, **{MAYBE: False}, **dict.fromkeys(keeps, of(0.0)))
        found = call(gpu, name, arguments)
        for each, value in free.items():
            np.testing.assert_array_equal(found[each], value, each)  # 0 may be -0
        arguments = filled(row, H, B, dtype, **{MAYBE: False}, **dict.fromkeys(keeps, of(1.0)))
        found = call(gpu, name, arguments)
        for state in (each.removeprefix("keep_") for each in keeps):
            forward = name.endswith("forward")
            old, new = (state, f"new_{state}") if forward else (f"d{state}", f"d{state}_before")
            np.testing.assert_array_equal(found[new], arguments[old], new)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex128])
def test_a_rectifier_keeps_what_is_not_a_number(gpu, dtype):
    """Of a complex number the real part counts. The GPU has no kernels for these."""
    nothing = {"masks": Masks(), "relu": True}
    for device in (Device(), gpu) if dtype != np.complex128 else (Device(),):
        kernels = cpu_kernels if device.name == "cpu" else gpu_kernels
        a = device.to_device(np.array([[np.nan, -np.inf, np.inf]], dtype))
        zero, h, before, scratch = (device.to_device(np.zeros((rows, 3), dtype)) for rows in (1, 1, 1, 2))
        kernels.rnn_forward(a, zero, new_h=h, scratch=scratch, **nothing)
        np.testing.assert_array_equal(to_host(a), [[np.nan, 0, np.inf]])
        dh = device.to_device(np.full((1, 3), 2, dtype))
        kernels.rnn_backward(a, d=Gradients(dh, None, None, None, before, None), **nothing)
        np.testing.assert_array_equal(to_host(a), [[np.nan, 0, 2]])


@both_dtypes
@pytest.mark.parametrize("masks", ["none", "(H, B)", "(1, B)"])
def test_products_with_and_without_a_mask(gpu, masks, dtype):
    for M, K, B in ((12, 6, 7), (1, 1, 1), (96, 33, 2)):
        generator, found = rng(M), {}
        W, h, out = (generator.standard_normal(shape).astype(dtype) for shape in ((M, K), (K, B), (M, B)))
        keep = mask(MASKS[masks], M, B, generator)
        keep = None if keep is None else keep.astype(dtype)
        for device, kernels in ((gpu, gpu_kernels), (Device(), cpu_kernels)):
            first, second, scratch = there(device, out), there(device, out), there(device, out)
            kernels.product(there(device, W), there(device, h), first)
            kernels.add_product(there(device, W), there(device, h), second, there(device, keep), scratch)
            found[device.name] = {"product": to_host(first), "sum": to_host(second)}
        assert_close(found["gpu"], found["cpu"], dtype)


# ---- all time steps at once: inputs, tokens and scores

every_integer = pytest.mark.parametrize("integer", [np.int32, np.int64, np.uint8])


def out_of_range(V: int, integer: Any) -> np.ndarray:
    """Integers that are not in [0, V)."""
    numbers = np.array([V, -1, np.iinfo(integer).max, np.iinfo(integer).min]).astype(integer)
    return numbers[(numbers < 0) | (numbers >= V)]


@both_dtypes
@pytest.mark.parametrize("sizes", [(3, 5, 7, 6), (1, 1, 1, 1), (3, 130, 5, 140)], ids=str)
@pytest.mark.parametrize("name", ["project", "times_stack"])
def test_products_of_all_steps(gpu, name, sizes, dtype):
    T, D, B, M = sizes
    x = rng(T).standard_normal((T, D, B)).astype(dtype)
    check(gpu, name, filled(stack_arguments(x, M, D)[name], M, B, dtype), dtype)


@both_dtypes
@every_integer
@pytest.mark.parametrize("name", ["project", "take_columns"])
def test_a_token_selects_its_column_and_one_out_of_range_nan(gpu, name, integer, dtype):
    out = {"project": "out", "take_columns": "result 0"}[name]
    for T, B, M, V in ((3, 4, 5, 6), (1, 1, 1, 1), (2, 33, 3, 250)):
        tokens, wrong = rng(T).integers(V, size=(T, B)).astype(integer), np.arange(T * B).reshape(T, B) % 5 == 0
        expected = check(gpu, name, filled(stack_arguments(tokens, M, V)[name], M, B, dtype), dtype)[out]
        for number in out_of_range(V, integer):
            faulty = np.where(wrong, number, tokens)
            found = call(gpu, name, filled(stack_arguments(faulty, M, V)[name], M, B, dtype))[out]
            np.testing.assert_array_equal(found, np.where(wrong[:, None], np.array(np.nan, dtype), expected))


@both_dtypes
@every_integer
@pytest.mark.parametrize("contiguous", [True, False])
def test_gradients_of_tokens_are_added_to_their_columns(gpu, contiguous, integer, dtype):
    """Those of tokens out of range are added to none. Two calls give the same to the bit."""
    M, V = 3, 6
    some = rng().integers(V, size=(5, 40)).astype(integer)
    wrong = [np.where(some == 3, number, some) for number in out_of_range(V, integer)]
    columns = slice(None) if contiguous else slice(1, -1)
    for x in (some, np.sort(some.ravel())[None], 0 * some, some[:1, :1], *wrong, 0 * some + V):
        before = rng(2).standard_normal((M, V if contiguous else V + 2)).astype(dtype)
        da, known = rng(1).standard_normal((M, x.size)).astype(dtype), ((x >= 0) & (x < V)).ravel()
        expected = before.copy()
        np.add.at(expected[:, columns], (slice(None), x.ravel()[known]), da[:, known])
        found = []
        for _ in range(2):
            dW = there(gpu, before)
            gpu_kernels.add_up_tokens(there(gpu, da), there(gpu, x), dW[:, columns])
            found.append(to_host(dW))
        assert found[0].tobytes() == found[1].tobytes()
        np.testing.assert_allclose(found[0], expected, rtol=0, atol=TOLERANCE[dtype] * abs(expected).max())
        assert (found[0] != before).any(axis=0).sum() == len(np.unique(x.ravel()[known]))


@both_dtypes
@every_integer
@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize("shape", [(3, 5, 2), (1, 1, 1), (3, 1, 2), (2, 1000, 3)], ids=str)
def test_cross_entropy_and_a_target_that_is_not_a_class(gpu, shape, scale, integer, dtype):
    """With such a target the loss is NaN, and the gradient is that of a class without a score."""
    T, V, B = shape
    targets = rng(B).integers(min(V, 200), size=(T, B)).astype(integer)
    scores = (scale * rng(V).standard_normal(shape)).astype(dtype)
    forward = {"scores": scores, "targets": targets}
    found = check(gpu, "cross_entropy_forward", forward, dtype)
    backward = {"p": found["result 0"], "targets": targets, "scale": np.asarray(0.7, dtype)}
    gradient = check(gpu, "cross_entropy_backward", backward, dtype)["result 0"]
    for wrong in out_of_range(V, integer):
        faulty = targets.copy()
        faulty.flat[0] = wrong
        again = call(gpu, "cross_entropy_forward", forward | {"targets": faulty})
        assert np.isnan(again["result 1"].flat[0]) and np.isfinite(found["result 1"]).all()
        assert again["result 0"].tobytes() == found["result 0"].tobytes()
        again = call(gpu, "cross_entropy_backward", backward | {"targets": faulty})
        assert (again["result 0"] != gradient).sum() == 1
