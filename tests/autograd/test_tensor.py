"""Tensors: the gradients of leaves, what broadcasting and operators do to shapes and dtypes, errors that name both."""

from __future__ import annotations

import operator

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_allclose, assert_array_equal

from minizone.autograd import ops
from minizone.autograd.tensor import Tensor
from tests.helpers import SEVERAL, normal

# ---- leaves ---------------------------------------------------------------------------------------------------------


def test_a_leaf_is_its_own_derivative():
    scalar, vector, g = Tensor(2.0), Tensor(normal(3)), normal(3)
    scalar.backward()
    vector.backward(g)
    vector.backward(g)
    assert scalar.grad == 1.0
    assert_array_equal(vector.grad, 2 * g)


def test_a_second_backward_pass_adds_the_same_gradient_again():
    x, w = Tensor(normal(4, 2)), Tensor(normal(3, 4))
    loss = (ops.tanh(w @ x) ** 2).sum()
    loss.backward()
    once = [x.grad.copy(), w.grad.copy()]
    loss.backward()
    assert_allclose(x.grad, 2 * once[0])
    assert_allclose(w.grad, 2 * once[1])


def test_two_losses_add_up_in_a_leaf_they_share():
    x = Tensor(normal(3))
    (x * x).sum().backward()
    (3 * x).sum().backward()
    assert_allclose(x.grad, 2 * x.data + 3)


def test_two_updates_in_a_row_follow_gradient_descent():
    """loss = (x - 1)^2, so that a step of 0.25 halves the distance to 1."""
    x = Tensor(np.array([3.0]))
    for distance in (1.0, 0.5):
        ((x - 1) ** 2).sum().backward()
        x.data = x.data - 0.25 * x.grad
        x.grad = None
        assert_allclose(x.data, 1 + distance)


def test_only_leaves_keep_a_gradient():
    x = Tensor(normal(3))
    y = 2 * x
    y.sum().backward()
    assert y.grad is None
    assert x.grad is not None


@pytest.mark.parametrize(
    "f", [lambda x: x * 3, lambda x: x * x, lambda x: (x * x).sum() + x], ids=["3x", "x*x", "x*x + x"]
)
def test_the_gradient_of_a_0d_array_is_an_array(f):
    """NumPy makes a scalar of every 0-d result, and a scalar is no array to an optimizer or a checkpoint."""
    x = Tensor(np.array(2.0))
    for _ in range(2):
        f(x).backward()
        assert isinstance(x.grad, np.ndarray)
        assert x.grad.shape == ()


def test_a_gradient_that_was_handed_out_never_changes():
    """The two inputs of a sum get one and the same array; accumulating in place would change a's through b's."""
    a, b = Tensor(normal(3)), Tensor(normal(3))
    g = np.ones(3)
    ((a + b) + b).backward(g)
    first = a.grad
    (5 * a).sum().backward()
    assert_array_equal(g, np.ones(3))
    assert_array_equal(first, np.ones(3))
    assert_array_equal(a.grad, np.full(3, 6.0))
    assert_array_equal(b.grad, np.full(3, 2.0))


def test_a_tensor_may_be_both_arguments():
    x = Tensor(normal(3, 3))
    g = normal(3, 3)
    (x * x).backward(g)
    assert_allclose(x.grad, 2 * x.data * g)
    x.grad = None
    (x - x).backward(g)
    assert_array_equal(x.grad, np.zeros((3, 3)))
    x.grad = None
    (x @ x).backward(g)
    assert_allclose(x.grad, g @ x.data.T + x.data.T @ g)


def test_a_diamond_adds_its_two_sides():
    """d/dx exp(x) * (1/x) = exp(x) * (1/x - 1/x^2)."""
    x = Tensor(np.array([0.5, 2.0]))
    (ops.exp(x) * (1 / x)).sum().backward()
    assert_allclose(x.grad, np.exp(x.data) * (1 / x.data - 1 / x.data**2))


# ---- broadcasting ---------------------------------------------------------------------------------------------------


def summed_by_element(g: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Sum ``g`` over all the places to which broadcasting copies each element of an array of this shape."""
    size = int(np.prod(shape))
    source = np.broadcast_to(np.arange(size).reshape(shape), g.shape)
    return np.bincount(source.ravel(), weights=g.ravel(), minlength=size).reshape(shape)


@given(hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=4, min_side=0, max_side=3))
@SEVERAL
def test_broadcasting_is_undone_for_every_pair_of_shapes(shapes):
    """0-d arrays, axes of size 1, added axes and empty arrays are all among them."""
    left, right = shapes.input_shapes
    a, b, g = Tensor(normal(*left)), Tensor(normal(*right)), normal(*shapes.result_shape)
    (a * b).backward(g)
    assert a.grad.shape == left
    assert b.grad.shape == right
    assert_allclose(a.grad, summed_by_element(g * b.data, left), atol=1e-12)
    assert_allclose(b.grad, summed_by_element(g * a.data, right), atol=1e-12)


# ---- dtypes ---------------------------------------------------------------------------------------------------------

OPERATORS = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "**": operator.pow,
    "reflected +": lambda x, n: n + x,
    "reflected -": lambda x, n: n - x,
    "reflected *": lambda x, n: n * x,
    "reflected /": lambda x, n: n / x,
}
NUMBERS = [2, 2.0, np.float64(2), np.float32(2), np.int64(2), np.uint8(2)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, np.complex128])
@pytest.mark.parametrize("number", NUMBERS, ids=lambda n: type(n).__name__)
@pytest.mark.parametrize("name", OPERATORS)
def test_a_number_leaves_the_dtype_alone(name, number, dtype):
    """A Python number does by itself under NumPy 2; a NumPy scalar would turn float32 into float64."""
    x = Tensor(np.array([0.5, 3.0], dtype))
    y = OPERATORS[name](x, number)
    y.sum().backward()
    assert_allclose(y.data, OPERATORS[name](x.data.astype(np.complex128), 2), rtol=1e-6)
    assert y.dtype == dtype
    assert x.grad.dtype == dtype


@pytest.mark.parametrize("number", [np.array(2.0), Tensor(np.array(2.0)), Tensor(np.float64(2))], ids=repr)
def test_the_dtype_of_a_0d_array_counts_like_that_of_any_array(number):
    assert (Tensor([1.0]) * number).dtype == np.float64


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, np.complex128])
def test_a_network_computes_and_differentiates_in_the_dtype_of_its_arrays(dtype):
    x, w, b = Tensor(normal(5, 4, 2).astype(dtype)), Tensor(normal(3, 4).astype(dtype)), Tensor(np.zeros(3, dtype))
    h = ops.tanh(w @ x + b.reshape(3, 1))
    loss = (ops.sigmoid(h) / (1.5 + h * h)).mean() + ops.exp(-h).sum() ** 0.5
    loss.backward()
    assert loss.dtype == dtype
    assert [t.grad.dtype for t in (x, w, b)] == [dtype] * 3


@pytest.mark.parametrize(
    ("data", "dtype"),
    [
        (1.5, np.float32),
        ([[1.5, 2.0]], np.float32),
        ([1, 2.0], np.float32),
        (2j, np.complex64),
        ([1.0, 2j], np.complex64),
        ([1, 2], np.int64),
        (True, np.bool_),
        (np.float64(1.5), np.float64),
        (np.float32(1.5), np.float32),
    ],
    ids=repr,
)
def test_lists_and_numbers_become_single_precision_arrays(data, dtype):
    t = Tensor(data)
    assert isinstance(t.data, np.ndarray)
    assert t.dtype == dtype
    assert t.requires_grad == (t.dtype.kind in "fc")
    assert_array_equal(t.data, data)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.complex128, np.int32, np.bool_])
def test_an_array_is_kept_as_it_is(dtype):
    data = np.ones(3, dtype)
    assert Tensor(data).data is data


@pytest.mark.parametrize("apply", [operator.add, operator.mul, operator.matmul], ids=lambda f: f.__name__)
def test_a_list_is_a_constant_of_single_precision_in_either_place(apply):
    square = [[1.0, 2.0], [3.0, 4.0]]
    x = Tensor(np.eye(2, dtype=np.float32))
    y = apply(x, square) + apply(square, x)
    y.sum().backward()
    assert y.dtype == np.float32
    assert_allclose(x.grad, {operator.add: 2, operator.mul: 2 * np.array(square)}.get(apply, [[7, 11], [9, 13]]))


def test_the_derivative_of_a_complex_function_is_not_conjugated():
    z = Tensor(np.array([1 + 2j, -0.5j]))
    (z * z * z).sum().backward()
    assert_allclose(z.grad, 3 * z.data**2)


# ---- operators ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["add", "sub", "mul", "truediv", "matmul"])
def test_an_array_on_the_left_asks_the_tensor(name):
    """NumPy would otherwise loop over the elements of the array and return an array of tensors."""
    apply = getattr(operator, name)
    array, x, g = normal(2, 2), Tensor(normal(2, 2) + 3), normal(2, 2)
    y = apply(array, x)
    assert isinstance(y, Tensor)
    assert_allclose(y.data, apply(array, x.data))
    y.backward(g)
    both = Tensor(x.data)
    apply(Tensor(array), both).backward(g)
    assert_allclose(x.grad, both.grad)


def test_the_exponent_is_a_number():
    x = Tensor(normal(3))
    for expression in (lambda: x**x, lambda: 2**x, lambda: normal(3) ** x):
        with pytest.raises(TypeError, match="unsupported operand"):
            expression()


def test_a_tensor_has_the_manners_of_an_array():
    x = Tensor([[1.5, 2.0], [3.0, 4.0]])
    assert (x.shape, x.ndim, x.dtype, len(x)) == ((2, 2), 2, np.float32, 2)
    assert float(x[0, 0]) == 1.5
    assert repr(Tensor([1.5])) == "Tensor(array([1.5], dtype=float32))"
    assert [row.data.tolist() for row in x] == [[1.5, 2.0], [3.0, 4.0]]
    assert x.reshape(4).shape == x.reshape((4,)).shape == x.reshape(-1).shape == (4,)
    assert_array_equal((-x).transpose().data, -x.data.T)
    assert_array_equal(x.transpose(1, 0).data, x.data.T)


# ---- errors ---------------------------------------------------------------------------------------------------------

X, Y = Tensor(np.zeros((2, 3))), np.zeros((4, 5))
MISFITS = {
    "Add": lambda: X + Y,
    "Subtract": lambda: X - Y,
    "Multiply": lambda: Y * X,
    "Divide": lambda: Y / (X + 1),
    "MatMul": lambda: X @ Y,
    "Stack": lambda: ops.stack([X, Y]),
    "SoftmaxCrossEntropy": lambda: ops.softmax_cross_entropy(X, Y.astype(int)),
    "Reshape": lambda: X.reshape(4, 5),
    "Transpose": lambda: X.transpose(0, 1, 2),
    "Sum": lambda: X.sum(axis=2),
    "GetItem": lambda: X[:, 3],
}


@pytest.mark.parametrize("name", MISFITS)
def test_an_error_names_the_operation_and_its_shapes(name):
    with pytest.raises((ValueError, IndexError)) as error:
        MISFITS[name]()
    sentence = str(error.value)
    assert sentence.startswith(f"{name}: inputs of shape ")
    assert "(2, 3)" in sentence
    if name in list(MISFITS)[:7]:
        assert "(4, 5)" in sentence


def test_an_index_error_remains_one():
    with pytest.raises(IndexError, match=r"GetItem: inputs of shape \(2, 3\): index 7 is out of bounds"):
        X[7]
