# %% [markdown]
# # 6. The other regularizers, each in a few lines
#
# **Claim.** The memory of an LSTM passes directly from $c_{t-1}$ to $c_t$, and the gradient comes back on the same
# path. Zoneout sets the factor on this path to exactly 1, at random. Of the other regularizers only stochastic depth
# does the same. The rest leave the factor to the forget gate and put their noise elsewhere.
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
# ## One network to try them all on
#
# We use a small LSTM: T = 40 steps, D = 8 inputs, B = 32 examples, H = 32 units. `layer` makes it with any regularizer,
# and always with the same weights. The loss is the mean of the *last* hidden state, so the gradient starts at the end.
#
# `watch` runs the network once with the noise of training. It returns the states, and the gradients dLoss/dc_t that
# back-propagation through time computes on its way.

# %%
T, D, B, H = 40, 8, 32, 32
inputs = stream(0, "inputs").standard_normal((T, D, B))


def layer(**options) -> LSTM:
    return LSTM(D, H, rng=stream(1, "weights"), dtype=np.float64, **options)


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
# ## Recurrent dropout (Semeniuta et al.)
#
# Recurrent dropout drops the news of a cell and not its memory. The gates, $d_t$ and $k_t$ are (H, B), and
# $P(d_t = 0) = p$:
#
# $$\tilde c_t = f_t \odot c_{t-1} + d_t \odot i_t \odot g_t$$
#
# A unit that gets no news still forgets, because $f_t < 1$. A unit that is zoned out does not. At test time $d_t$
# becomes its expectation, $1 - p$.

# %%
dropping = layer(drop_inputs=0.5)
is_dropped = dropping.masks(T, B, stream(2, "masks"))["input_mask"][1:] == 0  # (T - 1, H, B)
_, c, _ = watch(dropping)
shrinks = np.abs(c[1:]) <= np.abs(c[:-1])
check("recurrent dropout: a dropped cell only shrinks", shrinks[is_dropped].all())

waiting = layer(zoneout=Zoneout(cells=0.5))
waits = waiting.masks(T, B, stream(2, "masks"))["keep_c"][1:] == 1  # (T - 1, H, B)
_, c, _ = watch(waiting)
check("zoneout: a cell that waits does not move", (np.diff(c, axis=0)[waits] == 0).all())

# %% [markdown]
# Look at the factor from $c_{t-1}$ to $c_t$ for fixed gates. It is $f_t$ in the plain LSTM, $f_t$ with recurrent
# dropout, and $k_t + (1 - k_t) f_t$ with zoneout. To see the product of these factors alone we set $W_h = 0$: then no
# gradient takes the way through $h$.


# %%
def last_cell(network, h, c):
    return c[-1].sum()


def direct_gradient(network):
    """dLoss/dc_t (T, H, B) along the cell alone."""
    network.W_h.data[...] = 0
    _, _, dc = watch(network, loss=last_cell)
    return dc


plain_path = direct_gradient(layer())
dropout_path = direct_gradient(dropping)
zoneout_path = direct_gradient(waiting)
check("recurrent dropout leaves the direct path as it was", np.allclose(dropout_path, plain_path, rtol=1e-9, atol=0))
check("zoneout makes its factors larger, never smaller", (zoneout_path >= plain_path * (1 - 1e-9)).all())

# %% [markdown]
# ## Zoneout of the output gate
#
# Section 3.2 of the paper adds something to recurrent dropout: a cell that was not updated should not be exposed by a
# new output gate. So where $d_t = 0$, the old output gate should stay. minizone has three forms of it. `"paper"`
# follows the text, and `"printed"` the formula as printed, which has the two gates exchanged. `"authors"` follows the
# authors' code, which changes the finished $h_t$. In this order, all symbols (H, B):
#
# $$(d_t o_t + (1 - d_t) o_{t-1}) \tanh \tilde c_t \qquad ((1 - d_t) o_t + d_t o_{t-1}) \tanh \tilde c_t \qquad
# d_t h_t + (1 - d_t) f_t h_{t-1}$$
#
# With nothing dropped, $d_t = 1$, none of them should change the network. The printed form does. At test time $1 - p$
# takes the place of $d_t$.

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
# Stochastic depth is zoneout with one $k_t$ (1, B) for all units. Shared masks use one mask (H, B) for both $c$ and
# $h$. At test time both take $z$. On char-PTB neither did as well as a mask for each unit of each state (section
# 4.1.1).

# %%
whole_layer = Zoneout(cells=0.5, states=0.5, whole_layer=True)
keep_h, _ = whole_layer.masks(T, H, B, stream(2, "masks"))  # (T, 1, B)
skips = keep_h[1:, 0] == 1  # (T - 1, B)
h, c, _ = watch(layer(zoneout=whole_layer))
h_stands = (np.diff(h, axis=0) == 0).all(axis=1)  # (T - 1, B)
c_stands = (np.diff(c, axis=0) == 0).all(axis=1)
check("stochastic depth: a whole layer stands still, or moves", ((h_stands == skips) & (c_stands == skips)).all())

keep_h, keep_c = Zoneout(cells=0.5, states=0.5, shared=True).masks(T, H, B, stream(2, "masks"))
check("shared: one mask for both states", (keep_h == keep_c).all())

# %% [markdown]
# ## Two more kinds of dropout
#
# Non-recurrent dropout (Zaremba et al.) does not touch the recurrence. The next layer sees $m_t \odot h_t$, where $m_t$
# (H, B) is 0 or $1 / (1 - p)$.
#
# Variational dropout (Gal) uses one such $m$ for all steps, and another one inside $W_h (m \odot h_{t-1})$. So an
# example goes through all its steps with some columns of $W_h$ (4H, H) missing. Both kinds rescale by $1 / (1 - p)$ in
# training, and do nothing at test time.

# %%
varying = layer(drop_hidden=0.5)
hidden_mask = varying.masks(T, B, stream(2, "masks"))["hidden_mask"]  # (H, B), the same for all steps
thinned = layer()
thinned.W_h.data *= hidden_mask[:, 0]  # scales the columns of W_h as example 0 sees them
h0, c0 = thinned.initial_state(1)
h_alone, _ = lstm(inputs[..., :1], h0, c0, thinned.W_x, thinned.W_h, thinned.b)
h_varying, _, _ = watch(varying)
check("variational dropout: columns of W_h are missing", np.allclose(h_alone.data, h_varying[..., :1], atol=1e-9))

# %% [markdown]
# ## Noise on the weights, and two penalties
#
# Weight noise adds $\sigma \varepsilon$ to every matrix, with $\varepsilon \sim N(0, 1)$. It is drawn once for a
# minibatch and is the same at all steps. At test time there is none.
#
# The norm stabilizer adds $\frac{\beta}{T} \sum_t (\lVert h_t \rVert - \lVert h_{t-1} \rVert)^2$ to the loss. The norms
# are over units, and the result is a mean over examples. L2 adds $\lambda \sum W^2$. A penalty changes no state in the
# forward pass. The norm stabilizer adds to the gradient of every state, L2 only to that of the weights.


# %%
def stabilized(network, h, c):
    return last_state(network, h, c) + 50 * norm_stabilizer(h)


def with_l2(network, h, c):
    return last_state(network, h, c) + l2_penalty(network)


noisy = layer()
h, _, _ = watch(noisy, sigma=0.075)
_, _, dc_stabilized = watch(layer(), stabilized)
_, _, dc_l2 = watch(layer(), with_l2)
steps_changed = (dc_stabilized != dc_plain)[:-1].any(axis=(1, 2))  # (T - 1,)
check("weight noise moves every state at every step", (h != h_plain).all())
check("after the step the weights are as before, to the bit", (noisy.W_h.data == layer().W_h.data).all())
check("the norm stabilizer changes the gradient at every step", steps_changed.all())
check("L2 does not change the gradient of the states", (dc_l2 == dc_plain).all())

# %% [markdown]
# ## Side by side
#
# Now each regularizer twice: on the layer above, and in the experiment of chapter 9. The strengths are those of
# figure 3 of the paper. Dropout with $1 / (1 - p)$ is not in Table 1 for char-PTB, so its strengths are ours. The runs
# are far too small for a ranking.
#
# What can be seen is how far back the gradient reaches. With recurrent dropout it reaches less far than with nothing,
# because $d_t$ also thins out the paths through $i$ and $g$. Variational dropout makes the paths through $h$ stronger,
# by $1 / (1 - p)$. The norm stabilizer adds a gradient of its own at each step. (The gradient of the last $c$ is 0 and
# not drawn, because $h_T$ is made from the candidate.)


# %%
def dropped_above(network, h, c):
    """The loss behind non-recurrent dropout."""
    return Dropout(0.5)(h, stream(3, "dropout"))[-1].mean()


@dataclass
class Method:
    """A regularizer in its two places."""

    at_test: str  # what its mask becomes
    options: dict[str, Any] = field(default_factory=dict)  # of the layer above
    loss: Callable = last_state
    sigma: float = 0.0
    settings: dict[str, Any] = field(default_factory=dict)  # of the experiment


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
SHORT = {"dataset": "manual", "eval_symbols": 5000, "learning_rate": 4 * 2e-3}  # few updates: 4 x the paper's rate
SIZES = {
    "small": {**SHORT, "hidden_size": 16, "train_symbols": 3000, "epochs": 2},
    "quick": {**SHORT, "hidden_size": 128, "train_symbols": 20_000, "epochs": 20},
    "paper": {"dataset": "ptb"},
}


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


def try_out(name: str, method: Method, preset: Preset, device: DeviceName) -> Result:
    """Train with a regularizer, and watch it on the small network."""
    run = learn(CharPTB, preset, device, f"06-{name.replace(' ', '-')}", **SIZES[preset], **method.settings)
    difference = run.experiment.validate() - run.experiment.validate()
    network = run.experiment.to_device(layer(**method.options))
    _, cells, dc = watch(network, method.loss, method.sigma)
    norms = norms_over_time(dc)  # (T,)
    return Result(cells, norms / norms.sum(), run, repeatable=abs(difference) < 1e-6)


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
    check(f"no state is moved by {', '.join(still)}", still == ["none", "non-recurrent", "norm stabilizer"])
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
def draw(results: dict[str, Result]) -> None:
    """Above: one cell with each of four regularizers, beside the plain one. Below: the gradient and the training."""
    figure = plt.figure(figsize=(8, 5.6))
    above, below = figure.subfigures(2, 1, height_ratios=[1, 1.7])
    traces = above.subplots(1, 4, sharey=True)
    gradient, valid, train = below.subplots(1, 3)
    steps = range(1, T + 1)

    for axis, name in zip(traces, ("zoneout", "recurrent dropout", "variational", "weight noise"), strict=True):
        color = f"C{list(METHODS).index(name) - 1}"
        axis.plot(steps, results["none"].cells[:, 0, 0], "0.6")
        axis.plot(steps, results[name].cells[:, 0, 0], color)
        axis.set(title=name, xlabel="time step")
    traces[0].set_ylabel("one cell, $c_t$")

    for name, result in results.items():
        style = {"lw": 2.2, "color": "k"} if name == "none" else {"lw": 1.3}
        epochs = result.run.curve("epoch")
        gradient.semilogy(steps[:-1], result.share[:-1], label=name, **style)
        valid.plot(epochs, result.run.curve("valid_bpc"), **style)
        train.plot(epochs, result.run.curve("train_bpc"), **style)
    gradient.set(title="$|dLoss/dc_t|$, share of its sum", xlabel="time step")
    valid.set(title="validation, bits per character", xlabel="epoch")
    train.set(title="training, with the noise", xlabel="epoch")
    below.legend(loc="outside lower center", ncols=4)
    save(figure, "06_regularizers")


# %%
if __name__ == "__main__":
    shared.run(main)

# %% [markdown]
# ## Exercises
#
# 1. Make the layers with `forget_bias=5.0`. How much further does the gradient reach with zoneout now, and why?
# 2. Use `Zoneout(states=0.5)` alone. How much does the gradient of c gain, and that of h (`record.states[0]`)?
# 3. Let the loss be the mean of h at *all* steps. Which lines of the figure now fall together?
