# %% [markdown]
# # Answers to chapter 2
#
# ## 1. The two terms exchanged
#
# Only depth first gives another gradient. It visits the node that came last, and that is the parent of the second term.
# After the exchange this is the short path, so it goes wrong in the way of the queue: both lose the terms of the long
# path. A queue visits the nodes of both paths in turn, and the short path ends first whatever the order of the terms.
# The order of the highest number is right for every order of the terms.

# %%
import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from shared import check  # finds minizone and the chapters
import numpy as np

chapter = importlib.import_module("02_tape")
Node = chapter.Node


def exchanged(number, tanh, w, b, h0, masks):
    w, b, h = number(w), number(b), number(h0)
    for k in masks:
        h = number(1 - k) * tanh(w * h + b) + number(k) * h
    return w, h


# %%
def gradient(network, choose):
    w, h = network(Node, Node.tanh, chapter.w0, chapter.b0, chapter.h0, chapter.masks[:6])
    chapter.backward(h, choose)
    return w.grad


changes = {}
for order, choose in chapter.ORDERS.items():
    changes[order] = np.abs(gradient(exchanged, choose) - gradient(chapter.network, choose)).max()
    print(f"{order}: the exchange changes dL/dw by {changes[order]:.1e}")
check("depth first gives another gradient", changes["depth first"] > 1e-3)
check("the queue and the highest number do not", max(changes["queue"], changes["highest number"]) < 1e-13)
same = np.allclose(gradient(exchanged, chapter.newest_in_list), gradient(exchanged, chapter.oldest_in_list), atol=1e-13)
check("depth first now makes the mistake of the queue", same)

# %% [markdown]
# ## 2. A parent enters the list again
#
# The gradient is right: every term is passed on, if late. But the visits grow. If each term is passed on by itself, the
# number of visits doubles with every diamond, $6 (2^T - 1)$ in all, as in the recursion. If the terms that arrive while
# a node is in the list are added up, $h_{T-n}$ is visited $n + 1$ times, and there are $3 T (T + 1)$ visits. The order
# of the highest number needs $6 T$.


# %%
def queue_again(output, add_up: bool) -> int:
    """Add dL/d(leaf) to each leaf, and return the number of visits."""
    to_visit = [[output, 0 * output.value + 1]]  # pairs of a node and what it has to pass on
    visits = 0
    while to_visit:
        node, g = to_visit.pop(0)
        visits += 1
        for parent, term in zip(node.parents, node.chain(g), strict=True):
            pairs = [pair for pair in to_visit if pair[0] is parent]
            if not parent.parents:
                parent.grad = parent.grad + term
            elif add_up and pairs:
                pairs[0][1] = pairs[0][1] + term
            else:
                to_visit.append([parent, term])
    return visits


# %%
for T in (2, 4, 8):
    visits = {}
    for add_up in (False, True):
        w, h = chapter.network(Node, Node.tanh, chapter.w0, chapter.b0, chapter.h0, chapter.masks[:T])
        visits[add_up] = queue_again(h, add_up)
        right = np.allclose(w.grad, chapter.true_gradient(T), rtol=1e-12)
        check(f"T = {T}, terms {'added up' if add_up else 'one by one'}: right after {visits[add_up]} visits", right)
    check(f"T = {T}: the formulas hold", visits[False] == 6 * (2**T - 1) and visits[True] == 3 * T * (T + 1))

# %% [markdown]
# ## 3. Gradients that outlast the call
#
# The second pass gives 18. The output still has its gradient 1 from the first pass, and the second adds 1 to it. So the
# second pass passes on 2, which gives 12, and x already has 6. A gradient between the output and a leaf belongs to one
# pass only. That is why `gradients` is a local variable of `backward`.


# %%
def backward_kept(output, gradients) -> None:
    gradients[output] = gradients.get(output, 0.0) + 1
    to_visit = [output]
    while to_visit:
        node = to_visit.pop(chapter.highest_number(to_visit))
        for parent, term in zip(node.parents, node.chain(gradients[node]), strict=True):
            if parent.parents and parent not in to_visit:
                to_visit.append(parent)
            gradients[parent] = gradients.get(parent, 0.0) + term


x = Node(np.array(3.0))
y = x * x
gradients = {}
backward_kept(y, gradients)
check("the first pass gives 6", gradients[x] == 6)
backward_kept(y, gradients)
check("the second pass gives 18, not 12", gradients[x] == 18)
