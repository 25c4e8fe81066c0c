# %% [markdown]
# # Answers to chapter 5
#
# ## 1. The tanh of the cell after zoneout
#
# For $z_c = 1, z_h = 0$ there is a difference. The cell never moves, so its tanh never moves either, and only the
# output gate still changes $h$. In minizone the candidate changes $h$ too. For $z_c = 0$ there is no difference,
# whatever $z_h$ is: without zoneout of the cells, the cell is its candidate. (Here probabilities stand for the masks.)

# %%
import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from shared import check  # finds minizone and the chapters
import numpy as np

from minizone import Zoneout, lstm
from minizone.backend import stream
from minizone.zoneout import zone_out

chapter = importlib.import_module("05_zoneout")


def sigmoid(a):
    return 0.5 + 0.5 * np.tanh(0.5 * a)


def hidden_states(keep_h: float, keep_c: float, after_zoneout: bool) -> np.ndarray:
    """h (T, H, B) of the chapter's LSTM; the tanh takes the cell after zoneout, or the candidate."""
    h, c, H = chapter.h0, chapter.c0, chapter.H
    states = []
    for x_t in chapter.x:
        a = chapter.W_x @ x_t + chapter.W_h @ h + chapter.b[:, None]  # (4H, B)
        i, f, o = sigmoid(a[:H]), sigmoid(a[H : 2 * H]), sigmoid(a[3 * H :])
        new_c = f * c + i * np.tanh(a[2 * H : 3 * H])
        c = zone_out(c, new_c, keep_c)
        h = zone_out(h, o * np.tanh(c if after_zoneout else new_c), keep_h)
        states.append(h)
    return np.array(states)


# %%
weights = (chapter.x, chapter.h0, chapter.c0, chapter.W_x, chapter.W_h, chapter.b)
for z_h, z_c in ((0.0, 1.0), (0.5, 0.0)):
    expected = lstm(*weights, keep_h=z_h, keep_c=z_c)[0].data  # (T, H, B)
    same = np.abs(hidden_states(z_h, z_c, after_zoneout=False) - expected).max()
    other = np.abs(hidden_states(z_h, z_c, after_zoneout=True) - expected).max()
    print(f"z_c = {z_c}, z_h = {z_h}: distance from minizone.lstm {same:.0e} with the candidate, {other:.0e} with c")
    check("the tanh of the candidate is minizone.lstm", same < 1e-13)
    check("the tanh of c is another network for z_c = 1 only", (other > 1e-2) if z_c == 1 else (other < 1e-13))

# %% [markdown]
# ## 2. The average over several steps
#
# For T = 1 the difference is only the noise of the average, since the line is linear. For several steps the tanh and
# the sigmoids come in between. The difference grows during the first steps, because that of one step enters the next.
# Then it hardly grows, because this LSTM forgets. It is largest for $z$ near 0.5, where the variance of a mask,
# $z (1 - z)$, is largest. For $z = 0$ and for $z = 1$ nothing is random.
#
# In the code each of 4,000 columns is one draw. All columns have the same input, and each has masks of its own.

# %%
H, D, DRAWS = 50, 3, 4_000


def difference(z: float, T: int) -> tuple[float, float]:
    """Root mean square over the units: mean over the masks minus the run on expectations, and the noise of the mean."""
    rng = stream(7, "weights and inputs")
    W_x = rng.standard_normal((4 * H, D))
    W_h = rng.standard_normal((4 * H, H)) * 1.5 / H**0.5
    x = rng.standard_normal((40, D, 1))[:T]
    zoneout = Zoneout(cells=z, states=z)

    one = np.zeros((H, 1))
    expected, _ = lstm(x, one, one, W_x, W_h, np.zeros(4 * H), keep_h=z, keep_c=z)

    many = np.zeros((H, DRAWS))
    keep_h, keep_c = zoneout.masks(T, H, DRAWS, stream(7, "masks"), dtype=np.float64)
    h, _ = lstm(np.repeat(x, DRAWS, axis=2), many, many, W_x, W_h, np.zeros(4 * H), keep_h=keep_h, keep_c=keep_c)
    last = h.data[-1]  # (H, DRAWS)
    apart = last.mean(axis=1) - expected.data[-1, :, 0]  # (H,)
    return float(np.mean(apart**2) ** 0.5), float(np.mean(last.var(axis=1) / DRAWS) ** 0.5)


# %%
by_T = {}
for T in (1, 2, 5, 10, 20):
    by_T[T], noise = difference(0.3, T)
    print(f"z = 0.3, T = {T:2}: difference {by_T[T]:.4f}, noise {noise:.4f}")
    if T == 1:
        check("for one step there is only noise", by_T[1] < 2 * noise)
    if T == 10:
        check("for ten steps the difference is more than noise", by_T[10] > 3 * noise)
by_z = {}
for z in (0.05, 0.2, 0.5, 0.95):
    by_z[z], noise = difference(z, 10)
    print(f"z = {z:.2f}, T = 10: difference {by_z[z]:.4f}, noise {noise:.4f}")
check("from 1 to 10 steps it grows", by_T[1] < by_T[10])
check("it is larger for z = 0.5 than for 0.05 and 0.95", by_z[0.5] > 1.5 * max(by_z[0.05], by_z[0.95]))

# %% [markdown]
# ## 3. A mask of normal numbers
#
# With `keep` = 1.7 the next state is $1.7 s_{t-1} - 0.7 \tilde s_t$. The state moves away from the candidate, by
# 0.7 of the distance. It can leave the interval from -1 to 1, which a mask of zeros and ones cannot do. The line is
# linear in `keep` all the same, and the mean of `keep` is $z$. So the mean of the result is what it was.

# %%
rng = stream(7, "two states")
old, new = rng.uniform(-1, 1, (2, 100, 1))  # (H, 1) each
moved = zone_out(old, new, 1.7)
check("a keep of 1.7 moves away from the candidate by 0.7 of the distance", np.allclose(moved - old, 0.7 * (old - new)))
check("the state can leave the interval from -1 to 1", np.abs(moved).max() > 1)

z = 0.3
keep, _ = Zoneout(states=z, gaussian=True).masks(100_000, 100, 1, rng, dtype=np.float64)  # (100_000, H, 1)
mean = zone_out(old, new, keep.mean(axis=0))  # the mean of the results, since the line is linear
bound = 4.5 * (z * (1 - z) / 100_000) ** 0.5
check(
    "the mean is the step with the expectation",
    (np.abs(mean - zone_out(old, new, z)) < bound * np.abs(new - old)).all(),
)
check("the variance is that of zeros and ones", abs(keep.var() - z * (1 - z)) < 1e-3)
