# %% [markdown]
# # 10. Word-level Penn Treebank
#
# **Claim.** Dropout between the layers and zoneout along time put their noise on different connections of one network,
# so they can be combined. In the paper, dropout gains most on words, and zoneout adds a little on top and cannot
# replace it. The short run here shows the gain of dropout, not that of zoneout.
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
# vocabulary a probability. Write $p_n$ for the probability that it gave to the word that came, $w_n$. Its loss is
# $-\ln p_n$, in nats. The *perplexity* is the exponential of the mean loss:
#
# $$\mathrm{ppl} = \exp\Big(-\frac{1}{N} \sum_{n=1}^{N} \ln p_n\Big)$$
#
# A perplexity of 80 means: the model is as unsure as if it had to choose among 80 equally likely words. With equal
# scores for all words the perplexity is $V$. (The BPC of chapter 9 is the same mean divided by $\ln 2$.)

# %%
V = 10_000  # the vocabulary of Penn Treebank
equal_scores = Tensor(np.zeros((7, V, 2)))  # (T, V, B): steps, words, rows of text
words = np.arange(14).reshape(7, 2)  # (T, B)
ppl = exp(float(softmax_cross_entropy(equal_scores, words)))
check("with equal scores the perplexity is V", abs(ppl / V - 1) < 1e-9)

# %% [markdown]
# ## The network
#
# The model is that of Zaremba et al. (2014). It has two layers of H units. The minibatch has B rows of text, and at
# step t the network reads one word of each, $w_t$ (B,). An embedding E (H, V) has a column for each word:
#
# $$x_t = E_{:, w_t}$$
#
# The first LSTM reads $x_t$ (H, B), and the second one reads the hidden state $h^1_t$ of the first. $c^1_t$ and $c^2_t$
# are their cells. All states are (H, B).
#
# $$h^1_t, c^1_t = \mathrm{LSTM}_1(\mathrm{drop}(x_t), h^1_{t-1}, c^1_{t-1})$$
#
# $$h^2_t, c^2_t = \mathrm{LSTM}_2(\mathrm{drop}(h^1_t), h^2_{t-1}, c^2_{t-1})$$
#
# The scores $s_t$ (V, B) of the next word are computed with the weights W (V, H) and b (V, 1):
#
# $$s_t = W \, \mathrm{drop}(h^2_t) + b$$
#
# Dropout, written drop: an element becomes 0 with probability $p$, and otherwise it is multiplied by $1 / (1 - p)$.
# Each of the three has a new mask (H, B) at each step. With $p$ = 1 all elements become 0. The short runs below have
# $p$ = 0.5.
#
# ## Where the masks are
#
# Dropout is on the connections that go up, from layer to layer. There is none on the connections along time, from step
# to step. So a word passes three masks on its way to a prediction, however many steps later that is. With masks along
# time it would pass one more at every step.
#
# To check this, we drop everything on the connections that go up, $p = 1$. The output must be zero, and the states must
# still change from step to step.

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
# ## Minibatches
#
# The training text is cut into B long pieces, which are read side by side, one in each column. A minibatch has the next
# T words of each piece. It starts from the states in which the minibatch before it ended. Here are 25 words, with the
# numbers 0 to 24, in B = 3 pieces and T = 4 steps:

# %%
minibatches = list(Rows(np.arange(25), steps=4, batch_size=3))
_, first_words, first_targets = minibatches[0]  # (T, B) each
_, second_words, _ = minibatches[1]
print(f"minibatch 0, (T, B):\n{first_words}\nminibatch 1:\n{second_words}")
check("a minibatch starts with the last targets of the one before", (first_targets[-1] == second_words[0]).all())

# %% [markdown]
# ## Truncated back-propagation
#
# A minibatch takes over the values of the states, but not the graph that computed them. So back-propagation stops at
# the start of a minibatch. This is *truncated* back-propagation through time. Earlier words still influence the loss,
# but they get no gradient from it.
#
# To see this, we read 70 steps at once, and then as two minibatches of 35 steps.


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
# Training is plain SGD with a learning rate of 1. The loss is the *sum* over the T steps. The norm of the gradient is
# clipped at 10, and the initial weights are between -0.04 and 0.04. After 14 epochs the learning rate is divided by
# 1.15 in every epoch. (The sum, Zaremba's 55 epochs and his dropout of 0.65 are from memory, unverified.)

# %%
rates = [decayed(1.0, epoch, divide_by=1.15, after=14) for epoch in range(1, 56)]
check("14 epochs at the full rate, then a division in each", rates[13] == 1 and np.isclose(rates[20], 1.15**-7))

# %% [markdown]
# ## Why zoneout alone is not enough
#
# The paper says that zoneout as the only regularizer was "not competitive". It gives no reason. Here is ours, and it
# starts with the number of weights.

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
# The other weights can also learn a text by heart, and zoneout hides nothing from them. A unit that is zoned out is
# still seen by the layer above, with its old value. Dropout hides half of each vector or more, so no weight can rely on
# one particular unit.
#
# In Table 1 of the paper dropout brings the test perplexity from 114.5 to 78.4. Zoneout on top of it, $z_c$ = 0.25 and
# $z_h$ = 0.025, brings it to 77.4. Variational dropout (Gal, 2015) has 73.4. (The authors' public script has no dropout
# between layers, so 77.4 cannot come from it.)
#
# ## Four models
#
# We train four small models on the manual of Python. The run is short, so the initial weights are wider and the
# learning rate falls earlier. The gain of zoneout in Table 1 is one point, too small to show in a short run.

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


# %% [markdown]
# ## The figure
#
# The upper row has the network, the gradient of truncated back-propagation, and the schedule.


# %%
COLORS = {"none": "black", "zoneout": "C0", "dropout": "C1", "dropout and zoneout": "C3"}


def draw_model(axis: plt.Axes) -> None:
    """Three time steps of the network, with dropout on the arrows up and zoneout on those along time."""
    up = {"arrowstyle": "->", "shrinkA": 10, "shrinkB": 10, "color": COLORS["dropout"], "ls": "--"}
    along_time = {"arrowstyle": "->", "shrinkA": 10, "shrinkB": 10, "color": COLORS["zoneout"]}
    for t in range(3):
        for level, name in enumerate(("x", "h^1", "h^2", "s")):
            axis.text(t, level, f"${name}_{t + 1}$", ha="center", va="center", fontsize=11)
            if level > 0:
                axis.annotate("", (t, level), (t, level - 1), arrowprops=up)
            if name in ("h^1", "h^2"):
                axis.annotate("", (t, level), (t - 1, level), arrowprops=along_time)
    axis.plot([], [], "--", color=COLORS["dropout"], label="up: dropout")
    axis.plot([], [], color=COLORS["zoneout"], label="along time: zoneout")
    axis.set(title="where the masks are", xlim=(-1, 2.3), ylim=(-0.4, 3.4), xticks=[], yticks=[])
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, 0))
    axis.spines[:].set_visible(False)


# %%
def draw_cut(axis: plt.Axes) -> None:
    """The gradient that each input gets from step 70."""
    norms = np.sqrt((dx_whole**2).sum(axis=(1, 2)))  # (T,)
    axis.semilogy(range(1, T + 1), norms, color="0.5", label="70 steps at once")
    axis.semilogy(range(36, T + 1), norms[35:], color="C3", lw=3, alpha=0.7, label="two minibatches of 35")
    axis.axvline(35.5, color="C3", ls=":")
    axis.text(34, norms[-1], "0 before\nthe cut", color="C3", ha="right", va="top")
    axis.set(title="gradient from step 70 to the inputs", xlabel="time step of the input", ylabel="norm")
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2))


def draw_schedule(axis: plt.Axes) -> None:
    """The learning rate of each epoch."""
    axis.plot(range(1, 56), rates, drawstyle="steps-mid")
    axis.set(title="learning rate, 55 epochs", xlabel="epoch", ylabel="learning rate", ylim=(0, 1.05))


# %% [markdown]
# The lower row has the four models: validation, training, and the best validation perplexity.


# %%
def draw_models(valid: plt.Axes, train: plt.Axes, best: plt.Axes, runs: dict[str, shared.Learned]) -> None:
    """Validation and training perplexities of the four models, and the best ones."""
    for number, (name, run) in enumerate(runs.items()):
        color = COLORS[name]
        epochs = range(1, len(run.rows) + 1)
        valid.plot(epochs, run.curve("valid_ppl"), color, label=name)
        train.plot(epochs, run.curve("train_ppl"), color)
        lowest = min(run.curve("valid_ppl"))
        best.barh(name.replace(" and ", "\nand "), lowest, color=color)
        best.text(lowest, number, f" {lowest:.0f}", va="center")
    for axis, title in ((valid, "validation"), (train, "training, with its noise")):
        axis.set(title=title, xlabel="epoch", ylabel="perplexity")
        axis.locator_params(axis="x", integer=True)
    lowest = min(min(run.curve("valid_ppl")) for run in runs.values())
    valid.set_ylim(0.85 * lowest, 1.9 * lowest)
    train.set_ylim(0, 3 * lowest)
    valid.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, fontsize=8)
    best.set(title="best validation perplexity", xlabel="perplexity")
    best.margins(x=0.15)
    best.invert_yaxis()


def draw(runs: dict[str, shared.Learned]) -> None:
    figure, axes = plt.subplots(2, 3, figsize=(10.5, 6))
    draw_model(axes[0, 0])
    draw_cut(axes[0, 1])
    draw_schedule(axes[0, 2])
    draw_models(*axes[1], runs)
    save(figure, "10_word_ptb")


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
    print(f"text: {text.name}")
    check("every model has learned: perplexity below half of V", max(found.values()) < text.vocabulary_size / 2)
    if preset == "quick":
        check("dropout reaches a lower perplexity than no regularizer", found["dropout"] < found["none"])
    draw(runs)
    return found


# %%
if __name__ == "__main__":
    shared.run(main)

# %% [markdown]
# ## In the figure
#
# Above: dropout is on the arrows that go up, zoneout on those along time. In two minibatches the gradient of the later
# 35 steps is the same as without a cut, and that of the earlier 35 steps is 0.
#
# Below: without a regularizer the validation curve rises at the end, while the training curve still falls. With zoneout
# alone it hardly rises, but dropout reaches a lower perplexity. Zoneout on top of dropout slows the learning down, too
# much for 13 epochs.
#
# ## What to take away
#
# - Dropout between layers and zoneout along time act on different connections and can be combined.
# - Perplexity is the exponential of the mean loss in nats. Guessing among V words has perplexity V.
# - Minibatches carry the state on, without its graph. Gradients stop at their start.
# - In the paper zoneout alone cannot replace dropout on words. A possible reason: most weights are not on the
#   connections along time.
#
# ## Exercises
#
# 1. Change `dropout` from 0 to 0.5 in steps. How do the training and the validation perplexity move?
# 2. Let every minibatch of training start from a zero state: a `WordPTB` whose `loss` forgets the state. What does
#    validation, which carries it, lose?
# 3. `"z_prob_cells": "0.25,0"` zones out the first layer only, `"0,0.25"` the second. Does it matter which?
