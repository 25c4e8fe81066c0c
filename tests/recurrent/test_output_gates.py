"""What `minizone.lstm` has beside zoneout: hidden masks, zoned-out output gates; and the gradients it can record."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from minizone import Tensor, gradcheck, lstm
from minizone.recurrent.cells import lstm_unrolled
from minizone.recurrent.sequence import StateGradients
from tests.helpers import (
    CELLS,
    HIDDEN,
    KINDS,
    LOSSES,
    ROUNDING,
    SIZES,
    ZONEOUTS,
    Arrays,
    H,
    assert_same,
    dense_and_tokens,
    hidden_mask,
    lstm_by_hand,
    masks,
    problem,
    run,
    run_h,
    split_columns,
    tensors,
)

GATES = {  # (output gate, whether there is an input mask)
    "plain": ("plain", False),
    "plain with input mask": ("plain", True),
    "paper": ("paper", True),
    "printed": ("printed", True),
    "authors": ("authors", True),
}
every_gate = pytest.mark.parametrize("gate", GATES)
every_variant = pytest.mark.parametrize("gate", ["paper", "printed", "authors"])
every_kind = pytest.mark.parametrize("kind", KINDS)
every_hidden_mask = pytest.mark.parametrize("hidden", HIDDEN)
both = pytest.mark.parametrize("function", [lstm, lstm_unrolled], ids=["fused", "reference"])


def options_of(
    gate: str, kind: str, T: int, B: int, hidden: str = "", units: int = H, dtype: Any = np.float64
) -> Arrays:
    name, inputs = GATES[gate]
    given = masks(kind, T, units, B, inputs=inputs, dtype=dtype)
    return given | {"hidden_mask": hidden_mask(hidden, T, units, B), "output_gate": name}


# ---- the same as the reference, as complex steps, as the equations


@every_gate
@every_kind
@every_hidden_mask
@dense_and_tokens
def test_fused_equals_reference(tokens, hidden, kind, gate):
    for T, B in SIZES if kind in ZONEOUTS else [(7, 3)]:
        arguments, options = problem(T, B, tokens=tokens), options_of(gate, kind, T, B, hidden)
        assert_same(run(lstm, arguments, options), run(lstm_unrolled, arguments, options), ROUNDING)


@every_gate
@every_hidden_mask
@pytest.mark.parametrize("loss", LOSSES)
def test_fused_equals_reference_for_every_loss(loss, hidden, gate):
    for T, B in SIZES:
        arguments, options = problem(T, B), options_of(gate, "independent", T, B, hidden)
        assert_same(run(lstm, arguments, options, loss), run(lstm_unrolled, arguments, options, loss), ROUNDING)


@every_gate
@every_kind
@every_hidden_mask
def test_gradient_of_fused_equals_complex_step_along_random_directions(hidden, kind, gate):
    arguments, options = problem(4, 3), options_of(gate, kind, 4, 3, hidden)
    gradcheck(lambda *a: lstm(*a, **options), *arguments.values(), names=list(arguments), directions=2)


@every_gate
@pytest.mark.parametrize("kind", ["no mask", "independent", "evaluation"])
@dense_and_tokens
def test_gradient_of_fused_equals_complex_step_in_every_element(tokens, kind, gate):
    arguments, options = problem(4, 2, tokens=tokens), options_of(gate, kind, 4, 2, "hidden mask")
    gradcheck(lambda *a: lstm(*a, **options), *arguments.values(), names=list(arguments))


@every_gate
@every_kind
@both
def test_outputs_are_the_equations(function, kind, gate):
    arguments, options = problem(3, 2), options_of(gate, kind, 3, 2, "hidden mask")
    expected = lstm_by_hand(**arguments, **{name: mask for name, mask in options.items() if mask is not None})
    h, c = function(**tensors(arguments), **options)
    assert_same({"h": h.data, "c": c.data}, {"h": expected["h"], "c": expected["c"]}, 1e-14)


# ---- what the variants are


ONES = [1, 1.0, np.ones((7, H, 3)), np.ones((7, H, 3), bool)]
ZEROS = [0, 0.0, np.zeros((7, H, 3)), np.zeros((1, 1, 1), bool)]
NEW_GATE = [*(("paper", one) for one in ONES), *(("authors", one) for one in ONES), *(("printed", no) for no in ZEROS)]
OLD_GATE = [*(("paper", no) for no in ZEROS), *(("printed", one) for one in ONES)]


def gate_of(part: int, arguments: Arrays, seen: np.ndarray) -> np.ndarray:
    """The gates i (0), f (1), o (3) of all steps, from the states that the steps saw."""
    W_x, W_h, b = (arguments[name][part * H : (part + 1) * H] for name in ("W_x", "W_h", "b"))
    return 1 / (1 + np.exp(-W_x @ arguments["x"] - W_h @ seen - b[:, None]))


@both
@pytest.mark.parametrize(("gate", "mask"), NEW_GATE)
def test_variant_that_takes_the_new_gate_alone_is_the_lstm_with_recurrent_dropout(mask, gate, function):
    arguments, options = problem(7, 3), masks("independent", 7, H, 3) | {"input_mask": mask}
    assert_same(run(function, arguments, options | {"output_gate": gate}), run(lstm, arguments, options), 1e-13)


@both
@pytest.mark.parametrize(("gate", "mask"), OLD_GATE)
def test_old_output_gate_is_that_of_the_step_before_and_at_first_the_new_one(mask, gate, function):
    """o_{t-1} of the equation is the gate as computed at t - 1, not the mixture that was in use there."""
    arguments = problem(7, 3)
    h, c = (out.data for out in function(**tensors(arguments), input_mask=mask, output_gate=gate))
    o = gate_of(3, arguments, np.concatenate([arguments["h0"][None], h[:-1]]))
    assert_same({"h": h}, {"h": o[[0, 0, 1, 2, 3, 4, 5]] * np.tanh(c)}, 1e-14)


@both
@pytest.mark.parametrize("mask", ZEROS)
def test_authors_variant_that_drops_everything_forgets_the_state(mask, function):
    """h = f h_{t-1}, whatever zoneout says; PAPER.md B.6."""
    arguments = problem(7, 3)
    h = function(**tensors(arguments), keep_h=0.5, input_mask=mask, output_gate="authors")[0].data
    seen = np.concatenate([arguments["h0"][None], h[:-1]])
    assert_same({"h": h}, {"h": gate_of(1, arguments, seen) * seen}, 1e-14)


@both
@pytest.mark.parametrize("gate", ["plain", "paper", "printed"])
def test_certain_zoneout_keeps_both_states_for_ever(gate, function):
    arguments = problem(50, 3)
    options = {"keep_h": 1.0, "keep_c": 1.0, "input_mask": 0.5, "hidden_mask": 0.5, "output_gate": gate}
    h, c = (out.data for out in function(**tensors(arguments), **options))
    assert np.array_equal(h, np.broadcast_to(arguments["h0"], h.shape))
    assert np.array_equal(c, np.broadcast_to(arguments["c0"], c.shape))


@both
@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("one", [1, 1.0, np.ones((H, 3)), np.ones((7, 1, 1), bool)])
def test_hidden_mask_of_ones_is_none_and_of_zeros_cuts_the_weights_off(one, gate, function):
    arguments, options = problem(7, 3), options_of(gate, "independent", 7, 3)
    assert_same(run(function, arguments, options | {"hidden_mask": one}), run(function, arguments, options), 1e-14)
    cut = run(function, arguments, options | {"hidden_mask": one - one if np.ndim(one) == 0 else ~(one > 0)})
    assert not cut.pop("dW_h").any()
    without = run(function, arguments | {"W_h": np.zeros((4 * H, H))}, options)
    assert_same(cut, {name: without[name] for name in cut}, 1e-14)


# ---- how it is executed


@every_gate
@pytest.mark.parametrize("kind", ["no mask", "independent", "static", "shape (1,B)"])
@every_hidden_mask
@pytest.mark.parametrize(("B", "cores", "tokens"), [(17, 2, True), (33, 3, False)])
def test_columns_split_over_threads_equal_unsplit_and_reference(monkeypatch, B, cores, tokens, hidden, kind, gate):
    arguments, options = problem(3, B, tokens=tokens), options_of(gate, kind, 3, B, hidden)
    whole = run(lstm, arguments, options)
    split_columns(monkeypatch, cores, B)
    split = run(lstm, arguments, options)
    assert_same(split, whole, 1e-13)
    assert_same(split, run(lstm_unrolled, arguments, options), ROUNDING)


@every_gate
@every_hidden_mask
def test_second_backward_on_the_same_graph_doubles_the_gradients(hidden, gate):
    leaves = tensors(problem(7, 3))
    h, c = lstm(**leaves, **options_of(gate, "independent", 7, 3, hidden))
    loss = (h * h).sum() + c.sum()
    loss.backward()
    once = {name: leaf.grad for name, leaf in leaves.items()}
    loss.backward()
    assert_same({name: leaves[name].grad for name in once}, {name: 2 * g for name, g in once.items()}, 1e-13)


@every_gate
@every_hidden_mask
@pytest.mark.parametrize("mask_dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["no mask", "evaluation", "independent", "boolean", "shape ()"])
def test_float32_in_is_float32_out(kind, mask_dtype, hidden, gate):
    arguments, options = problem(7, 3, dtype=np.float32), options_of(gate, kind, 7, 3, hidden, dtype=mask_dtype)
    results = run(lstm, arguments, options)
    assert {array.dtype for array in results.values()} == {np.dtype(np.float32)}
    exact = run(lstm, {name: array.astype(np.float64) for name, array in arguments.items()}, options)
    assert_same({name: array.astype(np.float64) for name, array in results.items()}, exact, 1e-5)


@every_gate
def test_masks_may_be_tensors_and_nothing_that_was_given_is_changed(gate):
    arguments, options = problem(7, 3, D=4 * H), options_of(gate, "independent", 7, 3, "hidden mask")
    expected = run(lstm, arguments, options)
    arrays = {name: mask for name, mask in options.items() if isinstance(mask, np.ndarray)}
    for array in (*arguments.values(), *arrays.values()):
        array.flags.writeable = False
    assert_same(run(lstm, arguments, options | {n: Tensor(mask) for n, mask in arrays.items()}), expected, 0.0)


@every_variant
def test_variant_without_input_mask_is_refused(gate):
    with pytest.raises(ValueError, match=f'output_gate="{gate}" follows .* it needs an input_mask'):
        lstm(**problem(7, 3), output_gate=gate)


@pytest.mark.parametrize("gate", ["Paper", "", None])
def test_unknown_output_gate_is_named_beside_the_known_ones(gate):
    sentence = f"output_gate must be one of plain, paper, printed, authors, got {gate!r}"
    with pytest.raises(ValueError, match=re.escape(sentence)):
        lstm(**problem(7, 3), input_mask=1.0, output_gate=gate)


# ---- recorded gradients


def nudged(name: str, masks: Arrays, x: np.ndarray, *start_and_weights: np.ndarray, **nudges: np.ndarray) -> np.ndarray:
    """All states (1 or 2, T, H, B) by the equations, with ``nudges`` (T, H, B) added to h and c or, as new_h and new_c,
    to their candidates."""
    *states, W_x, W_h, b = start_and_weights
    shape, steps = (len(x), *states[0].shape), []
    H, (h, *cell), o_before = shape[1], states, None
    zeros = dict.fromkeys(("keep_h", "keep_c", "h", "c", "new_h", "new_c"), 0)
    all_steps = zeros | {"input_mask": 1, "hidden_mask": 1} | {n: m for n, m in masks.items() if m is not None} | nudges
    all_steps = {n: np.broadcast_to(value, shape) for n, value in all_steps.items() if n != "output_gate"}
    for t in range(len(x)):
        at = {n: value[t] for n, value in all_steps.items()}
        d, keep_h, keep_c, seen, a = at["input_mask"], at["keep_h"], at["keep_c"], at["hidden_mask"] * h, W_x @ x[t]
        a = a + b[:, None] + (0 if name.startswith("gru") else W_h @ seen)
        if name.startswith("gru"):
            r, z = 1 / (1 + np.exp(-a[: 2 * H] - W_h[: 2 * H] @ seen)).reshape(2, H, -1)
            new_h = z * h + (1 - z) * d * np.tanh(a[2 * H :] + W_h[2 * H :] @ (r * seen))
        elif name in CELLS:
            new_h = np.tanh(a) if name == "tanh" else np.where(a.real > 0, a, 0)
        else:
            (i, f, _, o), (c,), gate = 1 / (1 + np.exp(-a)).reshape(4, H, -1), cell, masks["output_gate"]
            new_c = f * c + d * i * np.tanh(a[2 * H : 3 * H]) + at["new_c"]
            share, old = {"paper": d, "printed": 1 - d}.get(gate, 1), o if o_before is None else o_before
            o_before, new_h = o, (share * o + (1 - share) * old) * np.tanh(new_c)
            cell = [keep_c * c + (1 - keep_c) * new_c + at["c"]]
        new_h = keep_h * h + (1 - keep_h) * (new_h + at["new_h"])
        h = (d * new_h + (1 - d) * f * h if masks.get("output_gate") == "authors" else new_h) + at["h"]
        steps.append([h, *cell])
    return np.array(steps).swapaxes(0, 1)


def recorded(name: str, kind: str, T: int, B: int, hidden: str = "hidden mask", **more: Any) -> tuple[Any, ...]:
    """(arguments, options, outputs and gradients, record, weights of the loss) of one of the cells or output gates."""
    record = StateGradients()
    if name in CELLS:
        cell = CELLS[name]
        arguments, options = cell.problem(T, B, **more), cell.masks(kind, T, B, hidden)
        results = run_h(cell.fused, arguments, options | {"record": record})
    else:
        arguments, options = problem(T, B, **more), options_of(name, kind, T, B, hidden)
        results = run(lstm, arguments, options | {"record": record})
    return arguments, options, results, record, np.random.default_rng(99).standard_normal((2, T, H, B))


every_name = pytest.mark.parametrize("name", [*CELLS, *GATES])


@every_name
@pytest.mark.parametrize("kind", ["no mask", "independent", "evaluation", "gaussian", "shape (1,B)"])
def test_record_is_the_complex_step_in_states_and_candidates(kind, name):
    T, B = 4, 2
    arguments, options, results, record, weights = recorded(name, kind, T, B)
    names = ["h"] if name in CELLS else ["h", "c"]
    outputs = nudged(name, options, *arguments.values())
    assert_same(dict(zip(names, outputs, strict=True)), {n: results[n] for n in names}, 1e-14)
    assert len(record.states) == len(record.candidates) == len(names)
    for prefix, actual in (("", record.states), ("new_", record.candidates)):
        for n, gradient in zip(names, actual, strict=True):
            expected = np.empty((T, H, B))
            for t, k in np.ndindex(T, H):  # all examples at once: they do not meet
                nudge = np.zeros((T, H, B), complex)
                nudge[t, k] = 1e-20j
                moved = nudged(name, options, *arguments.values(), **{prefix + n: nudge})
                expected[t, k] = (moved.imag * weights[: len(names)]).sum((0, 1, 2)) / 1e-20
            assert_same({prefix + n: gradient}, {prefix + n: expected}, 1e-9)


@pytest.mark.parametrize("name", [*CELLS, "plain", "plain with input mask", "authors"])
def test_recorded_gradient_of_a_state_is_that_of_the_initial_state_of_the_rest(name):
    """The sequence is cut after step t; the older output gate of the other variants would be cut off as well."""
    T = 5
    arguments, options, results, record, weights = recorded(name, "independent", T, 3)
    function = CELLS[name].fused if name in CELLS else lstm
    for t in range(T - 1):
        rest = {n: v[t + 1 :] if isinstance(v, np.ndarray) else v for n, v in options.items()}
        start = {f"{n}0": results[n][t] for n in ("h", "c") if n in results}
        leaves = tensors(arguments | start | {"x": arguments["x"][t + 1 :]})
        outputs = function(**leaves, **rest)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        sum((out * w[t + 1 :]).sum() for out, w in zip(outputs, weights, strict=False)).backward()
        expected = {n: w[t] + leaves[n].grad for n, w in zip(start, weights, strict=False)}
        assert_same({n: s[t] for n, s in zip(start, record.states, strict=True)}, expected, ROUNDING)
    assert all(np.array_equal(s[-1], w[-1]) for s, w in zip(record.states, weights, strict=False))


@every_name
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_recording_changes_no_gradient_and_a_second_backward_records_the_same(monkeypatch, dtype, name):
    arguments, options, results, whole, _ = recorded(name, "independent", 5, 24, dtype=dtype)
    runs, function = (run_h, CELLS[name].fused) if name in CELLS else (run, lstm)
    assert_same(results, runs(function, arguments, options), 0.0)
    split_columns(monkeypatch, 3, 24)
    split = recorded(name, "independent", 5, 24, dtype=dtype)[3]
    for kind in ("states", "candidates"):
        actual, expected = (dict(enumerate(getattr(record, kind))) for record in (split, whole))
        assert_same(actual, expected, 1e-12 if dtype == np.float64 else 1e-5)
    again = StateGradients()
    outputs = function(**tensors(arguments), **options, record=again)
    assert again == StateGradients()
    loss = ((outputs[0] if isinstance(outputs, tuple) else outputs) * 3).sum()
    for _ in range(2):  # and not the sum of both passes
        loss.backward()
        assert (again.states[0][-1] == 3).all() and again.states[0].dtype == dtype


@every_name
def test_candidates_of_units_that_waited_get_no_gradient_and_their_states_pass_all_on(name):
    arguments, options, _, record, weights = recorded(name, "no mask", 6, 3)
    runs, function = (run_h, CELLS[name].fused) if name in CELLS else (run, lstm)
    runs(function, arguments, options | dict.fromkeys({"keep_h", "keep_c"} & options.keys(), 1) | {"record": record})
    assert not any(gradient.any() for gradient in record.candidates)
    if name != "authors":  # whose state is also forgotten
        sums = weights[:, ::-1].cumsum(1)[:, ::-1]  # of the weights from here to the end
        assert_same(dict(enumerate(record.states)), dict(enumerate(sums[: len(record.states)])), 1e-14)
