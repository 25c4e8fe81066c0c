"""The gradients task: its norms against those of the tape, and its files."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import minizone.experiments.gradients as gradients
from minizone import Tensor
from minizone.autograd.ops import softmax_cross_entropy, tanh
from minizone.experiments.gradients import METHODS, PRESETS, Gradients, normalized_rnn_gradients, norms_over_time, run
from minizone.recurrent.cells import batch_normalize, lstm_cell
from minizone.runs.training import Interrupted

TINY = replace(PRESETS["quick"], dataset="digits", hidden_size=8, batch_size=20, train_examples=60, eval_examples=20)


def quiet(*words):
    pass


def experiment(**changes):
    return Gradients(replace(TINY, **changes), say=quiet)


def test_c_has_no_gradient_at_the_last_step_and_h_has():
    """The loss depends on the last cell only through the last h, which is made from the candidate."""
    c, h = experiment().gradient_norms()
    assert c[-1] == 0 and (c[:-1] > 0).all() and (h > 0).all()


def test_zoned_out_units_pass_their_gradient_on_unchanged():
    """With z = 1 nothing moves, and dLoss/dh is the same at all steps."""
    c, h = experiment(z_prob_cells=1.0, z_prob_states=1.0, share_mask=True).gradient_norms()
    assert h[0] > 0 and not c.any()
    np.testing.assert_array_equal(h, np.full_like(h, h[0]))


def test_norms_are_of_the_loss_of_a_minibatch_with_the_noise_of_training():
    """Against the tape, which differentiates by zeros that are added to h and c."""
    made = experiment(z_prob_cells=0.5, z_prob_states=0.2)
    pixels, labels = made.batches(1)[0]
    (layer,) = made.model.rnn.layers
    T, _, B = pixels.shape
    masks = layer.masks(T, B, gradients.stream(made.settings.seed, "probe"))
    h, c = layer.initial_state(B)
    zeros = [(Tensor(np.zeros_like(h.data)), Tensor(np.zeros_like(c.data))) for _ in range(T)]
    for t in range(T):
        keep_h, keep_c = masks["keep_h"][t], masks["keep_c"][t]
        h, c = lstm_cell(pixels[t], h, c, layer.W_x, layer.W_h, layer.b, keep_h=keep_h, keep_c=keep_c)
        h, c = h + zeros[t][0], c + zeros[t][1]
    softmax_cross_entropy(made.model.output(h), labels).backward()
    dh = [np.sqrt((zero_h.grad**2).sum(axis=0)).mean() for zero_h, _ in zeros]
    dc = [np.sqrt((zero_c.grad**2).sum(axis=0)).mean() for _, zero_c in zeros[:-1]]
    np.testing.assert_allclose(made.norms[0], [[*dc, 0], dh], rtol=1e-4)


def test_measuring_changes_nothing():
    made = experiment(batch_normalization=True)
    before = {name: array.copy() for name, array in made.model.state_dict().items()}
    again = made.gradient_norms()
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
        np.testing.assert_array_equal(file["norms"][0, 0], experiment().gradient_norms())
    assert (tmp_path / "gradients.png").read_bytes().startswith(b"\x89PNG")
    assert any("first quarter" in line for line in said)


def test_an_interrupted_run_goes_on_to_the_same_norms(tmp_path):
    whole = run(TINY, tmp_path / "whole", quiet)
    with pytest.raises(Interrupted):
        run(replace(TINY, max_minutes=1e-6), tmp_path / "cut", quiet)
    resumed = run(replace(TINY, resume=True), tmp_path / "cut", quiet)
    np.testing.assert_array_equal(resumed["norms"], whole["norms"])
    np.testing.assert_array_equal(resumed["gamma_norms"], whole["gamma_norms"])


def test_the_norm_of_a_vanishing_gradient_is_not_0():
    """Its square would be 0 in float32, and the curve would end where the gradient is 1e-23."""
    norms = norms_over_time(np.full((2, 4, 3), 1e-30, np.float32))
    np.testing.assert_allclose(norms, 2e-30, rtol=1e-6)
