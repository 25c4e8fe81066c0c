# %% [markdown]
# # 10. Word-level Penn Treebank
#
# **Claim.** Dropout between the layers and zoneout along time put their noise on different connections of one network,
# so they can be combined. On words dropout does most of the work. Zoneout adds a little on top, and cannot replace it.
#
# Paper: section 4.1.2, the Word-PTB columns of Table 1. The full experiment, on two layers of 1,500 units:
# `python run.py word-ptb --preset paper --z-prob-cells 0.25 --z-prob-states 0.025`

# %%
from math import exp

import shared  # finds minizone
import matplotlib.pyplot as plt
import numpy as np
from shared import DeviceName, Preset, check, learn, save

from minizone import LSTM, Stack, Tensor
from minizone.autograd.ops import softmax_cross_entropy
from minizone.backend import stream
from minizone.experiments.word_ptb import Rows, WordPTB
from minizone.optim import decayed

# %% [markdown]
# ## Perplexity
#
# A model reads $N$ words $w_1, \dots, w_N$ out of a vocabulary of $V$. Before each word it gives every word of the
# vocabulary a probability. Its loss is $-\ln p$ of the word that comes, in nats. The *perplexity* is the exponential of
# the mean loss:
#
# $$\mathrm{ppl} = \exp\Big(-\frac{1}{N} \sum_{n=1}^{N} \ln p(w_n \mid w_1, \dots, w_{n-1})\Big)$$
#
# A model of perplexity 80 is as unsure as if it guessed among 80 equally likely words. (BPC, in chapter 9, is the same
# mean divided by $\ln 2$.) With equal scores for all words the perplexity is $V$.

# %%
V = 10_000  # the vocabulary of Penn Treebank
equal_scores = Tensor(np.zeros((7, V, 2)))  # (T, V, B)
words = np.arange(14).reshape(7, 2)  # (T, B)
ppl = exp(float(softmax_cross_entropy(equal_scores, words)))
check("with equal scores the perplexity is V", abs(ppl / V - 1) < 1e-9)

# %% [markdown]
# ## Where the masks are
#
# The model is that of Zaremba et al. (2014). With words $w_t$ (B,), embedding E (H, V), output W (V, H) and b (V,):
#
# $$x_t = E_{:, w_t} \qquad h^1_t, c^1_t = \mathrm{LSTM}_1(D(x_t), h^1_{t-1}, c^1_{t-1}) \qquad
# h^2_t, c^2_t = \mathrm{LSTM}_2(D(h^1_t), h^2_{t-1}, c^2_{t-1}) \qquad s_t = W D(h^2_t) + b$$
#
# Here $x_t$ and all states are (H, B), and the scores $s_t$ are (V, B). $D$ is dropout: an element becomes 0 with
# probability $p$ and is otherwise multiplied by $1 / (1 - p)$. Every $D$ has a fresh mask (H, B) at every step.
#
# There is no $D$ at $h_{t-1}$ and $c_{t-1}$. So a word passes three masks on its way to a prediction, one for each
# connection upwards, however many steps lie between. Masks along time would act once per step. To check that the
# connections along time have none, drop *everything* on the connections upwards, $p = 1$, and see what still moves.

# %%
H, B, T = 6, 2, 70
rng = stream(0, "chapter 10")
layers = [LSTM(H, H, learned_state=False, rng=rng, dtype=np.float64) for _ in range(2)]
start = [tuple(rng.standard_normal((2, H, B))) for _ in layers]  # h and c (H, B) of each layer
x = rng.standard_normal((T, H, B))
out, states = Stack(layers, dropout=1.0).states(Tensor(x[:5]), start, rng)  # states: h and c (5, H, B) of each layer
check("with the connections upwards dropped, the output is zero", (out.data == 0).all())

moves = []
for h, c in states:
    moves += [np.diff(h.data, axis=0) != 0, np.diff(c.data, axis=0) != 0]
check("along time the states still move", np.all(moves))

# %% [markdown]
# ## The state is carried, the gradient is cut
#
# The training text is laid out in B long columns. A minibatch is their next T rows, and it starts from the states in
# which the previous minibatch ended. Here are 25 words, called 0 to 24, in three columns, as minibatches of four steps:

# %%
minibatches = list(Rows(np.arange(25), steps=4, batch_size=3))
_, first_words, first_targets = minibatches[0]  # (T, B) each
_, second_words, _ = minibatches[1]
print(f"minibatch 0, (T, B):\n{first_words}\nminibatch 1:\n{second_words}")
check("a minibatch starts with the last targets of the one before", (first_targets[-1] == second_words[0]).all())

# %% [markdown]
# Back-propagation stops at the start of a minibatch. The state comes in as numbers, without the graph that made them.
# This is *truncated* back-propagation through time. Words before the cut still influence the loss, but get no gradient
# from it. Below, 70 steps are read at once, and then as two minibatches of 35.


# %%
def read(steps: int) -> tuple[np.ndarray, np.ndarray]:
    """The last h (H, B), and the gradient of its sum by all inputs (T, H, B), in minibatches of so many steps."""
    inputs = Tensor(x)
    state = None
    for t in range(0, T, steps):
        if state:
            h, c = state
            state = (Tensor(h.data, requires_grad=False), Tensor(c.data, requires_grad=False))  # without the graph
        _, state = layers[0](inputs[t : t + steps], state)
    h, _ = state
    h.sum().backward()
    return h.data, inputs.grad


h_whole, dx_whole = read(70)
h_cut, dx_cut = read(35)
check("with and without the cut the states are the same", np.allclose(h_whole, h_cut, rtol=0, atol=1e-12))
check("after the cut the gradient is the same", np.allclose(dx_whole[35:], dx_cut[35:], rtol=0, atol=1e-12))
check("before the cut it is 0", (dx_cut[:35] == 0).all() and (dx_whole[:35] != 0).all())

# %% [markdown]
# ## The schedule
#
# Training is plain SGD with a learning rate of 1. The loss is *summed* over the T steps, the norm of the gradient is
# clipped at 10, and the initial weights are from [-0.04, 0.04]. After 14 epochs the learning rate is divided by 1.15 in
# every epoch. (The sum, Zaremba's 55 epochs and his 65 % dropout are from memory, unverified.)

# %%
rates = [decayed(1.0, epoch, divide_by=1.15, after=14) for epoch in range(1, 56)]
check("14 epochs at the full rate, then a division in each", rates[13] == 1 and np.isclose(rates[20], 1.15**-7))

# %% [markdown]
# ## Why not zoneout alone?
#
# As the only regularizer zoneout was "not competitive", says the paper. The explanation that follows is ours. Count the
# weights:

# %%
H = 1500
counts = {
    "along time": 2 * 4 * H * H,
    "up, in the LSTMs": 2 * (4 * H * H + 4 * H),
    "embedding and output": 2 * H * V + V,
}
total = sum(counts.values())
print(f"of {total:,} weights:")
for name, count in counts.items():
    print(f"  {count / total:.0%} {name}")
check("less than a third of the weights is on the connections along time", counts["along time"] < total / 3)

# %% [markdown]
# The other weights can learn a text by heart too, and zoneout hides nothing from them: a unit that waits still shows
# its old value. Dropout hides half of every vector, or more, so that no weight can rely on its neighbours.
#
# In Table 1 dropout brings the test perplexity from 114.5 to 78.4. Zoneout on top of it, 0.25 for cells and 0.025 for
# states, brings it to 77.4. Variational dropout (Gal, 2015) has 73.4 there. (The authors' public script has no dropout
# between layers, so 77.4 cannot come from it.)
#
# Now four models at a small size, on the Python manual. The initial weights are wider and the decay starts earlier,
# because the run is short. Look for three things. Without a regularizer the validation curve turns upwards while
# training goes on falling. With zoneout alone it turns less, but dropout reaches a lower perplexity. And zoneout on top
# of dropout slows so short a run down. The one point of Table 1 cannot be shown in a minute on a short text.

# %%
ZONEOUT = {"z_prob_cells": 0.25, "z_prob_states": 0.025}
RUNS = {
    "none": {"dropout": 0.0},
    "zoneout": {"dropout": 0.0, **ZONEOUT},
    "dropout": {},  # the rate of the preset
    "dropout and zoneout": ZONEOUT,
}
SIZES = {
    "small": {"dataset": "manual", "hidden_size": 32, "train_symbols": 8_000, "eval_symbols": 2_000, "epochs": 3},
    "quick": {
        "dataset": "manual",
        "hidden_size": 96,
        "train_symbols": 20_000,
        "eval_symbols": 5_000,
        "epochs": 13,
        "init_width": 0.2,
        "lr_decay": 1.3,
        "decrease_lr_after_epoch": 8,
    },
    "paper": {"dataset": "ptb"},
}


# %%
def draw_model(axis: plt.Axes) -> None:
    """Three time steps of the network, with dropout on the arrows up and zoneout on those along time."""
    up = {"arrowstyle": "->", "shrinkA": 10, "shrinkB": 10, "color": "C1", "ls": "--"}
    along_time = {"arrowstyle": "->", "shrinkA": 10, "shrinkB": 10, "color": "C0"}
    for t in range(3):
        for level, name in enumerate(("x", "h^1", "h^2", "s")):
            axis.text(t, level, f"${name}_{t + 1}$", ha="center", va="center", fontsize=11)
            if level > 0:
                axis.annotate("", (t, level), (t, level - 1), arrowprops=up)
            if name in ("h^1", "h^2"):
                axis.annotate("", (t, level), (t - 1, level), arrowprops=along_time)
    axis.plot([], [], "--", color="C1", label="up: dropout")
    axis.plot([], [], color="C0", label="along time: zoneout")
    axis.set(title="where the masks are", xlim=(-1, 2.3), ylim=(-0.4, 4.2), xticks=[], yticks=[])
    axis.legend(loc="upper center", ncols=2)
    axis.spines[:].set_visible(False)


# %%
def draw_cut(axis: plt.Axes) -> None:
    """The gradient that each input gets from step 70."""
    norms = np.sqrt((dx_whole**2).sum(axis=(1, 2)))  # (T,)
    axis.semilogy(range(1, T + 1), norms, color="0.5", label="70 steps at once")
    axis.semilogy(range(36, T + 1), norms[35:], color="C3", lw=3, alpha=0.7, label="35 + 35, state carried")
    axis.set(title="truncation", xlabel="time step of an input", ylabel="norm of its gradient from step 70")
    axis.legend()


def draw_curves(axis: plt.Axes, runs: dict[str, shared.Learned]) -> None:
    """Validation and training perplexities of the four models."""
    for number, (name, run) in enumerate(runs.items()):
        epochs = range(1, len(run.rows) + 1)
        axis.plot(epochs, run.curve("valid_ppl"), color=f"C{number}", lw=2, label=name)
        axis.plot(epochs, run.curve("train_ppl"), color=f"C{number}", lw=0.8)
    highest = max(min(run.curve("valid_ppl")) for run in runs.values())
    axis.set(xlabel="epoch", ylabel="perplexity", ylim=(0, 2 * highest))
    axis.legend(title="thick: validation, thin: training", fontsize=8, loc="upper right")


# %%
def main(preset: Preset = "quick", device: DeviceName = "cpu") -> dict[str, float]:
    """Train the four models; their best validation perplexities."""
    runs, found = {}, {}
    for name, changes in RUNS.items():
        run = learn(WordPTB, preset, device, f"10_{name.replace(' ', '_')}", **SIZES[preset], **changes)
        runs[name] = run
        found[name] = min(run.curve("valid_ppl"))
        last_train = run.curve("train_ppl")[-1]
        print(f"{name:20} best validation perplexity {found[name]:6.1f}, training at the end {last_train:6.1f}")
    text = run.experiment.data
    check("every model has learned: perplexity below half of V", max(found.values()) < text.vocabulary_size / 2)
    if preset == "quick":
        check("dropout reaches a lower perplexity than no regularizer", found["dropout"] < found["none"])

    figure, axes = plt.subplots(2, 2, figsize=(9, 6))
    draw_model(axes[0, 0])
    draw_cut(axes[0, 1])
    axes[1, 0].plot(range(1, 56), rates, drawstyle="steps-mid")
    axes[1, 0].set(title="the schedule of the paper", xlabel="epoch", ylabel="learning rate", ylim=(0, 1.05))
    draw_curves(axes[1, 1], runs)
    axes[1, 1].set(title=text.name.split(",")[0])
    save(figure, "10_word_ptb")
    return found


# %%
if __name__ == "__main__":
    shared.run(main)

# %% [markdown]
# ## Exercises
#
# 1. Change `dropout` from 0.2 to 0.8 in `RUNS`. How do the thin and the thick curve move against each other?
# 2. Let every minibatch of `WordPTB.loss` begin with `state = None`. What does validation, which carries it, lose?
# 3. `"z_prob_cells": "0.25,0"` zones out the first layer only, `"0,0.25"` the second. Does it matter which?
