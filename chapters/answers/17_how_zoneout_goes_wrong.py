# %% [markdown]
# # Answers to chapter 17
#
# ## 1. Two bugs of your own
#
# The first bug overrides the masks of evaluation, the second those of training.

# %%
import sys
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from shared import check  # finds minizone and the chapters
import numpy as np

from minizone.backend import stream
from minizone.conformance.broken import FirstMaskInBackward, ReadableLSTM, SameMaskEachExample
from minizone.conformance.invariants import correlate

chapter_17 = import_module("17_how_zoneout_goes_wrong")


# %%
class NoExpectationOfCells(ReadableLSTM):
    """Evaluation takes the expectation of h and the new value of c."""

    def evaluation_masks(self, T, H, B, seed):
        return np.full((T, H, B), self.z_h), np.zeros((T, H, B))


class MasksRepeat(ReadableLSTM):
    """The masks of 12 time steps are used again and again."""

    def training_masks(self, T, H, B, seed):
        keep_h, keep_c = super().training_masks(12, H, B, seed)
        steps = np.arange(T) % 12
        return keep_h[steps], keep_c[steps]


for bug in (NoExpectationOfCells, MasksRepeat):
    print(f"{bug.__name__} is caught by: {chapter_17.failed(bug) or 'none'}")
check("the invariant of evaluation finds the first bug", chapter_17.failed(NoExpectationOfCells) == {"expectation"})
check("no invariant finds the second bug", not chapter_17.failed(MasksRepeat))

# %% [markdown]
# The invariants run 12 time steps, so they never see a mask twice. What is missing is the same invariant over a longer
# sequence: the masks of steps that are 12 apart must be independent. The correlation of equal masks is 1.


# %%
def kept(adapter, T, B):
    """Which units keep their h in each of T steps, (T, H, B)."""
    _, h, _ = chapter_17.run(adapter, T + 1, B)
    return (h[1:] == h[:-1]).astype(float)


for adapter in (ReadableLSTM, MasksRepeat):
    mask = kept(adapter, T=24, B=150)
    print(f"{adapter.__name__}: correlation of masks 12 steps apart: {correlate(mask[12:], mask[:-12])}")
check("the correct code passes", correlate(kept(ReadableLSTM, 24, 150)[12:], kept(ReadableLSTM, 24, 150)[:-12]).passed)
check("the repeated masks fail", not correlate(mask[12:], mask[:-12]).passed)

# %% [markdown]
# ## 2. One time step hides the mask of step 0
#
# In a sequence of one step the mask of step 0 is the right mask. The bug shows from the second step on. We compare the
# gradient of $W_h$ with that of the correct code.


# %%
def gradient_of_W_h(adapter, T, H=20, B=4):
    """The gradient of a random linear loss of the outputs and the last c."""
    rng = stream(0, "problem of the gradient")
    x = rng.standard_normal((T, 3, B))
    h, c, q = rng.standard_normal((3, H, B))
    r = rng.standard_normal((T, H, B))
    layer = adapter(**chapter_17.weights, z_h=0.5, z_c=0.5)
    return layer.gradient(x, h, c, r, q, seed=1)["W_h"]  # (4H, H)


error = {}
for T in (1, 2, 5):
    right = gradient_of_W_h(ReadableLSTM, T)
    wrong = gradient_of_W_h(FirstMaskInBackward, T)
    error[T] = np.abs(wrong - right).max() / np.abs(right).max()
    print(f"T = {T}: relative error of dW_h {error[T]:.2f}")
check("the gradient of one step is right", error[1] == 0)
check("the gradient of two steps is wrong", error[2] > 0.1)

# %% [markdown]
# ## 3. How many examples and draws show a shared mask
#
# With one example there is nothing to compare, and the bug draws the same mask as the correct code. With two examples
# the masks of the bug are equal, so their correlation is 1. The correlation of n independent pairs of draws has a
# standard error of $1 / \sqrt{n}$. Six standard errors are less than 1 for n > 36. There is a pair for each time step
# and each unit: with 20 units, two examples and two time steps (n = 40) are enough.

# %%
one_right, one_wrong = kept(ReadableLSTM, 10, 1), kept(SameMaskEachExample, 10, 1)
check("one example: the same masks as the correct code", (one_right == one_wrong).all())

# %%
caught = {}
for T in (1, 2, 5):
    mask = kept(SameMaskEachExample, T, B=2)  # (T, H, 2)
    found = correlate(mask[:, :, 0], mask[:, :, 1])
    caught[T] = not found.passed
    print(f"two examples, n = {mask[:, :, 0].size}: correlation {found}")
check("20 draws are too few", not caught[1])
check("40 draws are enough", caught[2] and caught[5])
right = kept(ReadableLSTM, 5, B=2)
check("the correct code passes", correlate(right[:, :, 0], right[:, :, 1]).passed)
