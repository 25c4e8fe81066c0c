# %% [markdown]
# # 12. GRU and tanh-RNN
#
# **Claim.** Zoneout asks of a network only that it has a state. A GRU has an update gate, which is a soft and learned
# zoneout already; zoneout overrides this same gate at random. A tanh-RNN has no gate at all, and zoneout gives it the
# only road on which its state, and the gradient, can pass a step unchanged.
#
# Paper: sections 3.1 and 3.2; section 4.1.1, without table or figure: on char-PTB, zoneout brings the GRU from 1.53 to
# 1.41 BPC and the tanh-RNN from 1.67 to 1.52. The full experiments, on 1,000 units:
# `python run.py char-ptb --preset paper --rnn-type gru --learning-rate 1e-3 --z-prob-states 0.1` and
# `--rnn-type rnn --learning-rate 3e-4 --z-prob-states 0.05` (our choice from the paper's range, 0.05 to 0.25);
# all six runs: `python chapters/12_gru_and_rnn.py --preset paper --device gpu`

# %%
import shared  # finds minizone
import matplotlib.pyplot as plt
import numpy as np
from shared import DeviceName, Preset, check, learn, save

from minizone import GRU, LSTM, RNN, Tensor, Zoneout, gradcheck, gru, rnn
from minizone.backend import stream
from minizone.recurrent.cells import gru_unrolled, rnn_unrolled
from minizone.experiments.char_ptb import CharPTB
from minizone.experiments.gradients import norms_over_time
from minizone.recurrent.sequence import StateGradients

# %% [markdown]
# ## Any state
#
# Whatever a network proposes for its next state, $\tilde h_t$ (H, B), zoneout mixes it with the old one, unit by unit:
# $h_t = k_t \odot h_{t-1} + (1 - k_t) \odot \tilde h_t$, with the mask $k_t$ (H, B). Take the tanh-RNN,
# $\tilde h_t = \tanh(W_x x_t + W_h h_{t-1} + b)$, with $x_t$ (D, B), $W_x$ (H, D), $W_h$ (H, H), $b$ (H,). The gradient
# $dh_{t-1}$ of the loss with respect to $h_{t-1}$ follows from $dh_t$, all of it (H, B):
# $$dh_{t-1} = k_t \odot dh_t + W_h^\top \left((1 - \tilde h_t^2) \odot (1 - k_t) \odot dh_t\right)$$
# The plain network has the second term only, a matrix and a slope below 1 at every step. The first term is a road
# without a toll, open where $k_t = 1$.

# %%
T, D, B, H = 6, 3, 4, 5
rng = stream(0, "chapter 12")
x, h0 = rng.standard_normal((T, D, B)), rng.standard_normal((H, B))
W_x, W_h, b = rng.standard_normal((H, D)), rng.standard_normal((H, H)), rng.standard_normal(H)
keep, _ = Zoneout(states=0.3).masks(T, H, B, rng, dtype=np.float64)  # (T, H, B)
start, dh1 = Tensor(h0), rng.standard_normal((H, B))
rnn(x[:1], start, W_x, W_h, b, keep_h=keep[0])[0].backward(dh1)  # one step, and back
slope = 1 - rnn(x[:1], h0, W_x, W_h, b).data[0] ** 2
by_hand = keep[0] * dh1 + W_h.T @ (slope * (1 - keep[0]) * dh1)
check("tanh-RNN: the gradient through one step is this formula", np.allclose(start.grad, by_hand, rtol=0, atol=1e-12))

# %% [markdown]
# ## The gate of a GRU is a soft zoneout
#
# A GRU has a reset gate $r$, an update gate $z$ and a candidate $n$, all (H, B); $W_x$ is (3H, D), $W_h$ (3H, H), $b$
# (3H,), with rows in this order. (This $z$ is a gate and not a probability; that one is $z_h$ here.)
# $$r, z = \sigma(W_x x_t + W_h h_{t-1} + b) \qquad n = \tanh(W_x x_t + W_h (r \odot h_{t-1}) + b) \qquad
# \tilde h_t = z \odot h_{t-1} + (1 - z) \odot n$$
# The last equation is the line of zoneout, but for the mask: in its place is a number between 0 and 1, computed from
# input and state. Put it into the line itself, and collect $h_{t-1}$ and $n$:
# $$h_t = z' \odot h_{t-1} + (1 - z') \odot n \qquad z' = k_t + (1 - k_t) \odot z$$
# So a GRU with zoneout is a GRU with another update gate: 1 where $k_t = 1$, its own elsewhere. And since $1 - z' =
# (1 - k_t) \odot (1 - z)$, this is dropout, not rescaled, of how much is updated. We can build it without zoneout: hand
# the GRU its mask as H more inputs, wired to the update gates with a weight of 1,000.

# %%
weights = [0.8 * rng.standard_normal(shape) for shape in ((3 * H, D), (3 * H, H), (3 * H,))]
W_x, W_h, b = weights
wires = np.zeros((3 * H, H))
wires[H : 2 * H] = 1000 * np.eye(H)  # sigmoid(1000) = 1
told = gru(np.concatenate([x, keep], axis=1), h0, np.concatenate([W_x, wires], axis=1), W_h, b)
zoned = gru(x, h0, *weights, keep_h=keep)
check("a GRU that is told the mask is a GRU with zoneout", np.allclose(told.data, zoned.data, rtol=0, atol=1e-12))

# %% [markdown]
# What does zoneout add, then, to a gate that can wait? Noise: the gate says what lowers the training loss, and the mask
# knows nothing of that. And hardness: a sigmoid only comes near to 1, the mask is 1. At test time $k_t$ is $z_h$ and
# $z' = z_h + (1 - z_h) z$, a floor under the gate: every unit moves by $1 - z_h$ of what it would have moved.

# %%
plain, expected = (gru(x[:1], h0, *weights, keep_h=k).data[0] - h0 for k in (None, 0.3))
check("at test time a step is 1 - z_h of the plain one", np.allclose(expected, 0.7 * plain, rtol=0, atol=1e-12))

# %% [markdown]
# ## Reset before the product, or after
#
# There are two GRUs. Ours is the older one, where $r$ masks the state before the product, $W_h (r \odot
# h_{t-1})$. In `torch.nn.GRU` it comes after, $r \odot (W_h h_{t-1} + b')$, with a bias $b'$ (H,) of its own; so all
# three products of a step can run as one. The weights of one form are wrong in the other, unless $b' = 0$ and the
# block of $W_h$ that makes $n$ is diagonal: then resetting and multiplying commute.


# %%
def reset_after(x, h, W_x, W_h, b):
    """One step in the order of torch.nn.GRU, with b' = 0: x (D, B), h (H, B) to the next h (H, B)."""
    H, a, u = len(h), W_x @ x + b[:, None], W_h @ h  # a, u (3H, B)
    r, z = np.split(1 / (1 + np.exp(-a[: 2 * H] - u[: 2 * H])), 2)
    n = np.tanh(a[2 * H :] + r * u[2 * H :])
    return z * h + (1 - z) * n


diagonal = W_h.copy()
diagonal[2 * H :] *= np.eye(H)
steps = [(gru(x[:1], h0, W_x, W, b).data[0], reset_after(x[0], h0, W_x, W, b)) for W in (W_h, diagonal)]
apart, same = (np.abs(before - after).max() for before, after in steps)
check("the two orders are two networks", apart > 0.01)
check("... and one where W_h is diagonal", same < 1e-12)

# %% [markdown]
# ## Are the gradients right?
#
# A well-known library once used the mask of step 0 at every step on its way back, in its GRU and not in its LSTM
# (haste, issue 43). So we check with T > 1 and a new mask at each step: the fused code of
# `minizone.recurrent` against
# the readable cells of `minizone.recurrent.cells`, differentiated by the tape; and against the complex step, which
# knows nothing
# of our derivatives.


# %%
def value_and_gradients(network, *arguments, **masks):
    tensors = [Tensor(argument) for argument in arguments]
    h = network(*tensors, **masks)
    (h * h).sum().backward()
    return [h.data, *(tensor.grad for tensor in tensors)]


simple = (W_x[:H], W_h[:H], b[:H])
for name, fused, reference, own in (("GRU", gru, gru_unrolled, weights), ("tanh-RNN", rnn, rnn_unrolled, simple)):
    ours, theirs = (value_and_gradients(network, x, h0, *own, keep_h=keep) for network in (fused, reference))
    close = all(np.allclose(a, e, rtol=0, atol=1e-11 * np.abs(e).max()) for a, e in zip(ours, theirs, strict=True))
    check(f"{name}: fused = reference, for h and the gradients of x, h0, W_x, W_h and b", close)
    error = gradcheck(lambda *arrays, fused=fused: fused(*arrays, keep_h=keep), x, h0, *own)
    check(f"{name}: ... = complex step", error < 1e-9)

# %% [markdown]
# ## Three networks, with and without
#
# First the gradient before training: T = 60 steps of random inputs, a loss on the last hidden state alone, and a $z$ of
# 0.25 on what carries the memory, $c$ of the LSTM and $h$ of the others; that is the upper end of what helped GRU
# and tanh-RNN in the paper (0.05 to 0.25). Then the character task. There the paper saw zoneout lengthen the training
# of GRU and tanh-RNN, and shorten that of the LSTM. Its learning rates are for 1,000 units; our short runs of small
# networks take four times as much.

# %%
KINDS = {  # name: (layer, learning rate of the paper, zoneout of the layer, zoneout in training)
    "LSTM": (LSTM, 2e-3, Zoneout(cells=0.25), {"z_prob_cells": 0.5, "z_prob_states": 0.05}),
    "GRU": (GRU, 1e-3, Zoneout(states=0.25), {"z_prob_states": 0.1}),
    "tanh-RNN": (RNN, 3e-4, Zoneout(states=0.25), {"z_prob_states": 0.05}),
}
SIZES = {
    "small": {"dataset": "manual", "hidden_size": 16, "train_symbols": 3000, "eval_symbols": 500, "epochs": 2},
    "quick": {"dataset": "manual", "hidden_size": 128, "train_symbols": 30_000, "eval_symbols": 5000, "epochs": 24},
}


def main(preset: Preset = "quick", device: DeviceName = "cpu") -> dict[str, dict[str, float]]:
    """Gradients of three networks at initialization, then training, with and without zoneout."""
    T, D, B, H = 60, 8, 32, 64
    found, sizes, x = {}, SIZES.get(preset, {"dataset": "ptb"}), stream(1, "inputs").standard_normal((T, D, B))
    figure, axes = plt.subplots(2, 3, figsize=(8, 5), sharey="row")
    print(f"{'':20s}gradient early  best valid  in epoch")
    for (above, below), (name, (layer, rate, zoneout, probabilities)) in zip(axes.T, KINDS.items(), strict=True):
        for label, zoned, changes in (("plain", Zoneout(), {}), ("zoneout", zoneout, probabilities)):
            changes = {**sizes, **changes, "rnn_type": layer.__name__.lower()}
            changes["learning_rate"] = rate if preset == "paper" else 4 * rate
            run = learn(CharPTB, preset, device, f"12-{name}-{label}", **changes)
            network = layer(D, H, zoneout=zoned, rng=stream(2, "weights"), dtype=np.float64)
            record, inputs = StateGradients(), run.experiment.device.to_device(x)
            h, *_ = run.experiment.to_device(network).states(inputs, rng=stream(2, "masks"), record=record)
            h[-1].mean().backward()
            share = norms_over_time(record.states[-1]) / norms_over_time(record.states[-1]).sum()  # (T,): of c, or of h
            early, best, epoch = float(share[: T // 4].sum()), run.summary["best_valid_bpc"], run.summary["best_epoch"]
            found[f"{name} {label}"] = {"early": early, "best_valid_bpc": best, "best_epoch": epoch}
            print(f"{name:9s}{label:11s}{early:14.0e}{best:8.3f} BPC  {epoch} of {len(run.rows)}")
            color = "0.5" if label == "plain" else "C0"
            above.semilogy(range(1, T), share[:-1], color)
            below.plot(run.curve("epoch"), run.curve("train_bpc"), color, lw=0.8)
            below.plot(run.curve("epoch"), run.curve("valid_bpc"), color, lw=2, label=label)
        gain = found[f"{name} zoneout"]["early"] / found[f"{name} plain"]["early"]
        check(f"{name}: zoneout brings more of the gradient to the first quarter of the steps", gain > 2)
        above.set(title=f"{name}, dLoss/d{'hc'[len(record.states) - 1]}", xlabel="time step")
        below.set(xlabel="epoch")
    print("One seed each" + (", of networks far too small for a ranking." if preset != "paper" else "."))
    axes[0, 0].set_ylabel("norm, share of its sum")
    axes[1, 0].set_ylabel("bits per character")
    axes[1, 2].legend(title="thick: validation, thin: training", title_fontsize=8)
    save(figure, "12_gru_and_rnn")
    return found


# %%
if __name__ == "__main__":
    shared.run(main)

# %% [markdown]
# ## Exercises
#
# 1. `network.b.data[H : 2 * H] += 3` lets a GRU hold its state from the start: what is left for zoneout to add?
# 2. With `input_mask` in place of `keep_h` a GRU has recurrent dropout, of $(1 - z) \odot n$. What does a unit do then?
# 3. Set `activation="relu"` for the RNN, as the authors' code has it: what becomes of the gradient?
