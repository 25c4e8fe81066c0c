"""The gradient table, a row for every `Function` of autograd/ops.py and every way to call it; values, edges, errors.

A row is a function of tensors, the same function in NumPy, and test arrays. All rows have every property below.
"""

from __future__ import annotations

import gc
import re
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from minizone.autograd import ops
from minizone.autograd.gradcheck import gradcheck
from minizone.autograd.tensor import Function, Tensor

RNG = np.random.default_rng(0)
TABLE = []
NAN, INF = float("nan"), float("inf")
PAD = -100  # the mark of targets that do not count


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape)


def positive(*shape: int) -> np.ndarray:
    return RNG.uniform(0.5, 2.0, shape)


def row(name: str, f: Callable[..., Any], *arrays: np.ndarray, numpy: Callable[..., Any] | None = None) -> None:
    """Add a row; without ``numpy``, ``f`` is written in operators and methods that arrays have as well."""
    TABLE.append(pytest.param(f, numpy or f, arrays, id=name))


def cross_entropy(scores: np.ndarray, targets: np.ndarray) -> float:
    """Mean of -log(exp(right score) / sum of exp), one column at a time, without those with the target PAD."""
    columns = np.moveaxis(scores, -2, -1).reshape(-1, scores.shape[-2])  # (T * B, V)
    pairs = zip(columns, targets.ravel(), strict=True)
    return float(np.mean([np.log(np.exp(column).sum()) - column[target] for column, target in pairs if target != PAD]))


# ---- the table ------------------------------------------------------------------------------------------------------

for left, right in [((2, 3), (2, 3)), ((2, 3), (3,)), ((2, 1), (1, 3)), ((), (2, 3)), ((4, 2, 1), (3,)), ((), ())]:
    row(f"{left} + {right}", lambda a, b: a + b, normal(*left), normal(*right))
    row(f"{left} - {right}", lambda a, b: a - b, normal(*left), normal(*right))
    row(f"{left} * {right}", lambda a, b: a * b, normal(*left), normal(*right))
    row(f"{left} / {right}", lambda a, b: a / b, normal(*left), positive(*right))
row("numbers on both sides", lambda x: 2 / (3 - 1.5 * x) + (1 + x) / 4, normal(2, 3) / 4)
row("negative", lambda x: -x, normal(2, 3))
row("positive", lambda x: 2 * +x, normal(2, 3))

for exponent in (0, 1, 2, 3, 7, -1, -2, 2.0):
    row(f"x ** {exponent}", lambda x, p=exponent: x**p, positive(2, 3) * [1, -1, 1])
for exponent in (0.5, -0.5, 1.7, -2.3):
    row(f"x ** {exponent}", lambda x, p=exponent: x**p, positive(2, 3))
for exponent in (0, 1, 2):
    row(f"0 ** {exponent}", lambda x, p=exponent: x**p, np.zeros(2))
for left, right in [((2, 3), (2, 3)), ((3,), (2, 1)), ((), (3,)), ((2, 3), ())]:
    row(f"{left} ** {right}", lambda a, b: a**b, positive(*left), normal(*right))
row("2 ** x", lambda x: 2**x, normal(2, 3))
row("integers ** x", lambda a, x: a**x, np.array([[1], [3]], np.int8), normal(3))
row("0 ** x", lambda x: 0**x, positive(3))
row("x ** integers", lambda x, p: x**p, positive(3), np.array([0, 2, -1], np.int8))
row("x[a tensor]", lambda x, k: x[Tensor(k)], normal(2, 3), np.array([1, 0, 1]), numpy=lambda x, k: x[k])
row("T", lambda x: x.T, normal(2, 3))
row("iteration", lambda x: tuple(x), normal(3, 2))

for left, right in [
    ((3,), (3,)),
    ((3,), (3, 4)),
    ((3,), (5, 3, 4)),
    ((3,), (6, 5, 3, 4)),
    ((2, 3), (3,)),
    ((2, 3), (3, 4)),
    ((2, 3), (5, 3, 4)),  # the weights of a layer and the columns of all time steps: W (V, H) @ x (T, H, B)
    ((2, 3), (1, 3, 1)),
    ((2, 3), (6, 5, 3, 4)),
    ((5, 2, 3), (3,)),
    ((5, 2, 3), (3, 4)),
    ((5, 2, 3), (5, 3, 4)),
    ((1, 2, 3), (5, 3, 4)),
    ((5, 2, 3), (1, 3, 4)),
    ((6, 1, 2, 3), (5, 3, 4)),
    ((6, 5, 2, 3), (3,)),
    ((3, 3), (3, 3, 3)),  # where a wrong axis would have the right shape
    ((3, 3, 3), (3, 3, 3)),
]:
    row(f"{left} @ {right}", lambda a, b: a @ b, normal(*left), normal(*right))

for name, index in {
    "an int": 1,
    "a negative int": -1,
    "a NumPy int": np.int64(1),
    "ints": (1, 2, 3),
    "a slice": slice(1, None),
    "a backward slice": (slice(None), slice(None, None, -2)),
    "an int and a slice": (1, slice(0, 2)),
    "None": None,
    "None between slices": (slice(None), None, slice(1, 3)),
    "Ellipsis": (..., 2),
    "Ellipsis alone": ...,
    "nothing": (),
    "True": True,
    "a list": [1, 0],
    "a list that repeats": [1, 1, 0, 1],
    "an array that repeats": np.array([[0, 1], [1, 1]]),
    "a 0-d array": np.array(1),
    "negative indices of one element": np.array([1, -1]),
    "no index": np.array([], int),
    "an array in the middle": (slice(None), np.array([2, 0, 2])),
    "arrays on two axes": (np.array([0, 1, 0]), np.array([2, 2, 2])),
    "arrays around a slice": (np.array([0, 1, 0]), slice(None), np.array([3, 3, 3])),
    "arrays that broadcast": (np.array([[0], [1]]), np.array([0, 2, 0])),
    "an array and Ellipsis": (..., np.array([3, 3])),
    "an array and None": (None, np.array([1, 1])),
    "an array and an int": (np.array([1, 1]), 2),
    "a boolean row": np.array([False, True]),
    "booleans in the middle": (slice(None), np.array([True, False, True])),
    "a boolean for each element": RNG.random((2, 3, 4)) > 0.5,
    "booleans that are all False": np.zeros((2, 3), bool),
}.items():
    row(f"x[{name}]", lambda x, at=index: x[at], normal(2, 3, 4))

row("unstack", ops.unstack, normal(3, 2), numpy=tuple)
row("unstack a vector", ops.unstack, normal(3), numpy=tuple)
row("unstack one", ops.unstack, normal(1, 2), numpy=tuple)
row("unstack, one output used", lambda x: ops.unstack(x)[1], normal(3, 2), numpy=lambda x: x[1])
row("stack", lambda *xs: ops.stack([*xs]), *normal(3, 2, 2), numpy=lambda *xs: np.stack(xs))
row("stack one", lambda x: ops.stack([x]), normal(2), numpy=lambda x: x[None])
row("stack the same twice", lambda x, y: ops.stack([x, y, x]), *normal(2, 4), numpy=lambda x, y: np.stack([x, y, x]))
row("stack 0-d", lambda x, y: ops.stack([x, y]), normal(), normal(), numpy=lambda x, y: np.stack([x, y]))

for axis in (None, 0, 1, -1, -3, (0, 2), (-1, 0), (2, 1, 0), (1,), ()):
    for keepdims in (False, True):
        row(f"sum {axis} {keepdims}", lambda x, a=axis, k=keepdims: x.sum(axis=a, keepdims=k), normal(2, 3, 4))
        row(f"mean {axis} {keepdims}", lambda x, a=axis, k=keepdims: x.mean(axis=a, keepdims=k), normal(2, 3, 4))
for axis in (None, 0, -1, ()):
    row(f"sum of a 0-d array {axis}", lambda x, a=axis: x.sum(axis=a), normal())

for old, new in [((2, 3, 4), (6, 4)), ((2, 3), (-1,)), ((2, 3), (3, -1)), ((1,), ()), ((), (1, 1)), ((0, 2), (3, 0))]:
    row(
        f"reshape {old} {new}",
        lambda x, new=new: ops.reshape(x, new),
        normal(*old),
        numpy=lambda x, new=new: x.reshape(new),
    )

row("transpose", lambda x: x.transpose(), normal(2, 3, 4))
row("transpose 0-d", lambda x: x.transpose(), normal())
for axes in [(0, 1, 2), (1, 0, 2), (2, 0, 1), (1, 2, 0), (2, 1, 0), (-1, 0, 1), (0, -1, -2)]:
    row(f"transpose {axes}", lambda x, axes=axes: x.transpose(*axes), normal(2, 3, 4))
    row(f"transpose {axes} of a cube", lambda x, axes=axes: x.transpose(*axes), normal(3, 3, 3))

row("exp", ops.exp, normal(2, 3), numpy=np.exp)
row("log", ops.log, positive(2, 3), numpy=np.log)
row("tanh", ops.tanh, 2 * normal(2, 3), numpy=np.tanh)
row("sigmoid", ops.sigmoid, 4 * normal(2, 3), numpy=lambda x: 1 / (1 + np.exp(-x)))
row("relu", ops.relu, positive(2, 3) * [1, -1, 1], numpy=lambda x: np.maximum(x, 0))

for shape in [(5, 2), (3, 5, 2), (2, 3, 5, 2), (4, 1, 1)]:
    scores, labels = 3 * normal(*shape), RNG.integers(shape[-2], size=(*shape[:-2], shape[-1]))
    row(f"softmax_cross_entropy {shape}", ops.softmax_cross_entropy, scores, labels, numpy=cross_entropy)
    padded = np.where(np.arange(labels.size).reshape(labels.shape) % 3 == 1, PAD, labels)
    row(
        f"softmax_cross_entropy {shape} with padding",
        lambda scores, targets: ops.softmax_cross_entropy(scores, targets, ignore_index=PAD),
        scores,
        padded,
        numpy=cross_entropy,
    )

every_row = pytest.mark.parametrize(("f", "numpy", "arrays"), TABLE)


# ---- properties of all rows -----------------------------------------------------------------------------------------


def as_tensors(arrays: tuple[np.ndarray, ...], dtype: Any = np.float64) -> list[Any]:
    return [Tensor(np.array(v, dtype)) if v.dtype.kind == "f" else v for v in arrays]


def as_tuple(outputs: Any) -> tuple[Any, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def go_backward(outputs: Any) -> None:
    """Weights that are small integers, so that they are exact in float32."""
    for y in as_tuple(outputs):
        y.backward((1 + np.arange(y.data.size) % 5).reshape(y.shape).astype(y.dtype))


def functions_below(base: type[Function]) -> Iterator[type[Function]]:
    for function in base.__subclasses__():
        yield function
        yield from functions_below(function)


def on_the_tape(y: Tensor) -> set[type[Function]]:
    if y.creator is None:
        return set()
    return {type(y.creator)}.union(*(on_the_tape(x) for x in y.creator.inputs if x is not None))


def test_every_function_has_a_row():
    rows = [f(*as_tensors(arrays)) for f, _, arrays in (r.values for r in TABLE)]
    tried = set().union(*(on_the_tape(y) for outputs in rows for y in as_tuple(outputs)))
    missing = {function for function in functions_below(Function) if function.__module__ == ops.__name__} - tried
    assert not missing, f"no row in the gradient table: {sorted(function.__name__ for function in missing)}"


@every_row
def test_the_gradient_is_right(f, numpy, arrays):
    assert gradcheck(f, *arrays, rtol=1e-9) <= 1e-9


@every_row
def test_the_value_is_that_of_numpy(f, numpy, arrays):
    outputs, expected = as_tuple(f(*as_tensors(arrays))), as_tuple(numpy(*arrays))
    assert len(outputs) == len(expected)
    for y, right in zip(outputs, expected, strict=True):
        assert y.shape == np.shape(right)
        assert_allclose(y.data, right, rtol=1e-13, atol=1e-15)


@every_row
def test_float32_stays_float32_and_agrees_with_float64(f, numpy, arrays):
    single, double = as_tensors(arrays, np.float32), as_tensors(arrays)
    outputs = f(*single)
    go_backward(outputs)
    go_backward(f(*double))
    assert {y.dtype for y in as_tuple(outputs)} == {np.dtype(np.float32)}
    for x, right in zip(single, double, strict=True):
        if isinstance(x, Tensor):
            assert x.grad.dtype == np.float32
            assert_allclose(x.grad, right.grad, rtol=1e-4, atol=1e-5)


@every_row
def test_a_constant_beside_it_does_not_change_a_gradient(f, numpy, arrays):
    """Each input alone, with plain arrays for the others: what a function skips for them must not be missed."""
    everything = as_tensors(arrays)
    go_backward(f(*everything))
    for k, together in enumerate(everything):
        if isinstance(together, Tensor):
            alone = Tensor(arrays[k])
            go_backward(f(*(alone if j == k else v for j, v in enumerate(arrays))))
            assert_allclose(alone.grad, together.grad, rtol=1e-13)


@every_row
def test_inputs_are_left_alone_and_a_second_backward_pass_adds_the_same(f, numpy, arrays):
    tensors = as_tensors(arrays)
    outputs = f(*tensors)
    values = [y.data.copy() for y in as_tuple(outputs)]
    go_backward(outputs)
    once = [x.grad.copy() for x in tensors if isinstance(x, Tensor)]
    go_backward(outputs)
    for x, g in zip((x for x in tensors if isinstance(x, Tensor)), once, strict=True):
        assert_allclose(x.grad, 2 * g, rtol=1e-14)
    for x, before in zip(tensors, arrays, strict=True):
        assert_array_equal(x.data if isinstance(x, Tensor) else x, before)
    for y, before in zip(as_tuple(outputs), values, strict=True):
        assert_array_equal(y.data, before)


@every_row
def test_the_graph_is_freed_without_the_garbage_collector(f, numpy, arrays):
    gc.disable()
    try:
        outputs = f(*as_tensors(arrays))
        go_backward(outputs)
        references = [weakref.ref(thing) for y in as_tuple(outputs) for thing in (y, y.creator)]
        del outputs
        assert [ref() for ref in references] == [None] * len(references)
    finally:
        gc.enable()


# ---- values and edges -----------------------------------------------------------------------------------------------


def test_unstack_is_one_function():
    """T functions, each with a gradient of the whole sequence, would make the backward pass quadratic in T."""
    steps = ops.unstack(Tensor(normal(5, 2)))
    assert len({step.creator for step in steps}) == 1
    assert [step.output_index for step in steps] == [0, 1, 2, 3, 4]


def test_indexing_a_step_of_a_long_sequence_does_not_copy_it():
    x = Tensor(normal(50, 3))
    assert np.shares_memory(x[3:7].data, x.data)
    assert np.shares_memory(ops.unstack(x)[2].data, x.data)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sigmoid_and_tanh_are_exact_at_both_ends(dtype):
    """exp(1000) would overflow, which is a warning, which is an error here."""
    x = Tensor(np.array([-1e30, -1000, 0, 1000, 1e30], dtype))
    g = np.ones(5, dtype)
    y = ops.sigmoid(x)
    y.backward(g)
    assert_array_equal(y.data, [0, 0, 0.5, 1, 1])
    assert_array_equal(x.grad, [0, 0, 0.25, 0, 0])
    x.grad = None
    y = ops.tanh(x)
    y.backward(g)
    assert_array_equal(y.data, [-1, -1, 0, 1, 1])
    assert_array_equal(x.grad, [0, 0, 1, 0, 0])


@pytest.mark.parametrize("axis", [None, 0, (0, 1)])
def test_sums_and_means_of_float16_are_summed_in_float32(axis):
    """The sum of 4,000 times 300 is more than the largest float16, and 2048 + 1 is 2048 again."""
    x = Tensor(np.full((4000, 3), 300, np.float16))
    mean = x.mean(axis=axis)
    mean.backward(np.full(mean.shape, 400, np.float16))
    assert mean.dtype == x.grad.dtype == np.float16 and (mean.data == 300).all()
    assert_allclose(x.grad, 400 * mean.data.size / x.data.size, rtol=1e-2)
    assert (Tensor(np.ones((4000, 2), np.float16)).sum(axis=axis).data == 8000 / (1 if axis != 0 else 2)).all()


RELU_AT_THE_ENDS = {"x": [NAN, -INF, -0.0, 0, INF], "y": [NAN, 0, 0, 0, INF], "gx": [NAN, 0, 0, 0, 2]}


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.complex128])
def test_relu_hides_nothing_that_is_not_a_number(dtype):
    """With 0 in its place the loss would stay finite, and nobody would notice a NaN in the weights."""
    x = Tensor(np.array(RELU_AT_THE_ENDS["x"], dtype))
    y = ops.relu(x)
    y.backward(np.full(5, 2, dtype))
    assert y.dtype == x.grad.dtype == dtype
    assert_array_equal(y.data, np.array(RELU_AT_THE_ENDS["y"], dtype))
    assert_array_equal(x.grad, np.array(RELU_AT_THE_ENDS["gx"], dtype))


def test_softmax_cross_entropy_by_hand():
    """Columns (0, ln 3) and (ln 4, 0): p = (1/4, 3/4) and (4/5, 1/5), the targets have 1/4 and 1/5: ln(4 * 5) / 2."""
    scores = Tensor(np.array([[0.0, np.log(4)], [np.log(3), 0.0]]))
    loss = ops.softmax_cross_entropy(scores, np.array([0, 1]))
    loss.backward()
    assert loss.shape == ()
    assert float(loss) == pytest.approx(np.log(20) / 2, rel=1e-14)
    assert_allclose(scores.grad, np.array([[-3 / 4, 4 / 5], [3 / 4, -4 / 5]]) / 2, rtol=1e-14)


def test_softmax_cross_entropy_of_equal_scores_is_the_log_of_the_number_of_classes():
    loss = ops.softmax_cross_entropy(Tensor(np.full((7, 50, 3), 5.0)), np.zeros((7, 3), int))
    assert float(loss) == pytest.approx(np.log(50))


def test_softmax_cross_entropy_is_stable_for_huge_scores():
    """In float32: exp(1e4) is infinite, exp(-1e4) is 0 and its log is not finite."""
    scores = Tensor(np.array([[1e4, 1e4, -1e4], [-1e4, -1e4, -1e4]], np.float32))
    loss = ops.softmax_cross_entropy(scores, np.array([0, 1, 0]))
    loss.backward()
    assert loss.dtype == scores.grad.dtype == np.float32
    assert float(loss) == pytest.approx((0 + 2e4 + np.log(2)) / 3, rel=1e-6)
    assert_allclose(scores.grad, np.array([[0, 1, -0.5], [0, -1, 0.5]]) / 3, rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.int64])
def test_targets_may_be_integers_of_any_size(dtype):
    """uint8 among them, with more than 255 columns and classes: no index is computed in the dtype of the targets."""
    scores, targets = normal(300, 400), RNG.integers(100, size=400)
    loss = ops.softmax_cross_entropy(Tensor(scores), targets.astype(dtype))
    assert float(loss) == pytest.approx(cross_entropy(scores, targets), rel=1e-13)


@pytest.mark.parametrize("shape", [(2,), (3,), (3, 5), (5, 2), (2, 3), (3, 2, 1), ()])
def test_targets_must_have_the_shape_of_the_columns(shape):
    with pytest.raises(ValueError, match=r"SoftmaxCrossEntropy: .* without the class axis") as error:
        ops.softmax_cross_entropy(Tensor(normal(3, 5, 2)), np.zeros(shape, int))
    assert f"(3, 5, 2) and {shape}" in str(error.value)


@pytest.mark.parametrize("shape", [(3,), ()])
def test_scores_must_have_an_axis_of_classes_and_one_of_columns(shape):
    with pytest.raises(ValueError, match=rf"scores must be \(T, V, B\) or \(V, B\), got {re.escape(str(shape))}"):
        ops.softmax_cross_entropy(Tensor(normal(*shape)), np.zeros(shape, int))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.bool_])
def test_targets_must_be_integers(dtype):
    with pytest.raises(TypeError, match=f"targets must be integers, got {np.dtype(dtype)}"):
        ops.softmax_cross_entropy(Tensor(normal(5, 2)), np.zeros(2, dtype))


@pytest.mark.parametrize("target", [5, 100, -1, -5, -6])
def test_targets_must_be_classes(target):
    """-1 is a usual mark for "no target"; taken as an index, it would be the last class."""
    with pytest.raises(IndexError, match="SoftmaxCrossEntropy"):
        ops.softmax_cross_entropy(Tensor(normal(5, 2)), np.array([0, target]))


@pytest.mark.parametrize(("mark", "dtype"), [(-1, np.int64), (-100, np.int8), (5, np.uint8), (2, np.int32)])
def test_targets_that_are_ignored_count_neither_in_the_mean_nor_in_the_gradient(mark, dtype):
    """The scores of padding may be anything, NaN as well. The mark may be a class, such as that of the padding."""
    scores, targets = normal(4, 5, 3).astype(np.float32), np.array([[0, 1, mark], [3, mark, 4], [0, 4, 1], [mark] * 3])
    ignored = targets == mark
    x = Tensor(np.where(ignored[:, None], np.float32(NAN), scores))
    loss = ops.softmax_cross_entropy(x, targets.astype(dtype), ignore_index=mark)
    loss.backward()
    right = Tensor(np.moveaxis(scores, 1, 2)[~ignored].T)  # (V, N)
    expected = ops.softmax_cross_entropy(right, targets[~ignored])
    expected.backward()
    assert loss.dtype == x.grad.dtype == np.float32
    assert float(loss) == pytest.approx(float(expected), rel=1e-6)
    assert not x.grad[np.broadcast_to(ignored[:, None], x.shape)].any()
    assert_allclose(np.moveaxis(x.grad, 1, 2)[~ignored].T, right.grad, rtol=1e-6)


def test_without_a_target_that_counts_there_is_no_mean():
    sentence = "all targets are ignore_index = -1, but the mean needs at least one other target"
    with pytest.raises(ValueError, match=sentence):
        ops.softmax_cross_entropy(Tensor(normal(5, 2)), np.array([-1, -1]), ignore_index=-1)


@pytest.mark.parametrize("target", [5, -2])
def test_a_target_that_is_neither_a_class_nor_ignored_is_refused(target):
    with pytest.raises(IndexError, match="SoftmaxCrossEntropy"):
        ops.softmax_cross_entropy(Tensor(normal(5, 3)), np.array([0, target, -1]), ignore_index=-1)


def test_cross_entropy_of_float16_is_summed_in_float32():
    """A float16 sum of exponentials stays at 2048 for ever, as 2048 + 1 is rounded to 2048."""
    x = Tensor(np.zeros((20, 5000, 3), np.float16))
    loss = ops.softmax_cross_entropy(x, np.zeros((20, 3), int))
    loss.backward(np.array(60, np.float16))
    assert loss.dtype == x.grad.dtype == np.float16
    assert float(loss) == pytest.approx(np.log(5000), rel=1e-3)
    assert_allclose(x.grad[:, 0], 1 / 5000 - 1, rtol=1e-3)
    assert_allclose(x.grad[:, 1:], 1 / 5000, rtol=1e-3)


def test_cross_entropy_of_no_column_is_refused():
    with pytest.raises(ValueError, match="the mean needs at least one target"):
        ops.softmax_cross_entropy(Tensor(np.ones((0, 5, 3))), np.zeros((0, 3), int))
