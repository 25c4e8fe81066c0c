"""The tape: gradients of leaves, the order of a backward pass, what is recorded, shapes and dtypes, errors, memory."""

from __future__ import annotations

import copy
import gc
import operator
import pickle
import threading
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_allclose, assert_array_equal

from minizone.autograd import ops
from minizone.autograd.tensor import Function, Tensor, no_grad
from minizone.layers.module import Module, Parameter
from minizone.layers.regularizers import weight_noise
from minizone.optim import SGD, Adam
from minizone.recurrent.lstm import lstm
from tests.helpers import SEVERAL, normal

LONG = 20_000


class Total(Function):
    """The sum of its inputs. In a backward pass it appends itself to ``visited`` and stores its gradient."""

    def __init__(self, visited: list[Total]):
        self.visited = visited

    def forward(self, *xs):
        return sum(xs)

    def backward(self, gy):
        self.visited.append(self)
        self.gy = gy
        return tuple(gy for _ in self.needs)


class Halves(Function):
    """The two halves of a vector: a function with two outputs."""

    def forward(self, x):
        return x[: len(x) // 2], x[len(x) // 2 :]

    def backward(self, *gys):
        self.gys = gys
        return np.concatenate([np.zeros(2) if gy is None else gy for gy in gys])


# ---- the gradients of leaves


def test_a_leaf_is_its_own_derivative():
    scalar, vector, g = Tensor(2.0), Tensor(normal(3)), normal(3)
    scalar.backward()
    vector.backward(g)
    vector.backward(g)
    assert scalar.grad == 1.0
    assert_array_equal(vector.grad, 2 * g)


def test_gradients_of_two_losses_add_up_in_a_leaf():
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


def three_uses(x: Tensor) -> Tensor:
    y = x + 0
    return (2 * y).sum() + (y * y).sum() + (y + y).sum()


USED_TWICE = {  # functions of a matrix x that use it more than once, and their derivatives
    "x * x": (lambda x: x * x, lambda x, g: 2 * x * g),
    "x - x": (lambda x: x - x, lambda x, g: 0 * g),
    "x @ x": (lambda x: x @ x, lambda x, g: g @ x.T + x.T @ g),
    "x * x + x": (lambda x: x * x + x, lambda x, g: (2 * x + 1) * g),
    "exp(x) / x": (lambda x: ops.exp(x) * (1 / x), lambda x, g: np.exp(x) * (1 / x - 1 / x**2) * g),
    "three uses of an intermediate value": (three_uses, lambda x, g: (4 + 2 * x) * g),
}


@pytest.mark.parametrize("name", USED_TWICE)
def test_a_tensor_used_several_times_gets_the_sum_of_the_gradients(name):
    f, derivative = USED_TWICE[name]
    x = Tensor(normal(3, 3))
    y = f(x)
    g = normal(*y.shape)
    y.backward(g)
    assert_allclose(x.grad, derivative(x.data, g), atol=1e-14)


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


# ---- order


def test_a_chain_of_20000_functions_goes_backward_and_is_freed():
    """Python allows 1,000 nested calls, in a recursive backward pass and in the destructors of a chain of objects."""
    x = Tensor(np.array(1.0))
    y = x
    for _ in range(LONG):
        y = y * 1.0001
    first = weakref.ref(y.creator.inputs[0])
    y.backward()
    assert x.grad == pytest.approx(1.0001**LONG)
    del y
    assert first() is None


def test_a_ladder_of_diamonds_is_visited_once_and_not_once_for_each_path():
    """2^14 paths lead through 14 diamonds. Residual connections of a deep network have the same form."""
    visited = []
    x = Tensor(np.array(3.0))
    y = x
    for _ in range(14):
        y = Total(visited)(0.25 * y, 0.75 * y)
    y.backward()
    assert len(visited) == 14
    assert x.grad == pytest.approx(1.0)


@given(st.lists(st.lists(st.integers(0, 10**6), min_size=1, max_size=3), min_size=1, max_size=12))
@SEVERAL
def test_a_function_is_visited_once_and_after_all_that_used_its_output(picks):
    """On random graphs; node n adds up nodes that exist already, chosen by ``picks[n]``, the leaf being node 0."""
    leaf = Tensor(np.array(1.0))
    nodes, paths, visited = [leaf], [1], []  # paths: from the leaf to the node
    for pick in picks:
        used = [k % len(nodes) for k in pick]
        nodes.append(Total(visited)(*(nodes[k] for k in used)))
        paths.append(sum(paths[k] for k in used))
    nodes[-1].backward()
    assert leaf.grad == paths[-1]
    assert len(set(visited)) == len(visited)
    turn = {function: n for n, function in enumerate(visited)}
    for user in visited:
        for x in user.inputs:
            assert x is leaf or turn[user] < turn[x.creator]


def test_functions_that_the_loss_does_not_depend_on_are_not_visited():
    visited = []
    x = Tensor(normal(3))
    y = Total(visited)(x)
    Total(visited)(y, y)
    y.backward(np.ones(3))
    assert visited == [y.creator]


# ---- several outputs


def test_an_output_that_nobody_used_has_the_gradient_none():
    x = Tensor(normal(4))
    _, right = Halves()(x)
    (right * right).sum().backward()
    assert right.creator.gys[0] is None
    assert_allclose(x.grad, [0, 0, *(2 * x.data[2:])])


def test_each_output_of_a_function_gets_its_own_gradient():
    x = Tensor(normal(4))
    left, right = Halves()(x)
    (2 * left - 3 * right + left).sum().backward()
    assert_allclose(x.grad, [3, 3, -3, -3])


# ---- what is recorded


def test_no_grad_records_nothing_and_keeps_nothing():
    x = Tensor(normal(3))
    with no_grad():
        hidden = ops.exp(x)
        y = hidden * hidden
    assert y.creator is None
    assert not y.requires_grad
    freed = weakref.ref(hidden)
    del hidden
    assert freed() is None


def test_no_grad_may_be_nested():
    x = Tensor(normal(3))
    with no_grad():
        with no_grad():
            pass
        assert not (x * x).requires_grad
    assert (x * x).requires_grad


def test_an_exception_switches_recording_on_again():
    x = Tensor(normal(3))
    with pytest.raises(KeyError), no_grad():
        raise KeyError
    assert (x * x).requires_grad


def test_no_grad_of_one_thread_leaves_the_others_alone():
    x, found = Tensor(normal(3)), []
    with no_grad():
        thread = threading.Thread(target=lambda: found.append((x * x).requires_grad))
        thread.start()
        thread.join()
    assert found == [True]


def test_a_function_is_told_which_inputs_need_a_gradient():
    x, frozen, integers = Tensor(normal(3)), Tensor(normal(3), requires_grad=False), Tensor([1, 2, 3])
    function = Total([])
    y = function(x, frozen, normal(3), 2.0, integers)
    assert function.needs == (True, False, False, False, False)
    y.backward(np.ones(3))
    assert_array_equal(x.grad, np.ones(3))
    assert frozen.grad is None
    assert integers.grad is None


def made_without_recording() -> Tensor:
    x = Tensor(2.0)
    with no_grad():
        return x * x


CONSTANTS = {
    "made in no_grad": made_without_recording(),
    "an integer": Tensor(2),
    "computed from integers": Tensor(np.array(2)) * Tensor(3),
    "requires_grad=False": Tensor(2.0, requires_grad=False),
    "computed from constants": Tensor(2.0, requires_grad=False) * 3 + np.array(1.0),
}


@pytest.mark.parametrize("name", CONSTANTS)
def test_a_constant_has_no_creator_and_no_gradient(name):
    constant, x = CONSTANTS[name], Tensor(np.array(3.0))
    assert constant.creator is None and not constant.requires_grad
    with pytest.raises(ValueError, match="backward: this tensor was computed without a gradient"):
        constant.backward()
    (constant * x).backward()
    assert_allclose(x.grad, constant.data)
    assert constant.grad is None


def test_integers_cannot_require_a_gradient():
    with pytest.raises(ValueError, match=r"a tensor of int64 cannot have a gradient; give it a floating dtype"):
        Tensor(np.array([1, 2]), requires_grad=True)


# ---- where it starts


@pytest.mark.parametrize("shape", [(3,), (2, 1), (0,)])
def test_backward_of_several_elements_needs_a_gradient(shape):
    with pytest.raises(ValueError, match=r"backward: a tensor of shape .* needs a gradient of that shape") as error:
        (Tensor(np.ones(shape)) * 2).backward()
    assert str(shape) in str(error.value)


@pytest.mark.parametrize("shape", [(), (1,), (1, 3), (3, 1), (4,)])
def test_backward_wants_a_gradient_of_the_shape_of_the_tensor(shape):
    with pytest.raises(ValueError, match=r"a gradient of shape .* for a tensor of shape \(3,\)") as error:
        (Tensor(normal(3)) * 2).backward(np.ones(shape))
    assert f"shape {shape} for" in str(error.value)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_backward_of_one_element_starts_from_one(shape):
    x = Tensor(np.full(shape, 3.0))
    (x * x).backward()
    assert_array_equal(x.grad, np.full(shape, 6.0))


def test_a_backward_that_returns_too_few_gradients_is_an_error():
    class Forgetful(Total):
        def backward(self, gy):
            return (gy,)

    x = Tensor(normal(3))
    with pytest.raises(ValueError, match="shorter"):
        Forgetful([])(x, x).backward(np.ones(3))


# ---- broadcasting


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


# ---- dtypes

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


# ---- operators


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


def test_a_tensor_has_the_manners_of_an_array():
    x = Tensor([[1.5, 2.0], [3.0, 4.0]])
    assert (x.shape, x.ndim, x.dtype) == ((2, 2), 2, np.float32)
    assert repr(Tensor([1.5])) == "Tensor(array([1.5], dtype=float32))"
    assert x.reshape(4).shape == x.reshape((4,)).shape == x.reshape(-1).shape == (4,)
    assert_array_equal((-x).transpose().data, -x.data.T)
    assert_array_equal(x.transpose(1, 0).data, x.data.T)


def rows(xs) -> list:
    """Tensors or arrays as nested lists."""
    return [x.data.tolist() if isinstance(x, Tensor) else x.tolist() for x in xs]


# What Python's protocols do with a tensor: the same as with its array, value or error. A NumPy array is the reference.
VALUES = {
    "one element": np.array([[2.5]]),
    "0-d": np.array(2.5),
    "0": np.array([0.0]),
    "integer": np.array(2),
    "integers": np.array([3, 1, 1]),
    "booleans": np.array([True, False]),
    "matrix": np.array([[1.5, -2.0, 0.0], [3.0, 4.0, 2.0]]),
    "empty": np.zeros((0, 3)),
    "complex": np.array(1 + 2j),
    "NaN": np.array(np.nan),
}
PROTOCOLS = {
    "bool": bool,
    "not": operator.not_,
    "len": len,
    "int": int,
    "float": float,
    "complex": complex,
    "operator.index": operator.index,
    "range": range,
    "an index of a list": lambda x: [5, 6, 7][x],
    "item": lambda x: x.item(),
    "format": lambda x: f"{x:.2f}",
    "iter": lambda x: rows(iter(x)),
    "unpacking": lambda x: rows([*x]),
    "reversed": lambda x: rows(reversed(x)),
    "in": lambda x: 2.0 in x,
    "not in": lambda x: 7.0 in x,
    "T": lambda x: x.T,
    "<": lambda x: x < 2.0,
    "<=": lambda x: x <= 2.0,
    ">": lambda x: x > 2.0,
    ">=": lambda x: x >= 2.0,
    "==": lambda x: x == 2.0,
    "!=": lambda x: x != 2.0,
    "reflected <": lambda x: 2.0 < x,  # noqa: SIM300
    "array ==": lambda x: np.full(np.shape(x), 2.0) == x,
    "== itself": lambda x: x == x,
    "np.asarray": np.asarray,
    "np.array of a dtype": lambda x: np.array(x, np.complex64),
    "np.shape": np.shape,
    "np.ndim": np.ndim,
    "np.transpose": np.transpose,
}


def outcome(f, x):
    """What f returns for x, as an array, or the type of its error."""
    try:
        y = f(x)
    except Exception as error:
        return type(error)
    return y.data if isinstance(y, Tensor) else y


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # NumPy's, of float(np.array([2.5]))
def test_protocols_do_what_they_do_for_an_array(protocol, value):
    f, array = PROTOCOLS[protocol], VALUES[value]
    wanted, found = outcome(f, array), outcome(f, Tensor(array, requires_grad=False))
    if isinstance(wanted, np.ndarray | np.generic):
        assert isinstance(found, np.ndarray)
        assert found.dtype == wanted.dtype
        assert_array_equal(found, wanted)
    else:
        assert type(found) is type(wanted)
        assert str(found) == str(wanted)  # NaN is not equal to itself


LOSES_A_GRADIENT = {
    "np.asarray": np.asarray,
    "np.array": np.array,
    "np.stack": lambda x: np.stack([x, x]),
    "np.concatenate": lambda x: np.concatenate([x, x]),
    "assignment to an array": lambda x: np.zeros((2, 3)).__setitem__(..., x),
    "np.exp": np.exp,
    "np.sum": np.sum,
    "np.maximum": lambda x: np.maximum(x, 0),
    "a list of tensors": lambda x: Tensor([x, x]),
    "a nested list of tensors": lambda x: Tensor([[x], (x, 2.0)]),
    "a list as an operand": lambda x: x * [x, x],
    "an array of objects": lambda x: Tensor(np.array([None, x], object)),
    "copy.copy": lambda x: copy.copy(x * 2),
    "copy.deepcopy": lambda x: copy.deepcopy([x * 2]),
    "pickle": lambda x: pickle.dumps(x * 2),
    "a float of a matrix": float,
    "item assignment": lambda x: operator.setitem(x, 0, 1.0),
}


@pytest.mark.parametrize("name", LOSES_A_GRADIENT)
def test_a_gradient_is_never_lost_in_silence(name):
    with pytest.raises(TypeError):
        LOSES_A_GRADIENT[name](Tensor(np.array([[1.5, -2.0, 0.0], [3.0, 4.0, 2.0]])))


def test_errors_name_the_way_that_keeps_the_gradient():
    x = Tensor(normal(3))
    with pytest.raises(TypeError, match=r"\.data.*\.detach\(\)"):
        np.asarray(x)
    with pytest.raises(TypeError, match=r"ops\.stack"):
        Tensor([x, x])
    with pytest.raises(TypeError, match=r"detach\(\)"):
        copy.deepcopy(2 * x)


@pytest.mark.parametrize("data", ["text", ["a", "b"], None, np.array(["2020-01-01"], "datetime64[D]"), [{1}]], ids=repr)
def test_a_tensor_holds_numbers(data):
    with pytest.raises(TypeError, match="a tensor must hold numbers, got an array of"):
        Tensor(data)


@pytest.mark.parametrize("kind", [Tensor, Parameter])
def test_a_tensor_of_a_tensor_is_a_leaf_with_its_array(kind):
    x = Tensor(normal(3))
    y = kind(kind(2 * x))
    (y * y).sum().backward()
    assert_array_equal(y.data, 2 * x.data)
    assert_allclose(y.grad, 2 * y.data)
    assert x.grad is None


def test_a_leaf_can_be_copied_and_pickled():
    x = Tensor(normal(3))
    for y in (copy.copy(x), copy.deepcopy(x), pickle.loads(pickle.dumps(x))):
        (y * y).sum().backward()
        assert_allclose(y.grad, 2 * x.data)
    assert x.grad is None


def test_tensors_are_keys_by_identity():
    x, same = Tensor([1.0]), Tensor([1.0])
    assert len({x: 1, same: 2}) == 2


# ---- constants of computed tensors, and arrays that have changed


def test_detach_cuts_the_graph_and_shares_the_array():
    x = Tensor(normal(3))
    y = x * x
    constant = y.detach()
    (constant * x).sum().backward()
    assert constant.data is y.data
    assert not constant.requires_grad
    assert_allclose(x.grad, y.data)


def step(x: Parameter) -> None:
    x.grad = np.ones_like(x.data)
    SGD([x], learning_rate=0.1).step()


class Holder(Module):
    def __init__(self, x: Parameter):
        self.x = x


CHANGES = {
    "step": step,
    "clipped step": lambda x: (setattr(x, "grad", x.data), Adam([x], 0.1, clip=1.0).step()),
    "load_state_dict": lambda x: Holder(x).load_state_dict({"x": 2 * x.data}),
    "weight_noise": lambda x: weight_noise(Holder(x), 0.1, np.random.default_rng(1)).__enter__(),
    "the end of weight_noise": lambda x: exhausted(weight_noise(Holder(x), 0.1, np.random.default_rng(1))),
    "a step of another parameter of the same array": lambda x: step(Parameter(x)),
}


def exhausted(context) -> None:
    with context:
        pass


W = normal(3, 3)
USES = {  # of a parameter (3, 3) and another leaf
    "x * x": lambda x, y: x * x * y,
    "x @ y": lambda x, y: x @ y,
    "y / x": lambda x, y: y / x,
    "a view": lambda x, y: x[:2].T.reshape(2, 3) @ y,
    "a constant": lambda x, y: x.detach() * y,
    "a view of a constant": lambda x, y: x.detach().T[1] * y,
    "lstm": lambda x, y: lstm(
        Tensor(normal(4, 2, 3)),
        normal(3, 3),
        normal(3, 3),
        normal(12, 2),
        ops.stack([x, x, x, y]).reshape(12, 3),
        y[0, 0] * np.ones(12),
    )[0],
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("use", USES)
def test_a_gradient_from_an_array_that_has_changed_is_an_error(use, change):
    x, y = Parameter(W.copy()), Tensor(normal(3, 3))
    loss = USES[use](x, y).sum()
    loss.backward()
    CHANGES[change](x)
    with pytest.raises(RuntimeError, match=r"backward: an input of \w+ was changed in place.*detach\(\)"):
        loss.backward()


@pytest.mark.parametrize("change", CHANGES)
def test_a_graph_made_after_the_change_is_right(change):
    x = Parameter(W.copy())
    (x * x).sum().backward()
    CHANGES[change](x)
    x.grad = None
    (x * x).sum().backward()
    assert_allclose(x.grad, 2 * x.data)


def test_a_view_made_without_recording_counts_as_the_array():
    x, y = Parameter(W.copy()), Tensor(normal(3, 3))
    with no_grad():
        view = x.T[1:]
    loss = (view @ y).sum()
    step(x)
    with pytest.raises(RuntimeError, match="was changed in place"):
        loss.backward()


def test_a_step_that_is_skipped_changes_nothing():
    x = Parameter(W.copy())
    loss = (x * x).sum()
    x.grad = np.full_like(W, np.nan)
    SGD([x], learning_rate=0.1).step()
    loss.backward()
    assert_allclose(x.grad, 2 * W)


# ---- errors

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


# ---- memory


@pytest.fixture
def no_collector():
    """Reference counting alone, as between two collections of a long run."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def test_a_graph_is_freed_by_reference_counting(no_collector):
    """A cycle between a tensor and its function would keep each step's arrays until the collector happens to run."""
    x, w = Tensor(normal(4, 2)), Tensor(normal(3, 4))
    hidden = ops.tanh(w @ x)
    parts = ops.unstack(hidden)
    loss = (ops.stack([*parts]) * hidden).sum()
    loss.backward()
    everything = [weakref.ref(t) for t in (hidden, parts[0], loss, loss.creator, hidden.creator, hidden.data)]
    del hidden, parts, loss
    assert [ref() for ref in everything] == [None] * len(everything)
    assert gc.collect() == 0


def test_a_failed_backward_frees_its_graph(no_collector):
    x = Tensor(normal(3))
    y = x * x
    freed = weakref.ref(y)
    with pytest.raises(ValueError, match="needs a gradient"):
        y.backward()
    del y
    assert freed() is None


def test_the_tape_holds_only_inputs_that_need_a_gradient():
    """The product keeps the array of a constant, but nothing of how it was computed."""
    x = Tensor(normal(3))
    with no_grad():
        constant = ops.exp(x)
    y = constant * x
    assert y.creator.inputs == (None, x)
    freed = weakref.ref(constant)
    del constant
    assert freed() is None
