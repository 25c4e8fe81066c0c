# %% [markdown]
# # Answers to chapter 10
#
# ## 1. More and more dropout
#
# The networks of these answers have 64 units and a text of 4,000 words.

# %%
import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import shared  # finds minizone and the chapters
from shared import check

from minizone.experiments.word_ptb import WordPTB

chapter = importlib.import_module("10_word_ptb")


def train(task: type[WordPTB] = WordPTB, **changes) -> shared.Learned:
    size = {"hidden_size": 64, "train_symbols": 4_000, "eval_symbols": 1_000, "epochs": 11, "batch_size": 10}
    settings = {**chapter.SIZES["quick"], **size, **changes}
    return shared.learn(task, "quick", "cpu", "10", **settings)


# %%
runs = {p: train(dropout=p) for p in (0.0, 0.25, 0.5)}
last_train, best_valid = [], []
for p, run in runs.items():
    last_train.append(run.curve("train_ppl")[-1])
    best_valid.append(min(run.curve("valid_ppl")))
    print(f"dropout {p}: training {last_train[-1]:.0f}, best validation {best_valid[-1]:.0f}")
check("more dropout, a higher training perplexity", last_train == sorted(last_train))
check("a dropout of 0.5 has a lower validation perplexity than none", best_valid[2] < best_valid[0])

# %% [markdown]
# The training perplexity includes the noise and rises with it. The validation perplexity falls, because the network
# learns less by heart. With much more dropout it must rise again: at $p$ = 1 nothing reaches the output.
#
# ## 2. No state at the start of a minibatch
#
# The minibatch with number 0 starts from a zero state. So it is enough to give every minibatch this number.


# %%
class WithoutState(WordPTB):
    """Each minibatch of training starts from a zero state; validation carries its state."""

    def loss(self, batch, rng):
        _, words, targets = batch
        return super().loss((0, words, targets), rng)


reset = min(train(WithoutState, dropout=0.25).curve("valid_ppl"))
carried = best_valid[1]
print(f"best validation perplexity: state carried {carried:.1f}, zero state {reset:.1f}")
check("they are less than 15 % apart", abs(reset / carried - 1) < 0.15)

# %% [markdown]
# Little is lost here. A minibatch has 20 steps, so most words have some context without the state, and so small a
# network has hardly learned to use words that are further away. One seed cannot show more than that.
#
# ## 3. Zoneout in one of the two layers
#
# No dropout, and zoneout of the cells of one layer:

# %%
one_layer = {}
for z in ("0.25,0", "0,0.25"):
    one_layer[z] = min(train(dropout=0.0, z_prob_cells=z).curve("valid_ppl"))
    print(f"z_prob_cells={z}: best validation perplexity {one_layer[z]:.1f}")
first, second = one_layer.values()
check("the two are less than 10 % apart", abs(first / second - 1) < 0.1)

# %% [markdown]
# The two are a few percent apart. That is no more than between other pairs of these small runs with one seed, so it
# does not show that one layer is better. For an answer, compare several seeds.
