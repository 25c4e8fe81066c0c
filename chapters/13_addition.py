# %% [markdown]
# # 13. Addition, sequence to sequence
#
# **Claim.** Two LSTMs learn to add from examples alone: one reads "12+7" and passes on its last states, and the other
# writes "19" from these states alone. In our run, with one seed, zoneout brings no gain. It makes the progress to
# longer numbers slower.
#
# Paper: none. The README of the authors' code lists it among what is not yet in the paper, and there are no published
# numbers. The full experiment: `python run.py seq2seq --preset paper --z-prob-cells 0.5 --z-prob-states 0.05`

# %%
import shared  # finds minizone
import matplotlib.pyplot as plt
import numpy as np
from shared import DeviceName, Preset, check, learn, save

from minizone.data.addition import GO, SYMBOLS, decode, draw_numbers, encode, split
from minizone.experiments.seq2seq import PRESETS, Seq2Seq
from minizone.optim import Adam

# %% [markdown]
# ## Sums as symbols
#
# The task is by Erik Rehn (2016). There are V = 13 symbols: the ten digits, the plus, a padding `_`, and `G` for GO,
# which starts an answer. A problem has 13 symbols and is padded on the left. Its sum has 7 symbols and is padded on the
# right. That is enough for numbers of five digits.
#
# The network is not told that 7 comes after 6, what a tens digit is, or how to carry. It has to learn this from
# examples.

# %%
problems, sums = encode([(12, 7), (99, 1), (100_000, 100_000)])  # tokens (13, B) and (7, B)
for problem, total in zip(decode(problems), decode(sums), strict=True):
    print(f"{problem} -> {total}")
print("the first problem as tokens:", problems[:, 0])
print("its sum as tokens:", sums[:, 0])
check("decoding gives the symbols back", decode(problems)[0].strip("_") == "12+7" and len(SYMBOLS) == 13)

# %% [markdown]
# A number is drawn in two steps: first a length $k$, uniform from 1 to the difficulty, then one of the numbers 0, 1,
# ..., $10^k$. Without the first step nine in ten numbers would have the full length.
#
# A hash of the problem decides whether it belongs to training (eight in ten), validation or test. The decision never
# changes, so no model is tested on a problem of its training set.

# %%
numbers = draw_numbers(np.random.default_rng(0), 3, (10_000,))
lengths = np.array([len(str(number)) for number in numbers])
print("at difficulty 3:")
for k in range(1, 5):
    print(f"  {(lengths == k).mean():.1%} of the numbers have {k} digits")
places = [split(1, 2), split(0, 0), split(6, 2)]
check("a problem always belongs to the same part of the data", places == ["valid", "test", "train"])

# %% [markdown]
# ## The encoder passes on its last states
#
# The model has two parts, an encoder and a decoder. Each is a stack of two LSTM layers of H units, with weights of its
# own. The encoder reads the problem, one symbol of all B examples at each step, for 13 steps. Its last hidden states
# and cells, two layers with two states (H, B) each, are the first states of the decoder:
#
# $$h_0^{\mathrm{decoder}} = h_{13}^{\mathrm{encoder}} \qquad c_0^{\mathrm{decoder}} = c_{13}^{\mathrm{encoder}}$$
#
# in both layers. These 4H numbers are all that the decoder knows of a problem.
#
# The decoder reads GO at its first step, and then the symbols of the sum. At each step t = 1, ..., 7 its second layer
# has the hidden state $h_t$ (H, B). The scores $s_t$ (V, B) of the next symbol are
#
# $$s_t = W h_t + b$$
#
# with weights $W$ (V, H) and biases $b$ (V,). We do this by hand, with a model without training:

# %%
experiment = Seq2Seq(PRESETS["quick"])
model = experiment.model
_, last_states = model.encoder(problems)  # [(h, c), (h, c)], each (H, B)
go = np.full((1, problems.shape[1]), GO, sums.dtype)  # (1, B)
decoder_inputs = np.concatenate([go, sums[:-1]])  # (7, B): GO, then the sum, one step late
h, _ = model.decoder(decoder_inputs, last_states)  # (7, H, B)
by_hand = model.output(h).data  # (7, V, B)
scores = model(problems, sums)[0].data
check("encoder, 4H numbers, decoder: this is the whole model", np.allclose(by_hand, scores, rtol=0, atol=1e-5))

# %% [markdown]
# ## Training and use differ
#
# In training the decoder reads the *right* symbols, whatever it would have written itself. This is called teacher
# forcing. The steps of the decoder are then an ordinary sequence, and one wrong symbol does not disturb the next steps.
#
# No step may see the symbol that it has to predict. To check this, we change the third symbol of the sum. The scores of
# the first three steps must stay as they are.
#
# When the model is used, the sum is unknown. Then `answer` feeds back, step by step, the symbol with the highest score.

# %%
other_sums = sums.copy()
other_sums[2] = SYMBOLS.index("9")
change = np.abs(model(problems, other_sums)[0].data - scores).max(axis=(1, 2))  # (7,)
check("the third symbol is read at the fourth step, not before", (change[:3] < 1e-6).all() and change[3] > 1e-6)
print("without training:")
for problem, answer in zip(decode(problems), decode(model.answer(problems)), strict=True):
    print(f"  {problem} -> {answer}")

# %% [markdown]
# ## The curriculum
#
# Training starts with short numbers, and the numbers become longer when the model can add them. The *difficulty* is the
# greatest number of digits. After every epoch the model writes the sums of the validation problems by itself. The error
# is the share of sums with *any* wrong symbol. Then the first of these rules that fits applies:
#
# - If the error is above 0.85 in the 17th epoch since the weights were drawn, training starts again with new weights.
# - At the greatest difficulty, five digits, if the error has risen, the learning rate is multiplied by 0.95.
# - At a lower difficulty, if the error is below 0.10, the numbers become one digit longer.
#
# The rules are in `end_epoch`. Here it gets a series of invented errors.

# %%
optimizer = Adam(model.parameters(), 1e-2)
difficulties, rates = [], []
for error in (0.6, 0.3, 0.09, 0.7, 0.08, 0.05, 0.4, 0.3, 0.31):
    experiment.end_epoch(error, optimizer)
    difficulties.append(experiment.memory["difficulty"])
    rates.append(experiment.memory["rate"])
    print(f"error {error:g}: {difficulties[-1]} digits, learning rate times {rates[-1]:g}")
check("below 0.10 there is a digit more, up to five", difficulties == [2, 2, 3, 3, 4, 5, 5, 5, 5])
check("at five digits every rise lowers the learning rate", np.allclose(rates[-3:], [0.95, 0.95, 0.95**2]))

# %%
unlucky = Seq2Seq(PRESETS["quick"])
restarts = [unlucky.end_epoch(0.9, optimizer) for _ in range(17)]
check("an error above 0.85 in the 17th epoch draws new weights", restarts == [False] * 16 + [True])

# %% [markdown]
# ## Two runs
#
# The authors' script starts with two digits and makes 800 updates of 32 problems each. That is too little to get far.
# `run.py seq2seq` makes 6,000 updates of 128 problems; its results are in `results/README.md`. This chapter has a
# minute, so it makes the task easier in three ways:
#
# - The numbers go up to 10 at first.
# - An error of 0.25 is good enough for the next digit.
# - Validation draws from all problems except those of the test, whether or not they are in training (`overlap`).
#
# The problems of the test are in no training set here either.

# %%
EASY = {"number_length": 1, "overlap": True, "raise_below": 0.25}
SMALL = {"hidden_size": 32, "batch_size": 64, "updates_per_epoch": 40, "epochs": 6, "valid_examples": 256}
QUICK = {"hidden_size": 64, "updates_per_epoch": 50, "epochs": 26, "valid_examples": 512}
SIZES = {"small": {**EASY, **SMALL}, "quick": {**EASY, **QUICK}, "paper": {}}
ZONEOUT = {"z_prob_cells": 0.5, "z_prob_states": 0.05}


def print_answers(inputs, targets, answers: dict[str, np.ndarray]) -> None:
    """The first eight different problems (13, N), their sums (7, N), and what each model wrote."""
    print(f"{'problem':>9} {'sum':>5}" + "".join(f"{name:>12}" for name in answers))
    _, first_places = np.unique(inputs, axis=1, return_index=True)
    for n in np.sort(first_places)[:8]:
        problem = decode(inputs[:, n : n + 1])[0].strip("_")
        total = decode(targets[:, n : n + 1])[0].strip("_")
        line = f"{problem:>9} {total:>5}"
        for answer in answers.values():
            written = decode(answer[:, n : n + 1])[0].strip("_")
            mark = " " if written == total else "!"
            line += f"{written + ' ' + mark:>12}"
        print(line)


# %% [markdown]
# The figure has the difficulty and the validation error after each epoch. It also has the test: the share of wrong
# symbols at each place of the answer.

# %%
COLORS = {"untrained": "0.7", "LSTM": "C0", "zoneout": "C1"}


def draw_training(difficulties: plt.Axes, errors: plt.Axes, curves: dict[str, dict], raise_below: float) -> None:
    """The difficulty and the validation error of each run over the epochs."""
    for name, curve in curves.items():
        epochs = range(1, len(curve["difficulty"]) + 1)
        difficulties.step(epochs, curve["difficulty"], where="mid", color=COLORS[name], lw=2)
        errors.plot(epochs, curve["valid_error"], color=COLORS[name], lw=2)
    errors.axhline(raise_below, color="0.4", ls="--", lw=0.9)
    errors.text(len(epochs), raise_below - 0.05, "below this, one digit more", fontsize=8, ha="right", va="top")
    difficulties.set(title="difficulty", xlabel="epoch", ylabel="number of digits, at most")
    difficulties.set(yticks=range(1, 6), ylim=(0.8, 5.2))
    errors.set(title="validation, at that difficulty", xlabel="epoch", ylabel="wrong sums (share)", ylim=(0, 1))


def draw(curves: dict[str, dict], wrong: dict[str, np.ndarray], raise_below: float) -> None:
    """The curriculum, the validation errors, and the wrong symbols (7, N) by place in the answer."""
    figure, (difficulties, errors, places) = plt.subplots(1, 3, figsize=(10, 3.6))
    draw_training(difficulties, errors, curves, raise_below)
    for number, (name, symbols) in enumerate(wrong.items()):
        place = np.arange(1, 8) + 0.28 * (number - 1)
        places.bar(place, symbols.mean(axis=1), 0.28, color=COLORS[name], label=name)
    places.set(title="test, sums of up to two digits", xlabel="place in the answer", ylabel="wrong symbols (share)")
    places.set(xticks=range(1, 8), ylim=(0, 1))
    places.grid(False, axis="x")
    figure.legend(loc="outside lower center", ncols=3)
    save(figure, "13_addition")


# %% [markdown]
# `main` trains both networks, lets them and an untrained one add problems that they have not seen, and prints the first
# answers.


# %%
def main(preset: Preset = "quick", device: DeviceName = "cpu") -> dict[str, list[float]]:
    """Train with and without zoneout, and let both and an untrained model add; the difficulties over the epochs."""
    plain = learn(Seq2Seq, preset, device, "13_lstm", **SIZES[preset])
    zoned = learn(Seq2Seq, preset, device, "13_zoneout", **SIZES[preset], **ZONEOUT)
    untrained = Seq2Seq(plain.experiment.settings)

    inputs, targets = plain.experiment.test_problems(2)  # (13, N) and (7, N), of two digits, in no training set
    answers = {  # (7, N) each
        "untrained": untrained.answers(inputs),
        "LSTM": plain.experiment.answers(inputs),
        "zoneout": zoned.experiment.answers(inputs),
    }
    print_answers(inputs, targets, answers)
    wrong = {name: answer != targets for name, answer in answers.items()}  # (7, N) each
    for name, symbols in wrong.items():
        print(f"{name}: {symbols.any(axis=0).mean():.1%} of unseen sums wrong, {symbols.mean():.1%} of their symbols")

    check("a model without training gets almost no sum right", wrong["untrained"].any(axis=0).mean() > 0.9)
    rates = {name: symbols.mean() for name, symbols in wrong.items()}
    check("training at least halves the wrong symbols", 2 * rates["LSTM"] < rates["untrained"])
    check("with zoneout training halves them too", 2 * rates["zoneout"] < rates["untrained"])

    curves = {}
    for name, run in (("LSTM", plain), ("zoneout", zoned)):
        curves[name] = {"difficulty": run.curve("difficulty"), "valid_error": run.curve("valid_error")}
        print(f"{name}: digits of epoch 1, 2, ...: {' '.join(map(str, curves[name]['difficulty']))}")
    draw(curves, wrong, plain.experiment.settings.raise_below)
    return {name: curve["difficulty"] for name, curve in curves.items()}


# %%
if __name__ == "__main__":
    shared.run(main)

# %% [markdown]
# ## In the figure
#
# The difficulty (left) rises in steps. At each step the validation error (middle) jumps up, because the new problems
# are longer, and then falls again. With zoneout no difficulty is reached earlier, and some are reached later or not at
# all. The test (right) has sums of up to two digits that are in no training set. Both networks get about nine in ten of
# them right. The last places of the answer hold only padding, which is easy. So the shares of wrong symbols look better
# than they are. The untrained model is wrong nearly everywhere.

# %% [markdown]
# ## At full size
#
# These are the settings of the authors' script: 128 units, a learning rate of 0.01, and 40 epochs of 20 updates. There
# are three seeds.

# %%
shared.print_results("seq2seq")

# %% [markdown]
# ![Learning curves of addition at full size](../results/seq2seq/curves.png)
#
# Nearly all sums are wrong, with zoneout and without it. In the 17th epoch the errors have just begun to fall. They are
# still above 0.85, so the rule draws new weights, and training begins again. This happens in all six runs, in four of
# them twice. So 800 updates with this rule do not show whether zoneout helps. The authors published no result, and this
# may be why.

# %% [markdown]
# ## What to take away
#
# - An encoder can pass a whole problem to a decoder in its last states, here 4H numbers.
# - In training the decoder reads the right symbols; in use it reads what it wrote itself.
# - A curriculum starts with easy problems, and makes them harder when the error is small enough.
# - Zoneout is a regularizer. Where every problem is newly drawn there is little to over-fit, and it costs time.
#
# ## Exercises
#
# 1. Set `overlap` to False in `EASY`. Numbers from 0 to 10 make 121 problems, and a tenth of them is held out for
#    validation. What happens?
# 2. The sum is written from the left, but carries run from the right. Write it in reverse, last digit first: does it
#    become easier?
# 3. Use the zoneout of the authors' file, 0.05 for the cells and 0 for the hidden states. Is it still slower?
