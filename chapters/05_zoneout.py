# %% [markdown]
# # 5. Zoneout in one line
#
# **Claim.** Zoneout is dropout on the *change* of the state: a unit that is zoned out does not forget, it waits. It
# is one line of code, and the same line, fed with a probability in place of a mask, is what we run at test time.
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
# Let `old` be the state (H, B), one column for each example, and `new` what the network would like it to become. The
# mask `keep` says, unit by unit and example by example, who waits: 1 keeps the old value, 0 takes the new one. Here
# is the whole of zoneout, as it stands in the package:

# %%
print(inspect.getsource(zone_out).splitlines()[-1].strip())

# %% [markdown]
# With `keep` all zeros this is the plain network; all ones, and nothing ever moves. Write it once more with the
# change in front, $s_t = s_{t-1} + (1 - keep) \odot (\tilde s_t - s_{t-1})$, and its kinship shows (figure 1 of the
# paper): dropout, without the rescaling, on the *difference* $\tilde s_t - s_{t-1}$. Ordinary dropout multiplies the
# state itself, and a dropped unit becomes 0, which is a value like any other that the rest of the network has to
# swallow.

# %%
rng = np.random.default_rng(0)
old, new = rng.standard_normal((2, 5, 3))  # (H, B) each
keep = (rng.random((5, 3)) < 0.5).astype(float)
mixed = zone_out(old, new, keep)
check("a unit that waits has its old value, to the bit", (mixed[keep == 1] == old[keep == 1]).all())
check("zoneout is dropout on the change", np.allclose(mixed, old + (1 - keep) * (new - old), rtol=0, atol=1e-15))

# %% [markdown]
# ## In an LSTM there are two states, and one trap
#
# Cells and hidden states have masks and probabilities of their own, $z_c$ and $z_h$ (all of shape (H, B)):
#
# $$\tilde c_t = f_t \odot c_{t-1} + i_t \odot g_t \qquad \tilde h_t = o_t \odot \tanh(\tilde c_t)$$
# $$c_t = k^c_t \odot c_{t-1} + (1 - k^c_t) \odot \tilde c_t$$
# $$h_t = k^h_t \odot h_{t-1} + (1 - k^h_t) \odot \tilde h_t$$
#
# The trap is the tanh: it takes the *candidate* $\tilde c_t$ and not the cell $c_t$ that came out of zoneout. So a
# cell that waits still shows the world what it would have become. Freeze all cells, let no hidden state wait, and
# look.

# %%
H, B, T = 4, 2, 6
weights = {name: rng.standard_normal(shape) for name, shape in (("W_x", (4 * H, 3)), ("W_h", (4 * H, H)), ("b", 4 * H))}
start = rng.standard_normal((2, H, B))  # h0, c0
h, c = lstm(rng.standard_normal((T, 3, B)), *start, **weights, keep_c=1.0)
check("z_c = 1: the cells never move", (c.data == start[1]).all())
check("... and the hidden states do all the same", (np.abs(np.diff(h.data, axis=0)) > 1e-4).all())

# %% [markdown]
# ## What the masks look like
#
# `Zoneout` draws them for a whole sequence, (T, H, B), before the network runs: the backward pass needs the very same
# ones, and a mask that is an *argument* can be replayed, checked and saved. Its variants are other ways to fill the
# array. `whole_layer` is stochastic depth with time in the place of layers: one draw stops all units at once, cells
# and hidden states together. `static_steps` are the static identity connections of chapter 16: one draw for all
# examples.

# %%
kinds = {
    "independent, $z$ = 0.5": Zoneout(states=0.5),
    "whole layer": Zoneout(states=0.5, whole_layer=True),
    "static, one for all examples": Zoneout(states=0.5, static_steps=40),
}
pictures = {}
for title, zoneout in kinds.items():
    keep_h, _ = zoneout.masks(40, 12, 2, stream(1, "masks"), static_rng=stream(1, "static"))
    whole = np.broadcast_to(keep_h, (40, 12, 2))
    pictures[title] = np.concatenate([whole[..., 0].T, np.full((1, 40), 0.5), whole[..., 1].T])  # two examples

# %% [markdown]
# ## At test time
#
# The line is linear in `keep`. So the average of its result over all masks is its result for the average mask, and
# the average of `keep` is $z$: without a generator, `Zoneout.masks` returns just that number. No weight is rescaled.
# For *one* step this is exact, and `main` below draws many masks to see it. Over several steps it is an
# approximation, since tanh and sigmoid stand between one mask and the next. Chapter 17 shows what happens to those
# who forget it.

# %%
expected_h, expected_c = Zoneout(cells=0.5, states=0.05).masks(T, H, B, rng=None)
check("in evaluation the mask is the probability", (expected_h, expected_c) == (0.05, 0.5))


# %%
def traces(z: float, T: int, H: int, device: Device) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """h (T, H) of one random LSTM with zoneout of h, the same with dropout of h instead, and the mask (T, H)."""
    xp, rng = device.xp, stream(3, "traces")
    weights = {"W_x": (4 * H, 1), "W_h": (4 * H, H), "b": (4 * H,)}
    weights = {n: device.to_device(rng.standard_normal(s) * 1.2 / s[-1] ** 0.5) for n, s in weights.items()}
    x = device.to_device(np.sin(np.arange(T) / 3)[:, None, None])  # (T, 1, 1)
    keep, zeros = (rng.random((T, H, 1)) < z).astype(float), xp.zeros((H, 1))
    on_device = device.to_device(keep)
    zoned, _ = lstm(x, zeros, zeros, **weights, keep_h=on_device)
    h, c, dropped = Tensor(zeros), Tensor(zeros), []
    for t in range(T):  # the same mask, but who is drawn falls to zero
        hs, cs = lstm(x[t : t + 1], h, c, **weights)
        h, c = hs[0] * (1 - on_device[t]), cs[0]
        dropped.append(to_host(h.data)[:, 0])
    return to_host(zoned.data)[..., 0], np.array(dropped), keep[..., 0]


# %% [markdown]
# Now one unit over time. Under zoneout it has flat stretches where it waits, and goes on from its own value. Under
# dropout, with the very same mask, it is thrown to the floor each time.


# %%
def main(preset: Preset = "quick", device: DeviceName = "cpu") -> dict[str, float]:
    """Average over many masks, and draw masks and traces."""
    draws, units = {"small": (4_000, 20), "quick": (100_000, 100), "paper": (1_000_000, 1000)}[preset]
    where, rng, z = Device(device), stream(0, "draws"), 0.3
    old, new = rng.standard_normal((2, units, 1))
    total = np.zeros((units, 1))
    for _ in range(draws // 1000):
        keep, _ = Zoneout(states=z).masks(1000, units, 1, rng, dtype=np.float64)  # 1,000 masks (H, 1)
        total += zone_out(old, new, keep).sum(axis=0)
    error = np.abs(total / draws - zone_out(old, new, z)) / np.abs(new - old)
    bound = 4.5 * (z * (1 - z) / draws) ** 0.5  # standard errors; P(one of 1,000 units is off) = 0.7 %
    print(f"mean over {draws:,} masks against the mask of the mean: off by {error.max():.4f} of the change, at most")
    check("the mean over masks is the step with the mean mask", error.max() < bound)

    zoned, dropped, kept = traces(0.5, T=40, H=max(8, units // 10), device=where)
    waited = kept[1:] == 1
    check("who waits does not move", (np.diff(zoned, axis=0)[waited] == 0).all())
    check("who is dropped is zero", (dropped[kept == 1] == 0).all())

    figure, axes = plt.subplots(1, 4, figsize=(11, 2.6), width_ratios=[1, 1, 1, 1.7])
    for axis, (title, picture) in zip(axes, pictures.items(), strict=False):
        axis.imshow(picture, cmap="Greys", aspect="auto", vmin=0, vmax=1, interpolation="nearest")
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
    return {"draws": draws, "largest_error": float(error.max()), "waited": float(kept.mean())}


# %%
if __name__ == "__main__":
    shared.run(main)

# %% [markdown]
# ## Exercises
#
# 1. Let the tanh take the cell after zoneout: write the step with `zone_out` and compare with `minizone.lstm`. For
#    which of $z_c = 1, z_h = 0$ and $z_c = 0, z_h = 1$ does the difference show?
# 2. Average the *last* state of an LSTM over 1,000 draws of masks for ten steps, and compare with the run on
#    expectations. How does the difference grow with $z$ and with T?
# 3. `gaussian=True` fills `keep` with normal numbers of the same mean and variance. What does a `keep` of 1.7 do to a
#    state, and why does the expectation still hold?
