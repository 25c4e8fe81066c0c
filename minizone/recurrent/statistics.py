"""The population statistics of a batch-normalized LSTM."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from minizone.backend import Array, array_module
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
