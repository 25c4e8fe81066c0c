"""Tokens: the columns of a matrix that they select, and the gradients of these columns."""

from __future__ import annotations

from minizone.backend import Array, array_module


def check_tokens(tokens: Array, V: int) -> None:
    """Raise IndexError unless all tokens are in [0, V). (A GPU does not check; there they select NaN.)"""
    if tokens.size and not (int(tokens.min()) >= 0 and int(tokens.max()) < V):
        raise IndexError(f"tokens must be in [0, {V}), got {int(tokens.min())} to {int(tokens.max())}")


def take_columns(W: Array, tokens: Array) -> Array:
    """``x[t] = W[:, tokens[t]]``: W (D, V), tokens (T, B), x (T, D, B)."""
    xp = array_module(W)
    return xp.ascontiguousarray(xp.take(W, tokens, axis=1).transpose(1, 0, 2))


def add_up_tokens(da: Array, x: Array, dW_x: Array) -> None:
    """Add da (M, T*B), the gradients at tokens x (T, B), to the columns of these tokens in dW_x (M, V)."""
    xp, tokens = array_module(da), x.reshape(-1)
    if not tokens.size:
        return
    order = xp.argsort(tokens, kind="stable")
    present, starts = xp.unique(tokens[order], return_index=True)
    dW_x[:, present] += xp.add.reduceat(da[:, order], starts, axis=1)
