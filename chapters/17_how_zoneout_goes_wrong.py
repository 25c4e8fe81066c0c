# %% [markdown]
# # 17. How zoneout goes wrong
#
# **Claim.** Zoneout is one line, and we know 23 ways to get it wrong that raise no error. Sixteen invariants catch all
# of them, and no single invariant does: it takes the whole list to trust an implementation.
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
from minizone.data import permutation

# %% [markdown]
# ## A catalogue of bugs
#
# `minizone/conformance/broken.py` has a correct LSTM with zoneout, `ReadableLSTM`, in small methods: one draws the
# masks of training, one fills in those of evaluation, one mixes old and new, one says what the layer emits. A bug is a
# class that overrides one of them. The first one comes from the authors' TensorFlow wrapper:

# %%
print(inspect.getsource(broken.UnzonedOutput))

# %% [markdown]
# All of them are printed here: what is wrong, whose code had it, and what a user loses. Most are from well-known
# libraries. One more bug is not one of a layer, so it is checked by itself: the "permutation" of pixels in the authors'
# pMNIST script is drawn with replacement.

# %%
for bug in broken.CATALOGUE:
    print(f"{bug.__name__}: {bug.__doc__}\n    whose:  {bug.whose}\n    cost:   {bug.cost}")

pixels = {kind: len(np.unique(permutation(784, kind))) for kind in ("authors", "true")}
print("pixels of 784 that the network sees:", pixels)
check("the authors' permutation leaves pixels out, a true one does not", pixels["authors"] < 784 == pixels["true"])

# %% [markdown]
# ## Masks can be seen from outside
#
# How does one test the masks of somebody else's code, when they are drawn deep inside? A unit in motion never meets
# its old value to the last bit. So $h_t = h_{t-1}$ shows that the unit was zoned out in step $t$, and the states alone
# give the masks away. That is the trick behind most of the invariants.
#
# All models get the same weights and inputs; `sequence` returns outputs, h and c of every step.

# %%
D, H = 3, 20
layer = LSTM(D, H, rng=stream(0, "weights"), dtype=np.float64)
weights = {name: getattr(layer, name).data for name in ("W_x", "W_h", "b")}


def run(adapter, T, B, z=0.5, train=True):
    """Outputs, h and c of the examples, each (T, H, B)."""
    x = stream(0, "x").standard_normal((T, D, B))
    h, c = stream(0, "start").standard_normal((2, H, B))
    return adapter(**weights, z_h=z, z_c=z).sequence(x, h, c, train, seed=1)


def kept_by_the_first_example(adapter, T=30):
    _, h, _ = run(adapter, T, B=4)
    return (h[1:] == h[:-1])[:, :, 0].T  # (H, T - 1)


MASKS = [broken.ReadableLSTM, broken.SameMaskEachStep, broken.SameMaskEachUnit]

# %% [markdown]
# ## All bugs, all invariants
#
# `conform` runs the sixteen invariants on an adapter. Here are their claims. Where an invariant counts draws, it allows
# six standard errors; everything else must hold to rounding.

# %%
for invariant in INVARIANTS:
    print(f"{invariant.name:14s}{invariant.claim}")


def failed(adapter):
    """The names of the invariants that fail."""
    return {result.invariant.name for result in conform(adapter) if result.status == "FAIL"}


# %% [markdown]
# The last question is how far a bug leads away. Where bug and correct code draw the same masks, their difference is the
# bug alone. Gradients that are wrong leave the outputs right, so these bugs are the hardest to see.

# %%
DRIFTING = [
    broken.UnzonedOutput,
    broken.NoExpectation,
    broken.TanhOfZonedCell,
    broken.KeptStateForgotten,
    broken.RescaledLikeDropout,
    broken.MaskFromDropoutOfOnes,
    broken.ForgetBiasTwice,
]


def drift(bug, T, B):
    """The root mean square of the difference to the correct outputs in every step, (T,)."""
    train = bug is not broken.NoExpectation
    wrong, _, _ = run(bug, T, B, train=train)
    right, _, _ = run(broken.ReadableLSTM, T, B, train=train)
    return ((wrong - right) ** 2).mean(axis=(1, 2)) ** 0.5


# %%
def main(preset: Preset = "quick", device: DeviceName = "cpu") -> dict[str, set[str]]:
    """The invariants that fail on every bug. The catalogue is NumPy alone: both devices do the same."""
    check("minizone passes all sixteen invariants", not failed(Function) and not failed(broken.ReadableLSTM))
    caught = {bug.__name__: failed(bug) for bug in broken.CATALOGUE}
    for name, invariants in caught.items():
        check(f"{name} is caught by: {', '.join(sorted(invariants))}", invariants)
    names = [invariant.name for invariant in INVARIANTS]
    check("every invariant catches a bug", set.union(*caught.values()) == set(names))
    check(
        "no invariant catches half of them", all(2 * sum(n in c for c in caught.values()) < len(caught) for n in names)
    )

    B = {"small": 20, "quick": 200, "paper": 2_000}[preset]
    figure = plt.figure(figsize=(11, 9))
    masks, below = figure.subfigures(2, 1, height_ratios=[1, 3])
    for axes, adapter in zip(masks.subplots(1, len(MASKS)), MASKS, strict=True):
        axes.imshow(kept_by_the_first_example(adapter), cmap="Greys", aspect="auto")
        axes.set(title=f"{adapter.__name__} (black: kept)", xlabel="time step", ylabel="unit")
        axes.grid(False)
    matrix, curves = below.subplots(1, 2, width_ratios=[1, 1.1])
    matrix.imshow([[name in invariants for name in names] for invariants in caught.values()], cmap="Reds", vmax=1.5)
    matrix.set(title="red: the invariant (below) fails on the bug", yticks=range(len(caught)), yticklabels=caught)
    matrix.set_xticks(range(len(names)), names, rotation=60, ha="right")
    matrix.set_aspect("auto")
    matrix.grid(False)
    for bug in DRIFTING:
        curves.semilogy(range(1, 51), drift(bug, 50, B), label=bug.__name__)
    curves.set(title="output with the bug - output without, root mean square", xlabel="time step", ylim=(1e-2, 1e4))
    curves.legend(fontsize=8, ncols=2)
    save(figure, "17_how_zoneout_goes_wrong")
    return caught


# %%
if __name__ == "__main__":
    shared.run(main)

# %% [markdown]
# ## Exercises
#
# 1. Write a bug of your own as a subclass of `ReadableLSTM`: zone out the gates in place of the states, say. Which
#    invariants fail? If none does, which one is missing?
# 2. The invariant `gradient` runs five time steps. Why is `FirstMaskInBackward`, the bug of haste, invisible in one?
# 3. `SameMaskEachExample` fails one invariant. Its outputs for one example are those of the correct code. How many
#    examples are enough to see the bug, at a significance of six standard errors?
