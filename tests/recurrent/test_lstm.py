"""`minizone.lstm` against its readable reference, complex steps, PyTorch's numbers, and the shapes it must refuse."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from minizone import Tensor, gradcheck, lstm, no_grad
from minizone.optim import Adam
from minizone.recurrent.cells import lstm_unrolled
from tests.helpers import (
    FLOATS,
    KINDS,
    LOSSES,
    ROUNDING,
    D,
    H,
    assert_same,
    dense_and_tokens,
    lstm_by_hand,
    masks,
    one_hot,
    problem,
    run,
    tensors,
)

every_kind = pytest.mark.parametrize("kind", KINDS)
with_and_without_input_mask = pytest.mark.parametrize("inputs", [False, True], ids=["", "input mask"])


# ---- the same as the reference


@every_kind
@with_and_without_input_mask
@dense_and_tokens
@pytest.mark.parametrize("B", [1, 3])
@pytest.mark.parametrize("T", [1, 2, 7])
def test_fused_equals_reference(T, B, tokens, inputs, kind):
    arguments, options = problem(T, B, tokens=tokens), masks(kind, T, H, B, inputs=inputs)
    for loss in LOSSES:
        assert_same(run(lstm, arguments, options, loss), run(lstm_unrolled, arguments, options, loss), ROUNDING)


@every_kind
@with_and_without_input_mask
@dense_and_tokens
@pytest.mark.parametrize(("T", "B"), [(1, 1), (2, 3), (7, 1), (7, 3)])
def test_gradient_of_fused_equals_complex_step_along_random_directions(T, B, tokens, inputs, kind):
    arguments, options = problem(T, B, tokens=tokens), masks(kind, T, H, B, inputs=inputs)
    gradcheck(lambda *a: lstm(*a, **options), *arguments.values(), names=list(arguments), directions=2)


@pytest.mark.parametrize("kind", ["no mask", "independent", "gaussian", "evaluation"])
@dense_and_tokens
def test_gradient_of_fused_equals_complex_step_in_every_element(tokens, kind):
    arguments, options = problem(4, 3, tokens=tokens), masks(kind, 4, H, 3, inputs=True)
    gradcheck(lambda *a: lstm(*a, **options), *arguments.values(), names=list(arguments))


@every_kind
@pytest.mark.parametrize("function", [lstm, lstm_unrolled])
def test_outputs_are_the_equations_of_the_paper(function, kind):
    arguments, options = problem(3, 2), masks(kind, 3, H, 2, inputs=True)
    expected = lstm_by_hand(**arguments, **{name: mask for name, mask in options.items() if mask is not None})
    h, c = function(**tensors(arguments), **options)
    assert_same({"h": h.data, "c": c.data}, {"h": expected["h"], "c": expected["c"]}, 1e-14)


@pytest.mark.parametrize("case", ["long", "single", "zoneout"])
def test_outputs_and_gradients_equal_those_of_torch(case):
    with np.load(Path(__file__).parents[1] / "fixtures" / "torch_lstm.npz") as file:
        frozen = dict(file)
    own = {name.removeprefix(f"{case}/"): array for name, array in frozen.items() if name.startswith(f"{case}/")}
    weights = {"W_x": frozen["W_x"], "W_h": frozen["W_h"], "b": frozen["b_ih"] + frozen["b_hh"]}
    leaves = tensors({name: own[name] for name in ("x", "h0", "c0")} | weights)
    h, c = lstm(**leaves, keep_h=own.get("keep_h"), keep_c=own.get("keep_c"))
    ((h * own["weight_h"]).sum() + (c[-1] * own["weight_c"]).sum()).backward()
    actual = {"h": h.data, "c_last": c[-1].data} | {f"d{name}": leaf.grad for name, leaf in leaves.items()}
    assert_same(actual, {name: own[name] for name in actual}, 1e-5)


# ---- tokens


@every_kind
def test_tokens_equal_their_one_hot_columns(kind):
    arguments, options = problem(7, 3, tokens=True), masks(kind, 7, H, 3, inputs=True)
    dense = run(lstm, arguments | {"x": one_hot(arguments["x"], D)}, options)
    del dense["dx"]
    assert_same(run(lstm, arguments, options), dense, ROUNDING)


@pytest.mark.parametrize("alphabet", [1, 2, 255, 256, 257, 1000])
def test_large_and_small_alphabets_equal_one_hot_columns(alphabet):
    """A short text leaves most symbols of a large alphabet out, and repeats others."""
    arguments, options = problem(9, 4, D=alphabet, tokens=True), masks("independent", 9, H, 4)
    arguments["x"][:, 0] = alphabet - 1
    arguments["x"][3] = 0
    dense = run(lstm, arguments | {"x": one_hot(arguments["x"], alphabet)}, options)
    del dense["dx"]
    actual = run(lstm, arguments, options)
    assert_same(actual, dense, ROUNDING)
    absent = np.setdiff1d(np.arange(alphabet), arguments["x"])
    assert not actual["dW_x"][:, absent].any()


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int32, np.int64, np.uint64])
@pytest.mark.parametrize("wrap", [np.asarray, Tensor])
def test_tokens_of_any_integer_type_give_the_same(dtype, wrap):
    arguments = problem(7, 3, tokens=True)
    expected = run(lstm, arguments, {})
    x = wrap(arguments.pop("x").astype(dtype))
    assert_same(run(lambda **a: lstm(x, **a), arguments, {}), expected, 0.0)


@pytest.mark.parametrize("alphabet", [100, 300])
def test_uint8_tokens_index_an_alphabet_of_any_size(alphabet):
    arguments = problem(7, 3, D=alphabet, tokens=True)
    arguments["x"] %= 256
    small = arguments | {"x": arguments["x"].astype(np.uint8)}
    assert_same(run(lstm, small, {}), run(lstm, arguments, {}), 0.0)


# ---- the graph around it


@dense_and_tokens
def test_second_backward_on_the_same_graph_doubles_the_gradients(tokens):
    leaves = tensors(problem(7, 3, tokens=tokens))
    h, c = lstm(**leaves, **masks("independent", 7, H, 3, inputs=True))
    loss = (h * h).sum() + c.sum()
    loss.backward()
    once = {name: leaf.grad for name, leaf in leaves.items() if isinstance(leaf, Tensor)}
    loss.backward()
    assert_same({name: leaves[name].grad for name in once}, {name: 2 * g for name, g in once.items()}, 1e-13)
    loss.backward()
    assert_same({name: leaves[name].grad for name in once}, {name: 3 * g for name, g in once.items()}, 1e-13)


def test_backward_from_c_after_backward_from_h_adds_up_to_both():
    arguments, options = problem(7, 3), masks("independent", 7, H, 3, inputs=True)
    weights = np.random.default_rng(99).standard_normal((2, 7, H, 3))  # those of `run`
    leaves = tensors(arguments)
    h, c = lstm(**leaves, **options)
    LOSSES["h"](h, c, weights).backward()
    LOSSES["c"](h, c, weights).backward()
    together = run(lstm_unrolled, arguments, options)
    assert_same(
        {f"d{n}": leaf.grad for n, leaf in leaves.items()}, {f"d{n}": together[f"d{n}"] for n in leaves}, ROUNDING
    )


@pytest.mark.parametrize("function", [lstm, lstm_unrolled])
def test_gradients_flow_through_what_surrounds_the_sequence(function):
    """Two layers, both states of the first the initial states of the second, and weights shared by both."""
    arguments = problem(3, 2, D=H)

    def two_layers(x, h0, c0, W_x, W_h, b):
        h, c = function(x * 2, h0, c0, W_x, W_h, b, keep_c=0.25)
        return function(h + x, h[-1], c[-1], W_x, W_h * 0.5, b, keep_h=0.25)

    gradcheck(two_layers, *arguments.values(), names=list(arguments))


@pytest.mark.parametrize("function", [lstm, lstm_unrolled])
@dense_and_tokens
def test_gradients_are_computed_only_where_they_are_needed(function, tokens):
    arguments, options = problem(3, 2, tokens=tokens), masks("independent", 3, H, 2, inputs=True)
    full = run(lstm, arguments, options)
    learned = [name for name in arguments if name in FLOATS or not tokens]
    for wanted in [{name} for name in learned] + [set(learned) - {name} for name in learned]:
        rest = {name: array for name, array in arguments.items() if name not in wanted}
        constants = {n: Tensor(v, requires_grad=False) if n == "b" else v for n, v in rest.items()}
        given = {name: arguments[name] for name in arguments if name in wanted}
        results = run(lambda constants=constants, **a: function(**a, **constants), given, options)
        assert_same(results, {name: full[name] for name in ("h", "c", *(f"d{n}" for n in given))}, ROUNDING)
        assert not any(isinstance(v, Tensor) and v.grad is not None for v in constants.values())


@pytest.mark.parametrize("constants", ["no_grad", "arrays"])
def test_nothing_is_recorded_without_a_gradient_to_compute(constants):
    arguments = problem(7, 3)
    expected = run(lstm, arguments, {})
    if constants == "arrays":
        h, c = lstm(**arguments)
    else:
        with no_grad():
            h, c = lstm(**tensors(arguments))
    assert not h.requires_grad and not c.requires_grad and h.creator is None and c.creator is None
    assert_same({"h": h.data, "c": c.data}, {"h": expected["h"], "c": expected["c"]}, 0.0)
    with pytest.raises(ValueError, match="without a gradient"):
        h.sum().backward()


def test_two_updates_in_a_row_equal_those_of_the_reference():
    """The second sequence starts where the first one ended, and the weights are no longer the first ones."""
    learned = {}
    for function in (lstm, lstm_unrolled):
        arguments = problem(5, 3)
        weights = tensors({name: arguments[name] for name in ("W_x", "W_h", "b")})
        optimizer = Adam(list(weights.values()), 0.1)
        state = arguments["h0"], arguments["c0"]
        for update in range(2):
            x = problem(5, 3, seed=update)["x"]
            h, c = function(x, *state, **weights, **masks("independent", 5, H, 3))
            ((h - 1) * (h - 1)).sum().backward()
            optimizer.step()
            state = h.data[-1], c.data[-1]
        learned[function] = {name: tensor.data for name, tensor in weights.items()} | {"h": h.data}
    assert_same(learned[lstm], learned[lstm_unrolled], ROUNDING)
    assert np.abs(learned[lstm]["W_x"] - problem(5, 3)["W_x"]).max() > 0.1  # two steps of the learning rate


# ---- dtypes


@dense_and_tokens
@pytest.mark.parametrize("mask_dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["no mask", "evaluation", "independent", "boolean", "gaussian", "shape ()"])
def test_float32_in_is_float32_out(kind, mask_dtype, tokens):
    arguments = problem(7, 3, tokens=tokens, dtype=np.float32)
    options = masks(kind, 7, H, 3, inputs=True, dtype=mask_dtype)
    results = run(lstm, arguments, options)
    assert {array.dtype for array in results.values()} == {np.dtype(np.float32)}
    exact = run(
        lstm, {n: v.astype(np.float64) if n in FLOATS or not tokens else v for n, v in arguments.items()}, options
    )
    assert_same({name: array.astype(np.float64) for name, array in results.items()}, exact, 3e-6)


@dense_and_tokens
@pytest.mark.parametrize("wide", FLOATS)
def test_one_wider_argument_makes_the_results_wider(wide, tokens):
    """A float64 state for a float32 layer, say; a complex step in one argument is the same."""
    arguments = problem(7, 3, tokens=tokens, dtype=np.float32)
    options = {name: mask for name, mask in masks("independent", 7, H, 3).items() if mask is not None}
    arguments[wide] = arguments[wide].astype(np.float64)
    h, c = lstm(**arguments, **options)
    expected = lstm_by_hand(**arguments | {"x": one_hot(arguments["x"], D) if tokens else arguments["x"]}, **options)
    assert_same({"h": h.data, "c": c.data}, {"h": expected["h"], "c": expected["c"]}, 1e-5)


# ---- errors are sentences


@pytest.mark.parametrize(
    ("name", "shape", "sentence"),
    [
        ("x", (7, D + 1, 3), "x must be (T, 5, B) for W_x (16, 5), or integers (T, B); got (7, 6, 3)"),
        ("x", (7, 3), "x must be (T, 5, B) for W_x (16, 5), or integers (T, B); got (7, 3)"),
        ("x", (1, 7, D, 3), "x must be (T, 5, B) for W_x (16, 5), or integers (T, B); got (1, 7, 5, 3)"),
        ("h0", (H, 2), "initial states must be (H, B) = (4, 3), got (4, 2)"),
        ("h0", (H, 1), "initial states must be (H, B) = (4, 3), got (4, 1)"),
        ("h0", (H,), "initial states must be (H, B) = (4, 3), got (4,)"),
        ("c0", (H + 1, 3), "initial states must be (H, B) = (4, 3), got (5, 3)"),
        ("W_h", (4 * H, H + 1), "W_h must be (4H, H), got (16, 5)"),
        ("W_h", (3 * H, H), "W_h must be (4H, H), got (12, 4)"),
        ("W_x", (3 * H, D), "W_x must be (16, D) and b (16,) for W_h (16, 4), got (12, 5), (16,)"),
        ("W_x", (4 * H,), "W_x must be (16, D) and b (16,) for W_h (16, 4), got (16,), (16,)"),
        ("b", (4 * H, 1), "W_x must be (16, D) and b (16,) for W_h (16, 4), got (16, 5), (16, 1)"),
        ("b", (H,), "W_x must be (16, D) and b (16,) for W_h (16, 4), got (16, 5), (4,)"),
    ],
)
def test_wrong_shape_is_named_beside_the_right_one(name, shape, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        lstm(**problem(7, 3) | {name: np.zeros(shape)})


@pytest.mark.parametrize("mask", ["keep_h", "keep_c", "input_mask"])
@pytest.mark.parametrize("shape", [(7, H, 2), (6, H, 3), (2, H, 3), (7, H + 1, 3), (H,), (7, 1), (1, 7, H, 3), (0,)])
def test_mask_that_does_not_broadcast_is_named_beside_the_shape_it_should_have(mask, shape):
    sentence = f"a mask of shape {shape} does not broadcast to (T, H, B) = (7, 4, 3)"
    with pytest.raises(ValueError, match=re.escape(sentence)):
        lstm(**problem(7, 3), **{mask: np.zeros(shape)})


@pytest.mark.parametrize(("wrong", "seen"), [(-1, "-1 to 3"), (D, "0 to 5"), (2**40, "0 to 1099511627776")])
def test_tokens_outside_the_alphabet_are_named_beside_it(wrong, seen):
    arguments = problem(2, 2, tokens=True)
    arguments["x"] = np.array([[0, 1], [3, wrong]])
    with pytest.raises(IndexError, match=re.escape(f"tokens must be in [0, 5), got {seen}")):
        lstm(**arguments)


def test_tokens_with_three_axes_are_refused():
    with pytest.raises(ValueError, match=re.escape("or integers (T, B); got (7, 5, 3)")):
        lstm(**problem(7, 3) | {"x": np.zeros((7, D, 3), np.int64)})
