"""The inputs of a recurrent layer, numbers (T, D, B) or tokens (T, B), and the gradients of what multiplies them."""

from __future__ import annotations

from typing import Any

import numpy as np

from minizone.backend import Array, array_module

MOST_ONE_HOT = 256  # kinds of tokens up to which a product with one-hot columns beats sorting the tokens


def columns_below(x: Array, D: int, H: int, dtype: Any) -> Array:
    """The columns (H + 1 + D, T, B) that [W_h b W_x] multiplies: room for h_{t-1}, a row of ones, the inputs.

    One product with them gives the gradients of all three. Tokens become one-hot columns here, unless there are many
    kinds of them: then there are no inputs below, see `cpu_tokens.add_up_tokens`.
    """
    xp, (T, B) = array_module(x), (x.shape[0], x.shape[-1])
    tokens = x.dtype.kind in "iu"
    below = xp.empty((H + 1 if tokens and D > MOST_ONE_HOT else H + 1 + D, T, B), dtype)
    below[H] = 1
    if len(below) > H + 1:
        below[H + 1 :] = x == xp.arange(D)[:, None, None] if tokens else x.transpose(1, 0, 2)
    return below


def check_shapes(gates: int, x: Array, states: tuple[Array, ...], W_x: Array, W_h: Array, b: Array) -> None:
    """Raise unless the shapes are those of `lstm` (4 gates) or of a cell with another number of gates."""
    H = W_h.shape[-1]
    if W_h.shape != (gates * H, H):
        raise ValueError(f"W_h must be ({gates if gates > 1 else ''}H, H), got {W_h.shape}")
    if W_x.ndim != 2 or len(W_x) != gates * H or b.shape != (gates * H,):
        raise ValueError(
            f"W_x must be ({gates * H}, D) and b ({gates * H},) for W_h {W_h.shape}, got {W_x.shape}, {b.shape}"
        )
    tokens = x.dtype.kind in "iu"
    if x.ndim != (2 if tokens else 3) or (not tokens and x.shape[1] != W_x.shape[1]):
        raise ValueError(f"x must be (T, {W_x.shape[1]}, B) for W_x {W_x.shape}, or integers (T, B); got {x.shape}")
    for state in states:
        if state.shape != (H, x.shape[-1]):
            raise ValueError(f"initial states must be (H, B) = {(H, x.shape[-1])}, got {state.shape}")


def per_step(mask: Any, shape: tuple[int, int, int]) -> list[Any]:
    """A mask that broadcasts to ``shape`` (T, H, B) as a list of T masks that broadcast to (H, B)."""
    T = shape[0]
    if mask is None or not hasattr(mask, "ndim"):
        return [mask] * T
    try:
        fits = np.broadcast_shapes(mask.shape, shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"a mask of shape {mask.shape} does not broadcast to (T, H, B) = {shape}")
    if mask.ndim < 3 or len(mask) != T:
        return [mask[0] if mask.ndim == 3 else mask] * T
    return list(mask)


def of_columns(mask: Any, columns: slice, B: int) -> Any:
    """Some columns of a mask for B examples, if they have values of their own."""
    return mask[..., columns] if getattr(mask, "ndim", 0) and mask.shape[-1] == B else mask
