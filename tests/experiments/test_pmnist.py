"""Permuted sequential MNIST: minibatches, initial states, the error, batch normalization's two kinds of statistics."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import minizone.experiments.pmnist as pmnist
import minizone.runs.training as training
from minizone import UserError
from minizone.autograd.ops import softmax_cross_entropy
from minizone.data import permutation
from minizone.experiments.pmnist import PMNIST, PRESETS, REFERENCE, PMNISTModel
from minizone.runs.files import load_arrays, read_rows
from minizone.runs.training import Interrupted, fit
from tests.helpers import real_data, rng
from tests.helpers.runs import quiet, same_run

TINY = replace(
    PRESETS["quick"], dataset="digits", hidden_size=6, batch_size=20, epochs=2, train_examples=50, eval_examples=30
)
BN = {"batch_normalization": True}


def experiment(**changes) -> PMNIST:
    settings = replace(TINY, **changes)
    settings.check()
    return PMNIST(settings, say=quiet)


def run(folder, **changes):
    return fit(experiment(**changes), folder, say=quiet)


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    monkeypatch.setattr(training, "plot_runs", quiet)


def copies(made: PMNIST) -> dict[str, np.ndarray]:
    return {name: array.copy() for name, array in made.model.state_dict().items()}


def assert_identical(actual, expected) -> None:
    assert actual.keys() == expected.keys()
    for name in expected:
        np.testing.assert_array_equal(actual[name], expected[name], err_msg=name)


# ---- the model


@pytest.mark.parametrize(("options", "count"), [({}, 42_010), (BN, 43_010)])
def test_the_models_of_the_paper_have_42010_and_43010_parameters(options, count):
    settings = replace(PRESETS["paper"], initialization="glorot", **options)
    model = PMNISTModel(settings, 784, rng())
    assert sum(p.data.size for p in model.parameters()) == count
    made = PMNIST(replace(settings, dataset="digits"), say=quiet)
    assert sum(p.data.size for p in made.model.parameters()) == count, "one pixel a time step, however many there are"
    assert len(model.normalized_layers) == len(options)
    if options:
        (layer,) = model.normalized_layers
        assert layer.mean.shape == layer.variance.shape == (784, 900)
        assert made.model.normalized_layers[0].mean.shape == (64, 900)


def test_gains_of_batch_normalization_are_those_of_the_settings():
    (layer,) = experiment(**BN, initial_gamma=0.3, initial_beta=-0.2, epsilon=1e-3).model.normalized_layers
    for name, value in (("gamma_x", 0.3), ("gamma_h", 0.3), ("gamma_c", 0.3), ("beta_c", -0.2)):
        assert (getattr(layer, name).data == np.float32(value)).all(), name
    assert layer.epsilon == 1e-3
    assert len(experiment(**BN, num_layers=2).model.normalized_layers) == 2


# ---- order of the pixels, and minibatches


def test_the_true_permutation_is_one_and_the_same_for_every_seed():
    orders = [experiment(seed=seed).order for seed in (1, 2, 7)]
    assert sorted(orders[0]) == list(range(64)) and list(orders[0]) != list(range(64))
    assert all(np.array_equal(order, orders[0]) for order in orders)
    assert list(experiment(unpermuted=True).order) == list(range(64))


def test_the_authors_permutation_loses_pixels_and_is_the_same_for_every_seed():
    """docs/original-code.md, data: drawn with replacement, so that 283 of 784 pixels are never seen."""
    drawn = permutation(784, "authors")
    assert len(drawn) == 784 and len(np.unique(drawn)) == 501
    assert list(drawn[:10]) == [37, 235, 72, 767, 715, 645, 144, 129, 583, 749]
    orders = [experiment(seed=seed, permutation="authors").order for seed in (1, 2)]
    assert np.array_equal(*orders) and np.array_equal(orders[0], permutation(64, "authors"))
    assert len(orders[0]) == 64 > len(np.unique(orders[0]))


@pytest.mark.parametrize("options", [{}, {"unpermuted": True}, {"permutation": "authors"}])
def test_pixels_of_a_minibatch_are_those_of_its_images_in_the_order(options):
    made = experiment(**options)
    batches = made.batches(1)
    assert [pixels.shape for pixels, _ in batches] == [(64, 1, 20), (64, 1, 20), (64, 1, 10)]
    for k, (pixels, labels) in enumerate(batches):
        assert pixels.dtype == np.float32 and pixels.min() >= 0 and pixels.max() <= 1
        for n, label in enumerate(labels):
            image = made.data.train[batches.image_order[20 * k + n : 20 * k + n + 1]]
            assert label == image.labels[0]
            assert np.array_equal(pixels[:, 0, n], image.pixels[0].ravel()[made.order] / np.float32(16))


def columns(batches) -> list[bytes]:
    return [pixels[:, 0, n].tobytes() + bytes([labels[n]]) for pixels, labels in batches for n in range(len(labels))]


def test_minibatches_have_every_image_once_an_epoch_in_another_order():
    made, every = experiment(train_examples=0), experiment(train_examples=0).data.train
    first, second = columns(made.batches(1)), columns(made.batches(2))
    assert len(first) == len(every) == 1257 and sorted(first) == sorted(second) and first != second
    assert first == columns(experiment(train_examples=0).batches(1)) != columns(experiment(seed=2).batches(1))
    assert sorted(first) == sorted(columns(made.minibatches(every)))
    for outside in (63, -1):
        with pytest.raises(IndexError, match=f"minibatch {outside} of 63"):
            made.batches(1)[outside]


def test_pooling_is_of_mnist_only(monkeypatch):
    assert experiment(pool=4).data.steps == 64
    digits = experiment().data
    monkeypatch.setattr(pmnist, "load_images", lambda *options, **more: replace(digits, name="MNIST"))
    made = experiment(pool=2)
    assert made.data.steps == len(made.order) == 16 and made.batches(1)[0][0].shape == (16, 1, 20)
    with pytest.raises(UserError, match="8x8 cannot be pooled in blocks of 3x3"):
        experiment(pool=3)


def test_train_and_eval_examples_are_the_first_ones():
    made = experiment(train_examples=7, eval_examples=3)
    assert [len(split) for split in (made.data.train, made.data.valid, made.data.test)] == [7, 3, 3]


# ---- what enters the network


@pytest.mark.parametrize("layers", [1, 2])
def test_noise_is_on_the_initial_hidden_states_in_training_only(layers):
    made = experiment(noise=0.25, hidden_size=50, num_layers=layers)
    pixels = np.concatenate([made.batches(1)[0][0]] * 10, axis=2)
    started = made.model.initial_states(pixels, rng())
    for layer, (h, c) in zip(made.model.rnn.layers, started, strict=True):
        noise = h.data - layer.h0.data[:, None]
        assert noise.shape == (50, 200) and h.dtype == np.float32
        assert abs(noise.mean()) < 5 * 0.25 / 100 and abs(noise.std() / 0.25 - 1) < 5 / 20_000**0.5
        assert np.array_equal(c.data, np.repeat(layer.c0.data[:, None], 200, axis=1))
    assert layers == 1 or not np.array_equal(started[0][0].data, started[1][0].data)
    plain = experiment(hidden_size=50, num_layers=layers).model
    assert np.array_equal(made.model(pixels)[0].data, plain(pixels)[0].data)
    assert not np.array_equal(made.model(pixels, rng())[0].data, plain(pixels, rng())[0].data)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_summarize_adds_the_mean_pixel_to_the_initial_hidden_state_always(kind):
    made, plain = experiment(summarize=True, rnn_type=kind), experiment(rnn_type=kind)
    pixels, _ = made.batches(1)[0]
    for generator in (None, rng()):
        (h, *rest), *_ = made.model.initial_states(pixels, generator)
        assert np.array_equal(h.data, np.repeat(pixels.mean(axis=0), 6, axis=0))
        assert not any(each.data.any() for each in rest)
    h = plain.model.rnn.layers[0](pixels, (h, *rest))[0]
    assert np.array_equal(made.model(pixels)[0].data, plain.model.output(h[-1]).data)


def test_dropped_pixels_are_0_in_training_and_all_shrunk_in_evaluation():
    made, plain = experiment(input_drop=0.3), experiment()
    pixels = 0.1 + made.batches(1)[0][0]
    entered = []
    (layer,) = made.model.rnn.layers
    states = layer.states
    layer.states = lambda x, *options: (entered.append(x), states(x, *options))[1]
    for seed in (1, 2):
        made.model(pixels, rng(seed))
        dropped = entered[-1] == 0
        assert np.array_equal(entered[-1], np.where(dropped, 0, pixels))
        assert abs(dropped.mean() - 0.3) < 5 * (0.21 / pixels.size) ** 0.5
    assert not np.array_equal(*entered)
    assert np.array_equal(made.model(pixels)[0].data, plain.model(pixels * 0.7)[0].data)


def test_loss_is_the_cross_entropy_of_the_last_state_and_measures_errors():
    made = experiment(z_prob_cells=0.5, z_prob_states=0.5, share_mask=True)
    pixels, labels = made.batches(1)[0]
    scores, _ = made.model(pixels, rng(3))
    loss, wrong, n = made.loss((pixels, labels), rng(3))
    assert scores.shape == (10, 20) and n == 20
    assert float(loss) == float(softmax_cross_entropy(scores, labels))
    assert wrong == np.mean([np.argmax(scores.data[:, k]) != labels[k] for k in range(20)])


# ---- the error


@pytest.mark.parametrize("options", [{}, BN, {"input_drop": 0.2, "dropout": 0.5, "num_layers": 2}])
def test_error_is_the_share_of_wrong_classes_image_by_image(options):
    made = experiment(**options)
    images = made.data.valid
    error = made.validate()
    wrong = 0
    for k in range(len(images)):
        one = images.pixels[k].ravel()[made.order].astype(np.float32) / 16
        wrong += int(made.model(one[:, None, None])[0].data[:, 0].argmax()) != images.labels[k]
    assert made.error(images) == error == wrong / 30


def test_a_model_whose_scores_are_not_numbers_is_never_right():
    """`argmax` takes the first NaN for the largest number, and one label in ten is 0."""
    made = experiment()
    made.model.output.b.data[:] = np.nan
    assert made.error(made.data.valid) == 1
    assert made.loss(made.batches(1)[0], rng()).measure == 1


def test_validation_and_test_use_the_mean_statistics_of_the_first_minibatches():
    """Averages that lag behind the parameters choose the best epoch by chance."""
    made = experiment(**BN, z_prob_cells=0.15, z_prob_states=0.15, share_mask=True, statistics_batches=2)
    for batch in made.batches(1):
        made.loss(batch, rng())
    lagging = copies(made)
    valid = made.validate()
    exact = copies(made)
    assert {n for n in exact if not np.array_equal(exact[n], lagging[n])} == {
        "rnn.layers.0.mean",
        "rnn.layers.0.variance",
    }
    batches = made.minibatches(made.data.train)  # of 20, 20 and 10 images
    W = made.model.rnn.layers[0].W_x.data
    means = np.mean([(W @ batches[k][0]).mean(axis=2) for k in range(2)], axis=0)  # (T, 4H)
    np.testing.assert_allclose(exact["rnn.layers.0.mean"][:, :24], means, rtol=1e-4, atol=1e-6)
    assert not np.allclose(lagging["rnn.layers.0.mean"][:, :24], means, rtol=1e-2)
    assert made.error(made.data.valid) == valid
    assert made.test() == {"test_error": made.error(made.data.test)}
    assert_identical(copies(made), exact)


def test_more_statistics_batches_than_there_are_minibatches_are_all_of_them():
    made, other = experiment(**BN, statistics_batches=3), experiment(**BN, statistics_batches=1000)
    made.validate()
    other.validate()
    assert_identical(copies(made), copies(other))


# ---- runs


@pytest.mark.parametrize("options", [{}, {**BN, "noise": 0.1}])
def test_test_cost_adds_the_columns_and_changes_nothing_else(options, tmp_path):
    summary = run(tmp_path / "with", test_cost=True, **options)
    plain = run(tmp_path / "without", **options)
    rows, others = (read_rows(tmp_path / name / "metrics.jsonl") for name in ("with", "without"))
    assert all(list(row) == [*other, "test_error"] for row, other in zip(rows, others, strict=True))
    assert rows[summary["best_epoch"] - 1]["test_error"] == summary["test_error"]
    clock = {"seconds", "updates_per_second"}
    assert {k: v for k, v in summary.items() if k not in clock} == {k: v for k, v in plain.items() if k not in clock}


@pytest.mark.parametrize(
    "options", [{**BN, "noise": 0.1, "input_drop": 0.2}, {"weight_noise": 0.1, "static_mask": True}]
)
def test_a_run_cut_after_every_update_and_resumed_equals_the_uninterrupted_one(options, tmp_path):
    options = {"z_prob_cells": 0.15, "z_prob_states": 0.15, "share_mask": True, **options}
    run(tmp_path / "whole", **options)
    stops = 0
    while True:
        try:
            run(tmp_path / "cut", max_minutes=1e-9, resume=stops > 0, **options)
            break
        except Interrupted:
            stops += 1
    assert stops == 6
    same_run(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.parametrize("file", ["best", "last"])
def test_a_warm_start_has_the_parameters_of_the_other_run(file, tmp_path):
    summary = run(tmp_path / "first", epochs=1, learning_rate=0.02)
    path = str(tmp_path / "first" / f"{file}.safetensors")
    still = {"load_path": path, "algorithm": "sgd", "learning_rate": 1e-30, "epochs": 1, "seed": 9}
    assert run(tmp_path / "second", **still)["best_valid_error"] == summary["best_valid_error"]
    (one, _), (other, _) = (load_arrays(tmp_path / name / "best.safetensors") for name in ("first", "second"))
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_allclose(other[name], one[name], atol=1e-25, err_msg=name)
    last, _ = load_arrays(tmp_path / "second" / "last.safetensors")
    assert last["optimizer.steps"][0] == 3, "a fresh optimizer: only its own updates"


@pytest.mark.parametrize(
    ("first", "changes"),
    [({}, {"hidden_size": 7}), ({}, BN), (BN, {}), ({}, {"rnn_type": "gru"}), ({"rnn_type": "gru"}, {})],
)
def test_a_warm_start_from_another_model_is_refused(first, changes, tmp_path):
    run(tmp_path / "first", epochs=1, **first)
    path = tmp_path / "first" / "best.safetensors"
    with pytest.raises(UserError, match=r"best.safetensors holds another model: "):
        run(tmp_path / "second", load_path=str(path), **changes)
    with pytest.raises(UserError, match="there is no checkpoint"):
        run(tmp_path / "second", load_path=str(tmp_path / "nowhere.safetensors"))
    assert not (tmp_path / "second").exists()


def test_numbers_of_the_paper_are_shown_beside_runs_on_the_whole_of_mnist_only(monkeypatch):
    whole = {"train_examples": 0, "eval_examples": 0, "pool": 1}
    assert experiment(**whole).reference == {}, "the stand-in"
    digits = experiment(**whole).data
    monkeypatch.setattr(pmnist, "load_images", lambda *options, **more: replace(digits, name="MNIST"))
    assert experiment(**whole).reference is REFERENCE
    assert experiment(**whole, permutation="authors").reference is REFERENCE
    for part in ({"train_examples": 10}, {"eval_examples": 10}, {"pool": 2}, {"unpermuted": True}):
        assert experiment(**{**whole, **part}).reference == {}, part


def test_the_paper_preset_on_mnist():
    made = PMNIST(replace(PRESETS["paper"], dataset="mnist", data_dir=str(real_data("mnist"))), say=quiet)
    assert len(made.batches(1)) == 500 and made.batches(1)[0][0].shape == (784, 1, 100)
    assert made.reference is REFERENCE and sum(p.data.size for p in made.model.parameters()) == 42_010
    assert np.array_equal(made.order, permutation(784))
