# %% [markdown]
# # 2. A tape
#
# **Claim.** Automatic differentiation is the chain rule and an order of visits, and the order is not a detail: a value
# must have collected all its gradient before it hands it on. Zoneout builds the very graph on which other orders fail.
#
# Paper: it takes gradients for granted; those of section 3.2 flow as shown here. Longer chains, and on a GPU:
# `python chapters/02_tape.py --preset paper --device gpu`

# %%
import itertools
import timeit

import shared  # finds minizone
import matplotlib.pyplot as plt
import numpy as np
from shared import DeviceName, Preset, check, save

from minizone import Device, Function, Tensor, array_module
from minizone.autograd import ops
from minizone.backend import bernoulli, stream, synchronize, to_device

# %% [markdown]
# ## The tape
#
# Write $\bar v$ for $\partial L / \partial v$; L is one number, so $\bar v$ has the shape of the array $v$. If $y_1$,
# $y_2$, ... were computed from $v$, then $\bar v = \sum_n \bar y_n \, \partial y_n / \partial v$. So a node keeps its
# parents, what it was computed from, and how its $\bar y$ becomes a term for each; and a number, the count of nodes so
# far. All arrays are of one shape, combined element by element. Backwards, several nodes wait for their turn, and
# `choose` says who is next: the first that came (a queue), the last (depth first), or the youngest, with the highest
# number. Only leaves remember a gradient after the call, so a second pass adds the same once more.


# %%
class Node:
    """A value, its parents, and ``chain``: from dL/d(value) to the term of each parent."""

    counter = itertools.count()

    def __init__(self, value, parents=(), chain=lambda g: ()):
        self.value, self.parents, self.chain = value, parents, chain
        self.grad, self.number = 0.0, next(Node.counter)

    def __add__(self, other):
        return Node(self.value + other.value, (self, other), lambda g: (g, g))

    def __mul__(self, other):
        return Node(self.value * other.value, (self, other), lambda g: (g * other.value, g * self.value))

    def tanh(self):
        y = array_module(self.value).tanh(self.value)
        return Node(y, (self,), lambda g: (g * (1 - y * y),))


def backward(output, choose):
    """L is the sum of the output. Visits every node once, waiting[choose(waiting)] next; returns them as visited."""
    arrived, waiting, visited = {output: 0 * output.value + 1}, [output], []
    while waiting:
        node = waiting.pop(choose(waiting))
        visited.append(node)
        for parent, g in zip(node.parents, node.chain(arrived[node]), strict=True):
            if parent not in arrived and parent.parents:  # a leaf hands nothing on, it only collects
                waiting.append(parent)
            arrived[parent] = arrived.get(parent, 0.0) + g
    for leaf in (node for node in arrived if not node.parents):
        leaf.grad = leaf.grad + arrived[leaf]
    return visited


orders = {"queue": lambda waiting: 0, "depth first": lambda waiting: -1}
orders["highest number"] = lambda waiting: max(range(len(waiting)), key=lambda n: waiting[n].number)
x = Node(np.array(3.0))
y = x * x
first, second = backward(y, orders["highest number"]), backward(y, orders["highest number"])
check("d(x * x)/dx at 3 is 6, and two passes leave 12", x.grad == 12)

# %% [markdown]
# ## The diamond
#
# A small network with zoneout: H units that see only themselves, weights $w$, biases $b$ and masks $k_t$, all (H,):
#
# $$h_t = k_t \odot h_{t-1} + (1 - k_t) \odot \tanh(w \odot h_{t-1} + b)$$
#
# Two ways lead from $h_{t-1}$ to $h_t$, a short one that waits and a long one through the network: a diamond.
# Backwards, one brings its term to $h_{t-1}$ first. Who visits $h_{t-1}$ at once hands on part of its gradient, and the
# rest is lost. A number is a `Node`, a `Tensor` of minizone, or plain: even complex, for the truth (see chapter 3).


# %%
def network(number, tanh, wbh, masks):
    """w (H,) and h_T (H,), of this kind of number; wbh: w, b and h_0 (H,); masks (T, H)."""
    w, b, h = map(number, wbh)
    for k in masks:
        h = number(k) * h + number(1 - k) * tanh(w * h + b)
    return w, h


def by_nodes(masks, order):
    """The nodes as visited, and dL/dw (H,) for L = the sum of h_T."""
    w, h = network(Node, Node.tanh, wbh, masks)
    return backward(h, orders[order]), w.grad


wbh, masks = stream(1, "w, b, h").standard_normal((3, 8)), bernoulli(stream(1, "masks"), 0.5, (2_000, 8), float)
truth = [network(np.asarray, np.tanh, [wbh[0] + 1e-20j, *wbh[1:]], masks[:T])[1].imag / 1e-20 for T in (6, 2_000)]
off = {order: np.linalg.norm(by_nodes(masks[:6], order)[1] - truth[0]) for order in orders}
print("six steps, dL/dw off by " + ", ".join(f"{error:.1e} ({order})" for order, error in off.items()))
check("the highest number first is right, to rounding", off["highest number"] < 1e-13)
check("a queue is wrong, and so is depth first", min(off["queue"], off["depth first"]) > 1e-3)

# %% [markdown]
# ## Why the highest number is right
#
# Numbers rise along every edge, as a node is computed from nodes that exist. Suppose $n$ were visited while a node $m$
# that used it still owed it a term. Walk from $m$ towards the output. The first visited node you meet has put the one
# before it among the waiting, with at least the number of $m$, which is more than that of $n$: its turn would be first.
# Recursion, path by path, is right too. But the paths double at every diamond, and Python ends it some 1,000 calls
# deep, after a few hundred steps; an image in section 4.3 of the paper has 784. A loop has no such end.


# %%
def recurse(node, g) -> int:  # the number of calls
    if not node.parents:
        node.grad = node.grad + g
    return 1 + sum(recurse(parent, gp) for parent, gp in zip(node.parents, node.chain(g), strict=True))


w, h = network(Node, Node.tanh, wbh, masks[:6])
print(f"six steps: 36 nodes, {recurse(h, 1.0)} calls of the recursion")
check("recursion is right", np.allclose(w.grad, truth[0], rtol=1e-12))
try:
    recurse(network(Node, Node.tanh, wbh, masks)[1], 1.0)
except RecursionError:
    check("2,000 steps are too deep for recursion", True)
visited, gradient = by_nodes(masks, "highest number")
check("... the loop visits each of their 12,000 nodes once", len(visited) == len(set(visited)) == 12_000)

# %% [markdown]
# ## The same in minizone
#
# In `minizone/autograd/tensor.py` the chain is the `backward` of a `Function`, right under its `forward`, one line
# mirroring the
# other; the number is its `serial`, and a heap finds the highest. Here is zoneout as a Function. The mask comes as a
# plain array, and gets no gradient.


# %%
class ZoneOut(Function):
    def forward(self, old, new, keep):
        self.keep = keep
        return keep * old + (1 - keep) * new

    def backward(self, gy):
        return gy * self.keep, gy * (1 - self.keep), None


w, b, h = map(Tensor, wbh)
for k in masks:
    h = ZoneOut()(h, ops.tanh(w * h + b), k)
h.sum().backward()
check("2,000 steps: both tapes are right", np.allclose([gradient, w.grad], truth[1], rtol=1e-9, atol=1e-12))


def main(preset: Preset = "quick", device: DeviceName = "cpu") -> dict[str, object]:
    """The time of a backward pass through few and many nodes, and the picture of the three orders."""
    steps = {"small": [10, 100, 1_000], "quick": [10, 100, 1_000, 10_000], "paper": [10, 784, 10_000, 50_000]}[preset]
    where, ours, theirs = Device(device), [], []
    for T in steps:
        start, keep = to_device(wbh, where), to_device(np.resize(masks, (T, 8)), where)
        h, tensor = network(Node, Node.tanh, start, keep)[1], network(Tensor, ops.tanh, start, keep)[1]
        ours.append(timeit.timeit(lambda h=h: (backward(h, orders["highest number"]), synchronize(where)), number=1))
        theirs.append(timeit.timeit(lambda h=tensor: (h.sum().backward(), synchronize(where)), number=1))
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), width_ratios=[1.8, 1])
    names = ["$k\\,h_1$", "$w\\,h_1$", "$+\\,b$", "tanh", "$(1-k)\\,\\cdot$", "$h_2$"]
    x, y = np.array([0, 2.5, 1, 2, 3, 4, 5]), np.array([0, 0.5, -0.5, -0.5, -0.5, -0.5, 0])
    for row, order in enumerate(orders):
        visited, _ = by_nodes(masks[:2], order)
        turn = [visited.index(node) + 1 for node in sorted(visited, key=lambda node: node.number)[-7:]]  # h_1 to h_2
        colors = ["C3" if turn[0] < max(turn[1:3]) else "C2"] + ["w"] * 6
        left.plot(x[[0, 1, 6, 5, 4, 3, 2, 0]], y[[0, 1, 6, 5, 4, 3, 2, 0]] - 2 * row, "k", lw=0.6, zorder=0)
        for at, up, name, n, color in zip(x, y - 2 * row, [f"{order}: $h_1$", *names], turn, colors, strict=True):
            left.text(at, up, n, ha="center", va="center", bbox={"boxstyle": "circle", "fc": color})
            left.text(at, up + 0.36, name, ha="center", fontsize=8)
    left.set(title="turn of each node; red: $h_1$ before its gradient is complete", xlim=(-1, 5.5), ylim=(-4.9, 1.1))
    left.set(xticks=[], yticks=[], frame_on=False)
    right.loglog(steps, ours, "o-", steps, theirs, "s--", ms=4)
    right.set(title="blue: this tape, orange: minizone", xlabel="steps of six nodes each", ylabel="seconds of backward")
    save(figure, "02_tape")
    return {"steps": steps, "ours": ours, "minizone": theirs}


# %%
if __name__ == "__main__":
    shared.run(main)

# %% [markdown]
# ## Exercises
#
# 1. Exchange the two terms of `h` in `network`. Which of the three orders gives another gradient now, and why?
# 2. Let a parent wait again for what is new, and hand on only that. Is a queue right now? How many visits does it take?
# 3. Let `arrived` live on the nodes and outlast the call, as in some tapes. What becomes of the 12?
