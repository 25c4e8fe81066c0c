"""The GRU with zoneout over a whole sequence: equations, one step forward, one step back."""

from __future__ import annotations

from collections.abc import Iterator

from minizone.autograd.tensor import Tensor
from minizone.backend import Array, array_module
from minizone.kernels.step import Gradients, Mask, Masks
from minizone.recurrent.sequence import Recurrence, StateGradients


def gru(
    x: Tensor | Array,
    h0: Tensor | Array,
    W_x: Tensor | Array,
    W_h: Tensor | Array,
    b: Tensor | Array,
    *,
    keep_h: Mask = None,
    input_mask: Mask = None,
    hidden_mask: Mask = None,
    record: StateGradients | None = None,
) -> Tensor:
    """A GRU with zoneout over a whole sequence. As in the authors' code, the reset gate is applied before the product.

        r, z = sigmoid(W_x x_t + W_h h_{t-1} + b)           n   = tanh(W_x x_t + W_h (r * h_{t-1}) + b)
        h~   = z * h_{t-1} + (1 - z) * input_mask * n       h_t = keep_h * h_{t-1} + (1 - keep_h) * h~

    `torch.nn.GRU` applies it after the product, so the same weights give other states.

    Parameters
    ----------
    x, keep_h, input_mask, hidden_mask, record
        As in `minizone.lstm`; ``input_mask`` is a factor of n.
    h0 : (H, B)
        The state before the first step.
    W_x, W_h, b : (3H, D), (3H, H), (3H,)
        Weights; rows in the order r, z, n.

    Returns
    -------
    h : (T, H, B)
        The states after zoneout.

    Raises
    ------
    ValueError, IndexError
        As in `minizone.lstm`.
    """
    masks = Masks(keep_h=keep_h, input_mask=input_mask, hidden_mask=hidden_mask)
    return GRUSequence(masks, record)(x, h0, W_x, W_h, b)[0]


class GRUSequence(Recurrence):
    """`gru` as a node of the graph; inputs x, h0, W_x, W_h, b, output h."""

    gates, n_states, scratch_blocks = 3, 1, 3

    def allocate(self, T: int, H: int, B: int) -> None:
        self.reset_h = self.new_for_steps("reset h", T, H, B)  # r * h_{t-1}

    def is_joined(self, D: int, H: int) -> bool:
        """False: the rows of r and z multiply h, but those of n multiply r * h."""
        return False

    def step(self, t: int) -> None:
        """One step forward, from the state h_{t-1} = ``h[t]`` (H, B):

        r, z = sigmoid(a_r), sigmoid(a_z)        with a_r, a_z = W_x x_t + W_h h_{t-1} + b         (2H, B)
        n    = tanh(a_n)                         with a_n      = W_x x_t + W_h (r * h_{t-1}) + b   (H, B)
        h~   = z * h_{t-1} + (1 - z) * input_mask * n
        h_t  = keep_h * h_{t-1} + (1 - keep_h) * h~
        """
        h, a, kernels = self.states[0], self.a[t], self.kernels
        H, h_masked = h.shape[1], self.recurrent_input(t)
        kernels.add_product(self.W_h[: 2 * H], h_masked, a[: 2 * H], None, self.scratch)
        kernels.gru_gates_forward(a, h_masked, self.reset_h[t])
        kernels.add_product(self.W_h[2 * H :], self.reset_h[t], a[2 * H :], None, self.scratch)
        kernels.gru_forward(a, h[t], self.step_masks[t], h[t + 1], self.scratch)

    def load_weights_back(self, W_h: Array) -> None:
        xp, H = array_module(W_h), W_h.shape[1]
        self.W_rz_T = self.workspace.load("W_rz.T", xp.ascontiguousarray(W_h[: 2 * H].T))  # (H, 2H)
        self.W_n_T = self.workspace.load("W_n.T", xp.ascontiguousarray(W_h[2 * H :].T))  # (H, H)

    def step_back(self, t: int, d: Gradients) -> None:
        """One step back, from dh = dLoss/dh_t:

        dh~    = (1 - keep_h) * dh                          dh_{t-1}  = keep_h * dh + z * dh~
        dz     = dh~ * (h_{t-1} - input_mask * n)           dn        = dh~ * (1 - z) * input_mask
        da_z   = dz * z * (1 - z)                           da_n      = dn * (1 - n^2)
        d(r*h) = W_n^T da_n                                 dh_{t-1} += r * d(r*h)
        da_r   = d(r*h) * h_{t-1} * r * (1 - r)             dh_{t-1} += W_r^T da_r + W_z^T da_z
        """
        a, masks, kernels = self.a[t], self.step_masks[t], self.kernels
        h = self.states[0][t]
        h_masked = h if self.masked_h is None else self.masked_h[t]
        H = len(h)
        kernels.gru_backward(a, h, masks, d, self.scratch)
        d_reset = d.h  # dLoss/d(r * h); overwrites dh, which is no longer needed
        kernels.product(self.W_n_T, a[2 * H :], d_reset)
        kernels.gru_gates_backward(a, h_masked, masks.hidden_mask, d_reset, d.h_before, self.scratch)
        kernels.add_product(self.W_rz_T, a[: 2 * H], d.h_before, masks.hidden_mask, d.h)

    def products(self, part: slice, da: Array) -> Iterator[tuple[Array, Array]]:
        x, h = self.arrays[0][part], self.states[0] if self.masked_h is None else self.masked_h
        H = h.shape[1]
        yield da[: 2 * H], self.joined_columns(h[part], x)
        yield da[2 * H :], self.joined_columns(self.reset_h[part], x)

    def release(self) -> None:
        super().release()
        del self.reset_h
