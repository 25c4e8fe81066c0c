# %% [markdown]
# # 2. A tape
#
# **Claim.** Automatic differentiation is the chain rule and an order of visits, and the order matters: a value must
# have collected its whole gradient before it passes it on. The graph of zoneout is one on which simpler orders fail.
#
# Paper: it takes gradients for granted; this is how those of section 3.2 are computed. Longer chains, and on a GPU:
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
# Write $\bar v$ for $\partial L / \partial v$. The loss L is one number, so $\bar v$ has the shape of the array $v$.
# If $y_1, y_2, \dots$ were computed from $v$, the chain rule says
#
# $$\bar v = \sum_n \bar y_n \, \frac{\partial y_n}{\partial v}$$
#
# So a node stores three things: its parents, which are the nodes it was computed from; a function `chain`, which turns
# its own gradient into one term for each parent; and its number, which counts the nodes made so far. All arrays here
# have one shape and are combined element by element.


# %%
class Node:
    """A value, its parents, and ``chain``: from dL/d(value) to the term of each parent."""

    counter = itertools.count()

    def __init__(self, value, parents=(), chain=None):
        self.value = value
        self.parents = parents
        self.chain = chain
        self.grad = 0.0
        self.number = next(Node.counter)

    def __add__(self, other):
        return Node(self.value + other.value, (self, other), lambda g: (g, g))

    def __mul__(self, other):
        return Node(self.value * other.value, (self, other), lambda g: (g * other.value, g * self.value))

    def tanh(self):
        y = array_module(self.value).tanh(self.value)
        return Node(y, (self,), lambda g: (g * (1 - y * y),))


# %% [markdown]
# The backward pass starts at the output and keeps a list of nodes that wait for their visit. The function `choose`
# picks the next one. A visit passes the gradient of a node on to its parents. A leaf has no parents. It only collects
# its gradient, and keeps it after the call, so a second pass adds the same gradient once more.


# %%
def backward(output, choose):
    """Differentiate L, the sum of the output, and return the nodes in the order of their visits.

    ``choose(waiting)`` is the index of the node to visit next.
    """
    gradients = {output: 0 * output.value + 1}  # what each node has collected so far
    waiting = [output]
    visited = []
    while waiting:
        node = waiting.pop(choose(waiting))
        visited.append(node)
        terms = node.chain(gradients[node])
        for parent, term in zip(node.parents, terms, strict=True):
            if parent not in gradients and parent.parents:
                waiting.append(parent)
            gradients[parent] = gradients.get(parent, 0.0) + term
    for node, gradient in gradients.items():
        if not node.parents:
            node.grad = node.grad + gradient
    return visited


# %% [markdown]
# Three orders are natural. A queue visits the node that has waited longest. Depth first visits the one that came last.
# The third order visits the node with the highest number, which is the youngest.


# %%
def oldest_in_list(waiting):
    return 0


def newest_in_list(waiting):
    return -1


def highest_number(waiting):
    numbers = [node.number for node in waiting]
    return numbers.index(max(numbers))


ORDERS = {"queue": oldest_in_list, "depth first": newest_in_list, "highest number": highest_number}

x = Node(np.array(3.0))
y = x * x
backward(y, highest_number)
check("d(x * x)/dx at 3 is 6", x.grad == 6)
backward(y, highest_number)
check("a second pass adds 6 more", x.grad == 12)

# %% [markdown]
# ## The diamond
#
# Take a small network with zoneout. It has H units, and each unit sees only itself. The weights $w$, the biases $b$ and
# the masks $k_t$ are all (H,):
#
# $$h_t = k_t \odot h_{t-1} + (1 - k_t) \odot \tanh(w \odot h_{t-1} + b)$$
#
# Two paths lead from $h_{t-1}$ to $h_t$: a short one, which keeps the old value, and a long one through the tanh. They
# form a diamond. On the way back, the short path brings its term to $h_{t-1}$ first. If $h_{t-1}$ is visited at that
# moment, it passes on only part of its gradient, and the rest is lost.
#
# The network below works with any kind of number: a `Node`, a `Tensor` of minizone, or a NumPy array. NumPy arrays may
# be complex, which gives the true derivative without a tape (chapter 3).


# %%
def network(number, tanh, w, b, h0, masks):
    """w (H,) and h_T (H,), both of the type ``number``, for masks (T, H)."""
    w, b, h = number(w), number(b), number(h0)
    for k in masks:
        h = number(k) * h + number(1 - k) * tanh(w * h + b)
    return w, h


H = 8
w0, b0, h0 = stream(1, "w, b, h").standard_normal((3, H))
masks = bernoulli(stream(1, "masks"), 0.5, (2_000, H), float)  # (T, H)


def true_gradient(steps):
    """dL/dw (H,) for L = the sum of h_T, by a step into the complex plane."""
    _, h = network(np.asarray, np.tanh, w0 + 1e-20j, b0, h0, masks[:steps])
    return h.imag / 1e-20


def gradient_by_nodes(steps, order):
    """dL/dw (H,), and the visited nodes."""
    w, h = network(Node, Node.tanh, w0, b0, h0, masks[:steps])
    visited = backward(h, ORDERS[order])
    return w.grad, visited


# %%
errors = {}
for order in ORDERS:
    gradient, _ = gradient_by_nodes(6, order)
    errors[order] = np.linalg.norm(gradient - true_gradient(6))
    print(f"six steps, {order}: error of dL/dw {errors[order]:.1e}")
check("the order of the highest number is right, to rounding", errors["highest number"] < 1e-13)
check("a queue is wrong, and so is depth first", min(errors["queue"], errors["depth first"]) > 1e-3)

# %% [markdown]
# ## Why the highest number is right
#
# Every node is computed from nodes that exist already, so numbers rise from a parent to its child. Suppose that node
# $n$ is visited too early: one of its children, $m$, has not been visited yet. Follow the path from the output down to
# $m$. Somewhere on it is a node that waits at this moment. Its number is at least that of $m$, and so higher than that
# of $n$. The rule would have chosen it before $n$. So no node is visited too early.
#
# A recursion that follows every path by itself is right too. But the number of paths doubles at every diamond. And
# Python stops a recursion at about 1,000 calls inside each other, which is a few hundred time steps. An image in
# section 4.3 of the paper has 784. A loop has no such limit.


# %%
def recurse(node, g) -> int:
    """Add g to the gradient of every leaf that can be reached, path by path; returns the number of calls."""
    if not node.parents:
        node.grad = node.grad + g
        return 1
    calls = 1
    for parent, term in zip(node.parents, node.chain(g), strict=True):
        calls += recurse(parent, term)
    return calls


w, h = network(Node, Node.tanh, w0, b0, h0, masks[:6])
calls = recurse(h, 1.0)
print(f"six steps: 36 nodes, {calls} calls of the recursion")
check("recursion is right", np.allclose(w.grad, true_gradient(6), rtol=1e-12))


# %%
def recursion_fails(steps) -> bool:
    _, h = network(Node, Node.tanh, w0, b0, h0, masks[:steps])
    try:
        recurse(h, 1.0)
    except RecursionError:
        return True
    return False


check("2,000 steps are too deep for recursion", recursion_fails(2_000))
gradient, visited = gradient_by_nodes(2_000, "highest number")
check("the loop visits each of their 12,000 nodes once", len(visited) == len(set(visited)) == 12_000)

# %% [markdown]
# ## The same in minizone
#
# In `minizone/autograd/tensor.py` an operation is a `Function`. Its `backward` is the chain, and stands right under its
# `forward`. Its `serial` is the number, and a heap finds the highest one. Here is zoneout as a Function. The mask comes
# in as a plain array and gets no gradient.


# %%
class ZoneOut(Function):
    def forward(self, old, new, keep):
        self.keep = keep
        return keep * old + (1 - keep) * new

    def backward(self, gy):
        return gy * self.keep, gy * (1 - self.keep), None


w, b, h = Tensor(w0), Tensor(b0), Tensor(h0)
for k in masks:
    h = ZoneOut()(h, ops.tanh(w * h + b), k)
h.sum().backward()
truth = true_gradient(2_000)
check("2,000 steps: the tape of this chapter is right", np.allclose(gradient, truth, rtol=1e-9, atol=1e-12))
check("2,000 steps: minizone is right", np.allclose(w.grad, truth, rtol=1e-9, atol=1e-12))

# %% [markdown]
# ## How long does it take?
#
# `main` times the backward pass through few and many nodes, on this tape and on that of minizone. Its picture shows two
# steps of the network and the turn at which each order visits each node.


# %%
def seconds_of_backward(T: int, where: Device) -> tuple[float, float]:
    """The time of one backward pass through T steps: this chapter's tape, and minizone."""
    values = [to_device(value, where) for value in (w0, b0, h0)]
    keep = to_device(np.resize(masks, (T, H)), where)  # (T, H)
    _, node = network(Node, Node.tanh, *values, keep)
    _, tensor = network(Tensor, ops.tanh, *values, keep)

    def run_nodes() -> None:
        backward(node, highest_number)
        synchronize(where)

    def run_tensors() -> None:
        tensor.sum().backward()
        synchronize(where)

    return timeit.timeit(run_nodes, number=1), timeit.timeit(run_tensors, number=1)


# %%
NAMES = ["$h_1$", "$k\\,h_1$", "$w\\,h_1$", "$+\\,b$", "tanh", "$(1-k)\\,\\cdot$", "$h_2$"]  # in the order of numbers
POSITIONS = np.array([(0, 0), (2.5, 0.5), (1, -0.5), (2, -0.5), (3, -0.5), (4, -0.5), (5, 0)])
OUTLINE = [0, 1, 6, 5, 4, 3, 2, 0]  # from h_1 by the short path to h_2, and back by the long one


def draw_order(axis, order: str, drop: float) -> None:
    """The second step of the network, lowered by ``drop``; a node shows the turn at which it is visited."""
    _, visited = gradient_by_nodes(2, order)
    nodes = sorted(visited, key=lambda node: node.number)[-7:]  # h_1 to h_2
    turns = [visited.index(node) + 1 for node in nodes]
    too_early = turns[0] < max(turns[1:3])  # h_1 came before one of its two children
    places = POSITIONS - np.array([0, drop])
    axis.plot(places[OUTLINE, 0], places[OUTLINE, 1], "k", lw=0.6, zorder=0)
    for k, (right, up) in enumerate(places):
        color = "w"
        name = NAMES[k]
        if k == 0:
            color = "C3" if too_early else "C2"
            name = f"{order}: {name}"
        axis.text(right, up, turns[k], ha="center", va="center", bbox={"boxstyle": "circle", "fc": color})
        axis.text(right, up + 0.36, name, ha="center", fontsize=8)


# %%
STEPS = {"small": [10, 100, 1_000], "quick": [10, 100, 1_000, 10_000], "paper": [10, 784, 10_000, 50_000]}


def main(preset: Preset = "quick", device: DeviceName = "cpu") -> dict[str, object]:
    """The time of a backward pass through few and many nodes, and the picture of the three orders."""
    steps = STEPS[preset]
    times = [seconds_of_backward(T, Device(device)) for T in steps]
    ours = [nodes for nodes, _ in times]
    minizone = [tensors for _, tensors in times]

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), width_ratios=[1.8, 1])
    for row, order in enumerate(ORDERS):
        draw_order(left, order, drop=2 * row)
    left.set(title="turn of each node; red: $h_1$ before its gradient is complete", xlim=(-1, 5.5), ylim=(-4.9, 1.1))
    left.set(xticks=[], yticks=[], frame_on=False)
    right.loglog(steps, ours, "o-", ms=4)
    right.loglog(steps, minizone, "s--", ms=4)
    right.set(title="blue: this tape, orange: minizone", xlabel="steps of six nodes each", ylabel="seconds of backward")
    save(figure, "02_tape")
    return {"steps": steps, "ours": ours, "minizone": minizone}


# %%
if __name__ == "__main__":
    shared.run(main)

# %% [markdown]
# ## Exercises
#
# 1. Exchange the two terms of `h` in `network`. Which of the three orders gives another gradient now, and why?
# 2. Let a parent wait again when a new term arrives, and pass on only that term. Is a queue right now? How many visits
#    does it take?
# 3. Let `gradients` live on the nodes and outlast the call, as in some tapes. What becomes of the 12?
