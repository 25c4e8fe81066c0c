# %% [markdown]
# # Answers to chapter 4
#
# `by_hand` calls the function `step_back` of its module. So we can test another `step_back` by putting it in its place.

# %%
import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from shared import check  # finds minizone and the chapters
import numpy as np

from minizone import Device

chapter = importlib.import_module("04_lstm_by_hand")
NAMES = ("x", "h0", "c0", "W_x", "W_h", "b")
right_step = chapter.step
right_step_back = chapter.step_back


def wrong_gradients(T: int, step=right_step, step_back=right_step_back) -> list[str]:
    """The names of the gradients that differ from the complex step."""
    values = chapter.problem(T, 2, 3, np.float64, Device())
    chapter.step, chapter.step_back = step, step_back
    wrong = []
    for k, (name, gradient) in enumerate(zip(NAMES, chapter.by_hand(*values), strict=True)):
        expected = chapter.by_complex_step(values, k)
        if np.abs(gradient - expected).max() > 1e-12 * np.abs(expected).max():
            wrong.append(name)
    chapter.step, chapter.step_back = right_step, right_step_back
    return wrong


check("the chapter's step_back makes no gradient wrong", wrong_gradients(3) == [])

# %% [markdown]
# ## 1. A term is missing
#
# The term `keep_h * dh` belongs to the gradient of $h_{t-1}$. With T = 1 the only $h_{t-1}$ is $h_0$, so only $dh_0$ is
# wrong. With T = 3 also $dh_1$ and $dh_2$ are wrong, and with them the arrays $da$ of steps 1 and 2, from which all
# other gradients are made. So a test with one time step does not find a mistake in the way back through time.


# %%
def without_keep_h(dh, dc, c_before, stored, W_h, keep_h, keep_c):
    da, dh_before, dc_before = right_step_back(dh, dc, c_before, stored, W_h, keep_h, keep_c)
    return da, dh_before - keep_h * dh, dc_before


check("with T = 1 only dh0 is wrong", wrong_gradients(1, step_back=without_keep_h) == ["h0"])
check("with T = 3 all six are wrong", wrong_gradients(3, step_back=without_keep_h) == list(NAMES))

# %% [markdown]
# ## 2. The tanh after zoneout
#
# Now $u = \tanh(c_t)$, so $c_t$ has one more use. Its gradient becomes `dc + du * (1 - u * u)`. The candidate is used
# in $c_t$ only. Two lines change, those of `d_new_c` and of `dc_before`, because both start from this sum.


# %%
def step_after_zoneout(x, h, c, W_x, W_h, b, keep_h, keep_c):
    _, next_c, (i, f, g, o, _) = right_step(x, h, c, W_x, W_h, b, keep_h, keep_c)
    u = np.tanh(next_c)
    return keep_h * h + (1 - keep_h) * (o * u), next_c, (i, f, g, o, u)


def step_back_after_zoneout(dh, dc, c_before, stored, W_h, keep_h, keep_c):
    i, f, g, o, u = stored
    d_new_h = (1 - keep_h) * dh
    do = d_new_h * u
    du = d_new_h * o
    dc = dc + du * (1 - u * u)  # changed: u is made from c_t
    d_new_c = (1 - keep_c) * dc
    df = d_new_c * c_before
    di = d_new_c * g
    dg = d_new_c * i
    da = np.concatenate([di * i * (1 - i), df * f * (1 - f), dg * (1 - g * g), do * o * (1 - o)])
    return da, W_h.T @ da + keep_h * dh, f * d_new_c + keep_c * dc


check("the old step_back is wrong for it", len(wrong_gradients(3, step=step_after_zoneout)) > 0)
check("the new one is right", wrong_gradients(3, step_after_zoneout, step_back_after_zoneout) == [])

# %% [markdown]
# ## 3. How far a gradient goes
#
# We turn zoneout off, to see the gate alone. Without a bias the forget gates are near 0.5, so `dc` shrinks at every
# step. A bias of 2 raises the gates to about $\sigma(2) = 0.88$, and the gradient goes much farther. This is why the
# forget gates of an LSTM often get a positive bias at the start of training. (The norm shrinks more slowly than by the
# gate alone, because a part of `dh` is added to `dc` at every step. With the bias it does not shrink at all here.)


# %%
def norms_of_dc(bias: float) -> list[float]:
    """The norm of dc at step T, T - 1, ..., 1 for a loss that depends on the last h alone."""
    T, B, H = 30, 4, 50
    x, h0, c0, W_x, W_h, b, keep_h, keep_c, p, _ = chapter.problem(T, B, H, np.float64, Device())
    b[H : 2 * H] += bias
    keep_h[:] = keep_c[:] = 0
    _, c, stored = chapter.forward(x, h0, c0, W_x, W_h, b, keep_h, keep_c)
    dh = p[-1]
    dc = np.zeros((H, B))
    norms = []
    for t in reversed(range(T)):
        _, dh, dc = right_step_back(dh, dc, c[t], stored[t], W_h, keep_h[t], keep_c[t])
        norms.append(float(np.linalg.norm(dc)))
    return norms


# %%
plain = norms_of_dc(0.0)
biased = norms_of_dc(2.0)
for n in (1, 10, 20, 30):
    print(f"{n:2} steps back: norm of dc {plain[n - 1]:.1e}, with the bias {biased[n - 1]:.1e}")
shrinks_plain = (plain[29] / plain[9]) ** (1 / 20)
shrinks_biased = (biased[29] / biased[9]) ** (1 / 20)
print(f"a step multiplies it by {shrinks_plain:.2f}, with the bias by {shrinks_biased:.2f}")
check("with the bias more than 100 times as much arrives", biased[29] > 100 * plain[29])
check("without the bias it shrinks, with the bias it does not", shrinks_plain < 0.8 and shrinks_biased > 0.95)
