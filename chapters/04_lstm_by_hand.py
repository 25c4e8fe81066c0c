# %% [markdown]
# # 4. An LSTM by hand: back-propagation through time
#
# **Claim.** The backward pass of an LSTM is its forward pass read from the last line to the first. Two gradients go
# back through time, `dh` and `dc`. Every other gradient of a step is one of them times something that the forward pass
# has stored. The gradients of the weights are sums over all steps, and each of them is one matrix product.
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
# The columns of all arrays are the B examples. Step t takes $x_t$ (D, B) and the states $h_{t-1}, c_{t-1}$ (H, B). The
# weights are $W_x$ (4H, D) and $W_h$ (4H, H). The bias $b$ (4H,) is added to every column. With $\odot$ for a product
# element by element and $\sigma(a) = 1 / (1 + e^{-a})$, the step computes
#
# $$a_t = W_x x_t + W_h h_{t-1} + b \;\; (4H, B), \quad \text{cut into four blocks } a^i, a^f, a^g, a^o \; (H, B)$$
# $$i = \sigma(a^i) \quad f = \sigma(a^f) \quad g = \tanh(a^g) \quad o = \sigma(a^o)$$
# $$\tilde c_t = f \odot c_{t-1} + i \odot g \quad u = \tanh(\tilde c_t) \quad \tilde h_t = o \odot u$$
# $$c_t = k^c_t \odot c_{t-1} + (1 - k^c_t) \odot \tilde c_t \qquad
# h_t = k^h_t \odot h_{t-1} + (1 - k^h_t) \odot \tilde h_t$$
#
# The arrays $\tilde c_t$ and $\tilde h_t$ are the candidates for the new states. The last line is zoneout (chapter 5):
# where a mask $k$ (H, B) is 1, a unit keeps its old value. With all masks 0 this is the plain LSTM.


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
    next_c = keep_c * c + (1 - keep_c) * new_c
    next_h = keep_h * h + (1 - keep_h) * (o * u)
    return next_h, next_c, (i, f, g, o, u)


# %% [markdown]
# `forward` repeats the step. `h[t]` and `c[t]` are the states $h_t$ and $c_t$, so both lists start with the initial
# states. Python counts the inputs from 0, so step t of the equations reads `x[t - 1]`.


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
# ## The gradients that arrive at a step
#
# Write $dv$ for $\partial L / \partial v$, which has the shape of $v$. If a value is used in several places, its
# gradient is the sum over these uses.
#
# **Uses of $h_t$.** The loss may use it at step t. Step t + 1 uses it in $W_h h_t$: element k of $h_t$ enters row j of
# $a_{t+1}$ with the factor $W_{jk}$, and gets $\sum_j W_{jk} \, da_j$ back. For all elements together that is the
# product with the *transposed* matrix. Finally, zoneout of step t + 1 keeps $h_t$ where $k^h_{t+1}$ is 1.
#
# **Uses of $c_t$.** The loss may use it. The next candidate uses it in $f_{t+1} \odot c_t$. Zoneout of step t + 1 keeps
# it where $k^c_{t+1}$ is 1.
#
# $$dh_t = \tfrac{\partial L_t}{\partial h_t} + W_h^\top da_{t+1} + k^h_{t+1} \odot dh_{t+1} \qquad
# dc_t = \tfrac{\partial L_t}{\partial c_t} + f_{t+1} \odot d\tilde c_{t+1} + k^c_{t+1} \odot dc_{t+1}$$
#
# After the last step only the loss is left. Note that $h_t$ is not a use of $c_t$, because it is made from the
# candidate $\tilde c_t$.
#
# Compare the two equations. On its way back $dh$ goes through a matrix at every step. $dc$ only meets factors between 0
# and 1. Where $f$ or $k$ is near 1, a gradient travels far. That is the purpose of an LSTM.
#
# ## Through a step, from its last line to its first
#
# **Zoneout** splits $dh_t$. The part $d\tilde h_t = (1 - k^h_t) \odot dh_t$ goes to the candidate, the rest to
# $h_{t-1}$. A unit that was zoned out sends all of its gradient back in time.
#
# **A product** gives each factor the gradient times the other factor. From $\tilde h_t = o \odot u$ follow
# $do = d\tilde h_t \odot u$ and $du = d\tilde h_t \odot o$.
#
# **The candidate cell** is used twice: in $c_t$, and in $u$, whose tanh has the slope $1 - u^2$. So
# $d\tilde c_t = (1 - k^c_t) \odot dc_t + du \odot (1 - u^2)$. The second term has no factor of $k^c$: a cell that is
# zoned out shows its candidate in $\tilde h_t$ all the same. And $\tilde c_t = f \odot c_{t-1} + i \odot g$ is made of
# two products, so $df = d\tilde c_t \odot c_{t-1}$, $di = d\tilde c_t \odot g$ and $dg = d\tilde c_t \odot i$.
#
# **Pre-activations.** The slope of the sigmoid is $\sigma' = e^{-a} / (1 + e^{-a})^2 = \sigma (1 - \sigma)$, since
# $1 - \sigma = e^{-a} / (1 + e^{-a})$. The slope of $\tanh = \sinh / \cosh$ is
# $(\cosh^2 - \sinh^2) / \cosh^2 = 1 - \tanh^2$. Both follow from the value of the function, so $a_t$ need not be
# stored: $da^i = di \odot i (1 - i)$, the same for f and o, and $da^g = dg \odot (1 - g^2)$. Together they are $da_t$
# (4H, B). A gate near 0 or 1 has a slope near 0 and hardly learns.


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
    di = d_new_c * g
    df = d_new_c * c_before
    dg = d_new_c * i
    da = array_module(dh).concatenate([di * i * (1 - i), df * f * (1 - f), dg * (1 - g * g), do * o * (1 - o)])
    dh_before = W_h.T @ da + keep_h * dh
    dc_before = f * d_new_c + keep_c * dc
    return da, dh_before, dc_before


# %% [markdown]
# ## The weights: all of time in one product
#
# All steps t and all examples n use the same $W_h$, so $dW_h$ is a sum over these uses. One of them is the term
# $W_{jk} h_k$ in $a_j$. It contributes $da_j h_k$ to the gradient of $W_{jk}$. For all j and k that is an outer product
# of two columns. A sum of outer products *is* a matrix product, with the columns side by side. Take
# $A = [da_1 \dots da_T]$ (4H, TB), $X = [x_1 \dots x_T]$ (D, TB) and $P = [h_0 \dots h_{T-1}]$ (H, TB):
#
# $$dW_h = \sum_{t, n} da_{t,n} h_{t-1,n}^\top = A P^\top \;\; (4H, H) \qquad dW_x = A X^\top \;\; (4H, D) \qquad
# db = A \mathbf 1 \;\; (4H,) \qquad dX = W_x^\top A \;\; (D, TB)$$
#
# The bias is a weight whose input is always 1. One product for all steps is faster than T small ones, because each of
# those would read and write the large $dW_h$. The loop over time cannot be joined in this way, since $da_t$ needs
# $da_{t+1}$. After the first step its `dh` and `dc` are $dh_0$ and $dc_0$.
#
# As the loss we take the sum over $p \odot h + q \odot c$, with random p and q (T, H, B). Then
# $\partial L_t / \partial h_t$ is $p_t$, and $\partial L_t / \partial c_t$ is $q_t$.


# %%
def side_by_side(v):
    """(T, R, B) to (R, TB): the columns of all steps."""
    return v.transpose(1, 0, 2).reshape(v.shape[1], -1)


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
    P = side_by_side(h[:-1])  # (H, TB)
    dx = (W_x.T @ A).reshape(D, T, B).transpose(1, 0, 2)  # (T, D, B)
    return dx, dh, dc, A @ X.T, A @ P.T, A.sum(axis=1)


# %% [markdown]
# ## Is it right?
#
# We compare with three others. The tape differentiates the equations of `minizone/recurrent/cells.py`, one operation at
# a time. `minizone.lstm` (`minizone/recurrent/lstm.py`) is this chapter, without new arrays in its loop. The complex
# step, $\mathrm{Im}\, L(v + i \epsilon) / \epsilon$ for each element of each argument, knows no rule of
# differentiation (chapter 3).


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
# A problem is a list of the ten arguments: the six that get a gradient, the two masks, in which 3 of 10 units keep
# their value, and the weights p and q of the loss.


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
# In the forward pass all three make the same matrix products. The tape adds a call, an array and a node for every
# operation, and it computes $dW_h$ in T products. The time of all three grows as T, because a step back mirrors a step
# forward.


# %%
def milliseconds(values, method, where: Device) -> float:
    start = time.perf_counter()
    method(*values)
    synchronize(where)
    return 1000 * (time.perf_counter() - start)


SIZES = {  # several T, then B and H
    "small": ((5, 10, 20), 4, 16),
    "quick": ((98, 196, 392, 784), 32, 100),
    "paper": ((25, 50, 100), 32, 1000),
}


def main(preset: Preset = "quick", device: DeviceName = "cpu") -> dict:
    """Time the three, forward and backward, at several lengths."""
    lengths, B, H = SIZES[preset]
    where = Device(device)
    times = {name: np.full(len(lengths), np.inf) for name in METHODS}
    problems = [problem(T, B, H, np.float32, where) for T in lengths]
    for _ in range(10):  # the least of 10, as other programs disturb
        for k, values in enumerate(problems):
            for name, method in METHODS.items():
                times[name][k] = min(times[name][k], milliseconds(values, method, where))

    figure, (left, right) = plt.subplots(1, 2)
    for name, ms in times.items():
        power, _ = np.polyfit(np.log(lengths), np.log(ms), 1)
        ratio = ms[-1] / times["minizone.lstm"][-1]
        print(f"{name:13} {ms[-1]:7.1f} ms at T = {lengths[-1]}, growing as T^{power:.2f}: {ratio:.1f} x minizone.lstm")
        left.plot(lengths, ms, "o-", label=f"{name}: {ratio:.1f}")
        right.plot(lengths, ms / lengths, "o-")
    left.set(title=f"forward and backward, B = {B}, H = {H}", xlabel="time steps T", ylabel="ms", xlim=0, ylim=0)
    left.legend(title="ratio at the largest T")
    right.set(title="the same, for each step", xlabel="time steps T", ylabel="ms / T", xlim=0, ylim=0)
    save(figure, "04_lstm_by_hand")
    return {"lengths": lengths, "milliseconds": {name: ms.tolist() for name, ms in times.items()}}


# %%
if __name__ == "__main__":
    shared.run(main)

# %% [markdown]
# ## Exercises
#
# 1. Take `keep_h * dh` out of `step_back`. With T = 1 one of the six gradients becomes wrong, with T = 3 all. Why?
# 2. Let the tanh take the cell *after* zoneout, which is a common mistake. Which lines of `step_back` change?
# 3. Print the norm of `dc` at every step for a loss that depends on the last h alone. Then add 2 to the rows of f in
#    `b`. What changes?
