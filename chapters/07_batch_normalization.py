# %% [markdown]
# # 7. Recurrent batch normalization
#
# **Claim.** Batch normalization replaces a number by its position in the minibatch: how many standard deviations it
# lies from the mean. Its gradient is the plain one minus two parts, which the mean and the variance take away. In a
# recurrent network it works when the gain starts at 0.1 and every time step has statistics of its own.
#
# Paper: section 4.3, table 2, after Cooijmans et al. (2017), *Recurrent Batch Normalization*. Its test error is 0.046,
# with zoneout 0.041: `python run.py pmnist --preset paper --batch-normalization`, and for zoneout
# `--z-prob-cells 0.15 --z-prob-states 0.15 --share-mask` behind it.

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
# Let $s$ (R, B) be R rows of sums, with a column for each of the B examples of a minibatch. Each row is normalized by
# itself. With sums over the columns n:
#
# $$\mu = \tfrac 1B \sum_n s_n \qquad v = \tfrac 1B \sum_n (s_n - \mu)^2 \qquad r = (v + \epsilon)^{-1/2} \qquad
# \hat s_n = r \, (s_n - \mu) \qquad y_n = \gamma \hat s_n + \beta$$
#
# The gain $\gamma$ and the bias $\beta$ (R, 1) are learned. The small number $\epsilon = 10^{-5}$ prevents a division
# by 0 in a row in which all examples are equal.
#
# ## Backward: three paths
#
# Given is $d = \partial L / \partial y$ (R, B). The gain and the bias serve all examples of a row, so
# $d\gamma = \sum_n d_n \hat s_n$ and $d\beta = \sum_n d_n$. Further $d\hat s = \gamma d$. Now one number $s_m$ reaches
# the loss on three paths.
#
# **Directly**, in its own $\hat s_m$. The slope is $r$, so this path gives $r \, d\hat s_m$.
#
# **Through the mean**, which is in every $\hat s_n$ with the slope $-r$. The share of $s_m$ in the mean is $1/B$. This
# path gives $-r \tfrac 1B \sum_n d\hat s_n = -r \, \mathrm{mean}(d\hat s)$. (The mean is in $v$ as well, but the slope
# there is $-\tfrac 2B \sum_n (s_n - \mu) = 0$.)
#
# **Through the variance.** Its slope in $\hat s_n$ is
# $\partial \hat s_n / \partial v = -\tfrac 12 (s_n - \mu)(v + \epsilon)^{-3/2} = -\tfrac 12 r^2 \hat s_n$, and
# $\partial v / \partial s_m = \tfrac 2B (s_m - \mu) = \tfrac 2B \hat s_m / r$. The product of both, times $d\hat s_n$
# and summed over n, is $-r \, \hat s_m \, \mathrm{mean}(d\hat s \odot \hat s)$.
#
# Altogether
#
# $$ds = \gamma r \, \big( d - \mathrm{mean}(d) - \hat s \odot \mathrm{mean}(d \odot \hat s) \big) \quad (R, B)$$


# %%
def normalize(s, gamma, beta, epsilon=1e-5):
    """s (R, B), gamma and beta (R, 1): y and s_hat (R, B), r (R, 1)."""
    centred = s - s.mean(axis=1, keepdims=True)  # (R, B)
    variance = (centred * centred).mean(axis=1, keepdims=True)  # (R, 1)
    r = (variance + epsilon) ** -0.5
    s_hat = centred * r
    return gamma * s_hat + beta, s_hat, r


def normalize_back(d, s_hat, r, gamma):
    """From dLoss/dy (R, B): dLoss/ds (R, B), dLoss/dgamma and dLoss/dbeta (R, 1)."""
    B = d.shape[1]
    mean_d = d.mean(axis=1, keepdims=True)  # (R, 1)
    mean_d_s = (d * s_hat).mean(axis=1, keepdims=True)  # (R, 1)
    ds = gamma * r * (d - mean_d - s_hat * mean_d_s)
    return ds, B * mean_d_s, B * mean_d


# %% [markdown]
# The tape of minizone differentiates the five equations one by one. It must give the same.

# %%
R, B = 6, 8
rng = np.random.default_rng(0)
s = rng.standard_normal((R, B))
d = rng.standard_normal((R, B))
gamma = rng.standard_normal((R, 1))
beta = rng.standard_normal((R, 1))

y, s_hat, r = normalize(s, gamma, beta)
ds, dgamma, dbeta = normalize_back(d, s_hat, r, gamma)
s_leaf, gamma_leaf, beta_leaf = Tensor(s), Tensor(gamma), Tensor(beta)
batch_normalize(s_leaf, gamma_leaf, beta_leaf).backward(d)
check("ds: the three paths and the tape agree to 10 digits", np.allclose(ds, s_leaf.grad, rtol=0, atol=1e-10))
check("dgamma: the formula and the tape agree to 10 digits", np.allclose(dgamma, gamma_leaf.grad, rtol=0, atol=1e-10))
check("dbeta: the formula and the tape agree to 10 digits", np.allclose(dbeta, beta_leaf.grad, rtol=0, atol=1e-10))

# %% [markdown]
# ## What the two terms take away
#
# Add one number to all examples of a row. The mean takes it off again, and y does not change. So no gradient can exist
# along (1, ..., 1). The term $\mathrm{mean}(d)$ removes exactly that part.
#
# Stretch a row about its mean. The variance undoes it. So the gradient along $\hat s$ vanishes too, and the term
# $\hat s \odot \mathrm{mean}(d \odot \hat s)$ removes it. (This is exact for $\epsilon = 0$.)
#
# What is left is multiplied by $\gamma r$, where r is 1 over the standard deviation of the sums. So the scale of the
# weights below does not change the output, and larger weights get a smaller gradient.

# %%
_, s_hat, r = normalize(s, gamma, beta, epsilon=0)
ds, _, _ = normalize_back(d, s_hat, r, gamma)
check("the gradient is orthogonal to (1, ..., 1)", np.abs(ds.sum(axis=1)).max() < 1e-12)
check("with epsilon = 0 it is orthogonal to s_hat", np.abs((ds * s_hat).sum(axis=1)).max() < 1e-12)

y, _, _ = normalize(s, gamma, beta, epsilon=0)
y_double, s_hat_double, r_double = normalize(2 * s, gamma, beta, epsilon=0)
ds_double, _, _ = normalize_back(d, s_hat_double, r_double, gamma)
check("sums twice as large give the same y", np.allclose(y_double, y, rtol=0, atol=1e-12))
check("sums twice as large get half the gradient", np.allclose(ds_double, ds / 2, rtol=0, atol=1e-12))

# %% [markdown]
# ## In an LSTM
#
# Write $BN(s; \gamma, \beta) = y$ for the equations above. The gates i, f, o are sigmoids of their rows of $a_t$, and g
# is a tanh. Zoneout is as in chapter 5.
#
# $$a_t = BN(W_x x_t; \gamma_x, 0) + BN(W_h h_{t-1}; \gamma_h, 0) + b \;\; (4H, B) \qquad
# \tilde c_t = f \odot c_{t-1} + i \odot g \qquad \tilde h_t = o \odot \tanh(BN(\tilde c_t; \gamma_c, \beta_c))$$
#
# Inputs and states are normalized separately, so each has its own gain, $\gamma_x$ and $\gamma_h$ (4H,). Neither needs
# a bias, because $b$ is there. The step from $c_{t-1}$ to $c_t$ is not normalized, so gradients can still travel far
# along the cell. `minizone.bn_lstm` (`minizone/recurrent/bn_lstm.py`) is the backward pass of chapter 4, with
# `normalize_back` at $\tilde c_t$ and at the two products.

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
# Take the network of figure 1a of Cooijmans et al., $h_t = \tanh(\gamma \, BN(h_{t-1} + W_x x_t))$. A step back
# multiplies a gradient by the slope of the tanh, by $\gamma$ and by r. With a small gain the states have a standard
# deviation of about $\gamma$. Then r is about $1 / \gamma$, the two cancel, and the slope of the tanh is left.
#
# The argument of the tanh is $\gamma \hat s$, where $\hat s$ has variance 1. So look at $\tanh'(\gamma z)$ for normal
# z. It is near 1 for $\gamma = 0.1$. For $\gamma = 1$ it is far below 1, because many units are saturated.
#
# `main` compares the mean slope, to the power T, with the gradient of the network itself. The two need not be equal:
# the inputs make r smaller, and the tanh makes it larger. (Gains of 0.01 and less are unstable, say Cooijmans et al.)


# %%
def slopes(gain: float) -> np.ndarray:
    """tanh'(gain * z) for 10,000 draws of a normal z."""
    z = stream(7, "slopes").standard_normal(10_000)
    return 1 - np.tanh(gain * z) ** 2


check("a gain of 0.1 keeps 98 % of the slope", slopes(0.1).mean() > 0.98)
check("a gain of 1 keeps at most 2/3", slopes(1).mean() < 2 / 3)

# %% [markdown]
# ## Statistics at test time
#
# An image that comes alone is its own mean: $\hat s = 0$, and all images get the same answer. So at test time $\mu$ and
# v are constants: the mean of the statistics of some minibatches of the training set, (T, 9H), for 4H rows of
# $W_x x_t$, 4H rows of $W_h h_{t-1}$ and H rows of $\tilde c_t$.
#
# Each time step has statistics of its own. Some pixels differ between images and some never do. And all sequences
# start in one state and spread out from there. Averaging over time "severely degrades performance", say Cooijmans et
# al. `main` trains a network on small digits (preset `paper`: on MNIST) and tests it with each kind of statistics. The
# two epochs of preset `small` are too few to show the difference.


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


# %%
def errors_by_statistics(experiment: PMNIST) -> dict[str, float]:
    """Test errors of a trained network with four kinds of statistics."""
    images = experiment.data.test[:1000]
    pixels = experiment.data.scaled(images)[:, experiment.order].T[:, None]  # (T, 1, N)
    exact = experiment.model.rnn.layers[0].statistics
    answers = {
        "minibatch": scores(experiment, pixels, None),  # (10, N)
        "training set": scores(experiment, pixels, exact),
        "training set, averaged over time": scores(experiment, pixels, averaged_over_time(exact)),
    }
    alone = [scores(experiment, pixels[..., n : n + 1], None) for n in range(100)]  # (10, 1) each
    answers["image alone"] = np.hstack(alone)

    errors = {}
    for kind, answer in answers.items():
        wrong = answer.argmax(axis=0) != images.labels[: answer.shape[1]]
        errors[kind] = float(wrong.mean())
        print(f"test error {errors[kind]:.3f} with the statistics of the {kind}")

    spread = np.ptp(answers["image alone"], axis=1)  # (10,)
    check("with its own statistics each image gets the same scores", spread.max() == 0)
    first_alone = scores(experiment, pixels[..., :1], exact)
    first_among_others = answers["training set"][:, :1]
    same = np.allclose(first_alone, first_among_others, atol=0.01)
    check("with those of the training set, an image alone gets the same scores as among others", same)
    return errors


# %%
GAINS = (0.1, 0.3, 0.5, 1.0)


def gradients_over_time(experiment: PMNIST) -> np.ndarray:
    """Norms of dLoss/dh_t before training (gains, T), the median of five seeds."""
    pixels, labels = experiment.batches(1)[0]
    norms = []
    for seed in range(5):
        norms.append(normalized_rnn_gradients(pixels, labels, GAINS, hidden_size=100, noise=0.1, seed=seed))
    return np.median(norms, axis=0)


SIZES = {
    "small": {"dataset": "digits", "hidden_size": 20, "epochs": 2, "train_examples": 300},
    "quick": {"dataset": "digits", "epochs": 20},
    "paper": {"dataset": "mnist"},
}


def main(preset: Preset = "quick", device: DeviceName = "cpu") -> dict:
    """A network trained, and tested with four kinds of statistics; gradients through time for some gains."""
    run = learn(PMNIST, preset, device, "bn", batch_normalization=True, **SIZES[preset])
    experiment = run.experiment
    errors = errors_by_statistics(experiment)

    norms = gradients_over_time(experiment)  # (gains, T)
    kept = norms[:, 0] / norms[:, -1]  # (gains,): what is left of the gradient at the first step
    T = norms.shape[1]
    for gain, measured in zip(GAINS, kept, strict=True):
        print(f"gain {gain}: {T} mean slopes make {slopes(gain).mean() ** T:.0e}, measured {measured:.0e}")
    check("at a gain of 0.1, 100 times more gradient is left than at 1", kept[0] > 100 * kept[-1])
    draw(norms, experiment)
    return {"errors": errors, "gains": GAINS, "norms": norms.tolist()}


# %%
def draw(norms: np.ndarray, experiment: PMNIST) -> None:
    figure, axes = plt.subplots(1, 3, figsize=(11, 3))
    steps = range(1, norms.shape[1] + 1)

    grid = np.linspace(0, 1, 51)
    quartiles = np.array([np.percentile(slopes(gain), (25, 75)) for gain in grid])  # (51, 2)
    axes[0].plot(grid, [slopes(gain).mean() for gain in grid])
    axes[0].fill_between(grid, quartiles[:, 0], quartiles[:, 1], alpha=0.3)
    axes[0].set(title=r"$\tanh'(\gamma z)$: mean, middle half", xlabel=r"gain $\gamma$", ylim=(0, 1.05))

    for gain, norm in zip(GAINS, norms, strict=True):
        axes[1].semilogy(steps, norm, label=f"{gain}")
    axes[1].set(title=r"$|\partial L / \partial h_t|$ before training", xlabel="time step t")
    axes[1].legend(title=r"gain $\gamma$")

    variance = to_host(experiment.model.rnn.layers[0].statistics.variance)  # (T, 9H)
    H = variance.shape[1] // 9
    axes[2].semilogy(steps, variance[:, : 4 * H].mean(axis=1), label="$W_x x_t$")
    axes[2].semilogy(steps, variance[:, 4 * H : 8 * H].mean(axis=1), label="$W_h h_{t-1}$")
    axes[2].semilogy(steps, variance[:, 8 * H :].mean(axis=1), label=r"$\tilde c_t$")
    axes[2].set(title="variances, mean of their rows", xlabel="time step t", ylim=(1e-6, 10))
    axes[2].legend(ncols=3, loc="upper center")
    save(figure, "07_batch_normalization")


# %%
if __name__ == "__main__":
    shared.run(main)

# %% [markdown]
# ## Exercises
#
# 1. Take a minibatch of two and $\epsilon = 0$. What is $\hat s$, whatever s is? What must `normalize_back` give?
# 2. Leave out the path through the mean. Which checks fail, and what does a row of the gradient sum to?
# 3. Train with `statistics_batches=1`, which estimates the statistics from one minibatch of 50 images. What does it do
#    to the validation error? And how far behind would moving averages be: leave the call of `reestimate` in
#    `PMNIST.validate` out, and train for 1 epoch, and for 20.
