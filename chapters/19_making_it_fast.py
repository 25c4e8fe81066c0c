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
# The functions to be compared take turns, so that a disturbance of the machine hits all of them. The result is the
# shortest time of each, because other programs can only make a function slower. Before each turn there is a short
# pause: after a matrix product the threads of OpenBLAS wait in a loop for more work, for some 20 ms, and keep a core
# busy.


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
# A problem has the arguments of `minizone.lstm`, and random arrays in the place of the gradients that arrive.


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
# A step forward multiplies $W_h$ (4H, H) by $h_{t-1}$ (H, B). A step back multiplies $W_h^\top$ (H, 4H) by $da_t$
# (4H, B), the gradient of the pre-activations. These products need the result of the step before. The products of the
# inputs and the gradients of the weights can be made for all steps at once (chapter 4).


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
# ## The ladder
#
# The slowest way is `lstm_unrolled`: every operation of every step is a node of the tape.
#
# In the second way the inputs of all steps are multiplied by $W_x$ at once. With one pixel per step there is little to
# gain by that.


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
# The third way is `minizone.lstm`: one node for the whole sequence, with a backward pass written by hand
# (`minizone/recurrent/lstm.py`). All three give the same states and the same gradients.

# %%
LADDER = {"tape": lstm_unrolled, "tape, inputs at once": inputs_at_once, "one node": lstm}


def forward_and_back(function, p: Problem):
    """A function that returns h, c, dW_x, dW_h and db, for one way of the ladder."""

    def run():
        W_x, W_h, b = Tensor(p.W_x), Tensor(p.W_h), Tensor(p.b)
        h, c = function(p.x, p.h0, p.c0, W_x, W_h, b, keep_h=p.keep_h, keep_c=p.keep_c)
        h.backward(p.dh)
        return h.data, c.data, W_x.grad, W_h.grad, b.grad

    return run


# %% [markdown]
# ## Inside the one node
#
# One node saves the bookkeeping of the tape. The rest of the difference comes from a few changes that do not change
# the result. Each is shown below by itself, as a plain and a fast version of the same computation.
#
# **One product for the gradient of the weights.** The sum $dW_h = \sum_t da_t\, h_{t-1}^\top$ looks like T products. It
# is one product, (4H, TB) times (TB, H): the columns of all steps side by side.


# %%
def dW_in_T_products(p: Problem):
    return sum(da @ h.T for da, h in zip(p.da, p.h, strict=True))


def dW_in_one_product(p: Problem):
    return side_by_side(p.da) @ side_by_side(p.h).T


# %% [markdown]
# **Wide inputs at once.** If an input has many features, $W_x$ is large. One product for many steps reads it once, and
# not once per step.


# %%
def inputs_step_by_step(p: Problem):
    return array_module(p.x).stack([p.W_x @ x for x in p.x])  # (T, 4H, B)


def inputs_in_one_product(p: Problem):
    T, _, B = p.x.shape
    a = p.W_x @ side_by_side(p.x)  # (4H, TB)
    return a.reshape(-1, T, B).transpose(1, 0, 2)  # (T, 4H, B)


# %% [markdown]
# **A joined product for narrow inputs.** If an input has few features, the weights are joined into one matrix
# $[W_h \; b \; W_x]$ (4H, H + 1 + D), and the states, a row of ones and the inputs into one array. One product then
# replaces two products and two additions. The pre-activations (4H, B) are written once.


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
# **Arithmetic in place, without branches.** Zoneout with `where` branches on random bits, which a processor cannot
# predict. Multiplying by the mask needs no branch. And writing the result into an array that exists already saves the
# allocation of a new one at every operation. `minizone/kernels/cpu` does that for all the arithmetic of a step.


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
# **Gradients of the weights in a thread behind the loop.** In a long sequence of small steps the loop keeps only one
# core busy. The gradients of the weights do not have to wait for its end. A second thread adds up the part of the
# sequence that is finished, while the loop goes on. During that time every matrix product uses one core only. For large
# steps, or a few of them, it is better to share each product between the cores, and minizone does that. A GPU needs
# neither. Here the whole layer is timed, once without the second thread and once with it. The problems of the quick
# preset are too short to gain by it. With the 784 steps of MNIST (preset paper) it pays; `benchmarks/README.md` has the
# numbers.


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
# **Cheaper masks.** The masks of a whole sequence are drawn at once. On a CPU a mask takes 16 random bits per element,
# a uniform number takes 32. If the 16 bits fall exactly on the boundary, which is one case in 65,536, more bits are
# drawn, so that z is exact. (On a GPU both draws are uniform numbers.)


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
# On a GPU every launch of a kernel takes microseconds, however small the arrays are. So the arithmetic of a step is one
# fused kernel (`minizone/kernels/gpu`), and the loop is recorded as a CUDA graph, which is played back with one launch.
# This chapter has not been run on a GPU yet.

# %%
PAIRS = {  # the same result, plain and fast
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


# %%
def check_all(device: DeviceName) -> None:
    """All ways of the ladder give the same, and both versions of each pair."""
    p = random_problem(16, 7, 3, 5, np.float64, Device(device))
    first, *others = [forward_and_back(function, p)() for function in LADDER.values()]
    off = max(largest_difference(first, other) for other in others)
    check("all ways give the same states and the same gradients", off < 1e-11)
    for name, pair in pairs_for(device).items():
        plain, fast = (version(p) for version in pair.values())
        check(f"{name}: both versions give the same", largest_difference(plain, fast) < 1e-11)


def functions_to_time(p: Problem, device: DeviceName):
    """The floor, the ladder, and both versions of each pair, as functions without arguments."""
    functions = {"floor": floor(p)}
    for name, function in LADDER.items():
        functions[name] = forward_and_back(function, p)
    for name, pair in pairs_for(device).items():
        for version, function in pair.items():
            functions[f"{name}: {version}"] = lambda function=function: function(p)
    rng = stream(0, "masks", device=Device(device))
    functions["masks: uniform"] = lambda: masks_from_uniform(rng, p)
    functions["masks: 16 bits"] = lambda: masks_from_16_bits(rng, p)
    return functions


# %%
SHAPES = {  # T, B, D, H
    "small": {"like pMNIST": (30, 16, 1, 16), "like char-PTB": (10, 8, 50, 64)},
    "quick": {"like pMNIST": (196, 100, 1, 100), "like char-PTB": (100, 32, 50, 256)},
    "paper": {"pMNIST": (784, 100, 1, 100), "char-PTB": (100, 32, 50, 1000)},
}
ROUNDS = {"small": 5, "quick": 5, "paper": 9}


def main(preset: Preset = "quick", device: DeviceName = "cpu") -> dict[str, dict[str, float]]:
    """Are all ways equal, and how long do they take?"""
    check_all(device)
    found = {}
    figure, axes = plt.subplots(1, 2, figsize=(10, 2.4))
    for axis, (name, shape) in zip(axes, SHAPES[preset].items(), strict=True):
        p = random_problem(*shape, np.float32, Device(device))
        times = milliseconds(functions_to_time(p, device), ROUNDS[preset], Device(device))
        found[name] = times
        print(f"{name}, T, B, D, H = {shape}, on {Device(device).description}:")
        for function, ms in times.items():
            print(f"{function:36s}{ms:10.2f} ms{ms / times['floor']:9.2f} x the floor")
        check(f"{name}: on a CPU one node beats the tape", device == "gpu" or times["one node"] < times["tape"])
        draw(axis, times, f"{name}, T, B, D, H = {shape}")
    save(figure, "19_making_it_fast")
    return found


def draw(axis, times: dict[str, float], title: str) -> None:
    """The ladder as bars, with the floor as a line."""
    names = list(LADDER)[::-1]
    bars = axis.barh(names, [times[name] for name in names])
    axis.bar_label(bars, fmt="%.3g")
    axis.axvline(times["floor"], color="C3")
    axis.set(title=title, xmargin=0.12, xlabel="milliseconds (line: the floor)")


# %%
if __name__ == "__main__":
    shared.run(main)

# %% [markdown]
# ## Exercises
#
# 1. Make both shapes narrower, H = 8, and wider, H = 512. Where does the second thread begin to pay?
# 2. Start with `OMP_NUM_THREADS=1`. Which times change, and which do not?
# 3. Add a way of your own to the ladder: `inputs_at_once` with one tanh for all four gates. What does it gain?
