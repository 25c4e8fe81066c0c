# %% [markdown]
# # 6. The other regularizers, each in a few lines
#
# **Claim.** On the direct path of the memory of an LSTM, from $c_{t-1}$ to $c_t$, zoneout sets the factor to exactly 1
# for units that are chosen at random. The gradient comes back on the same path. Of the other regularizers only
# stochastic depth does the same. The rest leave this factor to the forget gate and act elsewhere.
#
# Paper: sections 2.3 and 3.2, figure 2, Table 1, figures 3 and 4. The full comparison, on 1,000 units:
# `python chapters/06_regularizers.py --preset paper --device gpu`

# %%
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import shared  # finds minizone
import matplotlib.pyplot as plt
import numpy as np
from shared import DeviceName, Preset, check, learn, save

from minizone import LSTM, Dropout, Zoneout, array_module, lstm
from minizone.backend import stream, to_host
from minizone.experiments.char_ptb import CharPTB
from minizone.experiments.gradients import StateGradients, norms_over_time
from minizone.layers.regularizers import l2_penalty, norm_stabilizer, weight_noise

# %% [markdown]
# ## Notation
#
# T is the number of time steps, D the number of inputs, H the number of hidden units, and B the number of examples in a
# minibatch. Symbols with an index $t$ are arrays (H, B), with a column for each example, unless another shape is given.
#
# At step $t$ an LSTM has the cells $c_t$ and the hidden state $h_t$. The input gate $i_t$, the forget gate $f_t$ and
# the output gate $o_t$ are numbers between 0 and 1. The new content is the proposal $g_t$. Without a regularizer
#
# $$c_t = f_t \odot c_{t-1} + i_t \odot g_t$$
#
# $$h_t = o_t \odot \tanh c_t$$
#
# $\odot$ multiplies element by element. With zoneout, the right-hand sides are the candidates $\tilde c_t$ and
# $\tilde h_t$ (chapter 5).
#
# ## One network for all of them
#
# We use a small LSTM. The function `layer` makes it with any regularizer, and always with the same weights.

# %%
T, D, B, H = 40, 8, 32, 32
inputs = stream(0, "inputs").standard_normal((T, D, B))


def layer(**options) -> LSTM:
    return LSTM(D, H, rng=stream(1, "weights"), dtype=np.float64, **options)


# %% [markdown]
# The loss is the mean of the *last* hidden state. So its gradient starts at the last step and has to travel back.
#
# The function `watch` runs the network once, with the noise of training. It returns the states, and the gradients
# $\partial L / \partial c_t$ that back-propagation through time computes.


# %%
def last_state(network, h, c):
    return h[-1].mean()


def watch(network, loss=last_state, sigma=0.0):
    """The states h and c and the gradient dLoss/dc_t, each (T, H, B), for one draw of the noise.

    ``loss(network, h, c)`` is differentiated; ``sigma`` is the standard deviation of weight noise.
    """
    x = array_module(network.b.data).asarray(inputs)
    record = StateGradients()
    with weight_noise(network, sigma, stream(2, "weight noise")):
        h, c = network.states(x, rng=stream(2, "masks"), record=record)
        loss(network, h, c).backward()
    _, dc = record.states
    return to_host(h.data), to_host(c.data), to_host(dc)


h_plain, c_plain, dc_plain = watch(layer())

# %% [markdown]
# ## Recurrent dropout
#
# Recurrent dropout (Semeniuta et al.) drops the new content of a cell, and not its old value. The mask $d_t$ (H, B) is
# 0 with probability $p$ and otherwise 1:
#
# $$c_t = f_t \odot c_{t-1} + d_t \odot i_t \odot g_t$$
#
# A cell that is dropped still forgets, because $f_t < 1$. At test time $1 - p$, the mean of $d_t$, takes its place.

# %%
dropping = layer(drop_inputs=0.5)
is_dropped = dropping.masks(T, B, stream(2, "masks"))["input_mask"][1:] == 0  # (T - 1, H, B)
_, c, _ = watch(dropping)
shrinks = np.abs(c[1:]) <= np.abs(c[:-1])  # (T - 1, H, B)
check("recurrent dropout: a dropped cell only shrinks", shrinks[is_dropped].all())

# %% [markdown]
# A cell that is zoned out keeps its value. Its mask $k_t$ (H, B) is 1 with probability $z_c$, and otherwise 0.

# %%
with_zoneout = layer(zoneout=Zoneout(cells=0.5))
zoned_out = with_zoneout.masks(T, B, stream(2, "masks"))["keep_c"][1:] == 1  # (T - 1, H, B)
_, c, _ = watch(with_zoneout)
check("zoneout: a zoned-out cell does not move", (np.diff(c, axis=0)[zoned_out] == 0).all())

# %% [markdown]
# ## The factor from one cell to the next
#
# Take the gates as fixed. In the plain LSTM, and with recurrent dropout, the derivative of a cell by the cell before it
# is the forget gate:
#
# $$\frac{\partial c_t}{\partial c_{t-1}} = f_t$$
#
# With zoneout it is never smaller than that, and where $k_t = 1$ it is exactly 1:
#
# $$\frac{\partial c_t}{\partial c_{t-1}} = k_t + (1 - k_t) \odot f_t$$
#
# To measure the product of these factors alone, set the recurrent weights $W_h$ (4H, H) to 0. Then the gates do not
# depend on $h_{t-1}$, and the gradient has no other path.


# %%
def last_cell(network, h, c):
    return c[-1].sum()


def direct_gradient(network):
    """dLoss/dc_t (T, H, B) along the cell alone; it changes the network."""
    network.W_h.data[...] = 0
    _, _, dc = watch(network, loss=last_cell)
    return dc


# %%
plain_path = direct_gradient(layer())
dropout_path = direct_gradient(dropping)
zoneout_path = direct_gradient(with_zoneout)
check("recurrent dropout leaves the direct path as it was", np.allclose(dropout_path, plain_path, rtol=1e-9, atol=0))
check("zoneout never makes a factor smaller", (zoneout_path >= plain_path * (1 - 1e-9)).all())

# %% [markdown]
# ## Zoneout of the output gate
#
# Section 3.2 of the paper adds something to recurrent dropout. A cell that was not updated should not be read through a
# new output gate. So where $d_t = 0$ the old output gate stays. This gives the hidden state
#
# $$h_t = (d_t \odot o_t + (1 - d_t) \odot o_{t-1}) \odot \tanh c_t$$
#
# minizone calls this form `"paper"`, because the text of the paper describes it. The formula that is printed in the
# paper has the two gates exchanged (`"printed"`):
#
# $$h_t = ((1 - d_t) \odot o_t + d_t \odot o_{t-1}) \odot \tanh c_t$$
#
# The authors' code mixes finished hidden states instead (`"authors"`). Here $\hat h_t = o_t \odot \tanh c_t$:
#
# $$h_t = d_t \odot \hat h_t + (1 - d_t) \odot f_t \odot h_{t-1}$$
#
# With nothing dropped, $d_t = 1$, a regularizer should not change the network. The printed form does.

# %%
network = layer()
h0, c0 = network.initial_state(B)
unchanged = []
for form in ("plain", "paper", "printed", "authors"):
    h, _ = lstm(inputs, h0, c0, network.W_x, network.W_h, network.b, input_mask=1.0, output_gate=form)
    if np.allclose(h.data, h_plain, rtol=1e-9):
        unchanged.append(form)
check("with nothing dropped, all but the printed form agree", unchanged == ["plain", "paper", "authors"])

# %% [markdown]
# ## Stochastic depth and shared masks
#
# Stochastic depth is zoneout with one mask $k_t$ (1, B) for all units. In each example either all units keep their
# state or none does. At test time the mask is $z$, as in zoneout.

# %%
whole_layer = Zoneout(cells=0.5, states=0.5, whole_layer=True)
keep_h, _ = whole_layer.masks(T, H, B, stream(2, "masks"))  # (T, 1, B)
skips = keep_h[1:, 0] == 1  # (T - 1, B)
h, c, _ = watch(layer(zoneout=whole_layer))
h_stands = (np.diff(h, axis=0) == 0).all(axis=1)  # (T - 1, B)
c_stands = (np.diff(c, axis=0) == 0).all(axis=1)
check("stochastic depth: a whole layer stands still, or moves", ((h_stands == skips) & (c_stands == skips)).all())

# %% [markdown]
# With shared masks, $c$ and $h$ of a unit use the same element: both keep their values, or neither does. On char-PTB
# neither variant did
# as well as a mask for each unit of each state (section 4.1.1 of the paper).

# %%
keep_h, keep_c = Zoneout(cells=0.5, states=0.5, shared=True).masks(T, H, B, stream(2, "masks"))
check("shared: one mask for both states", (keep_h == keep_c).all())

# %% [markdown]
# ## Two more kinds of dropout
#
# Both kinds have a mask $m$ (H, B) whose elements are 0 with probability $p$ and otherwise $1 / (1 - p)$. This keeps
# the mean, so nothing has to be done at test time.
#
# *Non-recurrent dropout* (Zaremba et al.) does not change the recurrence. It hides units from the layer above, which
# sees $m_t \odot h_t$. The mask is new at each step.
#
# *Variational dropout* (Gal) hides units from the recurrence as well: $h_{t-1}$ becomes $m \odot h_{t-1}$ before it is
# multiplied by $W_h$. The mask is the same at all steps. So each example is processed with some columns of $W_h$
# missing, and we can remove these columns ourselves to check it.

# %%
varying = layer(drop_hidden=0.5)
hidden_mask = varying.masks(T, B, stream(2, "masks"))["hidden_mask"]  # (H, B), the same for all steps
thinned = layer()
thinned.W_h.data *= hidden_mask[:, 0]  # scales the columns of W_h by the mask of example 0
h0, c0 = thinned.initial_state(1)
h_alone, _ = lstm(inputs[..., :1], h0, c0, thinned.W_x, thinned.W_h, thinned.b)
h_varying, _, _ = watch(varying)
check("variational dropout: columns of W_h are missing", np.allclose(h_alone.data, h_varying[..., :1], atol=1e-9))

# %% [markdown]
# ## Weight noise
#
# Weight noise adds a normal random number of standard deviation $\sigma$ to each element of each weight matrix. It is
# drawn once for a minibatch and is the same at all steps. After the update it is removed. At test time there is none.

# %%
noisy = layer()
h, _, _ = watch(noisy, sigma=0.075)
check("weight noise moves every state at every step", (h != h_plain).all())
check("after the step the weights are as before, to the bit", (noisy.W_h.data == layer().W_h.data).all())

# %% [markdown]
# ## Two penalties
#
# The norm stabilizer penalizes changes of the norm of the hidden state over time. It adds to the loss, for each
# example,
#
# $$\frac{\beta}{T} \sum_{t=2}^{T} (\lVert h_t \rVert - \lVert h_{t-1} \rVert)^2$$
#
# The norm $\lVert h_t \rVert$ is over units, and $\beta$ is the weight of the penalty. The initial state $h_0$ does not
# count. L2 adds $\lambda$ times the sum
# of all squared weights.
#
# A penalty does not change the states in the forward pass. In the backward pass the norm stabilizer adds to the
# gradient of the state at every step. L2 adds only to the gradient of the weights.


# %%
def stabilized(network, h, c):
    return last_state(network, h, c) + 50 * norm_stabilizer(h)


def with_l2(network, h, c):
    return last_state(network, h, c) + l2_penalty(network)


# %%
_, _, dc_stabilized = watch(layer(), stabilized)
_, _, dc_l2 = watch(layer(), with_l2)
steps_changed = (dc_stabilized != dc_plain)[:-1].any(axis=(1, 2))  # (T - 1,)
check("the norm stabilizer changes the gradient at every step", steps_changed.all())
check("L2 does not change the gradient of the states", (dc_l2 == dc_plain).all())

# %% [markdown]
# ## Side by side
#
# We use each regularizer twice: on the small network above, and to train a language model on characters (chapter 9). A
# `Method` describes both.


# %%
def dropped_above(network, h, c):
    """The loss behind non-recurrent dropout."""
    return Dropout(0.5)(h, stream(3, "dropout"))[-1].mean()


@dataclass
class Method:
    """A regularizer in its two places."""

    at_test: str  # the number that takes the place of its mask at test time
    options: dict[str, Any] = field(default_factory=dict)  # of the small network
    loss: Callable = last_state
    sigma: float = 0.0
    settings: dict[str, Any] = field(default_factory=dict)  # of the language model


# %% [markdown]
# The strengths in the language model are those of figure 3 of the paper. That figure has neither variational nor
# non-recurrent dropout, so their strength, 0.2, is our choice.

# %%
METHODS = {
    "none": Method("-"),
    "zoneout": Method("z", {"zoneout": Zoneout(cells=0.5)}, settings={"z_prob_cells": 0.5, "z_prob_states": 0.05}),
    "recurrent dropout": Method("1 - p", {"drop_inputs": 0.5}, settings={"drop_prob_igates": 0.7}),
    "stochastic depth": Method(
        "z", {"zoneout": whole_layer}, settings={"z_prob_cells": 0.05, "z_prob_states": 0.05, "stoch_depth": True}
    ),
    "variational": Method("1", {"drop_hidden": 0.5}, settings={"variational_dropout": 0.2}),
    "non-recurrent": Method("1", loss=dropped_above, settings={"dropout": 0.2}),
    "weight noise": Method("-", sigma=0.075, settings={"weight_noise": 0.075}),
    "norm stabilizer": Method("-", loss=stabilized, settings={"norm_cost_coeff": 50.0}),
}

# %% [markdown]
# The quick run is a stand-in: 128 units and 20,000 characters of the Python manual. It makes few updates, so its
# learning rate is four times that of the paper.

# %%
SHORT = {"dataset": "manual", "eval_symbols": 5000, "learning_rate": 4 * 2e-3}
SIZES = {
    "small": {**SHORT, "hidden_size": 16, "train_symbols": 3000, "epochs": 2},
    "quick": {**SHORT, "hidden_size": 128, "train_symbols": 20_000, "epochs": 20},
    "paper": {"dataset": "ptb"},
}

# %% [markdown]
# How far back does the gradient reach? We take the norm of $\partial L / \partial c_t$ at each step and divide it by
# the sum over all steps. The number `early` is the share of the first quarter of the steps.


# %%
@dataclass
class Result:
    cells: np.ndarray  # (T, H, B)
    share: np.ndarray  # (T,): the norm of dLoss/dc_t, divided by the sum of these norms
    run: shared.Learned
    repeatable: bool  # two validations of the trained network give the same number

    @property
    def early(self) -> float:
        """The share of the gradient that is in the first quarter of the steps."""
        return float(self.share[: T // 4].sum())

    @property
    def best(self) -> float:
        return self.run.summary["best_valid_bpc"]


# %%
def try_out(name: str, method: Method, preset: Preset, device: DeviceName) -> Result:
    """Train with a regularizer, and watch it on the small network."""
    run = learn(CharPTB, preset, device, f"06-{name.replace(' ', '-')}", **SIZES[preset], **method.settings)
    difference = run.experiment.validate() - run.experiment.validate()
    network = run.experiment.to_device(layer(**method.options))
    _, cells, dc = watch(network, method.loss, method.sigma)
    norms = norms_over_time(dc)  # (T,)
    return Result(cells, norms / norms.sum(), run, repeatable=abs(difference) < 1e-6)


# %% [markdown]
# The functions below draw the figure. The upper row has one cell of the small network over time. The lower row has the
# gradients, with a curve for five of the methods and a dot for all of them, and the errors of the language models.

# %%
COLORS = {name: "black" if name == "none" else f"C{number - 1}" for number, name in enumerate(METHODS)}
TRACES = {
    "zoneout": "zoneout:\nflat where zoned out",
    "recurrent dropout": "recurrent dropout:\nshrinks where dropped",
    "variational": "variational dropout:\none mask for all steps",
    "weight noise": "weight noise:\nsmall change at each step",
}


def draw_traces(axes: list[plt.Axes], results: dict[str, Result]) -> None:
    """One cell with each of four regularizers, and in grey without."""
    for axis, (name, title) in zip(axes, TRACES.items(), strict=True):
        axis.plot(range(1, T + 1), results["none"].cells[:, 0, 0], "0.65")
        axis.plot(range(1, T + 1), results[name].cells[:, 0, 0], COLORS[name])
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("time step")
    axes[0].set_ylabel("value of one cell\n(grey: no regularizer)")


# %%
def draw_gradients(curves: plt.Axes, shares: plt.Axes, results: dict[str, Result]) -> None:
    """The gradient over time for five of the methods, with their names at the left; the early share for all."""
    for name in ("norm stabilizer", "zoneout", "variational", "none", "recurrent dropout"):
        share = results[name].share[:-1]  # (T - 1,): that of the last c is 0
        curves.semilogy(range(1, T), share, color=COLORS[name])
        curves.text(0, share[0], name, color=COLORS[name], fontsize=8, ha="right", va="center")
    curves.set(title="gradient of the cells over time", xlabel="time step", ylabel="share of the sum of all norms")
    curves.set(xlim=(-20, T), xticks=range(0, T + 1, 10))

    for name, result in results.items():
        shares.scatter([result.early], [name], color=COLORS[name])
    shares.set(title="gradient in the first 10 steps", xlabel="share of the sum", xscale="log")


# %%
def draw_training(axis: plt.Axes, results: dict[str, Result]) -> None:
    """For each language model, the best validation error and the training error of that epoch."""
    for name, result in results.items():
        train = result.run.curve("train_bpc")[result.run.summary["best_epoch"] - 1]
        axis.plot([train, result.best], [name, name], color="0.8", zorder=1)
        axis.scatter([result.best], [name], color=COLORS[name], zorder=2)
        axis.scatter([train], [name], facecolor="white", edgecolor=COLORS[name], zorder=2)
    axis.set(title="language models", xlabel="bits per character\n(hollow: training, full: best validation)")


def draw(results: dict[str, Result]) -> None:
    figure = plt.figure(figsize=(10, 6.2))
    above, below = figure.subfigures(2, 1, height_ratios=[1, 1.5])
    draw_traces(above.subplots(1, 4, sharey=True), results)
    curves, shares, training = below.subplots(1, 3, width_ratios=[1.4, 1, 1])
    training.sharey(shares)
    draw_gradients(curves, shares, results)
    draw_training(training, results)
    training.tick_params(axis="y", labelleft=False)
    shares.invert_yaxis()
    save(figure, "06_regularizers")


# %% [markdown]
# `main` also measures how much a regularizer moves the cells: the mean absolute difference from the network without a
# regularizer, divided by the mean absolute value of its cells.


# %%
def main(preset: Preset = "quick", device: DeviceName = "cpu") -> dict[str, dict[str, float]]:
    """Watch each regularizer on the small network, then train with it on characters."""
    results = {name: try_out(name, method, preset, device) for name, method in METHODS.items()}
    plain = results["none"].cells
    moved = {name: np.abs(r.cells - plain).mean() / np.abs(plain).mean() for name, r in results.items()}

    print(f"{'':19s}cells moved  gradient early  best valid  mask at test time")
    for name, result in results.items():
        at_test = METHODS[name].at_test
        print(f"{name:19s}{moved[name]:11.0%}{result.early:16.2%}{result.best:8.3f} BPC  {at_test}")
    print("One seed each" + (", of networks far too small for a ranking." if preset != "paper" else "."))

    still = [name for name in METHODS if moved[name] < 1e-12]
    check(f"the states are unchanged with: {', '.join(still)}", still == ["none", "non-recurrent", "norm stabilizer"])
    early = {name: result.early for name, result in results.items()}
    check("with zoneout the gradient reaches further back", early["zoneout"] > 3 * early["none"])
    check("with recurrent dropout it reaches less far", early["none"] > 2 * early["recurrent dropout"])
    check("at test time nothing is random", all(result.repeatable for result in results.values()))
    draw(results)
    return {
        name: {"moved": float(moved[name]), "early": result.early, "best_valid_bpc": result.best}
        for name, result in results.items()
    }


# %%
if __name__ == "__main__":
    shared.run(main)

# %% [markdown]
# ## In the figure
#
# Upper row: a cell with zoneout has flat stretches. With recurrent dropout the same cell moves toward 0 instead.
# Variational dropout and weight noise change this cell much less.
#
# Lower left and middle: with zoneout and with stochastic depth more of the gradient reaches the early steps. With
# recurrent dropout less of it does, because $d_t$ also removes the paths through $i_t$ and $g_t$. Variational dropout
# removes half of the paths through $h$ and doubles the others. The norm stabilizer has a gradient of its own at each
# step, and its weight of 50 is large for this small network.
#
# Lower right: the language models are far too small for a ranking, and zoneout is no better than no regularizer here.
# Training errors include the noise of training. Chapter 9 has larger runs.
#
# ## What to take away
#
# - The regularizers differ in what they change: the step of the state (zoneout, stochastic depth), the new content
#   (recurrent dropout), what is read from the state (variational and non-recurrent dropout), the weights, or the loss.
# - Zoneout and stochastic depth alone put a factor of exactly 1 on the path from cell to cell.
# - At test time nothing is random. Each mask is replaced by its mean: $z$, $1 - p$ or 1.
#
# ## Exercises
#
# 1. Make the layers with `forget_bias=5.0`. How much further does the gradient reach with zoneout now, and why?
# 2. Use `Zoneout(states=0.5)` alone. How much more of the gradient of c reaches the first quarter of the steps, and how
#    much more of that of h (`record.states[0]`)?
# 3. Let the loss be the mean of h at *all* steps. How far apart are the early shares of the regularizers now?
