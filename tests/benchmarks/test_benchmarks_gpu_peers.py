"""The loops and models in PyTorch that benchmarks/gpu.py times: on a CPU, in float64, they have minizone's numbers."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from minizone.backend import stream

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import gpu_ours

SHAPE = (5, 3, 2, 4)
TASKS = {"char-ptb": (5, 3, 7, 4, 1, 0.5, 0.05), "pmnist": (9, 3, 10, 4, 1, 0.15, 0.15),
         "word-ptb": (4, 3, 11, 5, 2, 0.25, 0.025)}  # fmt: skip
VARIANTS = [
    *((cell, mix) for cell in ("lstm", "gru", "rnn", "bn_lstm") for mix in ("loop, where", "loop, lerp")),
    ("lstm", "LSTMCell, where"), ("lstm", "LSTMCell, lerp"),
]  # fmt: skip


def close(found, expected):
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12 * max(1.0, abs(expected).max()))


@pytest.fixture(scope="module")
def peers_of_gpu():
    pytest.importorskip("torch")
    import gpu_peers

    return gpu_peers


@pytest.mark.parametrize(("cell", "variant"), VARIANTS)
def test_the_loops_in_pytorch_have_our_states_and_gradients(peers_of_gpu, cell, variant):
    ours = gpu_ours.layer(cell, True, SHAPE, "cpu", "float64").check()
    theirs = peers_of_gpu.layer(cell, variant, "eager", SHAPE, "cpu", "float64").check()
    assert theirs.keys() == ours.keys() and len(ours) == (8 if cell == "bn_lstm" else 4)
    for name in ours:
        close(theirs[name], ours[name])


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_compiled_loop_has_our_states_and_gradients(peers_of_gpu):
    ours = gpu_ours.layer("lstm", True, SHAPE, "cpu", "float64").check()
    theirs = peers_of_gpu.layer("lstm", "loop, where", "compile", SHAPE, "cpu", "float64").check()
    for name in ours:
        close(theirs[name], ours[name])


@pytest.mark.parametrize("variant", ["loop, where", "loop, lerp"])
def test_every_repetition_draws_masks_of_the_right_share(peers_of_gpu, variant):
    import torch

    torch.manual_seed(0)
    layer = peers_of_gpu.layer("lstm", variant, "eager", (50, 20, 7, 40), "cpu")
    model = peers_of_gpu.Model("char-ptb", (50, 20, 7, 40, 1, 0.5, 0.05), variant, "cpu")
    for draw, (keep_h, keep_c) in ((layer.repeat, layer.holds), (model.draw, model.keeps[0])):
        draw()
        first = keep_c.clone()
        draw()
        assert abs(float(keep_c.float().mean()) - 0.5) < 0.01 and abs(float(keep_h.float().mean()) - 0.05) < 0.005
        assert not torch.equal(first, keep_c)


def test_words_are_dropped_before_between_and_after_the_layers(peers_of_gpu, monkeypatch):
    dropped = []
    monkeypatch.setattr(peers_of_gpu.F, "dropout", lambda x, p: dropped.append((tuple(x.shape), p)) or x)
    peers_of_gpu.Model("word-ptb", TASKS["word-ptb"], "where", "cpu").forward()
    assert dropped == 3 * [((4, 3, 5), 0.65)]


@pytest.mark.parametrize("task", TASKS)
def test_the_models_in_pytorch_have_our_loss_and_gradients(peers_of_gpu, task):
    import torch

    torch.manual_seed(0)
    shape = TASKS[task]
    experiment = gpu_ours.random_experiment(task, shape, 100, "cpu")
    ours, theirs = experiment.model, peers_of_gpu.Model(task, shape, "lerp", "cpu", "float64")
    ours.rnn.dropouts[0].p = theirs.dropout = 0.0
    rng = np.random.default_rng(0)
    for _, tensor in ours.named_tensors():  # in float64, and none of them zero
        tensor.data = rng.standard_normal(tensor.shape)
    batch = experiment.batches(1)[0]
    T, B = shape[:2]
    noise = stream(0, "noise")
    for layer, keeps in zip(ours.rnn.layers, theirs.keeps, strict=True):  # those that the model is going to draw
        drawn = layer.masks(T, B, noise)
        for keep, name in zip(keeps, ("keep_h", "keep_c"), strict=True):
            keep.copy_(torch.tensor(drawn[name].transpose(0, 2, 1)))
    pairs = []
    for layer, (W_x, W_h, b), start in zip(ours.rnn.layers, theirs.layers, theirs.starts, strict=True):
        pairs += [(layer.W_x, W_x), (layer.W_h, W_h), (layer.b, b)]
        pairs += zip((layer.h0, layer.c0), start, strict=True) if hasattr(layer, "h0") else []
    pairs += [(ours.output.W, theirs.W_out), (ours.output.b, theirs.b_out)]
    pairs += [(ours.embedding.W, theirs.embedding)] if task == "word-ptb" else []
    assert len(pairs) == len(ours.parameters()) == len(theirs.parameters)
    for mine, other in pairs:
        other.data = as_theirs(mine.data, other)
    x, target = (torch.tensor(part.astype("int64") if part.dtype.kind in "iu" else part) for part in batch[-2:])
    theirs.batch = [x.transpose(1, 2).double() if task == "pmnist" else x, target]

    measured = experiment.loss(batch, stream(0, "noise"))
    measured.loss.backward()
    loss, _ = theirs.forward()
    loss.backward()
    close(loss.detach().numpy(), np.asarray(measured.loss.data))
    for mine, other in pairs:
        close(other.grad.numpy(), as_theirs(mine.grad, other).numpy())


def as_theirs(array, like):
    """An array of ours in the layout of PyTorch's: an embedding is transposed, a state has an axis for the examples."""
    import torch

    transposed = array.shape == tuple(like.shape)[::-1] and array.shape[::-1] != array.shape and array.ndim == 2
    return torch.tensor(np.ascontiguousarray(array.T if transposed else array)).reshape(like.shape)


@pytest.mark.parametrize("task", TASKS)
def test_updates_in_pytorch_go_on_and_change_the_weights(peers_of_gpu, task, monkeypatch):
    monkeypatch.setattr(peers_of_gpu, "LOOK", 2)
    models = []
    made = peers_of_gpu.Model
    monkeypatch.setattr(peers_of_gpu, "Model", lambda *a, **k: models.append(made(*a, **k)) or models[-1])
    built = peers_of_gpu.update(task, "where", "eager", TASKS[task], "cpu")
    before = models[0].W_out.detach().clone()
    for _ in range(5):
        built.prepare()
        built.repeat()
    assert not before.equal(models[0].W_out)
    assert bool(models[0].starts[-1][1].abs().sum() > 0)  # learned, or carried from one minibatch to the next
