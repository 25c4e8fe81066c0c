# %% [markdown]
# # 7. Recurrent batch normalization
#
# **Claim.** Batch normalization keeps of a number only where it stands in its minibatch. Its gradient is the plain one
# minus two parts: what the mean would undo, and what the variance would undo. In a recurrent network it works when the
# gain starts at 0.1 and every time step has statistics of its own.
#
# Paper: section 4.3, table 2, after Cooijmans et al. (2017), *Recurrent Batch Normalization*. Its test error is 0.046,
# with zoneout 0.041: `python run.py pmnist --preset paper --batch-normalization`, and for zoneout
# `--z-prob-cells 0.15 --z-prob-states 0.15 --share-mask` behind it.

# %%
import shared  # finds minizone
import matplotlib.pyplot as plt
import numpy as np
from shared import DeviceName, Preset, check, learn, save

from minizone import Tensor, bn_lstm, no_grad
from minizone.backend import stream, to_host
from minizone.recurrent.bn_lstm import Statistics, parts
from minizone.recurrent.cells import batch_normalize, bn_lstm_unrolled
from minizone.experiments.gradients import normalized_rnn_gradients
from minizone.experiments.pmnist import PMNIST

# %% [markdown]
# ## Forward, and the three roads back
#
# Let $s$ (R, B) be R sums, a row each, for the B examples of a minibatch. Row by row, with sums over the columns n:
#
# $$\mu = \tfrac 1B \sum_n s_n \qquad v = \tfrac 1B \sum_n (s_n - \mu)^2 \qquad r = (v + \epsilon)^{-1/2} \qquad
# \hat s_n = r \, (s_n - \mu) \qquad y_n = \gamma \hat s_n + \beta$$
#
# Gain $\gamma$ and bias $\beta$ (R, 1) are learned; $\epsilon = 10^{-5}$ guards a row in which all examples agree.
# Backwards, given $d = \partial L / \partial y$ (R, B): $\gamma$ and $\beta$ serve all examples of a row and collect
# $d\gamma = \sum_n d_n \hat s_n$ and $d\beta = \sum_n d_n$; and $d\hat s = \gamma d$. One number $s_m$ now reaches the
# loss on three roads.
#
# **Directly**, in its own $\hat s_m$, with the slope $r$: back comes $r \, d\hat s_m$.
# **Through the mean**, which is in every $\hat s_n$ with the slope $-r$, and of which $s_m$ makes up $1/B$: back comes
# $-r \tfrac 1B \sum_n d\hat s_n = -r \, \mathrm{mean}(d\hat s)$. (The mean is in $v$ as well, but with the slope
# $-\tfrac 2B \sum_n (s_n - \mu) = 0$: a mean is where the mean square is least.)
# **Through the variance**: $\partial \hat s_n / \partial v = -\tfrac 12 (s_n - \mu)(v + \epsilon)^{-3/2} =
# -\tfrac 12 r^2 \hat s_n$ and $\partial v / \partial s_m = \tfrac 2B (s_m - \mu) = \tfrac 2B \hat s_m / r$. Multiplied,
# times $d\hat s_n$, summed over n: $-r \, \hat s_m \, \mathrm{mean}(d\hat s \odot \hat s)$. Altogether
#
# $$ds = \gamma r \, \big( d - \mathrm{mean}(d) - \hat s \odot \mathrm{mean}(d \odot \hat s) \big) \quad (R, B)$$


# %%
def normalize(s, gamma, beta, epsilon=1e-5):
    """s (R, B), gamma and beta (R, 1): y and s_hat (R, B), r (R, 1)."""
    centred = s - s.mean(axis=1, keepdims=True)
    r = ((centred * centred).mean(axis=1, keepdims=True) + epsilon) ** -0.5
    return gamma * (centred * r) + beta, centred * r, r


def normalize_back(d, s_hat, r, gamma):
    """dLoss/dy (R, B): dLoss/ds (R, B), dLoss/dgamma and dLoss/dbeta (R, 1)."""
    of_mean, of_variance = d.mean(axis=1, keepdims=True), (d * s_hat).mean(axis=1, keepdims=True)
    return gamma * r * (d - of_mean - s_hat * of_variance), d.shape[1] * of_variance, d.shape[1] * of_mean


rng = np.random.default_rng(0)
s, d, gamma, beta = (rng.standard_normal(shape) for shape in ((6, 8), (6, 8), (6, 1), (6, 1)))
y, s_hat, r = normalize(s, gamma, beta)
leaves = [Tensor(v) for v in (s, gamma, beta)]
batch_normalize(*leaves).backward(d)  # the tape differentiates the five equations
for name, leaf, own in zip(("s", "gamma", "beta"), leaves, normalize_back(d, s_hat, r, gamma), strict=True):
    check(f"d{name}: the three roads and the tape agree to 10 digits", np.allclose(own, leaf.grad, rtol=0, atol=1e-10))

# %% [markdown]
# ## What the two terms take away
#
# Add one number to all examples of a row: the mean takes it off again, y does not move, and no loss can ask for it. So
# the gradient has no part along (1, ..., 1), and $\mathrm{mean}(d)$ is that part. Stretch a row about its mean: the
# variance undoes it, and $\hat s \odot \mathrm{mean}(d \odot \hat s)$ is the part along $\hat s$. (But for $\epsilon$:
# the mean of $\hat s^2$ is $v / (v + \epsilon)$.) What is left is scaled by $\gamma r$, and r is 1 over the spread of
# the sums: the scale of the weights below does not change what comes out, and larger weights learn more slowly.

# %%
y, s_hat, r = normalize(s, gamma, beta, epsilon=0)
ds, (y_2, s_hat_2, r_2) = normalize_back(d, s_hat, r, gamma)[0], normalize(2 * s, gamma, beta, epsilon=0)
check("the gradient is orthogonal to (1, ..., 1)", np.abs(ds.sum(axis=1)).max() < 1e-12)
check("... and, as epsilon is 0 here, to s_hat", np.abs((ds * s_hat).sum(axis=1)).max() < 1e-12)
check("sums twice as large: the same y", np.allclose(y_2, y, rtol=0, atol=1e-12))
check("... and half the gradient", np.allclose(normalize_back(d, s_hat_2, r_2, gamma)[0], ds / 2, rtol=0, atol=1e-12))

# %% [markdown]
# ## In an LSTM
#
# With $BN(s; \gamma, \beta) = y$ as above, i, f, o from $\sigma$, g from tanh, and zoneout as in chapter 5:
#
# $$a_t = BN(W_x x_t; \gamma_x, 0) + BN(W_h h_{t-1}; \gamma_h, 0) + b \;\; (4H, B) \qquad
# \tilde c_t = f \odot c_{t-1} + i \odot g \qquad \tilde h_t = o \odot \tanh(BN(\tilde c_t; \gamma_c, \beta_c))$$
#
# Inputs and states are normalized apart, so that $\gamma_x$ and $\gamma_h$ (4H,) can weigh them; a bias for each would
# only repeat b. From $c_{t-1}$ to $c_t$ nothing is normalized: the road on which gradients travel far stays open.
# `minizone.bn_lstm` is the backward pass of chapter 4 with `normalize_back` at $\tilde c_t$ and at the two sums.

# %%
T, D, H, B = 5, 2, 3, 6
shapes = [(T, D, B), (H, B), (H, B), (4 * H, D), (4 * H, H), (4 * H,)]  # x, h0, c0, W_x, W_h, b
shapes += [(4 * H,), (4 * H,), (H,), (H,)]  # gamma_x, gamma_h, gamma_c, beta_c
values, keep = [rng.standard_normal(shape) for shape in shapes], (rng.random((2, T, H, B)) < 0.3).astype(float)
gradients = []
for function in (bn_lstm, bn_lstm_unrolled):
    leaves = [Tensor(value) for value in values]
    h, c = function(*leaves, keep_h=keep[0], keep_c=keep[1])
    (h * h + c).sum().backward()
    gradients.append([leaf.grad for leaf in leaves])
off = max(np.abs(a - b).max() / np.abs(b).max() for a, b in zip(*gradients, strict=True))
check("all ten gradients of bn_lstm are those of the tape, to 8 digits", off < 1e-8)

# %% [markdown]
# ## Why the gain starts at 0.1
#
# Take the network of their figure 1a, $h_t = \tanh(\gamma \, BN(h_{t-1} + W_x x_t))$. A step back multiplies a gradient
# by tanh', $\gamma$ and r. With a small gain the states have a spread of about $\gamma$, so r is about $1 / \gamma$,
# they cancel, and the slope of the tanh remains. The tanh is given $\gamma \hat s$, $\hat s$ of variance 1. So look at
# $\tanh'(\gamma z)$ for normal z: near 1 for $\gamma = 0.1$, far below for 1, where many units are saturated. `main`
# sets the mean slope to the power T beside the network itself. It names the danger, not the number: inputs add to the
# spread and lessen r, tanh takes from it and raises r. (Gains of 0.01 and less are unstable, say Cooijmans et al.)
#
# ## Statistics at test time
#
# An image that comes alone has no minibatch: it is its own mean, $\hat s = 0$, and all images get the same answer. At
# test time $\mu$ and v are therefore constants, those of the training set averaged over its minibatches: (T, 9H) for
# 9H rows to be normalized. Each step has its own: some pixels differ between images and some never do, and all start
# in one state and spread out. Averaging over time "severely degrades performance", they say. `main` trains a network
# on small digits (`paper`: the real one) and tests it with each kind. Two epochs, in `small`, hardly tell them apart.


# %%
def slopes(gamma: float) -> np.ndarray:
    """tanh'(gamma z) for 10,000 draws of z."""
    return 1 - np.tanh(gamma * stream(7, "slopes").standard_normal(10_000)) ** 2


def scores(experiment: PMNIST, pixels: np.ndarray, statistics: Statistics | None) -> np.ndarray:
    """Of the classes (10, B), for pixels (T, 1, B) in evaluation; statistics None: those of this very minibatch."""
    layer, x = experiment.model.rnn.layers[0], experiment.device.to_device(pixels)
    weights = (getattr(layer, name) for name in ("W_x", "W_h", "b", "gamma_x", "gamma_h", "gamma_c", "beta_c"))
    with no_grad():
        h, _ = bn_lstm(x, *layer.initial_state(x.shape[-1]), *weights, statistics=statistics)  # (T, H, B)
        return to_host(experiment.model.output(h[-1]).data)


def main(preset: Preset = "quick", device: DeviceName = "cpu") -> dict:
    """Gradients through time for some gains; a network trained, and tested with four kinds of statistics."""
    sizes = {"small": {"hidden_size": 20, "epochs": 2, "train_examples": 300}, "quick": {"epochs": 20}, "paper": {}}
    dataset = "mnist" if preset == "paper" else "digits"
    run = learn(PMNIST, preset, device, "bn", batch_normalization=True, dataset=dataset, **sizes[preset])
    experiment, images = run.experiment, run.experiment.data.test[:1000]
    experiment.reestimate()  # replaces the moving averages of training by the mean over the training set
    exact, pixels = experiment.model.rnn.layers[0].statistics, experiment.data.scaled(images)[:, experiment.order]
    pixels, (T, rows) = pixels.T[:, None], exact.mean.shape  # (T, 1, N), (T, 9H)
    averaged = Statistics(T, rows // 9, xp=experiment.device.xp)
    averaged.mean[...], averaged.variance[...] = exact.mean.mean(axis=0), exact.variance.mean(axis=0)
    kinds = {"minibatch": None, "training set": exact, "training set, averaged over time": averaged}
    answers = {kind: scores(experiment, pixels, statistics) for kind, statistics in kinds.items()}
    answers["image alone"] = np.hstack([scores(experiment, pixels[..., n : n + 1], None) for n in range(100)])
    errors = {kind: float((v.argmax(axis=0) != images.labels[: v.shape[1]]).mean()) for kind, v in answers.items()}
    for kind, error in errors.items():
        print(f"test error {error:.3f} with the statistics of the {kind}")
    check("by its own statistics each image has the same scores", np.ptp(answers["image alone"], axis=1).max() == 0)
    alone, among = scores(experiment, pixels[..., :1], exact), answers["training set"][:, :1]
    check("by those of the training set, alone is as among others", np.allclose(alone, among, atol=0.01))
    gains, grid, batch = (0.1, 0.3, 0.5, 1.0), np.linspace(0, 1, 51), experiment.batches(1)[0]
    norms = np.median([normalized_rnn_gradients(*batch, gains, 100, 0.1, seed) for seed in range(5)], axis=0)  # (4, T)
    low, high = np.transpose([np.percentile(slopes(gain), (25, 75)) for gain in grid])
    figure, axes = plt.subplots(1, 3, figsize=(11, 3))
    axes[0].plot(grid, [slopes(gain).mean() for gain in grid])
    axes[0].fill_between(grid, low, high, alpha=0.3)
    for gain, norm in zip(gains, norms, strict=True):
        print(f"gain {gain}: {T} mean slopes make {slopes(gain).mean() ** T:.0e}, measured {norm[0] / norm[-1]:.0e}")
        axes[1].semilogy(range(1, T + 1), norm, label=f"{gain}")
    for name, part in zip(("$W_x x_t$", "$W_h h_{t-1}$", r"$\tilde c_t$"), parts(rows // 9), strict=True):
        axes[2].semilogy(range(1, T + 1), to_host(exact.variance[:, part]).mean(axis=1), label=name)
    axes[0].set(title=r"$\tanh'(\gamma z)$: mean, middle half", xlabel=r"gain $\gamma$", ylim=(0, 1.05))
    axes[1].set(title=r"$|\partial L / \partial h_t|$ before training", xlabel="time step t")
    axes[2].set(title="variances, mean of their rows", xlabel="time step t", ylim=(1e-6, 10))
    axes[1].legend(title=r"gain $\gamma$")
    axes[2].legend(ncols=3, loc="upper center")
    check("gain 0.1 keeps 98 % of the slope, 1 at most 2/3", slopes(0.1).mean() > 0.98 and slopes(1).mean() < 2 / 3)
    check("gradient kept: 100 x more at 0.1 than at 1", norms[0, 0] / norms[0, -1] > 100 * norms[3, 0] / norms[3, -1])
    save(figure, "07_batch_normalization")
    return {"errors": errors, "gains": gains, "norms": norms.tolist()}


# %%
if __name__ == "__main__":
    shared.run(main)

# %% [markdown]
# ## Exercises
#
# 1. A minibatch of two, $\epsilon = 0$: what is $\hat s$, whatever s is? What must `normalize_back` give, and does it?
# 2. Leave out the road through the mean. Which checks fail, and what does a row of the gradient sum to?
# 3. Test with the moving averages: leave `reestimate` out. How far are they behind after 1 epoch, and after 20?
