# %% [markdown]
# # Answers to chapter 15
#
# No answer needs training: all gradients are those of the random LSTM, here with 50 steps, 50 units and 20 examples.

# %%
import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
from shared import check  # finds minizone and the chapters

from minizone import Device, Tensor, Zoneout, lstm
from minizone.experiments.gradients import StateGradients, norms_over_time

chapter = importlib.import_module("15_gradient_propagation")
SIZES = (50, 50, 20, Device("cpu"))  # T, H, B

# %% [markdown]
# ## 1. Open forget gates
#
# With a bias of 4 the forget gate is about 0.98. The formula has the factors 0.98 without zoneout and 0.99 with it, so
# zoneout adds little along the cell. The other ways back, through $h_{t-1}$ and the gates, matter more then. They are
# weaker with zoneout, because a unit that keeps its cell does not use its gates. In this network zoneout brings no more
# gradient to the early steps than the open gates do alone.


# %%
def early_shares(bias: float) -> list[float]:
    """The early share of each method of the chapter: no regularizer, zoneout of 0.5, of 0.15, dropout."""
    shares = []
    for options in chapter.KINDS.values():
        norms = chapter.random_lstm({**options, "forget_bias": bias}, *SIZES)
        shares.append(chapter.early(norms))
    return shares


closed = early_shares(1.0)  # the default of LSTM
opened = early_shares(4.0)
for bias, shares in ((1, closed), (4, opened)):
    f = 1 / (1 + np.exp(-bias))
    print(f"bias {bias}: f = {f:.2f}, z + (1 - z) f = {0.5 + 0.5 * f:.2f};", end=" ")
    print(f"early share {shares[0]:.4f} without, {shares[1]:.4f} with zoneout")
check("with a bias of 1 zoneout brings more than ten times as much to the early steps", closed[1] > 10 * closed[0])
check("with a bias of 4 the two are within a fifth of each other", abs(opened[1] / opened[0] - 1) < 0.2)
check("open gates alone bring more than zoneout does", opened[0] > closed[1])

# %% [markdown]
# ## 2. A loss on every step
#
# The early share is about a quarter for all methods, which is what equal shares of all steps would give. Every step now
# has a term of the loss close to it, and its gradient is mostly that of the terms soon after it. They need not come
# from far away. So this loss hides how far back gradients reach, and the experiment has to use the last step.

# %%
of_all_steps = []
for name, options in chapter.KINDS.items():
    h, record = chapter.random_states(options, *SIZES)
    h.mean().backward()
    of_all_steps.append(chapter.early(norms_over_time(record.states[1])))
    print(f"{name:26}: early share {of_all_steps[-1]:.3f}")
check("all methods have about a quarter", min(of_all_steps) > 0.2 and max(of_all_steps) < 0.35)
check("with the loss of the last step they differ by a factor of more than 100", max(closed) > 100 * min(closed))

# %% [markdown]
# ## 3. Zoneout of h
#
# Now the derivative of $h_t$ with respect to $h_{t-1}$ is 1, for a unit that keeps its hidden state. To see this path
# alone, set $W_h = 0$: then $h_{t-1}$ reaches $h_t$ only through the mask. The gradient at step t is the product of the
# later masks, 1 if the unit was kept at every later step and 0 otherwise. Without zoneout it is 0.
#
# In the full network zoneout of h brings more to the early steps than no regularizer, but less than zoneout of c. Its
# direct path has the mean factor z; that of the cell has z + (1 - z) f.

# %%
T, H, B = 4, 6, 3
rng = np.random.default_rng(0)
keep_h, _ = Zoneout(states=0.5).masks(T, H, B, rng, dtype=np.float64)  # (T, H, B)
W_x, b, zeros = rng.standard_normal((4 * H, 2)), rng.standard_normal(4 * H), np.zeros((H, B))
x, W_h = rng.standard_normal((T, 2, B)), Tensor(np.zeros((4 * H, H)))
record = StateGradients()
h, _ = lstm(x, zeros, zeros, W_x, W_h, b, keep_h=keep_h, record=record)
h[-1].sum().backward()
dh, _ = record.states  # (T, H, B)
check("along h alone the gradient is the product of the later masks", np.allclose(dh[0], keep_h[1:].prod(axis=0)))

# %%
shares = {}
for name, zoneout in (("no", Zoneout()), ("h", Zoneout(states=0.5)), ("c", Zoneout(cells=0.5))):
    h, record = chapter.random_states({"zoneout": zoneout}, *SIZES)
    h[-1].mean().backward()
    shares[name] = chapter.early(norms_over_time(record.states[0]))
    print(f"zoneout of {name}: early share of dL/dh {shares[name]:.5f}")
check("zoneout of h brings more to the early steps than none", shares["h"] > 2 * shares["no"])
check("zoneout of c brings more than that of h", shares["c"] > 2 * shares["h"])
