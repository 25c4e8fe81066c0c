# %% [markdown]
# # Answers to chapter 3
#
# ## 1. A difference of fourth order
#
# In this combination the terms with the second, third and fourth derivative cancel. The truncation error is then
# proportional to $\delta^4$, the rounding error still to $\epsilon / \delta$. Their sum is smallest near
# $\delta = \epsilon^{1/5}$, about $6 \cdot 10^{-4}$. On the loss of a small LSTM, which has large higher derivatives,
# the best error has one digit more than that of the central difference. The price is four values of $f$ in place of
# two.

# %%
import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from shared import check  # finds minizone and the chapters
import numpy as np

from minizone import Device, Function, GradientError, Tensor, Zoneout, gradcheck, lstm
from minizone.backend import stream

chapter = importlib.import_module("03_gradcheck")


def fourth_order(f, delta):
    return (8 * f(delta) - 8 * f(-delta) - f(2 * delta) + f(-2 * delta)) / (12 * delta)


# %%
loss, W_h = chapter.problem(10, 8, 2, "float64", Device())
W = Tensor(W_h)
loss(W).backward()
direction = stream(0, "direction").standard_normal((1, *W_h.shape))  # (1, 4H, H)
slope = (direction * W.grad).sum(axis=(1, 2))  # (1,)

best = {}
for name, method in {**chapter.METHODS, "fourth order": fourth_order}.items():
    errors = [chapter.root_mean_square_error(method, loss, W_h, direction, slope, step) for step in chapter.STEPS]
    k = int(np.argmin(errors))
    best[name] = errors[k] / np.abs(slope[0])
    print(f"{name}: smallest relative error {best[name]:.0e}, at the step {chapter.STEPS[k]:.0e}")
    if name == "fourth order":
        check("fourth order is best at a step of about 1e-3", 1e-4 < chapter.STEPS[k] < 1e-2)
check("fourth order is better than the central difference", best["fourth order"] < 0.1 * best["central difference"])
check("the complex step is better still", best["complex step"] < 0.1 * best["fourth order"])

# %% [markdown]
# ## 2. Masks that are drawn inside
#
# The check reports an error. Each call has other masks, so the gradient from `backward` belongs to one function and
# each derivative to another. By complex step a derivative is right for its own masks, so it has the right size. By
# differences the two values come from two functions, and their difference is divided by $2 \cdot 10^{-6}$. So the
# derivative is a random number of the order of a million.

# %%
rng = np.random.default_rng(1)


def lstm_that_draws(*arrays):
    keep_h, keep_c = Zoneout(cells=0.5, states=0.3).masks(chapter.T, chapter.H, chapter.B, rng)
    return lstm(*arrays, keep_h=keep_h, keep_c=keep_c)


by_complex_step = chapter.verdict(lstm_that_draws, *chapter.arrays, method="complex")
by_difference = chapter.verdict(lstm_that_draws, *chapter.arrays, method="difference")
check("the check calls it wrong by both methods", by_complex_step == by_difference == "wrong")

# %% [markdown]
# ## 3. A small mistake
#
# The relative error is $10^{-8}$. So every `rtol` above $10^{-8}$ lets it pass. The default for the complex step is
# $10^{-9}$, which finds it. The default for differences is $10^{-6}$, which does not. A smaller `rtol` does not help
# there: with $10^{-11}$, differences call even a right gradient wrong.


# %%
class AlmostRight(Function):
    factor = 1 + 1e-8

    def forward(self, old, new, keep):
        self.keep = keep
        return keep * old + (1 - keep) * new

    def backward(self, gy):
        return gy * self.keep, gy * (1 - self.keep) * self.factor, None


class Right(AlmostRight):
    factor = 1


def passes(function, **options) -> bool:
    try:
        gradcheck(lambda old, new: function()(old, new, chapter.keep), chapter.old, chapter.new, **options)
    except GradientError:
        return False
    return True


# %%
check("rtol = 2e-8 lets the mistake pass", passes(AlmostRight, rtol=2e-8))
check("rtol = 5e-9 does not", not passes(AlmostRight, rtol=5e-9))
check("the default of the complex step finds it", not passes(AlmostRight))
check("the default of differences does not", passes(AlmostRight, method="difference"))
check("a right gradient passes the complex step", passes(Right))
check("by differences, a right gradient fails at rtol = 1e-11", not passes(Right, method="difference", rtol=1e-11))
