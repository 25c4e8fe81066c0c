# %% [markdown]
# # Answers to chapter 7
#
# ## 1. A minibatch of two
#
# The mean of two numbers lies in the middle between them, and both are one standard deviation away from it. So
# $\hat s$ is 1 for the larger one and -1 for the smaller one.

# %%
import importlib
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import shared  # finds minizone and the chapters
import numpy as np
from shared import check

from minizone.experiments.pmnist import PMNIST

chapter = importlib.import_module("07_batch_normalization")

# %%
rng = np.random.default_rng(1)
s = rng.standard_normal((4, 2))  # (R, B)
d = rng.standard_normal((4, 2))
gamma = rng.standard_normal((4, 1))
y, s_hat, r = chapter.normalize(s, gamma, 0, epsilon=0)
ds, dgamma, dbeta = chapter.normalize_back(d, s_hat, r, gamma)
print(s_hat)
check("s_hat is -1 and 1, whatever s is", np.allclose(np.sort(s_hat, axis=1), [-1, 1]))
check("the gradient of s is 0", np.abs(ds).max() < 1e-12)
check("the gradient of gamma is not", np.abs(dgamma).min() > 1e-3)

# %% [markdown]
# A small change of $s$ does not change $\hat s$, so its gradient is 0. In other words: a row of two numbers has two
# directions, (1, 1) and (-1, 1), and `normalize_back` removes both.
#
# ## 2. Without the path through the mean
#
# We leave out the term $\mathrm{mean}(d)$.


# %%
def without_the_mean(d, s_hat, r, gamma):
    """`normalize_back` without the path through the mean: dLoss/ds (R, B)."""
    mean_d_s = (d * s_hat).mean(axis=1, keepdims=True)  # (R, 1)
    return gamma * r * (d - s_hat * mean_d_s)


s = rng.standard_normal((6, 8))
d = rng.standard_normal((6, 8))
gamma = rng.standard_normal((6, 1))
_, s_hat, r = chapter.normalize(s, gamma, 0, epsilon=0)
right, _, _ = chapter.normalize_back(d, s_hat, r, gamma)
wrong = without_the_mean(d, s_hat, r, gamma)
check("ds is wrong", np.abs(wrong - right).max() > 0.01)
check("it is not orthogonal to (1, ..., 1)", np.abs(wrong.sum(axis=1)).min() > 1e-3)
check("it is orthogonal to s_hat all the same", np.abs((wrong * s_hat).sum(axis=1)).max() < 1e-12)
expected_sums = (gamma * r)[:, 0] * d.sum(axis=1)  # (R,)
check("a row of it sums to gamma r times the sum of d", np.allclose(wrong.sum(axis=1), expected_sums))

# %% [markdown]
# Two kinds of checks fail: the comparison with the tape, and the one with (1, ..., 1). The sum of a row is
# $\gamma r \sum_n d_n$, because the elements of $\hat s$ sum to 0. The check with $\hat s$ does not find the mistake.
#
# ## 3. Other estimates of the statistics
#
# A subclass of `PMNIST` whose `reestimate` does nothing is validated with its moving averages. After training we call
# the `reestimate` of `PMNIST` with the same weights. The network is smaller than that of the chapter.


# %%
class MovingAverages(PMNIST):
    """Validates with the moving averages of the training."""

    def reestimate(self) -> None:
        """Keep the statistics."""


def valid_errors(epochs: int) -> dict[str, float]:
    """The validation errors of one network with three estimates of the statistics."""
    settings = {"dataset": "digits", "hidden_size": 50, "epochs": epochs, "batch_normalization": True}
    experiment = shared.learn(MovingAverages, "quick", "cpu", "07", **settings).experiment
    errors = {"moving averages": experiment.error(experiment.data.valid)}
    for number in (1, 20):
        experiment.settings = replace(experiment.settings, statistics_batches=number)
        PMNIST.reestimate(experiment)
        errors[str(number)] = experiment.error(experiment.data.valid)
    return errors


# %%
after = {epochs: valid_errors(epochs) for epochs in (1, 16)}
for epochs, errors in after.items():
    print(f"validation error after {epochs} epochs: moving averages {errors['moving averages']:.3f},", end=" ")
    print(f"1 minibatch {errors['1']:.3f}, 20 minibatches {errors['20']:.3f}")

updates = 16 * 26
print(f"share of the initial variance of 1 that is left in a moving average: {0.99**updates:.3f}")
of_one, of_twenty = after[16]["1"], after[16]["20"]
check("one minibatch is worse than 20, by less than 0.2", of_twenty < of_one < of_twenty + 0.2)
check("moving averages are far behind after 1 epoch", after[1]["moving averages"] > after[1]["20"] + 0.2)
check("and still after 16", after[16]["moving averages"] > after[16]["20"] + 0.2)

# %% [markdown]
# The mean of 50 images is an estimate with an error, and the network was trained with other errors in each update. So
# one minibatch works, but less well than 20.
#
# The moving averages go 1 % of the way to the statistics of the minibatch in each update, and there are 26 updates in
# an epoch. They start with variances of 1, but most variances of this network are 0.1 or less (see the figure of the
# chapter). After one epoch the initial 1 is most of the average. After 16 epochs 1.5 % of it is left, which is
# still more than the variances of $W_h h_{t-1}$, about 0.01, and those of pixels at the edge.
