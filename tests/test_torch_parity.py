"""The same training in PyTorch, and exported weights in PyTorch's own layers; skipped without PyTorch.

The numbers: pip install torch --index-url https://download.pytorch.org/whl/cpu; pytest -s tests/test_torch_parity.py
To rewrite the losses for tests/test_parity.py: PYTHONPATH=. python tests/test_torch_parity.py
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from minizone.autograd.tensor import no_grad
from minizone.backend import stream
from minizone.commands.export import export
from minizone.experiments.char_ptb import CharPTB
from minizone.runs.torch_names import from_torch, to_torch
from minizone.runs.training import fit
from tests.helpers.runs import TINY, quiet
from tests.runs.test_torch_names import MODELS, PLAIN, noisy
from tests.test_parity import RECORDED, TOLERANCES, UPDATES, experiment_in, our_losses

torch = pytest.importorskip("torch")
from minizone.runs.torch_model import Model  # noqa: E402  (it needs PyTorch)


class CharacterModel(torch.nn.Module):
    """`torch.nn.LSTM` with an output layer, which exported weights fit; for a simple network without c0."""

    def __init__(self, V: int, H: int, layers: int = 1, kind: Any = torch.nn.LSTM):
        super().__init__()
        self.rnn, self.output = kind(V, H, layers), torch.nn.Linear(H, V)
        self.h0 = torch.nn.Parameter(torch.zeros(layers, H))
        if kind is torch.nn.LSTM:
            self.c0 = torch.nn.Parameter(torch.zeros(layers, H))

    def start(self, B: int) -> list[Any]:
        states = [self.h0, self.c0] if hasattr(self, "c0") else [self.h0]
        return [s[:, None].expand(-1, B, -1).contiguous() for s in states]

    def forward(self, tokens: Any) -> Any:
        columns = torch.nn.functional.one_hot(tokens, self.rnn.input_size).to(self.h0.dtype)
        start = self.start(tokens.shape[1])
        return self.output(self.rnn(columns, tuple(start) if len(start) > 1 else start[0])[0])  # (T, B, V)


def as_tensors(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    return {name: torch.tensor(np.ascontiguousarray(array)) for name, array in arrays.items()}


def clipped_adam_step(optimizer: Any, parameters: list[Any], update: int, clip: float) -> None:
    """`torch.optim.Adam`, with epsilon added where the authors add it, and its step shortened to the norm ``clip``."""
    optimizer.param_groups[0]["eps"] = 1e-8 / (1 - 0.999**update) ** 0.5
    before = [p.detach().clone() for p in parameters]
    optimizer.step()
    with torch.no_grad():
        norm = sum(((p - old) ** 2).sum() for p, old in zip(parameters, before, strict=True)) ** 0.5
        for p, old in zip(parameters, before, strict=True):
            p.copy_(old + (p - old) * min(1.0, clip / float(norm)))


def their_losses(experiment: CharPTB, weights: dict[str, np.ndarray]) -> tuple[list[float], Any]:
    """The same in PyTorch, from the same weights, with the masks that our layer draws from its keyed stream."""
    settings, losses = experiment.settings, []
    V, H = weights["output.weight"].shape
    rnn = {"cell": "lstm", "input_size": V, "hidden_size": H, "z_cells": [0.5], "z_states": [0.05]}
    model = Model(rnn, V, images=False, embedding=False, learned_state=True, input_drop=0.0)
    model.to(torch.tensor(weights["h0"]).dtype).load_state_dict(as_tensors(weights))
    model.rnn.bias_hh_l0.requires_grad_(False)  # one bias, as in the paper
    learned = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(learned, lr=settings.learning_rate)
    layer = experiment.model.rnn.layers[0]
    for update, (tokens, targets) in zip(range(1, UPDATES + 1), experiment.batches(1), strict=False):
        drawn = layer.masks(*tokens.shape, stream(settings.seed, "noise", 1, update))
        masks = [torch.tensor(drawn[name].transpose(0, 2, 1).copy()) for name in ("keep_h", "keep_c")]
        model.rnn.masks = lambda k, T, B, masks=masks: masks
        scores, _ = model(torch.tensor(tokens.astype(np.int64)))
        wanted = torch.tensor(targets.astype(np.int64))
        loss = torch.nn.functional.cross_entropy(scores.reshape(-1, V), wanted.reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        clipped_adam_step(optimizer, learned, update, settings.clipping)
        losses.append(float(loss.detach()))
    return losses, {name: value.numpy() for name, value in model.state_dict().items()}


def trained(dtype: Any) -> tuple[CharPTB, list[float], dict[str, np.ndarray]]:
    """Our task before it is trained, and PyTorch's losses and weights."""
    experiment = experiment_in(dtype)
    weights = {name: array.copy() for name, array in to_torch(experiment.model.state_dict()).items()}
    return experiment, *their_losses(experiment, weights)


@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES)
def test_fifty_updates_of_a_zoneout_lstm_have_the_losses_of_the_same_training_in_torch(dtype, tolerance):
    experiment, theirs, their_weights = trained(dtype)
    ours = our_losses(experiment)
    our_weights = experiment.model.state_dict()
    off = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
    back = from_torch(their_weights, our_weights)
    apart = max(float(abs(back[name] - array).max()) for name, array in our_weights.items())
    print(
        f"\n{UPDATES} updates in {np.dtype(dtype)}: loss {ours[0]:.4f} to {ours[-1]:.4f},"
        f" largest difference of losses {off:.1e}, of weights {apart:.1e}", end="",
    )  # fmt: skip
    assert off <= tolerance
    assert apart <= 100 * tolerance
    recorded = json.loads(RECORDED.read_text())["losses"][np.dtype(dtype).name]
    assert max(abs(a - b) for a, b in zip(recorded, theirs, strict=True)) <= tolerance


@pytest.mark.parametrize("name", ["char", "char, two layers", "char, tanh"])
def test_exported_weights_in_torch_give_our_outputs(name):
    experiment_of, settings = MODELS[name]
    model = noisy(experiment_of, replace(settings, z_prob_cells=0.0, z_prob_states=0.0))
    weights = {key: array * np.float32(0.3) for key, array in model.state_dict().items()}
    model.load_state_dict(weights)
    translated = to_torch(weights)
    V, H = translated["output.weight"].shape
    kind = torch.nn.RNN if settings.rnn_type == "rnn" else torch.nn.LSTM
    theirs = CharacterModel(V, H, settings.num_layers, kind)
    theirs.load_state_dict(as_tensors(translated))  # strict: no name is missing and none is left
    tokens = np.random.default_rng(0).integers(V, size=(30, 4))
    with no_grad(), torch.no_grad():
        off = abs(model(tokens)[0].data.transpose(0, 2, 1) - theirs(torch.tensor(tokens)).numpy()).max()
    print(f"\n{name}: largest difference of scores {off:.1e}", end="")
    assert off <= 1e-6


def test_a_file_goes_to_torch_and_comes_back_from_it(tmp_path):
    """Through the command's file, `safetensors.torch`, a module, and its own state dict saved anew."""
    from safetensors.torch import load_file, save_file

    fit(CharPTB(PLAIN, say=quiet), tmp_path / "run", say=quiet)
    export(tmp_path / "run", tmp_path / "torch.safetensors")
    state = load_file(tmp_path / "torch.safetensors")
    V, H = state["output.weight"].shape
    theirs = CharacterModel(V, H)
    theirs.load_state_dict(state)
    save_file(theirs.state_dict(), tmp_path / "theirs.safetensors")
    loaded = []
    for k, path in enumerate(("run/best.safetensors", "theirs.safetensors")):
        settings = replace(TINY, load_path=str(tmp_path / path), learning_rate=1e-30, epochs=1)
        experiment = CharPTB(settings, say=quiet)
        fit(experiment, tmp_path / str(k), say=quiet)
        loaded.append(experiment.model.state_dict())
    assert all(np.array_equal(loaded[0][name], loaded[1][name]) for name in loaded[0])


def test_words_are_rows_of_an_embedding_in_torch():
    model = noisy(*MODELS["word"])
    weight = to_torch(model.state_dict())["embedding.weight"]
    theirs = torch.nn.Embedding.from_pretrained(torch.tensor(weight.copy()))
    words = np.arange(6).reshape(3, 2)
    found = theirs(torch.tensor(words)).numpy().transpose(0, 2, 1)
    assert np.array_equal(found, model.embedding(words).data)


if __name__ == "__main__":
    losses = {np.dtype(dtype).name: trained(dtype)[1] for dtype, _ in TOLERANCES}
    RECORDED.write_text(json.dumps({"torch": torch.__version__, "losses": losses}, indent=1) + "\n")
