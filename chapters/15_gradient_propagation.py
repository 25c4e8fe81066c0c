# %% [markdown]
# # 15. Gradient propagation
#
# **Claim.** A unit that is zoned out copies its old value, and the derivative of a copy is exactly 1. So zoneout
# carries gradients back to early time steps, where with a forget gate alone they fade. Dropout makes them fade faster.
# This is so before any training: it is a property of the network, and not learned.
#
# Paper: section 4.4, figure 6; and figure 1a of Cooijmans et al. (2017), whose experiment is the last of this chapter.
# The full experiment: `python run.py gradients --preset paper`

# %%
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import shared  # finds minizone
import matplotlib.pyplot as plt
import numpy as np
from shared import DeviceName, Preset, check, quiet, save

from minizone import LSTM, Device, Tensor, Zoneout, lstm
from minizone.backend import stream
from minizone.experiments import gradients
from minizone.experiments.gradients import StateGradients, norms_over_time

# %% [markdown]
# ## What is measured
#
# An LSTM with H units reads T steps of B examples. Its states after step t are $h_t$ and $c_t$, both (H, B). At the end
# there is a loss L, a number. Cut the network after step t: L is a function of the two states at the cut and of the
# later inputs. Its derivatives with respect to these states,
#
# $$\frac{\partial L}{\partial h_t} \qquad \frac{\partial L}{\partial c_t}$$
#
# both (H, B), say how much the loss depends on what the network knows after step t. Back-propagation computes both
# arrays when it passes step t, and `StateGradients` records them.
#
# To see that these are the right arrays, we make the cut and compare. First the whole network, with a record:

# %%
T, D, H, B = 8, 2, 5, 3
t = 3  # the steps before the cut
rng = np.random.default_rng(0)
W_x = Tensor(rng.standard_normal((4 * H, D)))
W_h = Tensor(rng.standard_normal((4 * H, H)))
b = Tensor(rng.standard_normal(4 * H))
x = rng.standard_normal((T, D, B))
h0, c0 = rng.standard_normal((2, H, B))  # (H, B) each
weights_of_loss = rng.standard_normal((H, B))
keep_h, keep_c = Zoneout(cells=0.5, states=0.25).masks(T, H, B, rng, dtype=np.float64)  # (T, H, B) each

record = StateGradients()
h, c = lstm(x, h0, c0, W_x, W_h, b, keep_h=keep_h, keep_c=keep_c, record=record)
(h[-1] * weights_of_loss).sum().backward()
dh, dc = record.states  # (T, H, B) each

# %% [markdown]
# Now only the steps after the cut, as a function of the states at the cut.

# %%
h_cut = Tensor(h.data[t - 1])
c_cut = Tensor(c.data[t - 1])
h_rest, _ = lstm(x[t:], h_cut, c_cut, W_x, W_h, b, keep_h=keep_h[t:], keep_c=keep_c[t:])
(h_rest[-1] * weights_of_loss).sum().backward()
check("dLoss/dh is the derivative by h at the cut", np.allclose(h_cut.grad, dh[t - 1], rtol=1e-9))
check("dLoss/dc is the derivative by c at the cut", np.allclose(c_cut.grad, dc[t - 1], rtol=1e-9))
check("the gradient of the last cell is zero", (dc[-1] == 0).all())

# %% [markdown]
# The last check has the reason that chapter 5 gives: $h_t$ is made from the candidate for the cell, not from $c_t$. So
# $c_t$ reaches the loss only through step t + 1, and after the last step there is none. The figures leave the last step
# out.
#
# Figure 6 of the paper makes one curve of these arrays. For each example it takes the L2 norm over the H units, then
# the mean over the B examples (`norms_over_time` does both). The losses of the methods differ, so it divides by the sum
# over t.
#
# ## Why zoneout carries gradients
#
# Look at the cells. With the gates $i_t$, $f_t$, $g_t$ and the mask $k_t$, all (H, B), one step is
#
# $$c_t = k_t \odot c_{t-1} + (1 - k_t) \odot (f_t \odot c_{t-1} + i_t \odot g_t)$$
#
# An element of $k_t$ is 1 with probability z, and 0 otherwise. Take one unit, and leave aside that the gates depend on
# the past as well. The derivative along the cell is
#
# $$\frac{\partial c_t}{\partial c_{t-1}} = k_t + (1 - k_t) f_t$$
#
# It is exactly 1 if the unit is zoned out, and $f_t$ if it is updated. Its mean over the masks is
#
# $$z + (1 - z) f_t = f_t + z (1 - f_t)$$
#
# Since $f_t < 1$, this is more than $f_t$. Over several steps the factors are multiplied, so the difference grows with
# the distance.
#
# Compare two kinds of dropout, with probability p. Dropout of the cell sets $c_t$ to 0 at random. Its mean factor is
# $(1 - p) f_t$, less than $f_t$. Recurrent dropout of $i_t \odot g_t$ leaves the factor $f_t$ unchanged, but weakens
# the other ways back, through $h_{t-1}$ and the gates.
#
# To see the product of the factors alone, we cut all other ways: with $W_h = 0$ the gates depend on the inputs only.
# The loss is the sum of the last cells, so its gradient with respect to $c_t$ is the product of the later factors.

# %%
T, H, z, copies = 20, 16, 0.5, 2000
W_x = rng.standard_normal((4 * H, D))
b = np.repeat([0.0, 1.0, 0.0, 0.0], H)  # (4H,): without input f = 0.73
x = rng.standard_normal((T, D, 1))
f = 1 / (1 + np.exp(-(W_x @ x + b[:, None])[:, H : 2 * H]))  # (T, H, 1)


def product_of_later_factors(factor: np.ndarray) -> np.ndarray:
    """For every t < T the product of the factors (T, H, 1) of the steps after t: (T - 1, H, 1)."""
    product = np.ones_like(factor)
    for t in reversed(range(len(factor) - 1)):
        product[t] = product[t + 1] * factor[t + 1]
    return product[:-1]


plain = product_of_later_factors(f)
zoneout = product_of_later_factors(z + (1 - z) * f)
dropout = product_of_later_factors((1 - z) * f)  # with p = z
zoneout_square = product_of_later_factors(z + (1 - z) * f * f)  # the mean of the squared product

# %% [markdown]
# Is this what back-propagation finds? We run one sequence with 2,000 masks, as 2,000 columns of a minibatch, and record
# the gradient. Its mean should be the product. A mean over random masks has a standard error, which follows from the
# mean square.


# %%
def along_the_cell(copies: int, keep_c: np.ndarray | None) -> np.ndarray:
    """The recorded dL/dc_t (T - 1, H, copies) of t < T for L = sum of c_T, with W_h = 0."""
    record = StateGradients()
    zeros = np.zeros((H, copies))
    inputs = np.repeat(x, copies, axis=2)  # (T, D, copies)
    _, c = lstm(inputs, zeros, zeros, Tensor(W_x), np.zeros((4 * H, H)), b, keep_c=keep_c, record=record)
    c[-1].sum().backward()
    _, dc = record.states
    return dc[:-1]


# %%
check("without zoneout the gradient is the product of the forget gates", np.allclose(along_the_cell(1, None), plain))
_, keep_c = Zoneout(cells=z).masks(T, H, copies, rng, dtype=np.float64)  # (T, H, copies)
measured = along_the_cell(copies, keep_c)
standard_error = ((zoneout_square - zoneout**2) / copies) ** 0.5
deviation = np.abs(measured.mean(axis=2, keepdims=True) - zoneout) / standard_error
check("with zoneout it is, on average, the product of z + (1 - z) f", deviation.max() < 5)
print("what is left at the first step, mean over units:", end=" ")
print(f"zoneout {zoneout[0].mean():.2e}, without {plain[0].mean():.2e}")

# %% [markdown]
# ## A random LSTM
#
# Now with all connections, and still without training: random orthogonal weights, random inputs, and a random linear
# loss of the last $h$. We compare the four methods of the paper's experiment. $z_c$ and $z_h$ are the zoneout
# probabilities of the cells and of the hidden states.
#
# - unregularized
# - zoneout with $z_c$ = 0.5, as in the paper
# - zoneout with $z_c$ = $z_h$ = 0.15 and one mask for both, which the authors' script ran according to its logs
# - recurrent dropout of $i_t \odot g_t$ with probability 0.5 (chapter 6). The paper says dropout of the recurrent
#   connections, not which ones, and this is the only dropout in the authors' script
#
# The authors' script records the gradient of the candidate $\tilde c_t$. We measure that of $c_t$, after the mix, as
# the paper writes it.

# %%
KINDS: dict[str, dict[str, Any]] = {
    "unregularized": {},
    "zoneout z_c = 0.5": {"zoneout": Zoneout(0.5)},
    "zoneout z_c = z_h = 0.15": {"zoneout": Zoneout(0.15, 0.15, shared=True)},
    "recurrent dropout 0.5": {"drop_inputs": 0.5},
}


def early(norms: np.ndarray) -> float:
    """The share of the sum of norms (T,) that is in the first quarter of the time steps."""
    return float(norms[: len(norms) // 4].sum() / norms.sum())


# %%
def random_states(options: dict[str, Any], T: int, H: int, B: int, device: Device) -> tuple[Tensor, StateGradients]:
    """All h (T, H, B) of an LSTM without training, and the record; the same weights and inputs for all options."""
    rng = stream(1, "random lstm")
    layer = LSTM(1, H, rng=rng, **options)
    for _, tensor in layer.named_tensors():
        tensor.data = device.to_device(tensor.data)
    x = device.to_device(rng.standard_normal((T, 1, B)).astype(np.float32))
    record = StateGradients()
    h, _ = layer.states(x, None, stream(1, "noise"), record)
    return h, record


def random_lstm(options: dict[str, Any], T: int, H: int, B: int, device: Device) -> np.ndarray:
    """Norms (T,) of dL/dc_t in an LSTM without training, for a random linear loss of the last h."""
    h, record = random_states(options, T, H, B, device)
    weights_of_loss = stream(1, "loss").standard_normal((H, B)).astype(np.float32)
    (h[-1] * device.to_device(weights_of_loss)).sum().backward()
    _, dc = record.states
    return norms_over_time(dc)


# %% [markdown]
# ## The experiment
#
# `experiment` trains an LSTM with each method on permuted digits (chapter 8), and measures the gradients before
# training and after every epoch. The paper measures after one epoch on MNIST, which is 500 updates of 784 steps. Here
# an epoch is 26 updates of 64 steps, and the quick run has 19 epochs.

# %%
SIZES = {
    "small": {"dataset": "digits", "eval_examples": 100, "hidden_size": 24, "epochs": 1},
    "quick": {"dataset": "digits", "eval_examples": 100, "epochs": 19},
    "paper": {},
}


def experiment(preset: Preset, device: DeviceName) -> dict[str, np.ndarray]:
    """The paper's experiment, on 8x8 digits unless the preset is paper: see `gradients.run`."""
    if preset == "paper":
        settings = replace(gradients.PRESETS["paper"], device=device, resume=True)
        return gradients.run(settings, Path("runs/chapters/15_gradient_propagation"), print)
    settings = replace(gradients.PRESETS["quick"], device=device, **SIZES[preset])
    with tempfile.TemporaryDirectory() as folder:
        return gradients.run(settings, Path(folder), quiet)


# %% [markdown]
# ## A gain that makes gradients vanish
#
# Cooijmans et al. draw such curves for another network, a tanh-RNN with batch normalization (chapter 7). Its
# pre-activation is $s_t = W_h h_{t-1} + W_x x_t$ (H, B), where $W_h$ is the identity. Let $\hat s_t$ (H, B) be $s_t$
# minus its mean, divided by its standard deviation $\sigma$ (H, 1), both over the minibatch. Then
#
# $$h_t = \tanh(\gamma \hat s_t)$$
#
# with a gain $\gamma$, one number for all units. If the derivatives of the statistics are left aside, a step back
# multiplies the gradient by
#
# $$(1 - h_t^2) \frac{\gamma}{\sigma}$$
#
# For small $\gamma$ both $h_t$ and $\sigma$ are about as large as $\gamma$, so the factor is near 1. With
# $\gamma = 1$ the tanh saturates, $1 - h_t^2$ is small, and the gradient vanishes. That is why BN-LSTMs start with
# gains of 0.1.
#
# The figure has this experiment in its last panel, after the five of zoneout.

# %%
COLORS = ("C0", "C1", "C2", "C3")  # of the four methods
LABELS = ("unregularized", "zoneout, $z_c$ = 0.5", "zoneout, $z_c$ = $z_h$ = 0.15", "recurrent dropout, 0.5")


def draw_cell(axis: plt.Axes) -> None:
    """The gradient along the cell alone, by the formulas and as measured."""
    steps = range(1, len(f))
    axis.semilogy(steps, zoneout.mean(axis=(1, 2)), "C1")
    axis.semilogy(steps, plain.mean(axis=(1, 2)), "C0")
    axis.semilogy(steps, dropout.mean(axis=(1, 2)), color="0.5")
    axis.semilogy(steps, measured.mean(axis=(1, 2)), "k.", ms=4)
    axis.text(1, 2.0, "zoneout, $z + (1-z) f$; dots: 2,000 masks", color="C1", fontsize=8)
    axis.text(7, 2e-3, "unregularized, $f$", color="C0", fontsize=8)
    axis.text(8, 2e-7, "dropout of c, $(1-p) f$", color="0.4", fontsize=8)
    axis.set(title="along the cell alone, z = p = 0.5", ylabel=r"$\partial L / \partial c_t$, mean over units")
    axis.set_ylim(top=20)


def draw_shares(axis: plt.Axes, title: str, curves: list[np.ndarray]) -> None:
    """The norms (T,) of dL/dc_t of each method, divided by their sum, without the last step."""
    for norms, label, color in zip(curves, LABELS, COLORS, strict=True):
        axis.semilogy(range(1, len(norms)), (norms / norms.sum())[:-1], color, label=label)
    axis.set(title=title, ylabel=r"$\|\partial L / \partial c_t\|$, share of the sum")


def draw_gains(axis: plt.Axes, gammas: np.ndarray, curves: np.ndarray) -> None:
    """The norms (T,) of dL/dh_t for every third gain."""
    for gamma, norms in zip(gammas[::3], curves[::3], strict=True):
        gray = str(0.85 * (1 - gamma))
        axis.semilogy(range(1, len(norms) + 1), norms, color=gray, label=rf"$\gamma$ = {gamma:g}")
    axis.set(title="tanh-RNN with BN, untrained", ylabel=r"$\|\partial L / \partial h_t\|$")
    axis.legend(fontsize=8, loc="lower right")


def draw(untrained: dict[str, np.ndarray], found: dict[str, np.ndarray]) -> None:
    figure, axes = plt.subplots(2, 3, figsize=(10.5, 6.4))
    draw_cell(axes[0, 0])
    draw_shares(axes[0, 1], "random LSTM", list(untrained.values()))
    of_c = found["norms"][:, :, 0]  # (methods, epochs + 1, T)
    draw_shares(axes[0, 2], "permuted digits, untrained", list(of_c[:, 0]))
    draw_shares(axes[1, 0], "permuted digits, after one epoch", list(of_c[:, 1]))
    draw_shares(axes[1, 1], "permuted digits, at the end", list(of_c[:, -1]))
    plt.setp((axes[0, 2], axes[1, 0], axes[1, 1]), ylim=(2e-6, 0.5))
    draw_gains(axes[1, 2], found["gammas"], found["gamma_norms"])
    plt.setp(axes, xlabel="time step t")
    handles, labels = axes[0, 1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    save(figure, "15_gradient_propagation")


# %% [markdown]
# `main` prints how much of the gradient is in the first quarter of the steps, before and after training.


# %%
def main(preset: Preset = "quick", device: DeviceName = "cpu") -> dict[str, Any]:
    """Measure how far back gradients reach: untrained, trained, and for several gains of batch normalization."""
    T, H, B = (50, 50, 20) if preset == "small" else (100, 100, 50)
    untrained = {name: random_lstm(options, T, H, B, Device(device)) for name, options in KINDS.items()}
    of_plain, of_zoneout, _, of_dropout = (early(norms) for norms in untrained.values())
    print("random LSTM, gradient in the first quarter:", end=" ")
    print(f"zoneout {of_zoneout:.2e}, unregularized {of_plain:.2e}, dropout {of_dropout:.2e}")
    check("random LSTM: with zoneout the early gradient is larger", of_zoneout > 1.2 * of_plain)
    check("random LSTM: with recurrent dropout it is smaller", of_plain > 1.25 * of_dropout)

    found = experiment(preset, device)
    trained = {}  # of each method: the early share before training and after each epoch
    for name, norms in zip(KINDS, found["norms"], strict=True):  # norms (epochs + 1, kinds, T); kind 0 is c
        trained[name] = [early(norms_of_c) for norms_of_c in norms[:, 0]]
        before, after_one, at_end = trained[name][0], trained[name][1], trained[name][-1]
        print(f"images, first quarter, untrained/epoch 1/end: {before:.4f}/{after_one:.4f}/{at_end:.4f}, {name}")

    left = found["gamma_norms"].min(axis=1) / found["gamma_norms"][:, -1]  # (gammas,)
    print(f"smallest norm of dL/dh_t over the last one: {left[-1]:.1e} with gamma = 1, {left[0]:.1e} with 0.1")
    check("a gain of 1 loses at least 10 times more of the gradient than 0.1", left[-1] < 0.1 * left[0])
    draw(untrained, found)
    early_untrained = {name: early(norms) for name, norms in untrained.items()}
    return {"untrained": early_untrained, "trained": trained, "gammas": left.tolist()}


# %%
if __name__ == "__main__":
    shared.run(main)

# %% [markdown]
# ## In the figure
#
# Above, before training: along the cell alone (left) the gradient with zoneout fades much more slowly, and the dots lie
# on the curve of the formula. The order is the same with all connections (middle) and on digits (right): zoneout with
# 0.5, zoneout with 0.15, no regularizer, recurrent dropout.
#
# Below, after training: after one epoch (left), which is 26 updates here, the order is still the same, but three of the
# curves are close. At the end (middle), after about as many updates as an epoch of the paper has, it is not: the
# unregularized LSTM has the largest share in the first quarter, then come the two with zoneout, and recurrent dropout
# is far behind. Over 64 steps an LSTM can learn to carry gradients without help.
#
# The last panel has the gains. With $\gamma$ = 0.1 half of the gradient reaches the first steps, and with $\gamma$ = 1
# it vanishes on its way.

# %% [markdown]
# ## At full size
#
# This is the experiment of the paper: an LSTM of 100 units, MNIST with 784 steps, and one epoch of 500 updates.
#
# ![Norms of the gradients of the states over time at full size](../results/figure6-gradients/gradients.png)
#
# After one epoch (lower left) zoneout with $z_c$ = 0.5 has most of the gradient at early steps, then comes zoneout with
# 0.15, then no regularizer. With recurrent dropout the gradient of the first steps is smaller by six powers of ten.
# This is what figure 6 of the paper shows. Before training (upper left) the order is the same, and the distances are
# larger. So over 784 steps the order lasts longer than over the 64 steps of the quick run, where it is lost after as
# many updates.
#
# These are the gradients of one seed, after one epoch. They do not show that zoneout learns the task better. That is
# the question of chapter 8.

# %% [markdown]
# ## What to take away
#
# - The derivative along a unit that is zoned out is 1. On average zoneout replaces $f$ by $z + (1 - z) f$.
# - Before training, zoneout brings more of the gradient to early steps, and recurrent dropout less.
# - Training changes this. A network may learn open forget gates, and then zoneout has little to add.
# - With batch normalization, a small gain keeps the tanh out of saturation and lets the gradient pass.
#
# ## Exercises
#
# 1. Give `random_lstm` the option `forget_bias=4.0` in all methods. What does the formula say about zoneout when f is
#    near 1?
# 2. Let the loss be the mean of all h, not a function of the last one. What happens to the early shares, and why?
# 3. Zone out h in place of c, `Zoneout(states=0.5)`, and look at the norms of $\partial L / \partial h_t$. Which
#    derivative is 1 now?
