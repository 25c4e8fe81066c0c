"""What the tests of the batch-normalized LSTM share: its arguments, statistics, and its equations step by step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from minizone.recurrent.bn_lstm import Statistics
from tests.helpers import Arrays, H, problem, rng

GAINS = {"gamma_x": 4 * H, "gamma_h": 4 * H, "gamma_c": H, "beta_c": H}

batch_and_population = pytest.mark.parametrize("population", [False, True], ids=["batch", "population"])


def bn_problem(T: int, B: int, *, dtype: Any = np.float64, seed: int = 0, **options: Any) -> Arrays:
    """The arguments of `bn_lstm` by name; gains of both signs."""
    generator = rng(100 + seed)
    gains = {name: generator.standard_normal(n).astype(dtype) for name, n in GAINS.items()}
    return problem(T, B, dtype=dtype, seed=seed, **options) | gains


def known_statistics(steps: int, dtype: Any = np.float64, hidden: int = H) -> Statistics:
    """Population statistics unlike those of any minibatch here."""
    statistics, generator = Statistics(steps, hidden, dtype=dtype), rng(3)
    statistics.mean[...] = generator.standard_normal(statistics.mean.shape)
    statistics.variance[...] = 0.5 + generator.random(statistics.mean.shape)
    return statistics


def by_hand(
    arguments: Arrays, options: Arrays, mean: Any = None, variance: Any = None, epsilon: float = 1e-5
) -> Arrays:
    """The equations step by step in NumPy: h, c, and the statistics of the minibatch, each (T, 9H)."""
    x, h, c, W_x, W_h, b, gamma_x, gamma_h, gamma_c, beta_c = arguments.values()
    T, B = x.shape[0], x.shape[-1]
    out: dict[str, list[Any]] = {"h": [], "c": [], "mean": [], "variance": []}
    options = {name: np.broadcast_to(mask, (T, H, B)) for name, mask in options.items() if mask is not None}
    for t in range(T):
        keep_h, keep_c, keep_in, seen = (
            options[name][t] if name in options else default
            for name, default in (("keep_h", 0), ("keep_c", 0), ("input_mask", 1), ("hidden_mask", 1))
        )
        own: tuple[list[float], list[float]] = ([], [])

        def normalized(s: np.ndarray, gamma: np.ndarray, t: int = t, own: Any = own) -> np.ndarray:
            y = np.empty_like(s)
            for row in range(len(s)):
                average = sum(s[row]) / B
                spread = sum((value - average) ** 2 for value in s[row]) / B
                own[0].append(average)
                own[1].append(spread)
                if mean is not None:
                    average, spread = mean[t, len(own[0]) - 1], variance[t, len(own[0]) - 1]
                y[row] = gamma[row] * (s[row] - average) / np.sqrt(spread + epsilon)
            return y

        inputs = np.stack([W_x[:, token] for token in x[t]], axis=1) if x.ndim == 2 else W_x @ x[t]
        a = normalized(inputs, gamma_x) + normalized(W_h @ (seen * h), gamma_h) + b[:, None]
        i, f, g, o = 1 / (1 + np.exp(-a[:H])), 1 / (1 + np.exp(-a[H : 2 * H])), np.tanh(a[2 * H : 3 * H]), a[3 * H :]
        candidate = f * c + keep_in * i * g
        new_h = 1 / (1 + np.exp(-o)) * np.tanh(normalized(candidate, gamma_c) + beta_c[:, None])
        h, c = keep_h * h + (1 - keep_h) * new_h, keep_c * c + (1 - keep_c) * candidate
        for name, value in zip(out, (h, c, *own), strict=True):
            out[name].append(value)
    return {name: np.array(values) for name, values in out.items()}
