"""The batch-normalized LSTM over a whole sequence, with zoneout, and its population statistics.

Cooijmans et al. (2017), Recurrent Batch Normalization. The examples of a minibatch meet in its means and variances, so
the columns are not split over threads as in `minizone.recurrent.sequence`. The readable
version is in `minizone.recurrent.cells`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from minizone import kernels
from minizone.autograd.tensor import Function, Tensor
from minizone.backend import Array, array_module
from minizone.kernels import kernels_for
from minizone.kernels.cpu.threads import follower
from minizone.kernels.gpu.cuda import workspace
from minizone.kernels.stacks import parts_of
from minizone.recurrent.inputs import check_shapes, columns_below, per_step
from minizone.recurrent.sequence import StateGradients, signature, worth_following
from minizone.zoneout import check_probability


class Statistics:
    """Population means and variances of all that a batch-normalized LSTM normalizes, for each time step.

    What a call of `bn_lstm` does depends on what it is given as ``statistics``:

        statistics=statistics            evaluation: normalize with the population statistics
        statistics=statistics.collect    training: normalize with those of the minibatch, and let the population
                                         statistics follow:  new = alpha * batch + (1 - alpha) * old
        statistics=None                  normalize with those of the minibatch and collect nothing

    and inside ``with statistics.reestimate():`` the first two use the minibatch alike, and at the end the population
    statistics are the plain mean over all minibatches that were seen.

    Parameters
    ----------
    steps : int
        T_max: the number of time steps that have statistics of their own; later steps use those of the last one.
    hidden_size : int
        H.
    alpha : float in [0, 1]
        How fast they follow in training. Cooijmans' code has 0.01 for MNIST, 0.05 for text.

    Attributes
    ----------
    mean, variance : (T_max, 9H)
        Columns: those of W_x x_t (4H), of W_h h_{t-1} (4H), of c~ (H), see `parts`; 0 and 1 at first. They are only
        ever written in place.
    """

    def __init__(self, steps: int, hidden_size: int, *, alpha: float = 0.01, dtype: Any = np.float32, xp: Any = np):
        if steps < 1:
            raise ValueError(f"statistics need at least 1 time step, got {steps}")
        check_probability("alpha", alpha)
        self.alpha = alpha
        self.mean: Array = xp.zeros((steps, 9 * hidden_size), dtype)
        self.variance: Array = xp.ones((steps, 9 * hidden_size), dtype)
        self._sums: tuple[Array, ...] | None = None  # while re-estimating: of mean, of variance, of minibatches

    def with_first_step(self, mean_h: Array) -> Statistics:
        """A copy for sequences that start in a state which all examples share: its mean (4H,) of W_h h_0 is exact.

        What the minibatches had there was of variance 0, so a mean of some updates ago would be off by many standard
        deviations, each the square root of epsilon, and the first step would be noise.
        """
        xp, (steps, rows) = array_module(self.mean), self.mean.shape
        known = Statistics(max(steps, 2), rows // 9, alpha=self.alpha, dtype=self.mean.dtype, xp=xp)
        known.mean[...], known.variance[...] = self.first(len(known.mean))
        known.mean[0, parts(rows // 9)[1]] = mean_h
        known.variance[0, parts(rows // 9)[1]] = 1  # of nothing
        return known

    @property
    def reestimating(self) -> bool:
        """Whether we are inside ``with statistics.reestimate():``."""
        return self._sums is not None

    def first(self, T: int) -> tuple[Array, Array]:
        """Mean and variance of the first T steps, each (T, 9H), copied."""
        xp = array_module(self.mean)
        steps = xp.minimum(xp.arange(T), len(self.mean) - 1)
        return self.mean[steps], self.variance[steps]

    def collect(self, mean: Array, variance: Array) -> None:
        """Take in the statistics of a minibatch, each (T, 9H); those of steps beyond T_max are left out."""
        if mean.shape[1:] != self.mean.shape[1:]:
            raise ValueError(f"statistics of {self.mean.shape[1]} rows (9H) cannot take in {mean.shape[1]} rows")
        n = min(len(mean), len(self.mean))
        batch = mean[:n].real, variance[:n].real  # a complex step is not for them
        if self._sums is not None:
            for total, new in zip(self._sums, (*batch, 1), strict=True):
                total[:n] += new
            return
        for population, new in zip((self.mean, self.variance), batch, strict=True):
            population[:n] += self.alpha * (new - population[:n])

    @contextmanager
    def reestimate(self) -> Iterator[None]:
        """Inside, minibatches are summed up; at the end the statistics are their plain mean, step by step.

        A step that no minibatch reached keeps what it had, and so do all of them when an exception ends the block.
        """
        xp, shape, before = array_module(self.mean), self.mean.shape, self._sums
        *totals, count = self._sums = xp.zeros(shape), xp.zeros(shape), xp.zeros((len(self.mean), 1))
        try:
            yield
            for population, total in zip((self.mean, self.variance), totals, strict=True):
                population[...] = xp.where(count > 0, total / xp.maximum(count, 1), population)
        finally:
            self._sums = before


def parts(H: int) -> tuple[slice, slice, slice]:
    """Which of the 9H rows that are normalized belong to W_x x_t, to W_h h_{t-1} and to c~."""
    return slice(0, 4 * H), slice(4 * H, 8 * H), slice(8 * H, 9 * H)


def bn_lstm(
    x: Any,
    h0: Any,
    c0: Any,
    W_x: Any,
    W_h: Any,
    b: Any,
    gamma_x: Any,
    gamma_h: Any,
    gamma_c: Any,
    beta_c: Any,
    *,
    keep_h: Any = None,
    keep_c: Any = None,
    input_mask: Any = None,
    hidden_mask: Any = None,
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

    Mean and (biased) variance are taken over the minibatch, for every time step by itself; the gradient flows through
    them. c~ is normalized before zoneout, as in the authors' code. A minibatch of one example is legal but empty:
    all variances are 0, whatever the inputs are.

    Parameters
    ----------
    x, h0, c0, W_x, W_h, b, keep_h, keep_c, input_mask, hidden_mask, record
        As in `minizone.lstm`.
    gamma_x, gamma_h : (4H,)
        Gains of what the inputs and the hidden states give to the gates; the paper starts them at 0.1.
    gamma_c, beta_c : (H,)
        Gain and bias of the cell on its way to h~.
    statistics : Statistics, or function of mean and variance, optional
        None: those of the minibatch. A function, such as `Statistics.collect`: the same, and it is called once with
        the mean and the variance of every step, each (T, 9H), see `parts`. A `Statistics`: its population statistics
        are used instead, as constants (outside of its ``reestimate``): then examples do not meet, and B = 1 is as
        good as any other.
    epsilon : float
        Added to the variances.

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
    given = collect = None
    if isinstance(statistics, Statistics) and not statistics.reestimating:
        given = statistics.first(x.shape[0])
    else:
        collect = statistics.collect if isinstance(statistics, Statistics) else statistics
    masks = keep_h, keep_c, input_mask, hidden_mask
    function = BNLSTMSequence(masks, given, collect, epsilon, record)
    return function(x, h0, c0, W_x, W_h, b, gamma_x, gamma_h, gamma_c, beta_c)


class BNLSTMSequence(Function):
    """`bn_lstm` as a node of the graph; inputs x, h0, c0, W_x, W_h, b, the three gammas and beta_c, outputs h and c.

    ``given``: mean and variance of every step, each (T, 9H); None: those of the minibatch, which ``collect`` gets.
    """

    kept: Any = None  # between forward and backward: the arrays of every step that the backward pass needs

    def __init__(
        self,
        masks: tuple[Any, ...],
        given: tuple[Array, Array] | None,
        collect: Callable[[Array, Array], None] | None,
        epsilon: float,
        record: StateGradients | None,
    ):
        self.masks = tuple(mask.data if isinstance(mask, Tensor) else mask for mask in masks)
        self.given, self.collect, self.epsilon, self.record = given, collect, epsilon, record

    def forward(self, x: Array, *arguments: Array) -> tuple[Array, Array]:
        h0, c0, W_x, W_h, b, gamma_x, gamma_h, gamma_c, beta_c = arguments
        check_shapes(4, x, (h0, c0), W_x, W_h, b)
        self.kernels, xp, T, B, H = kernels_for(W_h), array_module(W_h), x.shape[0], x.shape[-1], W_h.shape[1]
        check_normalization(H, gamma_x, gamma_h, gamma_c, beta_c, self.given)
        if B == 0 < T and self.given is None:
            raise ValueError("a minibatch of no examples has no statistics")
        dtype = xp.result_type(*(v for v in (x, *arguments) if v.dtype.kind in "fc"))
        key = T, B, H, str(dtype), self.given is None, self.epsilon, *map(signature, self.masks)
        on_cpu = self.kernels is kernels.cpu
        place = workspace(xp, None if on_cpu or self.record else (type(self), *key))
        self.steps = list(
            zip(
                *(per_step(place.hold(f"mask {n}", m, dtype), (T, H, B)) for n, m in enumerate(self.masks)), strict=True
            )
        )
        # On a CPU, without a backward pass, each step takes the place of the last one.
        room = min(T, 1) if on_cpu and not any(self.needs) else T
        s_hat, a = place.room("s_hat", (room, 8 * H, B), dtype), place.room("a", (room, 4 * H, B), dtype)
        c_hat, tanh_c = (place.room(name, (room, H, B), dtype) for name in ("c_hat", "tanh_c"))
        h, c = (place.room(name, (T + 1, H, B), dtype) for name in "hc")
        h[0], c[0] = h0, c0
        mean, variance, inverse = statistics = place.room("statistics", (3, T, 9 * H), dtype)
        if self.given is not None:
            mean[...], variance[...] = self.given
        vectors = [
            place.hold(f"vector {n}", vector, dtype)
            for n, vector in enumerate((xp.concatenate((gamma_x, gamma_h)), b, gamma_c, beta_c))
        ]
        W, ones = place.hold("W", W_h, dtype)[None, None], place.hold("ones", xp.ones(B, dtype))
        scratch = place.room("scratch", (8 * H, B), dtype)
        product, step = self.kernels.product, self.kernels.bn_lstm_forward
        if x.dtype.kind in "iu":
            self.kernels.check_tokens(x, W_x.shape[1])
        project = self.kernels.projector(x, W_x, s_hat[:, : 4 * H])

        def steps() -> None:
            for t, (keep_h, keep_c, input_mask, hidden_mask) in enumerate(self.steps):
                k = t % room
                project(t)
                seen = h[t] if hidden_mask is None else xp.multiply(h[t], hidden_mask, out=scratch[:H])
                product(W, seen, s_hat[k, 4 * H :], scratch)
                step(
                    s_hat[k], *vectors, tuple(statistics[:, t]), self.epsilon, self.given is not None, h[t], c[t],
                    keep_h, keep_c, input_mask, a[k], h[t + 1], c[t + 1], c_hat[k], tanh_c[k], ones, scratch,
                )  # fmt: skip

        place.loop("forward", steps)
        if self.collect:
            self.collect(mean, variance)
            self.collect = None  # once: a second backward pass comes here again
        self.arrays, self.place = (x, *arguments), place
        self.kept = (a, s_hat, c_hat, tanh_c, h, c, inverse, ones, scratch) if any(self.needs) else None
        found = place.outlet(h[1:]), place.outlet(c[1:])
        if self.kept is None:
            place.give_back()
        return found

    def backward(self, *d_out: Array | None) -> tuple[Array | None, ...]:
        if self.kept is None:  # a second backward pass: the first one has overwritten what was kept
            self.forward(*self.arrays)
        a, s_hat, c_hat, tanh_c, h, c, inverse, ones, scratch = self.kept
        x, _, _, W_x, W_h, _, *gammas, _ = self.arrays
        xp, (T, H, B), dtype, place = array_module(a), c_hat.shape, a.dtype, self.place
        scale = place.hold("scale", xp.concatenate(gammas) * inverse, dtype)  # (T, 9H)
        d_gamma, d_beta = place.room("d_gamma", (T, 9 * H), dtype), place.room("d_beta", (T, 5 * H), dtype)  # b, beta_c
        W = place.hold("W back", xp.ascontiguousarray(W_h.T), dtype)[None, None]
        outs = [place.hold(f"d out {k}", g) for k, g in enumerate(d_out)]
        d, d_old = ([place.room(f"d {k}{m}", (H, B), dtype) for k in range(2)] for m in "no")
        for d_state, out in zip(d, outs, strict=True):
            d_state[...] = 0 if out is None or T == 0 else out[-1]
        room = place.room("room", (H, B), dtype)
        if self.record:
            self.record.states, self.record.candidates = ([xp.empty((T, H, B), dtype) for _ in "hc"] for _ in "sc")
        add_product, step = self.kernels.add_product, self.kernels.bn_lstm_backward

        def steps_back(part: slice) -> None:
            for t in reversed(range(part.start, part.stop)):
                now, old = (d, d_old) if (T - t) % 2 else (d_old, d)
                *masks, hidden_mask = self.steps[t]
                if self.record:
                    self.record.states[0][t], self.record.states[1][t] = now
                more = [None if g is None or t == 0 else g[t - 1] for g in outs]
                step(
                    a[t], s_hat[t], c_hat[t], tanh_c[t], scale[t], self.given is not None, c[t], *masks,
                    *now, *more, *old, d_gamma[t], d_beta[t], room, ones, scratch,
                )  # fmt: skip
                if self.record:
                    self.record.candidates[0][t], self.record.candidates[1][t] = now
                add_product(W, s_hat[t, 4 * H :], old[0], hidden_mask, now[0], scratch)

        dx = xp.empty((T, W_x.shape[1], B), dtype) if self.needs[0] else None
        dW_x, dW_h = xp.zeros(W_x.shape, dtype), xp.zeros(W_h.shape, dtype)
        with follower(worth_following(W_h, T, B)) as later:
            for part in reversed(parts_of(T, B, self.kernels.PART)):
                place.loop(("back", *(g is None for g in outs)), partial(steps_back, part))
                later(self._add_products, part, x[part], s_hat[part], h[part], dx, dW_x, dW_h)
        self.kept = None
        d_gamma_x, d_gamma_h, d_gamma_c = (d_gamma[:, rows].sum(axis=0) for rows in parts(H))
        db, d_beta_c = d_beta[:, : 4 * H].sum(axis=0), d_beta[:, 4 * H :].sum(axis=0)
        dh, dc = map(place.outlet, d_old if T % 2 else d)
        place.give_back()
        return dx, dh, dc, dW_x, dW_h, db, d_gamma_x, d_gamma_h, d_gamma_c, d_beta_c

    def _add_products(
        self, part: slice, x: Array, ds: Array, h: Array, dx: Array | None, dW_x: Array, dW_h: Array
    ) -> None:
        """Add what some time steps give to dLoss/d(x, W_x, W_h), from ``ds`` (n, 8H, B) of W_x x_t and W_h h_{t-1}."""
        (n, H, B), D, W_x = h.shape, dW_x.shape[1], self.arrays[3]
        below = columns_below(x, D, H, ds.dtype)  # (H + 1 + D, n, B)
        below[:H] = h.transpose(1, 0, 2)
        for k, (*_, hidden_mask) in enumerate(self.steps[part]):
            if hidden_mask is not None:
                seen = below[:H, k]
                seen *= hidden_mask
        of_x, of_h = (
            ds[:, rows].transpose(1, 0, 2).reshape(4 * H, n * B) for rows in (slice(4 * H), slice(4 * H, None))
        )
        dW_h += of_h @ below[:H].reshape(H, n * B).T
        if len(below) > H + 1:
            dW_x += of_x @ below[H + 1 :].reshape(D, n * B).T
        else:
            self.kernels.add_up_tokens(of_x, x, dW_x)
        if dx is not None:
            dx[part] = (W_x.T @ of_x).reshape(D, n, B).transpose(1, 0, 2)


def check_normalization(
    H: int, gamma_x: Array, gamma_h: Array, gamma_c: Array, beta_c: Array, given: tuple[Array, Array] | None
) -> None:
    """Raise unless the gains, the bias and the statistics are those of H hidden units."""
    for name, vector, gates in (
        ("gamma_x", gamma_x, 4), ("gamma_h", gamma_h, 4), ("gamma_c", gamma_c, 1), ("beta_c", beta_c, 1)
    ):  # fmt: skip
        if vector.shape != (gates * H,):
            raise ValueError(f"{name} must be ({gates * H},) for H = {H} hidden units, got {vector.shape}")
    if given and given[0].shape[1] != 9 * H:
        raise ValueError(f"statistics must be of 9H = {9 * H} rows, got {given[0].shape[1]}")
