# %% [markdown]
# # 17. How zoneout goes wrong
#
# **Claim.** Zoneout is one line, and we know ten ways to get it wrong that raise no error. A check of one or two lines
# catches each of them, and no single check catches all: it takes the whole list to trust an implementation.
#
# Paper: sections 3.1, 3.2 and 4.3. The same bugs as tests of the package are
# `python -m pytest tests/recurrent/test_zoneout_bugs.py`; this chapter with ten times the draws is
# `python chapters/17_how_zoneout_goes_wrong.py --preset paper --device gpu`

# %%
from functools import partial

import shared  # finds minizone
import matplotlib.pyplot as plt
import numpy as np
from shared import DeviceName, Preset, check, save

from minizone import LSTM, Device, Tensor, Zoneout, array_module, gradcheck, lstm, no_grad
from minizone.backend import stream, to_host
from minizone.recurrent.cells import lstm_cell, lstm_gates
from minizone.data import permutation
from minizone.autograd.ops import stack, tanh
from minizone.zoneout import zone_out

# %% [markdown]
# ## Something to break
#
# A suspect is `minizone.lstm` with one part replaced. `masks` spoils the pair of masks keep_h, keep_c (T, H, B); in
# evaluation they are filled with z, and it gets `z=None` beside them. `back` gives other masks to the backward pass.
# `step` is a step of one's own: it returns what is emitted, and the h and c that go on, (H, B) each.


# %%
def suspect(masks=lambda keeps, z: keeps, back=lambda keeps: keeps, step=None):
    def sequence(x, h, c, weights, keep_h, keep_c):
        if step is None:
            return lstm(x, h, c, *weights, keep_h=keep_h, keep_c=keep_c)
        steps = []
        for t in range(len(x)):
            out, h, c = step(x[t], h, c, weights, keep_h[t], keep_c[t])
            steps.append((out, c))
        return tuple(stack(list(each)) for each in zip(*steps, strict=True))

    def run(x, h, c, *weights, z_h=0.0, z_c=0.0, rng=None):
        """h, c (T, H, B) from x (T, D, B), the states (H, B) before it, W_x, W_h, b; ``rng`` None: evaluation."""
        xp, shape = array_module(h.data), (len(x), *h.shape)
        drawn = Zoneout(cells=z_c, states=z_h).masks(*shape, rng, dtype=h.dtype)
        drawn = [xp.broadcast_to(xp.asarray(0.0 if keep is None else keep), shape) for keep in drawn]
        keeps = masks(drawn, None if rng is None else (z_h, z_c))
        ahead, behind = (sequence(x, h, c, weights, *each) for each in (keeps, back(keeps)))
        for value, gradient in zip(ahead, behind, strict=True):
            gradient.data = value.data
        return behind

    return run


# %% [markdown]
# ## Three wrong steps
#
# The authors' TensorFlow wrapper zones out the state and returns the *un-zoned* output; RETURNN (#1313) and Tacotron-2
# inherited that. The tanh of the zoned-out cell is what one writes when `c` is updated first and `h` made from it; the
# paper's $\tilde h_t = o_t \odot \tanh(\tilde c_t)$ takes the candidate (chapter 5). And the authors' character model
# adds 1 to the forget gate in every step, their pMNIST model starts its bias at 1: who takes one from each has 2.


# %%
def right_step(x, h, c, weights, keep_h, keep_c):
    h, c = lstm_cell(x, h, c, *weights, keep_h=keep_h, keep_c=keep_c)
    return h, h, c


def unzoned_output(x, h, c, weights, keep_h, keep_c):
    new_h, _ = lstm_cell(x, h, c, *weights)
    return new_h, *right_step(x, h, c, weights, keep_h, keep_c)[1:]


def tanh_of_zoned(x, h, c, weights, keep_h, keep_c):
    i, f, g, o = lstm_gates(x, h, *weights)
    c = zone_out(c, f * c + i * g, keep_c)
    h = zone_out(h, o * tanh(c), keep_h)
    return h, h, c


def forget_twice(x, h, c, weights, keep_h, keep_c):
    W_x, W_h, b = weights  # the layer began with b = 1 in the rows of f
    return right_step(x, h, c, (W_x, W_h, b + (array_module(b.data).arange(len(b)) // len(h) == 1)), keep_h, keep_c)


# %% [markdown]
# ## Five wrong masks, a wrong way back, a wrong order
#
# Most flags of the authors' scripts are the probability of *updating*, and their Theano gist mixes the two meanings up.
# Their pMNIST script draws a cell mask and throws it away. TensorFlow (#2789) gave every unrolled step the same numbers
# once a seed was set. In MXNet (#5567) a mask came from `Dropout(ones)`, which rescales what it keeps. Tacotron-2
# without the expectation at test time spoke too fast. haste (#43) went back through all steps with the mask of step 0.
# And the "permutation" of the authors' pMNIST is drawn with replacement: no matter of the layer, it is checked here.

# %%
BUGS = {  # name: the implementation, and the check that is made for it
    "un-zoned output": (suspect(step=unzoned_output), "frozen"),
    "tanh of the zoned cell": (suspect(step=tanh_of_zoned), "candidate"),
    "forget bias twice": (suspect(step=forget_twice), "forget"),
    "z is the update": (suspect(lambda m, z: [1 - k for k in m]), "share"),
    "one mask for c and h": (suspect(lambda m, z: [m[0], m[0]]), "apart"),
    "one seed for all steps": (suspect(lambda m, z: [k[:1] for k in m]), "again"),
    "Dropout(ones)": (suspect(lambda m, z: [k / (p or 1) for k, p in zip(m, z or (1, 1), strict=True)]), "either"),
    "no expectation": (suspect(lambda m, z: m if z else [0 * k for k in m]), "mean"),
    "mask 0 in backward": (suspect(back=lambda m: [k[:1] for k in m]), "gradient"),
}
print("pixels of 784:", pixels := {kind: len(np.unique(permutation(784, kind))) for kind in ("authors", "true")})
check('"pixels" catches: with replacement', pixels["authors"] < 784 == pixels["true"])

# %% [markdown]
# ## Nine checks
#
# Eight look at paths $s$ (2, T+1, H, B): h and c of B examples that differ in nothing but their masks, from the states
# before the first step on. A unit in motion never hits its old value to the bit, so $s_t = s_{t-1}$ shows who waited.
# Each check is a number and how large it may be: a share of $n$ draws may be off by five standard errors,
# $5 \sqrt{z (1-z) / n} \le 2.5 / \sqrt n$, everything else by rounding.

# %%
D, H = 3, 20
weights = [p.data for p in LSTM(D, H, rng=stream(0, "weights"), dtype=np.float64).parameters()[:3]]  # W_x, W_h, b
start = stream(0, "start").standard_normal((2, H))  # h0, c0


def paths(run, device, z_h, z_c, T, B=1, start=start, inputs=1.0, train=True):
    columns = [a[..., None] * np.ones(B) for a in (inputs * stream(0, "x").standard_normal((T, D)), *start)]
    x, h, c, *W = (Tensor(Device(device).to_device(a)) for a in (*columns, *weights))
    with no_grad():
        states = run(x.data, h, c, *W, z_h=z_h, z_c=z_c, rng=stream(0, "masks") if train else None)
    return np.stack([np.concatenate([s[None], to_host(p.data)]) for s, p in zip(columns[1:], states, strict=True)])


def examine(run, B, device):
    """{check: (number, largest allowed)}"""
    s, error = partial(paths, run, device), 2.5 / (12 * H * B) ** 0.5
    held, cells_held, plain = s(1.0, 1.0, 5), s(0.0, 1.0, 1), s(0.0, 0.0, 1)
    aged = s(0.0, 0.0, 1, start=np.outer([0, 1], np.ones(H)), inputs=0)[1, 1]  # c after x = 0, h = 0, c = 1
    uneven, waits = (p[:, 1:] == p[:, :-1] for p in (s(0.8, 0.1, 12, B), s(0.5, 0.5, 12, B)))
    zero, zero_plain = (s(z, z, 1, B, start=0 * start)[:, 1] for z in (0.5, 0.0))
    gap = s(0.5, 0.5, 1, 20 * B).mean(axis=-1) - s(0.5, 0.5, 1, train=False)[..., 0]  # mean over masks - evaluation
    change = np.abs(np.diff(paths(suspect(), device, 0.0, 0.0, 1), axis=1)).max()
    x, *tiny = (stream(0, "tiny", *n).standard_normal(n) for n in ((4, D, 2), (3, 2), (3, 2), (12, D), (12, 3), (12,)))
    return {
        "frozen": (np.abs(held - held[:, :1]).max(), 0),  # z = 1: nothing ever moves
        "candidate": (np.abs(cells_held - plain)[0].max(), 1e-12),  # z_c = 1, z_h = 0: h is that of the plain LSTM
        "forget": (np.abs(aged - 1 / (1 + np.exp(-1))).max(), 1e-12),  # a new layer leaves sigmoid(1) of a cell
        "share": (max(abs(uneven[0].mean() - 0.8), abs(uneven[1].mean() - 0.1)), error),  # z_h, z_c of them wait
        "apart": (abs((waits[0] & waits[1]).mean() - 0.25), error),  # h and c of a unit wait together: z^2
        "again": (abs((waits[:, 1:] & waits[:, :-1]).mean() - 0.25), error),  # twice in a row: z^2
        "either": (np.minimum(np.abs(zero), np.abs(zero - zero_plain)).max(), 1e-12),  # from 0: 0, or as plain
        "mean": (np.abs(gap).max() / change, 2.5 / (20 * B) ** 0.5),  # in units of what a step can change
        "gradient": (gradcheck(lambda *a: run(x, *a, z_h=0.5, z_c=0.5, rng=stream(0, "")), *tiny, rtol=np.inf), 1e-9),
    }


# %%
def main(preset: Preset = "quick", device: DeviceName = "cpu") -> dict[str, dict[str, bool]]:
    """Every check against every bug, and how far a bug leads away; haste's does not, its values are right."""
    B = {"small": 400, "quick": 4_000, "paper": 40_000}[preset]
    runs = {"minizone": suspect(), "its readable step": suspect(step=right_step)} | {n: s for n, (s, _) in BUGS.items()}
    found = {name: examine(run, B, device) for name, run in runs.items()}
    caught = {name: {c: bool(seen > limit) for c, (seen, limit) in row.items()} for name, row in found.items()}
    check("minizone passes all nine", not any((*caught["minizone"].values(), *caught["its readable step"].values())))
    print(f"{'bug':24s}{'check':12s}{'with the bug':>14s}{'without':>12s}{'allowed':>12s}")
    for name, (_, which) in BUGS.items():
        (seen, limit), (right, _) = found[name][which], found["minizone"][which]
        print(f"{name:24s}{which:12s}{seen:14.2g}{right:12.2g}{limit:12.2g}")
        check(f'"{which}" catches: {name}', caught[name][which])

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), width_ratios=[1, 1.1])
    left.imshow([list(row.values()) for row in caught.values()], cmap="Reds", vmax=1.5, aspect="auto")
    left.set(title="red: the check (below) catches the bug", yticks=range(len(caught)), xticks=range(9))
    left.set(yticklabels=caught, xticklabels=next(iter(caught.values())))
    left.tick_params(axis="x", rotation=40)
    left.grid(False)
    for name in list(BUGS)[:-1]:  # the last one's values are right
        options = {"T": 50, "B": 200, "train": name != "no expectation"}
        wrong, good = (paths(runs[each], device, 0.5, 0.5, **options)[0, 1:] for each in (name, "minizone"))
        right.semilogy(range(1, 51), ((wrong - good) ** 2).mean(axis=(1, 2)) ** 0.5, label=name)
    right.set(title="$h$ with the bug - $h$ without, root mean square", xlabel="time step", ylim=(1e-2, 1e6))
    right.legend(fontsize=8, ncols=2)
    save(figure, "17_how_zoneout_goes_wrong")
    return caught


# %%
if __name__ == "__main__":
    shared.run(main)

# %% [markdown]
# ## Exercises
#
# 1. MXNet (#18669) zoned out output and state with two different masks. Write it as a `step`: which checks see it?
# 2. Let the gradient check have one time step: `(1, D, 2)` in `examine`. Why is haste's bug invisible now?
# 3. Examine with B = 2. Which checks still see their bug, which do not, and why?
