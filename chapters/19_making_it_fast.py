# %% [markdown]
# # 19. Making it fast
#
# **Claim.** An LSTM cannot do without its matrix products, so their time is a lower bound, the floor. Everything above
# the floor is overhead, and most of it can be removed without changing the result.
#
# Paper: sections 4.1.1 and 4.3. They have the shapes: 100 steps of 32 examples and 1,000 units; 784 steps of one pixel.
# Both, in milliseconds of your machine: `python chapters/19_making_it_fast.py --preset paper --device gpu`; minizone
# beside PyTorch and JAX: `python benchmarks/lstm.py`, with more care, see `benchmarks/README.md`.

# %%
import sys
import time
from dataclasses import dataclass
from functools import partial

import shared  # finds minizone
import matplotlib.pyplot as plt
import numpy as np
from shared import DeviceName, Preset, check, save

from minizone import Device, Tensor, array_module, lstm
from minizone.autograd.ops import sigmoid, stack, tanh, unstack
from minizone.backend import Array, bernoulli, stream, synchronize, to_host
from minizone.recurrent import sequence
from minizone.recurrent.cells import lstm_unrolled
from minizone.zoneout import zone_out

# %% [markdown]
# ## How to measure
#
# Other programs can only make a function slower, so we take the shortest of several times. The functions take turns, so
# that a disturbance does not hit one of them alone.
#
# Before each turn there is a short pause. After a matrix product the threads of OpenBLAS stay busy for some 20 ms,
# waiting for more work, and would slow down the next function.


# %%
def milliseconds(functions, rounds, device: Device) -> dict[str, float]:
    """The shortest time of each function."""
    times = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            time.sleep(0.03)
            start = time.perf_counter()
            function()
            synchronize(device)
            times[name].append(1000 * (time.perf_counter() - start))
    return {name: min(each) for name, each in times.items()}


# %% [markdown]
# A `Problem` has the arguments of `minizone.lstm`, for T time steps, D inputs, H units and B examples. The last three
# arrays stand for what a backward pass meets on its way: the gradient that arrives, states, and gradients of the
# pre-activations.


# %%
@dataclass
class Problem:
    x: Array  # (T, D, B)
    h0: Array  # (H, B)
    c0: Array  # (H, B)
    W_x: Array  # (4H, D)
    W_h: Array  # (4H, H)
    b: Array  # (4H,)
    keep_h: Array  # (T, H, B)
    keep_c: Array  # (T, H, B)
    dh: Array  # (T, H, B), dLoss/dh
    h: Array  # (T, H, B), any states
    da: Array  # (T, 4H, B), any gradients of the pre-activations


# %%
def random_problem(T, B, D, H, dtype, device: Device) -> Problem:
    rng = stream(0, "problem")

    def normal(*shape, scale=1.0):
        return device.to_device((scale * rng.standard_normal(shape)).astype(dtype))

    return Problem(
        x=normal(T, D, B),
        h0=normal(H, B),
        c0=normal(H, B),
        W_x=normal(4 * H, D, scale=D**-0.5),
        W_h=normal(4 * H, H, scale=H**-0.5),
        b=normal(4 * H),
        keep_h=device.to_device(bernoulli(rng, 0.05, (T, H, B), dtype)),
        keep_c=device.to_device(bernoulli(rng, 0.5, (T, H, B), dtype)),
        dh=normal(T, H, B),
        h=normal(T, H, B),
        da=normal(T, 4 * H, B),
    )


# %% [markdown]
# ## The floor
#
# A step forward multiplies $W_h$ (4H, H) by the states $h_{t-1}$ (H, B). A step back multiplies $W_h^\top$ (H, 4H) by
# $da_t$ (4H, B), the gradient of the pre-activations. Each of these products needs the result of the step before.
#
# The products of the inputs, and the gradients of the weights, do not wait for each other. One product can serve all
# steps (chapter 4).
#
# `floor` returns a function that makes all these products and nothing else, one after the other. An implementation that
# does the same cannot be faster. One that makes two products at the same time, in two threads, can.


# %%
def side_by_side(v: Array) -> Array:
    """(T, R, B) to (R, TB): the columns of all steps."""
    return v.transpose(1, 0, 2).reshape(v.shape[1], -1)


def floor(p: Problem):
    """A function that makes all matrix products of a forward and a backward pass, and nothing else."""
    W_h_T = array_module(p.W_h).ascontiguousarray(p.W_h.T)  # (H, 4H)
    X, P, A = side_by_side(p.x), side_by_side(p.h), side_by_side(p.da)  # (D, TB), (H, TB), (4H, TB)

    def products() -> None:
        p.W_x @ X
        for h in p.h:
            p.W_h @ h
        for da in p.da:
            W_h_T @ da
        A @ P.T  # dW_h
        A @ X.T  # dW_x

    return products


# %% [markdown]
# ## Three ways to compute it
#
# We compare three ways to compute an LSTM and its gradients.
#
# **Tape.** In `lstm_unrolled` every operation of every step is a node of the tape (chapter 2).
#
# **Tape, inputs at once.** The inputs of all steps are multiplied by $W_x$ (4H, D) in one product. With one pixel per
# step there is little to gain by that.


# %%
def inputs_at_once(x, h, c, W_x, W_h, b, *, keep_h, keep_c):
    """`lstm_unrolled` with one product for all inputs."""
    H = len(h)
    from_inputs = unstack(W_x @ x + b.reshape(-1, 1))  # T times (4H, B)
    all_h, all_c = [], []
    for t, from_input in enumerate(from_inputs):
        a = from_input + W_h @ h  # (4H, B)
        i, f = sigmoid(a[:H]), sigmoid(a[H : 2 * H])
        g, o = tanh(a[2 * H : 3 * H]), sigmoid(a[3 * H :])
        new_c = f * c + i * g
        h = zone_out(h, o * tanh(new_c), keep_h[t])
        c = zone_out(c, new_c, keep_c[t])
        all_h.append(h)
        all_c.append(c)
    return stack(all_h), stack(all_c)


# %% [markdown]
# **One node.** `minizone.lstm` is a single node for the whole sequence, with a backward pass written by hand
# (`minizone/recurrent/lstm.py`).
#
# All three must give the same states and the same gradients.

# %%
WAYS = {"tape": lstm_unrolled, "tape, inputs at once": inputs_at_once, "one node": lstm}


def forward_and_back(function, p: Problem):
    """A function that returns h, c, dW_x, dW_h and db, computed in one of the three ways."""

    def run():
        W_x, W_h, b = Tensor(p.W_x), Tensor(p.W_h), Tensor(p.b)
        h, c = function(p.x, p.h0, p.c0, W_x, W_h, b, keep_h=p.keep_h, keep_c=p.keep_c)
        h.backward(p.dh)
        return h.data, c.data, W_x.grad, W_h.grad, b.grad

    return run


# %% [markdown]
# ## Inside the one node
#
# One node needs no bookkeeping for single operations. It also allows the changes below, which do not change the result.
# Each is shown by itself, as a plain and a fast version of one computation.
#
# ### One product for the gradient of the weights
#
# The gradient of $W_h$ is a sum over the steps:
#
# $$dW_h = \sum_{t=1}^{T} da_t \, h_{t-1}^\top$$
#
# These are T products. If the columns of all steps are put side by side, it is one product of (4H, TB) and (TB, H).


# %%
def dW_in_T_products(p: Problem):
    return sum(da @ h.T for da, h in zip(p.da, p.h, strict=True))


def dW_in_one_product(p: Problem):
    return side_by_side(p.da) @ side_by_side(p.h).T


# %% [markdown]
# ### Wide inputs at once
#
# If an input has many features, $W_x$ is a large array. One product for all steps reads it from memory once, and not
# once per step.


# %%
def inputs_step_by_step(p: Problem):
    return array_module(p.x).stack([p.W_x @ x for x in p.x])  # (T, 4H, B)


def inputs_in_one_product(p: Problem):
    T, _, B = p.x.shape
    a = p.W_x @ side_by_side(p.x)  # (4H, TB)
    return a.reshape(-1, T, B).transpose(1, 0, 2)  # (T, 4H, B)


# %% [markdown]
# ### A joined product for narrow inputs
#
# If an input has few features, three arrays are joined into one matrix $[W_h \; b \; W_x]$ (4H, H + 1 + D). The states,
# a row of ones and the inputs are joined as well, to (H + 1 + D, B). One product then replaces two products and two
# additions.


# %%
def two_products(p: Problem):
    b = p.b[:, None]
    return [p.W_h @ h + p.W_x @ x + b for h, x in zip(p.h, p.x, strict=True)]  # (4H, B) each


def joined_product(p: Problem):
    xp = array_module(p.x)
    T, D, B = p.x.shape
    H = p.W_h.shape[1]
    W = xp.concatenate([p.W_h, p.b[:, None], p.W_x], axis=1)  # (4H, H + 1 + D)
    rows = xp.empty((T, H + 1 + D, B), p.x.dtype)
    rows[:, :H] = p.h  # in minizone the loop itself writes its states here
    rows[:, H] = 1
    rows[:, H + 1 :] = p.x
    return [W @ each for each in rows]


# %% [markdown]
# ### Arithmetic in place, without branches
#
# Zoneout with `where` branches on random bits, which a processor cannot predict. Multiplying by the mask needs no
# branch. And if a result is written into an existing array, no new array is allocated. `minizone/kernels/cpu` does that
# for all arithmetic of a step.


# %%
def mix_with_where(p: Problem):
    xp = array_module(p.c0)
    for keep in p.keep_c:
        mixed = xp.where(keep > 0, p.h0, p.c0)
    return mixed


def mix_in_place(p: Problem):
    xp = array_module(p.c0)
    mixed = xp.empty_like(p.c0)
    for keep in p.keep_c:  # new + keep * (old - new)
        xp.subtract(p.h0, p.c0, out=mixed)
        xp.multiply(mixed, keep, out=mixed)
        xp.add(mixed, p.c0, out=mixed)
    return mixed


# %% [markdown]
# ### A second thread for the gradients of the weights
#
# In a long sequence of small steps, the loop over time uses one core only. The gradients of the weights can be computed
# on another core at the same time. A second thread adds up the part of the sequence that is finished, while the loop
# goes on.
#
# For large steps, or few of them, it is better to share each product between the cores, and `minizone.lstm` does that.
# A GPU needs neither.
#
# Here the whole layer is timed, without the second thread and with it. On one core the second thread gains nothing. On
# two free cores it can gain where the steps are small and many, as in MNIST with its 784 steps. Where each product is
# large enough to keep both cores busy, it costs time, so `minizone.lstm` does without it there. How much it is worth
# depends on the processor: `benchmarks/README.md` has the numbers for two.


# %%
def one_node(p: Problem, fewest_parts: int):
    """`minizone.lstm` forward and back, with the second thread where a sequence has at least so many parts."""
    usual = sequence.FEWEST_PARTS
    sequence.FEWEST_PARTS = fewest_parts
    try:
        return forward_and_back(lstm, p)()
    finally:
        sequence.FEWEST_PARTS = usual


def dW_in_the_loop(p: Problem):
    return one_node(p, fewest_parts=sys.maxsize)


def dW_behind_the_loop(p: Problem):
    return one_node(p, fewest_parts=1)


# %% [markdown]
# ### Cheaper masks
#
# The masks of a whole sequence are drawn at once. A uniform number takes 32 random bits. On a CPU a mask takes only 16
# bits per element. In one of 65,536 cases the 16 bits do not decide, and more bits are drawn, so the probability z is
# exact. On a GPU both versions draw uniform numbers.


# %%
def masks_from_uniform(rng, p: Problem):
    uniform = rng.random(p.h.shape, np.float32)
    return (uniform < 0.5).astype(p.h.dtype)


def masks_from_16_bits(rng, p: Problem):
    return bernoulli(rng, 0.5, p.h.shape, p.h.dtype)


# %% [markdown]
# `benchmarks/README.md` says what each change is worth in `minizone.lstm` itself, on two processors.
#
# ## And a GPU?
#
# On a GPU the launch of each kernel takes microseconds, however small the arrays are. So the arithmetic of a step is
# one fused kernel (`minizone/kernels/gpu`). The loop over time is recorded as a CUDA graph, and one launch plays it
# back. This chapter has not been run on a GPU yet.
#
# ## Measurements
#
# First the pairs of plain and fast versions, and the check that both give the same.

# %%
PAIRS = {  # of each change, the plain and the fast version
    "dW_h": {"T products": dW_in_T_products, "one product": dW_in_one_product},
    "inputs": {"step by step": inputs_step_by_step, "at once": inputs_in_one_product},
    "pre-activations": {"two products": two_products, "joined product": joined_product},
    "zoneout": {"where": mix_with_where, "in place": mix_in_place},
    "one node": {"one thread": dW_in_the_loop, "second thread for dW": dW_behind_the_loop},
}


def pairs_for(device: DeviceName):
    """The pairs that make sense on a device."""
    return {name: pair for name, pair in PAIRS.items() if device == "cpu" or name != "one node"}


def largest_difference(a, b) -> float:
    """Between two arrays, or two lists of arrays."""
    if isinstance(a, (list, tuple)):
        return max(largest_difference(x, y) for x, y in zip(a, b, strict=True))
    return float(np.abs(to_host(a) - to_host(b)).max())


def check_all(device: DeviceName) -> None:
    """The three ways give the same, and both versions of each pair."""
    p = random_problem(16, 7, 3, 5, np.float64, Device(device))
    first, *others = [forward_and_back(function, p)() for function in WAYS.values()]
    off = max(largest_difference(first, other) for other in others)
    check("all ways give the same states and the same gradients", off < 1e-11)
    for name, pair in pairs_for(device).items():
        plain, fast = (version(p) for version in pair.values())
        check(f"{name}: both versions give the same", largest_difference(plain, fast) < 1e-11)


# %% [markdown]
# Then all functions that are timed, with their names.


# %%
def functions_to_time(p: Problem, device: DeviceName):
    """The floor, the three ways, and both versions of each pair, as functions without arguments."""
    functions = {"floor": floor(p)}
    for name, function in WAYS.items():
        functions[name] = forward_and_back(function, p)
    for name, pair in pairs_for(device).items():
        for version, function in pair.items():
            functions[f"{name}: {version}"] = partial(function, p)
    rng = stream(0, "masks", device=Device(device))
    functions["masks: uniform"] = partial(masks_from_uniform, rng, p)
    functions["masks: 16 bits"] = partial(masks_from_16_bits, rng, p)
    return functions


# %% [markdown]
# The shapes are those of two experiments of the paper. The quick preset has shorter sequences or fewer units.

# %%
SHAPES = {  # T, B, D, H
    "small": {"like pMNIST": (30, 16, 1, 16), "like char-PTB": (10, 8, 50, 64)},
    "quick": {"like pMNIST": (196, 100, 1, 100), "like char-PTB": (100, 32, 50, 256)},
    "paper": {"pMNIST": (784, 100, 1, 100), "char-PTB": (100, 32, 50, 1000)},
}
ROUNDS = {"small": 5, "quick": 5, "paper": 9}


def draw_ways(axis, times: dict[str, float]) -> None:
    """The times of the three ways as bars, with the floor as a line."""
    names = list(WAYS)[::-1]
    bars = axis.barh(names, [times[name] for name in names])
    axis.bar_label(bars, fmt=" %.0f ms")
    axis.axvline(times["floor"], color="C3", label="floor: matrix products alone")
    axis.set(xmargin=0.3, xlabel="milliseconds, forward and backward")
    axis.grid(axis="y", visible=False)


def draw_pairs(axis, times: dict[str, float], device: DeviceName) -> None:
    """How many times faster than the plain version the fast version of each pair is."""
    versions = {name: list(pair) for name, pair in pairs_for(device).items()}
    versions["masks"] = ["uniform", "16 bits"]
    labels, ratios = [], []
    for name, (plain, fast) in reversed(versions.items()):
        labels.append(f"{name}: {fast}")
        ratios.append(times[f"{name}: {plain}"] / times[f"{name}: {fast}"])
    bars = axis.barh(labels, ratios, color=["C2" if ratio > 1 else "0.6" for ratio in ratios])
    axis.bar_label(bars, fmt=" %.2f")
    axis.axvline(1, color="0.3", lw=0.8)
    axis.set(xmargin=0.2, xlabel="time of the plain version / time of the fast version")
    axis.grid(axis="y", visible=False)


# %%
def draw(found: dict[str, dict[str, float]], shapes: dict[str, tuple], device: DeviceName) -> None:
    """A column for each shape: the three ways above, the pairs below."""
    figure, axes = plt.subplots(2, 2, figsize=(11, 5.8), height_ratios=[1, 1.6])
    for column, (name, (T, B, D, H)) in zip(axes.T, shapes.items(), strict=True):
        draw_ways(column[0], found[name])
        draw_pairs(column[1], found[name], device)
        column[0].set_title(f"{name}\nsteps {T}, examples {B}, inputs {D}, units {H}", fontsize=9)
    figure.suptitle(Device(device).description, fontsize=9)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center")
    save(figure, "19_making_it_fast")


# %%
def main(preset: Preset = "quick", device: DeviceName = "cpu") -> dict[str, dict[str, float]]:
    """Are all ways equal, and how long do they take?"""
    check_all(device)
    found = {}
    for name, shape in SHAPES[preset].items():
        p = random_problem(*shape, np.float32, Device(device))
        times = milliseconds(functions_to_time(p, device), ROUNDS[preset], Device(device))
        found[name] = times
        print(f"{name}, T, B, D, H = {shape}, on {Device(device).description}:")
        for function, ms in times.items():
            print(f"{function:36s}{ms:10.2f} ms{ms / times['floor']:9.2f} x the floor")
        check(f"{name}: on a CPU one node beats the tape", device == "gpu" or times["one node"] < times["tape"])
    draw(found, SHAPES[preset], device)
    return found


# %%
if __name__ == "__main__":
    shared.run(main)

# %% [markdown]
# ## In the figure
#
# Above: the one node is much closer to the floor than the tape. Multiplying all inputs at once can make the tape faster
# where the inputs are wide (right). With one input (left) there is nothing to gain, and joining and cutting the arrays
# costs time. What is left above the floor is the arithmetic of the gates, the masks, and the calls from Python.
#
# Below: each change by itself. A ratio above 1 (green) means that the fast version is faster, and a ratio near 1 may be
# chance.
# The joined product gains more where inputs are narrow (left). The one product for $dW_h$ gains nothing there, because
# its time includes the copy that puts the columns side by side. A large ratio is not a large gain if the computation is
# a small part of the whole. The printed times show how large each part is.
#
# ## What to take away
#
# - Measure a lower bound first. It says how much can be gained at all.
# - One node with a backward pass by hand removes most of the overhead of a tape.
# - Every fast version needs a check that it gives the same as the plain one.
# - Measure on your own shapes. A change that helps one shape can slow down another.
#
# ## Exercises
#
# 1. Take the shape of char-PTB with H = 8 and with H = 256. How many times the floor are the tape and the one node, and
#    why?
# 2. Start with `OMP_NUM_THREADS=1`. Which times change, and which do not?
# 3. Add a way of your own to `WAYS`: `inputs_at_once` with one tanh for all four gates. Is it faster?
