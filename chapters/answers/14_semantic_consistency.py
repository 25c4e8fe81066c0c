# %% [markdown]
# # Answers to chapter 14
#
# All runs have the learning rate of the chapter. An epoch is 1,000 updates.

# %%
import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
from shared import check  # finds minizone and the chapters

chapter = importlib.import_module("14_semantic_consistency")


def train(epochs: int, **changes) -> list[dict]:
    return chapter.train(1, epochs, "quick", "cpu", **changes)


# %% [markdown]
# ## 1. Eleven steps
#
# $W$ leaves -I, because eleven flips give $-x$. It becomes a rotation by 5/11 of a full turn, 163.6 degrees: after
# eleven steps that is five full turns, and the vector is back. (It is a rotation in a slightly skewed basis. The
# eigenvalues, of size 1 with this angle, are exact.) -I is a rotation by 180 degrees, and no other eleventh root of the
# identity is nearer. So the network without zoneout found another way to change its code at every step.

# %%
rows = train(2, seq_len=11)
W = np.array(rows[-1]["W"]["plain"])  # (2, 2)
eigenvalues = np.linalg.eigvals(W)  # (2,), complex conjugates
degrees = np.degrees(np.angle(eigenvalues)).max()
print(W)
print(f"a rotation by {degrees:.1f} degrees; 5/11 of a turn is {360 * 5 / 11:.1f}")
check("the eigenvalues are those of a rotation by 5/11 of a turn", abs(degrees - 360 * 5 / 11) < 0.1)
check("after eleven steps the vector is back", np.allclose(np.linalg.matrix_power(W, 11), np.eye(2), atol=1e-3))

# %% [markdown]
# ## 2. The eigenvalues
#
# They change their signs one after the other. The first becomes positive early, and drifts across the plateau for most
# of the run. When it has reached 1, the second follows within a few thousand updates. In between $W$ is more or less a
# reflection: one direction of the plane keeps its sign, and the other is flipped.


# %%
def first_positive(values: np.ndarray) -> int:
    """The first row from which on all values (rows,) are positive."""
    return int(np.flatnonzero(values <= 0)[-1]) + 1


rows = train(30)
eigenvalues = []
for row in rows:
    values = np.linalg.eigvals(np.array(row["W"]["zoneout"]))  # (2,)
    eigenvalues.append(np.sort(values.real))
    if row["update"] % 3000 == 0:
        print(f"update {row['update']:6,}: {eigenvalues[-1][0]:6.2f} {eigenvalues[-1][1]:6.2f}")

second, first = np.array(eigenvalues).T  # (rows,) each; the second one is the smaller
print(f"positive from update {1000 * first_positive(first):,} on, and {1000 * first_positive(second):,} on")
check("both start near -1", max(first[0], second[0]) < -0.95)
check("the second becomes positive long after the first", first_positive(second) > first_positive(first) + 5)
check("by then the first is 1", abs(first[first_positive(second)] - 1) < 0.05)

# %% [markdown]
# ## 3. More and less zoneout
#
# With 0.5 $W$ arrives earlier. In each step the mean factor of a unit is $p + (1 - p) w$. At $w = 0$ its tenth power is
# $10^{-10}$ for p = 0.1 and about $10^{-3}$ for p = 0.5. So the plateau is less flat.
#
# With 0.01 it stays near -I for the 4,000 updates of this run. Most sequences of masks keep no unit at all, so -I is
# right most of the time. The formula has a minimum there that is far below 1, and gradient descent has no reason to
# leave it.

# %%
arrival = chapter.update_of_arrival(rows)
arrival_of_more = chapter.update_of_arrival(train(18, zoneout_prob=0.5))
print(f"W is I from update {arrival:,} on with 0.1, from {arrival_of_more:,} on with 0.5")
check("with 0.5 it arrives earlier than with 0.1", arrival_of_more < arrival)

# %%
w = np.linspace(-1, 0, 1001)
for p in (0.01, 0.1, 0.5):
    costs = chapter.expected_cost(w, p)
    print(f"p = {p}: for w < 0 the least cost is {costs.min():.3f}, at w = {w[costs.argmin()]:.2f}")
cost_of_less = chapter.expected_cost(w, 0.01).min()

little = train(4, zoneout_prob=0.01)
distances = [row["distance_to_minus_I"]["zoneout"] for row in little]
print(f"with 0.01, distance of W from -I: {distances}")
check("with 0.01 there is a minimum near -I, below the cost of answering 0", cost_of_less < 0.5)
check("with 0.01 W stays near -I", max(distances) < 0.3)
