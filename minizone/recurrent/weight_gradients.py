"""The gradients of a recurrent layer's weights: products over many time steps, after the loop or behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from minizone.backend import Array, array_module
from minizone.kernels import kernels_for
from minizone.kernels.cpu.threads import in_threads
from minizone.recurrent.inputs import columns_below

if TYPE_CHECKING:
    from minizone.recurrent.sequence import Block, Recurrence


class WeightGradients:
    """dLoss/d(x, W_x, W_h, b), added up from dLoss/d(pre-activations), some time steps at a time.

    One product gives those of all three weights, since the pre-activations are [W_h b W_x] times rows of h_{t-1}, of
    ones and of x_t. It wants the columns of all examples and time steps side by side: that is a copy.

    Attributes
    ----------
    dx : (T, D, B) or None
        None where nobody asks for it.
    dW : (G H, H + 1 + D)
        Of [W_h b W_x], rows in the order of the weights.
    """

    def __init__(self, recurrence: Recurrence, x: Array, W_x: Array, H: int, dtype: object):
        xp, D = array_module(W_x), W_x.shape[1]
        self.recurrence, self.x, self.W_x, self.H = recurrence, x, W_x, H
        self.dx = xp.empty((len(x), D, x.shape[-1]), dtype) if recurrence.needs[0] else None
        self.dW = (xp.empty if len(x) else xp.zeros)((len(W_x), H + 1 + D), dtype)  # the first part fills it
        self.is_first = True

    def add(self, steps: slice, blocks: list[Block]) -> None:
        """Add what these time steps give; each block's columns are copied in a thread of their own."""
        x, xp, (GH, D), H = self.x[steps], array_module(self.W_x), self.W_x.shape, self.H
        (n, B), dtype, order = (len(x), x.shape[-1]), self.dW.dtype, self.recurrence.order
        da = xp.empty((GH, n, B), dtype)
        below = columns_below(x, D, H, dtype)  # (H + 1 + D, n, B); without D where tokens are sorted
        for group, rows in enumerate(self.recurrence.rows(H)):

            def gather(block: Block, group: int = group, rows: slice = rows) -> None:
                for k, gate in enumerate(order):
                    if rows.start <= gate * H < rows.stop:
                        a = block.a[steps, k * H : (k + 1) * H]
                        da[gate * H : (gate + 1) * H, :, block.columns] = a.transpose(1, 0, 2)
                below[:H, :, block.columns] = self.recurrence.operand(group, block, steps).transpose(1, 0, 2)

            in_threads(gather, blocks)
            factors = da[rows].reshape(rows.stop - rows.start, n * B), below.reshape(len(below), n * B).T
            total = self.dW[rows, : len(below)]
            if self.is_first:
                xp.matmul(*factors, out=total)
            else:
                total += xp.matmul(*factors)
        da = da.reshape(GH, n * B)
        if self.dx is not None:
            self.dx[steps] = (self.W_x.T @ da).reshape(D, n, B).transpose(1, 0, 2)
        if len(below) == H + 1 < self.dW.shape[1]:
            if self.is_first:
                self.dW[:, H + 1 :] = 0
            kernels_for(da).add_up_tokens(da, x, self.dW[:, H + 1 :])
        self.is_first = False
