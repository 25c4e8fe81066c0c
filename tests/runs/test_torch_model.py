"""The PyTorch module of an exported run, in training. For evaluation, see tests/commands/test_export.py.

The table of the kit: python run.py conformance tests/runs/test_torch_model.py:Adapter
"""

from __future__ import annotations

import re

import numpy as np
import pytest

from minizone.conformance import conform
from tests.helpers.runs import run

torch = pytest.importorskip("torch")
from minizone.runs import torch_model  # noqa: E402  (it needs PyTorch)
from minizone.runs.torch_model import Model, ZoneoutRNN  # noqa: E402


def rows(a):
    """The last two axes swapped: in PyTorch the examples are rows."""
    return torch.tensor(a).transpose(-1, -2).contiguous()


def columns(a):
    return a.detach().transpose(-1, -2).numpy()


class Adapter:
    """`ZoneoutRNN` for the conformance kit: one LSTM layer."""

    def __init__(self, W_x, W_h, b, z_h, z_c):
        self.layer = ZoneoutRNN("lstm", W_x.shape[1], W_h.shape[1], z_cells=[z_c], z_states=[z_h]).double()
        weights = {"weight_ih_l0": W_x, "weight_hh_l0": W_h, "bias_ih_l0": b, "bias_hh_l0": 0 * b}
        self.layer.load_state_dict({name: torch.tensor(value) for name, value in weights.items()})

    def run(self, x, h, c, train, seed):
        torch.manual_seed(seed)
        output, (last_h, last_c) = self.layer.train(train)(x, (h[None], c[None]))
        return output, last_h[0], last_c[0]

    def sequence(self, x, h, c, train, seed):
        with torch.no_grad():
            return [columns(a) for a in self.run(rows(x), rows(h), rows(c), train, seed)]

    def gradient(self, x, h, c, r, q, seed):
        given = [rows(a).requires_grad_() for a in (x, h, c)]
        output, _, last_c = self.run(*given, True, seed)
        self.layer.zero_grad()
        ((output * rows(r)).sum() + (last_c * rows(q)).sum()).backward()
        names = {"W_x": "weight_ih_l0", "W_h": "weight_hh_l0", "b": "bias_ih_l0"}
        found = {name: getattr(self.layer, theirs).grad.numpy() for name, theirs in names.items()}
        return found | {name: columns(a.grad) for name, a in zip("xhc", given, strict=True)}


def test_it_passes_every_invariant():
    assert {result.status for result in conform(Adapter)} == {"pass"}


def masks(z_c=0.4, z_h=0.4, **options):
    """keep_h and keep_c of 100 steps, 30 examples and 20 units in training."""
    torch.manual_seed(0)
    layer = ZoneoutRNN("lstm", 3, 20, z_cells=[z_c], z_states=[z_h], **options)
    return [keep.numpy() for keep in layer.masks(0, 100, 30)]


@pytest.mark.parametrize("options", [{}, {"shared": True}, {"whole_layer": True}, {"gaussian": True}])
def test_masks_have_their_mean_and_variance_and_share_what_they_should(options):
    keep_h, keep_c = masks(**options)
    assert keep_h.shape == keep_c.shape == (100, 30, 1 if "whole_layer" in options else 20)
    for keep in (keep_h, keep_c):
        n = keep.size
        assert abs(keep.mean() - 0.4) <= 4 * (0.24 / n) ** 0.5
        assert abs(keep.var() - 0.24) <= 6 * 0.24 / n**0.5
        assert (set(np.unique(keep)) == {0, 1}) == ("gaussian" not in options)
    assert np.array_equal(keep_h, keep_c) == bool({"shared", "whole_layer"} & set(options))


@pytest.mark.parametrize("options", [{"shared": True}, {"whole_layer": True}, {"gaussian": True}])
def test_a_state_without_zoneout_has_none_whatever_the_mask_of_the_other(options):
    keep_h, keep_c = masks(z_h=0.0, **options)
    assert not keep_h.any() and keep_c.any()


def test_static_masks_are_for_all_examples_and_repeat_in_training_and_in_evaluation():
    keep_h, keep_c = masks(static_steps=7)
    assert keep_h.shape == (100, 1, 20) and np.array_equal(keep_h[7:], keep_h[:-7])
    assert not np.array_equal(keep_h, keep_c)
    layer = ZoneoutRNN("lstm", 3, 20, z_cells=[0.4], z_states=[0.4], static_steps=7)
    x = torch.randn(9, 2, 3)
    assert torch.equal(layer(x)[0], layer.eval()(x)[0])


def test_in_training_all_dropout_is_drawn_and_in_evaluation_nothing():
    options = {"z_cells": [0.0], "z_states": [0.0]}
    x = torch.randn(5, 2, 3)
    for noise in ({"drop_inputs": [0.5]}, {"dropout": 0.5}, {"variational": 0.5}):
        for cell in ("lstm", "gru"):
            layer = ZoneoutRNN(cell, 3, 20, **options, **noise)
            assert not torch.equal(layer(x)[0], layer(x)[0]), (cell, noise)
            layer.eval()
            assert torch.equal(layer(x)[0], layer(x)[0]), (cell, noise)


@pytest.mark.parametrize("kind", ["dropout", "variational"])
def test_dropout_is_between_layers_and_after_the_last_and_of_embeddings_but_not_of_raw_inputs(kind):
    """With the probability 1, which drops all, the states show where it is."""
    layers = {"cell": "lstm", "hidden_size": 4, "z_cells": [0.0, 0.0], "z_states": [0.0, 0.0], kind: 1.0}
    rnn = ZoneoutRNN(input_size=3, **layers)
    output, (h, _) = rnn(torch.randn(5, 2, 3))
    _, (other_h, _) = rnn(torch.randn(5, 2, 3))
    assert not output.any() and not torch.equal(h[0], other_h[0]) and torch.equal(h[1], other_h[1])

    options = {"images": False, "learned_state": False, "input_drop": 0.0}
    for embedding in (True, False):
        model = Model({"input_size": 4 if embedding else 7, **layers}, 7, embedding=embedding, **options)
        h, other_h = (model(torch.full((5, 2), token))[1][0] for token in (1, 2))
        assert torch.equal(h[0], other_h[0]) == embedding


def test_variational_dropout_drops_h_before_the_product():
    rnn = ZoneoutRNN("lstm", 3, 4, z_cells=[0.0], z_states=[0.0], variational=1.0)
    x = torch.randn(5, 2, 3)
    before, _ = rnn(x)[1]
    torch.nn.init.zeros_(rnn.weight_hh_l0)
    assert torch.equal(before, rnn(x)[1][0])


def test_noise_on_the_initial_state_is_for_training_only():
    rnn = {"cell": "lstm", "input_size": 1, "hidden_size": 4, "z_cells": [0.0], "z_states": [0.0]}
    model = Model(rnn, 10, images=True, embedding=False, learned_state=True, input_drop=0.0, noise=0.5)
    pixels = torch.rand(5, 2, 1)
    assert not torch.equal(model(pixels)[0], model(pixels)[0])
    model.eval()
    assert torch.equal(model(pixels)[0], model(pixels)[0])


@pytest.mark.parametrize(
    ("cell", "options", "sentence"),
    [
        ("lstm", {"z_cells": [1.5], "z_states": [0.0]}, r"must be in \[0, 1\], got \[1.5\]"),
        ("lstm", {"z_cells": [0.5], "z_states": [0.0, 0.1]}, "one number for each layer"),
        ("gru", {"z_cells": [0.5], "z_states": [0.0]}, "gru has no cells to zone out"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(cell, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        ZoneoutRNN(cell, 3, 4, **options)


def test_the_example_in_its_head_runs_on_an_exported_run(program, tmp_path, monkeypatch):
    """From the folder of the run, as a user would; and 20 updates in training lower the loss."""
    run(tmp_path, epochs=1)
    assert program.main(["export", str(tmp_path)]) == 0
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    code = "\n".join(re.findall(r"^    (.*)$", torch_model.__doc__ or "", re.MULTILINE))
    tokens = torch.arange(12).reshape(4, 3)
    names = {"tokens": tokens[:2], "more": tokens[2:]}
    exec(code, names)

    model = names["model"]
    model.eval()
    assert torch.allclose(torch.cat([model(tokens[:2])[0], names["scores"]]), model(tokens)[0], atol=1e-6)
    optimizer, losses = torch.optim.Adam(model.train().parameters(), lr=0.01), []
    for _ in range(20):
        scores, _ = model(tokens[:-1])
        losses.append(torch.nn.functional.cross_entropy(scores.flatten(0, 1), tokens[1:].flatten()))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0]


def test_a_file_that_export_did_not_write_is_refused_in_a_sentence(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"must be a file that `run\.py export` wrote"):
        torch_model.load(tmp_path / "other.safetensors")
