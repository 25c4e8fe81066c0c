# %% [markdown]
# # 18. Zoneout in your own code: PyTorch and JAX
#
# **Claim.** A zoneout LSTM is some twenty lines in any framework. A learning curve does not tell whether they are
# right, but a reference does: with the same weights and the same masks, states and gradients agree to rounding.
#
# Paper: sections 3.1 and 3.2. With the sizes of its character model, 100 steps, 32 examples and 1,000 units:
# `python chapters/18_your_own_code.py --preset paper --device gpu`, where the device is that of the reference.

# %%
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec

import shared  # finds minizone
import matplotlib.pyplot as plt
import numpy as np
from shared import DeviceName, Preset, check, save

from minizone import Device, Tensor, lstm
from minizone.backend import bernoulli, stream, to_host


def import_if_installed(name: str):
    if find_spec(name):
        return import_module(name)
    print(f"{name} is not installed and left out: pip install {name}")
    return None


torch = import_if_installed("torch")
jax = import_if_installed("jax")

# %% [markdown]
# ## What carries over
#
# The symbols: T time steps, B examples, D inputs, H units. $h_t$ and $c_t$ are the states after step t. In minizone
# they are (H, B), one column for each example. Most frameworks have the examples in rows, so in this chapter the states
# are (B, H), the inputs x (T, B, D), and the masks keep_h and keep_c (T, B, H). A mask is 1 where the old value stays.
#
# The weights are the same arrays everywhere: W_x (4H, D), W_h (4H, H) and b (4H,). The four blocks of rows are the
# gates i, f, g and o, in this order, as in `torch.nn.LSTM`.
#
# Three things are left to you:
#
# - Zone out both states, h and c.
# - Return h after zoneout, not the candidate.
# - In evaluation use $z_h$ and $z_c$, the probabilities of keeping h and c, in place of the masks.
#
# ## A problem to compare on
#
# A `Problem` has all arrays that an implementation needs. The loss is a number that depends on every state, with random
# factors $r_t$ and $q_t$ (B, H):
#
# $$L = \sum_{t=1}^{T} \sum_{b,j} \left( r_{tbj} \, h_{tbj} + q_{tbj} \, c_{tbj} \right)$$


# %%
@dataclass
class Problem:
    """Inputs, initial states, weights, and the factors of h and c in the loss; examples are rows."""

    x: np.ndarray  # (T, B, D)
    h: np.ndarray  # (B, H)
    c: np.ndarray  # (B, H)
    W_x: np.ndarray  # (4H, D)
    W_h: np.ndarray  # (4H, H)
    b: np.ndarray  # (4H,)
    r: np.ndarray  # (T, B, H)
    q: np.ndarray  # (T, B, H)


# %% [markdown]
# All arrays are random. The weights are scaled so that the pre-activations of the gates are neither tiny nor huge.


# %%
def random_problem(T, B, D, H) -> Problem:
    rng = stream(0, "problem")

    def normal(*shape, scale=1.0):
        return rng.standard_normal(shape, np.float32) * np.float32(scale)

    return Problem(
        x=normal(T, B, D),
        h=normal(B, H),
        c=normal(B, H),
        W_x=normal(4 * H, D, scale=D**-0.5),
        W_h=normal(4 * H, H, scale=H**-0.5),
        b=normal(4 * H),
        r=normal(T, B, H),
        q=normal(T, B, H),
    )


# %% [markdown]
# Each implementation below has a function `run(problem, z_h, z_c, masks=None)`. `masks` is a pair (keep_h, keep_c).
# Without masks it evaluates. It returns h and c, each (T, B, H), and the gradients of the loss dW_x, dW_h and db.
#
# ## PyTorch
#
# `torch.nn.LSTMCell` is a plain step, so what it returns are the candidates. As in any module, `layer.train()` and
# `layer.eval()` switch between the two modes: masks that are drawn, and masks that are filled with z.

# %%
if torch:

    class TorchZoneoutLSTM(torch.nn.Module):
        def __init__(self, input_size, hidden_size, z_h, z_c):
            super().__init__()
            self.cell = torch.nn.LSTMCell(input_size, hidden_size)
            self.z_h = z_h
            self.z_c = z_c

        def mask(self, z, T, h):
            probabilities = h.new_full((T, *h.shape), z)
            return torch.bernoulli(probabilities) if self.training else probabilities

        def forward(self, x, h, c, masks=None):
            """All h and c, each (T, B, H), from x (T, B, D) and the initial h and c (B, H)."""
            T = len(x)
            if masks is None:
                masks = (self.mask(self.z_h, T, h), self.mask(self.z_c, T, h))
            keep_h, keep_c = masks
            all_h, all_c = [], []
            for t in range(T):
                new_h, new_c = self.cell(x[t], (h, c))
                h = keep_h[t] * h + (1 - keep_h[t]) * new_h
                c = keep_c[t] * c + (1 - keep_c[t]) * new_c
                all_h.append(h)
                all_c.append(c)
            return torch.stack(all_h), torch.stack(all_c)


# %% [markdown]
# To run it, we copy the weights into the cell. `LSTMCell` has two biases that are added. One gets b, the other zero.

# %%
if torch:

    def run_torch(problem, z_h, z_c, masks=None):
        tensors = {name: torch.tensor(value) for name, value in vars(problem).items()}
        layer = TorchZoneoutLSTM(problem.x.shape[-1], problem.h.shape[-1], z_h, z_c).eval()
        b = tensors["b"]
        layer.cell.load_state_dict(
            {"weight_ih": tensors["W_x"], "weight_hh": tensors["W_h"], "bias_ih": b, "bias_hh": torch.zeros_like(b)}
        )
        if masks:
            masks = [torch.tensor(keep) for keep in masks]
        h, c = layer(tensors["x"], tensors["h"], tensors["c"], masks)
        loss = (h * tensors["r"]).sum() + (c * tensors["q"]).sum()
        loss.backward()
        gradients = [layer.cell.weight_ih.grad, layer.cell.weight_hh.grad, layer.cell.bias_ih.grad]
        return [value.detach().numpy() for value in (h, c, *gradients)]


# %% [markdown]
# ## JAX
#
# `jax.lax.scan` is the loop. It calls `step` for every time step, passes the states on, and collects the second value
# that `step` returns.
#
# The function has no modes. Its caller fills the masks: in training with random numbers,
# `jax.random.bernoulli(key, z, (T, B, H)) * 1.0`, and in evaluation with z.

# %%
if jax:
    jnp = jax.numpy

    def jax_lstm(W_x, W_h, b, x, h, c, keep_h, keep_c):
        """All h and c, each (T, B, H)."""

        def step(states, inputs):
            h, c = states
            x, keep_h, keep_c = inputs
            i, f, g, o = jnp.split(x @ W_x.T + h @ W_h.T + b, 4, axis=1)  # (B, H) each
            new_c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            new_h = jax.nn.sigmoid(o) * jnp.tanh(new_c)
            h = keep_h * h + (1 - keep_h) * new_h
            c = keep_c * c + (1 - keep_c) * new_c
            return (h, c), (h, c)

        _, (all_h, all_c) = jax.lax.scan(step, (h, c), (x, keep_h, keep_c))
        return all_h, all_c


# %% [markdown]
# `jax.grad` differentiates the loss by the weights. With `has_aux=True` it also gives the states.

# %%
if jax:

    @jax.default_matmul_precision("highest")  # on accelerators the default is not float32
    def run_jax(problem, z_h, z_c, masks=None):
        if masks is None:
            masks = (jnp.full(problem.r.shape, z_h), jnp.full(problem.r.shape, z_c))

        def loss(weights):
            h, c = jax_lstm(*weights, problem.x, problem.h, problem.c, *masks)
            return (h * problem.r).sum() + (c * problem.q).sum(), (h, c)

        weights = [problem.W_x, problem.W_h, problem.b]
        gradients, states = jax.grad(loss, has_aux=True)(weights)
        return [np.asarray(value) for value in (*states, *gradients)]


# %% [markdown]
# ## NumPy
#
# The last implementation uses no framework. The forward pass stores what the backward pass needs.


# %%
def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def numpy_forward(problem, keep_h, keep_c):
    """All h and c, each (T, B, H), and what the backward pass needs of every step."""
    h, c = problem.h, problem.c
    all_h, all_c, stored = [], [], []
    for t, x in enumerate(problem.x):
        a_i, a_f, a_g, a_o = np.split(x @ problem.W_x.T + h @ problem.W_h.T + problem.b, 4, axis=1)  # (B, H) each
        i, f, g, o = sigmoid(a_i), sigmoid(a_f), np.tanh(a_g), sigmoid(a_o)
        new_c = f * c + i * g
        u = np.tanh(new_c)
        stored.append((x, h, c, i, f, g, o, u))
        h = keep_h[t] * h + (1 - keep_h[t]) * (o * u)
        c = keep_c[t] * c + (1 - keep_c[t]) * new_c
        all_h.append(h)
        all_c.append(c)
    return np.array(all_h), np.array(all_c), stored


# %% [markdown]
# The lines of the backward pass are those of the forward pass in reverse order (chapter 4). `dh` and `dc` are the
# gradients of the states, `d_new_h` and `d_new_c` those of the candidates, and `da` that of the pre-activations.
# Zoneout is in four lines: $1 - k$ of a gradient goes to the candidate, and $k$ goes directly to the step before.


# %%
def numpy_backward(problem, keep_h, keep_c, stored):
    """dW_x, dW_h and db."""
    dW_x, dW_h, db = np.zeros_like(problem.W_x), np.zeros_like(problem.W_h), np.zeros_like(problem.b)
    dh = dc = 0  # (B, H) from the first step on
    for t in reversed(range(len(stored))):
        x, h, c, i, f, g, o, u = stored[t]  # h and c before the step
        dh = dh + problem.r[t]
        dc = dc + problem.q[t]
        d_new_h = (1 - keep_h[t]) * dh
        d_new_c = (1 - keep_c[t]) * dc + d_new_h * o * (1 - u * u)
        da_i = d_new_c * g * i * (1 - i)
        da_f = d_new_c * c * f * (1 - f)
        da_g = d_new_c * i * (1 - g * g)
        da_o = d_new_h * u * o * (1 - o)
        da = np.concatenate([da_i, da_f, da_g, da_o], axis=1)  # (B, 4H)
        dW_x += da.T @ x
        dW_h += da.T @ h
        db += da.sum(axis=0)
        dh = keep_h[t] * dh + da @ problem.W_h
        dc = keep_c[t] * dc + d_new_c * f
    return dW_x, dW_h, db


# %%
def run_numpy(problem, z_h, z_c, masks=None):
    if masks is None:
        masks = (np.full(problem.r.shape, z_h, np.float32), np.full(problem.r.shape, z_c, np.float32))
    keep_h, keep_c = masks
    h, c, stored = numpy_forward(problem, keep_h, keep_c)
    return [h, c, *numpy_backward(problem, keep_h, keep_c, stored)]


# %% [markdown]
# ## The reference
#
# The reference is `minizone.lstm`. Its examples are columns, so the last two axes of all arrays but the weights are
# swapped.


# %%
def swap(array):
    """(..., B, R) to (..., R, B), and back."""
    return array.swapaxes(-1, -2)


# %%
def run_minizone(problem, z_h, z_c, masks=None, device="cpu"):
    def leaf(array):
        return Tensor(Device(device).to_device(array))

    x, h0, c0 = leaf(swap(problem.x)), leaf(swap(problem.h)), leaf(swap(problem.c))
    W_x, W_h, b = leaf(problem.W_x), leaf(problem.W_h), leaf(problem.b)
    keep_h, keep_c = z_h, z_c
    if masks:
        keep_h, keep_c = (Device(device).to_device(swap(keep)) for keep in masks)
    h, c = lstm(x, h0, c0, W_x, W_h, b, keep_h=keep_h, keep_c=keep_c)  # (T, H, B) each
    loss = (h * leaf(swap(problem.r))).sum() + (c * leaf(swap(problem.q))).sum()
    loss.backward()
    return [to_host(value) for value in (swap(h.data), swap(c.data), W_x.grad, W_h.grad, b.grad)]


# %% [markdown]
# ## Five questions
#
# - Masks given: are states and gradients those of minizone?
# - z = 0: is it the plain LSTM?
# - z = 1: do the states keep their initial values?
# - Evaluation: is it minizone with z in place of the masks?
# - Linear in z: is one step of evaluation $(1 - z)$ times the candidate plus z times the old state?
#
# Each answer is an error that should be 0 up to rounding. These questions do not test how masks are *drawn*. For that
# use the invariants `frequency`, `steps`, `units`, `examples` and `updates` of chapter 17.


# %%
def largest_error(found, expected) -> float:
    """The largest error of an array relative to its largest element, over all arrays."""
    errors = [np.abs(a - e).max() / np.abs(e).max() for a, e in zip(found, expected, strict=True)]
    return float(max(errors))


def error_at_one(run, problem) -> float:
    """With z = 1 all states are the initial ones."""
    h, c, *_ = run(problem, 1.0, 1.0)
    initial = [np.broadcast_to(problem.h, h.shape), np.broadcast_to(problem.c, c.shape)]
    return largest_error([h, c], initial)


def error_of_linearity(run, problem) -> float:
    """One step with z = 0.3, compared with the same mixture of z = 0 and z = 1."""
    one_step = replace(problem, x=problem.x[:1], r=problem.r[:1], q=problem.q[:1])
    h_0, c_0, *_ = run(one_step, 0.0, 0.0)
    h_03, c_03, *_ = run(one_step, 0.3, 0.3)
    h_1, c_1, *_ = run(one_step, 1.0, 1.0)
    return largest_error([h_03, c_03], [0.7 * h_0 + 0.3 * h_1, 0.7 * c_0 + 0.3 * c_1])


# %% [markdown]
# The other three questions compare with minizone. `None` in place of a mask is the LSTM without zoneout.


# %%
def ask(run, problem, z_h, z_c, masks, device) -> dict[str, float]:
    """The answer to each question."""
    with_masks = run_minizone(problem, z_h, z_c, masks, device)
    plain = run_minizone(problem, None, None, None, device)
    evaluation = run_minizone(problem, z_h, z_c, None, device)
    return {
        "masks given": largest_error(run(problem, z_h, z_c, masks), with_masks),
        "z = 0": largest_error(run(problem, 0.0, 0.0), plain),
        "z = 1": error_at_one(run, problem),
        "evaluation": largest_error(run(problem, z_h, z_c), evaluation),
        "linear in z": error_of_linearity(run, problem),
    }


# %% [markdown]
# ## Two mistakes
#
# A test is only worth something if it fails on wrong code. Two common mistakes are gates in another order, and masks
# that are used one step late.


# %%
def with_swapped_gates(problem: Problem) -> Problem:
    """The rows of g and o exchanged, as for a framework with the order i, f, o, g."""

    def exchange(W):
        i, f, g, o = np.split(W, 4)
        return np.concatenate([i, f, o, g])

    return replace(problem, W_x=exchange(problem.W_x), W_h=exchange(problem.W_h), b=exchange(problem.b))


def one_step_late(masks):
    """The masks of step t - 1 in step t, and the last ones in the first step."""
    return [np.roll(keep, 1, axis=0) for keep in masks]


# %% [markdown]
# `main` asks all installed frameworks all questions. The figure has the difference of h from minizone at each step.

# %%
RUNS = {"NumPy": run_numpy}
if torch:
    RUNS["PyTorch"] = run_torch
if jax:
    RUNS["JAX"] = run_jax
SIZES = {"small": (12, 4, 5, 8), "quick": (100, 32, 50, 128), "paper": (100, 32, 50, 1000)}  # T, B, D, H


def draw(reference, right, wrong) -> None:
    """The largest difference of h from the reference at each step, relative to the largest h."""
    figure, axis = plt.subplots(figsize=(8, 3.8))
    for name, h in (right | wrong).items():
        error = np.abs(h - reference).max(axis=(1, 2)) / np.abs(reference).max()  # (T,)
        axis.semilogy(range(1, len(error) + 1), error, "--" if name in wrong else "-", label=name)
    axis.axhline(1e-5, color="0.5", lw=0.8)
    axis.text(1, 1.3e-5, r"the checks allow a relative error of $10^{-5}$", color="0.4", fontsize=8)
    axis.set(xlabel="time step t", ylabel="relative error of $h_t$")
    axis.set_title("difference from minizone, with the same weights and masks")
    figure.legend(loc="outside lower center", ncols=5, fontsize=8)
    save(figure, "18_your_own_code")


# %%
def main(preset: Preset = "quick", device: DeviceName = "cpu") -> dict[str, dict[str, float]]:
    """Ask every implementation the five questions, and draw how far each is from minizone."""
    T, B, D, H = SIZES[preset]
    z_h, z_c = 0.05, 0.5
    problem = random_problem(T, B, D, H)
    rng = stream(0, "masks")
    masks = [bernoulli(rng, z_h, (T, B, H)), bernoulli(rng, z_c, (T, B, H))]

    found = {name: ask(run, problem, z_h, z_c, masks, device) for name, run in RUNS.items()}
    for name, answers in found.items():
        print(f"{name:8s}", "  ".join(f"{question}: {error:.1e}" for question, error in answers.items()))
    for question in found["NumPy"]:
        errors = [answers[question] for answers in found.values()]
        check(f"{question}: every installed framework is right to 1e-5", max(errors) < 1e-5)

    right = {name: run(problem, z_h, z_c, masks)[0] for name, run in RUNS.items()}  # h (T, B, H)
    wrong = {
        "gates in the order i, f, o, g": run_numpy(with_swapped_gates(problem), z_h, z_c, masks)[0],
        "masks one step late": run_numpy(problem, z_h, z_c, one_step_late(masks))[0],
    }
    reference = run_minizone(problem, z_h, z_c, masks, device)[0]
    check("the two mistakes are found", all(np.abs(h - reference).max() > 0.01 for h in wrong.values()))
    draw(reference, right, wrong)
    return found


# %%
if __name__ == "__main__":
    shared.run(main)

# %% [markdown]
# ## In the figure
#
# The solid lines are the implementations that are installed. They differ from minizone by less than $10^{-6}$, which is
# rounding in float32, and the difference does not grow over the sequence. The dashed lines are the two mistakes. Their
# errors are about as large as the states themselves.
#
# ## What to take away
#
# - A plain LSTM step gives the candidates. Zoneout is one more line for each state.
# - To compare two implementations, give both the same weights and the same masks. Then everything must agree to
#   rounding.
# - Compare gradients too, and evaluation. Correct states in training prove neither.
#
# ## Exercises
#
# 1. Return the candidate `new_h` instead of `h` in one of the implementations (chapter 17). Which questions find it?
# 2. Leave out `.eval()` in `run_torch`. Which questions find it, and why not the others?
# 3. Use float64 everywhere (in JAX: `jax.config.update("jax_enable_x64", True)`). How large are the differences then?
