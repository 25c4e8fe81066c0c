# %% [markdown]
# # 12. GRU and tanh-RNN
#
# **Claim.** Zoneout works for any network that has a state. A GRU has an update gate, which is a soft and learned
# zoneout already. Zoneout overrides this gate at random. A tanh-RNN has no gate at all. Zoneout gives it the only path
# on which its state and the gradient pass a step unchanged.
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
# A recurrent network with H units reads T inputs, one at each step, for B examples at once. From the old state
# $h_{t-1}$ (H, B) and the input $x_t$ (D, B) it computes a candidate $\tilde h_t$ (H, B) for the next state. Zoneout
# mixes the candidate with the old state. The mask $k_t$ (H, B) is 1 where a unit keeps its old value and 0 where it
# takes the candidate:
#
# $$h_t = k_t \odot h_{t-1} + (1 - k_t) \odot \tilde h_t$$
#
# The line does not depend on how the candidate was made ($\odot$ is the product element by element).
#
# The simplest network is the tanh-RNN, with weights $W_x$ (H, D) and $W_h$ (H, H) and biases $b$ (H,):
#
# $$\tilde h_t = \tanh(W_x x_t + W_h h_{t-1} + b)$$
#
# Let $dh_t$ (H, B) be the gradient of the loss with respect to $h_t$. The derivative of tanh is $1 - \tanh^2$, so the
# chain rule gives
#
# $$dh_{t-1} = k_t \odot dh_t + W_h^\top \left((1 - \tilde h_t^2) \odot (1 - k_t) \odot dh_t\right)$$
#
# The plain network has only the second term: at every step a matrix, and a slope of at most 1. Zoneout adds the first
# term. Where $k_t = 1$ it passes the gradient on unchanged.

# %%
T, D, B, H = 6, 3, 4, 5
rng = stream(0, "chapter 12")
x = rng.standard_normal((T, D, B))
h0 = rng.standard_normal((H, B))
W_x = rng.standard_normal((H, D))
W_h = rng.standard_normal((H, H))
b = rng.standard_normal(H)
keep, _ = Zoneout(states=0.3).masks(T, H, B, rng, dtype=np.float64)  # (T, H, B)

# %% [markdown]
# We compare the formula with `rnn`, which computes the gradient itself.

# %%
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
# A GRU has a reset gate $r$, an update gate $u$ and a proposal $n$, all (H, B). (Most texts call the update gate $z$.
# Here $z_h$ is the zoneout probability.) Each has its own weights $W_x^r$ (H, D), $W_h^r$ (H, H), $b^r$ (H,), and the
# same with $u$ and $n$. With the logistic function $\sigma$ the gates are
#
# $$r = \sigma(W_x^r x_t + W_h^r h_{t-1} + b^r)$$
#
# $$u = \sigma(W_x^u x_t + W_h^u h_{t-1} + b^u)$$
#
# The reset gate decides how much of the old state the proposal sees, the update gate how much of it stays:
#
# $$n = \tanh(W_x^n x_t + W_h^n (r \odot h_{t-1}) + b^n)$$
#
# $$\tilde h_t = u \odot h_{t-1} + (1 - u) \odot n$$
#
# The last equation has the form of zoneout. But $u$ is a number between 0 and 1 that is computed from the input and
# the state, and the mask $k_t$ is 0 or 1 and random.
#
# Now put $\tilde h_t$ into the equation of zoneout, and collect the factors of $h_{t-1}$ and of $n$:
#
# $$h_t = u' \odot h_{t-1} + (1 - u') \odot n$$
#
# $$u' = k_t + (1 - k_t) \odot u$$
#
# So a GRU with zoneout is a GRU with another update gate: 1 where $k_t = 1$, and $u$ elsewhere.
#
# This can be tested without the zoneout code. We give the mask to a plain GRU as H more inputs, and connect them to the
# update gates with a weight of 1,000. Where the mask is 1, the gate becomes $\sigma(1000 + \dots) = 1$. In minizone the
# weights of $r$, $u$ and $n$ are the rows of one matrix, in this order.

# %%
gru_W_x = 0.8 * rng.standard_normal((3 * H, D))
gru_W_h = 0.8 * rng.standard_normal((3 * H, H))
gru_b = 0.8 * rng.standard_normal(3 * H)
weights = (gru_W_x, gru_W_h, gru_b)

mask_weights = np.zeros((3 * H, H))
mask_weights[H : 2 * H] = 1000 * np.eye(H)  # the rows of u
wider_x = np.concatenate([x, keep], axis=1)  # (T, D + H, B)
wider_W_x = np.concatenate([gru_W_x, mask_weights], axis=1)  # (3H, D + H)

with_mask_as_input = gru(wider_x, h0, wider_W_x, gru_W_h, gru_b)
with_zoneout = gru(x, h0, *weights, keep_h=keep)
same = np.allclose(with_mask_as_input.data, with_zoneout.data, rtol=0, atol=1e-12)
check("a GRU whose input has the mask is a GRU with zoneout", same)

# %% [markdown]
# What does zoneout add to a gate that can keep the old value already? First, noise: training sets the gate such that
# the training loss falls, and the mask does not depend on the loss. Second, exactness: a sigmoid only comes close to 1,
# and the mask is 1.
#
# At test time the mask is replaced by its expectation, the probability $z_h$. The gate becomes
#
# $$u' = z_h + (1 - z_h)\, u$$
#
# It is never below $z_h$. The step from $h_{t-1}$ to $h_t$ is $1 - z_h$ times the step of the plain GRU.

# %%
plain_step = gru(x[:1], h0, *weights).data[0] - h0  # (H, B)
expected_step = gru(x[:1], h0, *weights, keep_h=0.3).data[0] - h0
check(
    "at test time a step is 1 - z_h of the plain one", np.allclose(expected_step, 0.7 * plain_step, rtol=0, atol=1e-12)
)

# %% [markdown]
# ## Reset before the product, or after
#
# There are two kinds of GRU. In ours the reset gate acts on the state before the matrix product,
# $W_h^n (r \odot h_{t-1})$. In `torch.nn.GRU` it acts after the product, $r \odot (W_h^n h_{t-1} + b')$, with one more
# bias $b'$ (H,). Then the products of all three blocks can be computed as one, which is faster.
#
# Weights that were trained for one kind are wrong for the other. There is one exception: if $b' = 0$ and $W_h^n$ is
# diagonal, both orders give the same result.


# %%
def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def reset_after(x, h, W_x, W_h, b):
    """One step in the order of torch.nn.GRU, with b' = 0: from x (D, B) and h (H, B) to the next h (H, B)."""
    H = len(h)
    from_x = W_x @ x + b[:, None]  # (3H, B)
    from_h = W_h @ h  # (3H, B)
    r = sigmoid(from_x[:H] + from_h[:H])
    u = sigmoid(from_x[H : 2 * H] + from_h[H : 2 * H])
    n = np.tanh(from_x[2 * H :] + r * from_h[2 * H :])
    return u * h + (1 - u) * n


# %%
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
# A well-known library once used the mask of step 0 at every step of the backward pass of its GRU (haste, issue 43). A
# test with a single step cannot find this. So we check the gradients over T = 6 steps with a new mask at each step.
#
# There are two comparisons. The first is with a readable reference, the cells of `minizone/recurrent/cells.py`, which
# the tape differentiates (chapter 2). The second is with the complex step (chapter 3).


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
# The first experiment is the gradient before training. A network with random weights reads T = 60 random inputs, and
# the loss depends on the last hidden state only. We measure how much of the gradient reaches early steps. The zoneout
# probability is 0.25 on the state that carries the memory: the cells $c$ of the LSTM, the state $h$ of the others.
#
# The second experiment is training on characters, as in chapter 9. The paper's learning rates are for 1,000 units. Our
# short runs of small networks use four times as much. The zoneout probabilities of the LSTM are those of the paper. For
# the GRU (0.1) and the tanh-RNN (0.05) we choose from the paper's range, 0.05 to 0.25.


# %%
@dataclass
class Kind:
    """A network, with zoneout as in the first experiment and as in the second."""

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


# %% [markdown]
# To measure the gradient, `states` takes a `StateGradients`, which records the gradient of each state during the
# backward pass. Chapter 15 says more about it.


# %%
def new_network(kind: Kind, zoneout: Zoneout, **options):
    """A network of H = 64 units with random weights, which reads inputs of D = 8 numbers."""
    return kind.layer(8, 64, zoneout=zoneout, rng=stream(2, "weights"), dtype=np.float64, **options)


def gradient_over_time(network) -> np.ndarray:
    """The norm (T,) of dLoss/d(memory) at every step, divided by the sum of all steps."""
    T, D, B = 60, 8, 32
    inputs = stream(1, "inputs").standard_normal((T, D, B))
    record = StateGradients()
    h, *_ = network.states(inputs, rng=stream(2, "masks"), record=record)
    h[-1].mean().backward()
    norms = norms_over_time(record.states[-1])  # the last one is c of an LSTM, h of the others
    return norms / norms.sum()


def first_quarter(shares: np.ndarray) -> float:
    """How much of the shares (T,) is in the first quarter of the steps."""
    return float(shares[: len(shares) // 4].sum())


# %%
def train(name: str, zoned: bool, preset: Preset, device: DeviceName) -> shared.Learned:
    """Train on characters, with or without zoneout."""
    kind = KINDS[name]
    label = "zoneout" if zoned else "plain"
    factor = 1 if preset == "paper" else 4
    changes = {**SIZES[preset], "rnn_type": kind.layer.__name__.lower(), "learning_rate": factor * kind.learning_rate}
    if zoned:
        changes |= kind.flags
    return learn(CharPTB, preset, device, f"12-{name}-{label}", **changes)


# %% [markdown]
# The figure has a column for each network: the gradient before training above, the learning curves below.

# %%
COLORS = {"plain": "C0", "zoneout": "C1"}


def draw(shares: dict[str, np.ndarray], curves: dict[str, dict[str, list[float]]]) -> None:
    """Gradients before training and learning curves, by names such as "GRU zoneout"."""
    figure, axes = plt.subplots(2, 3, figsize=(9, 5.6), sharey="row")
    for column, (name, kind) in enumerate(KINDS.items()):
        above, below = axes[:, column]
        for label, color in COLORS.items():
            share = shares[f"{name} {label}"]  # (T,)
            above.semilogy(range(1, len(share)), share[:-1], color, lw=2)
            curve = curves[f"{name} {label}"]
            below.plot(curve["epoch"], curve["valid_bpc"], color, lw=2, label=f"{label}, validation")
            below.plot(curve["epoch"], curve["train_bpc"], color, lw=1.2, ls="--", label=f"{label}, training")
        above.set(title=f"{name}, untrained: dLoss/d{kind.memory}", xlabel="time step")
        below.set(title=f"{name}, training", xlabel="epoch")
    axes[0, 0].set_ylabel("gradient norm\n(share of the sum over steps)")
    axes[1, 0].set_ylabel("bits per character")
    handles, labels = axes[1, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    save(figure, "12_gru_and_rnn")


# %% [markdown]
# `main` measures the gradient and trains, for each of the three networks, without and with zoneout. It prints a line
# for each of these six.


# %%
def main(preset: Preset = "quick", device: DeviceName = "cpu") -> dict[str, dict[str, float]]:
    """Gradients of three networks at initialization, then training, with and without zoneout."""
    found, shares, curves = {}, {}, {}
    print(f"{'':20s}gradient early  best valid  in epoch")
    for name, kind in KINDS.items():
        for label, zoned in (("plain", False), ("zoneout", True)):
            key = f"{name} {label}"
            shares[key] = gradient_over_time(new_network(kind, kind.zoneout if zoned else Zoneout()))
            run = train(name, zoned, preset, device)
            curves[key] = {column: run.curve(column) for column in ("epoch", "train_bpc", "valid_bpc")}
            early = first_quarter(shares[key])
            best, epoch = run.summary["best_valid_bpc"], run.summary["best_epoch"]
            found[key] = {"early": early, "best_valid_bpc": best, "best_epoch": epoch}
            print(f"{name:9s}{label:11s}{early:14.0e}{best:8.3f} BPC  {epoch} of {len(run.rows)}")
        gain = found[f"{name} zoneout"]["early"] / found[f"{name} plain"]["early"]
        check(f"{name}: with zoneout more of the gradient reaches the first quarter of the steps", gain > 2)

    print("One seed each" + (", of networks far too small for a ranking." if preset != "paper" else "."))
    draw(shares, curves)
    return found


# %%
if __name__ == "__main__":
    shared.run(main)

# %% [markdown]
# ## In the figure
#
# Above: the gradient fades toward the early steps in all three networks, and with zoneout it fades more slowly. The
# difference is smallest in the LSTM and largest in the tanh-RNN, which has no gate that could keep its state. Note the
# logarithmic scale.
#
# Below: the training curves (dashed) with zoneout stay higher, partly because they are measured with the noise of the
# masks. The plain GRU over-fits: its validation curve rises in the second half, and that of the GRU with zoneout does
# not. For the other two networks 24 epochs show little difference.

# %% [markdown]
# ## At full size
#
# The next runs have 400 units (the paper: 1,000), read the first tenth of Penn Treebank for 30 epochs, and use the
# paper's learning rates. Both have $z_h$ = 0.1. There is one seed. The LSTM of the same size is in chapter 9.

# %%
shared.print_results("gru-rnn")

# %% [markdown]
# ![Learning curves of GRU and tanh-RNN at full size](../results/gru-rnn/curves.png)
#
# The plain GRU over-fits from epoch 14 on. With zoneout it does not, and it ends 0.12 BPC lower, which is also the gain
# in the paper. Until epoch 13 it is behind.
#
# The tanh-RNN is another matter. At a learning rate of 0.0003 it learns so slowly that it has not begun to over-fit
# after 30 epochs. A regularizer has nothing to prevent there, and zoneout only slows it down. So we trained both for
# 130 epochs:
#
# ![Learning curves of the tanh-RNN for 130 epochs](../results/longer-runs/rnn.png)
#
# Now the plain network over-fits. The one with zoneout overtakes it shortly before that, and still improves at the end.
# The paper reports a gain of 0.15 for the tanh-RNN. A run that is stopped early shows the opposite.

# %% [markdown]
# ## What to take away
#
# - Zoneout needs nothing but an old state and a candidate for the next one.
# - A GRU with zoneout is a GRU whose update gate is set to 1 at random.
# - In a tanh-RNN, zoneout is the only path along which a state and its gradient pass a step unchanged.
# - Check gradients over several steps with masks that differ, or a mask of the wrong step goes unnoticed.
#
# ## Exercises
#
# 1. A positive bias of the update gates lets a GRU hold its state from the start: `network.b.data[H : 2 * H] += 3`. How
#    much does zoneout add to the early gradient then?
# 2. With `input_mask` in place of `keep_h`, a GRU has recurrent dropout: the mask multiplies $n$. What does a dropped
#    unit do, and how does this differ from zoneout?
# 3. The authors' code uses `activation="relu"` for the RNN. What becomes of the gradient before training, with and
#    without zoneout?
