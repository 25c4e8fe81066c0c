# %% [markdown]
# # 6. The other regularizers, each in a few lines
#
# **Claim.** The memory of an LSTM passes from $c_{t-1}$ to $c_t$ on one direct road, and the gradient comes back on it.
# What zoneout does there, and of all the others only its sister stochastic depth, is to open the road at random to a
# factor of exactly 1. The rest leave that factor to the forget gate, and put their noise beside the road.
#
# Paper: sections 2.3 and 3.2, figure 2, Table 1, figures 3 and 4. The full comparison, on 1,000 units:
# `python chapters/06_regularizers.py --preset paper --device gpu`

# %%
import shared  # finds minizone
import matplotlib.pyplot as plt
import numpy as np
from shared import DeviceName, Preset, check, learn, save

from minizone import LSTM, Dropout, Zoneout, array_module, lstm
from minizone.backend import stream, to_host
from minizone.experiments.char_ptb import CharPTB
from minizone.experiments.gradients import norms_over_time
from minizone.layers.regularizers import l2_penalty, norm_stabilizer, weight_noise
from minizone.recurrent.sequence import StateGradients

# %% [markdown]
# ## One network to try them all on
#
# T = 40 steps, D = 8 inputs, B = 32 examples, H = 32 units: an LSTM that has the same weights whatever is put on it.
# The loss is the mean of the *last* hidden state, so all gradient starts at the end. `watch` runs the network once with
# the noise of training, and returns the states and what back-propagation through time met on its way, dLoss/dc_t.

# %%
T, D, B, H = 40, 8, 32, 32
inputs = stream(0, "inputs").standard_normal((T, D, B))


def layer(**options) -> LSTM:
    return LSTM(D, H, rng=stream(1, "weights"), dtype=np.float64, **options)


def watch(network, loss=lambda network, h, c: h[-1].mean(), sigma=0.0):
    """The states h and c and the gradient dLoss/dc_t, each (T, H, B), for one draw of the noise."""
    record, x = StateGradients(), array_module(network.b.data).asarray(inputs)
    with weight_noise(network, sigma, stream(2, "weight noise")):
        h, c = network.states(x, rng=stream(2, "masks"), record=record)
        loss(network, h, c).backward()
    return to_host(h.data), to_host(c.data), to_host(record.states[1])


# %% [markdown]
# ## Recurrent dropout (Semeniuta et al.), and zoneout of its output gate
#
# Dropout of what a cell is told, not of what it remembers. With gates, $d_t$ and $k_t$ (H, B), and $P(d_t = 0) = p$:
# $$\tilde c_t = f_t \odot c_{t-1} + d_t \odot i_t \odot g_t$$
# A unit without news still forgets, since $f_t < 1$; one that is zoned out waits. With the gates held fixed, the factor
# from $c_{t-1}$ to $c_t$ is $f_t$ in the plain LSTM, $f_t$ here, and $k_t + (1 - k_t) f_t$ with zoneout. To see their
# products alone, we cut the detours through $h$ ($W_h = 0$). At test time $d_t$ becomes its expectation, $1 - p$.

# %%
h, c, dc = watch(layer())
dropping, waiting = layer(drop_inputs=0.5), layer(zoneout=Zoneout(cells=0.5))
dropped = dropping.masks(T, B, stream(2, "masks"))["input_mask"][1:] == 0  # (T - 1, H, B)
waits = waiting.masks(T, B, stream(2, "masks"))["keep_c"][1:] == 1
size, moves = np.abs(watch(dropping)[1]), np.diff(watch(waiting)[1], axis=0)
check("recurrent dropout: who is dropped only shrinks", (size[1:] <= size[:-1])[dropped].all())
check("zoneout: who waits does not move", (moves[waits] == 0).all())
roads = []
for network in (layer(), dropping, waiting):
    network.W_h.data[...] = 0
    roads.append(watch(network, loss=lambda network, h, c: c[-1].sum())[2])
check("recurrent dropout leaves the direct road as it was", np.allclose(roads[1], roads[0], rtol=1e-9, atol=0))
check("zoneout widens it, and never narrows it", (roads[2] >= roads[0] * (1 - 1e-9)).all())

# %% [markdown]
# A cell that was not updated should not be exposed by a new gate, says section 3.2. So where $d_t = 0$ the old output
# gate should stay: `output_gate="paper"`. The formula as printed has it the other way round, `"printed"`; and the
# authors' code does a third thing, to the finished $h_t$, `"authors"`. In this order, all symbols (H, B):
# $$(d_t o_t + (1 - d_t) o_{t-1}) \tanh \tilde c_t \qquad ((1 - d_t) o_t + d_t o_{t-1}) \tanh \tilde c_t \qquad
# d_t h_t + (1 - d_t) f_t h_{t-1}$$
# Drop nothing, $d_t = 1$, and nothing should change. (At test time, again: $1 - p$ in the place of $d_t$.)

# %%
net, gates = layer(), ("plain", "paper", "printed", "authors")
weights = (*net.initial_state(B), net.W_x, net.W_h, net.b)
same = [g for g in gates if np.allclose(lstm(inputs, *weights, input_mask=1.0, output_gate=g)[0].data, h, rtol=1e-9)]
check("where nothing is dropped all but the printed form agree", same == ["plain", "paper", "authors"])

# %% [markdown]
# ## Other masks
#
# Stochastic depth is zoneout with one $k_t$ (1, B) for all units, shared masks with one (H, B) for both $c$ and $h$; at
# test time $z$. On char-PTB neither did as well as a mask for each unit of each state (section 4.1.1). Non-recurrent
# dropout (Zaremba et al.) stays off the recurrence: the next layer sees $m_t \odot h_t$, where $m_t$ (H, B) is 0 or
# $1 / (1 - p)$. In variational dropout (Gal) one such $m$ serves all steps, and another stands in $W_h (m \odot
# h_{t-1})$: an example goes through all its steps with some columns of $W_h$ (4H, H) missing. The factor
# $1 / (1 - p)$ is paid in training; at test time there is nothing to do.

# %%
whole = Zoneout(cells=0.5, states=0.5, whole_layer=True)
skips = whole.masks(T, H, B, stream(2, "masks"))[0][1:, 0] == 1  # (T - 1, B)
stands = [(np.diff(state, axis=0) == 0).all(axis=1) for state in watch(layer(zoneout=whole))[:2]]
check("stochastic depth: a whole layer stands still, or moves", all((still == skips).all() for still in stands))
check("shared: one mask for both", np.equal(*Zoneout(0.5, 0.5, shared=True).masks(T, H, B, stream(2, "masks"))).all())
varying, thinned = layer(drop_hidden=0.5), layer()
thinned.W_h.data *= varying.masks(T, B, stream(2, "masks"))["hidden_mask"][:, 0]  # columns, for example 0
alone, _ = lstm(inputs[..., :1], *thinned.initial_state(1), thinned.W_x, thinned.W_h, thinned.b)
check("variational dropout: columns of W_h missing", np.allclose(alone.data, watch(varying)[0][..., :1], atol=1e-9))

# %% [markdown]
# ## Noise on the weights, and two penalties
#
# Weight noise: $W + \sigma \varepsilon$ for every matrix, $\varepsilon \sim N(0, 1)$ drawn once a minibatch, the same
# at all steps; at test time, none. The norm stabilizer adds $\frac{\beta}{T} \sum_t (\lVert h_t \rVert - \lVert
# h_{t-1} \rVert)^2$ to the loss, norms over units, mean over examples; L2 adds $\lambda \sum W^2$. Penalties move no
# state. The first speaks to the gradient of every step, the second to weights only.

# %%
stabilized = {"loss": lambda network, h, c: h[-1].mean() + 50 * norm_stabilizer(h)}
check("weight noise moves every state at every step", (watch(net, sigma=0.075)[0] != h).all())
check("... and the weights are then what they were, to the bit", (net.W_h.data == layer().W_h.data).all())
check("the norm stabilizer speaks to every step", (watch(net, **stabilized)[2] != dc)[:-1].any(axis=(1, 2)).all())
check("L2 does not speak to states", (watch(net, lambda n, h, c: h[-1].mean() + l2_penalty(n))[2] == dc).all())

# %% [markdown]
# ## Side by side
#
# Each in its form on the layer above, then in the experiment of chapter 9, with the strengths of figure 3, or ours for
# dropout with $1 / (1 - p)$, which Table 1 does not have on char-PTB. One small network allows no ranking; but see how
# far back the gradient gets. In recurrent dropout, less far than with nothing: $d_t$ stands on the detours through $i$
# and $g$ too. Variational dropout makes the detours louder, by $1 / (1 - p)$; the norm stabilizer adds gradient of its
# own at each step. (For the last $c$ it is 0, and not drawn: $h_T$ is made from the candidate.)

# %%
sparse = {"loss": lambda network, h, c: Dropout(0.5)(h, stream(3, "dropout"))[-1].mean()}
METHODS = {  # name: (options of the layer, of `watch`, of the experiment, its mask at test time)
    "none": ({}, {}, {}, "-"),
    "zoneout": ({"zoneout": Zoneout(cells=0.5)}, {}, {"z_prob_cells": 0.5, "z_prob_states": 0.05}, "z"),
    "recurrent dropout": ({"drop_inputs": 0.5}, {}, {"drop_prob_igates": 0.7}, "1 - p"),
    "stochastic depth": ({"zoneout": whole}, {},
                         {"z_prob_cells": 0.05, "z_prob_states": 0.05, "stoch_depth": True}, "z"),
    "variational": ({"drop_hidden": 0.5}, {}, {"variational_dropout": 0.2}, "1"),
    "non-recurrent": ({}, sparse, {"dropout": 0.2}, "1"),
    "weight noise": ({}, {"sigma": 0.075}, {"weight_noise": 0.075}, "-"),
    "norm stabilizer": ({}, stabilized, {"norm_cost_coeff": 50.0}, "-"),
}  # fmt: skip
SIZES = {"small": (16, 3000, 2), "quick": (128, 20_000, 20)}  # hidden units, symbols to train on, epochs


def main(preset: Preset = "quick", device: DeviceName = "cpu") -> dict[str, dict[str, float]]:
    """Watch each regularizer on the small network, then train with it on characters."""
    found, cells, twice, steps, sizes = {}, {}, [], range(1, T + 1), {"dataset": "ptb"}
    if preset != "paper":  # few updates, so four times the learning rate of the paper
        sizes = dict(zip(("hidden_size", "train_symbols", "epochs"), SIZES[preset], strict=True))
        sizes |= {"dataset": "manual", "eval_symbols": 5000, "learning_rate": 4 * 2e-3}
    figure = plt.figure(figsize=(8, 5.6))
    above, below = figure.subfigures(2, 1, height_ratios=[1, 1.7])
    traces, (gradient, valid, train) = above.subplots(1, 4, sharey=True), below.subplots(1, 3)
    print(f"{'':19s}cells moved  gradient early  best valid  mask at test time")
    for name, (options, watched, settings, at_test) in METHODS.items():
        run = learn(CharPTB, preset, device, f"06-{name.replace(' ', '-')}", **sizes, **settings)
        _, cells[name], dc = watch(run.experiment.to_device(layer(**options)), **watched)
        share = norms_over_time(dc) / norms_over_time(dc).sum()  # (T,): norms over units, means over examples
        twice.append((run.experiment.validate(), run.experiment.validate()))
        moved = float(np.abs(cells[name] - cells["none"]).mean() / np.abs(cells["none"]).mean())
        early, best = float(share[: T // 4].sum()), run.summary["best_valid_bpc"]
        found[name] = {"moved": moved, "early": early, "best_valid_bpc": best}
        print(f"{name:19s}{moved:11.0%}{early:16.2%}{best:8.3f} BPC  {at_test}")
        style = {"lw": 1.3} if cells.keys() - {"none"} else {"lw": 2.2, "color": "k"}
        gradient.semilogy(steps[:-1], share[:-1], label=name, **style)
        valid.plot(run.curve("epoch"), run.curve("valid_bpc"), **style)
        train.plot(run.curve("epoch"), run.curve("train_bpc"), **style)
    still = [name for name in METHODS if found[name]["moved"] < 1e-12]
    check(f"no state is moved by {', '.join(still)}", still == ["none", "non-recurrent", "norm stabilizer"])
    far, plain, near = (found[name]["early"] for name in ("zoneout", "none", "recurrent dropout"))
    check("the gradient gets further back with zoneout, less far with recurrent dropout", far > 3 * plain > 6 * near)
    check("at test time nothing is random", all(abs(a - b) < 1e-6 for a, b in twice))
    print("One seed each" + (", of networks far too small for a ranking." if preset != "paper" else "."))
    for axis, name in zip(traces, ("zoneout", "recurrent dropout", "variational", "weight noise"), strict=True):
        axis.plot(steps, cells["none"][:, 0, 0], "0.6")
        axis.plot(steps, cells[name][:, 0, 0], f"C{list(METHODS).index(name) - 1}")
        axis.set(title=name, xlabel="time step", ylabel="" if axis is not traces[0] else "one cell, $c_t$")
    gradient.set(title="$|dLoss/dc_t|$, share of its sum", xlabel="time step")
    valid.set(title="validation, bits per character", xlabel="epoch")
    train.set(title="training, with the noise", xlabel="epoch")
    below.legend(loc="outside lower center", ncols=4)
    save(figure, "06_regularizers")
    return found


# %%
if __name__ == "__main__":
    shared.run(main)

# %% [markdown]
# ## Exercises
#
# 1. `layer(forget_bias=5.0)`: what is left of zoneout's advantage on the way back, and why?
# 2. `Zoneout(states=0.5)` alone: how much does the gradient of c gain, how much that of h (`record.states[0]`)?
# 3. Let the loss be the mean of h at *all* steps: which of the lines of the figure now fall together?
