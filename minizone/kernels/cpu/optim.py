"""The L2 norm over all parameters, and clipping by it. The formulas of the optimizers are in `minizone.optim`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from minizone.backend import Array


def norm(arrays: Sequence[Array]) -> float:
    """The L2 norm of all elements of the arrays together.

    The squares are summed in the dtype of the arrays, and again in float64 where their sum is too large or too small.
    """
    with np.errstate(over="ignore"):
        square = sum(float(a.reshape(-1) @ a.reshape(-1)) for a in arrays)
        if not 1e-30 < square < math.inf:
            wide = [a.reshape(-1).astype(np.float64, copy=False) for a in arrays]
            square = sum(float(a @ a) for a in wide)
    return math.sqrt(square)


def clip_factor(norm: float, clip: float) -> float:
    """The factor that shortens arrays of this norm to the norm ``clip``; 1 if they are not longer, or clip is 0.

    NaN if the norm is not finite.
    """
    if not math.isfinite(norm):
        return math.nan
    return clip / norm if 0 < clip < norm else 1.0
