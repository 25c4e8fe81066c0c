# %% [markdown]
# # Answers to chapter 11
#
# The runs here are smaller than those of the chapter: 64 units, 3,000 and 30,000 characters, about 160 updates. They
# have one seed each, so small differences mean little.

# %%
import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from shared import check  # finds minizone and the chapters

chapter = importlib.import_module("11_text8")
SHORT = (3_000, 40)  # characters, epochs
LONG = (30_000, 4)


def train(network: str, text: tuple[int, int], **changes):
    return chapter.train(network, *text, "small", "cpu", **changes)


# %% [markdown]
# ## 1. Twice as many units
#
# The network has more than three times as many parameters for the same text. The gap grows most on the short text,
# where there is the least text for each parameter. Zoneout reduces the growth, but does not prevent it.

# %%
plain = train("LSTM", SHORT)
zoned = train("zoneout", SHORT)
plain_long = train("LSTM", LONG)
wide = train("LSTM", SHORT, hidden_size=128)
wide_zoned = train("zoneout", SHORT, hidden_size=128)
wide_long = train("LSTM", LONG, hidden_size=128)

growth_short = wide.gap - plain.gap
growth_zoned = wide_zoned.gap - zoned.gap
growth_long = wide_long.gap - plain_long.gap
print(f"the gap grows by {growth_short:.2f} on the short text, by {growth_zoned:.2f} there with zoneout,", end=" ")
print(f"by {growth_long:.2f} on the long text")
check("twice the units widen the gap most on the short text", growth_short > 2 * growth_long > 0)
check("with zoneout the gap grows less", 0 < growth_zoned < growth_short)

# %% [markdown]
# ## 2. Early stopping
#
# Early stopping takes the best validation BPC of a run in place of the last one. It needs no run of its own: both
# numbers are in the log. It helps the network whose validation curve has turned upward, which is the plain LSTM. So a
# part of zoneout's gain at the end disappears. We look at the networks of answer 1 with 128 units. Most of the gain is
# left there.

# %%
gain_at_end = wide.valid[-1] - wide_zoned.valid[-1]
gain_at_best = min(wide.valid) - min(wide_zoned.valid)
print(f"zoneout gains {gain_at_end:.3f} BPC at the end, {gain_at_best:.3f} BPC with early stopping")
check("early stopping takes away a part of zoneout's gain", gain_at_best < gain_at_end)
check("more than half of the gain is left", gain_at_best > 0.5 * gain_at_end)

# %% [markdown]
# ## 3. The same cuts in every epoch
#
# The gap hardly changes. The network reads the same 3,000 characters either way. The place of a cut changes the context
# of the first symbols of a chunk only: they are predicted from a few symbols, or from none. The other symbols have
# enough context, and the network learns them by heart wherever the cuts are.

# %%
fixed = train("LSTM", SHORT, augment=False)
print(f"gap with new cuts {plain.gap:.3f}, with the same cuts {fixed.gap:.3f}")
check("the cuts change the gap by less than a tenth", abs(fixed.gap - plain.gap) < 0.1 * plain.gap)
check("this is less than zoneout changes it", abs(fixed.gap - plain.gap) < plain.gap - zoned.gap)
