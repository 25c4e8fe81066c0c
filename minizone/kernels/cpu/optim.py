"""The L2 norm over all parameters, and clipping by it. The formulas of the optimizers are in `minizone.optim`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from minizone.backend import Array, array_module


def norm(arrays: Sequence[Array]) -> float:
    """The L2 norm of all elements of the arrays together. float16 is summed in float32."""
    square = 0.0
    for a in arrays:
        elements = a.reshape(-1).astype(array_module(a).result_type(a.dtype, np.float32), copy=False)  # (N,)
        square += float(elements @ elements)
    return math.sqrt(square)


def clip_factor(norm: float, clip: float) -> float:
    """The factor that scales arrays of this norm down to the norm ``clip``; 1 if ``norm <= clip`` or ``clip`` is 0."""
    return clip / norm if 0 < clip < norm else 1.0
