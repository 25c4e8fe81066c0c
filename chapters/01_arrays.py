# %% [markdown]
# # 1. Arrays on two devices
#
# **Claim.** The mathematics is written once, and the array that comes in says which machine computes. Three habits make
# that safe: columns are examples, randomness is an argument, and every number knows how many bits it has.
#
# Paper: what stands under its equations, and the fresh masks of section 3.2. The same on a GPU, at the sizes of its
# experiments: `python chapters/01_arrays.py --preset paper --device gpu`

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
# CuPy has the functions of NumPy under the same names, for arrays in the memory of a GPU. So a function asks its
# argument for its library, and calls that `xp`: there is no device in the mathematics. Whoever starts a run chooses a
# `Device` and moves the data there, once; `to_host` brings a result back to be printed or drawn.


# %%
def sigmoid(a):
    """1 / (1 + exp(-a)), written with a tanh, which never overflows."""
    xp = array_module(a)
    return 0.5 * xp.tanh(0.5 * a) + 0.5


cpu = Device("cpu")
a = to_device(np.linspace(-3, 3, 6).reshape(3, 2), cpu)
print(f"{cpu.xp.__name__} computes, on {cpu.description}")
check("the result lives where its argument lives", array_module(sigmoid(a)) is cpu.xp)
check("what is there already is not copied", to_host(a) is a and to_device(a, cpu) is a)

# %% [markdown]
# ## Columns are examples
#
# The paper writes a step of a recurrent network as $a_t = W_x x_t + W_h h_{t-1} + b$. We keep letters and order: B
# examples are the B columns of $x_t$ (D, B) and $h_{t-1}$ (H, B), the weights of an LSTM's four gates are $W_x$ (4H, D)
# and $W_h$ (4H, H), and $a_t$ is (4H, B). A sequence is (T, D, B), its states (T, H, B). Many libraries lay examples in
# rows, `h @ W.T`: the same product, transposed. `main` times both, and shows what a batch is for: all its examples
# share the reading of the weights.
#
# Why time first? Memory is one long line, and the last axis of an array lies along it. In (T, D, B) a time step is one
# piece of that line, and so is a gate, H rows of (4H, B). With the examples first, (B, T, D), a step is B pieces far
# apart; with time last, (D, B, T), no two of its numbers are neighbours.

# %%
T, B, D, H, rng = 6, 3, 5, 4, np.random.default_rng(0)
x, W_x, W_h = rng.standard_normal((T, D, B)), rng.standard_normal((4 * H, D)), rng.standard_normal((4 * H, H))
products = W_x @ x[0]  # (4H, B)
check("rows give the same numbers, transposed", np.allclose(x[0].T @ W_x.T, products.T))
check("a time step and a gate are one piece of memory", x[2].data.contiguous and products[H : 2 * H].data.contiguous)
check("... with the examples first a step is not", not np.moveaxis(x, 2, 0).copy()[:, 2].data.contiguous)

# %% [markdown]
# ## Randomness is an argument
#
# Zoneout draws a mask `keep` for every step, 1 where a unit keeps its old value. Suppose it drew it inside the
# function: then no two calls would compute the same function, and the slope between two nearby points would be noise
# divided by a tiny number. With the mask as an argument there is a function, and it has a derivative (chapter 3).


# %%
def loss(w: float, keep: np.ndarray) -> float:
    return float(zone_out(x[0], np.tanh(w * x[0]), keep).sum())


step, derivative = 1e-6, (1 - np.tanh(x[0]) ** 2) * x[0]  # of tanh(w x) by w, at w = 1
one, other = (bernoulli(rng, 0.5, (D, B), np.float64) for _ in range(2))
print(f"slope from one draw of the mask to another: {(loss(1 + step, other) - loss(1, one)) / step:.0f}")
slope = (loss(1 + step, one) - loss(1, one)) / step
check("with one mask for both, the slope is the derivative", abs(slope - ((1 - one) * derivative).sum()) < 1e-4)

# %% [markdown]
# Where do the numbers come from? `stream(seed, purpose, ...)` is a generator made from a hash of its arguments and of
# nothing else. The masks of update 3 are those of `stream(seed, "masks", 3)`, whatever was drawn before: a run that was
# killed goes on there with the masks it would have had, and no state of a generator was ever saved. One generator would
# start anew. Training draws its masks on the CPU and moves them, so one seed means the same masks on both devices.


# %%
def keyed(updates: range) -> list[np.ndarray]:
    return [bernoulli(stream(1, "masks", update), 0.5, (8, 8)) for update in updates]


def carried(updates: range) -> list[np.ndarray]:
    generator = stream(1, "masks")  # made when the run starts, or starts again
    return [bernoulli(generator, 0.5, (8, 8)) for _ in updates]


check("same key, same numbers: a resumed run goes on", np.array_equal(keyed(range(6))[3:], keyed(range(3, 6))))
check("... with one generator it begins anew", np.array_equal(carried(range(6))[:3], carried(range(3, 6))))
check("another purpose, other numbers", stream(1, "weights").random() != stream(1, "masks").random())

# %% [markdown]
# ## How many bits
#
# A float32 has 24 significant bits, about 7 digits, and half the size of a float64. Its traps: a small term is lost in
# a large sum, `exp` overflows just below 89, and one float64 array in a formula turns all that follows into float64.
# So minizone adds up its losses as Python floats, which are float64, and takes `exp` of no large number. A NumPy scalar
# such as `np.float64(2)` spoils float32 too; a `Tensor` takes it for the plain number that was meant.

# %%
x32, two = np.ones(3, np.float32), np.float64(2)
check("float32: counting by ones ends at 2^24", np.float32(2**24) + np.float32(1) == 2**24)
check("2.0 leaves float32 alone, np.float64(2) does not", [(x32 * n).dtype.itemsize for n in (2.0, two)] == [4, 8])
check("a Tensor is left alone by both", [(Tensor(x32) * n).dtype.itemsize for n in (2.0, two)] == [4, 4])
with np.errstate(over="ignore"):
    check("exp(89) is infinite, a sigmoid of -89 is 0", np.isinf(np.exp(89 * x32[0])) and sigmoid(-89 * x32[0]) == 0)

# %% [markdown]
# ## What CuPy does otherwise
#
# An index out of range does not raise: it wraps around in silence. Therefore minizone looks at its tokens itself.
# Operations refuse NumPy arrays: what crosses the bus is moved in sight. And a call only *asks* the GPU and returns;
# `float(y)` is where Python waits. A loop that looks at its loss at every step waits at every step, and a clock that
# does not wait (`synchronize`) measures the asking.


# %%
def outcome(f) -> str:
    try:
        return f"gives {f()}"
    except Exception as error:
        return f"raises {type(error).__name__}"


token, zeros = np.full((T, B), D), np.zeros((H, B))  # there are tokens 0 .. D - 1
found = outcome(lambda: lstm(token, zeros, zeros, W_x, W_h, np.zeros(4 * H)))
check(f"an LSTM that is given a token out of range {found}", found == "raises IndexError")


# %%
def main(preset: Preset = "quick", device: DeviceName = "cpu") -> dict[str, object]:
    """Time the product of a step for batches of several sizes, and a walk through time in three layouts."""
    H, T, largest = {"small": (256, 50, 64), "quick": (512, 200, 128), "paper": (1000, 784, 512)}[preset]
    where, xp, batches = Device(device), Device(device).xp, [2**k for k in range(10) if 2**k <= largest]

    def numbers(*shape: int):
        return to_device(stream(2, "numbers", *shape).standard_normal(shape, dtype=np.float32), where)

    def walk(steps) -> None:  # it hardly computes: what it costs is to get at x_t
        s = 0
        for x_t in steps:
            s = 0.9 * s + x_t

    def microseconds(f, *arguments) -> float:  # the shortest of 9 runs, each waited for
        return 1e6 * min(timeit.repeat(lambda: (f(*arguments), synchronize(where)), number=1, repeat=9))

    index, operand = outcome(lambda: xp.arange(3)[xp.asarray([5])]), outcome(lambda: xp.ones(2) + np.ones(2))
    print(f"on {where.description}: element 5 of an array of 3 {index}, a NumPy array as operand {operand}")
    W_h, h, W_rows = numbers(4 * H, H), numbers(H, largest), xp.ascontiguousarray(numbers(4 * H, H).T)
    columns = [microseconds(xp.matmul, W_h, numbers(H, B)) / B for B in batches]
    rows = [microseconds(xp.matmul, numbers(B, H), W_rows) / B for B in batches]
    check("an example is cheaper in a full batch than alone", columns[-1] < columns[0] and rows[-1] < rows[0])
    asked = 1e6 * min(timeit.repeat(lambda: W_h @ h, number=1, repeat=9))
    print(f"a product asked for in {asked:.0f} us is there after {columns[-1] * largest:.0f} us")
    walks = {}
    for layout, axes in {"(T, H, B)": (0, 1, 2), "(B, T, H)": (2, 0, 1), "(H, B, T)": (1, 2, 0)}.items():
        stored = xp.ascontiguousarray(numbers(T, H, 32).transpose(axes))
        walks[layout] = microseconds(walk, xp.moveaxis(stored, axes.index(0), 0)) / T
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(11, 3), width_ratios=[1.1, 0.9, 1.2])
    left.loglog(batches, columns, "o-", ms=3, label="columns: $W h$")
    left.loglog(batches, rows, "s--", ms=3, label="rows: $h W^T$")
    left.set(title=f"product of a step, H = {H}", xlabel="examples B", ylabel="microseconds per example")
    left.legend()
    middle.bar(list(walks), list(walks.values()), color=["C0", "C1", "C3"])
    middle.set(title="getting at a time step", xlabel="layout in memory", ylabel="microseconds")
    runs = [draw(updates) for draw in (keyed, carried) for updates in (range(6), range(3, 6))]
    strips = [[np.full((8, 8), 0.5)] * (6 - len(masks)) + masks for masks in runs]
    picture = np.block([[np.pad(mask, ((0, 2), (0, 1)), constant_values=0.5) for mask in strip] for strip in strips])
    right.imshow(picture, cmap="Greys", aspect="auto", interpolation="nearest")
    right.set(title="masks of a run, and of one resumed at 3", xlabel="update")
    right.set_xticks(9 * np.arange(6) + 3.5, range(6))
    right.set_yticks(10 * np.arange(4) + 3.5, ["keyed", "resumed", "one\ngenerator", "resumed"])
    right.grid(False)
    save(figure, "01_arrays")
    return {"batches": batches, "columns_us": columns, "rows_us": rows, "walks_us": walks}


# %%
if __name__ == "__main__":
    shared.run(main)

# %% [markdown]
# ## Exercises
#
# 1. Change float32 to float64 in `numbers`. By how much does a product slow down, and a walk?
# 2. Let `largest` be 512 in `quick`. From which B on does an example get no cheaper?
# 3. Let `walk` update s in place, `s *= 0.9; s += x_t`. What does a new array at every step cost?
