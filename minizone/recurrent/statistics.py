"""The population statistics of a batch-normalized LSTM."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from minizone.backend import Array, array_module
from minizone.zoneout import check_probability


class Statistics:
    """Population means and variances of everything that a batch-normalized LSTM normalizes, for each time step.

    The argument ``statistics`` of `bn_lstm` selects what a call does:

        statistics=statistics            evaluation: normalize with the population statistics
        statistics=statistics.collect    training: normalize with those of the minibatch, and update the population
                                         statistics:  new = alpha * batch + (1 - alpha) * old
        statistics=None                  normalize with those of the minibatch and collect nothing

    Inside ``with statistics.reestimate():`` the first two both normalize with those of the minibatch. At the end, the
    population statistics are the plain mean over all minibatches seen inside.

    Parameters
    ----------
    steps : int
        T_max: the number of time steps with statistics of their own. Later steps use those of the last one.
    hidden_size : int
        H, the number of hidden units.
    alpha : float in [0, 1]
        The weight of a minibatch in training. Cooijmans' code has 0.01 for MNIST and 0.05 for text.

    Attributes
    ----------
    mean, variance : (T_max, 9H)
        Columns: those of W_x x_t (4H), of W_h h_{t-1} (4H), of c~ (H), see `parts`. Initially 0 and 1. They are always
        changed in place.
    """

    def __init__(self, steps: int, hidden_size: int, *, alpha: float = 0.01, dtype: Any = np.float32, xp: Any = np):
        if steps < 1:
            raise ValueError(f"statistics need at least 1 time step, got {steps}")
        check_probability("alpha", alpha)
        self.alpha = alpha
        self.mean: Array = xp.zeros((steps, 9 * hidden_size), dtype)
        self.variance: Array = xp.ones((steps, 9 * hidden_size), dtype)
        self._sums: tuple[Array, ...] | None = None  # while re-estimating: of means, variances and counts

    def with_first_step(self, mean_h: Array) -> Statistics:
        """A copy for sequences that all start from the same state: ``mean_h`` (4H,) is the exact mean of W_h h_0.

        The variance of W_h h_0 over a minibatch is then 0, and a standard deviation is the square root of epsilon. A
        mean from some updates ago would be off by many standard deviations, and the first step would be noise.
        """
        xp, (steps, rows) = array_module(self.mean), self.mean.shape
        known = Statistics(max(steps, 2), rows // 9, alpha=self.alpha, dtype=self.mean.dtype, xp=xp)
        known.mean[...], known.variance[...] = self.first(len(known.mean))
        known.mean[0, parts(rows // 9)[1]] = mean_h
        known.variance[0, parts(rows // 9)[1]] = 1  # W_h h_0 - mean_h is 0, up to rounding
        return known

    @property
    def reestimating(self) -> bool:
        """Whether a ``with statistics.reestimate():`` block is active."""
        return self._sums is not None

    def first(self, T: int) -> tuple[Array, Array]:
        """Copies of the mean and the variance of the first T steps, each (T, 9H)."""
        xp = array_module(self.mean)
        steps = xp.minimum(xp.arange(T), len(self.mean) - 1)
        return self.mean[steps], self.variance[steps]

    def collect(self, mean: Array, variance: Array) -> None:
        """Add the statistics of a minibatch, each (T, 9H); those of steps beyond T_max are ignored."""
        if mean.shape[1:] != self.mean.shape[1:]:
            raise ValueError(f"collect: statistics must be (T, 9H) with 9H = {self.mean.shape[1]}, got {mean.shape[1]}")
        n = min(len(mean), len(self.mean))
        batch = mean[:n].real, variance[:n].real  # without the imaginary part of a complex step
        if self._sums is not None:
            for total, new in zip(self._sums, (*batch, 1), strict=True):
                total[:n] += new
            return
        for population, new in zip((self.mean, self.variance), batch, strict=True):
            population[:n] += self.alpha * (new - population[:n])

    @contextmanager
    def reestimate(self) -> Iterator[None]:
        """Replace the statistics by the plain mean, for each time step, over all minibatches inside the ``with``.

        A step that no minibatch reached keeps its statistics. If an exception ends the block, all steps keep theirs.
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
    """The rows of W_x x_t, of W_h h_{t-1} and of c~ among the 9H rows that are normalized."""
    return slice(0, 4 * H), slice(4 * H, 8 * H), slice(8 * H, 9 * H)
