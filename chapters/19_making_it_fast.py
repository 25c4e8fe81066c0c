# %% [markdown]
# # 19. Making it fast
#
# **Claim.** The matrix products of an LSTM are work that nobody can leave out: they are the floor. What stands above it
# is overhead, and most of it can be taken away without changing what is computed.
#
# Paper: sections 4.1.1 and 4.3. They have the shapes: 100 steps of 32 examples and 1,000 units; 784 steps of one pixel.
# Both, in milliseconds of your machine: `python chapters/19_making_it_fast.py --preset paper --device gpu`; minizone
# beside PyTorch and JAX: `python benchmarks/lstm.py`, with more care, see `benchmarks/README.md`.

# %%
import os
import time
from unittest.mock import patch

import shared  # finds minizone; before NumPy, to which minizone says how long its threads shall wait
import matplotlib.pyplot as plt
import numpy as np
from shared import DeviceName, Preset, check, save

from minizone import Device, Tensor, array_module, kernels, lstm
from minizone.recurrent import sequence
from minizone.backend import bernoulli, stream, synchronize, to_host
from minizone.recurrent.cells import lstm_unrolled
from minizone.autograd.ops import sigmoid, stack, tanh, unstack
from minizone.zoneout import zone_out


def milliseconds(ways, rounds, device):
    """The median time of each. They take turns, so what disturbs the machine disturbs all of them."""
    found = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            synchronize(Device(device))
            found[name].append(1000 * (time.perf_counter() - start))
    return {name: float(np.median(each[1:])) for name, each in found.items()}  # the first one warms up


# %% [markdown]
# ## The floor
#
# With examples as columns, x (T, D, B) and h (T, H, B), a step forward multiplies W_h (4H, H) by h (H, B), and a step
# back $W_h^\top$ (H, 4H) by da (4H, B), dLoss/d(pre-activations); the inputs and the gradients of the weights take
# their products too. In this layout a gate is a block of rows of (4H, B), one piece of memory.


# %%
def problem(T, B, D, H, dtype, device):
    rng, shapes = stream(0, "problem"), {"x": (T, D, B), "h0": (H, B), "c0": (H, B), "dh": (T, H, B)}
    p = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    p |= {n: rng.standard_normal((4 * H, k)) * k**-0.5 for n, k in (("W_x", D), ("W_h", H), ("b", 1))}
    p |= {"b": p["b"][:, 0], "keep_h": bernoulli(rng, 0.05, (T, H, B)), "keep_c": bernoulli(rng, 0.5, (T, H, B))}
    p["da"] = np.concatenate([p["dh"]] * 4, axis=1)  # (T, 4H, B): any numbers will do for the floor
    return {name: Device(device).to_device(value.astype(dtype)) for name, value in p.items()}


def floor(p):
    """All matrix products of a way forward and back, and nothing else."""
    x, h, da, W_h, T = p["x"], p["dh"], p["da"], p["W_h"], len(p["x"])
    W_T, columns = array_module(h).ascontiguousarray(W_h.T), [v.reshape(-1, T * x.shape[-1]) for v in (da, h, x)]
    loops = [lambda: p["W_x"] @ x, lambda: [W_h @ h[t] for t in range(T)], lambda: [W_T @ da[t] for t in range(T)]]
    return lambda: [*(loop() for loop in loops), columns[0] @ columns[1].T, columns[0] @ columns[2].T]


# %% [markdown]
# ## The same result for less
#
# Three pairs. The gradient $dW_h = \sum_t da_t\, h_{t-1}^\top$ looks like T products and is one, (4H, T B) times
# (T B, H): the columns of all steps side by side. A mix by `where` branches on random bits, which no processor can
# guess; a multiplication by the mask, into an array that is there already, does not. And the masks of a whole sequence
# are drawn at once; on a CPU from 16 random bits an element where a uniform number takes 32, and the one element in
# 65,536 that falls on the boundary is drawn once more, so that z is exact. (On a GPU both draws are uniform numbers.)


# %%
def pairs(p, device):
    xp, (T, H, B), rng = array_module(p["dh"]), p["dh"].shape, stream(0, "masks", device=Device(device))
    da, h, keep, old, new = p["da"], p["dh"], p["keep_c"], p["h0"], p["c0"]
    on, out = keep > 0, xp.empty((H, B), h.dtype)

    def one_product():
        return da.transpose(1, 0, 2).reshape(4 * H, T * B) @ h.transpose(1, 0, 2).reshape(H, T * B).T

    def multiplied(t):  # new + keep * (old - new)
        xp.multiply(xp.subtract(old, new, out=out), keep[t], out=out)
        return xp.add(out, new, out=out)

    return {
        "dW_h, T products": lambda: sum(da[t] @ h[t].T for t in range(T)),
        "dW_h, one product": one_product,
        "T mixes, where": lambda: [xp.where(on[t], old, new) for t in range(T)][-1],
        "T mixes, multiplied": lambda: [multiplied(t) for t in range(T)][-1],
        "masks, uniform": lambda: (rng.random((T, H, B), xp.float32) < 0.5).astype(h.dtype),
        "masks, 16 bits": lambda: bernoulli(rng, 0.5, (T, H, B), h.dtype),
    }


# %% [markdown]
# ## The ladder
#
# At the bottom `lstm_unrolled`: every operation of every step is a node of the tape. One rung up, the inputs of all
# steps meet W_x at once; for one pixel a step that is no gain. Then `minizone.lstm`: one node for the whole sequence,
# its derivative by hand, the pointwise part in place (`minizone/kernels/cpu`). The last rung forces threads on it.


# %%
def inputs_first(x, h, c, W_x, W_h, b, *, keep_h, keep_c):
    steps, H = [], len(h)
    for t, projected in enumerate(unstack(W_x @ x + b.reshape(-1, 1))):
        a = projected + W_h @ h  # (4H, B)
        i, f, g, o = sigmoid(a[:H]), sigmoid(a[H : 2 * H]), tanh(a[2 * H : 3 * H]), sigmoid(a[3 * H :])
        candidate = f * c + i * g
        h, c = zone_out(h, o * tanh(candidate), keep_h[t]), zone_out(c, candidate, keep_c[t])
        steps.append((h, c))
    return [stack(list(each)) for each in zip(*steps, strict=True)]


def ladder(p):
    def rung(function, blocks=sequence.WORTH_BLOCKS, follower=sequence.WORTH_FOLLOWER, cores=sequence.cores):
        def once():  # forward, and back from dLoss/dh
            W = [Tensor(p[name]) for name in ("W_x", "W_h", "b")]
            with patch.multiple(sequence, WORTH_BLOCKS=blocks, WORTH_FOLLOWER=follower, cores=cores):
                h, c = function(p["x"], p["h0"], p["c0"], *W, keep_h=p["keep_h"], keep_c=p["keep_c"])
                h.backward(p["dh"])
            return [h.data, c.data, *(w.grad for w in W)]

        return once

    return {
        "tape": rung(lstm_unrolled),
        "tape, inputs at once": rung(inputs_first),
        "one node": rung(lstm, np.inf, np.inf),
        "threads where worth it": rung(lstm),
        "threads always": rung(lstm, 0, 1, lambda: 2),
    }


# %% [markdown]
# ## Threads
#
# Examples do not meet inside a layer. Where a step is large, each core takes a block of columns through all steps and
# waits for nobody (`minizone/recurrent/sequence.py`). In a long sequence of small steps a second thread follows the
# loop back and
# adds up the gradients of the weights. Everywhere else "one node" and "threads where worth it" run the same code, for
# where a call takes microseconds threads lose: between two calls of NumPy each needs the interpreter's lock, and they
# spend their time handing it over. OpenBLAS has threads of its own. Out of work, they keep a core for a while, which
# `OPENBLAS_THREAD_TIMEOUT` makes short; beside another busy program they can make small products many times slower.
#
# ## And a GPU?
#
# There a launch takes microseconds, however small the array. So the pointwise part of a step is one fused kernel, and
# the loop is recorded as a CUDA graph, played back with one launch. No GPU has run this chapter yet. For each device:

# %%
print("minizone/kernels:", sorted(name for name in os.listdir(kernels.__path__[0]) if name[0] != "_"))
print("OPENBLAS_THREAD_TIMEOUT:", os.environ["OPENBLAS_THREAD_TIMEOUT"], "(2 to this power, in cycles)")


# %%
def main(preset: Preset = "quick", device: DeviceName = "cpu") -> dict[str, dict[str, float]]:
    """Are all rungs equal, and how long do they take?"""
    p = problem(7, 16, 3, 5, np.float64, device)
    first, *others = ([to_host(v) for v in once()] for once in ladder(p).values())
    same = [np.allclose(a, b, rtol=0, atol=1e-11) for other in others for a, b in zip(first, other, strict=True)]
    check("every rung gives the same states and the same gradients", all(same))
    dW, dW_in_one, mixed, multiplied, *_ = (to_host(way()) for way in pairs(p, device).values())
    same = [np.allclose(a, b, rtol=0, atol=1e-11) for a, b in ((dW, dW_in_one), (mixed, multiplied))]
    check("one product gives what T give, a multiplication what `where` gives", all(same))

    shapes, rounds = {
        "small": ({"like pMNIST": (30, 16, 1, 16), "like char-PTB": (10, 8, 50, 64)}, 3),
        "quick": ({"like pMNIST": (196, 100, 1, 100), "like char-PTB": (100, 32, 50, 256)}, 5),
        "paper": ({"pMNIST": (784, 100, 1, 100), "char-PTB": (100, 32, 50, 1000)}, 9),
    }[preset]
    found, (figure, axes) = {}, plt.subplots(1, 2, figsize=(10, 2.8))
    for axis, (name, shape) in zip(axes, shapes.items(), strict=True):
        p = problem(*shape, np.float32, device)
        times = found[name] = milliseconds({"floor": floor(p)} | ladder(p) | pairs(p, device), rounds, device)
        print(f"{name}, T, B, D, H = {shape}, on {Device(device).description}:")
        print("\n".join(f"{way:24s}{ms:10.2f} ms{ms / times['floor']:9.2f} x the floor" for way, ms in times.items()))
        check(f"{name}: on a CPU one node beats the tape", device == "gpu" or times["one node"] < times["tape"])
        rungs = list(ladder(p))[::-1]
        axis.bar_label(axis.barh(rungs, [times[rung] for rung in rungs]), fmt="%.3g")
        axis.axvline(times["floor"], color="C3")
        axis.set(title=f"{name}, T, B, D, H = {shape}", xmargin=0.12, xlabel="milliseconds (line: the floor)")
    save(figure, "19_making_it_fast")
    return found


# %%
if __name__ == "__main__":
    shared.run(main)

# %% [markdown]
# ## Exercises
#
# 1. Make both shapes in `main` narrower, H = 8, and wider, H = 512. Where do threads begin to pay?
# 2. Start with `OPENBLAS_THREAD_TIMEOUT=26` and `OMP_NUM_THREADS` unset. Which rung suffers?
# 3. Write a rung of your own: `inputs_first` with one tanh for all four gates. What does it gain?
