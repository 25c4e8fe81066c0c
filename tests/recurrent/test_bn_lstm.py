"""The batch-normalized LSTM against its readable reference, complex steps and loops by hand; its place in a graph."""

from __future__ import annotations

import re
import tracemalloc

import numpy as np
import pytest

from minizone import Tensor, gradcheck
from minizone.kernels.cpu import bn_lstm as kernels
from minizone.kernels.cpu import tokens as cpu_tokens
from minizone.optim import Adam
from minizone.recurrent import sequence
from minizone.recurrent.bn_lstm import Statistics, bn_lstm
from minizone.recurrent.cells import batch_normalize, bn_lstm_cell, bn_lstm_unrolled
from minizone.recurrent.sequence import StateGradients
from tests.helpers import (
    HIDDEN,
    KINDS,
    LOSSES,
    ROUNDING,
    D,
    H,
    assert_same,
    dense_and_tokens,
    hidden_mask,
    masks,
    one_hot,
    rng,
    run,
    tensors,
)
from tests.helpers.bn import GAINS, batch_and_population, bn_problem, by_hand, known_statistics

SIZES = [(T, B) for T in (1, 3, 7) for B in (1, 2, 5)]

every_kind = pytest.mark.parametrize("kind", KINDS)
every_hidden_mask = pytest.mark.parametrize("hidden", HIDDEN)


# ---- the same as the reference, as complex steps, as the equations


@every_kind
@every_hidden_mask
@dense_and_tokens
@batch_and_population
def test_fused_equals_reference(population, tokens, hidden, kind):
    for T, B in SIZES:
        arguments = bn_problem(T, B, tokens=tokens)
        options = masks(kind, T, H, B, inputs=B != 2) | {"hidden_mask": hidden_mask(hidden, T, H, B)}
        options["statistics"] = known_statistics(5) if population else None  # fewer than 7 steps, more than 3
        for loss in LOSSES if kind == "independent" else ["h and c"]:
            expected, actual = (run(function, arguments, options, loss) for function in (bn_lstm_unrolled, bn_lstm))
            for name in [name for name, gradient in expected.items() if gradient is None]:  # c_1 does not use gamma_c
                assert not actual.pop(name).any() and expected.pop(name) is None
            assert_same(actual, expected, ROUNDING)


@pytest.mark.parametrize("kind", ["no mask", "independent", "gaussian", "evaluation"])
@every_hidden_mask
@dense_and_tokens
@batch_and_population
def test_gradient_of_fused_equals_complex_step_in_every_element(population, tokens, hidden, kind):
    for T, B in ((3, 2), (4, 3)):
        arguments = bn_problem(T, B, tokens=tokens)
        options = masks(kind, T, H, B, inputs=True) | {"hidden_mask": hidden_mask(hidden, T, H, B)}
        options["statistics"] = known_statistics(T) if population else None
        gradcheck(lambda *a, o=options: bn_lstm(*a, **o), *arguments.values(), names=list(arguments))


@every_kind
@dense_and_tokens
@batch_and_population
@pytest.mark.parametrize("function", [bn_lstm, bn_lstm_unrolled])
def test_outputs_are_the_equations(function, population, tokens, kind):
    arguments = bn_problem(4, 3, tokens=tokens)
    options = masks(kind, 4, H, 3, inputs=True) | {"hidden_mask": hidden_mask("hidden mask", 4, H, 3)}
    statistics = known_statistics(4) if population else None
    own = (statistics.mean, statistics.variance) if statistics else ()
    for epsilon in (1e-5, 0.5):
        expected = by_hand(arguments, options, *own, epsilon=epsilon)
        h, c = function(**tensors(arguments), **options, statistics=statistics, epsilon=epsilon)
        assert_same({"h": h.data, "c": c.data}, {"h": expected["h"], "c": expected["c"]}, 1e-12)


def test_one_unit_and_two_examples_by_hand():
    """Mean 2 and variance 1, not 2; and an epsilon that one can see."""
    step, weights = np.array([[[1.0, 3.0]]]), [np.ones((4, 1)), np.zeros((4, 1)), np.zeros(4)]
    gains = [np.full(4, 0.5), np.ones(4), np.array([2.0]), np.array([0.25])]
    h, c = bn_lstm(step, np.zeros((1, 2)), np.zeros((1, 2)), *weights, *gains, epsilon=3.0)
    a = 0.5 * np.array([-1.0, 1.0]) / np.sqrt(1 + 3)
    i = o = 1 / (1 + np.exp(-a))
    cell = i * np.tanh(a)
    y = 2 * (cell - cell.mean()) / np.sqrt(((cell[0] - cell[1]) / 2) ** 2 + 3) + 0.25
    np.testing.assert_allclose(c.data[0, 0], cell, rtol=1e-14)
    np.testing.assert_allclose(h.data[0, 0], o * np.tanh(y), rtol=1e-14)


@batch_and_population
def test_tokens_equal_their_one_hot_columns_in_alphabets_of_any_size(population):
    for alphabet in (1, 2, 255, 256, 257, 1000):
        arguments = bn_problem(6, 4, D=alphabet, tokens=True)
        options = {"statistics": known_statistics(6) if population else None}
        dense = run(bn_lstm, arguments | {"x": one_hot(arguments["x"], alphabet)}, options)
        del dense["dx"]
        assert_same(run(bn_lstm, arguments, options), dense, ROUNDING)


# ---- zoneout


def test_with_keep_1_nothing_ever_moves():
    arguments = bn_problem(5, 3)
    h, c = bn_lstm(**arguments, keep_h=np.ones((5, H, 3)), keep_c=1.0)
    assert (h.data == arguments["h0"]).all() and (c.data == arguments["c0"]).all()


def test_cell_is_normalized_before_zoneout():
    """Where all cells wait and no hidden state does, h follows the candidates."""
    arguments = bn_problem(1, 4)
    free, _ = bn_lstm(**arguments)
    h, c = bn_lstm(**arguments, keep_c=1.0)
    assert (h.data == free.data).all() and (c.data == arguments["c0"]).all()


# ---- the graph around it


@batch_and_population
def test_second_backward_doubles_the_gradients_and_collects_nothing(population):
    """Even when the statistics have moved on since the forward pass."""
    statistics, leaves = known_statistics(5), tensors(bn_problem(5, 3))
    given = statistics if population else statistics.collect
    h, c = bn_lstm(**leaves, **masks("independent", 5, H, 3, inputs=True), statistics=given)
    after_forward = statistics.mean.copy()
    assert (after_forward == known_statistics(5).mean).all() == population
    loss = (h * h).sum() + c.sum()
    loss.backward()
    once = {name: leaf.grad for name, leaf in leaves.items()}
    assert (statistics.mean == after_forward).all()
    statistics.mean[...] = 7
    for n in (2, 3):
        loss.backward()
        assert_same({name: leaves[name].grad for name in once}, {name: n * g for name, g in once.items()}, 1e-13)
    assert (statistics.mean == 7).all()


@batch_and_population
@dense_and_tokens
def test_gradients_are_computed_only_where_they_are_needed(tokens, population):
    arguments, options = bn_problem(3, 3, tokens=tokens), masks("independent", 3, H, 3, inputs=True)
    options["statistics"] = known_statistics(3) if population else None
    full = run(bn_lstm, arguments, options)
    for name in [name for name, array in arguments.items() if array.dtype.kind == "f"]:
        constants = {n: array for n, array in arguments.items() if n != name}
        results = run(lambda constants=constants, **a: bn_lstm(**a, **constants), {name: arguments[name]}, options)
        assert_same(results, {n: full[n] for n in ("h", "c", f"d{name}")}, ROUNDING)


def test_two_updates_in_a_row_equal_those_of_the_reference():
    learned = {}
    for function in (bn_lstm, bn_lstm_unrolled):
        arguments = bn_problem(4, 5)
        weights = tensors({name: arguments[name] for name in ("W_x", "W_h", "b", *GAINS)})
        optimizer, state = Adam(list(weights.values()), 0.1), {name: arguments[name] for name in ("h0", "c0")}
        for update in range(2):
            h, c = function(bn_problem(4, 5, seed=update)["x"], **state, **weights)
            ((h - 1) * (h - 1)).sum().backward()
            optimizer.step()
            state = {"h0": h.data[-1], "c0": c.data[-1]}
        learned[function] = {name: tensor.data for name, tensor in weights.items()} | {"h": h.data}
    assert_same(learned[bn_lstm], learned[bn_lstm_unrolled], 1e-8)  # Adam divides by the gradient


@batch_and_population
def test_record_holds_the_gradients_of_states_and_candidates(population):
    """Of a state: as that of the initial state of what follows. Of c~: as that of a mask that multiplies i * g."""
    T, B = 4, 3
    arguments, options = bn_problem(T, B), masks("independent", T, H, B)
    known, record = known_statistics(T) if population else None, StateGradients()
    weights = rng(99).standard_normal((2, T, H, B))  # those of `run`
    results = run(bn_lstm, arguments, options | {"record": record, "statistics": known})
    ones = Tensor(np.ones((T, H, B)))
    h, c = bn_lstm_unrolled(**arguments, **options | {"input_mask": ones}, statistics=known)
    LOSSES["h and c"](h, c, weights).backward()
    _, *weight_arrays = (arguments[name] for name in arguments if name not in ("h0", "c0"))
    for t in range(T):
        state = (arguments["h0"], arguments["c0"]) if t == 0 else (results["h"][t - 1], results["c"][t - 1])
        step = {} if known is None else {"mean": known.mean[t, :, None], "variance": known.variance[t, :, None]}
        new, without = (
            bn_lstm_cell(arguments["x"][t], *map(Tensor, state), *map(Tensor, weight_arrays), input_mask=on, **step)[1]
            for on in (1.0, 0.0)
        )
        np.testing.assert_allclose(
            record.candidates[1][t], ones.grad[t] / (new.data - without.data), rtol=1e-7, atol=1e-10
        )
        np.testing.assert_allclose(record.candidates[0][t], (1 - options["keep_h"][t]) * record.states[0][t])
        d = {"dh0": 0, "dc0": 0}
        if t + 1 < T:
            after = {n: v[t + 1 :] for n, v in options.items() if v is not None}
            leaves = tensors({"h0": results["h"][t], "c0": results["c"][t]})
            rest = Statistics(T - t - 1, H, dtype=np.float64)
            if known:
                rest.mean[...], rest.variance[...] = known.mean[t + 1 :], known.variance[t + 1 :]
            h, c = bn_lstm_unrolled(
                arguments["x"][t + 1 :], **leaves, **{n: arguments[n] for n in list(arguments)[3:]}, **after,
                statistics=rest if known else None,
            )  # fmt: skip
            LOSSES["h and c"](h, c, weights[:, t + 1 :]).backward()
            d = {f"d{name}": leaf.grad for name, leaf in leaves.items()}
        for state_gradient, own, weight in zip(record.states, d.values(), weights, strict=True):
            np.testing.assert_allclose(state_gradient[t], own + weight[t], rtol=1e-9)


# ---- the kernels by themselves, dtypes, memory


@batch_and_population
@pytest.mark.parametrize("n", [1, 2, 3])
def test_normalization_of_several_sums_by_itself(n, population):
    """y = gamma_1 BN(s_1) + ... + gamma_n BN(s_n) + beta, as a simple recurrent network may have it."""
    R, B = 4, 5
    generator, ones, scratch, d_gamma, d_beta = rng(1), np.ones(B), np.empty((n * R, B)), np.empty(n * R), np.empty(R)
    s, gamma, d = (
        generator.standard_normal((n * R, B)),
        generator.standard_normal(n * R),
        rng(2).standard_normal((R, B)),
    )
    mean, variance, inverse = generator.standard_normal(n * R), generator.random(n * R), np.empty(n * R)
    leaves = Tensor(s), Tensor(gamma), Tensor(np.zeros(R))
    known = (mean.reshape(-1, 1), variance.reshape(-1, 1)) if population else (None, None)
    each = batch_normalize(leaves[0], leaves[1].reshape(-1, 1), 0.0, *known, 0.1).reshape(n, R, B)
    ((each.sum(axis=0) + leaves[2].reshape(-1, 1)) * d).sum().backward()
    s_hat = s.copy()
    kernels.normalize_forward(s_hat, mean, variance, inverse, 0.1, population, ones, scratch)
    np.testing.assert_allclose((gamma[:, None] * s_hat).reshape(n, R, B), each.data, rtol=1e-12)
    kernels.normalize_backward(d.copy(), s_hat, gamma * inverse, d_gamma, d_beta, population, ones, scratch)
    for actual, leaf in zip((s_hat, d_gamma, d_beta), leaves, strict=True):
        np.testing.assert_allclose(actual, leaf.grad, rtol=1e-9, atol=1e-12)


@dense_and_tokens
@batch_and_population
@pytest.mark.parametrize("mask_dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["no mask", "evaluation", "independent", "boolean", "shape ()"])
def test_float32_in_is_float32_out(kind, mask_dtype, population, tokens):
    arguments = bn_problem(5, 16, tokens=tokens, dtype=np.float32)
    options = masks(kind, 5, H, 16, inputs=True, dtype=mask_dtype)
    options["statistics"] = known_statistics(5) if population else None
    results = run(bn_lstm, arguments, options)
    assert {array.dtype for array in results.values()} == {np.dtype(np.float32)}
    wide = {n: v.astype(np.float64) if v.dtype.kind == "f" else v for n, v in arguments.items()}
    exact = run(bn_lstm, wide, options)
    assert_same({n: array.astype(np.float64) for n, array in results.items()}, exact, 1e-4)


def test_arguments_and_masks_are_not_changed_and_may_have_any_layout():
    arguments, options = bn_problem(5, 3), masks("independent", 5, H, 3, inputs=True)
    expected = run(bn_lstm, arguments, options)
    moved = [{n: np.asfortranarray(v) for n, v in given.items()} for given in (arguments, options)]
    for array in (*moved[0].values(), *moved[1].values()):
        array.flags.writeable = False
    assert_same(run(bn_lstm, *moved), expected, 1e-12)
    assert_same(run(bn_lstm, arguments, tensors(options)), expected, 0.0)


def test_without_a_backward_pass_only_the_outputs_grow_with_the_sequence():
    """Population statistics are re-estimated with 5,000 examples at once."""
    arguments = bn_problem(200, 50)
    tracemalloc.start()
    h, c = bn_lstm(**arguments)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * (h.data.nbytes + c.data.nbytes)  # with all gates and sums it is 8 times that


@dense_and_tokens
@pytest.mark.parametrize("columns", [1, 6, 1000])
@pytest.mark.parametrize("worth_following", [1, 1000])
def test_gradients_of_weights_do_not_depend_on_how_many_steps_are_taken_at_once_or_in_which_thread(
    monkeypatch, worth_following, columns, tokens
):
    arguments = bn_problem(7, 3, tokens=tokens)
    options = masks("independent", 7, H, 3) | {"hidden_mask": hidden_mask("constant hidden mask", 7, H, 3)}
    monkeypatch.setattr(cpu_tokens, "PART", columns)
    monkeypatch.setattr(sequence, "WORTH_FOLLOWER", worth_following)
    monkeypatch.setattr(sequence, "cores", lambda: 2)
    assert_same(run(bn_lstm, arguments, options), run(bn_lstm_unrolled, arguments, options), ROUNDING)


# ---- errors are sentences


@pytest.mark.parametrize(
    ("name", "shape", "sentence"),
    [
        ("x", (7, D + 1, 3), "x must be (T, 5, B) for W_x (16, 5), or integers (T, B); got (7, 6, 3)"),
        ("c0", (H + 1, 3), "initial states must be (H, B) = (4, 3), got (5, 3)"),
        ("W_h", (3 * H, H), "W_h must be (4H, H), got (12, 4)"),
        ("gamma_x", (H,), "gamma_x must be (16,) for H = 4 hidden units, got (4,)"),
        ("gamma_h", (4 * H, 1), "gamma_h must be (16,) for H = 4 hidden units, got (16, 1)"),
        ("gamma_c", (4 * H,), "gamma_c must be (4,) for H = 4 hidden units, got (16,)"),
        ("beta_c", (), "beta_c must be (4,) for H = 4 hidden units, got ()"),
    ],
)
def test_wrong_shape_is_named_beside_the_right_one(name, shape, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        bn_lstm(**bn_problem(7, 3) | {name: np.zeros(shape)})
