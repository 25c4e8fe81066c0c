# %% [markdown]
# # 12. GRU and tanh-RNN
#
# **Claim.** Zoneout works for any network that has a state. A GRU has an update gate, which is a soft and learned
# zoneout already, and zoneout overrides this gate at random. A tanh-RNN has no gate at all. Zoneout gives it the only
# path on which its state and the gradient can pass a step unchanged.
#
# Paper: sections 3.1 and 3.2; section 4.1.1, without table or figure: on char-PTB, zoneout brings the GRU from 1.53 to
# 1.41 BPC and the tanh-RNN from 1.67 to 1.52. The full experiments, on 1,000 units:
# `python run.py char-ptb --preset paper --rnn-type gru --learning-rate 1e-3 --z-prob-states 0.1` and
# `--rnn-type rnn --learning-rate 3e-4 --z-prob-states 0.05` (our choice from the paper's range, 0.05 to 0.25);
# all six runs: `python chapters/12_gru_and_rnn.py --preset paper --device gpu`

# %%
from dataclasses import dataclass

import shared  # finds minizone
import matplotlib.pyplot as plt
import numpy as np
from shared import DeviceName, Preset, check, learn, save

from minizone import GRU, LSTM, RNN, Tensor, Zoneout, gradcheck, gru, rnn
from minizone.backend import stream
from minizone.experiments.char_ptb import CharPTB
from minizone.experiments.gradients import StateGradients, norms_over_time
from minizone.recurrent.cells import gru_unrolled, rnn_unrolled

# %% [markdown]
# ## Any state
#
# A network proposes a candidate $\tilde h_t$ (H, B) for its next state. Zoneout mixes it with the old state, unit by
# unit, with the mask $k_t$ (H, B):
#
# $$h_t = k_t \odot h_{t-1} + (1 - k_t) \odot \tilde h_t$$
#
# Take the tanh-RNN, $\tilde h_t = \tanh(W_x x_t + W_h h_{t-1} + b)$, with $x_t$ (D, B), $W_x$ (H, D), $W_h$ (H, H) and
# $b$ (H,). Let $dh_t$ (H, B) be the gradient of the loss with respect to $h_t$. Then
#
# $$dh_{t-1} = k_t \odot dh_t + W_h^\top \left((1 - \tilde h_t^2) \odot (1 - k_t) \odot dh_t\right)$$
#
# The plain network has the second term only: a matrix and a slope of at most 1 at every step. The first term passes the
# gradient on unchanged where $k_t = 1$.

# %%
T, D, B, H = 6, 3, 4, 5
rng = stream(0, "chapter 12")
x = rng.standard_normal((T, D, B))
h0 = rng.standard_normal((H, B))
W_x = rng.standard_normal((H, D))
W_h = rng.standard_normal((H, H))
b = rng.standard_normal(H)
keep, _ = Zoneout(states=0.3).masks(T, H, B, rng, dtype=np.float64)  # (T, H, B)
dh1 = rng.standard_normal((H, B))

start = Tensor(h0)
h1 = rnn(x[:1], start, W_x, W_h, b, keep_h=keep[0])[0]  # one step
h1.backward(dh1)
candidate = rnn(x[:1], h0, W_x, W_h, b).data[0]  # (H, B)
formula = keep[0] * dh1 + W_h.T @ ((1 - candidate**2) * (1 - keep[0]) * dh1)
check("tanh-RNN: the gradient through one step is this formula", np.allclose(start.grad, formula, rtol=0, atol=1e-12))

# %% [markdown]
# ## The gate of a GRU is a soft zoneout
#
# A GRU has a reset gate $r$, an update gate $z$ and a candidate $n$, all (H, B). Its weights are $W_x$ (3H, D), $W_h$
# (3H, H) and $b$ (3H,), with the rows of r, z and n in this order. (This $z$ is a gate. The zoneout probability is
# called $z_h$ here.)
#
# $$r, z = \sigma(W_x x_t + W_h h_{t-1} + b) \qquad n = \tanh(W_x x_t + W_h (r \odot h_{t-1}) + b) \qquad
# \tilde h_t = z \odot h_{t-1} + (1 - z) \odot n$$
#
# The last equation has the form of zoneout, with a number between 0 and 1 in the place of the mask. The number is
# computed from the input and the state. Put this equation into that of zoneout, and collect $h_{t-1}$ and $n$:
#
# $$h_t = z' \odot h_{t-1} + (1 - z') \odot n \qquad z' = k_t + (1 - k_t) \odot z$$
#
# So a GRU with zoneout is a GRU with another update gate: 1 where $k_t = 1$, and $z$ elsewhere. We can build it without
# zoneout. Give the mask to a GRU as H more inputs, and connect them to the update gates with a weight of 1,000.

# %%
gru_W_x = 0.8 * rng.standard_normal((3 * H, D))
gru_W_h = 0.8 * rng.standard_normal((3 * H, H))
gru_b = 0.8 * rng.standard_normal(3 * H)
weights = (gru_W_x, gru_W_h, gru_b)

mask_weights = np.zeros((3 * H, H))
mask_weights[H : 2 * H] = 1000 * np.eye(H)  # sigmoid(1000) is 1
wider_x = np.concatenate([x, keep], axis=1)  # (T, D + H, B)
wider_W_x = np.concatenate([gru_W_x, mask_weights], axis=1)  # (3H, D + H)
with_mask_as_input = gru(wider_x, h0, wider_W_x, gru_W_h, gru_b)
with_zoneout = gru(x, h0, *weights, keep_h=keep)
same = np.allclose(with_mask_as_input.data, with_zoneout.data, rtol=0, atol=1e-12)
check("a GRU whose input has the mask is a GRU with zoneout", same)

# %% [markdown]
# What does zoneout add to a gate that can keep the old value already? First, noise: the gate is learned to lower the
# training loss, and the mask is independent of the loss. Second, exactness: a sigmoid only comes near to 1, the mask is
# 1.
#
# At test time $k_t$ is replaced by $z_h$, and the gate becomes $z' = z_h + (1 - z_h) z$. It is never below $z_h$. Every
# unit moves by $1 - z_h$ of its plain movement.

# %%
plain_step = gru(x[:1], h0, *weights).data[0] - h0  # (H, B)
expected_step = gru(x[:1], h0, *weights, keep_h=0.3).data[0] - h0
check(
    "at test time a step is 1 - z_h of the plain one", np.allclose(expected_step, 0.7 * plain_step, rtol=0, atol=1e-12)
)

# %% [markdown]
# ## Reset before the product, or after
#
# There are two kinds of GRU. Ours is the older one, in which $r$ acts on the state before the product,
# $W_h (r \odot h_{t-1})$. In `torch.nn.GRU` it acts after the product, $r \odot (W_h h_{t-1} + b')$, with a bias $b'$
# (H,) of its own. Then all three products of a step can be computed as one.
#
# The weights of one kind are wrong for the other. The exception is $b' = 0$ with a diagonal matrix in the rows of $n$:
# then resetting and multiplying commute.


# %%
def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def reset_after(x, h, W_x, W_h, b):
    """One step in the order of torch.nn.GRU, with b' = 0: from x (D, B) and h (H, B) to the next h (H, B)."""
    H = len(h)
    from_x = W_x @ x + b[:, None]  # (3H, B)
    from_h = W_h @ h  # (3H, B)
    r = sigmoid(from_x[:H] + from_h[:H])
    z = sigmoid(from_x[H : 2 * H] + from_h[H : 2 * H])
    n = np.tanh(from_x[2 * H :] + r * from_h[2 * H :])
    return z * h + (1 - z) * n


def difference_of_orders(W_h) -> float:
    before = gru(x[:1], h0, gru_W_x, W_h, gru_b).data[0]
    after = reset_after(x[0], h0, gru_W_x, W_h, gru_b)
    return np.abs(before - after).max()


diagonal_W_h = gru_W_h.copy()
diagonal_W_h[2 * H :] *= np.eye(H)  # the rows of n
check("the two orders are two networks", difference_of_orders(gru_W_h) > 0.01)
check("with a diagonal matrix in the rows of n they are the same", difference_of_orders(diagonal_W_h) < 1e-12)

# %% [markdown]
# ## Are the gradients right?
#
# A well-known library once used the mask of step 0 at every step of its backward pass, in its GRU but not in its LSTM
# (haste, issue 43). So we check with T > 1 and a new mask at each step. The first comparison is with the readable
# cells of `minizone/recurrent/cells.py`, differentiated by the tape. The second is with the complex step (chapter 3).


# %%
def value_and_gradients(network, *arguments) -> list[np.ndarray]:
    """h (T, H, B) and dLoss/d(each argument) for Loss = sum(h * h)."""
    tensors = [Tensor(argument) for argument in arguments]
    h = network(*tensors, keep_h=keep)
    (h * h).sum().backward()
    return [h.data] + [tensor.grad for tensor in tensors]


def compare(name, fused, reference, *arguments) -> None:
    ours = value_and_gradients(fused, *arguments)
    expected = value_and_gradients(reference, *arguments)
    errors = []
    for a, e in zip(ours, expected, strict=True):
        errors.append(np.abs(a - e).max() / np.abs(e).max())
    check(f"{name}: h and the gradients of x, h0, W_x, W_h and b are those of the reference", max(errors) < 1e-11)
    error = gradcheck(lambda *arrays: fused(*arrays, keep_h=keep), *arguments)
    check(f"{name}: the gradients agree with the complex step", error < 1e-9)


compare("GRU", gru, gru_unrolled, x, h0, *weights)
compare("tanh-RNN", rnn, rnn_unrolled, x, h0, W_x, W_h, b)

# %% [markdown]
# ## Three networks, with and without zoneout
#
# First the gradient before training: T = 60 steps of random inputs, and a loss on the last hidden state alone. The
# probability is 0.25 on the state that carries the memory, $c$ of the LSTM and $h$ of the others. That is the upper end
# of what helped GRU and tanh-RNN in the paper (0.05 to 0.25).
#
# Then the character task. There the paper saw zoneout lengthen the training of GRU and tanh-RNN, and shorten that of
# the LSTM. Its learning rates are for 1,000 units. Our short runs of small networks use four times as much.


# %%
@dataclass
class Kind:
    """A network, with zoneout as above and as in training."""

    layer: type
    learning_rate: float  # of the paper
    zoneout: Zoneout
    flags: dict[str, float]
    memory: str  # the state that carries it


KINDS = {
    "LSTM": Kind(LSTM, 2e-3, Zoneout(cells=0.25), {"z_prob_cells": 0.5, "z_prob_states": 0.05}, "c"),
    "GRU": Kind(GRU, 1e-3, Zoneout(states=0.25), {"z_prob_states": 0.1}, "h"),
    "tanh-RNN": Kind(RNN, 3e-4, Zoneout(states=0.25), {"z_prob_states": 0.05}, "h"),
}
SIZES = {
    "small": {"dataset": "manual", "hidden_size": 16, "train_symbols": 3000, "eval_symbols": 500, "epochs": 2},
    "quick": {"dataset": "manual", "hidden_size": 128, "train_symbols": 30_000, "eval_symbols": 5000, "epochs": 24},
    "paper": {"dataset": "ptb"},
}


# %%
def gradient_over_time(kind: Kind, zoneout: Zoneout, experiment: CharPTB) -> np.ndarray:
    """The norm (T,) of dLoss/d(memory) at every step, divided by its sum, in a network without training."""
    T, D, B, H = 60, 8, 32, 64
    inputs = experiment.device.to_device(stream(1, "inputs").standard_normal((T, D, B)))
    network = experiment.to_device(kind.layer(D, H, zoneout=zoneout, rng=stream(2, "weights"), dtype=np.float64))
    record = StateGradients()
    h, *_ = network.states(inputs, rng=stream(2, "masks"), record=record)
    h[-1].mean().backward()
    norms = norms_over_time(record.states[-1])  # the last one is c of an LSTM, h of the others
    return norms / norms.sum()


def train(name: str, zoned: bool, preset: Preset, device: DeviceName) -> shared.Learned:
    """Train on characters, with or without zoneout."""
    kind = KINDS[name]
    label = "zoneout" if zoned else "plain"
    factor = 1 if preset == "paper" else 4
    changes = {**SIZES[preset], "rnn_type": kind.layer.__name__.lower(), "learning_rate": factor * kind.learning_rate}
    if zoned:
        changes |= kind.flags
    return learn(CharPTB, preset, device, f"12-{name}-{label}", **changes)


# %%
def main(preset: Preset = "quick", device: DeviceName = "cpu") -> dict[str, dict[str, float]]:
    """Gradients of three networks at initialization, then training, with and without zoneout."""
    found = {}
    figure, axes = plt.subplots(2, 3, figsize=(8, 5), sharey="row")
    print(f"{'':20s}gradient early  best valid  in epoch")
    for column, (name, kind) in enumerate(KINDS.items()):
        above, below = axes[:, column]
        for label, zoned, color in (("plain", False, "0.5"), ("zoneout", True, "C0")):
            run = train(name, zoned, preset, device)
            share = gradient_over_time(kind, kind.zoneout if zoned else Zoneout(), run.experiment)  # (T,)
            early = float(share[: len(share) // 4].sum())
            best, epoch = run.summary["best_valid_bpc"], run.summary["best_epoch"]
            found[f"{name} {label}"] = {"early": early, "best_valid_bpc": best, "best_epoch": epoch}
            print(f"{name:9s}{label:11s}{early:14.0e}{best:8.3f} BPC  {epoch} of {len(run.rows)}")

            above.semilogy(range(1, len(share)), share[:-1], color)
            below.plot(run.curve("epoch"), run.curve("train_bpc"), color, lw=0.8)
            below.plot(run.curve("epoch"), run.curve("valid_bpc"), color, lw=2, label=label)
        gain = found[f"{name} zoneout"]["early"] / found[f"{name} plain"]["early"]
        check(f"{name}: with zoneout more of the gradient reaches the first quarter of the steps", gain > 2)
        above.set(title=f"{name}, dLoss/d{kind.memory}", xlabel="time step")
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
# 1. `network.b.data[H : 2 * H] += 3` lets a GRU hold its state from the start. How much does zoneout add then?
# 2. With `input_mask` in place of `keep_h` a GRU has recurrent dropout, of $(1 - z) \odot n$. What does a dropped unit
#    do?
# 3. Set `activation="relu"` for the RNN, as in the authors' code. What becomes of the gradient?
