"""The LSTM with zoneout over a whole sequence: equations, one step forward, one step back.

The loop over the steps is in `minizone/recurrent/sequence.py`. The elementwise arithmetic of a step is in
`minizone/kernels/cpu/lstm.py`, in place and line by line as here, and in `minizone/kernels/gpu/lstm.py`.
"""

from __future__ import annotations

from minizone.autograd.tensor import Tensor
from minizone.backend import Array
from minizone.kernels import kernels_for
from minizone.kernels.step import Gradients, Mask, Masks
from minizone.recurrent.cells import output_gate_unrolled
from minizone.recurrent.sequence import Recurrence, StateGradients, check_shapes, per_step

OUTPUT_GATES = ("plain", "paper", "printed", "authors")


def lstm(
    x: Tensor | Array,
    h0: Tensor | Array,
    c0: Tensor | Array,
    W_x: Tensor | Array,
    W_h: Tensor | Array,
    b: Tensor | Array,
    *,
    keep_h: Mask = None,
    keep_c: Mask = None,
    input_mask: Mask = None,
    hidden_mask: Mask = None,
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
        The inputs. Integers are tokens and stand for one-hot columns: token v selects column v of ``W_x``.
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
        Zoneout of the output gate with recurrent dropout: see `minizone.recurrent.cells.output_gate_cell`. All except
        "plain" need an ``input_mask``, allow no ``record``, and are several times slower (step by step on the tape).
    record : StateGradients, optional
        Filled by the backward pass with dLoss/d(state) of every step.

    Returns
    -------
    h, c : (T, H, B)
        The states after zoneout; ``h[-1], c[-1]`` are the final ones.

    Raises
    ------
    ValueError
        If shapes do not fit (the message gives both), or for an unknown or incomplete ``output_gate``.
    IndexError
        If a token is not in [0, D). A GPU does not check it: the states become NaN.
    """
    if output_gate not in OUTPUT_GATES:
        raise ValueError(f"output_gate must be one of {', '.join(OUTPUT_GATES)}, got {output_gate!r}")
    masks = Masks(keep_h, keep_c, input_mask, hidden_mask)
    if output_gate == "plain":
        return LSTMSequence(masks, record)(x, h0, c0, W_x, W_h, b)
    if input_mask is None:
        raise ValueError(f'output_gate="{output_gate}" uses the mask of recurrent dropout: pass an input_mask')
    if record is not None:
        raise ValueError(f'record works with output_gate="plain" only, got "{output_gate}"')
    check_arguments(x, h0, c0, W_x, W_h, b, masks)
    return output_gate_unrolled(x, h0, c0, W_x, W_h, b, output_gate=output_gate, **masks._asdict())


def check_arguments(
    x: Tensor | Array,
    h0: Tensor | Array,
    c0: Tensor | Array,
    W_x: Tensor | Array,
    W_h: Tensor | Array,
    b: Tensor | Array,
    masks: Masks,
) -> None:
    """Raise the errors that `lstm` documents, which `LSTMSequence` would raise by itself."""
    given = (v.data if isinstance(v, Tensor) else v for v in (x, h0, c0, W_x, W_h, b))
    x, h0, c0, W_x, W_h, b = given
    check_shapes(4, x, (h0, c0), W_x, W_h, b)
    if x.dtype.kind in "iu":
        kernels_for(W_h).check_tokens(x, W_x.shape[1])
    for mask in masks:
        per_step(mask, (x.shape[0], *h0.shape))


class LSTMSequence(Recurrence):
    """`lstm` as a node of the graph; inputs x, h0, c0, W_x, W_h, b, outputs h and c."""

    gates, n_states, scratch_blocks = 4, 2, 8

    def allocate(self, T: int, H: int, B: int) -> None:
        self.tanh_c = self.new_for_steps("tanh_c", T, H, B)  # tanh(c~)

    def step(self, t: int) -> None:
        """One step forward, from the states h_{t-1} = ``h[t]`` and c_{t-1} = ``c[t]``, each (H, B):

        a       = W_x x_t + W_h h_{t-1} + b                                                     (4H, B)
        i, f, o = sigmoid(a_i), sigmoid(a_f), sigmoid(a_o)            g   = tanh(a_g)           (H, B) each
        c~      = f * c_{t-1} + input_mask * i * g                    h~  = o * tanh(c~)
        c_t     = keep_c * c_{t-1} + (1 - keep_c) * c~                h_t = keep_h * h_{t-1} + (1 - keep_h) * h~
        """
        h, c = self.states
        a = self.pre_activations(t)
        self.kernels.lstm_forward(a, h[t], c[t], self.step_masks[t], h[t + 1], c[t + 1], self.tanh_c[t], self.scratch)

    def step_back(self, t: int, d: Gradients) -> None:
        """One step back, from dh = dLoss/dh_t and dc = dLoss/dc_t. The lines of `step`, in reverse:

        dh~ = (1 - keep_h) * dh                                       dh_{t-1}  = keep_h * dh
        do  = dh~ * tanh(c~)
        dc~ = (1 - keep_c) * dc + dh~ * o * (1 - tanh(c~)^2)          dc_{t-1}  = keep_c * dc + f * dc~
        df  = dc~ * c_{t-1}
        di  = dc~ * input_mask * g                                    dg        = dc~ * input_mask * i
        da  = di * i * (1 - i),  df * f * (1 - f),  dg * (1 - g^2),  do * o * (1 - o)           (4H, B)
        dh_{t-1} += W_h^T da

        `add_weight_gradients` computes the gradients of W_x, W_h, b and x from da, for many time steps at once.
        """
        self.kernels.lstm_backward(self.a[t], self.states[1][t], self.tanh_c[t], self.step_masks[t], d, self.scratch)
        self.add_product_back(t, d)

    def release(self) -> None:
        super().release()
        del self.tanh_c
