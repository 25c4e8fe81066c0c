# %% [markdown]
# # Answers to chapter 18
#
# ## 1. The candidate is returned
#
# The NumPy version stores the output gate o and $u = \tanh(\tilde c_t)$ of every step, last in its tuple. The candidate
# of h is their product. We return it in place of h, and ask the five questions.

# %%
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from shared import check  # finds minizone and the chapters
import numpy as np

from minizone.backend import bernoulli, stream

chapter_18 = import_module("18_your_own_code")
T, B, D, H = 12, 4, 5, 8
z_h, z_c = 0.3, 0.5
problem = chapter_18.random_problem(T, B, D, H)
masks = [bernoulli(stream(0, "masks of h"), z_h, (T, B, H)), bernoulli(stream(0, "masks of c"), z_c, (T, B, H))]


# %%
def run_with_candidates(problem, z_h, z_c, masks=None):
    """`run_numpy`, but the states h are the candidates."""
    if masks is None:
        masks = [np.full(problem.r.shape, z, np.float32) for z in (z_h, z_c)]
    _, c, stored = chapter_18.numpy_forward(problem, *masks)
    candidates = [step[-2] * step[-1] for step in stored]  # o * u, (B, H) each
    return [np.array(candidates), c, *chapter_18.numpy_backward(problem, *masks, stored)]


def questions_that_fail(run):
    """The questions whose error is more than rounding."""
    answers = chapter_18.ask(run, problem, z_h, z_c, masks, "cpu")
    return {question for question, error in answers.items() if error > 1e-5}


found = questions_that_fail(run_with_candidates)
print("found by:", sorted(found))
check("the candidate is found by three questions", found == {"masks given", "z = 1", "evaluation"})

# %% [markdown]
# With z = 0 the candidate is the state, so this question cannot find the bug. The candidate of a single step does not
# depend on z, so it is linear in z as well.
#
# ## 2. Without `.eval()`
#
# A layer in training draws its masks where none are given. We do the same in NumPy, so that the answer does not need
# PyTorch.


# %%
def run_in_training(problem, z_h, z_c, masks=None):
    """`run_numpy`, but without given masks it draws them."""
    if masks is None:
        rng = stream(1, "masks")
        masks = [bernoulli(rng, z_h, problem.r.shape), bernoulli(rng, z_c, problem.r.shape)]
    return chapter_18.run_numpy(problem, z_h, z_c, masks)


found = questions_that_fail(run_in_training)
print("found by:", sorted(found))
check("training mode is found by two questions", found == {"evaluation", "linear in z"})

# %% [markdown]
# Given masks are used in both modes. With z = 0 and z = 1 the masks that are drawn are all 0 or all 1, which is also
# what evaluation uses. Only a z in between shows the mode. Where PyTorch is installed, we check that `run_torch` gives
# the same answer.

# %%
if chapter_18.torch:

    class AlwaysTraining(chapter_18.TorchZoneoutLSTM):
        def eval(self):
            return self  # stays in training

    chapter_18.TorchZoneoutLSTM = AlwaysTraining
    check("the same questions find it in PyTorch", questions_that_fail(chapter_18.run_torch) == found)

# %% [markdown]
# ## 3. float64
#
# A double has 52 bits after the binary point, a float has 23. So rounding is about $2^{29}$ times smaller. We convert
# all arrays of the problem, and the masks.


# %%
def error_of_numpy(problem, masks):
    """The largest relative error of the NumPy version."""
    expected = chapter_18.run_minizone(problem, z_h, z_c, masks)
    return chapter_18.largest_error(chapter_18.run_numpy(problem, z_h, z_c, masks), expected)


arrays = {name: array.astype(np.float64) for name, array in vars(problem).items()}
in_float32 = error_of_numpy(problem, masks)
in_float64 = error_of_numpy(replace(problem, **arrays), [keep.astype(np.float64) for keep in masks])
print(f"largest relative error: float32 {in_float32:.1e}, float64 {in_float64:.1e}")
check("float32 agrees to 1e-5", in_float32 < 1e-5)
check("float64 agrees to 1e-13", in_float64 < 1e-13)

# %% [markdown]
# The differences of the figure go down to about $10^{-15}$. If they stayed at $10^{-7}$, some array would still be in
# float32. In PyTorch call `.double()` on the layer.
