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
# Most frameworks have the examples in rows: x (T, B, D), states h and c (B, H), masks keep_h and keep_c (T, B, H), with
# 1 where the old value stays. The weights are the same arrays everywhere, W_x (4H, D), W_h (4H, H) and b (4H,), because
# minizone has the gate order of `torch.nn.LSTM`: i, f, g, o.
#
# Three things are up to you: to mix the candidates into *both* states, to emit the mixed h, and to use z in the place
# of the masks in evaluation.
#
# A problem has everything that an implementation needs. The loss is $\sum r \odot h + \sum q \odot c$ with random r and
# q, so that it depends on every state.


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
# Each implementation below has a function `run`. It takes a problem, the probabilities z_h and z_c, and perhaps masks
# (keep_h, keep_c). Without masks it evaluates. It returns h and c, each (T, B, H), and dW_x, dW_h and db of the loss.
#
# ## PyTorch
#
# `torch.nn.LSTMCell` is a plain step, so what it returns are the candidates. It has two biases. One gets b, the other
# zero. `layer.eval()` uses z in the place of the masks that training draws.

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
            keep_h, keep_c = masks or (self.mask(self.z_h, T, h), self.mask(self.z_c, T, h))
            all_h, all_c = [], []
            for t in range(T):
                new_h, new_c = self.cell(x[t], (h, c))
                h = keep_h[t] * h + (1 - keep_h[t]) * new_h
                c = keep_c[t] * c + (1 - keep_c[t]) * new_c
                all_h.append(h)
                all_c.append(c)
            return torch.stack(all_h), torch.stack(all_c)


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
# `jax.lax.scan` is the loop. It passes the states from step to step and collects what each step emits. There is no
# mode to switch. In training the caller draws the masks, `jax.random.bernoulli(key, z, (T, B, H)) * 1.0`. In evaluation
# the caller fills them with z.

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
# Finally an LSTM with neither framework: no tape, and back-propagation by hand. The lines of the backward step mirror
# those of the forward step (chapter 4). `dh` and `dc` are the gradients of the states, `d_new_h` and `d_new_c` those of
# the candidates.


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


def run_numpy(problem, z_h, z_c, masks=None):
    if masks is None:
        masks = (np.full(problem.r.shape, z_h, np.float32), np.full(problem.r.shape, z_c, np.float32))
    keep_h, keep_c = masks
    h, c, stored = numpy_forward(problem, keep_h, keep_c)
    return [h, c, *numpy_backward(problem, keep_h, keep_c, stored)]


# %% [markdown]
# ## The reference
#
# minizone has the examples in columns, so rows and columns of all arrays but the weights are swapped.


# %%
def swap(array):
    """(..., B, R) to (..., R, B), and back."""
    return array.swapaxes(-1, -2)


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
# - Masks given, T > 1: are states and gradients those of minizone?
# - z = 0: is it the plain LSTM?
# - z = 1: does nothing move?
# - Evaluation: is it minizone with z in the place of the masks?
# - Is one step of evaluation linear in z?


# %%
def largest_error(found, expected) -> float:
    """The largest error of an array relative to its largest element, over all arrays."""
    return max(float(np.abs(a - e).max() / np.abs(e).max()) for a, e in zip(found, expected, strict=True))


def ask(run, problem, z_h, z_c, masks, device) -> dict[str, float]:
    """The answer to each question: an error that should be 0 up to rounding."""
    with_masks = largest_error(run(problem, z_h, z_c, masks), run_minizone(problem, z_h, z_c, masks, device))
    plain = largest_error(run(problem, 0.0, 0.0), run_minizone(problem, None, None, None, device))
    evaluation = largest_error(run(problem, z_h, z_c), run_minizone(problem, z_h, z_c, None, device))

    h, c, *_ = run(problem, 1.0, 1.0)
    initial = [np.broadcast_to(problem.h, h.shape), np.broadcast_to(problem.c, c.shape)]
    standing = largest_error([h, c], initial)

    one_step = replace(problem, x=problem.x[:1], r=problem.r[:1], q=problem.q[:1])
    h_0, c_0, *_ = run(one_step, 0.0, 0.0)
    h_03, c_03, *_ = run(one_step, 0.3, 0.3)
    h_1, c_1, *_ = run(one_step, 1.0, 1.0)
    linear = largest_error([h_03, c_03], [0.7 * h_0 + 0.3 * h_1, 0.7 * c_0 + 0.3 * c_1])
    return {
        "masks given": with_masks,
        "z = 0": plain,
        "z = 1": standing,
        "evaluation": evaluation,
        "linear in z": linear,
    }


# %% [markdown]
# Two common mistakes should fail: gates in another order, and masks that come one step late.


# %%
def with_swapped_gates(problem: Problem) -> Problem:
    """The rows of g and o exchanged, as for a framework with the order i, f, o, g."""

    def exchange(W):
        i, f, g, o = np.split(W, 4)
        return np.concatenate([i, f, o, g])

    return replace(problem, W_x=exchange(problem.W_x), W_h=exchange(problem.W_h), b=exchange(problem.b))


RUNS = {"NumPy": run_numpy}
if torch:
    RUNS["PyTorch"] = run_torch
if jax:
    RUNS["JAX"] = run_jax
SIZES = {"small": (12, 4, 5, 8), "quick": (100, 32, 50, 128), "paper": (100, 32, 50, 1000)}  # T, B, D, H


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

    late_masks = [np.roll(keep, 1, axis=0) for keep in masks]
    right = {name: run(problem, z_h, z_c, masks)[0] for name, run in RUNS.items()}  # h (T, B, H)
    wrong = {
        "gates in the order i, f, o, g": run_numpy(with_swapped_gates(problem), z_h, z_c, masks)[0],
        "masks one step late": run_numpy(problem, z_h, z_c, late_masks)[0],
    }
    reference = run_minizone(problem, z_h, z_c, masks, device)[0]
    check("the two mistakes are found", all(np.abs(h - reference).max() > 0.01 for h in wrong.values()))
    draw(reference, right, wrong)
    return found


# %%
def draw(reference, right, wrong) -> None:
    figure, axis = plt.subplots(figsize=(8, 3.2))
    for name, h in (right | wrong).items():
        error = np.abs(h - reference).max(axis=(1, 2))  # (T,)
        axis.semilogy(range(1, len(error) + 1), error, "--" if name in wrong else "-", label=name)
    axis.axhline(1e-5, color="0.5", lw=0.8, label="allowed")
    axis.set(xlabel="time step", ylabel="largest |difference| of $h$", title="against minizone, same weights and masks")
    axis.legend(ncols=2)
    save(figure, "18_your_own_code")


# %%
if __name__ == "__main__":
    shared.run(main)

# %% [markdown]
# ## Exercises
#
# 1. Emit `new_h` instead of `h` in one of the implementations (chapter 17). Which questions find it?
# 2. Leave out `.eval()` in `run_torch`. Which questions find it, and why not the others?
# 3. Use float64 everywhere (`jax.config.update("jax_enable_x64", True)`). How far down do the lines go?
