"""The readable references: one step of each cell, composed of primitive operations and differentiated by the tape.

The sequence functions of `minizone.recurrent` compute the same with hand-written back-propagation through time;
tests hold the two together, value by value and gradient by gradient.
"""

from __future__ import annotations

from typing import Any

from minizone.ops import sigmoid, stack, tanh, unstack
from minizone.tensor import Tensor
from minizone.zoneout import zone_out


def lstm_cell(
    x: Any,
    h: Tensor,
    c: Tensor,
    W_x: Tensor,
    W_h: Tensor,
    b: Tensor,
    *,
    keep_h: Any = None,
    keep_c: Any = None,
    input_mask: Any = None,
) -> tuple[Tensor, Tensor]:
    """One step of an LSTM with zoneout: (h, c) from the input x (D, B) or tokens (B,) and the previous (h, c).

        i, f, o = sigmoid(W_x x + W_h h + b)        g = tanh(W_x x + W_h h + b)
        c~ = f * c + input_mask * i * g             h~ = o * tanh(c~)
        c' = keep_c * c + (1 - keep_c) * c~         h' = keep_h * h + (1 - keep_h) * h~

    h, c (H, B); W_x (4H, D); W_h (4H, H); b (4H,), rows in the order i, f, g, o; masks broadcastable to (H, B).
    Krueger et al. (2017), section 3.2: h~ is made from the candidate c~, not from the zoned-out c'.
    """
    H = h.shape[0]
    projected = W_x[:, x] if x.ndim == 1 else W_x @ x
    a = projected + W_h @ h + b.reshape(-1, 1)  # (4H, B)
    i, f, g, o = sigmoid(a[:H]), sigmoid(a[H : 2 * H]), tanh(a[2 * H : 3 * H]), sigmoid(a[3 * H :])
    update = i * g if input_mask is None else input_mask * i * g
    new_c = f * c + update
    new_h = o * tanh(new_c)
    return zone_out(h, new_h, keep_h), zone_out(c, new_c, keep_c)


def lstm_unrolled(
    x: Any,
    h0: Tensor,
    c0: Tensor,
    W_x: Tensor,
    W_h: Tensor,
    b: Tensor,
    *,
    keep_h: Any = None,
    keep_c: Any = None,
    input_mask: Any = None,
) -> tuple[Tensor, Tensor]:
    """`lstm_cell` over a sequence; arguments and results as `minizone.lstm`."""
    T = x.shape[0]
    h, c, hs, cs = h0, c0, [], []
    for t, x_t in enumerate(unstack(x) if isinstance(x, Tensor) else x):
        masks = {
            name: _at_step(mask, t, T)
            for name, mask in (("keep_h", keep_h), ("keep_c", keep_c), ("input_mask", input_mask))
        }
        h, c = lstm_cell(x_t, h, c, W_x, W_h, b, **masks)
        hs.append(h)
        cs.append(c)
    return stack(hs), stack(cs)


def _at_step(mask: Any, t: int, T: int) -> Any:
    """The mask of step t, from a mask that broadcasts to (T, H, B)."""
    if mask is None or getattr(mask, "ndim", 0) < 3:
        return mask
    return mask[t] if mask.shape[0] == T else mask[0]
