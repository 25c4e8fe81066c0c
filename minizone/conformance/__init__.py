"""Is this a correct zoneout? Sixteen invariants that can be checked on any LSTM.

`python run.py conformance MODULE:ADAPTER` tests an implementation. MODULE is a .py file or an importable module, and
ADAPTER is a class in it. The kit passes weights in minizone's layout (that of `torch.nn.LSTM`, with one bias) and
inputs whose columns are examples. The adapter converts them and returns NumPy arrays. An example:

    from minizone.conformance import NotOffered

    class Adapter:
        def __init__(self, W_x, W_h, b, z_h, z_c):    # (4H, D), (4H, H), (4H,), rows i, f, g, o; z: probability to keep
            if z_c:
                raise NotOffered("zones out h only")  # not a failure; the table gives the reason
            self.layer = ...

        def step(self, x, h, c, train, seed):         # x (D, B); h, c (H, B); train: draw masks, else evaluate
            if seed is not None:                      # an integer in the first step of a sequence, then None:
                seed_the_library(seed)                # the generator continues
            return output, h, c                       # each (H, B)

        def initial(self, B):                         # optional: the states h, c (H, B) that the library starts from
            ...

        def gradient(self, x, h, c, r, q, seed):      # optional: gradient of (r * output).sum() + (q * last c).sum()
            return {"x": ..., "W_h": ...}             # in training, w.r.t. any of x (T, D, B), h, c, W_x, W_h, b

Instead of `step`, an adapter can have `sequence(x, h, c, train, seed)`. It takes x (T, D, B) and returns the outputs
(T, H, B), and h and c of all steps (T, H, B) or of the last step (H, B). The kit needs no masks, only the seed. An
adapter that ignores the seed is tested by all invariants except the gradient.

adapters.py         `Function` and `Layer`: minizone itself
broken.py           a catalogue of zoneouts with one bug each, and the invariants that catch it
invariants.py       the checks
implementation.py   how an adapter is made and called
kit.py              `load`, `conform`, `table`: the parts of the command
"""

from minizone.conformance.adapters import Function, Layer
from minizone.conformance.implementation import NotOffered
from minizone.conformance.invariants import INVARIANTS, Invariant
from minizone.conformance.kit import Result, conform, load, table

__all__ = ["INVARIANTS", "Function", "Invariant", "Layer", "NotOffered", "Result", "conform", "load", "table"]
