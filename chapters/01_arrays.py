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
# "The paper", in all chapters, is Krueger et al. (2017), *Zoneout: Regularizing RNNs by Randomly Preserving Hidden
# Activations*.
#
# A recurrent network reads a sequence one time step after the other. It has a *state*: an array of numbers that it
# updates at every step. Zoneout is a method for training such a network. At every step, some of the numbers, chosen at
# random, keep their old value. This chapter is about the arrays, before any network is trained.
#
# ## One program, two libraries
#
# NumPy keeps its arrays in the main memory. CuPy has the same functions for arrays in the memory of a GPU. A function
# of minizone asks for the library of its argument and calls it `xp`. The mathematics does not mention a device.


# %%
def sigmoid(a):
    """1 / (1 + exp(-a)), written with a tanh, which never overflows."""
    xp = array_module(a)
    return 0.5 * xp.tanh(0.5 * a) + 0.5


# %% [markdown]
# A run chooses a `Device` and moves its data there once, with `to_device`. `to_host` copies a result back to NumPy, so
# that it can be printed or drawn. Neither function copies an array that is already where it should be.

# %%
cpu = Device("cpu")
a = to_device(np.linspace(-3, 3, 6).reshape(3, 2), cpu)
print(f"{cpu.xp.__name__} computes, on {cpu.description}")
check("the result lives where its argument lives", array_module(sigmoid(a)) is cpu.xp)
check("an array that is already there is not copied", to_host(a) is a and to_device(a, cpu) is a)

# %% [markdown]
# ## Columns are examples
#
# A network processes a batch of examples at once. We write T for the number of time steps, B for the examples in a
# batch, D for the input features and H for the hidden units, which are the numbers in the state of one example.
#
# The input of step $t$ is $x_t$ (D, B), and the state before the step is $h_{t-1}$ (H, B). Each example is one column.
# A step starts with two matrix products. The paper writes
#
# $$a_t = W_x x_t + W_h h_{t-1} + b$$
#
# and we keep its letters and their order. An LSTM, the recurrent network of most chapters, computes four arrays of H
# rows from $a_t$: three *gates* and a proposal (chapter 4). So $a_t$ is (4H, B), the weights are $W_x$ (4H, D) and
# $W_h$ (4H, H), and the bias $b$ (4H,) is added to every column.
#
# A whole sequence is an array (T, D, B), and its states are (T, H, B). Many libraries put the examples into rows and
# write `h @ W.T`. That is the same product, transposed.

# %%
T, B, D, H = 6, 3, 5, 4
rng = np.random.default_rng(0)
x = rng.standard_normal((T, D, B))
W_x = rng.standard_normal((4 * H, D))
W_h = rng.standard_normal((4 * H, H))
products = W_x @ x[0]  # (4H, B)
check("rows give the same numbers, transposed", np.allclose(x[0].T @ W_x.T, products.T))

# %% [markdown]
# Why is time the first axis? Memory is one long line, and elements along the last axis of an array are neighbors in
# it. In (T, D, B) a time step is one contiguous piece. A gate is one too: H rows of (4H, B). In (B, T, D) a time step
# is B separate pieces. In (D, B, T) no two numbers of a time step are neighbors. `main` measures what that costs.

# %%
gate = products[H : 2 * H]  # (H, B)
examples_first = np.moveaxis(x, 2, 0).copy()  # (B, T, D)
check("a time step and a gate are contiguous in memory", x[2].data.contiguous and gate.data.contiguous)
check("with the examples first, a time step is not contiguous", not examples_first[:, 2].data.contiguous)

# %% [markdown]
# ## Randomness is an argument
#
# Zoneout needs a mask `keep` at every step. It is 1 where a unit keeps its old value, and 0 elsewhere. We draw the
# mask first and pass it to the function that needs it. The function below computes a small loss this way. In it,
# `zone_out(old, new, keep)` is `keep * old + (1 - keep) * new` (chapter 5).


# %%
def loss(w: float, keep: np.ndarray) -> float:
    """The sum of a state after zoneout, as a function of one weight."""
    return float(zone_out(x[0], np.tanh(w * x[0]), keep).sum())


# %% [markdown]
# Suppose the function drew the mask itself. Two calls would then have different masks, so they would not compute the
# same function. The slope between two nearby points would be a random difference divided by a tiny number. With the
# mask as an argument there is one function, and it has a derivative. Only the new values depend on the weight w, so the
# derivative is the sum of $(1 - k) (1 - \tanh^2(w x)) x$ over all elements, for a mask k.

# %%
mask = bernoulli(rng, 0.5, (D, B), np.float64)
other_mask = bernoulli(rng, 0.5, (D, B), np.float64)
step = 1e-6
noisy_slope = (loss(1 + step, other_mask) - loss(1, mask)) / step
slope = (loss(1 + step, mask) - loss(1, mask)) / step
derivative = ((1 - mask) * (1 - np.tanh(x[0]) ** 2) * x[0]).sum()  # of the loss by w, at w = 1
print(f"another mask at each point: slope {noisy_slope:.0f}")
print(f"the same mask: slope {slope:.4f}, derivative {derivative:.4f}")
check("with the same mask at both points, the slope is the derivative", abs(slope - derivative) < 1e-4)

# %% [markdown]
# Where do the random numbers come from? `stream(seed, purpose, ...)` makes a generator from a hash of its arguments,
# and from nothing else. The masks of update 3 come from `stream(seed, "masks", 3)`, whatever was drawn before. So a run
# that was stopped continues with the right masks, and no generator has to be saved.
#
# Compare this with one generator for the whole run. A resumed run makes a new one, which starts again from its first
# number. The two functions below draw a mask for each update in the two ways.


# %%
def keyed(updates: range) -> list[np.ndarray]:
    """A mask for each update, from a stream of its own."""
    return [bernoulli(stream(1, "masks", update), 0.5, (8, 8)) for update in updates]


def carried(updates: range) -> list[np.ndarray]:
    """A mask for each update, all from one generator, which is made when a run starts or resumes."""
    generator = stream(1, "masks")
    return [bernoulli(generator, 0.5, (8, 8)) for _ in updates]


# %% [markdown]
# In training the CPU draws the masks and moves them to the device. So one seed gives the same masks on both devices.

# %%
whole_run = range(6)
resumed_run = range(3, 6)
check("keyed streams: a resumed run draws the same masks", np.array_equal(keyed(whole_run)[3:], keyed(resumed_run)))
first_masks = carried(whole_run)[:3]
check("one generator: a resumed run draws the first masks again", np.array_equal(first_masks, carried(resumed_run)))
check("streams of different purposes differ", stream(1, "weights").random() != stream(1, "masks").random())

# %% [markdown]
# ## How many bits
#
# A float32 has 24 significant bits, about 7 digits, and half the size of a float64. Three things go wrong easily:
#
# - A small term is lost in a large sum.
# - `exp` overflows just below 89.
# - One float64 array in a formula makes the result float64, and so everything that is computed from it. A NumPy scalar
#   such as `np.float64(2)` does that too.
#
# So minizone adds up its losses as Python floats, which have 64 bits, and never takes `exp` of a large number. A
# `Tensor`, which is an array that can have a gradient (chapter 2), treats a NumPy scalar like a plain Python number.

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
# An index out of range raises no error in CuPy. It wraps around. So minizone checks by itself that its tokens, the
# integers that stand for characters or words, are valid.
#
# CuPy's operations refuse NumPy arrays. Every transfer between CPU and GPU is therefore a visible call.
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
# `main` times three things:
#
# 1. The product $W_h h$ for growing batches, with examples as columns and as rows. All examples of a batch share one
#    reading of the weights, so an example gets cheaper in a larger batch.
# 2. The time to read a time step, in three layouts.
# 3. The time until the call of a product returns, and the time until its result is there.
#
# Each time is the shortest of nine runs, since other programs can only make a run slower.


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


# %% [markdown]
# The first measurement divides the time of a product by the number of examples.


# %%
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


# %% [markdown]
# The second walks through the time steps of an array whose axes are stored in one of three orders. The arithmetic is
# small, so that reading $x_t$ takes a large part of the time.

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
# The figure shows the first two measurements. Below them it shows the masks of a whole run, and those of a run that was
# resumed at update 3.


# %%
def draw_masks(axis) -> None:
    """Four strips of masks: a whole run and a resumed one, keyed and from one generator."""
    strips = []
    for draw_mask in (keyed, carried):
        for updates in (whole_run, resumed_run):
            missing = 6 - len(updates)
            masks = [np.full((8, 8), 0.5)] * missing + draw_mask(updates)
            framed = [np.pad(mask, ((0, 2), (0, 1)), constant_values=0.5) for mask in masks]  # gray gaps
            strips.append(framed)
    axis.imshow(np.block(strips), cmap="Greys", aspect="auto", interpolation="nearest")
    axis.set(title="masks of six updates (black: the unit keeps its old value)", xlabel="update")
    axis.set_xticks(9 * np.arange(6) + 3.5, range(6))
    names = ["keyed streams", "keyed streams,\nresumed at 3", "one generator", "one generator,\nresumed at 3"]
    axis.set_yticks(10 * np.arange(4) + 3.5, names)
    axis.grid(False)


def draw(T: int, H: int, batches: list[int], columns: list[float], rows: list[float], layouts: dict) -> None:
    figure, axes = plt.subplot_mosaic([["products", "layouts"], ["masks", "masks"]], figsize=(8.5, 5.6))
    axes["products"].loglog(batches, columns, "o-", ms=4, label="examples as columns, $W_h h$")
    axes["products"].loglog(batches, rows, "s--", ms=4, label="examples as rows, $h W_h^T$")
    axes["products"].set(title=f"time of a product, H = {H}", xlabel="examples B", ylabel="microseconds per example")
    axes["products"].set_xticks(batches, batches, minor=False)
    axes["products"].minorticks_off()
    axes["products"].set_yticks([3, 10, 30, 100, 300], [3, 10, 30, 100, 300])
    axes["products"].legend(loc="upper center", bbox_to_anchor=(0.5, -0.2))
    axes["layouts"].bar(list(layouts), list(layouts.values()), width=0.6)
    axes["layouts"].set(title=f"time to read one of {T} time steps, B = 32")
    axes["layouts"].set(xlabel="order of the axes in memory", ylabel="microseconds")
    draw_masks(axes["masks"])
    save(figure, "01_arrays")


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
    done = columns[-1] * largest
    print(f"a call of the product returns after {queued:.0f} us; with synchronize it takes {done:.0f} us")

    layouts = time_layouts(T, H, where)
    draw(T, H, batches, columns, rows, layouts)
    return {"batches": batches, "columns_us": columns, "rows_us": rows, "layouts_us": layouts}


# %%
if __name__ == "__main__":
    shared.run(main)

# %% [markdown]
# ## In the figure
#
# Above, left: an example costs several times less in a large batch than in one of two examples. A batch of one is
# special: the product of a matrix and a single vector has a faster routine of its own. Columns and rows are about
# equally fast for most sizes. Right: a time step is read fastest where it is one contiguous piece of memory, and most
# slowly where time is the last axis.
#
# The third measurement is printed. On a CPU the call returns when the result is there, so the two times differ by
# chance only. On a GPU the first one would be much shorter.
#
# Below: with keyed streams, the resumed run has the masks of updates 3, 4 and 5 of the whole run. With one generator it
# has those of updates 0, 1 and 2 instead.

# %% [markdown]
# ## What to take away
#
# - A function asks its argument for the array library, so the same lines run on the CPU and on the GPU.
# - Time comes first and examples come last, so a time step is one contiguous piece of memory.
# - A mask is an argument. With the same mask, a function can be differentiated, checked and repeated.
# - Random numbers are keyed by seed, purpose and update, so a resumed run draws what the whole run would have drawn.
#
# ## Exercises
#
# 1. Use float64 in place of float32 for `W_h` and `h`. By how much does the product slow down? How far apart are the
#    two results?
# 2. Save the state of the one generator after update 2 (`generator.bit_generator.state`), and set it when the run
#    resumes. Are the masks right now? Which advantage do keyed streams have all the same?
# 3. Let `walk` update `s` in place: `s *= 0.9`, then `s += x_t`. Does the result change? What happens to the data if
#    `s` starts as `steps[0]` in place of 0?
