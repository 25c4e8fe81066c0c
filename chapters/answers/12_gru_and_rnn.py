# %% [markdown]
# # Answers to chapter 12
#
# No answer needs training: all gradients are those of networks with random weights.

# %%
import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
from shared import check  # finds minizone and the chapters

from minizone import Zoneout, gru

chapter = importlib.import_module("12_gru_and_rnn")


def early(name: str, zoneout: Zoneout, bias: float = 0.0, **options) -> float:
    """The share of the gradient that reaches the first quarter of the steps."""
    network = chapter.new_network(chapter.KINDS[name], zoneout, **options)
    H = network.W_h.shape[1]
    if bias:
        network.b.data[H : 2 * H] += bias  # the update gates of a GRU
    return chapter.first_quarter(chapter.gradient_over_time(network))


# %% [markdown]
# ## 1. A GRU that holds its state from the start
#
# Zoneout adds little then. Along the state, one step multiplies the gradient by the gate: $u$ without zoneout, and on
# average $z_h + (1 - z_h) u$ with it. For $u = 0.5$ and $z_h = 0.25$ these are 0.5 and 0.625. With a bias of 3, $u$ is
# about 0.95, and the two factors are 0.95 and 0.96. So the bias and zoneout have the same effect, and the bias costs no
# noise.

# %%
times = []
for bias in (0.0, 1.0, 2.0, 3.0):
    plain = early("GRU", Zoneout(), bias)
    zoned = early("GRU", Zoneout(states=0.25), bias)
    times.append(zoned / plain)
    print(f"bias {bias}: {plain:.1e} without zoneout, {zoned:.1e} with it, {times[-1]:.1f} times as much")
check("without a bias zoneout brings more than 100 times as much gradient to the early steps", times[0] > 100)
check("with a bias of 3 it brings at most twice as much", 1 < times[-1] < 2)

# %% [markdown]
# ## 2. Recurrent dropout of a GRU
#
# The state of a dropped unit becomes $u \odot h_{t-1}$: it loses $n$ and shrinks toward 0 by the factor of its gate. A
# unit that is zoned out keeps $h_{t-1}$ exactly. If a unit is dropped at every step, its state fades away; if it is
# zoned out at every step, it stays what it was.

# %%
x, h0, weights = chapter.x, chapter.h0, chapter.weights
dropped = gru(x, h0, *weights, input_mask=0.0).data  # (T, H, B), every unit dropped at every step
zoned_out = gru(x, h0, *weights, keep_h=1.0).data
print(
    f"mean |h| at the start {np.abs(h0).mean():.3f}, after {len(x)} steps of dropout {np.abs(dropped[-1]).mean():.3f}"
)

states = np.concatenate([h0[None], dropped])  # (T + 1, H, B)
gates = states[1:] / states[:-1]  # (T, H, B)
check("a dropped unit is multiplied by a number between 0 and 1", ((gates > 0) & (gates < 1)).all())
check("a unit that is zoned out does not change", (zoned_out == h0).all())

# %% [markdown]
# ## 3. A relu in place of tanh
#
# The slope of a relu is 1 where a unit is active and 0 where it is not. With random orthogonal weights about half of
# the units are active, so the gradient still vanishes, but more slowly than with tanh. Zoneout helps here too.
#
# It is another matter if $W_h$ starts as the identity (`identity=True`). Then an active unit passes its gradient on
# unchanged, without zoneout.

# %%
tanh = early("tanh-RNN", Zoneout())
relu = early("tanh-RNN", Zoneout(), activation="relu")
relu_zoned = early("tanh-RNN", Zoneout(states=0.25), activation="relu")
relu_identity = early("tanh-RNN", Zoneout(), activation="relu", identity=True)
tanh_identity = early("tanh-RNN", Zoneout(), identity=True)
print(f"orthogonal: tanh {tanh:.1e}, relu {relu:.1e}, relu with zoneout {relu_zoned:.1e}")
print(f"identity: tanh {tanh_identity:.1e}, relu {relu_identity:.1e}")
check("with a relu more of the gradient reaches the early steps than with tanh", relu > 10 * tanh)
check("zoneout adds to it", relu_zoned > 10 * relu)
check("only with relu and the identity does the gradient not vanish", relu_identity > 0.1 > 1e6 * tanh_identity)
