"""What the tests of zoneout share: a small layer, its masks, and means of draws."""

from __future__ import annotations

import math

import numpy as np
import pytest

from minizone import Tensor, Zoneout, lstm
from minizone.layers import LSTM
from minizone.recurrent.cells import lstm_unrolled
from tests.helpers import D, H, rng, tensors

T, B = 6, 3
SIGMAS = 5  # of a mean over independent draws from a fixed stream: a wrong probability is hundreds away
both = pytest.mark.parametrize("function", [lstm, lstm_unrolled], ids=["fused", "reference"])


def layer(zoneout: Zoneout, *, seed: int = 0, **options) -> LSTM:
    """A small layer in float64, with initial states and biases that are not zero."""
    made = LSTM(D, H, zoneout=zoneout, rng=rng(seed), dtype=np.float64, **options)
    for parameter in (made.b, made.h0, made.c0):
        parameter.data[...] = rng(5).standard_normal(parameter.shape)
    return made


def lstm_of(made: LSTM, x, keep_h, keep_c, **options) -> tuple[Tensor, Tensor]:
    """What the layer computes, with these masks."""
    columns = np.ones((1, x.shape[-1]))
    start = made.h0.reshape(-1, 1) * columns, made.c0.reshape(-1, 1) * columns
    return lstm(x, *start, made.W_x, made.W_h, made.b, keep_h=keep_h, keep_c=keep_c, **options)


def inputs(steps: int = T, columns: int = B) -> np.ndarray:
    return rng(3).standard_normal((steps, D, columns))


def drawn(zoneout: Zoneout, steps: int = 200, units: int = 30, columns: int = 50, seed: int = 0):
    """(keep_h, keep_c) of training, each (T, H, B) or what broadcasts to it."""
    return zoneout.masks(steps, units, columns, rng(seed), rng(9), np.float64)


def states(function, arguments, **options) -> tuple[np.ndarray, np.ndarray]:
    h, c = function(**tensors(arguments), **options)
    return h.data, c.data


def candidates(function, arguments, keep_h, keep_c) -> tuple[np.ndarray, np.ndarray]:
    """h~ and c~ of every step: the sequence is run again up to it and takes the new values there."""
    new_h, new_c = [], []
    for t in range(T):
        past_h, past_c = keep_h.copy(), keep_c.copy()
        past_h[t] = past_c[t] = 0
        h, c = states(function, arguments, keep_h=past_h, keep_c=past_c)
        new_h.append(h[t])
        new_c.append(c[t])
    return np.array(new_h), np.array(new_c)


def close_to(actual: np.ndarray, expected: float, deviation: float) -> bool:
    """Whether a sample mean is as near to the expectation as the standard deviation of one draw allows."""
    return bool(np.abs(np.mean(actual) - expected) <= SIGMAS * deviation / math.sqrt(np.size(actual)))
