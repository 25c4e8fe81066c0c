# %% [markdown]
# # 18. Zoneout in your own code: PyTorch and JAX
#
# **Claim.** A zoneout LSTM is some twenty lines in any framework. Whether they are right, a reference tells and not a
# learning curve: with the same weights and the same masks, states and gradients agree to rounding.
#
# Paper: sections 3.1 and 3.2. With the sizes of its character model, 100 steps, 32 examples and 1,000 units:
# `python chapters/18_your_own_code.py --preset paper --device gpu`, where the device is that of the reference.

# %%
from importlib import import_module
from importlib.util import find_spec

import shared  # finds minizone
import matplotlib.pyplot as plt
import numpy as np
from shared import DeviceName, Preset, check, save

from minizone import Device, Tensor, lstm
from minizone.backend import bernoulli, stream, to_host

torch, jax = (import_module(name) if find_spec(name) else None for name in ("torch", "jax"))
print(*(f"{n} is not installed and left out: pip install {n}" for n in ("torch", "jax") if not find_spec(n)), sep="\n")

# %% [markdown]
# ## What carries over
#
# The rest of the world has rows as examples: x (T, B, D), states h and c (B, H), masks keep_h and keep_c (T, B, H), 1
# where the old value stays. The weights are the same arrays everywhere, W_x (4H, D), W_h (4H, H), b (4H,), for minizone
# has the gate order of `torch.nn.LSTM`: i, f, g, o. Three things are up to you: to mix the candidates into *both*
# states, to emit the mixed h, and to put z in the place of the masks in evaluation.
#
# ## PyTorch
#
# `torch.nn.LSTMCell` is a plain step: what it returns are the candidates. It has two biases, of which one gets b and
# the other zero. `layer.eval()` puts z in the place of the masks that training draws.

# %%
if torch:

    class TorchZoneoutLSTM(torch.nn.Module):
        def __init__(self, input_size, hidden_size, z_h, z_c):
            super().__init__()
            self.cell, self.z = torch.nn.LSTMCell(input_size, hidden_size), (z_h, z_c)

        def forward(self, x, h, c, keeps=None):  # -> all h and c, each (T, B, H)
            z, states = [h.new_full((len(x), *h.shape), each) for each in self.z], []
            keeps = keeps or ([torch.bernoulli(each) for each in z] if self.training else z)
            for x_t, keep_h, keep_c in zip(x, *keeps, strict=True):
                new_h, new_c = self.cell(x_t, (h, c))
                h, c = keep_h * h + (1 - keep_h) * new_h, keep_c * c + (1 - keep_c) * new_c
                states.append((h, c))
            return [torch.stack(each) for each in zip(*states, strict=True)]

    def run_torch(p, z, keeps=None):
        t, layer = {n: torch.tensor(v) for n, v in p.items()}, TorchZoneoutLSTM(p["x"].shape[-1], p["h"].shape[-1], *z)
        weights = {"weight_ih": t["W_x"], "weight_hh": t["W_h"], "bias_ih": t["b"], "bias_hh": 0 * t["b"]}
        layer.eval().cell.load_state_dict(weights)
        h, c = layer(t["x"], t["h"], t["c"], keeps and [torch.tensor(keep) for keep in keeps])
        ((h * t["r"]).sum() + (c * t["q"]).sum()).backward()
        return [v.detach().numpy() for v in (h, c, *(getattr(layer.cell, name).grad for name in list(weights)[:3]))]


# %% [markdown]
# ## JAX
#
# `jax.lax.scan` is the loop: it hands the states on and collects what each step emits. There is no mode to switch: in
# training the caller draws the masks, `jax.random.bernoulli(key, z, (T, B, H)) * 1.0`, in evaluation it fills in z.

# %%
if jax:
    jnp = jax.numpy

    def jax_lstm(W_x, W_h, b, x, h, c, keep_h, keep_c):  # -> all h and c, each (T, B, H)
        def step(states, now):
            (h, c), (x_t, keep_h, keep_c) = states, now
            i, f, g, o = jnp.split(x_t @ W_x.T + h @ W_h.T + b, 4, axis=1)  # (B, H) each
            new_c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            new_h = jax.nn.sigmoid(o) * jnp.tanh(new_c)
            states = keep_h * h + (1 - keep_h) * new_h, keep_c * c + (1 - keep_c) * new_c
            return states, states

        return jax.lax.scan(step, (h, c), (x, keep_h, keep_c))[1]

    @jax.default_matmul_precision("highest")  # on accelerators the default is not float32
    def run_jax(p, z, keeps=None):
        def loss(weights):
            h, c = jax_lstm(*weights, *(p[n] for n in "xhc"), *(keeps or [jnp.full(p["r"].shape, each) for each in z]))
            return (h * p["r"]).sum() + (c * p["q"]).sum(), (h, c)

        gradients, states = jax.grad(loss, has_aux=True)([p["W_x"], p["W_h"], p["b"]])
        return [np.asarray(v) for v in (*states, *gradients)]


# %% [markdown]
# ## NumPy
#
# And as a stranger would write it, who has neither: no tape, back-propagation by hand. The lines of the way back mirror
# those of the step (chapter 4); dh and dc are dLoss/d(states), new_dh and new_dc those of the candidates.


# %%
def run_numpy(p, z, keeps=None):
    keep_h, keep_c = keeps or [np.full(p["r"].shape, each, np.float32) for each in z]
    h, c, states, saved = p["h"], p["c"], [], []
    for t, x in enumerate(p["x"]):
        a = np.split(x @ p["W_x"].T + h @ p["W_h"].T + p["b"], 4, axis=1)  # (B, H) each
        i, f, g, o = (np.tanh(v) if k == 2 else 1 / (1 + np.exp(-v)) for k, v in enumerate(a))
        new_c = f * c + i * g
        saved.append((x, h, c, i, f, g, o, np.tanh(new_c)))
        h, c = keep_h[t] * h + (1 - keep_h[t]) * o * np.tanh(new_c), keep_c[t] * c + (1 - keep_c[t]) * new_c
        states.append((h, c))
    dW_x = dW_h = db = dh = dc = 0
    for t, (x, h, c, i, f, g, o, tanh_c) in reversed(list(enumerate(saved))):
        dh, dc = dh + p["r"][t], dc + p["q"][t]
        new_dh = (1 - keep_h[t]) * dh
        new_dc = (1 - keep_c[t]) * dc + new_dh * o * (1 - tanh_c**2)
        di, df, dg, do = new_dc * g, new_dc * c, new_dc * i, new_dh * tanh_c
        da = np.concatenate([di * i * (1 - i), df * f * (1 - f), dg * (1 - g**2), do * o * (1 - o)], axis=1)
        dW_x, dW_h, db = dW_x + da.T @ x, dW_h + da.T @ h, db + da.sum(axis=0)
        dh, dc = keep_h[t] * dh + da @ p["W_h"], keep_c[t] * dc + new_dc * f
    return [*map(np.array, zip(*states, strict=True)), dW_x, dW_h, db]


# %% [markdown]
# ## The reference, and what to ask
#
# A `run` takes a problem p, z = (z_h, z_c) and perhaps masks; without them it evaluates. It returns h, c, dW_x, dW_h
# and db of the loss $\sum r \odot h + \sum q \odot c$; r and q (T, B, H) are random, so that no state goes unseen. We
# ask: masks replayed, T > 1; z = 0, the plain LSTM; z = 1, nothing moves; evaluation, in one step linear in z.


# %%
def run_minizone(p, z, keeps=None, device="cpu"):
    on, W = Device(device).to_device, ("W_x", "W_h", "b")
    t = {n: Tensor(on(v if n in W else v.swapaxes(-1, -2))) for n, v in p.items()}  # columns are examples
    keep_h, keep_c = (on(keep.swapaxes(-1, -2)) for keep in keeps) if keeps else z
    h, c = lstm(t["x"], t["h"], t["c"], *(t[n] for n in W), keep_h=keep_h, keep_c=keep_c)
    ((h * t["r"]).sum() + (c * t["q"]).sum()).backward()
    return [to_host(v) for v in (h.data.swapaxes(-1, -2), c.data.swapaxes(-1, -2), *(t[n].grad for n in W))]


def ask(run, p, z, keeps, device):
    def off(found, expected):  # the largest error of an array relative to its largest element, over all arrays
        return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(found, expected, strict=True))

    one_step = p | {name: p[name][:1] for name in ("x", "r", "q")}
    at_0, at_03, at_1 = (run(one_step, (each, each))[:2] for each in (0.0, 0.3, 1.0))
    return {
        "masks replayed": off(run(p, z, keeps), run_minizone(p, z, keeps, device)),
        "z = 0": off(run(p, (0.0, 0.0)), run_minizone(p, (None, None), None, device)),
        "z = 1": off(run(p, (1.0, 1.0))[:2], [p["h"] + 0 * p["r"], p["c"] + 0 * p["r"]]),
        "evaluation": off(run(p, z), run_minizone(p, z, None, device)),
        "linear in z": off(at_03, [0.7 * a + 0.3 * b for a, b in zip(at_0, at_1, strict=True)]),
    }


# %%
def main(preset: Preset = "quick", device: DeviceName = "cpu") -> dict[str, dict[str, float]]:
    T, B, D, H = {"small": (12, 4, 5, 8), "quick": (100, 32, 50, 128), "paper": (100, 32, 50, 1000)}[preset]
    rng, z, shapes = stream(0, "problem"), (0.05, 0.5), dict.fromkeys("hc", (B, H)) | dict.fromkeys("rq", (T, B, H))
    shapes |= {"x": (T, B, D), "W_x": (4 * H, D), "W_h": (4 * H, H), "b": (4 * H,)}
    p = {n: rng.standard_normal(s, np.float32) / np.float32(s[-1] if "W" in n else 1) ** 0.5 for n, s in shapes.items()}
    keeps = [bernoulli(rng, each, (T, B, H)) for each in z]
    runs = {"NumPy": run_numpy} | ({"PyTorch": run_torch} if torch else {}) | ({"JAX": run_jax} if jax else {})
    found = {name: ask(run, p, z, keeps, device) for name, run in runs.items()}
    for name, answers in found.items():
        print(f"{name:8s}", "  ".join(f"{question}: {error:.1e}" for question, error in answers.items()))
    for question in found["NumPy"]:
        check(f"{question}: all that is installed is right to 1e-5", all(f[question] < 1e-5 for f in found.values()))
    swapped = {n: p[n].reshape(4, H, -1)[[0, 1, 3, 2]].reshape(p[n].shape) for n in ("W_x", "W_h", "b")}
    wrong = {"gates in the order i, f, o, g": run_numpy(p | swapped, z, keeps)}
    wrong["masks one step late"] = run_numpy(p, z, [np.roll(keep, 1, axis=0) for keep in keeps])
    right = run_minizone(p, z, keeps, device)
    check("what is wrong is seen to be wrong", all(np.abs(each[0] - right[0]).max() > 0.01 for each in wrong.values()))

    figure, axis = plt.subplots(figsize=(8, 3.2))
    for name, (h, *_) in ({name: run(p, z, keeps) for name, run in runs.items()} | wrong).items():
        largest = np.abs(h - right[0]).max(axis=(1, 2))
        axis.semilogy(range(1, T + 1), largest, "--" if name in wrong else "-", label=name)
    axis.axhline(1e-5, color="0.5", lw=0.8, label="as much as is allowed")
    axis.set(xlabel="time step", ylabel="largest |difference| of $h$", title="against minizone, same weights and masks")
    axis.legend(ncols=2)
    save(figure, "18_your_own_code")
    return found


# %%
if __name__ == "__main__":
    shared.run(main)

# %% [markdown]
# ## Exercises
#
# 1. Emit `new_h` instead of `h` in one of the implementations (chapter 17). Which questions notice?
# 2. Leave out `.eval()` in `run_torch`. Which questions notice, and why not the others?
# 3. Use float64 everywhere (`jax.config.update("jax_enable_x64", True)`). How far down do the lines go?
