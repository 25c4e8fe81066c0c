# %% [markdown]
# # Answers to chapter 13
#
# The runs here are shorter than those of the chapter: nine epochs of 50 updates, 64 problems in a minibatch. They have
# one seed each.

# %%
import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import shared  # finds minizone and the chapters
from shared import check

from minizone.data.addition import SYMBOLS, encode, split
from minizone.experiments import seq2seq

chapter = importlib.import_module("13_addition")
SHORT = {**chapter.SIZES["quick"], "batch_size": 64, "epochs": 9, "valid_examples": 256}


def train(name: str, **changes) -> shared.Learned:
    run = shared.learn(seq2seq.Seq2Seq, "quick", "cpu", "13_answers", **{**SHORT, **changes})
    errors = " ".join(f"{error:.2f}" for error in run.curve("valid_error"))
    print(f"{name}: digits {run.curve('difficulty')}, wrong sums {errors}")
    return run


def epochs_with_two_digits(run: shared.Learned) -> int:
    return run.curve("difficulty").count(2)


# %% [markdown]
# ## 1. Problems that are held out
#
# Training stays at one digit. The model learns the training problems and gets most of the held-out ones wrong: with so
# few problems, it learns them by heart. A digit more is reached only below an error of 0.25, so the curriculum cannot
# go on. With longer numbers there are far more problems, and learning by heart is no longer possible.

# %%
plain = train("with overlap")
held_out = train("without overlap", overlap=False)
count = sum(split(a, b) == "valid" for a in range(11) for b in range(11))
train_error, valid_error = held_out.rows[-1]["train_error"], held_out.rows[-1]["valid_error"]
print(f"{count} of 121 problems are held out; wrong sums: {train_error:.2f} in training, {valid_error:.2f} held out")
check("with overlap training goes on to two digits", max(plain.curve("difficulty")) >= 2)
check("without overlap it stays at one digit", max(held_out.curve("difficulty")) == 1)
check("it learns the problems of its training and not the others", train_error < 0.25 and valid_error > 0.5)

# %% [markdown]
# ## 2. The last digit first
#
# Sums of two digits take fewer epochs. Written in reverse, a digit of the sum depends on the digits at the same place
# and on the carry from the place before, which has just been written. Written from the left, the first digit can depend
# on all digits of both numbers: think of 55+45.


# %%
def encode_reversed(problems):
    """As `encode`, with the digits of the sums in reverse, padded on the right."""
    inputs, targets = encode(problems)
    for column, (a, b) in enumerate(problems):
        digits = [SYMBOLS.index(digit) for digit in reversed(str(a + b))]
        targets[: len(digits), column] = digits
    return inputs, targets


inputs, targets = encode_reversed([(12, 7)])
check("19 is written as 91", "".join(SYMBOLS[token] for token in targets[:3, 0]) == "91_")

seq2seq.encode = encode_reversed
reverse = train("in reverse")
seq2seq.encode = encode
print(f"epochs with two digits: {epochs_with_two_digits(reverse)} in reverse, {epochs_with_two_digits(plain)} as usual")
check("in reverse two digits take fewer epochs", epochs_with_two_digits(reverse) < epochs_with_two_digits(plain))

# %% [markdown]
# ## 3. The zoneout of the authors' file
#
# So little zoneout makes no clear difference here: the model needs about as many epochs as without it. Most units move
# at every step: a cell keeps its old value at only one step in twenty. It brings no gain either, for the reason of the
# chapter: training problems are newly drawn, and there is little to over-fit.

# %%
little = train("zoneout 0.05", z_prob_cells=0.05)
difference = epochs_with_two_digits(little) - epochs_with_two_digits(plain)
print(f"epochs with two digits, compared with no zoneout: {difference:+d}")
check("a zoneout of 0.05 for the cells costs at most two epochs", abs(difference) <= 2)
