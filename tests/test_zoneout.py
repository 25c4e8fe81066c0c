"""All kinds of zoneout masks, and what a layer computes with them. tests/conformance has the published bugs."""

from __future__ import annotations

import math

import numpy as np
import pytest

from minizone import Tensor, Zoneout, gradcheck, lstm
from minizone.backend import stream
from minizone.layers import LSTM
from minizone.layers.regularizers import input_mask
from minizone.zoneout import zone_out
from tests.helpers import ZONEOUTS, D, H, assert_same, rng

T, B = 6, 3
STANDARD_ERRORS = 5  # of a mean over independent draws from a fixed stream: a wrong probability is hundreds away

STATIC = Zoneout(0.5, 0.3, static_steps=200)
every_kind = pytest.mark.parametrize("kind", ZONEOUTS)


def drawn(zoneout: Zoneout, steps: int = 200, units: int = 30, examples: int = 50):
    """keep_h and keep_c of training, each (T, H, B) or what broadcasts to it."""
    return zoneout.masks(steps, units, examples, rng(), rng(9), np.float64)


def mean_is(values: np.ndarray, expected: float, deviation: float) -> bool:
    """Whether the mean is as near to the expectation as the standard deviation of one draw allows."""
    return bool(np.abs(np.mean(values) - expected) <= STANDARD_ERRORS * deviation / math.sqrt(np.size(values)))


def layer(zoneout: Zoneout, seed: int = 0, **options) -> LSTM:
    """A small layer in float64, with initial states and biases that are not zero."""
    made = LSTM(D, H, zoneout=zoneout, rng=rng(seed), dtype=np.float64, **options)
    for parameter in (made.b, made.h0, made.c0):
        parameter.data[...] = rng(5).standard_normal(parameter.shape)
    return made


def lstm_of(made: LSTM, x: np.ndarray, keep_h, keep_c, **options) -> tuple[np.ndarray, np.ndarray]:
    """h and c, each (T, H, B), that the layer computes with these masks."""
    h0, c0 = (np.repeat(p.data[:, None], x.shape[-1], axis=1) for p in (made.h0, made.c0))
    h, c = lstm(x, h0, c0, made.W_x, made.W_h, made.b, keep_h=keep_h, keep_c=keep_c, **options)
    return h.data, c.data


def inputs(steps: int = T, examples: int = B) -> np.ndarray:
    return rng(3).standard_normal((steps, D, examples))


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


# ---- masks


@pytest.mark.parametrize("z", [ZONEOUTS["independent"], ZONEOUTS["shared"], ZONEOUTS["whole layer"], STATIC])
def test_masks_are_1_with_probability_z_and_else_0(z):
    """The probability is that of keeping; nothing is rescaled; evaluation gets z itself."""
    keep_h, keep_c = drawn(z)
    for keep, p in ((keep_h, z.states), (keep_c, z.cells)):
        assert set(np.unique(keep)) == {0, 1}
        assert mean_is(keep, p, math.sqrt(p * (1 - p)))
    if z is not STATIC:
        assert z.masks(T, H, B, None) == (z.states, z.cells)


@pytest.mark.parametrize("kind", ["independent", "shared", "whole layer"])
def test_masks_are_not_reused_over_time_or_over_examples(kind):
    for z, keep in zip((ZONEOUTS[kind].states, ZONEOUTS[kind].cells), drawn(ZONEOUTS[kind]), strict=True):
        assert mean_is(keep[1:] * keep[:-1], z * z, 0.5), "neighbouring steps"
        assert mean_is(keep[2:] * keep[:1], z * keep[0].mean(), 0.5), "every step and the first"
        assert mean_is(keep[..., 1:] * keep[..., :-1], z * z, 0.5), "neighbouring examples"
        assert len(np.unique(keep.reshape(len(keep), -1), axis=0)) == len(keep)


@pytest.mark.parametrize("z", [1e-6, 1e-5, 0.25, 1 / 3, 1 - 1e-5])
def test_small_probability_is_not_treated_as_none(z):
    """NNTrainer #1921. Nor may z be rounded to the random bits that decide."""
    for keep in drawn(Zoneout(z, z), 400, 100, 100):
        assert mean_is(keep, z, math.sqrt(z * (1 - z)))
        assert 0 < keep.mean() < 1 or z == 1e-6
    assert Zoneout(z, z).masks(T, H, B, None) == (z, z)


@every_kind
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_probability_zero_means_no_mask_at_all(training, kind):
    options = {"shared": "shared", "whole layer": "whole_layer", "gaussian": "gaussian", "static": "static_steps"}
    option = {options[kind]: 5 if kind == "static" else True} if kind in options else {}
    generator = rng() if training else None
    keep_h, keep_c = Zoneout(cells=0.5, **option).masks(T, H, B, generator, rng())
    assert keep_h is None and keep_c is not None
    keep_h, keep_c = Zoneout(states=0.5, **option).masks(T, H, B, generator, rng())
    assert keep_h is not None and keep_c is None


@every_kind
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_masks_have_the_dtype_that_was_asked_for(dtype, kind):
    assert {keep.dtype for keep in ZONEOUTS[kind].masks(T, H, B, rng(), rng(), dtype)} == {np.dtype(dtype)}


def test_shared_mask_serves_cells_and_states():
    keep_h, keep_c = drawn(Zoneout(0.4, 0.4, shared=True))
    assert keep_h is keep_c and keep_h.shape == (200, 30, 50)


def test_whole_layer_draws_once_for_a_step_of_an_example_for_cells_and_states_together():
    z = Zoneout(0.4, 0.4, whole_layer=True)
    keep_h, keep_c = drawn(z)
    assert keep_h is keep_c and keep_h.shape == (200, 1, 50)
    h, (_, _) = layer(z)(inputs(30, 20), rng=rng())
    kept = h.data[1:] == h.data[:-1]  # (29, H, 20)
    assert (kept == kept[:, :1]).all() and 0 < kept[:, 0].sum() < kept[:, 0].size


def test_gaussian_masks_have_the_mean_and_variance_of_the_binary_ones():
    z = Zoneout(0.5, 0.05, gaussian=True)
    keep_h, keep_c = drawn(z)
    for keep, p in ((keep_h, z.states), (keep_c, z.cells)):
        variance = p * (1 - p)
        assert mean_is(keep, p, math.sqrt(variance))
        assert mean_is((keep - p) ** 2, variance, math.sqrt(2) * variance)
        assert mean_is(((keep - p) ** 2 > variance), math.erfc(math.sqrt(0.5)), 0.5), "68 % within one deviation"
    assert mean_is((keep_h - z.states) * (keep_c - z.cells), 0, math.sqrt(0.25 * 0.0475)), "one each"


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


# ---- what a layer computes with them


@every_kind
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_layer_computes_the_lstm_with_the_masks_of_zoneout_and_of_recurrent_dropout(training, kind):
    """In evaluation these are the expectations: the probabilities, and 1 - drop for recurrent dropout."""
    made, x = layer(ZONEOUTS[kind], drop_inputs=0.3), inputs()
    generator = rng() if training else None
    static = rng(made._static_seed) if kind == "static" else None
    keep_h, keep_c = made.zoneout.masks(T, H, B, generator, static, np.float64)
    keep_in = input_mask(0.3, T, H, B, generator, np.float64) if training else 1 - 0.3
    expected_h, expected_c = lstm_of(made, x, keep_h, keep_c, input_mask=keep_in)
    h, (last_h, last_c) = made(x, rng=rng() if training else None)
    assert_same({"h": h.data, "c": last_c.data}, {"h": expected_h, "c": expected_c[-1]}, 0.0)
    assert np.array_equal(last_h.data, h.data[-1])
    assert np.abs(h.data - lstm_of(made, x, None, None)[0]).max() > 0.01


@pytest.mark.parametrize("kind", ["independent", "shared", "whole layer", "gaussian"])
def test_average_of_a_training_step_over_masks_is_the_evaluation_step(kind):
    """Within 5 standard errors, 1.3 % of |old - new|; one draw deviates by |old - new| sqrt(z (1 - z))."""
    draws, z = 40_000, ZONEOUTS[kind]
    made, x = layer(z), inputs(1, 1)
    h, (_, c) = made(np.repeat(x, draws, axis=-1), rng=rng())
    mean_h, (_, mean_c) = made(x)
    new_h, new_c = lstm_of(made, x, None, None)
    for value, expected, new, old, p in (
        (h.data[0], mean_h.data[0], new_h[0], made.h0.data, z.states),
        (c.data, mean_c.data, new_c[0], made.c0.data, z.cells),
    ):
        allowed = STANDARD_ERRORS * np.abs(old - new[:, 0]) * math.sqrt(p * (1 - p) / draws)  # (H,)
        assert (np.abs(value.mean(axis=1) - expected[:, 0]) <= allowed).all()


@pytest.mark.parametrize("one", [1, 1.0], ids=["int", "float"])
@pytest.mark.parametrize(
    "option", [{}, {"shared": True}, {"whole_layer": True}, {"gaussian": True}, {"static_steps": 3}]
)
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_certain_zoneout_freezes_both_states_for_ever(training, option, one):
    made = LSTM(D, H, zoneout=Zoneout(one, one, **option), rng=rng())
    h0, c0 = rng().standard_normal((2, H, B)).astype(np.float32)
    h, (last_h, last_c) = made(inputs(500).astype(np.float32), (Tensor(h0), Tensor(c0)), rng() if training else None)
    assert h.dtype == np.float32
    assert np.array_equal(h.data, np.broadcast_to(h0, h.shape))
    assert np.array_equal(last_h.data, h0) and np.array_equal(last_c.data, c0)


def test_recurrent_dropout_does_not_zone_out():
    """The authors' pMNIST script could not have the one without the other."""
    made, x = layer(Zoneout(), drop_inputs=1.0), inputs()
    h, (_, only_forgotten) = made(x, rng=rng())
    assert (np.abs(only_forgotten.data) < np.abs(made.c0.data[:, None])).all()
    assert (h.data[1:] != h.data[:-1]).all()


# ---- replay


GENERATORS = {
    "default_rng": np.random.default_rng,
    "MT19937": lambda seed: np.random.Generator(np.random.MT19937(seed)),
    "Philox": lambda seed: np.random.Generator(np.random.Philox(seed)),
    "keyed stream": lambda seed: stream(seed, "masks", 1, 2),
}


@pytest.mark.parametrize("make", GENERATORS.values(), ids=GENERATORS)
@pytest.mark.parametrize("kind", ["independent", "shared", "whole layer", "gaussian"])
def test_same_generator_gives_the_same_output_and_the_next_update_another(kind, make):
    made, x = layer(ZONEOUTS[kind]), inputs(10)
    generator = make(1)
    first, next_update = made(x, rng=generator)[0].data, made(x, rng=generator)[0].data
    assert np.array_equal(first, made(x, rng=make(1))[0].data)
    assert not np.array_equal(first, next_update)
    assert not np.array_equal(first, made(x, rng=make(2))[0].data)


def test_no_global_generator_is_used():
    made, x = layer(Zoneout(0.5, 0.5), drop_inputs=0.5), inputs()
    before = repr(np.random.get_state())  # noqa: NPY002  (to see that nothing uses it)
    made(x, rng=rng())
    made(x)
    assert repr(np.random.get_state()) == before  # noqa: NPY002


# ---- errors are sentences


@pytest.mark.parametrize("p", [-0.1, 1.5, float("nan"), float("inf")])
def test_probability_outside_0_to_1_is_named(p):
    for make, name in (
        (lambda: Zoneout(cells=p), "the zoneout probability of cells"),
        (lambda: Zoneout(states=p), "the zoneout probability of states"),
        (lambda: LSTM(D, H, drop_inputs=p, rng=rng()), "drop_inputs"),
        (lambda: LSTM(D, H, drop_hidden=p, rng=rng()), "drop_hidden"),
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
