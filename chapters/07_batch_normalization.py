# %% [markdown]
# # 7. Recurrent batch normalization
#
# **Claim.** Batch normalization replaces a number by its position in the minibatch: how many standard deviations it
# lies from the mean. Its gradient is the plain one minus its components along (1, ..., 1) and along the result. In a
# recurrent network it works when the gain starts at 0.1 and every time step has statistics of its own.
#
# Paper: section 4.3, table 2, after Cooijmans et al. (2017), *Recurrent Batch Normalization*. Its test error is 0.046,
# with zoneout 0.041: `python run.py pmnist --preset paper --batch-normalization`. For zoneout append
# `--z-prob-cells 0.15 --z-prob-states 0.15 --share-mask`.

# %%
import copy

import shared  # finds minizone
import matplotlib.pyplot as plt
import numpy as np
from shared import DeviceName, Preset, check, learn, save

from minizone import Tensor, bn_lstm, no_grad
from minizone.backend import stream, to_host
from minizone.experiments.gradients import normalized_rnn_gradients
from minizone.experiments.pmnist import PMNIST
from minizone.recurrent.cells import batch_normalize, bn_lstm_unrolled

# %% [markdown]
# ## Forward
#
# Let $s$ (R, B) be an array with a row for each of R units and a column for each of the B examples of a minibatch. Each
# row is normalized by itself. $s_n$ (R, 1) is column n, and $\sum_n$ is the sum over the examples.
#
# First the mean $\mu$ and the variance $v$ of each row, both (R, 1):
#
# $$\mu = \frac 1B \sum_n s_n$$
#
# $$v = \frac 1B \sum_n (s_n - \mu)^2$$
#
# Then the normalized rows $\hat s$ (R, B), which have mean 0 and variance 1:
#
# $$r = (v + \epsilon)^{-1/2}$$
#
# $$\hat s_n = r \odot (s_n - \mu)$$
#
# The small number $\epsilon = 10^{-5}$ prevents a division by 0 in a row in which all examples are equal. Finally, a
# gain $\gamma$ and a bias $\beta$, both (R, 1) and learned, set a new scale and a new mean:
#
# $$y_n = \gamma \odot \hat s_n + \beta$$


# %%
def normalize(s, gamma, beta, epsilon=1e-5):
    """s (R, B), gamma and beta (R, 1): y and s_hat (R, B), r (R, 1)."""
    centered = s - s.mean(axis=1, keepdims=True)  # (R, B)
    variance = (centered * centered).mean(axis=1, keepdims=True)  # (R, 1)
    r = (variance + epsilon) ** -0.5
    s_hat = centered * r
    return gamma * s_hat + beta, s_hat, r


# %% [markdown]
# ## Backward: three paths
#
# Given is the gradient $dy$ (R, B) of the loss L with respect to $y$. We want the gradients of $\gamma$, $\beta$
# and $s$. The gain and the bias serve all examples of a row, so their gradients are sums over the examples:
#
# $$d\gamma = \sum_n dy_n \odot \hat s_n$$
#
# $$d\beta = \sum_n dy_n$$
#
# The gradient of $\hat s$ is $d\hat s = \gamma \odot dy$ (R, B). Now take one row, so that all symbols are numbers. The
# number $s_m$ of example m reaches the loss on three paths.
#
# **1. Directly.** $s_m$ is in its own $\hat s_m$, with the slope $r$. This path gives
#
# $$r \, d\hat s_m$$
#
# **2. Through the mean.** $s_m$ changes the mean by $1/B$ of its own change, and the mean is in each $\hat s_n$ with
# the slope $-r$. This path gives
#
# $$-r \, \frac 1B \sum_n d\hat s_n = -r \, \mathrm{mean}(d\hat s)$$
#
# **3. Through the variance.** Two slopes are multiplied, that of the variance by $s_m$ and that of $\hat s_n$ by the
# variance:
#
# $$\frac{\partial v}{\partial s_m} = \frac 2B (s_m - \mu) = \frac 2B \, \frac{\hat s_m}{r}$$
#
# $$\frac{\partial \hat s_n}{\partial v} = -\frac 12 (s_n - \mu)(v + \epsilon)^{-3/2} = -\frac 12 \, r^2 \hat s_n$$
#
# Their product, times $d\hat s_n$ and summed over n, is the contribution of this path:
#
# $$-r \, \hat s_m \, \mathrm{mean}(d\hat s \odot \hat s)$$
#
# The mean is in the variance as well. But there its slope is $-\frac 2B \sum_n (s_n - \mu) = 0$, so this adds nothing.
#
# The three paths together, with $\gamma$ in front, are
#
# $$ds = \gamma \odot r \odot \big( dy - \mathrm{mean}(dy) - \hat s \odot \mathrm{mean}(dy \odot \hat s) \big)$$


# %%
def normalize_back(dy, s_hat, r, gamma):
    """From dLoss/dy (R, B): dLoss/ds (R, B), dLoss/dgamma and dLoss/dbeta (R, 1)."""
    B = dy.shape[1]
    mean_dy = dy.mean(axis=1, keepdims=True)  # (R, 1)
    mean_dy_s = (dy * s_hat).mean(axis=1, keepdims=True)  # (R, 1)
    ds = gamma * r * (dy - mean_dy - s_hat * mean_dy_s)
    return ds, B * mean_dy_s, B * mean_dy


# %% [markdown]
# The tape of minizone (chapter 2) differentiates the equations of the forward pass one by one. It must give the same
# gradients.

# %%
R, B = 6, 8
rng = np.random.default_rng(0)
s = rng.standard_normal((R, B))
dy = rng.standard_normal((R, B))
gamma = rng.standard_normal((R, 1))
beta = rng.standard_normal((R, 1))

y, s_hat, r = normalize(s, gamma, beta)
ds, dgamma, dbeta = normalize_back(dy, s_hat, r, gamma)
s_leaf, gamma_leaf, beta_leaf = Tensor(s), Tensor(gamma), Tensor(beta)
batch_normalize(s_leaf, gamma_leaf, beta_leaf).backward(dy)
check("ds: the three paths and the tape agree to 10 digits", np.allclose(ds, s_leaf.grad, rtol=0, atol=1e-10))
check("dgamma: the formula and the tape agree to 10 digits", np.allclose(dgamma, gamma_leaf.grad, rtol=0, atol=1e-10))
check("dbeta: the formula and the tape agree to 10 digits", np.allclose(dbeta, beta_leaf.grad, rtol=0, atol=1e-10))

# %% [markdown]
# ## What the two terms remove
#
# Add one number to all examples of a row. The mean removes it again, and y does not change. So the gradient has no part
# along (1, ..., 1): the term $\mathrm{mean}(dy)$ removes it.
#
# Multiply the distances of a row from its mean by one number. The variance removes this as well. So the gradient has no
# part along $\hat s$: the term $\hat s \odot \mathrm{mean}(dy \odot \hat s)$ removes it. This is exact for
# $\epsilon = 0$.

# %%
y, s_hat, r = normalize(s, gamma, beta, epsilon=0)
ds, _, _ = normalize_back(dy, s_hat, r, gamma)
check("the gradient is orthogonal to (1, ..., 1)", np.abs(ds.sum(axis=1)).max() < 1e-12)
check("with epsilon = 0 it is orthogonal to s_hat", np.abs((ds * s_hat).sum(axis=1)).max() < 1e-12)

# %% [markdown]
# The rest is multiplied by $\gamma r$, and $r$ is 1 over the standard deviation of the row. Suppose that $s$ is a
# product of weights and inputs. Then weights of twice the size give the same output and get half the gradient.

# %%
y_double, s_hat_double, r_double = normalize(2 * s, gamma, beta, epsilon=0)
ds_double, _, _ = normalize_back(dy, s_hat_double, r_double, gamma)
check("sums twice as large give the same y", np.allclose(y_double, y, rtol=0, atol=1e-12))
check("sums twice as large get half the gradient", np.allclose(ds_double, ds / 2, rtol=0, atol=1e-12))

# %% [markdown]
# ## In an LSTM
#
# Write $BN(s; \gamma, \beta)$ for the y above. An LSTM has T time steps, D inputs and H hidden units. At step t it
# reads $x_t$ (D, B), and it has the hidden state $h_{t-1}$ (H, B) and the cells $c_{t-1}$ (H, B). The weights are $W_x$
# (4H, D), $W_h$ (4H, H) and $b$ (4H,), which is added to every column. The sums $a_t$ (4H, B) of the gates are
#
# $$a_t = BN(W_x x_t; \gamma_x, 0) + BN(W_h h_{t-1}; \gamma_h, 0) + b$$
#
# Inputs and states are normalized separately, so each has a gain of its own, $\gamma_x$ and $\gamma_h$ (4H,). Neither
# needs a bias, because $b$ is there. The gates i, f, o are sigmoids of their rows of $a_t$, and g is a tanh. The
# candidates for the next states, all (H, B), are
#
# $$\tilde c_t = f \odot c_{t-1} + i \odot g$$
#
# $$\tilde h_t = o \odot \tanh(BN(\tilde c_t; \gamma_c, \beta_c))$$
#
# Zoneout mixes them with the old states, as in chapter 5. The step from $c_{t-1}$ to $c_t$ is not normalized, so
# gradients can still travel far along the cell.
#
# `minizone.bn_lstm` has the backward pass of chapter 4, with `normalize_back` in three places: at $\tilde c_t$ and at
# the two products. We compare it with the tape, with zoneout of both states.

# %%
T, D, H, B = 5, 2, 3, 6
SHAPES = {
    "x": (T, D, B),
    "h0": (H, B),
    "c0": (H, B),
    "W_x": (4 * H, D),
    "W_h": (4 * H, H),
    "b": (4 * H,),
    "gamma_x": (4 * H,),
    "gamma_h": (4 * H,),
    "gamma_c": (H,),
    "beta_c": (H,),
}
values = [rng.standard_normal(shape) for shape in SHAPES.values()]
keep_h, keep_c = (rng.random((2, T, H, B)) < 0.3).astype(float)  # (T, H, B) each


# %%
def gradients(function) -> list[np.ndarray]:
    """dLoss/d(each argument) for Loss = sum(h * h + c)."""
    leaves = [Tensor(value) for value in values]
    h, c = function(*leaves, keep_h=keep_h, keep_c=keep_c)
    (h * h + c).sum().backward()
    return [leaf.grad for leaf in leaves]


errors = []
for ours, reference in zip(gradients(bn_lstm), gradients(bn_lstm_unrolled), strict=True):
    errors.append(np.abs(ours - reference).max() / np.abs(reference).max())
check("all ten gradients of bn_lstm are those of the tape, to 8 digits", max(errors) < 1e-8)

# %% [markdown]
# ## Why the gain starts at 0.1
#
# A sum that is normalized with a gain of 1 has a standard deviation of 1. This is large for a tanh: many units are near
# -1 or 1, where the slope of the tanh is small. A gradient that is multiplied by small slopes at every step vanishes.
#
# Let $z$ be a normal random number, like an element of $\hat s$. The slope of the tanh is then $\tanh'(\gamma z)$.


# %%
def slopes(gain: float) -> np.ndarray:
    """tanh'(gain * z) for 10,000 draws of a normal z."""
    z = stream(7, "slopes").standard_normal(10_000)
    return 1 - np.tanh(gain * z) ** 2


check("a gain of 0.1 keeps 98 % of the slope", slopes(0.1).mean() > 0.98)
check("a gain of 1 keeps at most 2/3", slopes(1).mean() < 2 / 3)

# %% [markdown]
# The slope is not the only factor. One step back also multiplies the gradient by $\gamma r$. With a small gain the
# states have a standard deviation of about $\gamma$, so $r$ is about $1 / \gamma$, and the two cancel. With a larger
# gain they do not cancel exactly. So we measure the gradient in a network, that of figure 1a of Cooijmans et al.:
#
# $$h_t = \tanh(\gamma \, BN(h_{t-1} + W_x x_t; 1, 0))$$
#
# It reads an image of a digit pixel by pixel, in a fixed random order (chapter 8). The loss is the cross-entropy of ten
# scores of the last state, and the initial states are random, with the standard deviation `noise`. The function below
# gives the norm of $\partial L / \partial h_t$ at each step, for four gains. Cooijmans et al. add that gains of 0.01
# and less are unstable.

# %%
GAINS = (0.1, 0.3, 0.5, 1.0)


def gradients_over_time(experiment: PMNIST) -> np.ndarray:
    """Norms of dLoss/dh_t before training (gains, T), the median of five seeds."""
    pixels, labels = experiment.batches(1)[0]
    norms = []
    for seed in range(5):
        norms.append(normalized_rnn_gradients(pixels, labels, GAINS, hidden_size=100, noise=0.1, seed=seed))
    return np.median(norms, axis=0)


# %% [markdown]
# ## Statistics at test time
#
# In training, the statistics $\mu$ and $v$ are those of the minibatch. At test time an image may come alone. It is then
# its own mean, so $\hat s = 0$, and all images get the same answer. So at test time $\mu$ and $v$ are constants: the
# mean of the statistics of some minibatches of the training set. minizone computes it before each validation
# (`reestimate`), from the first `statistics_batches` minibatches. During training it only keeps moving averages, which
# lag behind the weights.
#
# Each time step has statistics of its own. There are two reasons. First, the network of this chapter reads an image
# pixel by pixel. A pixel in the middle differs from image to image, and a pixel at the left edge is nearly always
# blank. Second, all sequences start in the same state and then become different. With statistics that are averaged over
# time, the performance is "severely degraded", say Cooijmans et al.
#
# To measure this, `scores` runs a trained network with given statistics.


# %%
def scores(experiment: PMNIST, pixels: np.ndarray, statistics) -> np.ndarray:
    """Scores of the classes (10, B) in evaluation, for pixels (T, 1, B).

    ``statistics`` are those of `minizone.bn_lstm`; None: those of this minibatch.
    """
    layer = experiment.model.rnn.layers[0]
    x = experiment.device.to_device(pixels)
    h0, c0 = layer.initial_state(x.shape[-1])
    gains = (layer.gamma_x, layer.gamma_h, layer.gamma_c, layer.beta_c)
    with no_grad():
        h, _ = bn_lstm(x, h0, c0, layer.W_x, layer.W_h, layer.b, *gains, statistics=statistics)  # (T, H, B)
        return to_host(experiment.model.output(h[-1]).data)


def averaged_over_time(statistics):
    """A copy in which all time steps have the same mean and variance."""
    averaged = copy.deepcopy(statistics)
    averaged.mean[...] = statistics.mean.mean(axis=0)
    averaged.variance[...] = statistics.variance.mean(axis=0)
    return averaged


# %% [markdown]
# We compare four kinds of statistics: those of the minibatch of test images, those of the training set for each step,
# the same averaged over time, and those of each image alone.


# %%
def scores_by_statistics(experiment: PMNIST, pixels: np.ndarray) -> dict[str, np.ndarray]:
    """Scores (10, N) with four kinds of statistics, for pixels (T, 1, N); for "image alone" those of 100 images."""
    exact = experiment.model.rnn.layers[0].statistics
    alone = [scores(experiment, pixels[..., n : n + 1], None) for n in range(100)]  # (10, 1) each
    answers = {
        "minibatch": scores(experiment, pixels, None),
        "training set": scores(experiment, pixels, exact),
        "training set, averaged over time": scores(experiment, pixels, averaged_over_time(exact)),
        "image alone": np.hstack(alone),
    }

    spread = np.ptp(answers["image alone"], axis=1)  # (10,)
    check("with its own statistics all images get the same scores", spread.max() == 0)
    first_alone = scores(experiment, pixels[..., :1], exact)
    same = np.allclose(first_alone, answers["training set"][:, :1], atol=0.01)
    check("with those of the training set, an image alone gets the same scores as among others", same)
    return answers


# %% [markdown]
# The standard error of an error rate $e$ on $N$ images is $\sqrt{e (1 - e) / N}$.


# %%
def errors_by_statistics(experiment: PMNIST) -> tuple[dict[str, float], dict[str, float]]:
    """The test errors with four kinds of statistics, and their standard errors."""
    images = experiment.data.test[:1000]
    pixels = experiment.data.scaled(images)[:, experiment.order].T[:, None]  # (T, 1, N)
    errors, deviations = {}, {}
    for kind, answer in scores_by_statistics(experiment, pixels).items():
        N = answer.shape[1]
        wrong = answer.argmax(axis=0) != images.labels[:N]
        e = float(wrong.mean())
        errors[kind] = e
        deviations[kind] = (e * (1 - e) / N) ** 0.5
        print(f"test error {e:.3f} +- {deviations[kind]:.3f} with the statistics of the {kind}")
    return errors, deviations


# %% [markdown]
# ## The figure
#
# The upper panels are about the gain, the lower ones about the statistics.


# %%
def draw_gains(slope: plt.Axes, gradient: plt.Axes, norms: np.ndarray) -> None:
    """The slope of the tanh for each gain, and the gradients (gains, T) over time."""
    grid = np.linspace(0, 1, 51)
    quartiles = np.array([np.percentile(slopes(gain), (25, 75)) for gain in grid])  # (51, 2)
    slope.plot(grid, [slopes(gain).mean() for gain in grid], label="mean")
    slope.fill_between(grid, quartiles[:, 0], quartiles[:, 1], alpha=0.3, label="middle half of the draws")
    slope.set(title=r"slope of the tanh, $\tanh'(\gamma z)$", xlabel=r"gain $\gamma$", ylabel="slope", ylim=(0, 1.05))
    slope.legend(loc="lower left")

    T = norms.shape[1]
    for gain, norm in zip(GAINS, norms, strict=True):
        gradient.semilogy(range(1, T + 1), norm, label=f"{gain}")
    gradient.set(title="gradient over time, before training", xlabel="time step t")
    gradient.set_ylabel(r"norm of $\partial L / \partial h_t$")
    gradient.legend(title=r"gain $\gamma$", loc="center left", bbox_to_anchor=(1, 0.5))


# %% [markdown]
# Variances are drawn down to $10^{-6}$. Smaller ones, of pixels that are blank in every image, are drawn as crosses at
# the lower edge.


# %%
def draw_variances(axis: plt.Axes, experiment: PMNIST) -> None:
    """The population variances of each time step, each the mean over its rows."""
    variance = to_host(experiment.model.rnn.layers[0].statistics.variance)  # (T, 9H)
    H = variance.shape[1] // 9
    steps = np.arange(1, len(variance) + 1)
    of_inputs = variance[:, : 4 * H].mean(axis=1)  # (T,)
    blank = of_inputs < 1e-6
    axis.semilogy(steps[~blank], of_inputs[~blank], "o", ms=3, label="$W_x x_t$")
    axis.plot(steps[blank], np.full(blank.sum(), 1e-6), "x", color="C0", clip_on=False, label="$W_x x_t$, blank pixel")
    axis.semilogy(steps[1:], variance[1:, 4 * H : 8 * H].mean(axis=1), color="C1", label="$W_h h_{t-1}$")
    axis.semilogy(steps, variance[:, 8 * H :].mean(axis=1), color="C2", label=r"$\tilde c_t$")
    axis.set(title="variance at each step, after training", xlabel="time step t", ylabel="variance", ylim=(1e-6, 1))
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))


# %%
def draw(norms: np.ndarray, experiment: PMNIST, errors: dict[str, float], deviations: dict[str, float]) -> None:
    figure, axes = plt.subplots(2, 2, figsize=(10, 6), width_ratios=[1, 1.2])
    draw_gains(axes[0, 0], axes[0, 1], norms)
    draw_variances(axes[1, 1], experiment)
    kinds = [kind.replace(", ", ",\n") for kind in errors]
    axes[1, 0].barh(kinds, errors.values(), xerr=list(deviations.values()), capsize=3)
    axes[1, 0].invert_yaxis()
    axes[1, 0].set(title="test error by kind of statistics", xlabel="error rate, with its standard error", xlim=(0, 1))
    save(figure, "07_batch_normalization")


# %% [markdown]
# `main` trains a network on small digits (preset `paper`: on MNIST). The two epochs of preset `small` are too few to
# show a difference between the statistics.

# %%
SIZES = {
    "small": {"dataset": "digits", "hidden_size": 20, "epochs": 2, "train_examples": 300},
    "quick": {"dataset": "digits", "epochs": 20},
    "paper": {"dataset": "mnist"},
}


# %%
def main(preset: Preset = "quick", device: DeviceName = "cpu") -> dict:
    """A network trained, and tested with four kinds of statistics; gradients through time for some gains."""
    run = learn(PMNIST, preset, device, "bn", batch_normalization=True, **SIZES[preset])
    errors, deviations = errors_by_statistics(run.experiment)

    norms = gradients_over_time(run.experiment)  # (gains, T)
    kept = norms[:, 0] / norms[:, -1]  # (gains,): the gradient of the first step, divided by that of the last
    for gain, ratio in zip(GAINS, kept, strict=True):
        print(
            f"gain {gain}: mean slope {slopes(gain).mean():.2f}, gradient of the first step / of the last {ratio:.2g}"
        )
    check("at a gain of 0.1, 100 times more gradient is left than at 1", kept[0] > 100 * kept[-1])
    draw(norms, run.experiment, errors, deviations)
    return {"errors": errors, "gains": GAINS, "norms": norms.tolist()}


# %%
if __name__ == "__main__":
    shared.run(main)

# %% [markdown]
# ## In the figure
#
# Above: with a gain of 1 the slope of the tanh is 0.6 on average. The gradient of the first steps is then many orders
# of magnitude smaller than that of the last step. In the first 15 steps it grows a little on its way back, but it stays
# small. With gains up to 0.5 it does not vanish.
#
# Below left: with statistics that are averaged over time most answers are wrong. With those of an image alone, all
# images get the same answer.
#
# Below right: the variances of the training set. That of $W_x x_t$ is the variance of the pixel that is read at step t,
# times a constant. A pixel inside the image gives about 0.1. A pixel at the left or right edge, which hardly ever has
# ink, gives much less. The fixed order of the pixels distributes them over all steps. The variance of $\tilde c_t$
# grows during the first 15 steps, as the examples become different. That of $W_h h_{t-1}$ is nearly constant. At step 1
# it is missing, because all examples start in the same state.
#
# ## What to take away
#
# - The gradient of batch normalization has no part that the mean or the variance would remove again.
# - A gain of 0.1 keeps the sums where the slope of the tanh is close to 1.
# - Mean and variance are kept for each time step. At test time they are constants, from the training set.
#
# ## Exercises
#
# 1. Take a minibatch of two and $\epsilon = 0$. What is $\hat s$, whatever s is? What must `normalize_back` give?
# 2. Leave out the path through the mean. Which checks fail, and what does a row of the gradient sum to?
# 3. The statistics of validation do not change the training. So take one trained network, and compare its validation
#    errors with statistics from 20 minibatches, from 1 minibatch (`statistics_batches`), and with moving averages (a
#    `PMNIST` whose `reestimate` does nothing). Do it after 1 epoch and after 16.
