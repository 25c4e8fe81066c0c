"""Every recurrent cell as a part of a graph: gradients, tokens, dtypes, zoneout, time and error messages."""

from __future__ import annotations

import re
import time

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from minizone import Tensor, gradcheck, no_grad
from minizone.optim import Adam
from minizone.recurrent.sequence import StateGradients
from tests.helpers import (
    ROUNDING,
    D,
    H,
    as_tuple,
    assert_same,
    dense_and_tokens,
    loss_of,
    loss_weights,
    one_hot,
    run,
    tensors,
)
from tests.helpers.bn import known_statistics
from tests.helpers.cells import CELLS, Cell

every_cell = pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
unnormalized = pytest.mark.parametrize(
    "cell", [cell for cell in CELLS.values() if not cell.batch_normalized], ids=["lstm", "gru", "tanh", "relu"]
)


def states_of(cell: Cell) -> tuple[str, ...]:
    return ("h", "c") if cell.gates == 4 else ("h",)


# ---- the graph around it


@every_cell
@dense_and_tokens
def test_second_backward_on_the_same_graph_adds_the_same_gradients(tokens, cell):
    leaves = tensors(cell.problem(7, 3, tokens=tokens))
    outputs = as_tuple(cell.fused(**leaves, **cell.masks("independent", 7, 3, "hidden mask")))
    loss = loss_of(outputs)
    loss.backward()
    once = {name: leaf.grad for name, leaf in leaves.items() if isinstance(leaf, Tensor)}
    for times in (2, 3):
        loss.backward()
        assert_same({n: leaves[n].grad for n in once}, {n: times * g for n, g in once.items()}, 1e-13)


@every_cell
def test_losses_of_h_and_of_c_add_up(cell):
    """Two backward passes of one graph, each from one output."""
    arguments, options = cell.problem(5, 3), cell.masks("independent", 5, 3)
    leaves = tensors(arguments)
    outputs = as_tuple(cell.fused(**leaves, **options))
    for which in states_of(cell):
        loss_of(outputs, which).backward()
    expected = run(cell.reference, arguments, options)
    assert_same(
        {f"d{n}": leaf.grad for n, leaf in leaves.items()}, {f"d{n}": expected[f"d{n}"] for n in leaves}, ROUNDING
    )


@every_cell
def test_gradient_flows_through_two_layers_with_shared_weights(cell):
    """The states that the first layer ends in are those that the second one starts from."""
    arguments = cell.problem(3, 3, D=H)
    options = {"statistics": cell.masks("no mask", 3, 3)["statistics"]} if cell.population else {}

    def two_layers(*values):
        x, *states_and_weights = values
        states, weights = states_and_weights[: len(states_of(cell))], states_and_weights[len(states_of(cell)) :]
        first = as_tuple(cell.fused(x * 2, *states, *weights, keep_h=0.25, **options))
        return cell.fused(first[0] + x, *(each[-1] for each in first), *weights, keep_h=0.5, **options)

    gradcheck(two_layers, *arguments.values(), names=list(arguments), directions=4)


@every_cell
@dense_and_tokens
def test_gradients_are_computed_only_where_they_are_needed(tokens, cell):
    arguments, options = cell.problem(3, 3, tokens=tokens), cell.masks("independent", 3, 3)
    full = run(cell.fused, arguments, options)
    for name in [name for name, array in arguments.items() if array.dtype.kind == "f"]:
        constants = {n: array for n, array in arguments.items() if n != name}
        found = run(lambda constants=constants, **a: cell.fused(**a, **constants), {name: arguments[name]}, options)
        assert_same(found, {n: full[n] for n in (*states_of(cell), f"d{name}")}, ROUNDING)


@every_cell
def test_nothing_is_recorded_without_a_gradient_to_compute(cell):
    arguments, options = cell.problem(3, 3), cell.masks("independent", 3, 3)
    expected = run(cell.fused, arguments, options)
    with no_grad():
        unrecorded = as_tuple(cell.fused(**tensors(arguments), **options))
    for outputs in (unrecorded, as_tuple(cell.fused(**arguments, **options))):
        for name, y in zip(states_of(cell), outputs, strict=True):
            assert y.creator is None and not y.requires_grad
            assert np.array_equal(y.data, expected[name])


@every_cell
def test_two_updates_in_a_row_equal_those_of_the_reference(cell, record_property):
    """The second sequence starts where the first one ended, and the weights are no longer the first ones."""
    learned = []
    for function in (cell.fused, cell.reference):
        arguments, options = cell.problem(4, 5), cell.masks("independent", 4, 5)
        del arguments["x"]
        states = [arguments.pop(f"{name}0") for name in states_of(cell)]
        weights = tensors({name: array.copy() for name, array in arguments.items()})
        optimizer = Adam(list(weights.values()), 0.1)
        for update in range(2):
            outputs = as_tuple(function(cell.problem(4, 5, seed=update)["x"], *states, *weights.values(), **options))
            ((outputs[0] - 1) * (outputs[0] - 1)).sum().backward()
            optimizer.step()
            states = [y.data[-1] for y in outputs]
        learned.append({name: tensor.data for name, tensor in weights.items()} | {"h": outputs[0].data})
    assert_same(*learned, 1e-8)  # Adam divides by the gradient
    assert np.abs(learned[0]["W_x"] - cell.problem(4, 5)["W_x"]).max() > 0.1  # two steps of the learning rate
    record_property("two updates = those of the reference: cases", 1)


@every_cell
@pytest.mark.parametrize("kind", ["independent", "evaluation"])
def test_recorded_gradient_of_a_state_is_that_of_the_initial_state_of_the_rest(kind, cell):
    """Cut the sequence after step t: what follows gives the gradient of its initial states."""
    T, B = 5, 3
    arguments, options = cell.problem(T, B), cell.masks(kind, T, B, "hidden mask")
    if cell.population:
        options["statistics"] = known_statistics(1)  # all steps alike
    record = StateGradients()
    results = run(cell.fused, arguments, options | {"record": record})
    assert_same(results, run(cell.fused, arguments, options), 0.0)
    weights = loss_weights(results["h"])
    for t in range(T):
        expected = {name: weights[k, t] for k, name in enumerate(states_of(cell))}
        if t < T - 1:
            rest = {n: v[t + 1 :] if getattr(v, "ndim", 0) == 3 else v for n, v in options.items()}
            start = {f"{name}0": results[name][t] for name in states_of(cell)}
            leaves = tensors(arguments | start | {"x": arguments["x"][t + 1 :]})
            outputs = as_tuple(cell.reference(**leaves, **rest))
            sum((y * w[t + 1 :]).sum() for y, w in zip(outputs, weights, strict=False)).backward()
            expected = {name: expected[name] + leaves[f"{name}0"].grad for name in expected}
        found = {name: record.states[k][t] for k, name in enumerate(states_of(cell))}
        assert_same(found, expected, ROUNDING)


# ---- tokens, widths, lengths


@every_cell
@pytest.mark.parametrize("alphabet", [1, 256, 257, 300])
def test_tokens_equal_their_one_hot_columns(alphabet, cell):
    """In a large alphabet most tokens are absent, and the gradient of W_x is added up by token. uint8 is an index."""
    arguments, options = cell.problem(9, 4, D=alphabet, tokens=True), cell.masks("independent", 9, 4, "hidden mask")
    arguments["x"] %= 256
    arguments["x"][3] = 0
    dense = run(cell.fused, arguments | {"x": one_hot(arguments["x"], alphabet)}, options)
    del dense["dx"]
    found = run(cell.fused, arguments, options)
    assert_same(found, dense, ROUNDING)
    assert not found["dW_x"][:, np.setdiff1d(np.arange(alphabet), arguments["x"])].any()
    assert_same(run(cell.fused, arguments | {"x": arguments["x"].astype(np.uint8)}, options), found, 0.0)
    assert_same(run(lambda **a: cell.fused(Tensor(arguments["x"]), **a), without_x(arguments), options), found, 0.0)


def without_x(arguments):
    return {name: array for name, array in arguments.items() if name != "x"}


@every_cell
@pytest.mark.parametrize(
    ("T", "B", "features", "units", "tokens"),
    [
        (2, 33, 160, 128, False),
        (2, 33, 160, 128, True),
        (7, 3, 1, H, False),
        (7, 3, 2, H, False),
        (300, 20, 5, H, False),
    ],
    ids=["wide", "wide tokens", "one input", "narrow", "long"],
)
def test_sequences_of_other_sizes_equal_the_reference(T, B, features, units, tokens, cell):
    """Each size is computed in another way: wide or narrow inputs, many steps at once, a thread behind the loop."""
    arguments = cell.problem(T, B, D=features, H=units, tokens=tokens)
    options = cell.masks("independent", T, B, "constant hidden mask" if units > H else "", units=units)
    assert_same(run(cell.fused, arguments, options), run(cell.reference, arguments, options), ROUNDING)


@every_cell
@pytest.mark.parametrize("features", [1, H, 4 * H])
def test_arguments_are_not_used_as_scratch_and_masks_may_be_tensors(features, cell):
    """Inputs of the shape of the states or of the gates, too."""
    arguments, options = cell.problem(7, 3, D=features), cell.masks("independent", 7, 3, "hidden mask")
    expected = run(cell.reference, arguments, options)
    arrays = {name: mask for name, mask in options.items() if isinstance(mask, np.ndarray)}
    for array in (*arguments.values(), *arrays.values()):
        array.flags.writeable = False
    assert_same(run(cell.fused, arguments, options), expected, ROUNDING)
    assert_same(run(cell.fused, arguments, options | tensors(arrays)), expected, ROUNDING)


# ---- dtypes


@every_cell
@dense_and_tokens
@pytest.mark.parametrize("mask_dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["no mask", "evaluation", "independent", "boolean", "gaussian", "shape ()"])
def test_float32_in_is_float32_out(kind, mask_dtype, tokens, cell):
    arguments = cell.problem(5, 16, tokens=tokens, dtype=np.float32)
    options = cell.masks(kind, 5, 16, "hidden mask", dtype=mask_dtype)
    found = run(cell.fused, arguments, options)
    assert {array.dtype for array in found.values()} == {np.dtype(np.float32)}
    wide = {n: v.astype(np.float64) if v.dtype.kind == "f" else v for n, v in arguments.items()}
    exact = run(cell.fused, wide, options)
    tolerance = 1e-4 if cell.batch_normalized else 1e-5
    assert_same({name: array.astype(np.float64) for name, array in found.items()}, exact, tolerance)


@unnormalized
@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_one_wider_argument_makes_the_results_wider(dtype, cell):
    """A float64 state for a float32 layer, say; a complex step in one argument is the same."""
    arguments = cell.problem(3, 2, dtype=np.float32)
    expected = run(cell.fused, arguments, {"keep_h": 0.5})["h"]
    for name in arguments:
        h = as_tuple(cell.fused(**arguments | {name: arguments[name].astype(dtype)}, keep_h=0.5))[0].data
        assert h.dtype == dtype, name
        assert_same({"h": h.real}, {"h": expected.astype(np.float64)}, 1e-5)


# ---- zoneout


@every_cell
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("zero", [0, 0.0, np.zeros((6, H, 3)), np.zeros((6, H, 3), bool), np.zeros(())])
def test_no_zoneout_is_the_plain_cell_bit_for_bit(zero, dtype, cell):
    arguments = cell.problem(6, 3, dtype=dtype)
    plain = cell.masks("no mask", 6, 3, inputs=False)
    zoned = plain | {f"keep_{name}": zero for name in states_of(cell)}
    assert_same(run(cell.fused, arguments, zoned), run(cell.fused, arguments, plain), 0.0)


@every_cell
@pytest.mark.parametrize("one", [1, 1.0, np.ones((500, H, 3)), np.ones((500, H, 3), bool)])
def test_certain_zoneout_keeps_the_states_for_ever_and_teaches_the_weights_nothing(one, cell):
    arguments = cell.problem(500, 3, dtype=np.float32)
    options = cell.masks("no mask", 500, 3) | {f"keep_{name}": one for name in states_of(cell)}
    found = run(cell.fused, arguments, options, "the last step")
    weights = loss_weights(found["h"])
    for k, name in enumerate(states_of(cell)):
        start = arguments[f"{name}0"]
        assert np.array_equal(found.pop(name), np.broadcast_to(start, (500, *start.shape)))
        assert np.array_equal(found.pop(f"d{name}0"), weights[k, -1])
    assert not any(gradient.any() for gradient in found.values())


@every_cell
@pytest.mark.parametrize("kind", ["independent", "shared", "whole layer", "static"])
def test_every_element_is_exactly_its_old_or_its_new_value(kind, cell):
    T, B = 5, 4  # as many steps as there are population statistics
    arguments, options = cell.problem(T, B), cell.masks(kind, T, B, inputs=False)
    keeps = {name: np.broadcast_to(options[f"keep_{name}"], (T, H, B)) for name in states_of(cell)}
    outputs = as_tuple(cell.fused(**arguments, **options))
    for t in range(T):
        unmoved = {f"keep_{name}": keep.copy() for name, keep in keeps.items()}
        for mask in unmoved.values():
            mask[t] = 0  # the same sequence up to step t, which takes the new values
        candidates = as_tuple(cell.fused(**arguments, **options | unmoved))
        for name, y, new in zip(states_of(cell), outputs, candidates, strict=True):
            old = y.data[t - 1] if t else arguments[f"{name}0"]
            assert np.array_equal(y.data[t], np.where(keeps[name][t] == 1, old, new.data[t]))
    assert all(0 < keep.sum() < keep.size for keep in keeps.values())


@every_cell
def test_evaluated_step_is_linear_in_the_probability(cell):
    arguments, plain = cell.problem(1, 4), cell.masks("no mask", 1, 4, inputs=False)
    new = as_tuple(cell.fused(**arguments, **plain))
    for z in (0.0, 0.05, 0.5, 0.9, 1.0):
        zoned = as_tuple(cell.fused(**arguments, **plain | {f"keep_{name}": z for name in states_of(cell)}))
        for name, y, candidate in zip(states_of(cell), zoned, new, strict=True):
            assert_same({name: y.data[0]}, {name: z * arguments[f"{name}0"] + (1 - z) * candidate.data[0]}, 1e-14)


# ---- time


def seconds(cell: Cell, T: int, repeats: int = 7) -> tuple[float, float]:
    """The least time of this thread for a forward and for a backward pass over T steps, without that of others."""
    arguments = cell.problem(T, 8, D=8, H=32, dtype=np.float32)
    options = cell.masks("independent", T, 8, units=32, dtype=np.float32)
    forward, backward = [], []
    with threadpool_limits(1):  # threads of BLAS that wait for each other on a busy machine take time as well
        for _ in range(repeats):
            leaves = tensors(arguments)
            start = time.thread_time()
            loss = as_tuple(cell.fused(**leaves, **options))[0].sum()
            middle = time.thread_time()
            loss.backward()
            forward.append(middle - start)
            backward.append(time.thread_time() - middle)
    return min(forward), min(backward)


@every_cell
def test_time_is_linear_in_the_steps_and_backward_takes_at_most_twice_its_forward(cell):
    """16 times the steps take 16 times as long, more where the cache ends; were it quadratic, 256 times."""
    short, long = seconds(cell, 49), seconds(cell, 784)
    assert long[0] < 40 * short[0] and long[1] < 40 * short[1]
    assert long[1] <= 2 * long[0]


# ---- errors are sentences


@every_cell
@pytest.mark.parametrize(
    ("name", "shape", "sentence"),
    [
        ("x", (7, 6, 3), "x must be (T, 5, B) for W_x ({GH}, 5), or integers (T, B); got (7, 6, 3)"),
        ("x", (7, 3), "x must be (T, 5, B) for W_x ({GH}, 5), or integers (T, B); got (7, 3) of float64"),
        ("h0", (H, 2), "initial states must be (H, B) = (4, 3), got (4, 2)"),
        ("h0", (H,), "initial states must be (H, B) = (4, 3), got (4,)"),
        ("W_h", (2 * H, H), "W_h must be ({G}H, H), got (8, 4)"),
        ("W_h", (), "W_h must be ({G}H, H), got ()"),
        ("W_x", (2 * H, 5), "W_x must be ({GH}, D) and b ({GH},) for W_h ({GH}, 4), got (8, 5), ({GH},)"),
        ("b", (2 * H,), "W_x must be ({GH}, D) and b ({GH},) for W_h ({GH}, 4), got ({GH}, 5), (8,)"),
    ],
)
def test_wrong_shape_is_named_beside_the_right_one(name, shape, sentence, cell):
    expected = sentence.format(G=cell.gates if cell.gates > 1 else "", GH=cell.gates * H)
    with pytest.raises(ValueError, match=re.escape(expected)):
        cell.fused(**cell.problem(7, 3) | {name: np.zeros(shape)})


@every_cell
@pytest.mark.parametrize("shape", [(7, H, 2), (6, H, 3), (2, H, 3), (7, H + 1, 3), (H,), (1, 7, H, 3), (0,)])
def test_mask_that_does_not_broadcast_is_named_beside_the_shape_it_should_have(shape, cell):
    sentence = re.escape(f"a mask of shape {shape} does not broadcast to (T, H, B) = (7, 4, 3)")
    for name in cell.mask_names:
        with pytest.raises(ValueError, match=sentence):
            cell.fused(**cell.problem(7, 3), **{name: np.zeros(shape)})


@every_cell
@pytest.mark.parametrize(("wrong", "sentence"), [(-1, "got -1 to 3"), (D, "got 0 to 5"), (2**40, "got 0 to 10995")])
def test_token_outside_the_alphabet_is_named_beside_it(wrong, sentence, cell):
    tokens = np.array([[0, 1], [3, wrong]])
    with pytest.raises(IndexError, match=re.escape(f"tokens must be in [0, 5), {sentence}")):
        cell.fused(**cell.problem(2, 2, tokens=True) | {"x": tokens})


@every_cell
def test_tokens_with_three_axes_are_refused(cell):
    with pytest.raises(ValueError, match=re.escape("or integers (T, B); got (7, 5, 3)")):
        cell.fused(**cell.problem(7, 3) | {"x": np.zeros((7, D, 3), np.int64)})


def test_no_minibatch_is_no_statistics():
    with pytest.raises(ValueError, match="a minibatch needs at least one example to have statistics"):
        CELLS["bn_lstm"].fused(**CELLS["bn_lstm"].problem(2, 0))
