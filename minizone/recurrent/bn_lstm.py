"""The batch-normalized LSTM with zoneout over a whole sequence: equations, one step forward, one step back.

Cooijmans et al. (2017), Recurrent Batch Normalization. The population statistics are in
`minizone/recurrent/statistics.py`, and the elementwise arithmetic of a step is in `minizone/kernels/cpu/bn_lstm.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from minizone.autograd.tensor import Tensor
from minizone.backend import Array, array_module
from minizone.kernels.stacks import columns
from minizone.kernels.step import Gradients, Mask, Masks, Normalization
from minizone.recurrent.sequence import Recurrence, StateGradients
from minizone.recurrent.statistics import Statistics, parts


def bn_lstm(
    x: Tensor | Array,
    h0: Tensor | Array,
    c0: Tensor | Array,
    W_x: Tensor | Array,
    W_h: Tensor | Array,
    b: Tensor | Array,
    gamma_x: Tensor | Array,
    gamma_h: Tensor | Array,
    gamma_c: Tensor | Array,
    beta_c: Tensor | Array,
    *,
    keep_h: Mask = None,
    keep_c: Mask = None,
    input_mask: Mask = None,
    hidden_mask: Mask = None,
    statistics: Statistics | Callable[[Array, Array], None] | None = None,
    epsilon: float = 1e-5,
    record: StateGradients | None = None,
) -> tuple[Tensor, Tensor]:
    """A batch-normalized LSTM with zoneout over a whole sequence: Cooijmans et al. (2017), section 3.

        BN(s; gamma, beta) = gamma * (s - mean(s)) / sqrt(variance(s) + epsilon) + beta      row by row
        a       = BN(W_x x_t; gamma_x, 0) + BN(W_h h_{t-1}; gamma_h, 0) + b
        i, f, o = sigmoid(a)                            g   = tanh(a)
        c~  = f * c_{t-1} + input_mask * i * g          h~  = o * tanh(BN(c~; gamma_c, beta_c))
        c_t = keep_c * c_{t-1} + (1 - keep_c) * c~      h_t = keep_h * h_{t-1} + (1 - keep_h) * h~

    Mean and (biased) variance are computed over the minibatch, separately for each time step, and the gradient flows
    through them. c~ is normalized before zoneout, as in the authors' code. A minibatch of one example is allowed, but
    all its normalized values are 0, whatever the inputs are.

    Parameters
    ----------
    x, h0, c0, W_x, W_h, b, keep_h, keep_c, input_mask, hidden_mask, record
        As in `minizone.lstm`.
    gamma_x, gamma_h : (4H,)
        Gains of W_x x_t and W_h h_{t-1} in the gates; the paper initializes them to 0.1.
    gamma_c, beta_c : (H,)
        Gain and bias of c~ in h~.
    statistics : Statistics, or function of mean and variance, optional
        None: normalize with the statistics of the minibatch. A function, such as `Statistics.collect`: the same, and
        call the function once with the mean and the variance of every step, each (T, 9H), see `parts`. A `Statistics`:
        normalize with its population statistics, as constants (except inside its ``reestimate``). The examples are
        then independent of each other, and B = 1 is as good as any other B.
    epsilon : float
        Added to the variances.

    Returns
    -------
    h, c : (T, H, B)
        The states after zoneout; ``h[-1], c[-1]`` are the final ones.

    Raises
    ------
    ValueError
        If shapes do not fit (the message gives both), or for B = 0 with the statistics of the minibatch.
    IndexError
        If a token is not in [0, D). A GPU does not check it: the states become NaN.
    """
    given = collect = None
    if isinstance(statistics, Statistics) and not statistics.reestimating:
        given = statistics.first(x.shape[0])
    else:
        collect = statistics.collect if isinstance(statistics, Statistics) else statistics
    masks = Masks(keep_h, keep_c, input_mask, hidden_mask)
    function = BNLSTMSequence(masks, given, collect, epsilon, record)
    return function(x, h0, c0, W_x, W_h, b, gamma_x, gamma_h, gamma_c, beta_c)


class BNLSTMSequence(Recurrence):
    """`bn_lstm` as a node of the graph; inputs x, h0, c0, W_x, W_h, b, the three gammas and beta_c, outputs h and c.

    Parameters
    ----------
    masks, record
        As in `Recurrence`.
    given : (mean, variance), each (T, 9H), optional
        The statistics of every step to normalize with. None: those of the minibatch.
    collect : function of mean and variance, optional
        Called once with the statistics of the minibatch.
    epsilon : float
        Added to the variances.
    """

    gates, n_states, scratch_blocks = 4, 2, 8

    def __init__(
        self,
        masks: Masks,
        given: tuple[Array, Array] | None,
        collect: Callable[[Array, Array], None] | None,
        epsilon: float,
        record: StateGradients | None,
    ):
        super().__init__(masks, record)
        self.given, self.collect, self.epsilon = given, collect, epsilon

    def forward(self, x: Array, *arguments: Array) -> tuple[Array, ...]:
        outputs = super().forward(x, *arguments)
        if self.collect:
            self.collect(self.mean, self.variance)
            self.collect = None  # once: a second backward pass calls forward again
        return outputs

    def allocate(self, T: int, H: int, B: int) -> None:
        self.s_hat = self.new_for_steps("s_hat", T, 8 * H, B)  # W_x x_t above W_h h_{t-1}; normalized by the step
        self.c_hat = self.new_for_steps("c_hat", T, H, B)  # the normalized c~
        self.tanh_c = self.new_for_steps("tanh_c", T, H, B)  # tanh(BN(c~))
        self.mean = self.new("mean", T, 9 * H)
        self.variance = self.new("variance", T, 9 * H)
        self.inverse = self.new("inverse", T, 9 * H)  # 1 / sqrt(variance + epsilon)

    def is_joined(self, D: int, H: int) -> bool:
        """False: W_x x and W_h h are normalized separately."""
        return False

    def load_weights(self, x: Array, W_x: Array, W_h: Array, b: Array) -> None:
        gamma_x, gamma_h, gamma_c, beta_c = self.arrays[6:]
        xp, H, B = array_module(W_h), W_h.shape[1], x.shape[-1]
        check_normalization(H, gamma_x, gamma_h, gamma_c, beta_c, self.given)
        if self.given is not None:
            self.mean[...], self.variance[...] = self.given
        elif B == 0 < len(x):
            raise ValueError("a minibatch needs at least one example to have statistics, got B = 0")
        self.W_h = self.workspace.load("W_h", W_h, self.dtype)
        self.W_x = W_x.astype(self.dtype, copy=False)
        load = self.workspace.load
        gamma = load("gamma", xp.concatenate((gamma_x, gamma_h)), self.dtype)  # (8H,)
        b, gamma_c = load("b", b, self.dtype), load("gamma_c", gamma_c, self.dtype)
        beta_c, ones = load("beta_c", beta_c, self.dtype), load("ones", xp.ones(B, self.dtype))
        self.normalizations = [
            Normalization(gamma, b, gamma_c, beta_c, *statistics, ones, self.epsilon, self.given is not None)
            for statistics in zip(self.mean, self.variance, self.inverse, strict=True)
        ]

    def project(self, part: slice) -> None:
        sums = self.s_hat[part]  # (n, 8H, B)
        self.kernels.project(self.arrays[0][part], self.W_x, None, sums[:, : sums.shape[1] // 2])

    def step(self, t: int) -> None:
        """One step forward, from the states h_{t-1} = ``h[t]`` and c_{t-1} = ``c[t]``, each (H, B):

        a       = BN(W_x x_t; gamma_x, 0) + BN(W_h h_{t-1}; gamma_h, 0) + b                     (4H, B)
        i, f, o = sigmoid(a_i), sigmoid(a_f), sigmoid(a_o)            g   = tanh(a_g)           (H, B) each
        c~      = f * c_{t-1} + input_mask * i * g                    h~  = o * tanh(BN(c~; gamma_c, beta_c))
        c_t     = keep_c * c_{t-1} + (1 - keep_c) * c~                h_t = keep_h * h_{t-1} + (1 - keep_h) * h~
        """
        h, c = self.states
        sums = self.s_hat[t]  # (8H, B)
        self.kernels.product(self.W_h, self.recurrent_input(t), sums[len(sums) // 2 :])
        self.kernels.bn_lstm_forward(
            self.normalizations[t], sums, h[t], c[t], self.step_masks[t],
            self.a[t], h[t + 1], c[t + 1], self.c_hat[t], self.tanh_c[t], self.scratch,
        )  # fmt: skip

    def step_back(self, t: int, d: Gradients) -> None:
        """One step back, from dh = dLoss/dh_t and dc = dLoss/dc_t. As in the LSTM, with the normalizations in between.

        With ``y = gamma * s_hat + beta``, ``s_hat = (s - mean) / sqrt(variance + epsilon)`` and means over examples:

        ds  = gamma / sqrt(variance + epsilon) * (dy - mean(dy) - s_hat * mean(dy * s_hat))       BN^T(dy) below
        ds  = gamma / sqrt(variance + epsilon) * dy                   if the statistics are given

        dh~ = (1 - keep_h) * dh                                       dh_{t-1}  = keep_h * dh
        do  = dh~ * tanh(BN(c~))
        dc~ = (1 - keep_c) * dc + BN^T(dh~ * o * (1 - tanh(BN(c~))^2))
                                                                      dc_{t-1}  = keep_c * dc + f * dc~
        di, df, dg, da                                                as in the LSTM
        d(W_x x_t) = BN^T(da)    d(W_h h_{t-1}) = BN^T(da)            dh_{t-1} += W_h^T d(W_h h_{t-1})
        """
        ds, mask = self.s_hat[t], self.step_masks[t].hidden_mask
        self.kernels.bn_lstm_backward(
            self.normalizations[t], self.a[t], ds, self.c_hat[t], self.tanh_c[t], self.states[1][t],
            self.step_masks[t], d, self.d_gamma[t], self.d_beta[t], self.scratch,
        )  # fmt: skip
        self.kernels.add_product(self.W_h_T, ds[len(ds) // 2 :], d.h_before, mask, d.h)

    def allocate_gradients(self, T: int, H: int, B: int) -> None:
        super().allocate_gradients(T, H, B)
        self.d_gamma = self.new("d gamma", T, 9 * H)
        self.d_beta = self.new("d beta", T, 5 * H)  # of b and beta_c

    def d_projections(self, part: slice) -> Array:
        ds = self.s_hat[part]  # (n, 8H, B)
        return columns(ds[:, : ds.shape[1] // 2])

    def products(self, part: slice, da: Array) -> Iterator[tuple[Array, Array]]:
        """dLoss/d(W_h h) and h; dLoss/d(W_x x) and x."""
        h = self.states[0] if self.masked_h is None else self.masked_h
        ds, H = self.s_hat[part], h.shape[1]
        operands = self.joined_columns(h[part], self.arrays[0][part])  # [h; 1; x]
        yield columns(ds[:, 4 * H :]), operands[:H]
        if not self.sorts_tokens:
            yield da, operands[H + 1 :]

    def gradients_of_weights(self) -> tuple[Array | None, ...]:
        W_x, W_h = self.arrays[3:5]
        xp = array_module(W_h)
        dW_h = self.sums[0] if self.sums else xp.zeros_like(W_h)
        dW_x = self.sums[1] if len(self.sums) > 1 else xp.zeros_like(W_x)
        if self.d_tokens is not None:
            dW_x = self.d_tokens
        H = W_h.shape[1]
        d_gamma_x, d_gamma_h, d_gamma_c = (self.d_gamma[:, rows].sum(axis=0) for rows in parts(H))
        db, d_beta_c = self.d_beta[:, : 4 * H].sum(axis=0), self.d_beta[:, 4 * H :].sum(axis=0)
        return self.dx, dW_x, dW_h, db, d_gamma_x, d_gamma_h, d_gamma_c, d_beta_c

    def workspace_key(self) -> object:
        key = super().workspace_key()
        return None if key is None else (key, self.given is None, self.epsilon)

    def release(self) -> None:
        super().release()
        del self.s_hat, self.c_hat, self.tanh_c, self.normalizations


def check_normalization(
    H: int, gamma_x: Array, gamma_h: Array, gamma_c: Array, beta_c: Array, given: tuple[Array, Array] | None
) -> None:
    """Raise ValueError unless the gains, the bias and the statistics fit H hidden units."""
    for name, vector, gates in (
        ("gamma_x", gamma_x, 4), ("gamma_h", gamma_h, 4), ("gamma_c", gamma_c, 1), ("beta_c", beta_c, 1)
    ):  # fmt: skip
        if vector.shape != (gates * H,):
            raise ValueError(f"{name} must be ({gates * H},) for H = {H} hidden units, got {vector.shape}")
    if given and given[0].shape[1] != 9 * H:
        raise ValueError(f"statistics must be (T, 9H) with 9H = {9 * H}, got {given[0].shape[1]}")
