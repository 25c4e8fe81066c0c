"""The peers compute what minizone computes: in PyTorch and JAX, on a CPU."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import minizone
from minizone.autograd.ops import softmax_cross_entropy
from minizone.backend import stream
from minizone.experiments import char_ptb, pmnist, word_ptb

CELLS = ["lstm", "gru", "rnn", "bn_lstm"]
TASKS = ["char-ptb", "pmnist", "word-ptb"]


@pytest.fixture
def pytorch(benchmarks):
    pytest.importorskip("torch")
    import pytorch

    return pytorch


def close(found, expected):
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12 * max(1.0, abs(expected).max()))


def problem(cell):
    """Inputs, weights, states and masks in float64, columns as examples."""
    import problems

    T, B, _, H = problems.TINY_SHAPE
    rng = np.random.default_rng(1)
    a = {name: array.astype(float) for name, array in problems.arrays(cell, problems.TINY_SHAPE).items()}
    weights = [a["W_x"], a["W_h"], a["b"]]
    if cell == "bn_lstm":
        weights += [rng.standard_normal(size) for size in (4 * H, 4 * H, H, H)]
    n = 2 if problems.has_cells(cell) else 1
    masks = [rng.integers(0, 2, (T, H, B)).astype(float) for _ in range(n)]  # of h, and of c
    return a["x"], a["dh"], weights, [np.zeros((H, B))] * n, masks


def ours(cell):
    """All h (T, H, B), and the gradients of the weights."""
    x, dh, weights, states, masks = problem(cell)
    tensors = [minizone.Tensor(weight) for weight in weights]
    keeps = dict(zip(("keep_h", "keep_c"), masks, strict=False))
    h = getattr(minizone, cell)(x, *states, *tensors, **keeps)
    h = h[0] if isinstance(h, tuple) else h
    h.backward(dh)
    return [h.data, *(tensor.grad for tensor in tensors)]


@pytest.mark.parametrize("cell", [*CELLS, "LSTMCell"])
def test_the_loops_in_pytorch_have_our_states_and_gradients(pytorch, cell):
    import torch

    ours_is = "lstm" if cell == "LSTMCell" else cell
    x, dh, weights, states, masks = problem(ours_is)
    x, dh, *masks = (torch.tensor(each.transpose(0, 2, 1).copy()) for each in (x, dh, *masks))
    tensors = [torch.tensor(weight, requires_grad=True) for weight in weights]
    states = tuple(torch.tensor(state.T.copy()) for state in states)
    h = pytorch.sequence(cell, x, tensors, states, tuple(masks))
    h.backward(dh)
    expected = ours(ours_is)
    close(h.detach().numpy().transpose(0, 2, 1), expected[0])
    for tensor, gradient in zip(tensors, expected[1:], strict=True):
        close(tensor.grad.numpy(), gradient)


@pytest.mark.parametrize("cell", CELLS)
def test_the_scan_in_jax_has_our_states(benchmarks, cell):
    pytest.importorskip("jax")
    import jax_scan

    x, _, weights, _, masks = problem(cell)
    names = ("W_x", "W_h", "b", "gamma_x", "gamma_h", "gamma_c", "beta_c")
    x, *masks = (each.transpose(0, 2, 1).astype("float32") for each in (x, *masks))
    w = {name: weight.astype("float32") for name, weight in zip(names, weights, strict=False)}
    h = jax_scan.sequence(cell, x, w, masks[0], masks[-1])
    np.testing.assert_allclose(np.asarray(h).transpose(0, 2, 1), ours(cell)[0], rtol=1e-4, atol=1e-5)


def test_every_repetition_draws_masks_of_the_right_share(pytorch, monkeypatch):
    seen = []

    def spy(cell, x, weights, states, masks, sequence=pytorch.sequence):
        seen.append([mask.clone() for mask in masks])
        return sequence(cell, x, weights, states, masks)

    monkeypatch.setattr(pytorch, "sequence", spy)
    built = pytorch.layer("lstm", (50, 20, 7, 40))
    for _ in range(2):
        built.repeat()
    (keep_h, keep_c), (_, second) = seen
    assert abs(float(keep_c.mean()) - 0.5) < 0.01 and abs(float(keep_h.mean()) - 0.05) < 0.005
    assert not keep_c.equal(second)


def test_words_are_dropped_before_between_and_after_the_layers(pytorch, monkeypatch):
    import problems

    dropped = []
    monkeypatch.setattr(pytorch.F, "dropout", lambda x, p: dropped.append((tuple(x.shape), p)) or x)
    for task in TASKS:
        pytorch.update(task, problems.TINY_TASKS[task]).repeat()
    assert dropped == 3 * [((4, 3, 5), 0.65)]


def our_model(task, shape):
    """minizone's model in float64 with random parameters, its tensors by name, and none of its own dropout."""
    T, _, V, H, layers, z_c, z_h = shape
    module = {"char-ptb": char_ptb, "pmnist": pmnist, "word-ptb": word_ptb}[task]
    settings = replace(
        module.PRESETS["paper"], hidden_size=H, num_layers=layers, z_prob_cells=z_c, z_prob_states=z_h, dropout=0.0
    )
    rng = stream(0, "weights")
    if task == "pmnist":
        model = pmnist.PMNISTModel(settings, T, rng)
    else:
        model = (char_ptb.CharModel if task == "char-ptb" else word_ptb.WordModel)(V, settings, rng)
    numbers = np.random.default_rng(0)
    for parameter in model.parameters():
        parameter.data = numbers.standard_normal(parameter.shape)
    return model


def pairs_of_parameters(ours, theirs):
    found = [(ours.output.W, theirs.W_out), (ours.output.b, theirs.b_out)]
    for layer, weights in zip(ours.rnn.layers, theirs.layers, strict=True):
        found += [(getattr(layer, name), weights[name]) for name in weights]
    if theirs.embedding is not None:
        found.append((ours.embedding.W, theirs.embedding))
    return found


@pytest.mark.parametrize("one_hot", [False, True])
@pytest.mark.parametrize("task", TASKS)
def test_the_models_in_pytorch_have_our_loss_and_gradients(pytorch, task, one_hot):
    import problems
    import torch

    shape = problems.TINY_TASKS[task]
    T, B = shape[:2]
    ours, theirs = our_model(task, shape), pytorch.Model(task, shape).double()
    theirs.dropout = 0.0
    pairs = pairs_of_parameters(ours, theirs)
    assert len(pairs) == len(ours.parameters()) == len(list(theirs.parameters()))
    for mine, other in pairs:  # an embedding is transposed
        other.data = torch.tensor(mine.data if other is not theirs.embedding else mine.data.T.copy())
    rng, masks = stream(0, "noise"), []
    for layer in ours.rnn.layers:  # those that the model is going to draw
        drawn = layer.masks(T, B, rng)
        masks.append(tuple(torch.tensor(drawn[n].transpose(0, 2, 1).copy()) for n in ("keep_h", "keep_c")))

    x, targets = problems.batch(task, shape)
    scores, _ = ours(x.astype(float) if task == "pmnist" else x, rng=stream(0, "noise"))
    loss = softmax_cross_entropy(scores, targets)
    loss.backward()
    x = torch.tensor(x.transpose(0, 2, 1).astype(float)) if task == "pmnist" else torch.tensor(x)
    their_loss = theirs.loss(x, torch.tensor(targets), masks, one_hot)
    their_loss.backward()
    close(their_loss.detach().numpy(), np.asarray(loss.data))
    for mine, other in pairs:
        close(other.grad.numpy() if other is not theirs.embedding else other.grad.numpy().T, mine.grad)


@pytest.mark.parametrize("task", TASKS)
def test_updates_in_pytorch_change_all_parameters(pytorch, task):
    import problems

    built = pytorch.update(task, problems.TINY_TASKS[task])
    _, model = built.holds
    before = [parameter.detach().clone() for parameter in model.parameters()]
    for _ in range(3):
        built.repeat()
    for old, new in zip(before, model.parameters(), strict=True):
        assert bool(new.isfinite().all()) and not old.equal(new)
