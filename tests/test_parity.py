"""Fifty updates of a character model with zoneout have the losses that PyTorch had, in fixtures/torch_losses.json.

tests/test_torch_parity.py wrote the losses, and compares them with PyTorch if it is installed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minizone.backend import stream
from minizone.data import TextDataset
from minizone.experiments.char_ptb import PRESETS, CharPTB, CharSettings
from minizone.optim import make
from tests.helpers.runs import quiet

UPDATES = 50
RECORDED = Path(__file__).parent / "fixtures" / "torch_losses.json"
WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "that", "no", "rat", "had", "eaten", "its", "corn"]
TOLERANCES = [(np.float32, 1e-4), (np.float64, 1e-9)]  # of the losses


@dataclass(frozen=True)
class Settings(CharSettings):
    """Those of the quick preset, smaller, for a text that is the same on every machine."""

    def load(self, say: Any) -> TextDataset:
        text = " ".join(np.random.default_rng(0).choice(WORDS, 15_000))
        symbols = tuple(sorted(set(text)))
        tokens = np.array([symbols.index(symbol) for symbol in text], np.uint8)
        return TextDataset("random words", tokens[:-4000], tokens[-4000:-2000], tokens[-2000:], symbols, {})


SMALL: dict[str, Any] = {
    "hidden_size": 64, "train_symbols": 0, "eval_symbols": 0, "z_prob_cells": 0.5, "z_prob_states": 0.05,
}  # fmt: skip


def experiment_in(dtype: Any) -> CharPTB:
    """The task with parameters of a dtype; the weights are drawn in float32 in any case."""
    experiment = CharPTB(Settings(**(vars(PRESETS["quick"]) | SMALL)), say=quiet)
    for _, tensor in experiment.model.named_tensors():
        tensor.data = tensor.data.astype(dtype)
    return experiment


def our_losses(experiment: CharPTB) -> list[float]:
    """The losses of the first updates; the model has learned them afterwards."""
    settings, model, losses = experiment.settings, experiment.model, []
    optimizer = make(
        settings.algorithm, model.parameters(), settings.learning_rate, clip=settings.clipping, clip_what="step"
    )
    for update, batch in zip(range(1, UPDATES + 1), experiment.batches(1), strict=False):
        loss = experiment.loss(batch, stream(settings.seed, "noise", 1, update)).loss
        assert loss.data.dtype == next(iter(model.parameters())).data.dtype
        losses.append(float(loss))
        loss.backward()
        optimizer.step()
    return losses


@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES)
def test_fifty_updates_have_the_losses_that_torch_had(dtype, tolerance, record_property):
    recorded = json.loads(RECORDED.read_text())
    theirs, ours = recorded["losses"][np.dtype(dtype).name], our_losses(experiment_in(dtype))
    assert len(ours) == len(theirs) == UPDATES and ours[-1] < ours[0] - 0.5, "it learned something"
    off = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
    record_property(f"50 updates as in PyTorch, {np.dtype(dtype)}: largest error of a loss", off)
    assert off <= tolerance
