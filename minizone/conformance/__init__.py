"""Is this a correct zoneout? Sixteen invariants that are checked on anybody's LSTM.

`python run.py conformance MODULE:ADAPTER` tests an implementation. ADAPTER is a class that makes it runnable, MODULE
a .py file or an importable module. The kit gives weights in minizone's layout (those of `torch.nn.LSTM`, one bias)
and inputs whose columns are examples. The adapter converts them, and gives NumPy arrays back. A whole example:

    from minizone.conformance import NotOffered

    class Adapter:
        def __init__(self, W_x, W_h, b, z_h, z_c):    # (4H, D), (4H, H), (4H,), rows i, f, g, o; z: probability to keep
            if z_c:
                raise NotOffered("zones out h only")  # this is no failure; the table says so
            self.layer = ...

        def step(self, x, h, c, train, seed):         # x (D, B); h, c (H, B); train: draw masks, else evaluate
            if seed is not None:                      # an integer in the first step of a sequence, then None:
                seed_the_library(seed)                # the generator is not seeded again
            return output, h, c                       # each (H, B)

        def initial(self, B):                         # optional: the states h, c (H, B) that the library starts from
            ...

        def gradient(self, x, h, c, r, q, seed):      # optional: of (r * output).sum() + (q * last c).sum() in
            return {"x": ..., "W_h": ...}             # training, by any of x, h, c, W_x, W_h, b; x (T, D, B)

In place of `step` there may be `sequence(x, h, c, train, seed)`: from x (T, D, B) to the outputs (T, H, B), and to h
and c, (T, H, B) or, where only the last ones are returned, (H, B). The kit never needs a mask. A seed is enough,
and without one all invariants but the gradient can be tested.

adapters.py         `Function` and `Layer`: minizone itself
broken.py           a catalogue of zoneouts with one bug each, and the invariants that catch it
invariants.py       the checks
implementation.py   how an adapter is made and called
kit.py              `load`, `conform`, `table`: what the command does
"""

from minizone.conformance.adapters import Function, Layer
from minizone.conformance.implementation import NotOffered
from minizone.conformance.invariants import INVARIANTS, Invariant
from minizone.conformance.kit import Result, conform, load, table

__all__ = ["INVARIANTS", "Function", "Invariant", "Layer", "NotOffered", "Result", "conform", "load", "table"]
