"""`minizone.gru` and `minizone.rnn`: references, complex steps, loops in plain Python, zoneout, threads and time."""

from __future__ import annotations

import math
import re
import time

import numpy as np
import pytest

from minizone import Tensor, Zoneout, gradcheck, gru, lstm, no_grad, rnn
from minizone.optim import Adam
from tests.helpers import (
    CELLS,
    HIDDEN,
    KINDS,
    LOSSES_OF_H,
    ROUNDING,
    SIZES,
    ZONEOUTS,
    Cell,
    H,
    assert_same,
    dense_and_tokens,
    one_hot,
    problem,
    rng,
    run_h,
    split_columns,
    tensors,
)

every_cell = pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
every_kind = pytest.mark.parametrize("kind", KINDS)
every_hidden_mask = pytest.mark.parametrize("hidden", HIDDEN)


# ---- the same as the reference, as complex steps, as the equations


@every_cell
@every_kind
@every_hidden_mask
@dense_and_tokens
def test_fused_equals_reference(tokens, hidden, kind, cell):
    for T, B in SIZES if kind in ZONEOUTS else [(1, 1), (7, 3)]:
        arguments, options = cell.problem(T, B, tokens=tokens), cell.masks(kind, T, B, hidden)
        for loss in LOSSES_OF_H if kind in ZONEOUTS else ["h"]:
            expected = run_h(cell.reference, arguments, options, loss)
            assert_same(run_h(cell.fused, arguments, options, loss), expected, ROUNDING)


@every_cell
@every_kind
@every_hidden_mask
def test_gradient_of_fused_equals_complex_step_along_random_directions(hidden, kind, cell):
    arguments, options = cell.problem(4, 3), cell.masks(kind, 4, 3, hidden)
    gradcheck(lambda *a: cell.fused(*a, **options), *arguments.values(), names=list(arguments), directions=2)


@every_cell
@every_hidden_mask
@pytest.mark.parametrize("kind", ["no mask", "independent", "gaussian", "evaluation"])
@dense_and_tokens
def test_gradient_of_fused_equals_complex_step_in_every_element(tokens, kind, hidden, cell):
    arguments, options = cell.problem(4, 2, tokens=tokens), cell.masks(kind, 4, 2, hidden)
    gradcheck(lambda *a: cell.fused(*a, **options), *arguments.values(), names=list(arguments))


@every_cell
@every_kind
@pytest.mark.parametrize("which", ["fused", "reference"])
def test_outputs_are_the_equations(which, kind, cell):
    arguments, options = cell.problem(3, 2), cell.masks(kind, 3, 2, "hidden mask")
    expected = cell.by_hand(*arguments.values(), **{name: mask for name, mask in options.items() if mask is not None})
    assert_same({"h": getattr(cell, which)(**tensors(arguments), **options).data}, {"h": expected}, 1e-14)


def test_rectifier_is_at_work_on_both_sides_of_zero():
    h = CELLS["relu"].fused(**problem(7, 3, gates=1)).data
    assert 0 < (h == 0).sum() < h.size


@every_cell
@pytest.mark.parametrize("alphabet", [1, 256, 257])
def test_tokens_equal_their_one_hot_columns(alphabet, cell):
    """From 257 kinds on the gradient of W_x is gathered by token, apart from those of W_h and b."""
    arguments, options = cell.problem(9, 4, D=alphabet, tokens=True), cell.masks("independent", 9, 4, "hidden mask")
    dense = run_h(cell.fused, arguments | {"x": one_hot(arguments["x"], alphabet)}, options)
    del dense["dx"]
    assert_same(run_h(cell.fused, arguments, options), dense, ROUNDING)


# ---- the graph around it, dtypes


@every_cell
@dense_and_tokens
def test_second_backward_on_the_same_graph_doubles_the_gradients(tokens, cell):
    leaves = tensors(cell.problem(7, 3, tokens=tokens))
    h = cell.fused(**leaves, **cell.masks("independent", 7, 3, "hidden mask"))
    loss = (h * h).sum()
    loss.backward()
    once = {name: leaf.grad for name, leaf in leaves.items() if isinstance(leaf, Tensor)}
    for times in (2, 3):
        loss.backward()
        assert_same({n: leaves[n].grad for n in once}, {n: times * g for n, g in once.items()}, 1e-13)


@every_cell
def test_two_layers_with_shared_weights_equal_complex_step(cell):
    arguments = cell.problem(3, 2, D=H)

    def two_layers(x, h0, W_x, W_h, b):
        h = cell.fused(x * 2, h0, W_x, W_h, b, keep_h=0.25)
        return cell.fused(h + x, h[-1], W_x, W_h * 0.5, b, keep_h=0.5)

    gradcheck(two_layers, *arguments.values(), names=list(arguments))


@every_cell
def test_gradients_are_computed_only_where_they_are_needed(cell):
    arguments, options = cell.problem(3, 2), cell.masks("independent", 3, 2)
    full = run_h(cell.fused, arguments, options)
    for wanted in [{name} for name in arguments] + [set(arguments) - {name} for name in arguments]:
        constants = {name: array for name, array in arguments.items() if name not in wanted}
        given = {name: array for name, array in arguments.items() if name in wanted}
        results = run_h(lambda constants=constants, **a: cell.fused(**a, **constants), given, options)
        assert_same(results, {name: full[name] for name in ("h", *(f"d{n}" for n in given))}, ROUNDING)
    with no_grad():
        h = cell.fused(**tensors(arguments), **options)
    assert h.creator is None and not h.requires_grad and np.array_equal(h.data, full["h"])


@every_cell
def test_two_updates_in_a_row_equal_those_of_the_reference(cell):
    learned = []
    for function in (cell.fused, cell.reference):
        arguments = cell.problem(5, 3)
        weights, state = tensors({name: arguments[name] for name in ("W_x", "W_h", "b")}), arguments["h0"]
        optimizer = Adam(list(weights.values()), 0.1)
        for update in range(2):
            h = function(cell.problem(5, 3, seed=update)["x"], state, **weights, **cell.masks("independent", 5, 3))
            ((h - 1) * (h - 1)).sum().backward()
            optimizer.step()
            state = h.data[-1]
        learned.append({name: tensor.data for name, tensor in weights.items()} | {"h": h.data})
    assert_same(*learned, ROUNDING)


@every_cell
@dense_and_tokens
@every_hidden_mask
@pytest.mark.parametrize("mask_dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["no mask", "evaluation", "independent", "boolean", "gaussian", "shape ()"])
def test_float32_in_is_float32_out(kind, mask_dtype, hidden, tokens, cell):
    arguments = cell.problem(7, 3, tokens=tokens, dtype=np.float32)
    options = cell.masks(kind, 7, 3, hidden, dtype=mask_dtype)
    results = run_h(cell.fused, arguments, options)
    assert {array.dtype for array in results.values()} == {np.dtype(np.float32)}
    exact = run_h(
        cell.fused, {n: v.astype(float) if v.dtype == np.float32 else v for n, v in arguments.items()}, options
    )
    assert_same({name: array.astype(np.float64) for name, array in results.items()}, exact, 1e-5)


@every_cell
@pytest.mark.parametrize("wide", ["x", "h0", "W_x", "W_h", "b"])
@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_one_wider_argument_makes_the_results_wider(dtype, wide, cell):
    arguments = cell.problem(3, 2, dtype=np.float32)
    expected = cell.fused(**arguments, keep_h=0.5).data
    h = cell.fused(**arguments | {wide: arguments[wide].astype(dtype)}, keep_h=0.5).data
    assert h.dtype == (np.complex128 if dtype == np.complex128 else np.float64)
    assert_same({"h": h.real}, {"h": expected.astype(np.float64)}, 1e-6)


# ---- zoneout


@every_cell
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("zero", [0, 0.0, np.zeros((6, H, 3)), np.zeros((6, H, 3), bool), np.zeros(())])
def test_no_zoneout_is_the_plain_cell_bit_for_bit(zero, dtype, cell):
    arguments = cell.problem(6, 3, dtype=dtype)
    assert_same(run_h(cell.fused, arguments, {"keep_h": zero}), run_h(cell.fused, arguments, {}), 0.0)


@every_cell
@pytest.mark.parametrize("one", [1, 1.0, np.ones((2000, H, 3)), np.ones((2000, H, 3), bool)])
def test_certain_zoneout_keeps_the_state_for_ever_and_teaches_the_weights_nothing(one, cell):
    arguments = cell.problem(2000, 3, dtype=np.float32)
    results = run_h(cell.fused, arguments, {"keep_h": one}, "the last step")
    assert np.array_equal(results["h"], np.broadcast_to(arguments["h0"], results["h"].shape))
    assert not any(results[name].any() for name in ("dx", "dW_x", "dW_h", "db"))
    last = np.random.default_rng(99).standard_normal((2, 2000, H, 3))[0, -1]  # the weights of the loss
    assert np.array_equal(results["dh0"], last.astype(np.float32))


@every_cell
@pytest.mark.parametrize("kind", ["independent", "whole layer", "static"])
def test_every_element_is_exactly_its_old_or_its_new_value(kind, cell):
    arguments, options = cell.problem(6, 3), cell.masks(kind, 6, 3)
    keep = np.broadcast_to(options["keep_h"], (6, H, 3))
    h = cell.fused(**arguments, **options).data
    old = np.concatenate([arguments["h0"][None], h[:-1]])
    for t in range(6):
        rest = {name: mask[t : t + 1] for name, mask in options.items() if name == "input_mask"}
        x, _, *weights = arguments.values()
        new = cell.fused(x[t : t + 1], old[t], *weights, **rest).data[0]
        assert np.array_equal(h[t], np.where(keep[t] == 1, old[t], new))
    assert 0 < keep.sum() < keep.size


@every_cell
@pytest.mark.parametrize("gaussian", [False, True])
def test_average_of_a_training_step_over_masks_is_the_evaluation_step(gaussian, cell):
    """Within 5 standard errors; one draw deviates by |old - new| sqrt(z (1 - z)). And evaluation draws nothing."""
    draws, z = 40_000, Zoneout(states=0.3, gaussian=gaussian)
    one = cell.problem(1, 1)
    many = one | {"x": np.repeat(one["x"], draws, axis=-1), "h0": np.repeat(one["h0"], draws, axis=-1)}
    mean = cell.fused(**many, keep_h=z.masks(1, H, draws, rng(), None, np.float64)[0]).data[0].mean(axis=1)
    evaluation = cell.fused(**one, keep_h=z.masks(1, H, 1, None)[0]).data[0, :, 0]
    new = cell.fused(**one).data[0, :, 0]
    bound = 5 * np.abs(one["h0"][:, 0] - new) * math.sqrt(0.3 * 0.7 / draws)
    assert (np.abs(mean - evaluation) <= bound).all() and bound.max() > 1e-3
    assert_same({"h": evaluation}, {"h": 0.3 * one["h0"][:, 0] + 0.7 * new}, 1e-14)
    again = cell.fused(**one, keep_h=z.masks(1, H, 1, None)[0]).data[0, :, 0]
    assert np.array_equal(again, evaluation)


# ---- how it is executed


@every_cell
@pytest.mark.parametrize("kind", ["no mask", "independent", "static", "shape (1,B)", "evaluation"])
@every_hidden_mask
@pytest.mark.parametrize(("B", "cores", "tokens"), [(17, 2, True), (33, 3, False)])
def test_columns_split_over_threads_equal_unsplit_and_reference(monkeypatch, B, cores, tokens, hidden, kind, cell):
    arguments, options = cell.problem(3, B, tokens=tokens), cell.masks(kind, 3, B, hidden)
    whole = run_h(cell.fused, arguments, options)
    split_columns(monkeypatch, cores, B)
    split = run_h(cell.fused, arguments, options)
    assert_same(split, whole, 1e-13)
    assert_same(split, run_h(cell.reference, arguments, options), ROUNDING)


@every_cell
@dense_and_tokens
@pytest.mark.parametrize(("units", "features", "B", "cores"), [(128, 160, 33, 1), (128, 160, 33, 2), (100, 300, 50, 3)])
def test_wide_layers_equal_the_reference(monkeypatch, units, features, B, cores, tokens, cell):
    """Products beyond 10^6 multiplications, where rows are taken in blocks; blocks of columns of different widths."""
    arguments = cell.problem(2, B, D=features, H=units, tokens=tokens)
    options = cell.masks("independent", 2, B, "constant hidden mask", units)
    if cores > 1:
        split_columns(monkeypatch, cores, B)
    assert_same(run_h(cell.fused, arguments, options), run_h(cell.reference, arguments, options), ROUNDING)


@every_cell
@pytest.mark.parametrize("features", [1, H, 3 * H])
def test_arguments_are_neither_used_as_scratch_nor_bound_to_a_layout(features, cell):
    arguments, options = cell.problem(7, 3, D=features), cell.masks("independent", 7, 3, "hidden mask")
    expected = run_h(cell.reference, arguments, options)
    for change in (np.asfortranarray, lambda a: np.ascontiguousarray(a[::-1])[::-1], lambda a: a):
        given, mask = ({n: change(v) for n, v in arrays.items()} for arrays in (arguments, options))
        for array in (*given.values(), *mask.values()):
            array.flags.writeable = False
        assert_same(run_h(cell.fused, given, mask), expected, ROUNDING)
        assert_same(run_h(cell.fused, given, {n: Tensor(v) for n, v in mask.items()}), expected, ROUNDING)


def seconds(cell: Cell, T: int, repeats: int = 7) -> tuple[float, float]:
    """Least time of this thread for a forward and for a backward pass over T steps, other people's load left out."""
    arguments = cell.problem(T, 8, D=8, H=32, dtype=np.float32)
    options = cell.masks("independent", T, 8, units=32, dtype=np.float32)
    forward, backward = [], []
    for _ in range(repeats):
        leaves = tensors(arguments)
        start = time.thread_time()
        loss = cell.fused(**leaves, **options).sum()
        middle = time.thread_time()
        loss.backward()
        forward.append(middle - start)
        backward.append(time.thread_time() - middle)
    return min(forward), min(backward)


@every_cell
def test_time_is_linear_in_the_steps_and_backward_takes_at_most_three_times_its_forward(cell):
    short, long = seconds(cell, 49), seconds(cell, 784)  # quadratic time would be 256 times as long
    assert long[0] < 40 * short[0] and long[1] < 40 * short[1]
    assert long[1] < 3 * long[0]


# ---- errors are sentences


@every_cell
@pytest.mark.parametrize(
    ("name", "shape", "sentence"),
    [
        ("x", (7, 6, 3), "x must be (T, 5, B) for W_x ({GH}, 5), or integers (T, B); got (7, 6, 3)"),
        ("x", (7, 3), "x must be (T, 5, B) for W_x ({GH}, 5), or integers (T, B); got (7, 3)"),
        ("h0", (H, 2), "initial states must be (H, B) = (4, 3), got (4, 2)"),
        ("h0", (H,), "initial states must be (H, B) = (4, 3), got (4,)"),
        ("W_h", (2 * H, H), "H, H), got (8, 4)"),
        ("W_x", (2 * H, 5), "W_x must be ({GH}, D) and b ({GH},) for W_h ({GH}, 4), got (8, 5), ({GH},)"),
        ("b", (2 * H,), "W_x must be ({GH}, D) and b ({GH},) for W_h ({GH}, 4), got ({GH}, 5), (8,)"),
    ],
)
def test_wrong_shape_is_named_beside_the_right_one(name, shape, sentence, cell):
    with pytest.raises(ValueError, match=re.escape(sentence.format(G=cell.gates, GH=cell.gates * H))):
        cell.fused(**cell.problem(7, 3) | {name: np.zeros(shape)})


@pytest.mark.parametrize("shape", [(7, H, 2), (6, H, 3), (7, H + 1, 3), (H,), (1, 7, H, 3)])
@pytest.mark.parametrize("mask", ["keep_h", "hidden_mask", "input_mask"])
def test_mask_that_does_not_broadcast_is_named_beside_the_shape_it_should_have(mask, shape):
    sentence = re.escape(f"a mask of shape {shape} does not broadcast to (T, H, B) = (7, 4, 3)")
    for function, gates in [(lstm, 4), (gru, 3), (rnn, 1)][: 2 if mask == "input_mask" else 3]:
        with pytest.raises(ValueError, match=sentence):
            function(**problem(7, 3, gates=gates), **{mask: np.zeros(shape)})


@every_cell
def test_tokens_outside_the_alphabet_are_named_beside_it(cell):
    arguments = cell.problem(2, 2, tokens=True) | {"x": np.array([[0, 1], [3, 5]])}
    with pytest.raises(IndexError, match=re.escape("tokens must be in [0, 5), got 0 to 5")):
        cell.fused(**arguments)


@pytest.mark.parametrize("activation", ["sigmoid", "Tanh", None])
def test_unknown_activation_is_named_beside_the_known_ones(activation):
    with pytest.raises(ValueError, match=re.escape(f'activation must be "tanh" or "relu", got {activation!r}')):
        rnn(**problem(2, 2, gates=1), activation=activation)
