# %% [markdown]
# # 1. Arrays on two devices
#
# **Claim.** The mathematics is written once, and the array that comes in decides which device computes. Three habits
# make that safe: columns are examples, randomness is an argument, and every array has a known precision.
#
# Paper: the conventions behind its equations, and the fresh masks of section 3.2. The same on a GPU, at the sizes of
# its experiments: `python chapters/01_arrays.py --preset paper --device gpu`

# %%
import timeit

import shared  # finds minizone
import matplotlib.pyplot as plt
import numpy as np
from shared import DeviceName, Preset, check, save

from minizone import Device, Tensor, array_module, lstm
from minizone.backend import bernoulli, stream, synchronize, to_device, to_host
from minizone.zoneout import zone_out

# %% [markdown]
# ## One code, two libraries
#
# CuPy has the functions of NumPy under the same names, for arrays in the memory of a GPU. A function of minizone asks
# for the library of its argument and calls it `xp`. The mathematics does not mention a device. A run chooses a `Device`
# and moves its data there once. `to_host` brings a result back, so that it can be printed or drawn.


# %%
def sigmoid(a):
    """1 / (1 + exp(-a)), written with a tanh, which never overflows."""
    xp = array_module(a)
    return 0.5 * xp.tanh(0.5 * a) + 0.5


cpu = Device("cpu")
a = to_device(np.linspace(-3, 3, 6).reshape(3, 2), cpu)
print(f"{cpu.xp.__name__} computes, on {cpu.description}")
check("the result lives where its argument lives", array_module(sigmoid(a)) is cpu.xp)
check("an array that is already there is not copied", to_host(a) is a and to_device(a, cpu) is a)

# %% [markdown]
# ## Columns are examples
#
# The paper writes a step of a recurrent network as $a_t = W_x x_t + W_h h_{t-1} + b$. We keep its letters and their
# order. There are T time steps, B examples, D input features and H hidden units. The B examples are the columns of
# $x_t$ (D, B) and of $h_{t-1}$ (H, B). An LSTM has four gates, so its weights are $W_x$ (4H, D) and $W_h$ (4H, H), and
# $a_t$ is (4H, B). A sequence is (T, D, B), and its states are (T, H, B).
#
# Many libraries put the examples into rows and write `h @ W.T`. That is the same product, transposed.

# %%
T, B, D, H = 6, 3, 5, 4
rng = np.random.default_rng(0)
x = rng.standard_normal((T, D, B))
W_x = rng.standard_normal((4 * H, D))
W_h = rng.standard_normal((4 * H, H))
products = W_x @ x[0]  # (4H, B)
check("rows give the same numbers, transposed", np.allclose(x[0].T @ W_x.T, products.T))

# %% [markdown]
# Why is time the first axis? Memory is one long line, and the elements along the last axis of an array are neighbours
# in it. In (T, D, B) a time step is one contiguous piece. So is a gate, which is H rows of (4H, B). With the examples
# first, (B, T, D), a time step is B pieces far apart. With time last, (D, B, T), no two numbers of a time step are
# neighbours. `main` measures what that costs.

# %%
gate = products[H : 2 * H]  # (H, B)
examples_first = np.moveaxis(x, 2, 0).copy()  # (B, T, D)
check("a time step and a gate are contiguous in memory", x[2].data.contiguous and gate.data.contiguous)
check("with the examples first, a time step is not contiguous", not examples_first[:, 2].data.contiguous)

# %% [markdown]
# ## Randomness is an argument
#
# Zoneout draws a mask `keep` for every step. It is 1 where a unit keeps its old value. Suppose the function itself drew
# the mask. Then two calls would never compute the same function, and the slope between two nearby points would be noise
# divided by a tiny number. With the mask as an argument there is one function, and it has a derivative (chapter 3).


# %%
def loss(w: float, keep: np.ndarray) -> float:
    """The sum of a state after zoneout, as a function of one weight."""
    return float(zone_out(x[0], np.tanh(w * x[0]), keep).sum())


mask = bernoulli(rng, 0.5, (D, B), np.float64)
other_mask = bernoulli(rng, 0.5, (D, B), np.float64)
step = 1e-6
noisy_slope = (loss(1 + step, other_mask) - loss(1, mask)) / step
slope = (loss(1 + step, mask) - loss(1, mask)) / step
derivative = ((1 - mask) * (1 - np.tanh(x[0]) ** 2) * x[0]).sum()  # of the loss by w, at w = 1
print(f"slope with another mask at each point: {noisy_slope:.0f}")
check("with the same mask at both points, the slope is the derivative", abs(slope - derivative) < 1e-4)

# %% [markdown]
# Where do the random numbers come from? `stream(seed, purpose, ...)` is a generator made from a hash of its arguments,
# and of nothing else. The masks of update 3 are those of `stream(seed, "masks", 3)`, whatever was drawn before. A run
# that was killed therefore continues with the masks it would have had, although no state of a generator was saved. A
# single generator would start again from its first number.
#
# In training the CPU draws the masks and moves them to the device. One seed gives the same masks on both devices.


# %%
def keyed(updates: range) -> list[np.ndarray]:
    """A mask for each update, from a stream of its own."""
    return [bernoulli(stream(1, "masks", update), 0.5, (8, 8)) for update in updates]


def carried(updates: range) -> list[np.ndarray]:
    """A mask for each update, all from one generator, which is made when a run starts or resumes."""
    generator = stream(1, "masks")
    return [bernoulli(generator, 0.5, (8, 8)) for _ in updates]


whole_run = range(6)
resumed_run = range(3, 6)
check("keyed streams: a resumed run draws the same masks", np.array_equal(keyed(whole_run)[3:], keyed(resumed_run)))
first_masks = carried(whole_run)[:3]
check("one generator: a resumed run draws the first masks again", np.array_equal(first_masks, carried(resumed_run)))
check("streams of different purposes differ", stream(1, "weights").random() != stream(1, "masks").random())

# %% [markdown]
# ## How many bits
#
# A float32 has 24 significant bits, about 7 digits, and half the size of a float64. It has three traps. A small term is
# lost in a large sum. `exp` overflows just below 89. And one float64 array in a formula turns all that follows into
# float64. A NumPy scalar such as `np.float64(2)` does that too.
#
# So minizone adds up its losses as Python floats, which are float64, and never takes `exp` of a large number. A
# `Tensor` treats a NumPy scalar as the plain number that was meant.

# %%
x32 = np.ones(3, np.float32)
two = np.float64(2)
check("in float32, 2^24 + 1 is 2^24", np.float32(2**24) + np.float32(1) == 2**24)
check("a float32 array times 2.0 is float32", (x32 * 2.0).dtype == np.float32)
check("a float32 array times np.float64(2) is float64", (x32 * two).dtype == np.float64)
check("a float32 Tensor stays float32", (Tensor(x32) * 2.0).dtype == (Tensor(x32) * two).dtype == np.float32)
with np.errstate(over="ignore"):
    check("exp(89) is infinite, a sigmoid of -89 is 0", np.isinf(np.exp(89 * x32[0])) and sigmoid(-89 * x32[0]) == 0)

# %% [markdown]
# ## What is different in CuPy
#
# An index out of range does not raise an error in CuPy. It wraps around, without a message. So minizone checks its
# tokens itself.
#
# Operations refuse NumPy arrays. Every transfer between CPU and GPU is therefore a visible call.
#
# A call only *queues* work on the GPU and returns. Python waits when it needs a number, as in `float(y)`. A loop that
# reads its loss at every step waits at every step. A time is meaningful only after `synchronize`, which waits for all
# queued work.


# %%
def outcome(f) -> str:
    """What a call does: its result, or the name of its error."""
    try:
        return f"gives {f()}"
    except Exception as error:
        return f"raises {type(error).__name__}"


def token_out_of_range():
    tokens = np.full((T, B), D)  # the valid tokens are 0 to D - 1
    zeros = np.zeros((H, B))
    return lstm(tokens, zeros, zeros, W_x, W_h, np.zeros(4 * H))


found = outcome(token_out_of_range)
check(f"an LSTM that is given a token out of range {found}", found == "raises IndexError")

# %% [markdown]
# ## Three measurements
#
# `main` times three things. The first is the product of a step for growing batches, with examples as columns and as
# rows. All examples of a batch share one reading of the weights, so an example gets cheaper in a larger batch. The
# second is the time to reach a time step in three layouts. The third is how long a product takes to be queued, beside
# the time until its result is there.


# %%
def random_array(device: Device, *shape: int):
    """Normal numbers in float32 on a device."""
    values = stream(2, "numbers", *shape).standard_normal(shape, dtype=np.float32)
    return to_device(values, device)


def microseconds(f, device: Device) -> float:
    """The shortest of 9 runs of ``f``; each includes the wait for its result."""

    def run_and_wait() -> None:
        f()
        synchronize(device)

    return 1e6 * min(timeit.repeat(run_and_wait, number=1, repeat=9))


def time_products(H: int, batches: list[int], device: Device) -> tuple[list[float], list[float]]:
    """Microseconds per example for W @ h with columns as examples, and for h @ W.T with rows as examples."""
    xp = device.xp
    W_h = random_array(device, 4 * H, H)
    W_h_T = xp.ascontiguousarray(W_h.T)  # (H, 4H)
    columns, rows = [], []
    for B in batches:
        h = random_array(device, H, B)
        h_rows = random_array(device, B, H)
        columns.append(microseconds(lambda h=h: W_h @ h, device) / B)
        rows.append(microseconds(lambda h=h_rows: h @ W_h_T, device) / B)
    return columns, rows


# %%
LAYOUTS = {"(T, H, B)": (0, 1, 2), "(B, T, H)": (2, 0, 1), "(H, B, T)": (1, 2, 0)}  # the order of the axes T, H, B


def time_layouts(T: int, H: int, device: Device) -> dict[str, float]:
    """Microseconds per time step of a loop that does little more than read x_t."""
    xp = device.xp
    found = {}
    for layout, axes in LAYOUTS.items():
        stored = xp.ascontiguousarray(random_array(device, T, H, 32).transpose(axes))
        steps = xp.moveaxis(stored, axes.index(0), 0)  # a view with time first

        def walk(steps=steps) -> None:
            s = 0
            for x_t in steps:
                s = 0.9 * s + x_t

        found[layout] = microseconds(walk, device) / T
    return found


# %% [markdown]
# The right panel of the figure shows the masks of a whole run and of a run that was resumed at update 3, for keyed
# streams and for one generator.


# %%
def draw_masks(axis) -> None:
    """Four strips of masks: a whole run and a resumed one, keyed and from one generator."""
    strips = []
    for draw in (keyed, carried):
        for updates in (whole_run, resumed_run):
            missing = 6 - len(updates)
            masks = [np.full((8, 8), 0.5)] * missing + draw(updates)
            framed = [np.pad(mask, ((0, 2), (0, 1)), constant_values=0.5) for mask in masks]  # grey gaps
            strips.append(framed)
    axis.imshow(np.block(strips), cmap="Greys", aspect="auto", interpolation="nearest")
    axis.set(title="masks of a run, and of one resumed at 3", xlabel="update")
    axis.set_xticks(9 * np.arange(6) + 3.5, range(6))
    axis.set_yticks(10 * np.arange(4) + 3.5, ["keyed", "resumed", "one\ngenerator", "resumed"])
    axis.grid(False)


# %%
SIZES = {"small": (256, 50, 64), "quick": (512, 200, 128), "paper": (1000, 784, 512)}  # H, T, the largest B


def main(preset: Preset = "quick", device: DeviceName = "cpu") -> dict[str, object]:
    """Time the product of a step for batches of several sizes, and a loop over time in three layouts."""
    H, T, largest = SIZES[preset]
    where = Device(device)
    xp = where.xp
    batches = [2**k for k in range(10) if 2**k <= largest]

    index = outcome(lambda: xp.arange(3)[xp.asarray([5])])
    operand = outcome(lambda: xp.ones(2) + np.ones(2))
    print(f"on {where.description}: element 5 of an array of 3 {index}, a NumPy array as operand {operand}")

    columns, rows = time_products(H, batches, where)
    check("an example is cheaper in a full batch than alone", columns[-1] < columns[0] and rows[-1] < rows[0])

    W_h = random_array(where, 4 * H, H)
    h = random_array(where, H, largest)
    queued = 1e6 * min(timeit.repeat(lambda: W_h @ h, number=1, repeat=9))  # without the wait
    print(
        f"a call of a product returns after {queued:.0f} us, its result is there after {columns[-1] * largest:.0f} us"
    )

    layouts = time_layouts(T, H, where)

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(11, 3), width_ratios=[1.1, 0.9, 1.2])
    left.loglog(batches, columns, "o-", ms=3, label="columns: $W h$")
    left.loglog(batches, rows, "s--", ms=3, label="rows: $h W^T$")
    left.set(title=f"product of a step, H = {H}", xlabel="examples B", ylabel="microseconds per example")
    left.legend()
    middle.bar(list(layouts), list(layouts.values()), color=["C0", "C1", "C3"])
    middle.set(title="reading a time step", xlabel="layout in memory", ylabel="microseconds")
    draw_masks(right)
    save(figure, "01_arrays")
    return {"batches": batches, "columns_us": columns, "rows_us": rows, "layouts_us": layouts}


# %%
if __name__ == "__main__":
    shared.run(main)

# %% [markdown]
# ## Exercises
#
# 1. Change float32 to float64 in `random_array`. By how much does a product slow down, and the loop over time?
# 2. Let the largest B be 512 in `quick`. From which B on does an example get no cheaper?
# 3. Let `walk` update s in place, `s *= 0.9; s += x_t`. What does a new array at every step cost?
