# %% [markdown]
# # 14. Semantic consistency
#
# **Claim.** A unit that may have to wait cannot change its meaning from one step to the next. Without zoneout a network
# can remember a vector by flipping its sign ten times, and it will stay with that for ever; with zoneout the only
# lossless memory is to leave the vector alone, and gradient descent finds it.
#
# Paper: none; this is a toy task of the authors' repository, and there is no published number to meet.
# The full experiment: `python run.py semantic --preset paper`

# %%
import shared  # finds minizone
import matplotlib.pyplot as plt
import numpy as np
from shared import DeviceName, Preset, check, save

from minizone.backend import bernoulli, stream
from minizone.experiments.semantic import NETWORKS, Semantic, linear_zoneout

# %% [markdown]
# ## The task
#
# Take the smallest recurrent network there is: no input, no nonlinearity, one matrix W (n, n). It starts at x (n, B),
# one column for each of B examples, drawn from a normal distribution, makes T steps, and shall end where it started:
#
# $$h_0 = x \qquad \tilde h_t = W h_{t-1} \qquad h_t = k_t \odot h_{t-1} + (1 - k_t) \odot \tilde h_t \qquad
# L = \sum (h_T - x)^2$$
#
# All states are (n, B). The mask $k_t$ (n, 1) keeps a unit with probability p, in all examples of a minibatch at once,
# as in the authors' script; L is summed over units and examples. Here n = 2, B = 32, T = 10, p = 0.1 or p = 0.
#
# Without zoneout $h_T = W^T x$ (the T-th power), and every real matrix whose tenth power is I remembers perfectly.
# There are many: I itself, -I, which flips every unit ten times, a rotation by 36 degrees, a reflection that swaps the
# units.

# %%
n, T, p = 2, 10, 0.1
turn = 2 * np.pi / T
roots = {
    "I": np.eye(2),
    "-I": -np.eye(2),
    "rotation": np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]),
    "reflection": np.array([[0.0, 1.0], [1.0, 0.0]]),
}
W = np.stack(list(roots.values()))  # (4, n, n): four networks at once
x = stream(0, "x").standard_normal((n, 32))


def costs(keep: np.ndarray) -> np.ndarray:
    """The cost of the four networks (4,), for masks that broadcast to (T, 4, n, 1)."""
    return ((linear_zoneout(W, x, keep).data - x) ** 2).sum(axis=(1, 2))


check("without zoneout all four remember", (costs(np.zeros((T, 1, n, 1))) < 1e-24).all())

# %% [markdown]
# ## One mask rules out all but I
#
# With 0 < p < 1 every mask has some probability. So has this one: all units wait at all steps but one. It makes
# $h_T = W x$, and for the cost to be 0 on every x there is only one choice, W = I. And I is enough: then
# $\tilde h_t = h_{t-1}$, and whether a unit waits or moves makes no difference. That is the whole argument: a unit
# that may be held has to mean the same at every step.

# %%
one_step = np.ones((T, 1, n, 1))
one_step[3] = 0
found = dict(zip(roots, costs(one_step), strict=True))
check("a mask that lets one step through is harmless to I", found["I"] == 0)
check("... and to no other root of I", min(cost for name, cost in found.items() if name != "I") > 1)

# %% [markdown]
# ## What -I costs now
#
# Let every unit look after itself, $W = wI$. If it waits K times in T steps, it ends at $w^{T-K} x$, and K has a
# binomial distribution: T independent draws with probability p. Its expected squared error, divided by $x^2$, is
#
# $$\mathbb{E}(w^{T-K} - 1)^2 = 1 - 2\,\big(p + (1-p)\,w\big)^T + \big(p + (1-p)\,w^2\big)^T$$
#
# since $\mathbb{E}\, w^{T-K} = (p \cdot 1 + (1-p) \cdot w)^T$, a product over independent steps. Put in the two numbers
# that interest us. At w = 1 it is $1 - 2 + 1 = 0$. At w = -1 and even T it is $2 - 2 (1 - 2p)^T$: with p = 0 nothing,
# but soon more than 1, which is what a network pays that forgets all and answers 0. One wait too many or too few, and
# the vector comes out upside down.


# %%
def expected(w: np.ndarray, p: float) -> np.ndarray:
    """Squared error of a unit over x^2, on average over the masks, for W = w I."""
    return 1 - 2 * (p + (1 - p) * w) ** T + (p + (1 - p) * w * w) ** T


draws, w = 20_000, np.array([-1.0, -0.7, 0.5, 0.9])
keep = bernoulli(stream(0, "keep"), p, (T, draws, 1, n, 1), np.float64)  # axes: step, draw, network, unit, example
ends = linear_zoneout(w[:, None, None] * np.eye(n), np.ones((n, 1)), keep).data  # (draws, 4, n, 1): from x = 1
errors = (ends - 1) ** 2
off = np.abs(errors.mean(axis=(0, 2, 3)) - expected(w, p)) / (errors.std(axis=(0, 2, 3)) / (draws * n) ** 0.5)
check("the formula agrees with 20,000 masks", off.max() < 5)
check("at w = -1 a unit pays more than the 1 of forgetting", expected(w, p)[0] > 1)
flat = np.linspace(-1, 0, 1001)
hollow = flat[expected(flat, p).argmin()]
print(f"for w < 0 the least cost is {expected(hollow, p):.4f}, at w = {hollow:.3f}")
check("for w < 0 there is no place that remembers", expected(hollow, p) > 0.99)

# %% [markdown]
# The left panel of the figure draws the formula. With p = 0 it has two valleys, and -1 is as good as +1. With p = 0.1
# the left valley is gone, and in its place lies a plateau as high as forgetting everything: a hard start for gradient
# descent, which has to cross it to reach I.
#
# ## Training
#
# `Semantic` trains two networks side by side, on the same x, from the same W near -I (standard deviation 0.01), by
# plain gradient descent at the authors' learning rate. Its log has W of both after every 1,000 updates. The quick run
# makes half of the authors' 100,000 updates, with three seeds; `small` makes a few thousand, which is the plateau only.


# %%
def arrival(rows: list[dict], within: float = 0.05) -> int | None:
    """The update from which on W of the network with zoneout stays I, up to ``within``; None: not yet."""
    near = [row["distance_to_I"]["zoneout"] < within for row in rows]
    last_far = max((k for k, is_near in enumerate(near) if not is_near), default=-1)
    return rows[last_far + 1]["update"] if last_far + 1 < len(rows) else None


def main(preset: Preset = "quick", device: DeviceName = "cpu") -> dict[str, dict]:
    """Train both networks with some seeds; draw W of the first one over the updates."""
    seeds, epochs = {"small": ((1,), 5), "quick": ((1, 2, 3), 50), "paper": ((1, 2, 3), 100)}[preset]
    found: dict[str, dict] = {"update_of_arrival": {}, "W": {}}
    for seed in reversed(seeds):  # the first one is left for the figure
        run = shared.learn(Semantic, preset, device, f"14_semantic_consistency-{seed}", seed=seed, epochs=epochs)
        when, last = arrival(run.rows), run.rows[-1]
        where = f"W is I from update {when:,} on" if when else f"W is not I after {last['update']:,} updates"
        print(f"seed {seed}, with zoneout: {where}; cost {last['valid_cost']:.3g} (always answering 0 costs {n * 32})")
        print(f"seed {seed}, without: W stays at -I up to {last['distance_to_minus_I']['plain']:.4f}")
        stays = max(row["distance_to_minus_I"]["plain"] for row in run.rows) < 1e-3
        leaves = min(row["distance_to_minus_I"]["zoneout"] for row in run.rows) > 0.1
        check(f"seed {seed}: without zoneout W stays at -I, with it W leaves at once", stays and leaves)
        found["update_of_arrival"][seed], found["W"][seed] = when, last["W"]

    figure, axes = plt.subplots(1, 3, figsize=(9.5, 3.2), width_ratios=[1.1, 1, 1])
    w = np.linspace(-1.08, 1.08, 500)
    axes[0].plot(w, expected(w, p), "C0", lw=2, label=f"p = {p}")
    axes[0].plot(w, expected(w, 0.0), "C1--", label="p = 0")
    axes[0].axhline(1, color="0.5", lw=0.8)
    axes[0].text(0.2, 1.03, "always answer 0", fontsize=8, color="0.3", ha="center")
    axes[0].set(xlabel="w, where W = w I", ylabel="expected squared error / $x^2$", ylim=(-0.05, 2.1))
    axes[0].set_title("cost when each unit looks after itself", fontsize=9)
    axes[0].legend(loc="upper center")
    thousands = [row["update"] / 1000 for row in run.rows]
    for axis, color, (name, title) in zip(axes[1:], ("C0", "C1"), NETWORKS.items(), strict=True):
        Ws = np.array([row["W"][name] for row in run.rows])  # (rows, n, n)
        axis.plot(thousands, Ws[:, [0, 1], [0, 1]], color, label=["diagonal of W", None])
        axis.plot(thousands, Ws[:, [0, 1], [1, 0]], color, ls=":", label=["off the diagonal", None])
        axis.set(xlabel="thousands of updates", ylim=(-1.15, 1.65), yticks=[-1, -0.5, 0, 0.5, 1])
        axis.set_title(f"elements of W, {title}", fontsize=9)
        axis.legend(fontsize=8, loc="upper center", ncols=2, columnspacing=1, handlelength=1.5)
    save(figure, "14_semantic_consistency")
    return found


# %% [markdown]
# Where the run is long enough, look at the middle panel, which is seed 1. W leaves -I at once for the shallow hollow
# that we computed above, and then spends most of its time on the plateau. It does not climb along $W = wI$: the
# elements off the diagonal grow, so that one direction of the plane keeps flipping while the other is let through zero
# to +1. Then the second one follows. When that happens depends on the seed; once W is I, every cost is 0, and so is
# every gradient.

# %%
if __name__ == "__main__":
    shared.run(main)

# %% [markdown]
# ## Exercises
#
# 1. An odd number of flips is no memory: add `seq_len=11` to the call of `learn`. What becomes of the network without
#    zoneout?
# 2. Print `np.linalg.eigvals(row["W"]["zoneout"])` for every row. When does each of the two eigenvalues change its
#    sign?
# 3. With `zoneout_prob=0.5` the formula says that -I costs 2, as much as two independent vectors differ. Does W arrive
#    earlier or later than with 0.1? And with 0.01?
