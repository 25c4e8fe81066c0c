# %% [markdown]
# # 4. An LSTM by hand: back-propagation through time
#
# **Claim.** The backward pass of an LSTM is its forward pass read from the last line to the first. Two arrays walk back
# through time, `dh` and `dc`; every other gradient of a step is one of them times something the forward pass has kept;
# and the gradients of the weights, sums over all steps, are one matrix product each.
#
# Paper: the equations of section 3.2, zoneout included. At the size of section 4.1.1, T = 100, B = 32, H = 1000:
# `python chapters/04_lstm_by_hand.py --preset paper --device gpu`

# %%
import time
from functools import partial

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
# Columns are the B examples. From $x_t$ (D, B) and $h_{t-1}, c_{t-1}$ (H, B), with $W_x$ (4H, D), $W_h$ (4H, H) and $b$
# (4H,), added to every column, step t computes ($\odot$: element by element; $\sigma(a) = 1 / (1 + e^{-a})$)
#
# $$a_t = W_x x_t + W_h h_{t-1} + b \;\; (4H, B), \quad \text{cut into four blocks } a^i, a^f, a^g, a^o \; (H, B)$$
# $$i = \sigma(a^i) \quad f = \sigma(a^f) \quad g = \tanh(a^g) \quad o = \sigma(a^o) \quad
# \tilde c_t = f \odot c_{t-1} + i \odot g \quad u = \tanh(\tilde c_t) \quad \tilde h_t = o \odot u$$
# $$c_t = k^c_t \odot c_{t-1} + (1 - k^c_t) \odot \tilde c_t \qquad
# h_t = k^h_t \odot h_{t-1} + (1 - k^h_t) \odot \tilde h_t$$
#
# The last line is zoneout (chapter 5): where its mask $k$ (H, B) is 1, a unit keeps its old value. All 0: a plain LSTM.


# %%
def forward(x, h0, c0, W_x, W_h, b, keep_h, keep_c):
    """x (T, D, B), h0 and c0 (H, B), masks (T, H, B): h and c (T + 1, H, B), h[t] being h_t, and what a step keeps."""
    xp, T, H = array_module(W_h), len(x), W_h.shape[1]
    h, c, kept = [h0], [c0], []
    for t in range(T):  # step t + 1 of the equations: Python counts from 0
        a = W_x @ x[t] + W_h @ h[t] + b[:, None]  # (4H, B)
        i, f, o = (0.5 + 0.5 * xp.tanh(0.5 * a[k * H : (k + 1) * H]) for k in (0, 1, 3))  # sigmoid, never overflows
        g = xp.tanh(a[2 * H : 3 * H])
        new_c = f * c[t] + i * g  # (H, B)
        u = xp.tanh(new_c)
        c.append(keep_c[t] * c[t] + (1 - keep_c[t]) * new_c)
        h.append(keep_h[t] * h[t] + (1 - keep_h[t]) * (o * u))
        kept.append((i, f, g, o, u))
    return xp.stack(h), xp.stack(c), kept


# %% [markdown]
# ## What arrives at a step
#
# $dv$ is $\partial L / \partial v$, of the shape of $v$, and a value collects the sum of what its uses send back. So
# **who uses $h_t$?** The loss, at step t. Step t + 1, in $W_h h_t$: element k of $h_t$ enters row j of $a_{t+1}$ with a
# factor $W_{jk}$ and gets $\sum_j W_{jk} \, da_j$ back; all together, the *transposed* product. And the keep path of
# step t + 1. **Who uses $c_t$?** The loss, if it sees cells; $f_{t+1} \odot c_t$ in the next candidate; the keep path.
#
# $$dh_t = \tfrac{\partial L_t}{\partial h_t} + W_h^\top da_{t+1} + k^h_{t+1} \odot dh_{t+1} \qquad
# dc_t = \tfrac{\partial L_t}{\partial c_t} + f_{t+1} \odot d\tilde c_{t+1} + k^c_{t+1} \odot dc_{t+1}$$
#
# After the last step there is only the loss. Missing from the second list is $h_t$: it shows $\tilde c_t$, not $c_t$.
# And compare the two roads: $dh$ goes through a matrix at every step, $dc$ only through factors between 0 and 1. Where
# $f$ or $k$ is near 1 a gradient travels far, which is what an LSTM is for.
#
# ## Through a step, from its last line to its first
#
# **Zoneout** divides $dh_t$: $d\tilde h_t = (1 - k^h_t) \odot dh_t$ goes to the candidate, the rest to $h_{t-1}$. A
# unit that waited sends all of it back in time, and its candidate hears nothing. **A product** gives each factor the
# gradient times the other factor. From $\tilde h_t = o \odot u$: $do = d\tilde h_t \odot u$, the output gate matters as
# much as there is to show; and $du = d\tilde h_t \odot o$, what was not shown is not blamed. **The candidate cell** is
# used twice, by $c_t$ and by $u$, whose tanh has the slope $1 - u^2$: $d\tilde c_t = (1 - k^c_t) \odot dc_t + du \odot
# (1 - u^2)$. The second term has no $k^c$: a cell that waits has shown its candidate all the same. And $\tilde c_t$ is
# made of two products: $df = d\tilde c_t \odot c_{t-1}$, forgetting matters where something is remembered;
# $di = d\tilde c_t \odot g$, opening as much as there is to let in; $dg = d\tilde c_t \odot i$, a shut gate shields it.
#
# **Pre-activations.** $\sigma' = e^{-a} / (1 + e^{-a})^2$, and $1 - \sigma = e^{-a} / (1 + e^{-a})$, so
# $\sigma' = \sigma (1 - \sigma)$. With $\tanh = \sinh / \cosh$: $\tanh' = (\cosh^2 - \sinh^2) / \cosh^2 = 1 - \tanh^2$.
# The values that came out are enough, $a_t$ need not be kept: $da^i = di \odot i (1 - i)$, f and o alike, and
# $da^g = dg \odot (1 - g^2)$, together $da_t$ (4H, B). A gate near 0 or 1 has a slope near 0 and hardly learns.


# %%
def step_back(dh, dc, c_before, i, f, g, o, u, W_h, keep_h, keep_c):
    """From dLoss/dh_t and dLoss/dc_t, complete: da_t (4H, B), and what this step sends to h_{t-1} and c_{t-1}."""
    d_new_h = (1 - keep_h) * dh
    do, du = d_new_h * u, d_new_h * o
    d_new_c = (1 - keep_c) * dc + du * (1 - u * u)
    di, df, dg = d_new_c * g, d_new_c * c_before, d_new_c * i
    da = array_module(dh).concatenate((di * i * (1 - i), df * f * (1 - f), dg * (1 - g * g), do * o * (1 - o)))
    return da, W_h.T @ da + keep_h * dh, f * d_new_c + keep_c * dc


# %% [markdown]
# ## The weights: all of time in one product
#
# All steps and examples n use the same $W_h$, so $dW_h$ is a sum over uses. One of them, $W_{jk} h_k$ in $a_j$, sends
# $da_j h_k$ to $W_{jk}$: an outer product of two columns. A sum of outer products *is* a matrix product, its columns
# side by side. With $A = [da_1 \dots da_T]$ (4H, TB), $X = [x_1 \dots x_T]$ (D, TB), $P = [h_0 \dots h_{T-1}]$ (H, TB):
#
# $$dW_h = \sum_{t, n} da_{t,n} h_{t-1,n}^\top = A P^\top \;\; (4H, H) \qquad dW_x = A X^\top \;\; (4H, D) \qquad
# db = A \mathbf 1 \;\; (4H,) \qquad dX = W_x^\top A \;\; (D, TB)$$
#
# ($b$ is a weight whose input is always 1.) T small products would read and write the large $dW_h$ T times. The loop
# has no such luck: $da_t$ needs $da_{t+1}$. What it holds after the first step is $dh_0$ and $dc_0$. As loss take the
# sum over $p \odot h + q \odot c$, p and q (T, H, B) at random: it sends $p_t$ to $h_t$ and $q_t$ to $c_t$.


# %%
def by_hand(x, h0, c0, W_x, W_h, b, keep_h, keep_c, p, q):
    """dLoss/d(x, h0, c0, W_x, W_h, b) for Loss = sum(p * h + q * c)."""
    xp, (T, D, B), H = array_module(W_h), x.shape, len(h0)
    h, c, kept = forward(x, h0, c0, W_x, W_h, b, keep_h, keep_c)
    da, dh, dc = xp.empty((T, 4 * H, B), W_h.dtype), 0, 0  # from beyond the last step comes nothing
    for t in reversed(range(T)):
        da[t], dh, dc = step_back(dh + p[t], dc + q[t], c[t], *kept[t], W_h, keep_h[t], keep_c[t])
    A, X, P = (v.transpose(1, 0, 2).reshape(v.shape[1], T * B) for v in (da, x, h[:-1]))
    return (W_x.T @ A).reshape(D, T, B).transpose(1, 0, 2), dh, dc, A @ X.T, A @ P.T, A.sum(axis=1)


# %% [markdown]
# ## Is it right, and how fast?
#
# Three witnesses. The complex step, $\mathrm{Im}\, L(v + i \epsilon) / \epsilon$ for each element v, knows no rule of
# differentiation. The tape differentiates the equations of `minizone/recurrent/cells.py`, operation by operation.
# `minizone.lstm`
# is this chapter without a new array in its loop. Forward, all three make the same products. The rest is, on the tape,
# a call, an array and a node for each operation, and $dW_h$ in T products. All grow as T: a step back mirrors a step.


# %%
def by_tape(layer, *values):
    leaves = [Tensor(value) for value in values[:6]]
    h, c = layer(*leaves, keep_h=values[6], keep_c=values[7])
    (h * values[8] + c * values[9]).sum().backward()
    return [leaf.grad for leaf in leaves]


def problem(T, B, H, dtype, device):
    """x, h0, c0, W_x, W_h, b for D = 5; keep_h, keep_c, in which 3 of 10 wait; p, q. All at random."""
    rng = stream(4, "problem")
    shapes = (T, 5, B), (H, B), (H, B), (4 * H, 5), (4 * H, H), (4 * H,), (2, T, H, B)
    *values, (p, q) = (rng.standard_normal(shape) / shape[-1] ** 0.5 for shape in shapes)
    return [device.to_device(v.astype(dtype)) for v in (*values, *(rng.random((2, T, H, B)) < 0.3), p, q)]


WAYS = {"tape": partial(by_tape, lstm_unrolled), "by hand": by_hand, "minizone.lstm": partial(by_tape, lstm)}
values = problem(3, 2, 3, np.float64, Device())
for k, name in enumerate(("x", "h0", "c0", "W_x", "W_h", "b")):
    numeric = np.empty(values[k].shape)
    for index in np.ndindex(numeric.shape):
        moved = [v.astype(complex) for v in values]
        moved[k][index] += 1e-20j
        h, c, _ = forward(*moved[:8])
        numeric[index] = (h[1:] * moved[8] + c[1:] * moved[9]).sum().imag / 1e-20
    off = max(np.abs(run(*values)[k] - numeric).max() for run in WAYS.values()) / np.abs(numeric).max()
    check(f"d{name} {numeric.shape}: by hand, tape, minizone.lstm and complex step agree to 12 digits", off < 1e-12)


# %%
def main(preset: Preset = "quick", device: DeviceName = "cpu") -> dict:
    """Time the three, forward and backward, at several lengths."""
    sizes = {"small": ((5, 10, 20), 4, 16), "quick": ((98, 196, 392, 784), 32, 100), "paper": ((25, 50, 100), 32, 1000)}
    (lengths, B, H), where, taken = sizes[preset], Device(device), []
    for values in [problem(T, B, H, np.float32, where) for T in lengths] * 10:
        for run in WAYS.values():
            start = time.perf_counter()
            run(*values)
            synchronize(where)
            taken.append(time.perf_counter() - start)
    times = 1000 * np.reshape(taken, (10, -1, 3)).min(axis=0).T  # in ms; the least of 10, as other programs disturb

    figure, (left, right) = plt.subplots(1, 2)
    for way, ms in zip(WAYS, times, strict=True):
        power, ratio = np.polyfit(np.log(lengths), np.log(ms), 1)[0], ms[-1] / times[-1, -1]
        print(f"{way:13} {ms[-1]:7.1f} ms at T = {lengths[-1]}, growing as T^{power:.2f}: {ratio:.1f} x minizone.lstm")
        left.plot(lengths, ms, "o-", label=f"{way}: {ratio:.1f}")
        right.plot(lengths, ms / lengths, "o-")
    left.set(title=f"forward and backward, B = {B}, H = {H}", xlabel="time steps T", ylabel="ms", xlim=0, ylim=0)
    left.legend(title="ratio at the largest T")
    right.set(title="the same, for each step", xlabel="time steps T", ylabel="ms / T", xlim=0, ylim=0)
    save(figure, "04_lstm_by_hand")
    return {"lengths": lengths, "milliseconds": dict(zip(WAYS, times.tolist(), strict=True))}


# %%
if __name__ == "__main__":
    shared.run(main)

# %% [markdown]
# ## Exercises
#
# 1. Take `keep_h * dh` out of `step_back`. With T = 1 one of the six gradients goes wrong, with T = 3 all. Why?
# 2. Let the tanh take the cell *after* zoneout, a slip that is often made. Which lines of `step_back` change?
# 3. Print the norm of `dc` at every step for a loss that sees the last h alone; then add 2 to the rows of f in `b`.
