# %% [markdown]
# # 5. Zoneout in one line
#
# **Claim.** Zoneout is dropout on the *change* of the state: a unit that is zoned out does not forget, it waits. It is
# one line of code. The same line, with a probability in place of a mask, is what runs at test time.
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
# Let `old` be the state (H, B): H hidden units, and one column for each of B examples. Let `new` be the value that the
# network proposes for the next state. The mask `keep` has an element for each unit of each example. Where it is 1 the
# unit keeps its old value, where it is 0 it takes the new one. This is the whole of zoneout, from
# `minizone/zoneout.py`:

# %%
print(inspect.getsource(zone_out).splitlines()[-1].strip())

# %% [markdown]
# With `keep` all zeros this is the plain network. With `keep` all ones nothing ever moves. We can write the line with
# the change in front:
#
# $$s_t = s_{t-1} + (1 - keep) \odot (\tilde s_t - s_{t-1})$$
#
# This is dropout, without its rescaling, on the *difference* $\tilde s_t - s_{t-1}$ (figure 1 of the paper). Ordinary
# dropout multiplies the state itself. A dropped unit becomes 0, and the rest of the network reads that 0 as a value
# like any other.

# %%
rng = np.random.default_rng(0)
old, new = rng.standard_normal((2, 5, 3))  # (H, B) each
keep = (rng.random((5, 3)) < 0.5).astype(float)  # (H, B)
mixed = zone_out(old, new, keep)
as_dropout = old + (1 - keep) * (new - old)
check("a unit that waits has its old value, to the bit", (mixed[keep == 1] == old[keep == 1]).all())
check("zoneout is dropout on the change", np.allclose(mixed, as_dropout, rtol=0, atol=1e-15))

# %% [markdown]
# ## An LSTM has two states
#
# The cells $c_t$ and the hidden states $h_t$ have masks and probabilities of their own, $z_c$ and $z_h$. All arrays are
# (H, B):
#
# $$\tilde c_t = f_t \odot c_{t-1} + i_t \odot g_t \qquad \tilde h_t = o_t \odot \tanh(\tilde c_t)$$
# $$c_t = k^c_t \odot c_{t-1} + (1 - k^c_t) \odot \tilde c_t$$
# $$h_t = k^h_t \odot h_{t-1} + (1 - k^h_t) \odot \tilde h_t$$
#
# There is a trap. The tanh takes the *candidate* $\tilde c_t$, not the cell $c_t$ that comes out of zoneout. So a cell
# that waits still shows its candidate to the rest of the network. To see it, zone out all cells and no hidden states.

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
# `Zoneout` draws the masks of a whole sequence, (T, H, B), before the network runs. The backward pass needs the same
# masks, and a mask that is an *argument* can be used again, checked and saved.
#
# Variants of zoneout fill this array in other ways. `whole_layer` is stochastic depth with time in the place of layers:
# one draw stops all units at once, cells and hidden states together. `static_steps` makes the static identity
# connections of chapter 16: one draw serves all examples.

# %%
KINDS = {
    "independent, $z$ = 0.5": Zoneout(states=0.5),
    "whole layer": Zoneout(states=0.5, whole_layer=True),
    "static, one for all examples": Zoneout(states=0.5, static_steps=40),
}


def picture(zoneout: Zoneout) -> np.ndarray:
    """The masks of 12 units over 40 steps for two examples, with a grey line between the examples."""
    keep_h, _ = zoneout.masks(40, 12, 2, stream(1, "masks"), static_rng=stream(1, "static"))
    keep_h = np.broadcast_to(keep_h, (40, 12, 2))  # (T, H, B)
    grey = np.full((1, 40), 0.5)
    return np.concatenate([keep_h[..., 0].T, grey, keep_h[..., 1].T])


# %% [markdown]
# ## At test time
#
# The line is linear in `keep`. So the average of its result over all masks is its result for the average mask. The
# average of `keep` is $z$. Without a generator, `Zoneout.masks` returns just that number. No weight is rescaled.
#
# For *one* step this is exact, and `main` draws many masks to show it. Over several steps it is an approximation,
# because tanh and sigmoid stand between one mask and the next. Chapter 17 shows what happens without it.

# %%
expected_h, expected_c = Zoneout(cells=0.5, states=0.05).masks(T, H, B, rng=None)
check("in evaluation the mask is the probability", (expected_h, expected_c) == (0.05, 0.5))

# %% [markdown]
# ## One unit over time
#
# Under zoneout the state of a unit has flat stretches where it waits. Then it goes on from its own value. Under
# dropout, with the same mask, the state falls to 0 each time.


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


# %%
def mean_over_masks(old, new, z: float, draws: int) -> np.ndarray:
    """The mean of a step with zoneout over many masks (H, 1), drawn 1,000 at a time."""
    rng = stream(0, "draws")
    total = np.zeros_like(old)
    for _ in range(draws // 1000):
        keep, _ = Zoneout(states=z).masks(1000, len(old), 1, rng, dtype=np.float64)  # (1000, H, 1)
        total += (keep * old + (1 - keep) * new).sum(axis=0)  # the one line, for 1,000 masks at once
    return total / draws


SIZES = {"small": (4_000, 20), "quick": (100_000, 100), "paper": (1_000_000, 1000)}  # draws, units


def main(preset: Preset = "quick", device: DeviceName = "cpu") -> dict[str, float]:
    """Average over many masks, and draw masks and traces."""
    draws, units = SIZES[preset]
    z = 0.3
    old, new = stream(0, "states").standard_normal((2, units, 1))
    error = np.abs(mean_over_masks(old, new, z, draws) - zone_out(old, new, z)) / np.abs(new - old)
    bound = 4.5 * (z * (1 - z) / draws) ** 0.5  # standard errors; P(one of 1,000 units is off) = 0.7 %
    print(f"mean over {draws:,} masks against the mean mask: at most {error.max():.4f} of the change apart")
    check("the mean over masks is the step with the mean mask", error.max() < bound)

    zoned, dropped, mask = traces(0.5, T=40, H=max(8, units // 10), device=Device(device))
    waits = mask[1:] == 1
    check("a unit that waits does not move", (np.diff(zoned, axis=0)[waits] == 0).all())
    check("a unit that is dropped is zero", (dropped[mask == 1] == 0).all())

    draw(zoned, dropped)
    return {"draws": draws, "largest_error": float(error.max()), "waited": float(mask.mean())}


def draw(zoned, dropped) -> None:
    figure, axes = plt.subplots(1, 4, figsize=(11, 2.6), width_ratios=[1, 1, 1, 1.7])
    for axis, (title, zoneout) in zip(axes, KINDS.items(), strict=False):
        axis.imshow(picture(zoneout), cmap="Greys", aspect="auto", vmin=0, vmax=1, interpolation="nearest")
        axis.set(title=title, xlabel="time step", yticks=[5.5, 18.5], yticklabels=["example 1", "example 2"])
        axis.tick_params(axis="y", rotation=90, length=0)
        axis.grid(False)
    unit = int(np.argmax(zoned.std(axis=0)))
    axes[3].step(range(40), zoned[:, unit], where="post", label="zoneout: it waits")
    axes[3].step(range(40), dropped[:, unit], where="post", lw=0.9, label="dropout: it falls to 0")
    axes[3].set(title=f"$h$ of unit {unit}, one mask for both", xlabel="time step")
    axes[3].set_ylim(top=1.0)
    axes[3].legend(fontsize=8, loc="upper right", ncols=2)
    save(figure, "05_zoneout")


# %%
if __name__ == "__main__":
    shared.run(main)

# %% [markdown]
# ## Exercises
#
# 1. Let the tanh take the cell after zoneout: write the step with `zone_out` and compare with `minizone.lstm`. Is there
#    a difference for $z_c = 1, z_h = 0$? And for $z_c = 0, z_h = 1$?
# 2. Average the *last* state of an LSTM over 1,000 draws of masks for ten steps, and compare with the run on
#    expectations. How does the difference grow with $z$ and with T?
# 3. `gaussian=True` fills `keep` with normal numbers of the same mean and variance. What does a `keep` of 1.7 do to a
#    state, and why does the expectation still hold?
