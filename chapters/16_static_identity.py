# %% [markdown]
# # 16. Static identity connections: is it the noise or the identity?
#
# **Claim.** Zoneout does two things at once: it adds noise, and it adds connections over which states and gradients
# pass unchanged. Freeze the masks, and the second is left without the first; so one can ask which of them regularizes.
# The authors' answer, as we remember it, is the noise.
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
# ## A reviewer's question
#
# A reviewer of the paper asked (so we remember) which of the two it is. The noise is that of dropout: a network that is
# trained with ever new masks is one of many, and cannot rely on any single unit. The identity connections are those of
# chapter 15: a unit that waits hands its gradient back undiminished. The second alone could help a recurrent network to
# learn. To tell them apart, draw one mask before training and never again:
#
# $$c_t = k_t \odot c_{t-1} + (1 - k_t) \odot \tilde c_t, \qquad k_t \in \{0, 1\}^{H \times 1} \text{ fixed, for } t
# = 1 \dots n$$
#
# All states are (H, B). The mask has one column: it is the same for all B examples, and for all updates. It differs
# from step to step, and sequences longer than n steps begin again with the first. Nothing here is noise any more. It is
# a fixed schedule, by which some units are not updated at some steps: *static identity connections*.

# %%
n, H, B = 40, 12, 2
fresh, static = Zoneout(cells=0.5, states=0.05), Zoneout(cells=0.5, states=0.05, static_steps=n)


def cell_masks(zoneout: Zoneout, update: int, T: int = n, training: bool = True) -> np.ndarray | float:
    """The mask of the cells that a minibatch sees: (T, H, B), or (T, H, 1) for all examples, or a number."""
    rng = stream(1, "masks", update) if training else None
    return zoneout.masks(T, H, B, rng, static_rng=stream(1, "static"))[1]


first, second = cell_masks(static, update=1), cell_masks(static, update=2)
check("zoneout: other masks in every update", (cell_masks(fresh, 1) != cell_masks(fresh, 2)).any())
check("static: the same in every update", (first == second).all())
check("static: one column for all examples", first.shape == (n, H, 1))
check("static: time steps differ", (first[0] != first[1]).any())
check("static: after n steps it repeats", (cell_masks(static, 1, T=2 * n) == np.concatenate([first, first])).all())

# %% [markdown]
# ## What evaluation does
#
# Zoneout in evaluation takes the expectation, since the masks were drawn and any other could have been. A static mask
# was not: it is a part of the network, like a weight that is 0 or 1, and so it stays. (In the authors' code the stream
# of the training data and that of the validation data draw a mask each: there, if we read it right, a network is
# validated with a mask that it was not trained with. We come back to that.) So the network with static connections is
# one and the same function in training and in evaluation, to the bit, and the one with zoneout is not.

# %%
check("zoneout: evaluation takes the expectation", cell_masks(fresh, 1, training=False) == 0.5)
check("static: evaluation keeps the mask", (cell_masks(static, 1, training=False) == first).all())
x = stream(1, "x").standard_normal((n, 3, 5)).astype(np.float32)  # (T, D, B)
layers = {name: LSTM(3, H, zoneout=kind, rng=stream(1, "weights")) for name, kind in (("z", fresh), ("s", static))}
training = {name: layer.states(x, rng=stream(1, "noise")) for name, layer in layers.items()}  # h and c, (T, H, B)
evaluation = {name: layer.states(x) for name, layer in layers.items()}
check("zoneout: training and evaluation differ", (training["z"][0].data != evaluation["z"][0].data).any())
check("static: training is evaluation, to the bit", (training["s"][0].data == evaluation["s"][0].data).all())
keep = layers["s"].masks(n, 5, None)["keep_c"][1:, :, 0] == 1  # (T - 1, H)
waits = (np.diff(evaluation["s"][1].data, axis=0) == 0).all(axis=2)
check("static: a cell that waits waits in all examples", waits[keep].all() and not waits[~keep].any())

# %% [markdown]
# ## Three networks
#
# The setting is that of chapter 9 and of the paper's best zoneout, $z_c = 0.5$ and $z_h = 0.05$, on characters: the
# plain LSTM, zoneout, and static identity connections. The quick run is small, and its text is short on purpose: the
# plain LSTM is to over-fit it within the run, because only where there is over-fitting has a regularizer work to do.

# %%
Z: dict[str, Any] = {"z_prob_cells": 0.5, "z_prob_states": 0.05}
NETWORKS: dict[str, dict[str, Any]] = {"plain LSTM": {}, "zoneout": Z, "static identity": {**Z, "static_mask": True}}


def with_another_mask(task: Any) -> float:
    """Validation BPC of a trained network with static masks that are not its own."""
    for layer in task.model.rnn.layers:
        layer._static_seed += 1
    bpc = task.validate()
    for layer in task.model.rnn.layers:
        layer._static_seed -= 1
    return bpc


# %% [markdown]
# Curves of training are drawn as the network saw it, zoneout with its noise on. That makes zoneout look worse than it
# is, so for each network the run also measures the training text in evaluation, with the best parameters. Compare both:
# they need not put zoneout and the static connections in the same order.


# %%
def main(preset: Preset = "quick", device: DeviceName = "cpu") -> dict[str, dict[str, Any]]:
    """Train the three networks, and draw masks and learning curves."""
    manual: dict[str, Any] = {"dataset": "manual"}
    changes: dict[str, Any] = {
        "small": {**manual, "hidden_size": 32, "epochs": 2, "train_symbols": 12_000, "eval_symbols": 4_000},
        "quick": {**manual, "hidden_size": 160, "epochs": 64, "train_symbols": 10_000, "eval_symbols": 10_000},
        "paper": {},
    }[preset]
    found: dict[str, dict[str, Any]] = {}
    for name, flags in NETWORKS.items():
        run = shared.learn(CharPTB, preset, device, f"16_{name.replace(' ', '_')}", **flags, **changes)
        task = run.experiment
        seen = task.data.train[: len(task.data.valid)]
        found[name] = {
            "train": run.curve("train_bpc"), "valid": run.curve("valid_bpc"), "best": run.summary["best_valid_bpc"],
            "best_epoch": run.summary["best_epoch"], "train_without_noise": task.bpc_by_chunks(seen),
        }  # fmt: skip
        if name == "static identity":
            found[name]["valid_with_another_mask"] = with_another_mask(task)
    for name, numbers in found.items():
        print(
            f"{name:16s} best valid {numbers['best']:.3f} BPC in epoch {numbers['best_epoch']}, its training text then"
            f" {numbers['train_without_noise']:.3f}; at the end train {numbers['train'][-1]:.3f},"
            f" valid {numbers['valid'][-1]:.3f}"
        )
    other = found["static identity"]["valid_with_another_mask"]
    print(f"static identity, with a mask that it was not trained with: valid {other:.3f} BPC")
    check("all three learn something", all(v["train"][-1] < v["train"][0] for v in found.values()))

    figure, axes = plt.subplot_mosaic([["z", "train", "valid"], ["s", "train", "valid"]], figsize=(10.5, 4))
    for key, kind, title in (("z", fresh, "zoneout"), ("s", static, "static identity connections")):
        strips = [np.broadcast_to(cell_masks(kind, update), (n, H, B))[..., e].T for update in (1, 2) for e in (0, 1)]
        gap = np.full((2, n), 0.5)
        axes[key].imshow(np.concatenate([row for strip in strips for row in (strip, gap)][:-1]), cmap="Greys",
                         aspect="auto", interpolation="nearest")  # fmt: skip
        axes[key].set_yticks([5.5 + 14 * k for k in range(4)], [f"update {u}, ex. {e}" for u in (1, 2) for e in (1, 2)])
        axes[key].set_title(f"{title}: who waits (black)", fontsize=9)
        axes[key].tick_params(axis="y", labelsize=7, length=0)
        axes[key].grid(False)
    axes["s"].set_xlabel("time step")
    for name, numbers in found.items():
        for key in ("train", "valid"):
            axes[key].plot(range(1, len(numbers[key]) + 1), numbers[key], label=name)
    axes["train"].set(xlabel="epoch", ylabel="bits per character", title="training, as the network saw it")
    lowest, a_third = min(v["best"] for v in found.values()), len(numbers["valid"]) // 3
    axes["valid"].set(
        xlabel="epoch", title="validation, enlarged", ylim=(lowest - 0.02, numbers["valid"][a_third] + 0.02)
    )
    axes["valid"].legend(fontsize=8)
    save(figure, "16_static_identity")
    return found


# %% [markdown]
# ## What the paper found, and what this run can show
#
# As we remember the appendix, unverified: static identity connections had slightly lower training error than zoneout,
# but not lower validation error, and did worse than an unregularized LSTM on both training and validation data. The
# conclusion was that the noise is essential. By the defaults of their script, that was with 1,000 units.
#
# A quick run has one seed, a small network and 10,000 characters. What it can show is the shape of the curves: where
# the validation curve of the static network levels off, near that of the plain one or with that of zoneout. Differences
# of a few hundredths of a bit mean nothing here. The last line of the output says what becomes of the static network
# when it is validated under another mask than its own; hold that against the differences between the three.

# %%
if __name__ == "__main__":
    shared.run(main)

# %% [markdown]
# ## Exercises
#
# 1. Use chapter 15's `random_lstm` with `Zoneout(cells=0.5, static_steps=100)`. Is the gradient carried as far as with
#    fresh masks? Which half of the reviewer's question does that answer?
# 2. Evaluate the trained zoneout network with one drawn mask in place of the expectation: give
#    `task.model` an `rng`. How does its loss compare with that of the static network under a mask that is not its own?
# 3. Set `z_prob_cells` of `Z` to 0.1 and to 0.9. Which of the two networks suffers more when most of its cells wait?
