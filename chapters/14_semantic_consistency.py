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
from shared import DeviceName, Preset, check, quiet, save

from minizone.backend import bernoulli, stream
from minizone.experiments.semantic import Semantic, linear_zoneout

# %% [markdown]
# ## The task
#
# Take the smallest recurrent network: no input, no nonlinearity, n units, and one matrix $W$ (n, n). It starts at
# $x$ (n, B), which has one column for each of B examples, drawn from a normal distribution. It makes T steps, and
# should end where it started. The states $h_t$ and the candidates $\tilde h_t$ are (n, B):
#
# $$h_0 = x$$
#
# $$\tilde h_t = W h_{t-1}$$
#
# $$h_t = k_t \odot h_{t-1} + (1 - k_t) \odot \tilde h_t$$
#
# The mask $k_t$ (n, 1) is 1 where a unit keeps its old value, with probability p, and 0 elsewhere. All examples of a
# minibatch have the same mask, as in the authors' script. The cost is the squared error, summed over units and
# examples:
#
# $$L = \sum (h_T - x)^2$$
#
# Here n = 2, B = 32, T = 10, and p is 0.1 or 0.
#
# Without zoneout (p = 0) the last state is $h_{10} = W^{10} x$, with the tenth power of $W$. So every real matrix whose
# tenth power is the identity I remembers perfectly. There are many: I itself; -I, which flips the sign of every unit
# ten times; a rotation by 36 degrees; a reflection that swaps the units.

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


# %%
def costs(keep: np.ndarray) -> np.ndarray:
    """The cost of the four networks (4,), for masks that broadcast to (T, 4, n, 1)."""
    h_last = linear_zoneout(W, x, keep).data  # (4, n, B)
    return ((h_last - x) ** 2).sum(axis=(1, 2))


no_zoneout = np.zeros((T, 1, n, 1))
check("without zoneout all four remember", (costs(no_zoneout) < 1e-24).all())

# %% [markdown]
# ## One mask excludes all matrices but I
#
# With 0 < p < 1 every mask has some probability. One of them keeps all units at all steps except one. For this mask
# $h_T = W x$, and the cost is 0 for every $x$ only if $W$ = I.
#
# With $W$ = I the cost is 0 for every mask: the candidate is the old value, so it does not matter which of the two a
# unit takes. That is the whole argument. A unit that may be kept must mean the same at every step.

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
# How large is the cost on average over the masks? We compute it for independent units, $W = wI$ with a number $w$. In
# every step a unit is multiplied by 1 with probability p, and by $w$ otherwise. Let $m$ be the product of all T
# factors, so that the unit ends at $m$ times its initial value.
#
# The factors are independent, so the mean of their product is the product of their means. The same holds for the
# squares:
#
# $$\mathbb{E}\, m = (p + (1-p) w)^T$$
#
# $$\mathbb{E}\, m^2 = (p + (1-p) w^2)^T$$
#
# The expected squared error, in units of the squared initial value, is
#
# $$\mathbb{E} (m - 1)^2 = 1 - 2 (p + (1-p) w)^T + (p + (1-p) w^2)^T$$
#
# At $w = 1$ it is 0. At $w = -1$, with T even, it is $2 - 2 (1 - 2p)^T$. Without zoneout that is 0 as well. With
# p = 0.1 it is more than 1, and 1 is the cost of a network that forgets everything and answers 0. The reason is the
# sign: it is wrong whenever a unit was kept an odd number of times.


# %%
def expected_cost(w: np.ndarray | float, p: float) -> np.ndarray:
    """Squared error of a unit divided by x^2, on average over the masks, for W = w I."""
    mean = (p + (1 - p) * w) ** T  # of m
    mean_square = (p + (1 - p) * w * w) ** T
    return 1 - 2 * mean + mean_square


print(f"w = -1, p = {p}: expected cost {expected_cost(-1.0, p):.2f}")
check("w = -1 costs more than to answer 0", expected_cost(-1.0, p) > 1)

# %% [markdown]
# We compare the formula with the mean over 20,000 masks, for four values of $w$. A mean over random masks has a
# standard error, so the difference is measured in standard errors.

# %%
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

# %% [markdown]
# The least cost for negative $w$ is close to 1. So with zoneout there is no useful memory on that side.

# %%
negative = np.linspace(-1, 0, 1001)
best = negative[expected_cost(negative, p).argmin()]
print(f"for w < 0 the least cost is {expected_cost(best, p):.4f}, at w = {best:.3f}")
check("for w < 0 no cost is below 0.99", expected_cost(best, p) > 0.99)

# %% [markdown]
# ## Training
#
# `Semantic` trains two networks side by side, one with zoneout and one without. They see the same $x$ and start from
# the same $W$ near -I (standard deviation 0.01). Training is plain gradient descent at the authors' learning rate. The
# log has the $W$ of both networks after every 1,000 updates. We put the $W$ before training in front, as update 0.
#
# The quick run makes half of the authors' 100,000 updates, with three seeds. The small run makes a few thousand, which
# is too few to reach I.


# %%
def train(seed: int, epochs: int, preset: Preset, device: DeviceName, **changes) -> list[dict[str, Any]]:
    """The rows of the log, with one for update 0 in front: before training."""
    name = f"14_semantic_consistency-{seed}"
    run = shared.learn(Semantic, preset, device, name, seed=seed, epochs=epochs, **changes)
    untrained = Semantic(run.experiment.settings, quiet)
    start = {"update": 0, **untrained.weights()}
    return [start, *run.rows]


def update_of_arrival(rows: list[dict[str, Any]], within: float = 0.05) -> int | None:
    """The update from which on W of the network with zoneout stays I, up to ``within``; None: not yet."""
    arrival = None
    for row in rows:
        if row["distance_to_I"]["zoneout"] >= within:
            arrival = None
        elif arrival is None:
            arrival = row["update"]
    return arrival


# %%
def report(seed: int, rows: list[dict[str, Any]]) -> None:
    """Print where the two networks end, and check how they start."""
    start, *after, last = rows
    arrival = update_of_arrival(rows)
    place = f"W is not I after {last['update']:,} updates"
    if arrival:
        place = f"W is I from update {arrival:,} on"
    print(f"seed {seed}, with zoneout: {place}; cost {last['valid_cost']:.3g} (always answering 0 costs {n * 32})")
    print(f"seed {seed}, without: W stays at -I up to {last['distance_to_minus_I']['plain']:.4f}")
    check(f"seed {seed}: both start from the same W near -I", starts_near_minus_I(start))
    plain_stays = all(row["distance_to_minus_I"]["plain"] < 1e-3 for row in (*after, last))
    zoneout_leaves = all(row["distance_to_minus_I"]["zoneout"] > 0.1 for row in (*after, last))
    check(f"seed {seed}: without zoneout W stays at -I, with it W leaves at once", plain_stays and zoneout_leaves)


def starts_near_minus_I(start: dict[str, Any]) -> bool:
    return start["W"]["zoneout"] == start["W"]["plain"] and start["distance_to_minus_I"]["plain"] < 0.05


# %% [markdown]
# The figure has the cost of independent units on the left, and the elements of $W$ over the updates beside it.


# %%
def draw_cost(axis: plt.Axes) -> None:
    w = np.linspace(-1.08, 1.08, 500)
    axis.plot(w, expected_cost(w, 0.0), "C0--", label="p = 0")
    axis.plot(w, expected_cost(w, p), "C1", lw=2, label=f"p = {p}")
    axis.axhline(1, color="0.5", lw=0.8)
    axis.text(0.2, 1.03, "always answer 0", fontsize=8, color="0.3", ha="center")
    axis.set(xlabel="w, where W = w I", ylabel="expected squared error / $x^2$", ylim=(-0.05, 2.1))
    axis.set_title("cost of independent units")
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)


def draw_elements(axis: plt.Axes, rows: list[dict[str, Any]], network: str, color: str) -> None:
    """The elements of W of one network over the updates."""
    thousands = [row["update"] / 1000 for row in rows]
    W = np.array([row["W"][network] for row in rows])  # (rows, n, n)
    axis.plot(thousands, W[:, 0, 0], color, label="diagonal")
    axis.plot(thousands, W[:, 1, 1], color)
    axis.plot(thousands, W[:, 0, 1], color, ls=":", label="off the diagonal")
    axis.plot(thousands, W[:, 1, 0], color, ls=":")
    axis.plot([0], [-1], "ko", ms=5, clip_on=False)
    axis.text(0.02 * thousands[-1], -0.94, "start, near -I", fontsize=8)
    axis.set(xlabel="thousands of updates", ylabel="elements of W", ylim=(-1.1, 1.1), yticks=[-1, -0.5, 0, 0.5, 1])
    axis.set_xlim(left=0)


def draw(rows: list[dict[str, Any]]) -> None:
    """The cost, and the elements of W of both networks over the updates."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(10, 3.4))
    draw_cost(left)
    draw_elements(middle, rows, "zoneout", "C1")
    draw_elements(right, rows, "plain", "C0")
    middle.set_title(f"W with zoneout, p = {p}")
    right.set_title("W without zoneout")
    for axis in (middle, right):
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
    save(figure, "14_semantic_consistency")


# %%
SIZES = {"small": ((1,), 5), "quick": ((1, 2, 3), 50), "paper": ((1, 2, 3), 100)}  # seeds, epochs of 1,000 updates


def main(preset: Preset = "quick", device: DeviceName = "cpu") -> dict[str, dict]:
    """Train both networks with some seeds; draw W of the first one over the updates."""
    seeds, epochs = SIZES[preset]
    runs = {}
    for seed in seeds:
        runs[seed] = train(seed, epochs, preset, device)
        report(seed, runs[seed])
    draw(runs[seeds[0]])
    return {
        "update_of_arrival": {seed: update_of_arrival(rows) for seed, rows in runs.items()},
        "W": {seed: rows[-1]["W"] for seed, rows in runs.items()},
    }


# %%
if __name__ == "__main__":
    shared.run(main)

# %% [markdown]
# ## In the figure
#
# Left: without zoneout there are two minima, and $w = -1$ is as good as $w = 1$. With p = 0.1 the left minimum is gone.
# In its place is a plateau as high as the cost of answering 0, which gradient descent has to cross to reach I.
#
# Middle (seed 1): both networks start near -I. With zoneout, $W$ leaves within the first 1,000 updates and then spends
# most of its time on the plateau. It does not move along $W = wI$: the elements off the diagonal grow, one direction of
# the plane passes to +1 first, and the second follows. The update of arrival depends on the seed. Once $W$ is I, every
# cost is 0, and so is every gradient.
#
# Right: without zoneout, $W$ only moves from its random start to -I, and stays there. This is no failure of training:
# for ten steps without masks -I has cost 0.

# %% [markdown]
# ## What to take away
#
# - Without zoneout, a network may code the same content differently at every step, as long as the last step fits.
# - With zoneout, a unit may be read one step late. So its code must be the same at every step.
# - Gradient descent finds this solution, but slowly: it has to cross a plateau.
#
# ## Exercises
#
# 1. An odd number of flips does not give the vector back: train with `seq_len=11`. What becomes of the network without
#    zoneout?
# 2. Print `np.linalg.eigvals(row["W"]["zoneout"])` for every row of a run. When does each of the two eigenvalues change
#    its sign?
# 3. With `zoneout_prob=0.5` the formula says that -I costs 2, as much as two independent vectors differ. Does $W$
#    arrive earlier or later than with 0.1? And with 0.01?
