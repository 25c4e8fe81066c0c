# %% [markdown]
# # Answers to chapter 16
#
# ## 1. How far back gradients reach with static masks
#
# `random_lstm` returns the norms of the gradients of the cells, one for each time step. `early` is the share of the
# first quarter of the steps in their sum.

# %%
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import shared  # finds minizone and the chapters
import numpy as np
from shared import check

from minizone import LSTM, Device, Zoneout
from minizone.autograd.tensor import no_grad
from minizone.backend import stream
from minizone.experiments.char_ptb import CharPTB, Chunks

chapter_15 = import_module("15_gradient_propagation")
chapter_16 = import_module("16_static_identity")

# %%
OPTIONS: dict[str, dict[str, Any]] = {
    "no zoneout": {},
    "fresh masks": {"zoneout": Zoneout(cells=0.5)},
    "static masks": {"zoneout": Zoneout(cells=0.5, static_steps=100)},
}
share = {}
for name, options in OPTIONS.items():
    norms = chapter_15.random_lstm(options, T=100, H=100, B=50, device=Device("cpu"))  # (T,)
    share[name] = chapter_15.early(norms)
    print(f"{name:12s} share of the first quarter {share[name]:.2e}")
check("static masks carry the gradient about as far", 0.5 < share["static masks"] / share["fresh masks"] < 2)
with_zoneout = min(share["static masks"], share["fresh masks"])
check("both carry it much farther than no zoneout", with_zoneout > 100 * share["no zoneout"])

# %% [markdown]
# The gradients reach as far back with masks that never change. So the identity connections alone make early time steps
# easier to learn from. This says nothing about over-fitting, which is the other part of the question. The learning
# curves of chapter 16 are about that part.
#
# ## 2. Random masks in evaluation
#
# A model that gets an `rng` draws masks, as in training. The networks here are smaller than those of the quick run.

# %%
SIZE: dict[str, Any] = {
    "dataset": "manual",
    "hidden_size": 64,
    "epochs": 25,
    "batch_size": 8,
    "learning_rate": 6e-3,
    "train_symbols": 5_000,
    "eval_symbols": 5_000,
}


def train(static_mask: bool) -> Any:
    """A trained experiment of one of the two kinds."""
    return shared.learn(CharPTB, "quick", "cpu", "16", **chapter_16.ZONEOUT, static_mask=static_mask, **SIZE).experiment


def bpc_with_random_masks(experiment: Any) -> float:
    """Validation BPC with masks that are drawn as in training."""
    settings = experiment.settings
    minibatches = []
    with no_grad():
        for tokens, targets in Chunks(experiment.data.valid, settings.seq_len, settings.batch_size):
            rng = stream(1, "masks of the evaluation", len(minibatches))
            scores, _ = experiment.model(tokens, rng=rng)  # (T, V, B)
            minibatches.append((scores, targets))
    return experiment.score_of(minibatches)


# %%
zoneout = train(static_mask=False)
expectation, random_masks = zoneout.validate(), bpc_with_random_masks(zoneout)
print(f"zoneout: expectation {expectation:.3f} BPC, random masks {random_masks:.3f} BPC")

static = train(static_mask=True)
own_masks, other_masks = static.validate(), chapter_16.bpc_with_another_mask(static)
print(f"static:  own masks   {own_masks:.3f} BPC, other masks  {other_masks:.3f} BPC")
check("the expectation is better than random masks by more than 0.01 BPC", random_masks - expectation > 0.01)
check("the static network, too, computes something else with other masks", other_masks != own_masks)

# %% [markdown]
# Zoneout is better with the expectation than with the noise of its own training. So the learning curve of its training
# text, which includes the noise, makes it look too bad.
#
# The static network is not noisy: each set of masks gives one number. In a network of this size other masks change it
# only a little, in either direction. The larger network of the quick run gets worse with them (the last line that the
# chapter prints).
#
# ## 3. Static masks of a single step
#
# With `static_steps=1` every time step has the same mask. A cell whose mask is 1 keeps its initial value in all steps.

# %%
T, D, H, B = 20, 3, 200, 4
one_step = Zoneout(cells=0.5, static_steps=1)
layer = LSTM(D, H, zoneout=one_step, rng=stream(1, "weights"))
x = stream(1, "x").standard_normal((T, D, B)).astype(np.float32)
h, c = (states.data for states in layer.states(x))  # (T, H, B) each
never_moves = (c == c[0]).all(axis=(0, 2))  # (H,)
print(f"{never_moves.sum()} of {H} cells never move")
check("these are the cells whose mask is 1", (never_moves == (layer.masks(T, B, None)["keep_c"][0, :, 0] == 1)).all())
check("all their h move in every step", (h[1:, never_moves] != h[:-1, never_moves]).all())

# %% [markdown]
# About half of the cells are constants. They remember nothing, so the network has the memory of one with half as many
# units. Their h still change, because h is made from the candidate $\tilde c_t$, which depends on the input. With masks
# that differ from step to step, every cell is updated at some steps.
