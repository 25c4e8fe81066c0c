# %% [markdown]
# # 16. Static identity connections: is it the noise or the identity?
#
# **Claim.** Masks that are drawn once keep the identity connections of zoneout and remove its noise, and then most of
# the gain is lost. Zoneout does two things at once: it adds noise, and it adds connections along which states and
# gradients pass unchanged. The authors' conclusion, as we remember it, is that the noise regularizes. Our larger run
# agrees.
#
# Paper: the appendix of its last version (from memory, unverified). A flag `--static_mask` in the authors' char-PTB
# script, and the curves in one of their plotting scripts, show that the experiment was made. In full:
# `python run.py char-ptb --preset paper --z-prob-cells 0.5 --z-prob-states 0.05 --static-mask`

# %%
from typing import Any

import shared  # finds minizone
import matplotlib.pyplot as plt
import numpy as np
from shared import DeviceName, Preset, check, save

from minizone import LSTM, Zoneout
from minizone.backend import stream
from minizone.experiments.char_ptb import CharPTB

# %% [markdown]
# ## The question
#
# Zoneout might help a network for two reasons:
#
# - **Noise**, as in dropout. The masks are new in every update, so the network cannot rely on any single unit.
# - **Identity connections** (chapter 15). A unit that is zoned out copies its old value, and it passes its gradient
#   back unchanged. This alone could make a recurrent network easier to train.
#
# A reviewer of the paper asked, as we remember it, which of the two it is. The authors separated them with an
# experiment: draw the masks once, before training, and use the same masks in every update. There is no noise then. Some
# units are still not updated at some steps, but always the same units at the same steps. These are *static identity
# connections*.
#
# ## The masks
#
# $c_t$ (H, B) are the cells after time step t, for H units and B examples. $\tilde c_t$ (H, B) are the candidates, the
# new cells of an LSTM without zoneout. With static identity connections a step is
#
# $$c_t = k_t \odot c_{t-1} + (1 - k_t) \odot \tilde c_t$$
#
# The mask $k_t$ (H, 1) has elements 0 and 1, and 1 keeps the old value. It has one column, which serves all examples.
# Masks are drawn for n time steps. A longer sequence starts again with the first of them. The state h has such masks of
# its own.
#
# `Zoneout` has an argument for n, `static_steps`. Below are a usual zoneout and a static one with the same
# probabilities.

# %%
n, H, B = 40, 12, 2
fresh = Zoneout(cells=0.5, states=0.05)
static = Zoneout(cells=0.5, states=0.05, static_steps=n)


def cell_masks(zoneout: Zoneout, update: int, T: int = n, training: bool = True) -> np.ndarray | float:
    """The masks of the cells for a minibatch: (T, H, B), or (T, H, 1) for all examples, or a number."""
    rng = stream(1, "masks", update) if training else None
    _, keep_c = zoneout.masks(T, H, B, rng, static_rng=stream(1, "static"))
    return keep_c


# %% [markdown]
# We draw the masks of two updates, and those of a sequence that is twice as long.

# %%
first = cell_masks(static, update=1)  # (n, H, 1)
second = cell_masks(static, update=2)
twice_as_long = cell_masks(static, update=1, T=2 * n)  # (2n, H, 1)
check("zoneout: other masks in every update", (cell_masks(fresh, 1) != cell_masks(fresh, 2)).any())
check("static: the same mask in every update", (first == second).all())
check("static: one column for all examples", first.shape == (n, H, 1))
check("static: time steps differ", (first[0] != first[1]).any())
check("static: after n steps it repeats", (twice_as_long == np.concatenate([first, first])).all())

# %% [markdown]
# ## What evaluation does
#
# In evaluation, zoneout replaces its random masks by their expectation z. A static mask is not random. It is a part of
# the network, like a weight that is 0 or 1, so evaluation uses it as well.

# %%
check("zoneout: evaluation takes the expectation", cell_masks(fresh, 1, training=False) == 0.5)
check("static: evaluation keeps the mask", (cell_masks(static, 1, training=False) == first).all())

# %% [markdown]
# It follows that a network with static identity connections computes the same function in training and in evaluation.
# We compare all states of a sequence. A layer that gets an `rng` is in training, and without one it is in evaluation.

# %%
x = stream(1, "x").standard_normal((n, 3, 5)).astype(np.float32)  # (T, D, B)
fresh_layer = LSTM(3, H, zoneout=fresh, rng=stream(1, "weights"))
static_layer = LSTM(3, H, zoneout=static, rng=stream(1, "weights"))

h_training, _ = fresh_layer.states(x, rng=stream(1, "noise"))  # (T, H, B)
h_evaluation, _ = fresh_layer.states(x)
check("zoneout: training and evaluation differ", (h_training.data != h_evaluation.data).any())

h_training, _ = static_layer.states(x, rng=stream(1, "noise"))
h_evaluation, c = static_layer.states(x)
check("static: training and evaluation are the same, to the bit", (h_training.data == h_evaluation.data).all())

# %% [markdown]
# The cells of the static layer are equal to those of the step before exactly where the mask is 1. This holds for all
# examples at once.

# %%
is_kept = static_layer.masks(n, 5, None)["keep_c"][1:, :, 0] == 1  # (T - 1, H)
stands_still = (np.diff(c.data, axis=0) == 0).all(axis=2)  # (T - 1, H): in all examples
check("static: a kept cell stands still in all examples, the others move", (stands_still == is_kept).all())

# %% [markdown]
# The authors' code may differ in one point. There the training data and the validation data each draw a mask, if we
# read it right. Then a network is validated with another mask than the one that it was trained with. We measure below
# what that costs.
#
# ## What the paper found
#
# This is from memory, unverified. Static identity connections had a slightly lower training error than zoneout, but not
# a lower validation error. They did worse than the plain LSTM on both training and validation data. The authors
# concluded that the noise is essential.
#
# ## Three networks
#
# We train a plain LSTM, one with zoneout, and one with static identity connections, all on characters (chapter 9). The
# probabilities are those of the paper's best zoneout, $z_c = 0.5$ for the cells and $z_h = 0.05$ for the states.
#
# A regularizer can only help where there is over-fitting. So the training text of the quick run is short on purpose,
# and the plain LSTM over-fits it.

# %%
ZONEOUT: dict[str, Any] = {"z_prob_cells": 0.5, "z_prob_states": 0.05}
NETWORKS: dict[str, dict[str, Any]] = {
    "plain LSTM": {},
    "zoneout": ZONEOUT,
    "static identity": {**ZONEOUT, "static_mask": True},
}
MANUAL: dict[str, Any] = {"dataset": "manual"}
SIZES: dict[str, dict[str, Any]] = {
    "small": {**MANUAL, "hidden_size": 32, "epochs": 2, "train_symbols": 12_000, "eval_symbols": 4_000},
    "quick": {**MANUAL, "hidden_size": 160, "epochs": 64, "train_symbols": 10_000, "eval_symbols": 10_000},
    "paper": {},
}

# %% [markdown]
# The seed of its static masks is stored in the layer. With another seed, the same weights are validated with masks that
# they were not trained with. BPC is bits per character.


# %%
def bpc_with_another_mask(experiment: Any) -> float:
    """Validation BPC of a trained network with static masks that are not its own."""
    for layer in experiment.model.rnn.layers:
        layer._static_seed += 1
    bpc = experiment.validate()
    for layer in experiment.model.rnn.layers:
        layer._static_seed -= 1
    return bpc


# %% [markdown]
# The training curve of zoneout is measured with its noise, which makes it look worse than the network is. So we also
# measure the training text in evaluation, where there is no noise, with the best parameters of each run.


# %%
def train(name: str, preset: Preset, device: DeviceName) -> dict[str, Any]:
    """Train one of the networks: its learning curves, its best validation BPC, and what else is compared."""
    run = shared.learn(CharPTB, preset, device, f"16_{name.replace(' ', '_')}", **NETWORKS[name], **SIZES[preset])
    text = run.experiment.data
    numbers = {
        "train": run.curve("train_bpc"),
        "valid": run.curve("valid_bpc"),
        "best": run.summary["best_valid_bpc"],
        "best_epoch": run.summary["best_epoch"],
        "train_without_noise": run.experiment.bpc_by_chunks(text.train[: len(text.valid)]),
    }
    if name == "static identity":
        numbers["valid_with_another_mask"] = bpc_with_another_mask(run.experiment)
    return numbers


def report(name: str, numbers: dict[str, Any]) -> None:
    """Print BPC at the best epoch and at the last one."""
    print(f"{name}, best epoch {numbers['best_epoch']}:", end=" ")
    print(f"valid {numbers['best']:.3f}, training text in evaluation {numbers['train_without_noise']:.3f} BPC")
    print(f"    last epoch: valid {numbers['valid'][-1]:.3f}, train {numbers['train'][-1]:.3f} BPC")
    if "valid_with_another_mask" in numbers:
        print(f"    best epoch, other masks than in training: valid {numbers['valid_with_another_mask']:.3f} BPC")


# %% [markdown]
# The figure has the masks of two updates and two examples on the left, and the learning curves on the right.


# %%
def draw_masks(axis: plt.Axes, zoneout: Zoneout, title: str) -> None:
    """The masks of two updates and two examples, one below the other, with grey rows between them."""
    grey = np.full((2, n), 0.5)
    rows, labels = [], []
    for update in (1, 2):
        masks = np.broadcast_to(cell_masks(zoneout, update), (n, H, B))
        for example in range(B):
            rows += [masks[:, :, example].T, grey]  # (H, n) and (2, n)
            labels.append(f"update {update}, example {example + 1}")
    axis.imshow(np.concatenate(rows[:-1]), cmap="Greys", aspect="auto", interpolation="nearest")
    middles = (H - 1) / 2 + (H + 2) * np.arange(len(labels))
    axis.set_yticks(middles, labels)
    axis.set_title(title, fontsize=9)
    axis.tick_params(axis="y", labelsize=7, length=0)
    axis.grid(False)


# %%
def draw(found: dict[str, dict[str, Any]]) -> None:
    """Masks on the left, learning curves on the right."""
    figure, axes = plt.subplot_mosaic([["fresh", "train", "valid"], ["static", "train", "valid"]], figsize=(10.5, 4.3))
    draw_masks(axes["fresh"], fresh, "masks of the cells, zoneout (black: zoned out)")
    draw_masks(axes["static"], static, "masks of the cells, static (black: zoned out)")
    axes["static"].set_xlabel("time step")
    for name, numbers in found.items():
        epochs = range(1, len(numbers["train"]) + 1)
        line = "--" if name == "static identity" else "-"
        axes["train"].plot(epochs, numbers["train"], line, label=name)
        axes["valid"].plot(epochs, numbers["valid"], line)
    axes["train"].set(xlabel="epoch", ylabel="bits per character", title="training text, with noise")

    lowest = min(numbers["best"] for numbers in found.values())
    static_valid = found["static identity"]["valid"]
    highest = static_valid[len(static_valid) // 3]
    axes["valid"].set(xlabel="epoch", ylabel="bits per character", title="validation text, enlarged")
    axes["valid"].set_ylim(lowest - 0.02, highest + 0.02)
    figure.legend(loc="outside lower right", ncols=len(found))
    save(figure, "16_static_identity")


# %%
def main(preset: Preset = "quick", device: DeviceName = "cpu") -> dict[str, dict[str, Any]]:
    """Train the three networks, and draw masks and learning curves."""
    found: dict[str, dict[str, Any]] = {}
    for name in NETWORKS:
        found[name] = train(name, preset, device)
        report(name, found[name])
    learned = [numbers["train"][-1] < numbers["train"][0] for numbers in found.values()]
    check("all three learn something", all(learned))
    draw(found)
    return found


# %%
if __name__ == "__main__":
    shared.run(main)

# %% [markdown]
# ## In the figure
#
# Left: the masks of zoneout differ from update to update and from example to example. The static masks are the same
# four times. Middle: do not compare these curves, because that of zoneout includes its noise. Right: the plain LSTM
# stops improving first, and zoneout becomes lowest. Static identity connections end between the two.
#
# Without noise the training text can be compared. The printed numbers have it at the best epoch of each network: the
# plain LSTM has the lowest error on its training text, and the static network the highest.
#
# A quick run has one seed, a small network and 10,000 characters. Differences of a few hundredths of a bit between two
# runs mean nothing. The last line that is printed is another matter, because it compares two evaluations of the same
# weights: with other masks than its own, the static network is worse.
#
# ## At full size
#
# The next run takes half an hour. It has 400 units (the paper: 1,000) and reads the first tenth of Penn Treebank for 30
# epochs, with one seed. The plain LSTM and zoneout of the same size are those of chapter 9.

# %%
shared.print_results("figure7-static-identity")

# %% [markdown]
# ![Learning curves with static masks at full size](../results/figure7-static-identity/curves.png)
#
# Thin lines are training, thick lines validation. In validation zoneout is far ahead of the static network. So its
# noise is worth much more than its connections, as the authors found. They also found the training error of static
# masks slightly below that of zoneout. So it is here, but remember that the curve of zoneout includes its noise.
#
# The training curve of the static network jumps down in epochs 12 and 30. In these two the text was cut at the same
# places as in the epoch before. A static mask belongs to a position in the chunk, so the network can learn by heart
# which character comes at which position.
#
# One part of the authors' result, as we remember it, is not seen here. They have static masks worse than no regularizer
# in validation. Here static masks are a little better. The text is a tenth of theirs, so the network over-fits more,
# and anything that slows it down may help. The same three runs on the whole text would tell.
#
# ## What to take away
#
# - Zoneout is noise and identity connections together. A mask that is drawn once keeps the connections and removes the
#   noise.
# - A static mask is a part of the network, so it stays in evaluation.
# - In the larger run static identity connections gain a fifth of what zoneout gains. That agrees with the authors'
#   conclusion that the noise is essential. It is one run, with one seed.
#
# ## Exercises
#
# 1. Use `random_lstm` of chapter 15 with `Zoneout(cells=0.5, static_steps=100)`. Do gradients reach as far back as with
#    fresh masks? Which part of the question does that answer?
# 2. Evaluate a trained zoneout network with random masks in place of the expectation: give `run.experiment.model` an
#    `rng`. Compare what that costs with what other masks cost a static network.
# 3. Run an `LSTM` with `Zoneout(cells=0.5, static_steps=1)` and look at its cells over time. How many ever change? Do
#    the h of the others change?
