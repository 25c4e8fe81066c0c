# %% [markdown]
# # 14. Semantic consistency
#
# **Claim.** A unit that may be zoned out cannot change its meaning from one step to the next. Without zoneout a network
# can remember a vector by flipping its sign ten times, and it will continue to do so. With zoneout the only lossless
# memory is to leave the vector unchanged, and gradient descent finds it.
#
# Paper: none; this is a toy task of the authors' repository, and there is no published number to compare with.
# The full experiment: `python run.py semantic --preset paper`

# %%
from typing import Any

import shared  # finds minizone
import matplotlib.pyplot as plt
import numpy as np
from shared import DeviceName, Preset, check, save

from minizone.backend import bernoulli, stream
from minizone.experiments.semantic import NETWORKS, Semantic, linear_zoneout

# %% [markdown]
# ## The task
#
# Take the smallest recurrent network: no input, no nonlinearity, one matrix W (n, n). It starts at x (n, B), with one
# column for each of B examples, drawn from a normal distribution. It makes T steps, and should end where it started:
#
# $$h_0 = x \qquad \tilde h_t = W h_{t-1} \qquad h_t = k_t \odot h_{t-1} + (1 - k_t) \odot \tilde h_t \qquad
# L = \sum (h_T - x)^2$$
#
# All states are (n, B). The mask $k_t$ (n, 1) keeps a unit with probability p, in all examples of a minibatch at once,
# as in the authors' script. L is summed over units and examples. Here n = 2, B = 32, T = 10, and p is 0.1 or 0.
#
# Without zoneout $h_T = W^T x$ (the T-th power). So every real matrix whose tenth power is I remembers perfectly. There
# are many: I itself; -I, which flips every unit ten times; a rotation by 36 degrees; a reflection that swaps the units.

# %%
n, T, p = 2, 10, 0.1
angle = 2 * np.pi / T
ROOTS = {
    "I": np.eye(2),
    "-I": -np.eye(2),
    "rotation": np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]),
    "reflection": np.array([[0.0, 1.0], [1.0, 0.0]]),
}
W = np.stack(list(ROOTS.values()))  # (4, n, n): four networks at once
x = stream(0, "x").standard_normal((n, 32))  # (n, B)


def costs(keep: np.ndarray) -> np.ndarray:
    """The cost of the four networks (4,), for masks that broadcast to (T, 4, n, 1)."""
    h_last = linear_zoneout(W, x, keep).data  # (4, n, B)
    return ((h_last - x) ** 2).sum(axis=(1, 2))


no_zoneout = np.zeros((T, 1, n, 1))
check("without zoneout all four remember", (costs(no_zoneout) < 1e-24).all())

# %% [markdown]
# ## One mask excludes all matrices but I
#
# With 0 < p < 1 every mask has some probability. One of them keeps all units at all steps except one. Then
# $h_T = W x$. The cost is 0 on every x only if W = I. And with W = I the cost is always 0, since
# $\tilde h_t = h_{t-1}$: keeping the old value and taking the new one are the same. That is the whole argument. A unit
# that may be kept must mean the same at every step.

# %%
one_step = np.ones((T, 1, n, 1))
one_step[3] = 0
cost_of = dict(zip(ROOTS, costs(one_step), strict=True))
others = [cost for name, cost in cost_of.items() if name != "I"]
check("a mask that lets one step through costs I nothing", cost_of["I"] == 0)
check("the same mask costs every other root of I more than 1", min(others) > 1)

# %% [markdown]
# ## The cost of -I
#
# Let the units be independent, $W = wI$. A unit that is kept K times in T steps ends at $w^{T-K} x$. K has a binomial
# distribution: T independent draws with probability p. Since the steps are independent,
# $\mathbb{E}\, w^{T-K} = (p \cdot 1 + (1-p) \cdot w)^T$. The expected squared error, divided by $x^2$, is therefore
#
# $$\mathbb{E}(w^{T-K} - 1)^2 = 1 - 2\,\big(p + (1-p)\,w\big)^T + \big(p + (1-p)\,w^2\big)^T$$
#
# At w = 1 it is $1 - 2 + 1 = 0$. At w = -1 and even T it is $2 - 2 (1 - 2p)^T$. With p = 0 that is nothing. For larger
# p it is soon more than 1, which is the cost of a network that forgets everything and answers 0. If a unit is kept an
# odd number of times, its sign at the end is wrong.


# %%
def expected_cost(w: np.ndarray | float, p: float) -> np.ndarray:
    """Squared error of a unit divided by x^2, on average over the masks, for W = w I."""
    mean = (p + (1 - p) * w) ** T  # of w^(T - K)
    mean_square = (p + (1 - p) * w * w) ** T
    return 1 - 2 * mean + mean_square


draws = 20_000
w = np.array([-1.0, -0.7, 0.5, 0.9])
keep = bernoulli(stream(0, "keep"), p, (T, draws, 1, n, 1), np.float64)  # axes: step, draw, network, unit, example
matrices = w[:, None, None] * np.eye(n)  # (4, n, n)
ends = linear_zoneout(matrices, np.ones((n, 1)), keep).data  # (draws, 4, n, 1), started from x = 1
errors = (ends - 1) ** 2
mean_error = errors.mean(axis=(0, 2, 3))  # (4,)
standard_error = errors.std(axis=(0, 2, 3)) / (draws * n) ** 0.5
deviation = np.abs(mean_error - expected_cost(w, p)) / standard_error
check("the formula agrees with 20,000 masks", deviation.max() < 5)
check("w = -1 costs more than to answer 0", expected_cost(-1.0, p) > 1)

# %% [markdown]
# The least cost for negative w is close to 1. So with zoneout there is no useful memory on that side.

# %%
negative = np.linspace(-1, 0, 1001)
best = negative[expected_cost(negative, p).argmin()]
print(f"for w < 0 the least cost is {expected_cost(best, p):.4f}, at w = {best:.3f}")
check("for w < 0 no cost is below 0.99", expected_cost(best, p) > 0.99)

# %% [markdown]
# The left panel of the figure shows the formula. With p = 0 it has two minima, and -1 is as good as +1. With p = 0.1
# the left minimum is gone. In its place is a plateau as high as the cost of forgetting everything. Gradient descent has
# to cross it to reach I.
#
# ## Training
#
# `Semantic` trains two networks side by side, on the same x, from the same W near -I (standard deviation 0.01), by
# plain gradient descent at the authors' learning rate. Its log has the W of both after every 1,000 updates. The quick
# run makes half of the authors' 100,000 updates, with three seeds. The small run makes a few thousand, which is only
# the plateau.


# %%
def update_of_arrival(rows: list[dict[str, Any]], within: float = 0.05) -> int | None:
    """The update from which on W of the network with zoneout stays I, up to ``within``; None: not yet."""
    arrival = None
    for row in rows:
        if row["distance_to_I"]["zoneout"] >= within:
            arrival = None
        elif arrival is None:
            arrival = row["update"]
    return arrival


def report(seed: int, rows: list[dict[str, Any]]) -> None:
    """Print where the two networks end, and check how they start."""
    last = rows[-1]
    arrival = update_of_arrival(rows)
    place = f"W is not I after {last['update']:,} updates"
    if arrival:
        place = f"W is I from update {arrival:,} on"
    print(f"seed {seed}, with zoneout: {place}; cost {last['valid_cost']:.3g} (always answering 0 costs {n * 32})")
    print(f"seed {seed}, without: W stays at -I up to {last['distance_to_minus_I']['plain']:.4f}")
    plain_stays = all(row["distance_to_minus_I"]["plain"] < 1e-3 for row in rows)
    zoneout_leaves = all(row["distance_to_minus_I"]["zoneout"] > 0.1 for row in rows)
    check(f"seed {seed}: without zoneout W stays at -I, with it W leaves at once", plain_stays and zoneout_leaves)


# %%
SIZES = {"small": ((1,), 5), "quick": ((1, 2, 3), 50), "paper": ((1, 2, 3), 100)}  # seeds, epochs of 1,000 updates


def main(preset: Preset = "quick", device: DeviceName = "cpu") -> dict[str, dict]:
    """Train both networks with some seeds; draw W of the first one over the updates."""
    seeds, epochs = SIZES[preset]
    runs = {}
    for seed in seeds:
        run = shared.learn(Semantic, preset, device, f"14_semantic_consistency-{seed}", seed=seed, epochs=epochs)
        report(seed, run.rows)
        runs[seed] = run.rows
    draw(runs[seeds[0]])
    return {
        "update_of_arrival": {seed: update_of_arrival(rows) for seed, rows in runs.items()},
        "W": {seed: rows[-1]["W"] for seed, rows in runs.items()},
    }


# %%
def draw_cost(axis: plt.Axes) -> None:
    w = np.linspace(-1.08, 1.08, 500)
    axis.plot(w, expected_cost(w, p), "C0", lw=2, label=f"p = {p}")
    axis.plot(w, expected_cost(w, 0.0), "C1--", label="p = 0")
    axis.axhline(1, color="0.5", lw=0.8)
    axis.text(0.2, 1.03, "always answer 0", fontsize=8, color="0.3", ha="center")
    axis.set(xlabel="w, where W = w I", ylabel="expected squared error / $x^2$", ylim=(-0.05, 2.1))
    axis.set_title("cost when the units are independent", fontsize=9)
    axis.legend(loc="upper center")


def draw(rows: list[dict[str, Any]]) -> None:
    """The cost, and the elements of W of both networks over the updates."""
    figure, axes = plt.subplots(1, 3, figsize=(9.5, 3.2), width_ratios=[1.1, 1, 1])
    draw_cost(axes[0])
    thousands = [row["update"] / 1000 for row in rows]
    for axis, color, (name, title) in zip(axes[1:], ("C0", "C1"), NETWORKS.items(), strict=True):
        W = np.array([row["W"][name] for row in rows])  # (rows, n, n)
        axis.plot(thousands, W[:, 0, 0], color, label="diagonal of W")
        axis.plot(thousands, W[:, 1, 1], color)
        axis.plot(thousands, W[:, 0, 1], color, ls=":", label="off the diagonal")
        axis.plot(thousands, W[:, 1, 0], color, ls=":")
        axis.set(xlabel="thousands of updates", ylim=(-1.15, 1.65), yticks=[-1, -0.5, 0, 0.5, 1])
        axis.set_title(f"elements of W, {title}", fontsize=9)
        axis.legend(fontsize=8, loc="upper center", ncols=2, columnspacing=1, handlelength=1.5)
    save(figure, "14_semantic_consistency")


# %% [markdown]
# If the run is long enough, look at the middle panel, which is seed 1. W leaves -I at once for the shallow minimum that
# we computed above, and then spends most of its time on the plateau. It does not move along $W = wI$. The elements off
# the diagonal grow, so that one direction of the plane keeps its negative sign while the other passes through zero to
# +1. Then the second direction follows. The time of arrival depends on the seed. Once W is I, every cost is 0, and so
# is every gradient.

# %%
if __name__ == "__main__":
    shared.run(main)

# %% [markdown]
# ## Exercises
#
# 1. An odd number of flips does not give the vector back: add `seq_len=11` to the call of `learn`. What becomes of the
#    network without zoneout?
# 2. Print `np.linalg.eigvals(row["W"]["zoneout"])` for every row. When does each of the two eigenvalues change its
#    sign?
# 3. With `zoneout_prob=0.5` the formula says that -I costs 2, as much as two independent vectors differ. Does W arrive
#    earlier or later than with 0.1? And with 0.01?
