# %% [markdown]
# # 5. Zoneout in one line
#
# **Claim.** Zoneout is dropout on the *change* of the state: a unit that is zoned out keeps its old value. It is one
# line of code. The same line, with a probability in place of a mask, is what runs at test time.
#
# Paper: sections 3.1 and 3.2, figures 1 and 2. The full experiment, on 1,000 units, is that of chapter 9:
# `python run.py char-ptb --preset paper --z-prob-cells 0.5 --z-prob-states 0.05`

# %%
import inspect

import shared  # finds minizone
import matplotlib.pyplot as plt
import numpy as np
from shared import DeviceName, Preset, check, save

from minizone import Device, Tensor, Zoneout, lstm
from minizone.backend import stream, to_host
from minizone.zoneout import zone_out

# %% [markdown]
# ## The line
#
# A recurrent network computes at every step a value for its next state. Zoneout does not always accept it. We write
#
# - `old` for the state before the step, (H, B), with H hidden units and one column for each of B examples;
# - `new` for the value that the network has computed, (H, B), which we call the candidate;
# - `keep` for a random mask (H, B). Where it is 1 the unit keeps its old value, where it is 0 it takes the new one.
#
# A unit with a 1 in the mask is *zoned out*. Each element is 1 with the probability $z$. This is the whole of zoneout,
# from `minizone/zoneout.py`:

# %%
print(inspect.getsource(zone_out).splitlines()[-1].strip())

# %% [markdown]
# With `keep` all zeros this is the plain network. With `keep` all ones nothing ever moves.
#
# The line can also be written with the change in front. Let $s_{t-1}$ be the old state, $\tilde s_t$ the candidate,
# $s_t$ the next state and $k_t$ the mask, all (H, B). With $\odot$ for the product element by element,
#
# $$s_t = s_{t-1} + (1 - k_t) \odot (\tilde s_t - s_{t-1})$$
#
# This is dropout of the *difference* $\tilde s_t - s_{t-1}$, without rescaling (figure 1 of the paper). Ordinary
# dropout acts on the state itself. A dropped unit becomes 0, and the rest of the network takes that 0 for the value of
# the unit.

# %%
rng = np.random.default_rng(0)
old, new = rng.standard_normal((2, 5, 3))  # (H, B) each
keep = (rng.random((5, 3)) < 0.5).astype(float)  # (H, B)
mixed = zone_out(old, new, keep)
as_dropout = old + (1 - keep) * (new - old)
check("a zoned-out unit has its old value, to the bit", (mixed[keep == 1] == old[keep == 1]).all())
check("zoneout is dropout on the change", np.allclose(mixed, as_dropout, rtol=0, atol=1e-15))

# %% [markdown]
# ## An LSTM has two states
#
# The cells $c_t$ and the hidden states $h_t$ of an LSTM (chapter 4) have masks of their own, $k^c_t$ and $k^h_t$, with
# the probabilities $z_c$ and $z_h$. From the gates $i_t$, $f_t$, $o_t$ and the proposal $g_t$, all (H, B), the LSTM
# computes the candidates
#
# $$\tilde c_t = f_t \odot c_{t-1} + i_t \odot g_t$$
#
# $$\tilde h_t = o_t \odot \tanh(\tilde c_t)$$
#
# and zoneout mixes them with the old states:
#
# $$c_t = k^c_t \odot c_{t-1} + (1 - k^c_t) \odot \tilde c_t$$
#
# $$h_t = k^h_t \odot h_{t-1} + (1 - k^h_t) \odot \tilde h_t$$
#
# Note that the tanh takes the *candidate* $\tilde c_t$, not the cell $c_t$ that comes out of zoneout. So the candidate
# of a cell still reaches the rest of the network when the cell itself keeps its old value. To see it, zone out all
# cells and no hidden states.

# %%
H, B, T = 4, 2, 6
W_x = rng.standard_normal((4 * H, 3))
W_h = rng.standard_normal((4 * H, H))
b = rng.standard_normal(4 * H)
h0, c0 = rng.standard_normal((2, H, B))  # (H, B) each
x = rng.standard_normal((T, 3, B))
h, c = lstm(x, h0, c0, W_x, W_h, b, keep_c=1.0)  # (T, H, B) each
check("z_c = 1: the cells never move", (c.data == c0).all())
check("z_c = 1: the hidden states move all the same", (np.abs(np.diff(h.data, axis=0)) > 1e-4).all())

# %% [markdown]
# ## What the masks look like
#
# `Zoneout` draws the masks of a whole sequence, (T, H, B) for T time steps, before the network runs. The backward pass
# needs the same masks. A mask that is an *argument* can be used again, checked and saved (chapter 1).
#
# Variants of zoneout fill this array in other ways. With `whole_layer`, one draw zones out all units of an example at
# once, cells and hidden states together (stochastic depth, chapter 6). With `static_steps`, the masks of all steps are
# drawn once, and every example and every minibatch uses them (chapter 16).

# %%
KINDS = {
    "independent": Zoneout(states=0.5),
    "whole layer": Zoneout(states=0.5, whole_layer=True),
    "static": Zoneout(states=0.5, static_steps=40),
}


def picture(zoneout: Zoneout) -> np.ndarray:
    """The masks of 12 units over 40 steps for two examples, with a gray line between the examples."""
    keep_h, _ = zoneout.masks(40, 12, 2, stream(1, "masks"), static_rng=stream(1, "static"))
    keep_h = np.broadcast_to(keep_h, (40, 12, 2))  # (T, H, B)
    gray = np.full((1, 40), 0.5)
    return np.concatenate([keep_h[..., 0].T, gray, keep_h[..., 1].T])


# %% [markdown]
# ## At test time
#
# The network should not be random when it is used. The line is linear in `keep`. So for a given old state and
# candidate, the average of its result over all masks is its result for the average mask, and the average of `keep` is
# $z$:
#
# $$\mathbb{E}[s_t \mid s_{t-1}, \tilde s_t] = z s_{t-1} + (1 - z) \tilde s_t$$
#
# Without a random generator, `Zoneout.masks` returns just the probabilities. The same line then computes the average.
# No weight is rescaled.

# %%
expected_h, expected_c = Zoneout(cells=0.5, states=0.05).masks(T, H, B, rng=None)
check("in evaluation the mask is the probability", (expected_h, expected_c) == (0.05, 0.5))

# %% [markdown]
# For *one* step this is exact. `main` draws many masks to test it. Over several steps it is an approximation, because
# the tanh and the sigmoids between two steps are not linear. Chapter 17 shows what goes wrong without the average.


# %%
def mean_over_masks(old, new, z: float, draws: int) -> np.ndarray:
    """The mean of a step with zoneout over many masks (H, 1), drawn 1,000 at a time."""
    rng = stream(0, "draws")
    total = np.zeros_like(old)
    for _ in range(draws // 1000):
        keep, _ = Zoneout(states=z).masks(1000, len(old), 1, rng, dtype=np.float64)  # (1000, H, 1)
        total += (keep * old + (1 - keep) * new).sum(axis=0)  # the one line, for 1,000 masks at once
    return total / draws


# %% [markdown]
# ## One unit over time
#
# We follow the hidden states of an LSTM with random weights that reads a sine wave. The function below returns them
# with zoneout and, for the same mask, with dropout in place of zoneout. With zoneout one call runs the whole sequence.
# With dropout we call the LSTM step by step and multiply its state by $1 - k_t$.


# %%
def traces(z: float, T: int, H: int, device: Device) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """h (T, H) of a random LSTM with zoneout of h, h (T, H) with dropout of h instead, and the mask (T, H)."""
    rng = stream(3, "traces")
    W_x = device.to_device(rng.standard_normal((4 * H, 1)) * 1.2)
    W_h = device.to_device(rng.standard_normal((4 * H, H)) * 1.2 / H**0.5)
    b = device.to_device(rng.standard_normal(4 * H) * 1.2 / (4 * H) ** 0.5)
    x = device.to_device(np.sin(np.arange(T) / 3)[:, None, None])  # (T, 1, 1)
    zeros = device.xp.zeros((H, 1))
    mask = (rng.random((T, H, 1)) < z).astype(float)
    keep = device.to_device(mask)  # (T, H, 1)

    zoned, _ = lstm(x, zeros, zeros, W_x, W_h, b, keep_h=keep)  # (T, H, 1)

    h, c = Tensor(zeros), Tensor(zeros)
    dropped = []
    for t in range(T):
        h_after, c_after = lstm(x[t : t + 1], h, c, W_x, W_h, b)  # one step, (1, H, 1)
        h = h_after[0] * (1 - keep[t])  # 0 where zoneout would keep the old value
        c = c_after[0]
        dropped.append(to_host(h.data)[:, 0])
    return to_host(zoned.data)[..., 0], np.array(dropped), mask[..., 0]


# %% [markdown]
# The figure shows the masks, and below them the unit whose state changes most.


# %%
def draw(zoned, dropped) -> None:
    figure, axes = plt.subplot_mosaic([list(KINDS), ["trace"] * 3], figsize=(8.5, 5), height_ratios=[1, 1.1])
    for name, zoneout in KINDS.items():
        axes[name].imshow(picture(zoneout), cmap="Greys", aspect="auto", vmin=0, vmax=1, interpolation="nearest")
        axes[name].set(title=f"masks: {name}", xlabel="time step", yticks=[5.5, 18.5], yticklabels=["", ""])
        axes[name].grid(False)
    axes["independent"].set_yticklabels(["example 1,\n12 units", "example 2,\n12 units"])

    unit = int(np.argmax(zoned.std(axis=0)))
    axes["trace"].step(range(len(zoned)), zoned[:, unit], where="post", label="zoneout: the unit keeps its value")
    axes["trace"].step(range(len(zoned)), dropped[:, unit], where="post", lw=0.9, label="dropout: the unit is set to 0")
    axes["trace"].set(title=f"hidden state of unit {unit}, with the same mask", xlabel="time step", ylabel="$h$")
    figure.legend(loc="outside lower center", ncols=2)
    save(figure, "05_zoneout")


# %%
SIZES = {"small": (4_000, 20), "quick": (100_000, 100), "paper": (1_000_000, 1000)}  # draws, units


def main(preset: Preset = "quick", device: DeviceName = "cpu") -> dict[str, float]:
    """Average over many masks, and draw masks and traces."""
    draws, units = SIZES[preset]
    z = 0.3
    old, new = stream(0, "states").standard_normal((2, units, 1))
    error = np.abs(mean_over_masks(old, new, z, draws) - zone_out(old, new, z)) / np.abs(new - old)
    bound = 4.5 * (z * (1 - z) / draws) ** 0.5  # standard errors; P(one of 1,000 units is off) = 0.7 %
    print(f"mean over {draws:,} masks and step with the mean mask: at most {error.max():.4f} |new - old| apart")
    check("the mean over masks is the step with the mean mask", error.max() < bound)

    zoned, dropped, mask = traces(0.5, T=40, H=max(8, units // 10), device=Device(device))
    zoned_out = mask[1:] == 1
    check("a zoned-out unit does not move", (np.diff(zoned, axis=0)[zoned_out] == 0).all())
    check("a unit that is dropped is zero", (dropped[mask == 1] == 0).all())

    draw(zoned, dropped)
    return {"draws": draws, "largest_error": float(error.max()), "zoned_out": float(mask.mean())}


# %%
if __name__ == "__main__":
    shared.run(main)

# %% [markdown]
# ## In the figure
#
# Above: black is `keep` = 1. Independent masks differ for every unit, step and example. With the whole layer, a column
# of an example is all black or all white. Static masks are the same for both examples.
#
# Below: under zoneout the state is constant while the unit is zoned out. Then it jumps to the candidate that the
# network computes at that step. Under dropout, with the same mask, it is set to 0 each time.

# %% [markdown]
# ## What to take away
#
# - Zoneout is one line: `keep * old + (1 - keep) * new`.
# - A unit that is zoned out keeps its value. Dropout sets it to 0.
# - In an LSTM, cells and hidden states have masks of their own, and the tanh takes the candidate of the cell.
# - At test time the mask is replaced by its probability, and no weight is rescaled.
#
# ## Exercises
#
# 1. Let the tanh take the cell after zoneout: write the step with `zone_out` and compare with `minizone.lstm`. Is there
#    a difference for $z_c = 1, z_h = 0$? And for $z_c = 0, z_h = 0.5$?
# 2. Average the *last* state of an LSTM over a few thousand draws of masks, and compare it with the state of a run on
#    expectations. How does the difference depend on T and on $z$?
# 3. `gaussian=True` fills `keep` with normal numbers of the same mean and variance. What does a `keep` of 1.7 do to a
#    state, and why does the expectation still hold?
