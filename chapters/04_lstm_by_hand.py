# %% [markdown]
# # 4. An LSTM by hand: back-propagation through time
#
# **Claim.** The backward pass of an LSTM is its forward pass read from the last line to the first. Two gradients go
# back through time, `dh` and `dc`. Every other gradient of a step follows from these two, the weights and what the
# forward pass has stored. The gradients of the weights are sums over all steps, and each of them is one matrix product.
#
# Paper: the equations of section 3.2, zoneout included. At the size of section 4.1.1, T = 100, B = 32, H = 1000:
# `python chapters/04_lstm_by_hand.py --preset paper --device gpu`

# %%
import time

import shared  # finds minizone
import matplotlib.pyplot as plt
import numpy as np
from shared import DeviceName, Preset, check, save

from minizone import Device, Tensor, array_module, lstm
from minizone.backend import stream, synchronize
from minizone.recurrent.cells import lstm_unrolled

# %% [markdown]
# ## Forward
#
# An LSTM (long short-term memory) is a recurrent network with two states: the cells $c_t$, which are its memory, and
# the hidden states $h_t$, which the rest of the network sees. Both are (H, B), for H hidden units and B examples.
#
# Step t takes the input $x_t$ (D, B), with D features, and the states $h_{t-1}$ and $c_{t-1}$. The weights are $W_x$
# (4H, D) and $W_h$ (4H, H). The bias $b$ (4H,) is added to every column. The step begins with
#
# $$a_t = W_x x_t + W_h h_{t-1} + b$$
#
# This array (4H, B) is cut into four blocks $a^i$, $a^f$, $a^g$, $a^o$, each (H, B). With
# $\sigma(a) = 1 / (1 + e^{-a})$, which lies between 0 and 1, the blocks become three *gates* and a proposal:
#
# $$i = \sigma(a^i)$$
#
# $$f = \sigma(a^f)$$
#
# $$g = \tanh(a^g)$$
#
# $$o = \sigma(a^o)$$
#
# The forget gate $f$ says how much of the old cell stays, the input gate $i$ how much of the proposal $g$ is added, and
# the output gate $o$ how much of the cell is shown. The candidates for the new states are $\tilde c_t$ and
# $\tilde h_t$. With $\odot$ for the product element by element,
#
# $$\tilde c_t = f \odot c_{t-1} + i \odot g$$
#
# $$u = \tanh(\tilde c_t)$$
#
# $$\tilde h_t = o \odot u$$
#
# The last lines are zoneout (chapter 5). Where a mask $k^c_t$ or $k^h_t$ (H, B) is 1, a unit keeps its old value:
#
# $$c_t = k^c_t \odot c_{t-1} + (1 - k^c_t) \odot \tilde c_t$$
#
# $$h_t = k^h_t \odot h_{t-1} + (1 - k^h_t) \odot \tilde h_t$$
#
# With all masks 0 this is the plain LSTM.


# %%
def sigmoid(a):
    return 0.5 + 0.5 * array_module(a).tanh(0.5 * a)  # never overflows


def step(x, h, c, W_x, W_h, b, keep_h, keep_c):
    """One step forward: the next h and c (H, B), and what the backward pass needs."""
    xp = array_module(W_h)
    H = len(h)
    a = W_x @ x + W_h @ h + b[:, None]  # (4H, B)
    i = sigmoid(a[:H])
    f = sigmoid(a[H : 2 * H])
    g = xp.tanh(a[2 * H : 3 * H])
    o = sigmoid(a[3 * H :])
    new_c = f * c + i * g  # (H, B)
    u = xp.tanh(new_c)
    new_h = o * u
    next_c = keep_c * c + (1 - keep_c) * new_c
    next_h = keep_h * h + (1 - keep_h) * new_h
    return next_h, next_c, (i, f, g, o, u)


# %% [markdown]
# `forward` repeats the step. `h[t]` and `c[t]` are the states $h_t$ and $c_t$, so both lists start with the initial
# states. Python counts from 0. So in the loop t = 0 is step 1 of the equations: it reads `x[0]`, the masks 0, `h[0]`
# and `c[0]`, and appends `h[1]` and `c[1]`.


# %%
def forward(x, h0, c0, W_x, W_h, b, keep_h, keep_c):
    """h and c (T + 1, H, B), and the stored arrays of every step; x (T, D, B), masks (T, H, B)."""
    xp = array_module(W_h)
    h, c, stored = [h0], [c0], []
    for t in range(len(x)):
        next_h, next_c, arrays = step(x[t], h[t], c[t], W_x, W_h, b, keep_h[t], keep_c[t])
        h.append(next_h)
        c.append(next_c)
        stored.append(arrays)
    return xp.stack(h), xp.stack(c), stored


# %% [markdown]
# ## Backward through a step
#
# Write $dv$ for the gradient $\partial L / \partial v$ of the loss $L$. It has the shape of $v$. If a value is used in
# several places, its gradient is the sum over these uses (chapter 2).
#
# Suppose that $dh_t$ and $dc_t$ are complete. We go through the step from its last line to its first. The upper part of
# the figure, at the end of this chapter, shows the way.
#
# **Zoneout of the hidden state.** The candidate was multiplied by $1 - k^h_t$, and so is its gradient:
#
# $$d\tilde h_t = (1 - k^h_t) \odot dh_t$$
#
# **The output.** In a product, each factor gets the gradient times the other factor. From $\tilde h_t = o \odot u$
# follow
#
# $$do = d\tilde h_t \odot u$$
#
# $$du = d\tilde h_t \odot o$$
#
# **The candidate cell.** It is used twice: in $c_t$, and in $u$. The slope of tanh is $1 - \tanh^2$, so
#
# $$d\tilde c_t = (1 - k^c_t) \odot dc_t + du \odot (1 - u^2)$$
#
# The second term has no factor with $k^c_t$. A cell that is zoned out does not pass its candidate to $c_t$, but it
# still passes it to $\tilde h_t$.
#
# **The gates and the proposal.** From the two products in $\tilde c_t = f \odot c_{t-1} + i \odot g$ follow
#
# $$df = d\tilde c_t \odot c_{t-1}$$
#
# $$di = d\tilde c_t \odot g$$
#
# $$dg = d\tilde c_t \odot i$$
#
# **The four blocks of $a_t$.** The slope of the sigmoid is $\sigma (1 - \sigma)$. Both slopes follow from the value of
# the function, so the backward pass does not need $a_t$ itself:
#
# $$da^i = di \odot i \odot (1 - i)$$
#
# $$da^f = df \odot f \odot (1 - f)$$
#
# $$da^g = dg \odot (1 - g^2)$$
#
# $$da^o = do \odot o \odot (1 - o)$$
#
# Below each other they are $da_t$ (4H, B). Where a gate is near 0 or 1, its slope is near 0, and it hardly learns.
#
# ## From a step to the one before
#
# Let $p_t$ (H, B) be the gradient that the loss gives to $h_t$ directly, for example because $h_t$ predicts the next
# symbol of a text. Let $q_t$ (H, B) be the same for $c_t$.
#
# **The hidden state** $h_{t-1}$ has three uses: the loss, the product $W_h h_{t-1}$, and zoneout of step t. So
#
# $$dh_{t-1} = p_{t-1} + W_h^\top da_t + k^h_t \odot dh_t$$
#
# Why the transposed matrix? Element k of $h_{t-1}$ enters row j of $a_t$ with the factor $W_{jk}$. So it gets the sum
# of $W_{jk} da_j$ over all rows j. For all elements together this is $W_h^\top da_t$.
#
# **The cell** $c_{t-1}$ has three uses too: the loss, the product with $f$, and zoneout of step t. So
#
# $$dc_{t-1} = q_{t-1} + f \odot d\tilde c_t + k^c_t \odot dc_t$$
#
# After the last step there is nothing but the loss: $dh_T = p_T$ and $dc_T = q_T$.
#
# Compare the two equations. On its way back through time, $dh$ is multiplied by a matrix at every step. $dc$ is
# multiplied, on its direct path from $c_t$ to $c_{t-1}$, only by numbers between 0 and 1. Where $f$ or $k^c$ is near 1,
# a gradient passes many steps. That is the purpose of an LSTM.


# %%
def step_back(dh, dc, c_before, stored, W_h, keep_h, keep_c):
    """The mirror of `step`.

    From dLoss/dh_t and dLoss/dc_t, each (H, B), which are complete: da_t (4H, B), and the terms of this step in
    dLoss/dh_{t-1} and dLoss/dc_{t-1}.
    """
    i, f, g, o, u = stored
    d_new_h = (1 - keep_h) * dh  # (H, B), as all that follow
    do = d_new_h * u
    du = d_new_h * o
    d_new_c = (1 - keep_c) * dc + du * (1 - u * u)
    df = d_new_c * c_before
    di = d_new_c * g
    dg = d_new_c * i
    blocks = [di * i * (1 - i), df * f * (1 - f), dg * (1 - g * g), do * o * (1 - o)]
    da = array_module(dh).concatenate(blocks)  # (4H, B)
    dh_before = W_h.T @ da + keep_h * dh
    dc_before = f * d_new_c + keep_c * dc
    return da, dh_before, dc_before


# %% [markdown]
# ## The weights: all of time in one product
#
# All steps t and all examples n use the same $W_h$, so $dW_h$ is a sum over these uses. One use is the term
# $W_{jk} h_k$ in $a_j$. It adds $da_j h_k$ to the gradient of $W_{jk}$. For all j and k together, that is the outer
# product of two columns. Write $da_{t,n}$ (4H,) and $h_{t-1,n}$ (H,) for the columns of example n:
#
# $$dW_h = \sum_{t,n} da_{t,n} h_{t-1,n}^\top$$
#
# A sum of outer products is a matrix product. Put the columns of all steps side by side: $A = [da_1 \dots da_T]$
# (4H, TB), $S = [h_0 \dots h_{T-1}]$ (H, TB) and $X = [x_1 \dots x_T]$ (D, TB). Then
#
# $$dW_h = A S^\top$$
#
# $$dW_x = A X^\top$$
#
# The bias is a weight whose input is always 1, so $db$ (4H,) is the sum of the columns of $A$. The inputs get
#
# $$dX = W_x^\top A$$
#
# One product for all steps is faster than T small ones, because each of those would read and write the large $dW_h$.
# The loop over time cannot be joined in this way, since $da_t$ needs $da_{t+1}$.


# %%
def side_by_side(v):
    """(T, R, B) to (R, TB): the columns of all steps."""
    return v.transpose(1, 0, 2).reshape(v.shape[1], -1)


# %% [markdown]
# For a test we need a loss. We take the sum of the elements of $p \odot h + q \odot c$ over all steps, with random
# arrays p and q (T, H, B). Its direct gradients are $p_t$ and $q_t$, in the code `p[t - 1]` and `q[t - 1]`. After the
# loop, `dh` and `dc` are the gradients of $h_0$ and $c_0$.


# %%
def by_hand(x, h0, c0, W_x, W_h, b, keep_h, keep_c, p, q):
    """dLoss/d(x, h0, c0, W_x, W_h, b) for Loss = sum(p * h + q * c)."""
    T, D, B = x.shape
    h, c, stored = forward(x, h0, c0, W_x, W_h, b, keep_h, keep_c)
    da = array_module(W_h).empty((T, len(W_h), B), W_h.dtype)  # (T, 4H, B)
    dh = dc = 0  # nothing comes after the last step
    for t in reversed(range(T)):
        da[t], dh, dc = step_back(dh + p[t], dc + q[t], c[t], stored[t], W_h, keep_h[t], keep_c[t])
    A = side_by_side(da)  # (4H, TB)
    X = side_by_side(x)  # (D, TB)
    S = side_by_side(h[:-1])  # (H, TB)
    dx = (W_x.T @ A).reshape(D, T, B).transpose(1, 0, 2)  # (T, D, B)
    return dx, dh, dc, A @ X.T, A @ S.T, A.sum(axis=1)


# %% [markdown]
# ## Is it right?
#
# We compare with three other ways to get the gradients:
#
# - the tape of minizone, through the equations of `minizone/recurrent/cells.py`, one operation at a time;
# - `minizone.lstm`, which computes what this chapter computes, without new arrays in its loop
#   (`minizone/recurrent/lstm.py`);
# - the complex step (chapter 3), which needs no rule of differentiation.


# %%
def by_autograd(layer, x, h0, c0, W_x, W_h, b, keep_h, keep_c, p, q):
    """The same gradients by the tape: through the operations of a reference, or through one node."""
    leaves = [Tensor(value) for value in (x, h0, c0, W_x, W_h, b)]
    h, c = layer(*leaves, keep_h=keep_h, keep_c=keep_c)
    (h * p + c * q).sum().backward()
    return [leaf.grad for leaf in leaves]


def by_tape(*values):
    return by_autograd(lstm_unrolled, *values)


def by_minizone(*values):
    return by_autograd(lstm, *values)


METHODS = {"tape": by_tape, "by hand": by_hand, "minizone.lstm": by_minizone}

# %% [markdown]
# A problem is a list of ten arguments: the six that get a gradient, the two masks, in which 3 of 10 units keep their
# value, and the weights p and q of the loss.


# %%
def problem(T, B, H, dtype, device):
    """x, h0, c0, W_x, W_h, b for D = 5 inputs; keep_h, keep_c; p, q; all of them random."""
    D = 5
    rng = stream(4, "problem")
    shapes = [(T, D, B), (H, B), (H, B), (4 * H, D), (4 * H, H), (4 * H,)]
    values = [rng.standard_normal(shape) / shape[-1] ** 0.5 for shape in shapes]
    p, q = rng.standard_normal((2, T, H, B)) / B**0.5
    keep_h, keep_c = rng.random((2, T, H, B)) < 0.3
    return [device.to_device(v.astype(dtype)) for v in (*values, keep_h, keep_c, p, q)]


# %% [markdown]
# The complex step moves one element of one argument at a time.


# %%
def loss(x, h0, c0, W_x, W_h, b, keep_h, keep_c, p, q):
    h, c, _ = forward(x, h0, c0, W_x, W_h, b, keep_h, keep_c)
    return (h[1:] * p + c[1:] * q).sum()


def by_complex_step(values, k):
    """dLoss/d(values[k]), element by element."""
    gradient = np.empty(values[k].shape)
    for index in np.ndindex(gradient.shape):
        moved = [value.astype(complex) for value in values]
        moved[k][index] += 1e-20j
        gradient[index] = loss(*moved).imag / 1e-20
    return gradient


# %%
values = problem(3, 2, 3, np.float64, Device())
found = {name: method(*values) for name, method in METHODS.items()}
for k, name in enumerate(("x", "h0", "c0", "W_x", "W_h", "b")):
    expected = by_complex_step(values, k)
    largest = np.abs(expected).max()
    error = max(np.abs(gradients[k] - expected).max() for gradients in found.values()) / largest
    check(f"d{name} {expected.shape}: by hand, tape, minizone.lstm and complex step agree to 12 digits", error < 1e-12)

# %% [markdown]
# ## How fast is it?
#
# In the forward pass all three methods make the same matrix products. The tape adds a call, an array and a node for
# every operation, and it computes $dW_h$ in T products. `main` measures the time for several lengths of the sequence.


# %%
def milliseconds(values, method, where: Device) -> float:
    start = time.perf_counter()
    method(*values)
    synchronize(where)
    return 1000 * (time.perf_counter() - start)


def shortest_times(lengths, B: int, H: int, where: Device) -> dict[str, np.ndarray]:
    """Milliseconds of each method for each T: the shortest of 10 runs, as other programs disturb."""
    times = {name: np.full(len(lengths), np.inf) for name in METHODS}
    problems = [problem(T, B, H, np.float32, where) for T in lengths]
    for _ in range(10):
        for k, values in enumerate(problems):
            for name, method in METHODS.items():
                times[name][k] = min(times[name][k], milliseconds(values, method, where))
    return times


# %% [markdown]
# The upper part of the figure is a map of one step. Each circle is a value, and an arrow leads from a value to one that
# is computed from it. Each arrow has the factor by which the gradient is multiplied on the way back.

# %%
PLACES = {
    "$c_{t-1}$": (0, 7.2),
    "$c_t$": (11, 7.2),
    "$h_{t-1}$": (0, 0),
    "$h_t$": (11, 0),
    "$x_t$": (0, 3.2),
    "$a_t$": (1.9, 3.2),
    "$f$": (4.6, 5),
    "$i$": (4.6, 3.8),
    "$g$": (4.6, 2.6),
    "$o$": (4.6, 1.4),
    "$\\tilde c_t$": (7.4, 5),
    "$u$": (8.4, 3.2),
    "$\\tilde h_t$": (9.4, 1.4),
}
FACTORS = {  # from, to: the factor on the way back
    ("$c_{t-1}$", "$c_t$"): "$k^c_t$",
    ("$c_{t-1}$", "$\\tilde c_t$"): "$f$",
    ("$\\tilde c_t$", "$c_t$"): "$1-k^c_t$",
    ("$f$", "$\\tilde c_t$"): "$c_{t-1}$",
    ("$i$", "$\\tilde c_t$"): "$g$",
    ("$g$", "$\\tilde c_t$"): "$i$",
    ("$\\tilde c_t$", "$u$"): "$1-u^2$",
    ("$u$", "$\\tilde h_t$"): "$o$",
    ("$o$", "$\\tilde h_t$"): "$u$",
    ("$\\tilde h_t$", "$h_t$"): "$1-k^h_t$",
    ("$h_{t-1}$", "$h_t$"): "$k^h_t$",
    ("$h_{t-1}$", "$a_t$"): "$W_h^\\top$",
    ("$x_t$", "$a_t$"): "$W_x^\\top$",
    ("$a_t$", "$f$"): "$f(1-f)$",
    ("$a_t$", "$i$"): "$i(1-i)$",
    ("$a_t$", "$g$"): "$1-g^2$",
    ("$a_t$", "$o$"): "$o(1-o)$",
}


def draw_arrows(axis, start, end, factor: str) -> None:
    """A black arrow from start to end, and a red one back with its factor."""
    start, end = np.array(start), np.array(end)
    right, up = (end - start) / np.linalg.norm(end - start)
    aside = 0.09 * np.array([-up, right])  # to the left of the black arrow
    style = {"arrowstyle": "-|>", "shrinkA": 10, "shrinkB": 10}
    axis.annotate("", end - aside, start - aside, arrowprops={**style, "color": "0.3"})
    axis.annotate("", start + aside, end + aside, arrowprops={**style, "color": "C3"})
    place = 0.45 * start + 0.55 * end + aside
    white = {"fc": "w", "ec": "none", "pad": 0.8}
    axis.text(*place, factor, color="C3", ha="center", va="center", bbox=white)


def draw_step(axis) -> None:
    """One step of the LSTM: black arrows forward, red arrows for the gradients."""
    for (source, target), factor in FACTORS.items():
        draw_arrows(axis, PLACES[source], PLACES[target], factor)
    for state, y in (("c", 7.2), ("h", 0)):
        draw_arrows(axis, (11, y), (12.7, y), f"$d{state}_t$")  # from the steps that follow, and from the loss
        draw_arrows(axis, (-1.9, y), (0, y), f"$d{state}_{{t-1}}$")
    x, y = np.array(list(PLACES.values())).T
    axis.scatter(x, y, s=800, c="w", edgecolors="0.3", zorder=2)
    for name, place in PLACES.items():
        axis.text(*place, name, ha="center", va="center", fontsize=10)
    axis.set(title="one step of an LSTM: values go forward (black), gradients go back (red, with their factors)")
    axis.set(xlim=(-1.9, 12.7), ylim=(-0.5, 7.7), aspect="equal")
    axis.set_axis_off()


# %%
def draw(lengths, B: int, H: int, times: dict[str, np.ndarray]) -> None:
    figure, axes = plt.subplot_mosaic([["step", "step"], ["total", "each"]], figsize=(8.5, 8.4), height_ratios=[2.2, 1])
    draw_step(axes["step"])
    for name, ms in times.items():
        axes["total"].plot(lengths, ms, "o-", label=name)
        axes["each"].plot(lengths, ms / lengths, "o-")
    axes["total"].set(title=f"forward and backward, B = {B}, H = {H}", ylabel="ms")
    axes["each"].set(title="the same, for each time step", ylabel="ms / T")
    for axis in (axes["total"], axes["each"]):
        axis.set(xlabel="time steps T", xlim=0, ylim=0)
    figure.legend(loc="outside lower center", ncols=3)
    save(figure, "04_lstm_by_hand")


# %%
SIZES = {  # several T, then B and H
    "small": ((5, 10, 20), 4, 16),
    "quick": ((98, 196, 392, 784), 32, 100),
    "paper": ((25, 50, 100), 32, 1000),
}


def main(preset: Preset = "quick", device: DeviceName = "cpu") -> dict:
    """Time the three, forward and backward, at several lengths."""
    lengths, B, H = SIZES[preset]
    times = shortest_times(lengths, B, H, Device(device))
    for name, ms in times.items():
        power, _ = np.polyfit(np.log(lengths), np.log(ms), 1)
        ratio = ms[-1] / times["minizone.lstm"][-1]
        print(f"{name:13} {ms[-1]:7.1f} ms at T = {lengths[-1]}, growing as T^{power:.2f}: {ratio:.1f} x minizone.lstm")
    draw(lengths, B, H, times)
    return {"lengths": lengths, "milliseconds": {name: ms.tolist() for name, ms in times.items()}}


# %%
if __name__ == "__main__":
    shared.run(main)

# %% [markdown]
# ## In the figure
#
# Above: the gradients $dc_t$ and $dh_t$ come in on the right. A red arrow takes the gradient at its start, multiplies
# it by the factor, and adds it to the gradient at its end. For example, two red arrows arrive at $\tilde c_t$: one from
# $c_t$ with the factor $1 - k^c_t$, and one from $u$ with the factor $1 - u^2$. There is no matrix on the two shortest
# ways from $c_t$ to $c_{t-1}$.
#
# Below: the time of a step hardly depends on the length of the sequence, so the time of the whole is about proportional
# to T. The tape takes several times as long as the other two.

# %% [markdown]
# ## What to take away
#
# - Write the forward pass as short lines. Each line gives a line of the backward pass, in reverse order.
# - A value gets one term of its gradient from each of its uses.
# - Two gradients go back through time: `dh` through a matrix at every step, and `dc` directly, through factors between
#   0 and 1.
# - Collect `da` of all steps, and make one matrix product for each array of weights.
#
# ## Exercises
#
# 1. Take `keep_h * dh` out of `step_back`. With T = 1 one of the six gradients becomes wrong, with T = 3 all. Why?
# 2. Let the tanh take the cell *after* zoneout, which is a common mistake. Which lines of `step_back` change?
# 3. Print the norm of `dc` at every step for a loss that depends on the last h alone. Then add 2 to the rows of f in
#    `b`. What changes?
