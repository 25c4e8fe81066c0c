"""The regularizers other than zoneout: their masks, which weights get noise, and the values of the penalties."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import minizone.runs.training as training
from minizone import Tensor, gradcheck
from minizone.backend import stream
from minizone.experiments.char_ptb import PRESETS, CharPTB
from minizone.layers import LSTM, Dropout, Linear, Module
from minizone.layers.regularizers import (
    dropout_mask,
    input_mask,
    l2_penalty,
    norm_stabilizer,
    weight_noise,
)
from minizone.runs.training import fit
from tests.helpers import normal, rng

LARGE = (20, 100, 100)  # T, H, B of masks whose share of zeros is measured
N = 20 * 100 * 100

both_dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def quiet(*words):
    pass


class TwoLayers(Module):
    def __init__(self, seed: int = 0, dtype=np.float32):
        generator = rng(seed)
        self.lstm = LSTM(30, 40, rng=generator, dtype=dtype)
        self.output = Linear(40, 30, rng=generator, dtype=dtype)

    def __call__(self, x):
        return self.output(self.lstm(x)[0])


MATRICES = ["lstm.W_x", "lstm.W_h", "output.W"]


def copies(model: Module) -> dict:
    return {name: array.copy() for name, array in model.state_dict().items()}


def assert_identical(actual: dict, expected: dict) -> None:
    assert actual.keys() == expected.keys()
    for name in expected:
        assert actual[name].tobytes() == expected[name].tobytes(), name


# ---- dropout


@both_dtypes
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_mask_is_0_or_the_inverse_of_what_is_left(p, dtype):
    mask = dropout_mask(p, LARGE, rng(), dtype)
    assert mask.shape == LARGE and mask.dtype == dtype
    assert set(np.unique(mask)) == {0, dtype(1 / (1 - p))}
    assert abs((mask == 0).sum() - p * N) < 5 * (N * p * (1 - p)) ** 0.5
    assert np.array_equal(mask, dropout_mask(p, LARGE, rng(), dtype))
    assert not np.array_equal(mask, dropout_mask(p, LARGE, rng(1), dtype))


def test_there_is_no_dropout_mask_in_evaluation_and_none_for_probability_0():
    assert dropout_mask(0.5, LARGE, None) is None
    assert dropout_mask(0.0, LARGE, rng()) is None


def test_dropout_of_everything_is_a_mask_of_zeros_without_a_warning():
    assert not dropout_mask(1.0, (3, 4), rng()).any()  # a warning is an error in all tests


@pytest.mark.parametrize(("variational", "steps"), [(False, 2), (True, 1)])
def test_dropout_is_a_product_also_of_the_gradient(variational, steps):
    x, mask = Tensor(normal(2, 3, 4)), dropout_mask(0.5, (steps, 3, 4), rng(), np.float64)
    layer = Dropout(0.5, variational=variational)
    assert layer(x) is x and Dropout(0.0)(x, rng()) is x
    y = layer(x, rng())
    y.backward(normal(2, 3, 4))
    assert np.array_equal(y.data, x.data * mask)
    assert np.array_equal(x.grad, normal(2, 3, 4) * mask)


# ---- recurrent dropout


@both_dtypes
@pytest.mark.parametrize("p", [0.05, 0.5, 0.7])
def test_input_mask_drops_with_its_probability_and_rescales_nothing(p, dtype):
    mask = input_mask(p, *LARGE, rng(), dtype)
    assert mask.shape == LARGE and mask.dtype == dtype
    assert set(np.unique(mask)) == {0, 1}
    assert abs((mask == 0).sum() - p * N) < 5 * (N * p * (1 - p)) ** 0.5
    assert input_mask(p, *LARGE, None, dtype) == 1 - p


def test_input_mask_of_probability_0_is_none_and_of_1_is_zeros():
    assert input_mask(0.0, 2, 3, 4, rng()) is None and input_mask(0.0, 2, 3, 4, None) is None
    assert not input_mask(1.0, 2, 3, 4, rng()).any()
    assert input_mask(1.0, 2, 3, 4, None) == 0


@pytest.mark.parametrize("p", [-0.1, 1.5, float("nan"), float("inf")])
def test_what_is_no_probability_is_named(p):
    with pytest.raises(ValueError, match=rf"^the dropout probability must be in \[0, 1\], got {p}$"):
        dropout_mask(p, (2, 2), rng())
    with pytest.raises(ValueError, match=rf"^the drop probability of the input gate must be in \[0, 1\], got {p}$"):
        input_mask(p, 2, 2, 2, None)


# ---- weight noise


@both_dtypes
def test_weight_noise_is_on_every_matrix_and_on_nothing_else(dtype):
    model, sigma = TwoLayers(dtype=dtype), 0.075
    clean = copies(model)
    with weight_noise(model, sigma, rng()):
        noise = {name: array - clean[name] for name, array in model.state_dict().items()}
        assert {p.dtype for p in model.parameters()} == {np.dtype(dtype)}
    assert [name for name, difference in noise.items() if difference.any()] == MATRICES
    for name in MATRICES:
        n = noise[name].size
        assert abs(noise[name].mean()) < 5 * sigma / n**0.5, name
        assert abs(noise[name].std() / sigma - 1) < 5 / (2 * n) ** 0.5, name
    drawn = np.concatenate([noise[name].ravel() for name in MATRICES])
    assert len(np.unique(drawn.astype(np.float32).round(9))) > 0.99 * drawn.size, "no element's noise is another's"


def test_weights_are_restored_to_the_bit_also_after_an_exception():
    model = TwoLayers()
    clean, arrays = copies(model), model.state_dict()
    with weight_noise(model, 1e3, rng()):
        pass
    assert_identical(model.state_dict(), clean)
    with pytest.raises(KeyboardInterrupt), weight_noise(model, 1e3, rng()):
        raise KeyboardInterrupt
    assert_identical(model.state_dict(), clean)
    assert all(model.state_dict()[name] is array for name, array in arrays.items())


def test_the_same_generator_gives_the_same_noise_and_another_one_another():
    model, seen = TwoLayers(), []
    for seed in (1, 1, 2):
        with weight_noise(model, 0.1, rng(seed)):
            seen.append(copies(model))
    assert_identical(seen[0], seen[1])
    assert not any(np.array_equal(seen[0][name], seen[2][name]) for name in MATRICES)


def test_noise_of_0_draws_nothing_and_changes_nothing():
    model, generator = TwoLayers(), rng()
    before, clean = generator.bit_generator.state, copies(model)
    with weight_noise(model, 0.0, generator):
        assert_identical(model.state_dict(), clean)
    assert generator.bit_generator.state == before


def gradients(model: TwoLayers) -> dict:
    y = model(normal(3, 30, 2).astype(np.float32))
    (y * y).sum().backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = None
    return found


def test_gradient_inside_is_that_at_the_noisy_weights():
    model, other = TwoLayers(0), TwoLayers(1)
    plain = gradients(model)
    with weight_noise(model, 0.1, rng()):
        other.load_state_dict(copies(model))
        noisy = gradients(model)
    assert_identical(noisy, gradients(other))
    assert not np.array_equal(noisy["lstm.W_h"], plain["lstm.W_h"])


def test_an_update_applies_the_gradient_at_the_noisy_weights_to_the_clean_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "plot_runs", quiet)
    settings = replace(
        PRESETS["quick"], dataset="manual", hidden_size=6, batch_size=10, seq_len=6, epochs=1, train_symbols=40,
        eval_symbols=40, algorithm="sgd", learning_rate=0.5, clipping=0.0, weight_noise=0.3, drop_prob_igates=0.2,
    )  # fmt: skip
    experiment, trained = CharPTB(settings, say=quiet), CharPTB(settings, say=quiet)
    (batch,) = experiment.batches(1)
    with weight_noise(experiment.model, 0.3, stream(settings.seed, "weight noise", 1, 1)):
        experiment.loss(batch, stream(settings.seed, "noise", 1, 1)).loss.backward()
    for parameter in experiment.model.parameters():
        parameter.data -= np.float32(0.5) * parameter.grad
    summary = fit(trained, tmp_path / "run", say=quiet)
    for name, array in trained.model.state_dict().items():
        np.testing.assert_allclose(array, experiment.model.state_dict()[name], rtol=1e-6, atol=1e-7, err_msg=name)
    assert summary["best_valid_bpc"] == pytest.approx(experiment.validate(), rel=1e-6), "no noise in evaluation"


# ---- the norm stabilizer


def stabilizer_by_hand(states: np.ndarray) -> float:
    T, _, B = states.shape
    norms = np.sqrt((states**2).sum(axis=1))
    return float(((norms[1:] - norms[:-1]) ** 2).sum() / T / B)


@pytest.mark.parametrize("shape", [(5, 4, 3), (2, 1, 1), (7, 3, 1), (1, 4, 3)])
def test_norm_stabilizer_is_the_formula(shape):
    s = normal(*shape)
    assert float(norm_stabilizer(Tensor(s))) == pytest.approx(stabilizer_by_hand(s), rel=1e-13)


def test_norm_stabilizer_of_norms_3_5_5_in_two_units():
    """(5 - 3)^2 + (5 - 5)^2 over three steps; the state before the first step does not count."""
    states = np.array([[3.0, 0.0], [-3.0, 4.0], [0.0, -5.0]])[:, :, None]
    assert float(norm_stabilizer(Tensor(states))) == pytest.approx(4 / 3, rel=1e-15)
    two = np.concatenate([states, np.zeros_like(states)], axis=2)  # and an example that stays at 0: a mean over both
    assert float(norm_stabilizer(Tensor(two))) == pytest.approx(2 / 3, rel=1e-15)


@pytest.mark.parametrize("method", ["complex", "difference"])
def test_gradient_of_the_norm_stabilizer(method):
    gradcheck(norm_stabilizer, normal(4, 3, 2), method=method)


@both_dtypes
@pytest.mark.parametrize("zero", [slice(None), 0, 2, slice(0, 1)])
def test_states_of_zero_have_a_finite_penalty_and_gradient(zero, dtype):
    s = Tensor(normal(4, 3, 2).astype(dtype))
    s.data[zero] = 0
    penalty = norm_stabilizer(s)
    penalty.backward()
    assert penalty.dtype == s.grad.dtype == dtype
    assert np.isfinite(float(penalty)) and np.isfinite(s.grad).all()
    assert float(penalty) == pytest.approx(stabilizer_by_hand(s.data.astype(np.float64)), rel=1e-5, abs=1e-15)
    assert not s.grad[zero].any(), "a norm of 0 has no direction"


# ---- l2


@both_dtypes
def test_l2_penalty_is_the_sum_of_squares_of_all_matrices(dtype):
    model = TwoLayers(dtype=dtype)
    for parameter in model.parameters():
        parameter.data[...] = rng(parameter.data.size).standard_normal(parameter.shape)
    penalty = l2_penalty(model)
    expected = sum((model.state_dict()[name].astype(np.float64) ** 2).sum() for name in MATRICES)
    assert float(penalty) == pytest.approx(expected, rel=1e-5) and penalty.dtype == dtype
    penalty.backward()
    for name, parameter in model.named_parameters():
        if name in MATRICES:
            np.testing.assert_array_equal(parameter.grad, 2 * parameter.data, err_msg=name)
        else:
            assert parameter.grad is None, name
