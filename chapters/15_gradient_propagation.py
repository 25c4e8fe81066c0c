# %% [markdown]
# # 15. Gradient propagation
#
# **Claim.** A unit that waits copies its old value, and the derivative of a copy is exactly 1. So zoneout carries
# gradient back to early time steps where a forget gate alone lets it fade, and dropout makes it fade faster. This is so
# before any training: it belongs to the network, and is not learned.
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
from shared import DeviceName, Preset, check, save

from minizone import LSTM, Device, Tensor, Zoneout, lstm
from minizone.backend import stream
from minizone.experiments import gradients
from minizone.experiments.gradients import METHODS, norms_over_time
from minizone.recurrent.sequence import StateGradients

# %% [markdown]
# ## What is measured
#
# Cut the network after step t and hold the two states at the seam, $h_t$ and $c_t$ (H, B). The loss L is a function of
# them and of later inputs, and $\partial L / \partial c_t$ (H, B) says how much it would change. Back-propagation has
# that array in hand when it passes step t; `StateGradients` writes it down. Let us make the cut, and compare.

# %%
T, D, H, B, t = 8, 2, 5, 3, 3
rng = np.random.default_rng(0)
weights = {k: Tensor(rng.standard_normal(s)) for k, s in (("W_x", (4 * H, D)), ("W_h", (4 * H, H)), ("b", (4 * H,)))}
x, start, aim = rng.standard_normal((T, D, B)), rng.standard_normal((2, H, B)), rng.standard_normal((H, B))
keep_h, keep_c = Zoneout(cells=0.5, states=0.25).masks(T, H, B, rng, dtype=np.float64)  # (T, H, B) each
record = StateGradients()
h, c = lstm(x, *start, **weights, keep_h=keep_h, keep_c=keep_c, record=record)
(h[-1] * aim).sum().backward()
seam = Tensor(h.data[t - 1]), Tensor(c.data[t - 1])  # the states after t steps
rest, _ = lstm(x[t:], *seam, **weights, keep_h=keep_h[t:], keep_c=keep_c[t:])
(rest[-1] * aim).sum().backward()
same = [np.allclose(a.grad, b[t - 1], rtol=1e-9) for a, b in zip(seam, record.states, strict=True)]
check("what is recorded is the derivative by the states at the seam", all(same))
check("nothing hangs on the last cell", (record.states[1][-1] == 0).all())

# %% [markdown]
# The last line is the trap of chapter 5 once more: $h_t$ is made from the candidate $\tilde c_t$, so the only way from
# $c_t$ to the loss leads through step t + 1, and after the last step there is none. The figures leave that step out.
#
# The recipe of figure 6 makes one curve of it: for each example the L2 norm over the H units; then the mean over the B
# examples (`norms_over_time` does both); then, as the losses of the methods differ, each is divided by its sum over t.

# %% [markdown]
# ## Why zoneout carries it
#
# Follow the cell, $c_t = k_t \odot c_{t-1} + (1 - k_t) \odot (f_t \odot c_{t-1} + i_t \odot g_t)$ with $k_t$ (H, B)
# from {0, 1} and P(k = 1) = z. Along the cell itself, unit by unit, the derivative of one step is
#
# $$\frac{\partial c_t}{\partial c_{t-1}} = k_t + (1 - k_t)\, f_t = \begin{cases} 1 & \text{it waits} \\
# f_t & \text{it moves} \end{cases} \qquad \text{on average} \qquad z + (1 - z) f_t = f_t + z (1 - f_t) > f_t$$
#
# A step back shrinks the gradient by that factor, and factors multiply: $\prod (z + (1-z) f_t)$ against $\prod f_t$.
# Dropout of the cell, which maps it to zero with probability p, has $(1-p) f_t$ instead, less than $f_t$. Recurrent
# dropout of $i \odot g$ leaves $f_t$ alone, and thins out the other way back, through $h_{t-1}$, $i_t$ and $g_t$.
#
# To see the product alone, cut all other ways: with $W_h = 0$ the gates depend on the inputs only. One sequence, 2,000
# masks, as 2,000 columns; the mean recorded gradient of $L = \sum c_T$ should be the product.

# %%
T, H, z, masks = 20, 16, 0.5, 2000
W_x, b = rng.standard_normal((4 * H, D)), np.repeat([0.0, 1.0, 0.0, 0.0], H)  # the forget gate starts open
x = rng.standard_normal((T, D, 1))
f = 1 / (1 + np.exp(-(W_x @ x + b[:, None])[:, H : 2 * H]))  # (T, H, 1)


FACTORS = np.stack([f, z + (1 - z) * f, (1 - z) * f, z + (1 - z) * f * f])  # the last: mean of the squared factor
none, mean, dropped, square = np.cumprod(FACTORS[:, :0:-1], axis=1)[:, ::-1]  # of the steps after t < T: (T - 1, H, 1)


def along_the_cell(copies: int, keep: Any) -> np.ndarray:
    """The recorded dL/dc_t (T - 1, H, copies) of t < T, for L = sum of c_T, where h has no influence on later steps."""
    record, zeros = StateGradients(), np.zeros((H, copies))
    _, c = lstm(np.repeat(x, copies, 2), zeros, zeros, Tensor(W_x), np.zeros((4 * H, H)), b, keep_c=keep, record=record)
    c[-1].sum().backward()
    return record.states[1][:-1]


check("without zoneout the gradient is the product of the forget gates", np.allclose(along_the_cell(1, None), none))
zoned = along_the_cell(masks, Zoneout(cells=z).masks(T, H, masks, rng, dtype=np.float64)[1])
off = np.abs(zoned.mean(axis=2, keepdims=True) - mean) / ((square - mean**2) / masks) ** 0.5  # in standard errors
check("with zoneout it is, on average, the product of z + (1 - z) f", off.max() < 5)
print(f"what is left at the first step, mean over units: zoneout {mean[0].mean():.2e}, without {none[0].mean():.2e}")

# %% [markdown]
# ## A random LSTM
#
# Now with all ways open, and still no training: random orthogonal weights, random inputs, a random linear loss of the
# last h. The paper measures after one epoch, when little has been learned yet. Its "dropout" maps recurrent connections
# to zero, which could be several things; here it is that of $i \odot g$ (chapter 6), the only one in their script.

# %%
KINDS: dict[str, Any] = dict(zip(METHODS, ({}, {"zoneout": Zoneout(0.5)},
    {"zoneout": Zoneout(0.15, 0.15, shared=True)}, {"drop_inputs": 0.5}), strict=True))  # fmt: skip


def early(norms: np.ndarray) -> float:
    """The share of sum_t norms[t] that is in the first quarter of the time steps; norms (T,)."""
    return float(norms[: len(norms) // 4].sum() / norms.sum())


def random_lstm(options: dict[str, Any], T: int, H: int, B: int, device: Device) -> np.ndarray:
    """Norms (T,) of dL/dc_t in an LSTM that has not been trained; the same weights and inputs for all options."""
    rng, record = stream(1, "random lstm"), StateGradients()
    layer = LSTM(1, H, rng=rng, **options)
    for _, tensor in layer.named_tensors():
        tensor.data = device.to_device(tensor.data)
    x, aim = (device.to_device(rng.standard_normal(s).astype(np.float32)) for s in ((T, 1, B), (H, B)))
    (layer.states(x, None, stream(1, "noise"), record)[0][-1] * aim).sum().backward()
    return norms_over_time(record.states[1])


def experiment(preset: Preset, device: DeviceName) -> dict[str, np.ndarray]:
    """The paper's experiment, on the 8x8 digits unless the preset is paper: see `gradients.run`."""
    paper, digits = preset == "paper", {"dataset": "digits", "eval_examples": 100}
    sizes = {"small": {"hidden_size": 24, "epochs": 1, **digits}, "quick": {"epochs": 19, **digits}, "paper": {}}
    first: Any = gradients.PRESETS["paper" if paper else "quick"]
    settings = replace(first, device=device, resume=paper, **sizes[preset])
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path("runs/chapters/15_gradient_propagation") if paper else Path(scratch)
        return gradients.run(settings, folder, print if paper else lambda *_: None)


# %% [markdown]
# ## The experiment, and a gain that makes gradients vanish
#
# `experiment` trains an LSTM with each method on permuted digits. A fourth one, z = 0.15 with a shared mask, is what
# the authors' script ran, by its logs. One epoch of MNIST is 500 updates of 784 steps; here one epoch is 26 updates of
# 64 steps, and the quick run has 19 of them. Compare the early shares before training, after one epoch, and at the
# end. The order need not last: over 64 steps an LSTM can soon learn to carry gradient without any help.
#
# Cooijmans et al. draw such curves for $h_t = \tanh(\gamma \hat s_t)$ (H, B), where $\hat s_t$ is
# $s_t = W_h h_{t-1} + W_x x_t$ less its mean, over $\sigma$, its standard deviation in the minibatch. But for these
# statistics, a step back multiplies by $(1 - h_t^2)\, \gamma / \sigma$, as $W_h$ is the identity. For small $\gamma$
# both h and $\sigma$ are about as large as $\gamma$: the factor is near 1. With $\gamma = 1$ the tanh saturates,
# $1 - h_t^2$ is small, and the gradient vanishes. That is why BN-LSTMs start with gains of 0.1 (chapter 7).


# %%
def main(preset: Preset = "quick", device: DeviceName = "cpu") -> dict[str, Any]:
    """Measure how far back gradients reach: untrained, trained, and for several gains of batch normalization."""
    sizes = (50, 50, 20) if preset == "small" else (100, 100, 50)  # T, H, B
    untrained = {k: random_lstm(options, *sizes, Device(device)) for k, options in KINDS.items()}
    plain, zoneout, _, dropout = (early(norms) for norms in untrained.values())
    print(f"random LSTM, first quarter: zoneout {zoneout:.2e}, unregularized {plain:.2e}, dropout {dropout:.2e}")
    check("random LSTM: most is carried by zoneout, least by recurrent dropout", zoneout > 1.2 * plain > 1.5 * dropout)
    found = experiment(preset, device)
    shares = {k: [early(v) for v in norms[:, 0]] for k, norms in zip(KINDS, found["norms"], strict=True)}  # by epochs
    for name, (before, *after) in shares.items():
        print(f"images, first quarter, untrained/epoch 1/end: {before:.4f}/{after[0]:.4f}/{after[-1]:.4f}, {name}")
    lost = found["gamma_norms"].min(axis=1) / found["gamma_norms"][:, -1]  # (10,), one for each gamma
    print(f"smallest norm of dL/dh_t over the last one: {lost[-1]:.1e} with gamma = 1, {lost[0]:.1e} with 0.1")
    check("a gain of 1 loses more of the gradient than 0.1, by a factor of 10 at least", lost[-1] < 0.1 * lost[0])
    figure, axes = plt.subplots(2, 3, figsize=(10.5, 6))
    ways = ((r"zoneout: $z + (1-z) f$", "C1", mean), ("no regularizer: $f$", "C0", none),
            ("dropout of c: $(1-p) f$", "C3", dropped), ("measured, 2,000 masks", "k.", zoned))  # fmt: skip
    for name, style, product in ways:
        axes[0, 0].semilogy(range(1, T), product.mean(axis=(1, 2)), style, ms=4, label=name)
    axes[0, 0].set(title="along the cell alone, z = p = 0.5", ylabel=r"$\partial L / \partial c_t$, mean over units")
    panels = [untrained.values(), *(found["norms"][:, epoch, 0] for epoch in (0, 1, -1))]
    titles = ("random LSTM", "permuted digits, untrained", "permuted digits, one epoch", "permuted digits, at the end")
    for axis, curves, title in zip(axes.flat[1:5], panels, titles, strict=True):
        for name, norms in zip(KINDS, curves, strict=True):
            axis.semilogy(range(1, len(norms)), (norms / norms.sum())[:-1], label=name)
        axis.set(title=title, ylabel=r"$\|\partial L / \partial c_t\|$ / sum over t")
    for gamma, norms in list(zip(found["gammas"], found["gamma_norms"], strict=True))[::3]:
        axes[1, 2].semilogy(range(1, len(norms) + 1), norms, color=str(0.8 * gamma), label=rf"$\gamma$ = {gamma:g}")
    axes[1, 2].set(title="tanh-RNN with BN, untrained", ylabel=r"$\|\partial L / \partial h_t\|$")
    plt.setp(axes, xlabel="time step t")
    for axis in (axes[0, 0], axes[0, 1], axes[1, 2]):
        axis.legend(fontsize=8)
    save(figure, "15_gradient_propagation")
    return {"untrained": {k: early(v) for k, v in untrained.items()}, "trained": shares, "gammas": lost.tolist()}


# %%
if __name__ == "__main__":
    shared.run(main)

# %% [markdown]
# ## Exercises
#
# 1. Give `random_lstm` `forget_bias=4.0` in all options. What does the formula say of zoneout when f is near 1 anyway?
# 2. Use `record.candidates[1]`, as the authors' script did, in `random_lstm`. Where do the curves differ, and why?
# 3. Zone out h instead, `Zoneout(states=0.5)`, and return the norms of `record.states[0]`. Which derivative is 1 now?
