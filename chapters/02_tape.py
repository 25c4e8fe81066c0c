# %% [markdown]
# # 2. A tape
#
# **Claim.** Automatic differentiation is the chain rule and an order of visits, and the order matters: the gradient of
# a value must be complete before it is used. The graph of zoneout is one on which simpler orders fail.
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
# To train a network we need the derivative of its loss $L$, a single number, with respect to each of its weights. We
# write $dv$ for $\partial L / \partial v$, the gradient of the loss with respect to an array $v$. It has the shape of
# $v$.
#
# Suppose that $y_1, y_2, \dots$ were computed from $v$. Then a change of $v$ acts on the loss through each of them, and
# the chain rule adds up these effects:
#
# $$dv = \sum_n dy_n \frac{\partial y_n}{\partial v}$$
#
# While a program computes its loss, it can record what it does. The record is called a *tape*. Here it is a graph of
# nodes. We say that $v$ is a *parent* of $y_1, y_2, \dots$, and that these are the *children* of $v$. A node stores its
# value and three more things:
#
# - its parents;
# - a function `chain`, which computes from the gradient of the node the term of each parent;
# - its number, which counts the nodes made so far.
#
# In this chapter all arrays have one shape, and all operations work element by element.


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
# The backward pass starts at the output. It keeps a list of nodes that are still to visit, and the function `choose`
# picks the next one. A visit computes the terms of the parents and adds them up in `gradients`. A parent enters the
# list with its first term. A term that arrives after its visit is still added, but it is never passed on.
#
# A node without parents is called a *leaf*: a weight or an input. It is not visited. It keeps its gradient in `grad`,
# and a second backward pass adds to it.


# %%
def backward(output, choose):
    """Differentiate L, the sum of the output, and return the nodes in the order of their visits.

    ``choose(to_visit)`` is the index of the node to visit next.
    """
    gradients = {output: 0 * output.value + 1}  # the sum so far of each node; at first ones, in the shape of the output
    to_visit = [output]
    visited = []
    while to_visit:
        node = to_visit.pop(choose(to_visit))
        visited.append(node)
        terms = node.chain(gradients[node])
        for parent, term in zip(node.parents, terms, strict=True):
            if parent not in gradients and parent.parents:
                to_visit.append(parent)
            gradients[parent] = gradients.get(parent, 0.0) + term
    for node, gradient in gradients.items():
        if not node.parents:
            node.grad = node.grad + gradient
    return visited


# %% [markdown]
# Three orders come to mind. A queue visits the node that entered the list first. Depth first visits the node that
# entered it last. The third order visits the node with the highest number, which is the one that was computed last.


# %%
def oldest_in_list(to_visit):
    return 0


def newest_in_list(to_visit):
    return -1


def highest_number(to_visit):
    numbers = [node.number for node in to_visit]
    return numbers.index(max(numbers))


ORDERS = {"queue": oldest_in_list, "depth first": newest_in_list, "highest number": highest_number}

# %% [markdown]
# A first test: the derivative of $x^2$ at $x = 3$.

# %%
x = Node(np.array(3.0))
y = x * x
backward(y, highest_number)
check("d(x * x)/dx at 3 is 6", x.grad == 6)
backward(y, highest_number)
check("a second pass adds 6 more", x.grad == 12)

# %% [markdown]
# ## The diamond
#
# Take a small recurrent network with zoneout. It has H units, and each unit sees only its own state. At step t the
# state is $h_t$ (H,). The weights $w$, the biases $b$ and the masks $k_t$ are (H,) too. A mask is 1 where a unit keeps
# its old value, and 0 elsewhere. With $\odot$ for the product element by element,
#
# $$h_t = k_t \odot h_{t-1} + (1 - k_t) \odot \tanh(w \odot h_{t-1} + b)$$
#
# Two paths lead from $h_{t-1}$ to $h_t$. The short one keeps the old value, and the long one goes through the tanh.
# They form a diamond.
#
# On the way back, the term of the short path can arrive at $h_{t-1}$ before that of the long path. If $h_{t-1}$ is
# visited at that moment, it passes on only a part of its gradient. The rest is lost.
#
# The network below works with a `Node`, a `Tensor` of minizone, or a NumPy array: `wrap` turns an array into one of
# these.


# %%
def network(wrap, tanh, w, b, h0, masks):
    """w (H,) and h_T (H,), both wrapped, for masks (T, H)."""
    w, b, h = wrap(w), wrap(b), wrap(h0)
    for k in masks:
        h = wrap(k) * h + wrap(1 - k) * tanh(w * h + b)
    return w, h


H = 8
w0, b0, h0 = stream(1, "w, b, h").standard_normal((3, H))
masks = bernoulli(stream(1, "masks"), 0.5, (2_000, H), float)  # (T, H)

# %% [markdown]
# The loss is the sum of the last state. We compare its gradient by each of the orders with the true one. The true one
# comes from complex numbers and needs no tape. Chapter 3 explains this method.


# %%
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
# A node must not be visited before all of its children. The order of the highest number never does that. Here is a
# proof by contradiction.
#
# A node is computed from nodes that exist already. So the number of a child is higher than those of its parents. We
# consider only nodes from which the output was computed. All others have the gradient 0.
#
# Suppose that node $n$ is visited while its child $m$ has not been visited. A path leads from the output back to $m$.
# Take the first node on this path that has not been visited. It is in the list, because the node before it on the path
# has been visited. It is $m$ itself or was computed from $m$, so its number is at least that of $m$. This is higher
# than the number of $n$. The rule would have chosen it before $n$.
#
# ## Why not a recursion?
#
# A recursion that follows every path by itself is right too. But the number of paths doubles at every diamond.


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

# %% [markdown]
# There is a second problem. Python stops a recursion at about 1,000 calls inside each other, which is a few hundred
# time steps. An image in section 4.3 of the paper has 784. A loop has no such limit.


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
# In `minizone/autograd/tensor.py` an operation is a `Function`. Its method `backward` is the chain, and stands right
# under its method `forward`. Its `serial` is the number, and a heap finds the highest one. Here is zoneout as a
# `Function`. The mask comes in as a plain array and gets no gradient.


# %%
class ZoneOut(Function):
    def forward(self, old, new, keep):
        self.keep = keep
        return keep * old + (1 - keep) * new

    def backward(self, gy):
        return gy * self.keep, gy * (1 - self.keep), None


# %%
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
# `main` times the backward pass through few and many steps, with the tape of this chapter and with that of minizone.


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


# %% [markdown]
# The figure draws the nodes of the second of two steps, from $h_1$ on the left to $h_2$ on the right. The number in a
# node says at which turn an order visits it.

# %%
NAMES = ["$h_1$", "$k\\,h_1$", "$w\\,h_1$", "$w\\,h_1+b$", "tanh", "$(1-k)\\tanh$", "$h_2$"]  # as they are numbered
PLACES = np.array([(0, 0), (2.5, 0.45), (1, -0.45), (2, -0.45), (3, -0.45), (4, -0.45), (5, 0)])
TO_PARENTS = [(6, 1), (6, 5), (5, 4), (4, 3), (3, 2), (2, 0), (1, 0)]


def draw_order(axis, order: str) -> None:
    """The second step of the network; a node shows the turn at which it is visited."""
    _, visited = gradient_by_nodes(2, order)
    nodes = sorted(visited, key=lambda node: node.number)[-7:]  # h_1 to h_2
    turns = [visited.index(node) + 1 for node in nodes]
    too_early = turns[0] < max(turns[1:3])  # h_1 came before one of its two children
    for child, parent in TO_PARENTS:
        arrow = {"arrowstyle": "-|>", "shrinkA": 8, "shrinkB": 8, "fc": "k", "lw": 0.7}
        axis.annotate("", PLACES[parent], PLACES[child], arrowprops=arrow)
    colors = ["tomato" if too_early else "lightgreen"] + 6 * ["w"]
    axis.scatter(PLACES[:, 0], PLACES[:, 1], s=270, c=colors, edgecolors="k", zorder=2)
    for (x, y), name, turn in zip(PLACES, NAMES, turns, strict=True):
        axis.text(x, y, str(turn), ha="center", va="center", zorder=3)
        axis.text(x, y + 0.3, name, ha="center")
    state = "too early" if too_early else "in time"
    axis.set(title=f"{order}: $h_1$ is visited {state}", xlim=(-0.4, 5.4), ylim=(-0.8, 1.0))
    axis.set_axis_off()


# %%
STEPS = {"small": [10, 100, 1_000], "quick": [10, 100, 1_000, 10_000], "paper": [10, 784, 10_000, 50_000]}


def main(preset: Preset = "quick", device: DeviceName = "cpu") -> dict[str, object]:
    """The time of a backward pass through few and many nodes, and the picture of the three orders."""
    steps = STEPS[preset]
    times = [seconds_of_backward(T, Device(device)) for T in steps]
    ours = [nodes for nodes, _ in times]
    minizone = [tensors for _, tensors in times]

    figure, axes = plt.subplot_mosaic(
        [["queue", "times"], ["depth first", "times"], ["highest number", "times"]],
        figsize=(9, 4.6),
        width_ratios=[1.7, 1],
    )
    for order in ORDERS:
        draw_order(axes[order], order)
    axes["times"].loglog(steps, ours, "o-", ms=4, label="tape of this chapter")
    axes["times"].loglog(steps, minizone, "s--", ms=4, label="tape of minizone")
    axes["times"].set(title="time of the backward pass", xlabel="time steps (six nodes each)", ylabel="seconds")
    axes["times"].legend(loc="upper left")
    save(figure, "02_tape")
    return {"steps": steps, "ours": ours, "minizone": minizone}


# %%
if __name__ == "__main__":
    shared.run(main)

# %% [markdown]
# ## In the figure
#
# On the left, gradients flow along the arrows, from $h_2$ to $h_1$. A queue visits $h_1$ at turn 4, but its child
# $w h_1$ only at turn 10. Depth first makes the same mistake on the other path. The order of the highest number
# visits $h_1$ at turn 7, after both of its children. (The turns that are missing belong to the nodes of the first
# step.)
#
# On the right, the time grows in proportion to the number of steps, for both tapes.

# %% [markdown]
# ## What to take away
#
# - A node needs its parents and the derivative of one operation. The chain rule does the rest.
# - A gradient is a sum over all uses of a value. It must be complete before it is used.
# - Visiting the node with the highest number first guarantees that, visits each node once, and needs no recursion.
#
# ## Exercises
#
# 1. Exchange the two terms of `h` in `network`. Which of the three orders gives another gradient now, and why?
# 2. Let a queue repair its mistake: a parent enters the list again whenever a new term arrives, and passes on only the
#    new term.
#    Is the gradient right? How many visits does it take for T steps?
# 3. Let `gradients` be a dictionary that is kept from one call of `backward` to the next, so that every node keeps its
#    gradient. What does the second pass of $x^2$ give in place of 12?
