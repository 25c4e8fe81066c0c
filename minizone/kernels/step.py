"""Arguments that the kernels of one time step share: masks, gradients on both sides of the step, normalization."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from minizone.backend import Array

Mask = Any  # an array that broadcasts to (H, B), a number, or None: no mask


class Masks(NamedTuple):
    """The masks of one time step, each broadcastable to (H, B); or of a sequence, each broadcastable to (T, H, B).

    keep_h, keep_c : 1 where a unit of h, of c, keeps its old value (zoneout).
    input_mask : factor of i * g (recurrent dropout).
    hidden_mask : factor of h_{t-1} in W_h h_{t-1} (variational dropout).
    """

    keep_h: Mask = None
    keep_c: Mask = None
    input_mask: Mask = None
    hidden_mask: Mask = None


class Gradients(NamedTuple):
    """dLoss/d(state) on both sides of one step back, each (H, B). The fields of c are None in cells without c.

    h, c : In: of the states after the step, from all later steps. The step may overwrite them.
    h_out, c_out : In: of the same states as outputs of the layer, or None. They are added to h, c.
    h_before, c_before : Out: of the states before the step.
    """

    h: Array
    c: Array | None
    h_out: Array | None
    c_out: Array | None
    h_before: Array
    c_before: Array | None


@dataclass
class Normalization:
    """The parameters and statistics of the normalizations in one step of the batch-normalized LSTM.

    gamma (8H,), b (4H,), gamma_c (H,), beta_c (H,) : parameters; gamma is gamma_x above gamma_h.
    mean, variance (9H,) : statistics of W_x x_t (4H), W_h h_{t-1} (4H) and c~ (H). In, if
        ``given`` (population statistics); otherwise out (statistics of the minibatch).
    inverse (9H,) : Out: 1 / sqrt(variance + epsilon).
    ones (B,) : sums over the examples are products with this vector of ones.
    """

    gamma: Array
    b: Array
    gamma_c: Array
    beta_c: Array
    mean: Array
    variance: Array
    inverse: Array
    ones: Array
    epsilon: float
    given: bool
