# %% [markdown]
# # Answers to chapter 1
#
# ## 1. The product in float64
#
# A float64 has twice the size of a float32. A vector unit of the processor holds half as many of them, and twice as
# much memory is read, so the product takes about twice as long. The results differ by the rounding of float32, about 7
# digits. Noise of this size does not matter in training. It matters in the checks of gradients, which use float64.

# %%
import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from shared import check  # finds minizone and the chapters
import numpy as np

from minizone import Device
from minizone.backend import bernoulli, stream

chapter = importlib.import_module("01_arrays")
cpu = Device("cpu")

# %%
H, B = 512, 128
W_h = chapter.random_array(cpu, 4 * H, H)
h = chapter.random_array(cpu, H, B)
W_h64 = W_h.astype(np.float64)
h64 = h.astype(np.float64)
time32 = chapter.microseconds(lambda: W_h @ h, cpu)
time64 = chapter.microseconds(lambda: W_h64 @ h64, cpu)
exact = W_h64 @ h64  # (4H, B)
difference = np.abs(W_h @ h - exact).max() / np.abs(exact).max()
print(f"float32 takes {time32:.0f} us, float64 {time64:.0f} us; largest relative difference {difference:.0e}")
check("the product in float64 is slower", time64 > 1.2 * time32)
check("float32 has at least 6 digits here, and not 8", 1e-8 < difference < 1e-6)

# %% [markdown]
# ## 2. One generator with its state saved
#
# The masks are right now: the generator continues where it stopped. But the state must be stored with every checkpoint.
# And every mask still depends on all that was drawn before it. One more draw, for example for a figure after update 2,
# changes all masks that follow. Keyed streams need no storage, and a draw for one purpose does not change another.


# %%
def masks_of(generator, updates: range) -> list[np.ndarray]:
    return [bernoulli(generator, 0.5, (8, 8)) for _ in updates]


generator = stream(1, "masks")
masks_of(generator, range(3))
saved = generator.bit_generator.state
resumed = stream(1, "masks")
resumed.bit_generator.state = saved
whole = chapter.carried(range(6))
check("with the saved state, the resumed run has its masks", np.array_equal(whole[3:], masks_of(resumed, range(3, 6))))

disturbed = stream(1, "masks")
disturbed.bit_generator.state = saved
disturbed.random(10)  # for some other purpose
check("a draw for another purpose changes them", not np.array_equal(whole[3:], masks_of(disturbed, range(3, 6))))

# %% [markdown]
# ## 3. A sum in place
#
# The result does not change. `s = 0.9 * s + x_t` makes two new arrays at every step; in place, there are none after the
# first step. With `s = steps[0]`, the name `s` stands for a view of the data, so `s *= 0.9` and `s += x_t` overwrite
# the first time step. A second walk through the same data gives another result. `s = steps[0].copy()` would be right.

# %%
steps = chapter.random_array(cpu, 20, 64, 32)  # (T, H, B)


def walk(steps):
    s = 0
    for x_t in steps:
        s = 0.9 * s + x_t
    return s


def walk_in_place(steps, s):
    for x_t in steps:
        s *= 0.9
        s += x_t
    return s


check("in place gives the same result", np.allclose(walk_in_place(steps, 0), walk(steps), rtol=0, atol=1e-5))
before = steps.copy()
walk_in_place(steps[1:], steps[0])
check("if s starts as a view, the walk changes the data", not np.array_equal(steps[0], before[0]))
check("all other time steps are unchanged", np.array_equal(steps[1:], before[1:]))
