# %% [markdown]
# # Answers to chapter 6
#
# ## 1. With a larger forget bias
#
# The sum in the forget gate starts at its bias. A bias of 1 makes a gate of about 0.73, a bias of 5 one of about 0.99.
# The function below measures the share of the gradient that is in the first quarter of the steps.

# %%
import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
from shared import check  # finds minizone and the chapters

from minizone import Zoneout
from minizone.backend import stream
from minizone.experiments.gradients import StateGradients, norms_over_time

chapter = importlib.import_module("06_regularizers")


def early(gradient: np.ndarray) -> float:
    """The share of a gradient (T, H, B) that is in the first quarter of the steps."""
    norms = norms_over_time(gradient)  # (T,)
    return float(norms[: len(norms) // 4].sum() / norms.sum())


# %%
gains = {}
for bias in (1.0, 5.0):
    _, _, dc_plain = chapter.watch(chapter.layer(forget_bias=bias))
    _, _, dc_zoneout = chapter.watch(chapter.layer(forget_bias=bias, zoneout=Zoneout(cells=0.5)))
    gains[bias] = early(dc_zoneout) / early(dc_plain)
    print(f"forget bias {bias:g}: early share {early(dc_plain):.2%}, with zoneout {early(dc_zoneout):.2%}")
check("with a forget bias of 1 zoneout makes the early share over 5 times larger", gains[1.0] > 5)
check("with one of 5 it changes it by less than a quarter", 0.75 < gains[5.0] < 1.25)

# %% [markdown]
# On average the factor is $z + (1 - z) f$. For $f$ = 0.73 zoneout brings it from 0.73 to 0.87, which makes a large
# difference after 40 steps. For $f$ = 0.99 it is close to 1 in both cases, and zoneout does not help: it even lowers
# the share a little. The plain gradient grows on its way back, since the first quarter of the steps has more than a
# quarter of it. It grows through the gates and $W_h$.
#
# ## 2. Zoneout of h alone
#
# `watch` returns the gradient of c only. So we run the network here, with a record of both gradients.


# %%
def early_shares(**options) -> tuple[float, float]:
    """The early share of dLoss/dh_t and of dLoss/dc_t."""
    network = chapter.layer(**options)
    record = StateGradients()
    h, c = network.states(chapter.inputs, rng=stream(2, "masks"), record=record)
    chapter.last_state(network, h, c).backward()
    dh, dc = record.states  # (T, H, B) each
    return early(dh), early(dc)


plain_h, plain_c = early_shares()
zoned_h, zoned_c = early_shares(zoneout=Zoneout(states=0.5))
print(f"early share of the gradient of h: {plain_h:.2%}, with zoneout of h {zoned_h:.2%}")
print(f"early share of the gradient of c: {plain_c:.2%}, with zoneout of h {zoned_c:.2%}")
gain_h = zoned_h / plain_h
gain_c = zoned_c / plain_c
print(f"h: {gain_h:.1f} times as much, c: {gain_c:.1f} times as much")
check("both gradients reach further back, that of h gains more", gain_h > gain_c > 2)

# %% [markdown]
# A hidden state that is zoned out passes its gradient to $h_{t-1}$ with a factor of 1. From there it gets into the
# cells: $h_t$ is made from $c_t$. So the gradient of c gains too, although no cell is zoned out.

# %% [markdown]
# ## 3. A loss at all steps
#
# Now a gradient enters at each step, and little of it has to travel. So it matters less how far it could get.


# %%
def mean_of_all(network, h, c):
    return h.mean()


OPTIONS = {
    "none": {},
    "zoneout": {"zoneout": Zoneout(cells=0.5)},
    "recurrent dropout": {"drop_inputs": 0.5},
    "stochastic depth": {"zoneout": chapter.whole_layer},
    "variational": {"drop_hidden": 0.5},
}
last, everywhere = {}, {}
for name, options in OPTIONS.items():
    _, _, dc_last = chapter.watch(chapter.layer(**options))
    _, _, dc_all = chapter.watch(chapter.layer(**options), loss=mean_of_all)
    last[name] = early(dc_last)
    everywhere[name] = early(dc_all)
    print(f"{name:18s} early share {last[name]:7.2%} with the loss at the end, {everywhere[name]:.1%} at all steps")

apart_last = max(last.values()) / min(last.values())
apart_everywhere = max(everywhere.values()) / min(everywhere.values())
print(f"largest over smallest share: {apart_last:.0f} with the loss at the end, {apart_everywhere:.2f} at all steps")
check("with a loss at all steps the shares are less than 15 % apart", apart_everywhere < 1.15)
check("with the loss at the end they are more than 50 times apart", apart_last > 50)

# %% [markdown]
# The curves of the five methods would fall nearly together. The regularizers differ most when the loss is at the end of
# the sequence, as in the classification of chapter 8.
