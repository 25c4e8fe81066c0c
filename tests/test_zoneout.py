"""Zoneout: what must hold of any right implementation, its variants and their masks (PAPER.md F)."""

from __future__ import annotations

import math

import numpy as np
import pytest

from minizone import Tensor, Zoneout, gradcheck, lstm
from minizone.backend import stream
from minizone.layers import LSTM
from minizone.layers.regularizers import input_mask
from minizone.zoneout import zone_out
from tests.helpers import ZONEOUTS, D, H, assert_same, lstm_by_hand, masks, problem, rng, run
from tests.helpers.zoneout import SIGMAS, B, T, both, candidates, close_to, drawn, inputs, layer, lstm_of, states

# ---- what must hold


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("zero", [0, 0.0, np.zeros((T, H, B)), np.zeros((T, H, B), bool), np.zeros(())])
def test_no_zoneout_is_the_plain_lstm_bit_for_bit(zero, dtype):
    arguments = problem(T, B, dtype=dtype)
    plain, zoned = run(lstm, arguments, {}), run(lstm, arguments, {"keep_h": zero, "keep_c": zero})
    assert_same(zoned, plain, 0.0)


@pytest.mark.parametrize("generator", [None, rng()])
def test_layer_without_zoneout_is_the_plain_lstm_bit_for_bit(generator):
    made, x = layer(Zoneout(0.0, 0.0)), inputs()
    h, (_, c) = made(x, rng=generator)
    expected_h, expected_c = lstm_of(made, x, None, None)
    assert np.array_equal(h.data, expected_h.data) and np.array_equal(c.data, expected_c.data[-1])


@pytest.mark.parametrize("one", [1, 1.0], ids=["int", "float"])
@pytest.mark.parametrize("kind", ["shared", "whole_layer", "gaussian", "independent", "static"])
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_certain_zoneout_freezes_both_states_for_ever(training, kind, one):
    z = Zoneout(
        one, one, **({} if kind == "independent" else {"static_steps": 3} if kind == "static" else {kind: True})
    )
    made = LSTM(D, H, zoneout=z, rng=rng())
    h0, c0 = rng().standard_normal((2, H, B)).astype(np.float32)
    h, (last_h, last_c) = made(inputs(2000).astype(np.float32), (Tensor(h0), Tensor(c0)), rng() if training else None)
    assert h.dtype == np.float32
    assert np.array_equal(h.data, np.broadcast_to(h0, h.shape))
    assert np.array_equal(last_h.data, h0) and np.array_equal(last_c.data, c0)


@both
def test_frozen_cells_leave_the_states_moving_with_their_candidates(function):
    arguments = problem(T, B)
    h, c = states(function, arguments, keep_c=np.ones((T, H, B)), keep_h=np.zeros((T, H, B)))
    assert np.array_equal(c, np.broadcast_to(arguments["c0"], c.shape))
    expected = lstm_by_hand(**arguments, keep_c=1.0)
    assert_same({"h": h}, {"h": expected["new_h"]}, 1e-14)
    assert (h[1:] != h[:-1]).all()


@both
def test_first_step_from_zero_is_the_plain_value_or_zero(function):
    arguments = problem(1, 50)
    arguments["h0"], arguments["c0"] = np.zeros((2, H, 50))
    keep_h, keep_c = drawn(Zoneout(0.5, 0.5), 1, H, 50)
    plain, zoned = states(function, arguments), states(function, arguments, keep_h=keep_h, keep_c=keep_c)
    for new, value, keep in zip(plain, zoned, (keep_h, keep_c), strict=True):
        assert np.array_equal(value, np.where(keep == 1, 0.0, new))
        assert 0 < keep.sum() < keep.size


@both
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["independent", "shared", "whole layer", "static"])
def test_every_element_is_exactly_its_old_or_its_new_value(kind, dtype, function):
    arguments = problem(T, B, dtype=dtype)
    options = masks(kind, T, H, B, dtype=dtype)
    keep_h, keep_c = (np.broadcast_to(options[name], (T, H, B)) for name in ("keep_h", "keep_c"))
    h, c = states(function, arguments, **options)
    new_h, new_c = candidates(function, arguments, keep_h, keep_c)
    for value, new, keep, start in ((h, new_h, keep_h, arguments["h0"]), (c, new_c, keep_c, arguments["c0"])):
        old = np.concatenate([start[None], value[:-1]])
        assert np.array_equal(value, np.where(keep == 1, old, new))
        assert value.dtype == dtype and (old != new).all() and 0 < keep.sum() < keep.size


def test_evaluation_is_deterministic():
    made, x = layer(Zoneout(0.5, 0.05), drop_inputs=0.2), inputs()
    assert np.array_equal(made(x)[0].data, made(x)[0].data)


@both
def test_evaluation_is_linear_in_the_probability_for_one_step(function):
    arguments = problem(1, B)
    new_h, new_c = states(function, arguments)
    for z in (0.0, 0.05, 0.5, 0.9, 1.0):
        h, c = states(function, arguments, keep_h=z, keep_c=1 - z)
        expected = {"h": z * arguments["h0"] + (1 - z) * new_h, "c": (1 - z) * arguments["c0"] + z * new_c}
        assert_same({"h": h, "c": c}, expected, 1e-14)


@pytest.mark.parametrize("kind", ["independent", "shared", "whole layer", "gaussian"])
def test_average_of_a_training_step_over_masks_is_the_evaluation_step(kind):
    """Within 5 standard errors, 1.3 % of |old - new|; one draw deviates by |old - new| sqrt(z (1 - z))."""
    draws, z = 40_000, ZONEOUTS[kind]
    made, x = layer(z), np.repeat(inputs(1, 1), draws, axis=-1)
    h, (_, c) = made(x, rng=rng())
    mean_h, (_, mean_c) = made(x[..., :1])
    new_h, new_c = lstm_of(made, x[..., :1], None, None)
    for value, expected, new, old, p in (
        (h.data[0], mean_h.data[0], new_h.data[0], made.h0.data, z.states),
        (c.data, mean_c.data, new_c.data[0], made.c0.data, z.cells),
    ):
        bound = SIGMAS * np.abs(old - new[:, 0]) * math.sqrt(p * (1 - p) / draws)  # (H,)
        assert (np.abs(value.mean(axis=1) - expected[:, 0]) <= bound).all()


def test_last_output_is_the_returned_state_and_the_state_carries_a_sequence_on():
    made, x = layer(Zoneout(0.5, 0.05), drop_inputs=0.2), inputs()
    whole, (last_h, last_c) = made(x)
    assert np.array_equal(whole.data[-1], last_h.data)
    first, state = made(x[:2])
    rest, (rest_h, rest_c) = made(x[2:], state)
    assert_same({"h": np.concatenate([first.data, rest.data])}, {"h": whole.data}, 1e-14)
    assert_same({"h": rest_h.data, "c": rest_c.data}, {"h": last_h.data, "c": last_c.data}, 1e-14)


# ---- the variants


def test_static_masks_are_the_same_for_updates_and_examples_and_stay_in_evaluation():
    made, x = layer(Zoneout(0.5, 0.5, static_steps=T)), np.repeat(inputs(columns=1), B, axis=-1)
    evaluation, _ = made(x)
    for generator in (rng(1), rng(2)):
        h, _ = made(x, rng=generator)
        assert np.array_equal(h.data, evaluation.data)
    assert np.array_equal(evaluation.data, np.repeat(evaluation.data[..., :1], B, axis=-1))
    start = np.repeat(made.h0.data[:, None], B, axis=1)
    waited = evaluation.data == np.concatenate([start[None], evaluation.data[:-1]])
    assert 0 < waited.sum() < waited.size, "masks of 0 and 1, not their expectation"
    again, other = layer(made.zoneout), layer(made.zoneout, seed=1)
    assert np.array_equal(again(x)[0].data, evaluation.data), "the seed of the layer decides"
    keeps = [layer_.zoneout.masks(T, H, B, None, rng(layer_._static_seed))[0] for layer_ in (made, other)]
    assert not np.array_equal(*keeps)


@pytest.mark.parametrize("whole_layer", [False, True])
def test_static_masks_differ_from_step_to_step_and_repeat_after_n(whole_layer):
    z = Zoneout(0.5, 0.5, static_steps=30, whole_layer=whole_layer)
    for training in (None, rng()):
        keep_h, keep_c = z.masks(70, 40, B, training, rng(9))
        assert keep_h.shape == keep_c.shape == (70, 1 if whole_layer else 40, 1)
        assert np.array_equal(keep_h[30:60], keep_h[:30]) and np.array_equal(keep_h[60:], keep_h[:10])
        assert np.array_equal(keep_c[30:], keep_c[:40])
        assert np.array_equal(keep_h, keep_c) == whole_layer
        assert len(np.unique(keep_h[:30].reshape(30, -1), axis=0)) == (2 if whole_layer else 30)
        shorter, _ = z.masks(10, 40, B, training, rng(9))
        assert np.array_equal(shorter, keep_h[:10])


def test_whole_layer_draws_once_for_a_step_of_an_example_for_cells_and_states_together():
    z = Zoneout(0.4, 0.4, whole_layer=True)
    keep_h, keep_c = drawn(z)
    assert keep_h is keep_c and keep_h.shape == (200, 1, 50)
    assert close_to(keep_h, 0.4, 0.5)
    made = layer(z)
    h, (_, last_c) = made(inputs(30, 20), rng=rng())
    waited = h.data[1:] == h.data[:-1]  # (29, H, 20)
    assert (waited == waited[:, :1]).all() and 0 < waited[:, 0].sum() < waited[:, 0].size
    before = lstm_of(made, inputs(30, 20), *z.masks(30, H, 20, rng(), None, np.float64))[1].data[-2]
    assert np.array_equal((last_c.data == before).all(axis=0), waited[-1, 0])


def test_shared_mask_serves_cells_and_states():
    keep_h, keep_c = drawn(Zoneout(0.4, 0.4, shared=True))
    assert keep_h is keep_c and keep_h.shape == (200, 30, 50)
    assert close_to(keep_h, 0.4, 0.5)


@pytest.mark.parametrize(
    "options", [{}, {"shared": True}, {"whole_layer": True}, {"gaussian": True}, {"static_steps": 5}]
)
@pytest.mark.parametrize("training", [False, True])
def test_probability_zero_means_no_mask_at_all(training, options):
    generator = rng() if training else None
    keep_h, keep_c = Zoneout(cells=0.5, **options).masks(T, H, B, generator, rng())
    assert keep_h is None and keep_c is not None
    keep_h, keep_c = Zoneout(states=0.5, **options).masks(T, H, B, generator, rng())
    assert keep_h is not None and keep_c is None


def test_gaussian_masks_have_the_mean_and_variance_of_the_binary_ones():
    z = Zoneout(0.5, 0.05, gaussian=True)
    keep_h, keep_c = drawn(z)
    for keep, p in ((keep_h, z.states), (keep_c, z.cells)):
        variance = p * (1 - p)
        assert close_to(keep, p, math.sqrt(variance))
        assert close_to((keep - p) ** 2, variance, math.sqrt(2) * variance)
        assert close_to(((keep - p) ** 2 > variance), math.erfc(math.sqrt(0.5)), 0.5), "68 % within one deviation"
    assert close_to((keep_h - z.states) * (keep_c - z.cells), 0, math.sqrt(0.25 * 0.0475)), "one each"


@pytest.mark.parametrize("drop", [0.0, 0.3, 1.0])
def test_recurrent_dropout_mask_keeps_what_is_not_dropped(drop):
    keep = input_mask(drop, 50, 40, 30, rng())
    if drop == 0:
        assert keep is None and input_mask(drop, T, H, B, None) is None
    else:
        assert keep.shape == (50, 40, 30) and keep.dtype == np.float32
        assert close_to(keep, 1 - drop, math.sqrt(drop * (1 - drop)))
        assert input_mask(drop, T, H, B, None) == 1 - drop


def test_recurrent_dropout_of_the_layer_is_drawn_in_training_and_does_not_zone_out():
    """The authors' pMNIST script could not have the one without the other."""
    made, x = layer(Zoneout(), drop_inputs=0.5), inputs()
    h, (_, c) = made(x, rng=rng())
    expected_h, expected_c = lstm_of(made, x, None, None, input_mask=input_mask(0.5, T, H, B, rng()))
    assert_same({"h": h.data, "c": c.data}, {"h": expected_h.data, "c": expected_c.data[-1]}, 0.0)
    _, (_, only_forgotten) = layer(Zoneout(), drop_inputs=1.0)(x, rng=rng())
    assert (np.abs(only_forgotten.data) < np.abs(made.c0.data[:, None])).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ZONEOUTS)
def test_masks_have_the_dtype_that_was_asked_for(kind, dtype):
    assert {keep.dtype for keep in ZONEOUTS[kind].masks(T, H, B, rng(), rng(), dtype)} == {np.dtype(dtype)}


# ---- replay


GENERATORS = {
    "default_rng": np.random.default_rng,
    "MT19937": lambda seed: np.random.Generator(np.random.MT19937(seed)),
    "Philox": lambda seed: np.random.Generator(np.random.Philox(seed)),
    "SFC64": lambda seed: np.random.Generator(np.random.SFC64(seed)),
    "keyed stream": lambda seed: stream(seed, "masks", 1, 2),
}


@pytest.mark.parametrize("make", GENERATORS.values(), ids=GENERATORS)
@pytest.mark.parametrize("z", [ZONEOUTS[kind] for kind in ("independent", "shared", "whole layer", "gaussian")])
def test_same_stream_gives_the_same_output_and_another_stream_another(make, z):
    made, x = layer(z), inputs(10)
    first, again, other = (made(x, rng=make(seed))[0].data for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_without_stream_nothing_is_drawn_and_with_it_no_global_state():
    made, x = layer(Zoneout(0.5, 0.5), drop_inputs=0.5), inputs()
    before = repr(np.random.get_state())  # noqa: NPY002  (to see that nobody uses it)
    made(x, rng=rng())
    made(x)
    assert repr(np.random.get_state()) == before  # noqa: NPY002


# ---- probabilities that are none


@pytest.mark.parametrize("p", [-0.1, 1.5, float("nan"), float("inf"), -float("inf")])
def test_probability_outside_0_to_1_is_named(p):
    for make, name in (
        (lambda: Zoneout(cells=p), "the zoneout probability of cells"),
        (lambda: Zoneout(states=p), "the zoneout probability of states"),
        (lambda: LSTM(D, H, drop_inputs=p, rng=rng()), "drop_inputs"),
        (lambda: input_mask(p, T, H, B, None), "the drop probability of the input gate"),
    ):
        with pytest.raises(ValueError, match=rf"^{name} must be in \[0, 1\], got {p}$"):
            make()


@pytest.mark.parametrize("option", ["shared", "whole_layer"])
def test_one_mask_with_two_probabilities_is_refused_with_both(option):
    with pytest.raises(ValueError, match=r"one probability, got 0\.5 for cells and 0\.05 for states"):
        Zoneout(0.5, 0.05, **{option: True})
    assert Zoneout(0.5, 0.0, **{option: True}).cells == Zoneout(0.0, 0.5, **{option: True}).states == 0.5


def test_negative_number_of_static_steps_is_refused():
    with pytest.raises(ValueError, match="static_steps must be 0 or more, got -1"):
        Zoneout(0.5, 0.5, static_steps=-1)


# ---- the one line


@pytest.mark.parametrize("shape", [(), (H, B), (H, 1), (B,), (1, B)])
def test_zone_out_mixes_old_and_new(shape):
    old, new = rng().standard_normal((2, H, B))
    keep = rng(1).random(shape)
    for make in (np.asarray, Tensor):
        mixed = zone_out(make(old), make(new), keep)
        np.testing.assert_array_equal(getattr(mixed, "data", mixed) + np.zeros(1), keep * old + (1 - keep) * new)
    gradcheck(lambda old, new: zone_out(old, new, keep), old, new)
    assert zone_out(old, new, None) is new
