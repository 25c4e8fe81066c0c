"""The tape: what it records, the order in which it is read backwards, what it refuses to read, how it is freed."""

from __future__ import annotations

import gc
import threading
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from minizone.autograd import ops
from minizone.autograd.tensor import Function, Tensor, no_grad
from tests.helpers import SEVERAL, normal

LONG = 20_000


class Total(Function):
    """The sum of its inputs, which tells ``visited`` when its turn comes in a backward pass, and with what."""

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


# ---- order ----------------------------------------------------------------------------------------------------------


def test_a_chain_of_20000_functions_goes_backward_and_is_freed():
    """Recursion ends at 1,000 calls, in the backward pass as well as in the destructor of a chain of objects."""
    x = Tensor(np.array(1.0))
    y = x
    for _ in range(LONG):
        y = y * 1.0001
    first = weakref.ref(y.creator.inputs[0])
    y.backward()
    assert x.grad == pytest.approx(1.0001**LONG)
    del y
    assert first() is None


def test_a_ladder_of_diamonds_is_walked_once_and_not_once_for_each_path():
    """2^14 paths lead through 14 diamonds; through the residual connections of a deep network, too many to walk."""
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


def test_a_function_meets_the_sum_of_the_gradients_of_all_its_users():
    visited = []
    x = Tensor(normal(3))
    y = Total(visited)(x)
    ((2 * y).sum() + (y * y).sum() + (y + y).sum()).backward()
    (function,) = visited
    assert_allclose(function.gy, 2 + 2 * x.data + 2)


def test_functions_that_the_loss_does_not_depend_on_are_not_visited():
    visited = []
    x = Tensor(normal(3))
    y = Total(visited)(x)
    Total(visited)(y, y)
    y.backward(np.ones(3))
    assert visited == [y.creator]


# ---- several outputs ------------------------------------------------------------------------------------------------


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


# ---- what is recorded -----------------------------------------------------------------------------------------------


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


def test_what_no_grad_computed_is_a_constant_afterwards():
    x = Tensor(normal(3))
    with no_grad():
        y = x * x
    (y * x).sum().backward()
    assert_allclose(x.grad, y.data)
    assert y.grad is None


def test_a_function_is_told_which_inputs_need_a_gradient():
    x, frozen, integers = Tensor(normal(3)), Tensor(normal(3), requires_grad=False), Tensor([1, 2, 3])
    function = Total([])
    y = function(x, frozen, normal(3), 2.0, integers)
    assert function.needs == (True, False, False, False, False)
    y.backward(np.ones(3))
    assert_array_equal(x.grad, np.ones(3))
    assert frozen.grad is None
    assert integers.grad is None


def test_constants_only_are_not_recorded():
    frozen = Tensor(normal(3), requires_grad=False)
    assert (frozen * 2.0 + normal(3)).creator is None


def test_integers_have_no_gradient():
    tokens = Tensor(np.array([1, 2]))
    assert not tokens.requires_grad
    assert not (tokens * tokens).requires_grad
    with pytest.raises(ValueError, match=r"a tensor of int64 cannot have a gradient; give it a floating dtype"):
        Tensor(np.array([1, 2]), requires_grad=True)


# ---- where it starts ------------------------------------------------------------------------------------------------


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


def test_backward_wants_something_recorded():
    x = Tensor(np.array(2.0))
    with no_grad():
        silent = x * x
    for constant in (silent, Tensor(2), Tensor(2.0, requires_grad=False), Tensor(2.0, requires_grad=False) * 3):
        with pytest.raises(ValueError, match="backward: this tensor was computed without a gradient"):
            constant.backward()


def test_a_backward_that_returns_too_few_gradients_is_an_error():
    class Forgetful(Total):
        def backward(self, gy):
            return (gy,)

    x = Tensor(normal(3))
    with pytest.raises(ValueError, match="shorter"):
        Forgetful([])(x, x).backward(np.ones(3))


# ---- memory ---------------------------------------------------------------------------------------------------------


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
