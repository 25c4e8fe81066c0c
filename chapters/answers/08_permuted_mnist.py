# %% [markdown]
# # Answers to chapter 8
#
# ## 1. What the order is worth
#
# The networks of these answers have 40 units and train for a few epochs.

# %%
import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import shared  # finds minizone and the chapters
import numpy as np
from shared import check

from minizone.data import permutation
from minizone.experiments.pmnist import PMNIST

chapter = importlib.import_module("08_permuted_mnist")


def train(epochs: int, **changes) -> shared.Learned:
    settings = {"dataset": "digits", "hidden_size": 40, "epochs": epochs, **changes}
    return shared.learn(PMNIST, "quick", "cpu", "08", **settings)


# %%
errors = {}
for name, changes in {"plain LSTM": {}, "zoneout": chapter.ZONEOUT}.items():
    for order in ("permuted", "in order"):
        run = train(10, unpermuted=order == "in order", **changes)
        errors[name, order] = run.summary["best_valid_error"]
        print(f"{name:10s} {order:9s} validation error {errors[name, order]:.3f}")

cost = {name: errors[name, "permuted"] - errors[name, "in order"] for name in ("plain LSTM", "zoneout")}
check("both networks do better on images in order", min(cost.values()) > 0)

# %% [markdown]
# In order, a few steps show a piece of a stroke, and the network can recognize it at once. But 64 steps are few, and
# without the order the networks still learn most of the task. In the 784 steps of MNIST a stroke is scattered further,
# so we expect the order to be worth more. (The standard error of these errors is about 0.03: read only their signs.)
#
# ## 2. A gain of 1
#
# The first epochs of the batch-normalized LSTM, with the gain of the paper and with a gain of 1:

# %%
first_epochs = {}
for gain in (0.1, 1.0):
    run = train(4, batch_normalization=True, initial_gamma=gain)
    first_epochs[gain] = run.curve("train_error")
    print(f"gain {gain}: training error", " ".join(f"{error:.3f}" for error in first_epochs[gain]))
check("with a gain of 1 it learns far more slowly", first_epochs[1.0][-1] > first_epochs[0.1][-1] + 0.2)

# %% [markdown]
# With a gain of 1 the tanh and the sigmoids are used where their slopes are small. The gradient enters at the last
# step, and vanishes before it reaches most of the pixels (chapter 7). The first pixels get no gradient to learn from.
#
# ## 3. A third less of the image
#
# The authors' way to draw, here for 64 pixels:

# %%
missed = 64 - len(np.unique(permutation(64, "authors")))
authors = train(10, permutation="authors").summary["best_valid_error"]
true = errors["plain LSTM", "permuted"]
print(f"{missed} of 64 pixels are not read; validation error {authors:.3f}, with a true permutation {true:.3f}")
check("about a third of the pixels is not read", 0.3 < missed / 64 < 0.45)
check("that costs more than 5 % of the answers", authors > true + 0.05)

# %% [markdown]
# Each image has less information, and the sequence has pixels that occur more than once. So results with the authors'
# permutation and with a true one are not strictly comparable.
