"""The simple recurrent network (tanh or rectifier) with zoneout: equations, one step forward, one step back."""

from __future__ import annotations

from minizone.autograd.tensor import Tensor
from minizone.backend import Array
from minizone.kernels.step import Gradients, Mask, Masks
from minizone.recurrent.sequence import Recurrence, StateGradients


def rnn(
    x: Tensor | Array,
    h0: Tensor | Array,
    W_x: Tensor | Array,
    W_h: Tensor | Array,
    b: Tensor | Array,
    *,
    keep_h: Mask = None,
    hidden_mask: Mask = None,
    activation: str = "tanh",
    record: StateGradients | None = None,
) -> Tensor:
    """A simple recurrent network with zoneout over a whole sequence: Krueger et al. (2017), section 3.2.

        h~  = activation(W_x x_t + W_h h_{t-1} + b)          h_t = keep_h * h_{t-1} + (1 - keep_h) * h~

    Parameters
    ----------
    x, keep_h, hidden_mask, record
        As in `minizone.lstm`.
    h0 : (H, B)
        The state before the first step.
    W_x, W_h, b : (H, D), (H, H), (H,)
        Weights.
    activation : "tanh" or "relu"
        "tanh" as in the paper, "relu" as in the authors' code. With both, NaN gives NaN, also in the gradient.

    Returns
    -------
    h : (T, H, B)
        The states after zoneout.

    Raises
    ------
    ValueError, IndexError
        As in `minizone.lstm`; also ValueError for any other activation.
    """
    if activation not in ("tanh", "relu"):
        raise ValueError(f'activation must be "tanh" or "relu", got {activation!r}')
    function = RNNSequence(Masks(keep_h=keep_h, hidden_mask=hidden_mask), activation == "relu", record)
    return function(x, h0, W_x, W_h, b)[0]


class RNNSequence(Recurrence):
    """`rnn` as a node of the graph; inputs x, h0, W_x, W_h, b, output h."""

    gates, n_states, scratch_blocks = 1, 1, 2

    def __init__(self, masks: Masks, relu: bool, record: StateGradients | None = None):
        super().__init__(masks, record)
        self.relu = relu

    def step(self, t: int) -> None:
        """One step forward, from the state h_{t-1} = ``h[t]`` (H, B):

        a   = W_x x_t + W_h h_{t-1} + b                      h~  = activation(a)
                                                             h_t = keep_h * h_{t-1} + (1 - keep_h) * h~
        """
        h, a = self.states[0], self.pre_activations(t)
        self.kernels.rnn_forward(a, h[t], self.step_masks[t], self.relu, h[t + 1], self.scratch)

    def step_back(self, t: int, d: Gradients) -> None:
        """One step back, from dh = dLoss/dh_t:

        dh~ = (1 - keep_h) * dh                              dh_{t-1} = keep_h * dh
        da  = dh~ * (1 - h~^2), or for a rectifier dh~ where h~ > 0, else 0
        dh_{t-1} += W_h^T da
        """
        self.kernels.rnn_backward(self.a[t], self.step_masks[t], self.relu, d)
        self.add_product_back(t, d)

    def workspace_key(self) -> object:
        key = super().workspace_key()
        return None if key is None else (key, self.relu)
