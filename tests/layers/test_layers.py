"""Modules: parameters in a fixed order, saved and loaded, copied and pickled; Linear and Embedding."""

from __future__ import annotations

import copy
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from minizone import SGD, Tensor, gradcheck
from minizone.autograd import ops
from minizone.layers import LSTM, Buffer, Embedding, Linear, Module, Parameter, Stack
from minizone.layers.init import glorot, orthogonal_blocks
from tests.helpers import assert_same, normal, one_hot, rng

NAMES = ["rnn.layers.0.W_x", "rnn.layers.0.W_h", "rnn.layers.0.b", "rnn.layers.0.h0", "rnn.layers.0.c0"]
NAMES += ["output.W", "output.b"]


class Model(Module):
    """Tokens to class scores."""

    def __init__(self, seed: int = 0):
        generator = rng(seed)
        self.rnn = Stack([LSTM(7, 4, rng=generator)])
        self.output = Linear(4, 7, rng=generator)

    def __call__(self, tokens: np.ndarray) -> Tensor:
        return self.output(self.rnn(tokens)[0])


TOKENS = rng().integers(7, size=(5, 3))


# ---- modules


def test_parameters_come_in_the_order_of_assignment_with_the_names_of_the_attributes():
    class Nested(Module):
        def __init__(self):
            self.zeta = Parameter([1.0])
            self.inner = Linear(2, 3, rng=rng())
            self.constant = Tensor([5.0])
            self.number, self.nothing = 7, None
            self.alpha = Parameter([2.0])

    nested = Nested()
    named = dict(nested.named_parameters())
    assert list(named) == ["zeta", "inner.W", "inner.b", "alpha"]
    assert nested.parameters() == list(named.values()) == [nested.zeta, nested.inner.W, nested.inner.b, nested.alpha]
    assert list(nested.state_dict()) == list(named)


def test_parameters_in_lists_tuples_and_dicts_are_found():
    one, two, three, four, five = (Parameter([float(k)]) for k in range(5))

    class Nested(Module):
        def __init__(self):
            self.tuple = (one, 7)
            self.dict = {"a": two, "list": [[three], [], "text"]}
            self.modules = ({"linear": Linear(2, 3, rng=rng())},)
            self.buffers = [Buffer(np.zeros(2))]
            self.pair = [four, five]
            self.set_of_names = {"a", "b"}

    nested = Nested()
    names = ["tuple.0", "dict.a", "dict.list.0.0", "modules.0.linear.W", "modules.0.linear.b", "pair.0", "pair.1"]
    assert list(dict(nested.named_parameters())) == names
    assert list(nested.state_dict()) == [*names[:5], "buffers.0", *names[5:]]
    other = Nested()
    other.load_state_dict({name: array + 1 for name, array in nested.state_dict().items()})
    assert_array_equal(other.modules[0]["linear"].W.data, nested.modules[0]["linear"].W.data + 1)


@pytest.mark.parametrize("content", [Parameter([1.0]), Linear(2, 3, rng=rng())], ids=["parameter", "module"])
def test_a_set_of_parameters_is_refused_as_it_has_no_order(content):
    class Unordered(Module):
        def __init__(self):
            self.layers = [{content}]

    with pytest.raises(TypeError, match=r"layers\.0 is a set, which has no order"):
        Unordered().parameters()


class Tied(Module):
    """Scores from the embeddings themselves: Press and Wolf (2017)."""

    def __init__(self):
        self.embedding = Embedding(7, 4, rng=rng())
        self.W = self.embedding.W
        self.again = [self.embedding, self]

    def __call__(self, tokens: np.ndarray) -> Tensor:
        return self.W.T @ ops.tanh(self.embedding(tokens))


def test_tied_weights_count_once_and_are_updated_once():
    tied = Tied()
    assert [name for name, _ in tied.named_parameters()] == ["embedding.W"]
    assert list(tied.state_dict()) == ["embedding.W"]
    before = tied.W.data.copy()
    ops.softmax_cross_entropy(tied(TOKENS), TOKENS).backward()
    gradient = tied.W.grad
    SGD(tied.parameters(), 0.5).step()
    assert tied.W.data is tied.embedding.W.data
    assert_array_equal(tied.W.data, before - np.float32(0.5) * gradient)
    assert len(copy.deepcopy(tied).parameters()) == len(pickle.loads(pickle.dumps(tied)).parameters()) == 1


def test_the_gradient_of_tied_embeddings_is_the_sum_of_both_uses():
    tied = Tied()

    def loss(W):
        tied.W = tied.embedding.W = W
        return ops.softmax_cross_entropy(tied(TOKENS), TOKENS)

    gradcheck(loss, normal(4, 7))


def test_an_optimizer_refuses_two_parameters_of_one_array():
    """`self.W = Parameter(embedding.W)` would be updated twice a step, with averages that know half of its gradient."""
    one = Parameter(np.ones(3))
    with pytest.raises(ValueError, match="two parameters share one array"):
        SGD([one, Parameter(one)], 0.1)


def test_a_parameter_of_integers_is_refused():
    with pytest.raises(ValueError, match=r"a tensor of int64 cannot have a gradient; give it a floating dtype"):
        Parameter(np.arange(3))


@pytest.mark.parametrize("hash_seed", ["0", "4242"])
def test_order_of_parameters_is_the_same_in_every_process(hash_seed):
    """DeZero keeps them in a set: its optimizer states cannot be saved. And layer 10 does not come before layer 2."""
    code = (
        "import numpy as np; from minizone.layers import *; rng = np.random.default_rng(0)\n"
        "layers = [BNLSTM(2, 2, steps=1, rng=rng), *(GRU(2, 2, rng=rng) for _ in range(10)), LSTM(2, 2, rng=rng)]\n"
        "print(*(name for name, _ in Stack(layers).named_tensors()))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    bn_lstm = ["W_x", "W_h", "b", "h0", "c0", "gamma_x", "gamma_h", "gamma_c", "beta_c", "mean", "variance"]
    layers = [bn_lstm, *[["W_x", "W_h", "b", "h0"]] * 10, ["W_x", "W_h", "b", "h0", "c0"]]
    assert printed == [f"layers.{k}.{name}" for k, names in enumerate(layers) for name in names]


def test_state_dict_is_loaded_by_another_model_which_then_computes_the_same():
    model, other = Model(0), Model(1)
    assert list(model.state_dict()) == NAMES
    assert not np.array_equal(model(TOKENS).data, other(TOKENS).data)
    other.load_state_dict(model.state_dict())
    assert np.array_equal(model(TOKENS).data, other(TOKENS).data)
    pairs = zip(model.state_dict().values(), other.state_dict().values(), strict=True)
    assert not any(np.shares_memory(a, b) for a, b in pairs)


def test_loading_keeps_the_dtype_and_an_optimizer_made_before_goes_on_from_what_was_loaded():
    model = Model()
    optimizer = SGD(model.parameters(), 0.5)
    model.load_state_dict({name: np.full(array.shape, 0.25) for name, array in model.state_dict().items()})
    assert {p.dtype for p in model.parameters()} == {np.dtype(np.float32)}
    for parameter in model.parameters():
        parameter.grad = np.ones_like(parameter.data)
    optimizer.step()
    assert all((array == -0.25).all() for array in model.state_dict().values())


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copy_of_a_model_computes_the_same_and_has_arrays_of_its_own(duplicate):
    model = Model()
    twin = duplicate(model)
    expected = model(TOKENS).data
    assert np.array_equal(twin(TOKENS).data, expected)
    for parameter in twin.parameters():
        parameter.data[...] = 0
    assert np.array_equal(model(TOKENS).data, expected) and not twin(TOKENS).data.any()


def without(arrays: dict, name: str) -> dict:
    return {key: array for key, array in arrays.items() if key != name}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda a: without(a, "rnn.layers.0.h0"), r"missing \['rnn.layers.0.h0'\], unexpected \[\]"),
        (lambda a: without(a, "output.b") | {"bias": np.zeros(7)}, r"missing \['output.b'\], unexpected \['bias'\]"),
        (lambda a: a | {"output.b": np.zeros(8)}, r"output.b has shape \(7,\), got \(8,\)"),
        (lambda a: a | {"output.b": np.zeros(1)}, r"output.b has shape \(7,\), got \(1,\)"),
    ],
)
def test_loading_what_does_not_fit_is_refused_and_changes_nothing(change, sentence):
    model = Model()
    before = {name: array.copy() for name, array in model.state_dict().items()}
    with pytest.raises(ValueError, match="load_state_dict: " + sentence):
        model.load_state_dict(change({name: array + 1 for name, array in before.items()}))
    assert_same(model.state_dict(), before, 0.0)


def test_buffer_is_saved_and_not_learned():
    class Counter(Module):
        def __init__(self):
            self.count, self.linear = Buffer(np.zeros(2)), Linear(1, 1, rng=rng())

    made, other = Counter(), Counter()
    made.count.data[:] = 7
    assert list(made.state_dict()) == ["count", "linear.W", "linear.b"] and len(made.parameters()) == 2
    other.load_state_dict(made.state_dict())
    assert (other.count.data == 7).all() and not other.count.requires_grad


# ---- Linear


@pytest.mark.parametrize("shape", [(5, 3, 2), (3, 2)], ids=["(T, D, B)", "(D, B)"])
def test_linear_is_W_x_plus_b_in_every_column(shape):
    made = Linear(3, 4, rng=rng(), dtype=np.float64)
    x, W, b = rng(1).standard_normal(shape), rng(2).standard_normal((4, 3)), rng(3).standard_normal(4)

    def linear(x, W, b):
        made.W, made.b = W, b
        return made(x)

    y = linear(Tensor(x), Tensor(W), Tensor(b)).data
    assert y.shape == (*shape[:-2], 4, 2)
    np.testing.assert_allclose(y, np.einsum("vd,...db->...vb", W, x) + b[:, None], rtol=1e-14, atol=1e-14)
    gradcheck(linear, x, W, b, names=["x", "W", "b"])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_linear_starts_with_bias_zero_and_the_weights_of_its_initializer(dtype):
    made = Linear(3, 4, initializer=glorot, rng=rng(), dtype=dtype)
    assert np.array_equal(made.W.data, glorot(rng(), (4, 3), dtype))
    assert np.array_equal(made.b.data, np.zeros(4))
    assert made.W.dtype == made.b.dtype == made(np.ones((3, 2), dtype)).dtype == dtype
    assert np.array_equal(Linear(3, 4, rng=rng()).W.data, orthogonal_blocks(rng(), (4, 3)))


@pytest.mark.parametrize("shape", [(3,), (), (4, 2), (3, 2, 5, 1), (5, 3, 2, 1), (1, 5, 3, 2), (2, 4, 3)])
def test_linear_refuses_another_shape(shape):
    """A vector (3,) was once broadcast with the bias."""
    sentence = f"x must be (T, 3, B) or (3, B) for W (2, 3), got {shape}"
    with pytest.raises(ValueError, match=re.escape(sentence)):
        Linear(3, 2, rng=rng())(Tensor(np.ones(shape)))


# ---- Embedding


@pytest.mark.parametrize("tokens", [[[0, 2], [1, 4]], [[3, 3], [3, 3], [0, 3]], [[4]]], ids=["all", "repeated", "one"])
def test_embedding_is_the_product_with_one_hot_columns_forward_and_backward(tokens):
    tokens, made = np.array(tokens), Embedding(5, 3, rng=rng(), dtype=np.float64)
    W = normal(3, 5)
    made.W = Tensor(W)
    weights = Tensor(W)
    x, expected = made(tokens), weights @ Tensor(one_hot(tokens, 5), requires_grad=False)
    for y in (x, expected):
        y.backward(normal(*x.shape))
    assert_same({"x": x.data, "dW": made.W.grad}, {"x": expected.data, "dW": weights.grad}, 1e-14)


@pytest.mark.parametrize("token", [-1, 5, 99])
def test_embedding_refuses_a_token_outside_its_vocabulary(token):
    with pytest.raises(IndexError, match=rf"tokens must be in \[0, 5\), got {min(token, 2)} to {max(token, 2)}"):
        Embedding(5, 3, rng=rng())(np.array([[2, token]]))


@pytest.mark.parametrize("tokens", [[0, 1], 1, [[[0]]], [[0.0, 1.0]], [[True, False]]])
def test_embedding_says_that_it_wants_integers_with_two_axes(tokens):
    """Booleans were once taken as tokens 0 and 1."""
    tokens = np.array(tokens)
    sentence = f"tokens must be integers (T, B), got {tokens.shape} of {tokens.dtype}"
    with pytest.raises(ValueError, match=re.escape(sentence)):
        Embedding(5, 3, rng=rng())(tokens)
