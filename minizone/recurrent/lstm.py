"""LSTM, GRU and tanh-RNN with zoneout over whole sequences: one step forward and one step back of each, by hand.

The loops around the steps are in `minizone.recurrent.sequence`, the pointwise arithmetic in `minizone.kernels`,
and the readable version of each step in `minizone.recurrent.cells`. The weights are those of the paper's equations,
columns are examples:
``a = W_x @ x[t] + W_h @ h + b`` with x (T, D, B), W_x (G H, D), W_h (G H, H), b (G H,) for a cell with G gates.
"""

from __future__ import annotations

from typing import Any

from minizone.autograd.tensor import Tensor
from minizone.backend import Array
from minizone.recurrent.sequence import Block, Recurrence, StateGradients


def lstm(
    x: Any,
    h0: Any,
    c0: Any,
    W_x: Any,
    W_h: Any,
    b: Any,
    *,
    keep_h: Any = None,
    keep_c: Any = None,
    input_mask: Any = None,
    hidden_mask: Any = None,
    output_gate: str = "plain",
    record: StateGradients | None = None,
) -> tuple[Tensor, Tensor]:
    """An LSTM with zoneout over a whole sequence: Krueger et al. (2017), section 3.2.

        i, f, o = sigmoid(W_x x_t + W_h h_{t-1} + b)        g = tanh(W_x x_t + W_h h_{t-1} + b)
        c~  = f * c_{t-1} + input_mask * i * g              h~  = o * tanh(c~)
        c_t = keep_c * c_{t-1} + (1 - keep_c) * c~          h_t = keep_h * h_{t-1} + (1 - keep_h) * h~

    Parameters
    ----------
    x : (T, D, B), or integers (T, B)
        The inputs; integers are tokens, and stand for one-hot columns: token v selects column v of ``W_x``.
    h0, c0 : (H, B)
        The states before the first step.
    W_x, W_h, b : (4H, D), (4H, H), (4H,)
        Weights; rows in the order i, f, g, o, as in `torch.nn.LSTM`.
    keep_h, keep_c : broadcastable to (T, H, B), optional
        1 where a unit keeps its old value; drawn by `Zoneout.masks`. None: no zoneout. Not differentiated.
    input_mask : broadcastable to (T, H, B), optional
        Factor of i * g (recurrent dropout). Not differentiated.
    hidden_mask : broadcastable to (T, H, B), optional
        Factor of h_{t-1} in W_h h_{t-1} (variational dropout, Gal and Ghahramani, 2016). Not differentiated.
    output_gate : "plain", "paper", "printed" or "authors"
        Zoneout of the output gate beside recurrent dropout, see `OUTPUT_GATES`; needs ``input_mask``.
    record : StateGradients, optional
        Filled by the backward pass with dLoss/d(state) of every step.

    Returns
    -------
    h, c : (T, H, B)
        The states after zoneout; ``h[-1], c[-1]`` are the final ones.

    Raises
    ------
    ValueError
        When shapes do not fit; the message has both.
    IndexError
        When a token is not a column of ``W_x``.
    """
    if output_gate not in OUTPUT_GATES:
        raise ValueError(f"output_gate must be one of {', '.join(OUTPUT_GATES)}, got {output_gate!r}")
    if output_gate != "plain" and input_mask is None:
        raise ValueError(f'output_gate="{output_gate}" follows the mask of recurrent dropout: it needs an input_mask')
    return OUTPUT_GATES[output_gate]((keep_h, keep_c), input_mask, hidden_mask, record)(x, h0, c0, W_x, W_h, b)


def gru(
    x: Any,
    h0: Any,
    W_x: Any,
    W_h: Any,
    b: Any,
    *,
    keep_h: Any = None,
    input_mask: Any = None,
    hidden_mask: Any = None,
    record: StateGradients | None = None,
) -> Tensor:
    """A GRU with zoneout over a whole sequence, in the form of the authors' code: reset before the product.

        r, z = sigmoid(W_x x_t + W_h h_{t-1} + b)           n = tanh(W_x x_t + W_h (r * h_{t-1}) + b)
        h~  = z * h_{t-1} + (1 - z) * input_mask * n        h_t = keep_h * h_{t-1} + (1 - keep_h) * h~

    x (T, D, B) or tokens (T, B); h0 (H, B); W_x (3H, D), W_h (3H, H), b (3H,), rows in the order r, z, n. Masks,
    errors and ``record`` as in `lstm`. Returns h (T, H, B). (`torch.nn.GRU` resets after the product.)
    """
    return GRUSequence((keep_h,), input_mask, hidden_mask, record)(x, h0, W_x, W_h, b)[0]


def rnn(
    x: Any,
    h0: Any,
    W_x: Any,
    W_h: Any,
    b: Any,
    *,
    keep_h: Any = None,
    hidden_mask: Any = None,
    activation: str = "tanh",
    record: StateGradients | None = None,
) -> Tensor:
    """A simple recurrent network with zoneout over a whole sequence.

        h~ = activation(W_x x_t + W_h h_{t-1} + b)          h_t = keep_h * h_{t-1} + (1 - keep_h) * h~

    x (T, D, B) or tokens (T, B); h0 (H, B); W_x (H, D), W_h (H, H), b (H,); ``activation`` "tanh", as the paper
    says, or "relu", as the authors' code does. Masks, errors and ``record`` as in `lstm`. Returns h (T, H, B).
    """
    if activation not in ("tanh", "relu"):
        raise ValueError(f'activation must be "tanh" or "relu", got {activation!r}')
    sequence = TanhSequence if activation == "tanh" else ReluSequence
    return sequence((keep_h,), None, hidden_mask, record)(x, h0, W_x, W_h, b)[0]


class LSTMSequence(Recurrence):
    """`lstm` as a node of the graph; inputs x, h0, c0, W_x, W_h, b, outputs h and c."""

    groups, order, sigmoids = (4,), (0, 1, 3, 2), 3  # i, f, o, g

    def step(self, t: int, block: Block) -> None:
        (h, c), a, kept = block.states, self.recur(t, block), block.kept[t]  # kept: tanh(c~)
        self.kernels.lstm_forward(a, h[t], c[t], *block.masks[t][:3], h[t + 1], c[t + 1], kept, block.scratch)

    def step_back(self, t: int, block: Block, d: list[Array], more: list[Any], d_old: list[Array]) -> None:
        self.gates_back(t, block, d, more, d_old)
        product = self.kernels.add_product
        product(block.W[0], block.a[t], d_old[0], block.masks[t][-1], d[0], block.scratch)

    def gates_back(self, t: int, block: Block, d: list[Array], more: list[Any], d_old: list[Array]) -> None:
        """The part of a step back that has no product in it."""
        a, c, masks = block.a[t], block.states[1], block.masks[t][:3]
        self.kernels.lstm_backward(a, c[t], block.kept[t], *masks, *d, *more, *d_old, block.scratch)


class OutputGateSequence(LSTMSequence):
    """Recurrent dropout with zoneout of the output gate (section 3.2 of the paper); d is the input mask.

        c~ = f * c_{t-1} + d * i * g          h~ = (d * o_t + (1 - d) * o_{t-1}) * tanh(c~)

    A cell that was not updated is not exposed by a new gate: that is the paper's motivation. At the first step there
    is no older gate, and o_t stands for it.
    """

    replayable = False

    def new_share(self, block: Block, t: int) -> Any:
        """How much of the new output gate is taken."""
        return block.masks[t][2]

    def mixed_gate(self, block: Block, t: int) -> Array:
        H = len(block.states[0][t])
        o, o_before = block.a[t][2 * H : 3 * H], block.a[max(t - 1, 0)][2 * H : 3 * H]
        return o_before + self.new_share(block, t) * (o - o_before)

    def step(self, t: int, block: Block) -> None:
        super().step(t, block)
        h, keep_h = block.states[0], block.masks[t][0]
        new_h = self.mixed_gate(block, t) * block.kept[t]
        h[t + 1] = new_h if keep_h is None else keep_h * h[t] + (new_h - keep_h * new_h)

    def gates_back(self, t: int, block: Block, d: list[Array], more: list[Any], d_old: list[Array]) -> None:
        H, (keep_h, *_) = len(d[0]), block.masks[t]
        a_o, share = block.a[t][2 * H : 3 * H], self.new_share(block, t)
        o, mixed = a_o.copy(), self.mixed_gate(block, t)
        d_mixed = (d[0] if keep_h is None else d[0] - keep_h * d[0]) * block.kept[t]
        later = 0 if block.carry is None else block.carry  # what the step after this one asks of o
        a_o[...] = mixed
        super().gates_back(t, block, d, more, d_old)
        block.carry = d_mixed - share * d_mixed  # of o_{t-1}
        d_o = share * d_mixed + later + (block.carry if t == 0 else 0)
        a_o[...] = d_o * o * (1 - o)


class PrintedOutputGateSequence(OutputGateSequence):
    """The same as printed: h~ = ((1 - d) * o_t + d * o_{t-1}) * tanh(c~), where an updated cell meets the old gate."""

    def new_share(self, block: Block, t: int) -> Any:
        return 1 - block.masks[t][2]


class AuthorsOutputGateSequence(LSTMSequence):
    """The authors' flag --ogates_zoneout: after zoneout, h <- d * h + (1 - d) * f * h_{t-1}; d is the input mask."""

    replayable = False

    def step(self, t: int, block: Block) -> None:
        super().step(t, block)
        h, share, H = block.states[0], block.masks[t][2], len(block.states[0][t])
        old = block.a[t][H : 2 * H] * h[t]
        h[t + 1] = old + share * (h[t + 1] - old)

    def gates_back(self, t: int, block: Block, d: list[Array], more: list[Any], d_old: list[Array]) -> None:
        h, share, H = block.states[0], block.masks[t][2], len(d[0])
        a_f = block.a[t][H : 2 * H]
        f, d_fh = a_f.copy(), d[0] - share * d[0]
        d[0] -= d_fh
        super().gates_back(t, block, d, more, d_old)
        a_f += d_fh * h[t] * f * (1 - f)
        d_old[0] += d_fh * f

    def _note_before(self, t: int, block: Block, d: list[Array]) -> None:
        super()._note_before(t, block, d)
        assert self.record is not None
        self.record.candidates[0][t, :, block.columns] *= block.masks[t][2]  # the share of h~ that arrives in h


OUTPUT_GATES = {
    "plain": LSTMSequence,
    "paper": OutputGateSequence,
    "printed": PrintedOutputGateSequence,
    "authors": AuthorsOutputGateSequence,
}


class GRUSequence(Recurrence):
    """`gru` as a node of the graph; inputs x, h0, W_x, W_h, b, output h."""

    groups, order, sigmoids = (2, 1), (0, 1, 2), 2  # r and z multiply h, n multiplies r * h

    def step(self, t: int, block: Block) -> None:
        h, a, (keep_h, input_mask, _) = block.states[0], block.a[t], block.masks[t]
        H, seen, scratch, cells = len(h[t]), self.see(t, block), block.scratch, self.kernels
        cells.add_product(block.W[0], seen, a[: 2 * H], None, scratch[: 2 * H], scratch)
        cells.gru_gates_forward(a, seen, block.kept[t])  # kept: r * h
        cells.add_product(block.W[1], block.kept[t], a[2 * H :], None, scratch[:H], scratch)
        cells.gru_forward(a, h[t], keep_h, input_mask, h[t + 1], scratch)

    def step_back(self, t: int, block: Block, d: list[Array], more: list[Any], d_old: list[Array]) -> None:
        h, a, (keep_h, input_mask, hidden_mask) = block.states[0], block.a[t], block.masks[t]
        (dh,), (dh_old,), H, scratch, cells = d, d_old, len(d[0]), block.scratch, self.kernels
        cells.gru_backward(a, h[t], keep_h, input_mask, dh, *more, dh_old, scratch)
        d_reset = cells.product(block.W[1], a[2 * H :], dh, scratch)  # of r * h
        seen = h[t] if block.seen is None else block.seen[t]
        cells.gru_gates_backward(a, seen, hidden_mask, d_reset, dh_old, scratch)
        cells.add_product(block.W[0], a[: 2 * H], dh_old, hidden_mask, dh, scratch)

    def operand(self, group: int, block: Block, steps: slice) -> Array:
        return super().operand(group, block, steps) if group == 0 else block.kept[steps]


class TanhSequence(Recurrence):
    """`rnn` as a node of the graph; inputs x, h0, W_x, W_h, b, output h."""

    groups, order, sigmoids = (1,), (0,), 0
    keeps_more, relu = False, False

    def step(self, t: int, block: Block) -> None:
        h, a = block.states[0], self.recur(t, block)
        self.kernels.rnn_forward(a, h[t], block.masks[t][0], self.relu, h[t + 1], block.scratch)

    def step_back(self, t: int, block: Block, d: list[Array], more: list[Any], d_old: list[Array]) -> None:
        a, (keep_h, _, hidden_mask), cells = block.a[t], block.masks[t], self.kernels
        cells.rnn_backward(a, keep_h, self.relu, *d, *more, *d_old)
        cells.add_product(block.W[0], a, d_old[0], hidden_mask, d[0], block.scratch)


class ReluSequence(TanhSequence):
    """The same with a rectifier."""

    relu = True
