# %% [markdown]
# # Answers to chapter 19
#
# ## 1. Narrow and wide layers
#
# We time the floor, the tape and the one node for both sizes, with fewer time steps than in the chapter. Matrix
# products use one thread here, so that other programs disturb less. `most_threads` is what NumPy would use otherwise.

# %%
import sys
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from shared import check  # finds minizone and the chapters
import numpy as np
from threadpoolctl import threadpool_info, threadpool_limits

from minizone import Device
from minizone.autograd.ops import stack, tanh, unstack
from minizone.zoneout import zone_out

chapter_19 = import_module("19_making_it_fast")
cpu = Device("cpu")
most_threads = max(pool["num_threads"] for pool in threadpool_info())
threadpool_limits(1)


# %%
def times_the_floor(H):
    """The times of the tape and the one node, divided by the floor."""
    p = chapter_19.random_problem(50, 32, 50, H, np.float32, cpu)
    functions = {"floor": chapter_19.floor(p)}
    for name in ("tape", "one node"):
        functions[name] = chapter_19.forward_and_back(chapter_19.WAYS[name], p)
    times = chapter_19.milliseconds(functions, 7, cpu)
    print(f"H = {H}: floor {times['floor']:.2f} ms", end=", ")
    print(f"tape {times['tape'] / times['floor']:.1f} x, one node {times['one node'] / times['floor']:.1f} x the floor")
    return times["tape"] / times["floor"], times["one node"] / times["floor"]


tape_narrow, node_narrow = times_the_floor(8)
tape_wide, node_wide = times_the_floor(256)
check("a narrow layer is farther above the floor, with the tape", tape_narrow > tape_wide)
check("a narrow layer is farther above the floor, with one node", node_narrow > node_wide)

# %% [markdown]
# The matrix products of a step take time in proportion to $H^2$, its arithmetic in proportion to H, and each call from
# Python the same time for every H. So in a narrow layer the calls dominate. The tape makes many calls per step and has
# the most to lose. In a wide layer the overhead is a smaller share of the time, but the tape still takes several times
# the floor.
#
# ## 2. One thread
#
# Only the matrix products of NumPy use several threads. `threadpool_limits(n)` has the effect of `OMP_NUM_THREADS=n`
# inside a running program. If this script is started with `OMP_NUM_THREADS=1`, both columns are the same.

# %%
p = chapter_19.random_problem(50, 32, 50, 256, np.float32, cpu)
FUNCTIONS = {
    "floor (products)": chapter_19.floor(p),
    "dW_h in one product": lambda: chapter_19.dW_in_one_product(p),
    "zoneout in place": lambda: chapter_19.mix_in_place(p),
}
measured, mixed, products = [], [], []
for threads in (1, most_threads):
    with threadpool_limits(threads):
        measured.append(chapter_19.milliseconds(FUNCTIONS, 7, cpu))
        mixed.append(chapter_19.mix_in_place(p))
        products.append(chapter_19.dW_in_one_product(p))
for name in FUNCTIONS:
    one, most = measured[0][name], measured[1][name]
    print(f"{name:20s} with 1 thread {one:6.2f} ms, with {most_threads} {most:6.2f} ms")
off = np.abs(products[0] - products[1]).max() / np.abs(products[0]).max()
check("the arithmetic is the same to the bit", (mixed[0] == mixed[1]).all())
check("the products are the same up to rounding", off < 1e-5)

# %% [markdown]
# With several free cores the products become faster: the floor, the gradients of the weights, and the inputs at once.
# The times of zoneout and of the masks stay, because NumPy computes them in one thread.
#
# ## 3. One tanh for all gates
#
# The logistic function is a tanh of half its argument:
#
# $$\sigma(a) = \frac{1}{2} + \frac{1}{2} \tanh\left(\frac{a}{2}\right)$$
#
# So with a column s (4H, 1) that is 1/2 for the gates i, f and o, and 1 for g, all four gates (4H, B) are
# $s \odot \tanh(s \odot a) + 1 - s$.


# %%
def one_tanh(x, h, c, W_x, W_h, b, *, keep_h, keep_c):
    """`inputs_at_once` with one tanh for all gates."""
    H = len(h)
    s = np.full((4 * H, 1), 0.5, x.dtype)
    s[2 * H : 3 * H] = 1
    from_inputs = unstack(W_x @ x + b.reshape(-1, 1))  # T times (4H, B)
    all_h, all_c = [], []
    for t, from_input in enumerate(from_inputs):
        gates = s * tanh(s * (from_input + W_h @ h)) + (1 - s)  # (4H, B)
        i, f, g, o = gates[:H], gates[H : 2 * H], gates[2 * H : 3 * H], gates[3 * H :]
        new_c = f * c + i * g
        h = zone_out(h, o * tanh(new_c), keep_h[t])
        c = zone_out(c, new_c, keep_c[t])
        all_h.append(h)
        all_c.append(c)
    return stack(all_h), stack(all_c)


# %%
small = chapter_19.random_problem(16, 7, 3, 5, np.float64, cpu)
found = chapter_19.forward_and_back(one_tanh, small)()
expected = chapter_19.forward_and_back(chapter_19.WAYS["one node"], small)()
check("it gives the same states and gradients", chapter_19.largest_difference(found, expected) < 1e-11)

ways = {"inputs at once": chapter_19.inputs_at_once, "one tanh": one_tanh, "one node": chapter_19.WAYS["one node"]}
functions = {name: chapter_19.forward_and_back(function, p) for name, function in ways.items()}
times = chapter_19.milliseconds(functions, 7, cpu)
for name, ms in times.items():
    print(f"{name:16s}{ms:8.2f} ms")
check("one node is still the fastest", times["one node"] < times["one tanh"])
check("one tanh gains less than a tenth", times["one tanh"] > 0.9 * times["inputs at once"])

# %% [markdown]
# It gains little or nothing. The number of activations on the tape falls from four to one, but two products with s and
# a sum are new, and each of them is an operation on all 4H rows.
