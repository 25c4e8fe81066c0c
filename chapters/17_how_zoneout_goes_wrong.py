# %% [markdown]
# # 17. How zoneout goes wrong
#
# **Claim.** Zoneout is one line, and we know 23 ways to get it wrong that raise no error. Sixteen invariants catch all
# of them. No single invariant catches half of them, so a test needs many.
#
# Paper: sections 3.1, 3.2 and 4.3. The same invariants test an implementation of your own:
# `python run.py conformance my_adapter.py:MyZoneout`. The docstring of `minizone/conformance/__init__.py` says how to
# write the adapter.

# %%
import inspect

import shared  # finds minizone
import matplotlib.pyplot as plt
import numpy as np
from shared import DeviceName, Preset, check, save

from minizone import LSTM
from minizone.backend import stream
from minizone.conformance import INVARIANTS, Function, conform
from minizone.conformance import broken
from minizone.conformance.broken import ReadableLSTM
from minizone.data import permutation

# %% [markdown]
# ## A correct zoneout LSTM
#
# H is the number of units and B the number of examples. $h_t$ and $c_t$ (H, B) are the states after time step t.
# $\tilde h_t$ and $\tilde c_t$ (H, B) are the candidates, the new states of an LSTM without zoneout. The masks $k^h_t$
# and $k^c_t$ (H, B) are 1 where the old value stays. With the output gate $o_t$ (H, B), a step ends like this:
#
# $$\tilde h_t = o_t \odot \tanh(\tilde c_t)$$
#
# $$h_t = k^h_t \odot h_{t-1} + (1 - k^h_t) \odot \tilde h_t$$
#
# $$c_t = k^c_t \odot c_{t-1} + (1 - k^c_t) \odot \tilde c_t$$
#
# Training draws the masks. An element is 1 with probability $z_h$ or $z_c$. Evaluation uses the numbers $z_h$ and $z_c$
# in place of the masks.
#
# `ReadableLSTM` in `minizone/conformance/broken.py` is a correct implementation in small methods. These are the most
# important ones. `lstm_gates` computes the gates and the proposal of an LSTM, i, f, g and o, and `Masks` is a pair of
# arrays.


# %%
def show_correct(*methods):
    """Print methods of ReadableLSTM."""
    for name in methods:
        print(inspect.getsource(getattr(ReadableLSTM, name)))


show_correct("zone_out", "output", "step")

# %% [markdown]
# A bug is a class that overrides some of these methods. For each bug we print what is wrong, where it was found, what a
# user loses, and the wrong code. Most of them come from published code.


# %%
def show(*bugs):
    """Print bugs with their code."""
    for bug in bugs:
        print(f"{bug.__name__}: {bug.__doc__}")
        print(f"    found in: {bug.whose}")
        print(f"    cost:     {bug.cost}\n")
        for member in vars(bug).values():
            if inspect.isfunction(member):
                print(inspect.getsource(member))


# %% [markdown]
# ## The output
#
# The layer must return the state after zoneout. The next layer and the loss are computed from it.

# %%
show(broken.UnzonedOutput, broken.OutputMaskOfItsOwn)

# %% [markdown]
# ## Training and evaluation
#
# Training draws masks, evaluation does not. The correct method fills the masks of evaluation with $z_h$ and $z_c$:

# %%
show_correct("evaluation_masks")
show(broken.NoExpectation, broken.NoiseInEvaluation, broken.NoNoise)

# %% [markdown]
# ## The masks
#
# Every state, time step, unit, example and update needs a mask of its own. The correct method draws one random number
# for each element of (T, H, B), for T time steps:

# %%
show_correct("training_masks")
show(broken.CellMaskIsStateMask, broken.SameMaskEachStep, broken.SameMaskEachExample)

# %%
show(broken.SameMaskEachUnit, broken.SameMaskEachUpdate, broken.MaskFromDropoutOfOnes)

# %% [markdown]
# ## The probabilities
#
# z is the probability of keeping the old value. Some libraries define it the other way round, and two probabilities are
# easily swapped.

# %%
show(broken.InvertedProbability, broken.SwappedProbabilities, broken.CellsIgnored)

# %% [markdown]
# ## The step
#
# The order of the lines matters: $\tilde h_t$ is made from $\tilde c_t$, not from $c_t$. And zoneout is not dropout. It
# sets nothing to zero, and it rescales nothing.

# %%
show(broken.TanhOfZonedCell, broken.KeptStateForgotten)

# %%
show(broken.DroppedToZero, broken.RescaledLikeDropout, broken.ForgetBiasTwice)

# %% [markdown]
# ## The backward pass
#
# The backward pass must use the masks of the forward pass. If it does not, all outputs are right and all gradients are
# wrong. In the last two bugs, `old.data` is an array without its history, so no gradient passes through it.

# %%
show_correct("backward_masks")
show(broken.FirstMaskInBackward, broken.NewMaskInBackward, broken.NoGradientThroughKept, broken.PlainGradient)

# %% [markdown]
# ## A permutation with repeated pixels
#
# One more bug is not in a layer. The authors' pMNIST script draws the permutation of the 784 pixels with replacement.
# Some pixels come twice, and others never.

# %%
pixels = {kind: len(np.unique(permutation(784, kind))) for kind in ("authors", "true")}
print("pixels of 784 that the network sees:", pixels)
check("the authors' permutation leaves pixels out, a true one does not", pixels["authors"] < 784 == pixels["true"])

# %% [markdown]
# ## Masks can be seen from outside
#
# Other people's code draws its masks somewhere inside. How can one test them? The states show them. When a unit is
# updated, its new value is practically never equal to the old one in all bits. So $h_t = h_{t-1}$ in an element means
# that this element was zoned out in step t.
#
# `run` gives an implementation weights, inputs and initial states. These are the same for all implementations. D is the
# number of inputs.

# %%
D, H = 3, 20
layer = LSTM(D, H, rng=stream(0, "weights"), dtype=np.float64)
weights = {name: getattr(layer, name).data for name in ("W_x", "W_h", "b")}  # (4H, D), (4H, H), (4H,)


def run(adapter, T, B, z=0.5, train=True):
    """Outputs, h and c of all steps, each (T, H, B)."""
    x = stream(0, "x").standard_normal((T, D, B))
    h, c = stream(0, "start").standard_normal((2, H, B))
    return adapter(**weights, z_h=z, z_c=z).sequence(x, h, c, train, seed=1)


def kept_by_the_first_example(adapter, T=30):
    """Which units have the same h as in the step before, (H, T - 1)."""
    _, h, _ = run(adapter, T, B=4)
    is_kept = h[1:] == h[:-1]  # (T - 1, H, B)
    return is_kept[:, :, 0].T


# %% [markdown]
# ## All bugs, all invariants
#
# An invariant is a property of every correct implementation. Most of them use the trick above, or compare the
# implementation with itself, for example with its own step at z = 0. These are the sixteen:

# %%
for invariant in INVARIANTS:
    print(f"{invariant.name:14s}{invariant.claim}")

# %% [markdown]
# `conform` runs them on an adapter, a small class that makes an implementation runnable. `ReadableLSTM` and its
# subclasses are adapters, and so is `Function`, which runs `minizone.lstm`. Where an invariant counts random draws, it
# allows six standard errors. All others must hold up to rounding.


# %%
def failed(adapter):
    """The names of the invariants that fail."""
    return {result.invariant.name for result in conform(adapter) if result.status == "FAIL"}


# %% [markdown]
# ## How large is the error?
#
# For bugs that draw the same masks as the correct code, the outputs can be compared step by step. We take the root mean
# square of the difference, over all units and examples. `NoExpectation` is a bug of evaluation, so it is compared in
# evaluation.

# %%
COMPARED = [
    broken.MaskFromDropoutOfOnes,
    broken.RescaledLikeDropout,
    broken.UnzonedOutput,
    broken.NoExpectation,
    broken.KeptStateForgotten,
]


def root_mean_square(a):
    """Over units and examples: (T, H, B) to (T,)."""
    return (a**2).mean(axis=(1, 2)) ** 0.5


def error_of(bug, T, B):
    """The root mean square of wrong minus right outputs, (T,)."""
    train = bug is not broken.NoExpectation
    wrong, _, _ = run(bug, T, B, train=train)
    right, _, _ = run(ReadableLSTM, T, B, train=train)
    return root_mean_square(wrong - right)


# %% [markdown]
# The functions of the figure: masks, the matrix of bugs and invariants, and the errors.


# %%
def draw_masks(axes):
    """The masks of the correct code and of two bugs."""
    titles = {
        ReadableLSTM: "correct masks (black: kept)",
        broken.SameMaskEachStep: "SameMaskEachStep",
        broken.SameMaskEachUnit: "SameMaskEachUnit",
    }
    for axis, (adapter, title) in zip(axes, titles.items(), strict=True):
        axis.imshow(kept_by_the_first_example(adapter), cmap="Greys", aspect="auto", interpolation="nearest")
        axis.set(title=title, xlabel="time step", ylabel="unit")
        axis.grid(False)


def draw_matrix(axis, caught):
    """A row for each bug, a column for each invariant."""
    names = [invariant.name for invariant in INVARIANTS]
    fails = np.array([[name in invariants for name in names] for invariants in caught.values()])
    axis.pcolormesh(fails, cmap="Reds", vmax=1.5, edgecolors="white", linewidth=1)
    axis.set_xticks(np.arange(len(names)) + 0.5, names, rotation=60, ha="right", rotation_mode="anchor")
    axis.set_yticks(np.arange(len(caught)) + 0.5, caught)
    axis.invert_yaxis()
    axis.set(title="red: the invariant fails on the bug", xlabel="invariant")
    axis.tick_params(length=0)
    axis.grid(False)


# %%
def draw_errors(axis, T, B):
    """The error of each bug over time, and the size of the right outputs."""
    steps = range(1, T + 1)
    for bug in COMPARED:
        axis.semilogy(steps, error_of(bug, T, B), label=bug.__name__)
    right, _, _ = run(ReadableLSTM, T, B)
    axis.semilogy(steps, root_mean_square(right), "k--", label="size of the right output")
    axis.set(title="error of the output", xlabel="time step", ylabel="root mean square")
    axis.legend(fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.12))


def draw(caught, B):
    """Masks above, the matrix and the errors below."""
    figure = plt.figure(figsize=(11, 9))
    above, below = figure.subfigures(2, 1, height_ratios=[1, 3])
    draw_masks(above.subplots(1, 3))
    left, right = below.subplots(1, 2, width_ratios=[1, 1.1])
    draw_matrix(left, caught)
    draw_errors(right, 50, B)
    save(figure, "17_how_zoneout_goes_wrong")


# %% [markdown]
# `main` runs all invariants on all bugs.


# %%
def main(preset: Preset = "quick", device: DeviceName = "cpu") -> dict[str, set[str]]:
    """The invariants that fail on every bug. The catalogue is NumPy alone: both devices do the same."""
    check("minizone passes all sixteen invariants", not failed(Function) and not failed(ReadableLSTM))
    caught = {bug.__name__: failed(bug) for bug in broken.CATALOGUE}
    for name, invariants in caught.items():
        check(f"{name} is caught by: {', '.join(sorted(invariants))}", invariants)

    names = {invariant.name for invariant in INVARIANTS}
    ten = {"plain", "either", "apart", "steps", "examples", "units", "updates", "expectation", "output", "gradient"}
    check("ten of the invariants catch all bugs", all(invariants & ten for invariants in caught.values()))
    check("every invariant catches a bug", set.union(*caught.values()) == names)
    most = max(sum(name in invariants for invariants in caught.values()) for name in names)
    check("no invariant catches half of them", 2 * most < len(caught))
    draw(caught, B={"small": 20, "quick": 200, "paper": 2_000}[preset])
    return caught


# %%
if __name__ == "__main__":
    shared.run(main)

# %% [markdown]
# ## In the figure
#
# Above: the states alone show which units were kept. One bug gives rows, because a unit is kept for the whole sequence
# or never. The other gives columns, because all units are kept together.
#
# Below, left: many bugs are caught by a single invariant, and the four bugs of the backward pass only by the gradient.
# Below, right: masks of 1 / z make the output explode, and a rescaled candidate makes it several times too large. The
# other errors are smaller than the output itself. Such a network may still learn, and then its learning curve does not
# show the bug. (We have not trained these networks.)
#
# Ten of the invariants would be enough to catch all 23: plain, either, apart, steps, examples, units, updates,
# expectation, output and gradient. The other six say more exactly what is wrong.
#
# ## What to take away
#
# - Wrong zoneout raises no error. Only a test finds it.
# - The masks of any implementation can be read from its states.
# - Test the output, the evaluation, the masks along every axis, both probabilities and the gradient. One test is not
#   enough.
#
# ## Exercises
#
# 1. Write two bugs of your own as subclasses of `ReadableLSTM`. One uses the expectation in evaluation for h, but not
#    for c. The other repeats its masks after 12 time steps. Which invariants fail? If none does, which one is missing?
# 2. The invariant `gradient` runs five time steps. Why is `FirstMaskInBackward`, the bug of haste, invisible in one?
# 3. `SameMaskEachExample` fails one invariant. For a minibatch of one example it is the same as the correct code. How
#    many examples and draws are enough to see the bug, if six standard errors are allowed?
