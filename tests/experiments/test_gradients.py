"""The gradients task: norms that back-propagation has in hand, against those of the tape; its files; its refusals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import minizone.experiments.gradients as gradients
from minizone import Tensor, UserError
from minizone.autograd.ops import softmax_cross_entropy, tanh
from minizone.experiments.gradients import METHODS, PRESETS, Gradients, normalized_rnn_gradients, run
from minizone.recurrent.cells import batch_normalize
from minizone.runs.training import Interrupted

TINY = replace(PRESETS["quick"], dataset="digits", hidden_size=8, batch_size=20, train_examples=60, eval_examples=20)


def quiet(*words):
    pass


def experiment(**changes):
    return Gradients(replace(TINY, **changes), say=quiet)


def state_c(norms):
    return norms[gradients.KINDS.index("state c")]


def test_without_zoneout_state_and_candidate_of_h_are_one_and_c_ends_at_nothing():
    """c_T of an LSTM reaches no output but through h_T, which is made from the candidate."""
    c, h, new_c, new_h = experiment().measure()
    np.testing.assert_array_equal(h, new_h)
    assert c[-1] == 0 and new_c[-1] > 0
    assert (c[:-1] > 0).all() and (h > 0).all()


def test_zoned_out_units_pass_gradient_by_the_state_and_not_by_the_candidate():
    """With a shared mask and z = 1 no candidate matters, and the state hands its gradient on unchanged."""
    measured = experiment(z_prob_cells=1.0, z_prob_states=1.0, share_mask=True).measure()
    _, h, new_c, new_h = measured
    assert not new_c.any() and not new_h.any()
    np.testing.assert_array_equal(h, np.full_like(h, h[0]))


def test_measuring_changes_nothing():
    made = experiment(batch_normalization=True)
    before = {name: array.copy() for name, array in made.model.state_dict().items()}
    again = made.measure()
    np.testing.assert_array_equal(made.norms[0], again)
    for name, array in made.model.state_dict().items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)
    assert all(parameter.grad is None for parameter in made.model.parameters())


def test_batch_normalized_rnn_agrees_with_the_tape():
    """The tape needs a zero added to every state to have something to differentiate by, as the originals did."""
    rng = np.random.default_rng(0)
    T, B, H, gamma = 6, 5, 12, 0.7
    pixels, labels = rng.random((T, 1, B)), rng.integers(0, 10, B)
    norms = normalized_rnn_gradients(pixels, labels, [gamma], H, 0.3, seed=4)[0]

    draws = gradients.stream(4, "batch-normalized rnn")
    W_x = gradients.init.orthogonal(draws, (H, 1), np.float64)
    W_out = gradients.init.orthogonal(draws, (10, H), np.float64)
    h = Tensor(0.3 * draws.standard_normal((H, B)), requires_grad=False)
    zeros = [Tensor(np.zeros((H, B))) for _ in range(T)]
    for t in range(T):
        s = h + Tensor(W_x @ pixels[t])
        h = tanh(batch_normalize(s, gamma)) + zeros[t]
    softmax_cross_entropy(Tensor(W_out) @ h, labels).backward()
    expected = [np.sqrt((zero.grad**2).sum(axis=0)).mean() for zero in zeros]
    np.testing.assert_allclose(norms, expected, rtol=1e-9)


def test_a_large_gain_lets_the_gradient_vanish_and_a_small_one_does_not():
    """The claim of Figure 1a of Cooijmans et al. (2017)."""
    pixels, labels = experiment().batches(1)[0]
    small, large = normalized_rnn_gradients(pixels, labels, (0.1, 1.0), 50, 0.1, seed=1)
    assert small[0] > 0.1 * small[-1] and large[0] < 1e-3 * large[-1]


def test_a_run_writes_the_norms_of_every_method_and_epoch_and_the_figure(tmp_path):
    said = []
    found = run(TINY, tmp_path, said.append)
    with np.load(tmp_path / "gradients.npz") as file:
        assert set(file) == set(found)
        assert file["norms"].shape == (len(METHODS), TINY.epochs + 1, len(gradients.KINDS), 64)
        assert list(file["methods"]) == list(METHODS) and file["gamma_norms"].shape == (10, 64)
        assert np.isfinite(file["norms"]).all()
        np.testing.assert_array_equal(file["norms"][0, 0], experiment().measure())
    assert (tmp_path / "gradients.png").read_bytes().startswith(b"\x89PNG")
    assert any("first quarter" in line for line in said)


def test_an_interrupted_run_goes_on_to_the_same_norms(tmp_path):
    whole = run(TINY, tmp_path / "whole", quiet)
    with pytest.raises(Interrupted):
        run(replace(TINY, max_minutes=1e-6), tmp_path / "cut", quiet)
    resumed = run(replace(TINY, resume=True), tmp_path / "cut", quiet)
    np.testing.assert_array_equal(resumed["norms"], whole["norms"])
    np.testing.assert_array_equal(resumed["gamma_norms"], whole["gamma_norms"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"z_prob_cells": 0.5}, "--z-prob-cells itself"),
        ({"drop_prob_igates": 0.5}, "--drop-prob-igates itself"),
        ({"rnn_type": "gru"}, "--rnn-type gru"),
        ({"initial_noise": float("nan")}, "--initial-noise"),
    ],
)
def test_what_the_task_sets_itself_is_refused(changes, said):
    with pytest.raises(UserError, match=said):
        replace(TINY, **changes).check()
