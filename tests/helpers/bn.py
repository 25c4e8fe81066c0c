"""Arguments and population statistics for the batch-normalized LSTM."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from minizone.recurrent.bn_lstm import Statistics
from tests.helpers import Arrays, H, problem, rng

batch_and_population = pytest.mark.parametrize("population", [False, True], ids=["batch", "population"])


def bn_problem(T: int, B: int, *, dtype: Any = np.float64, seed: int = 0, H: int = H, **options: Any) -> Arrays:
    """The arguments of `bn_lstm` by name; gains of both signs."""
    generator = rng(100 + seed)
    sizes = {"gamma_x": 4 * H, "gamma_h": 4 * H, "gamma_c": H, "beta_c": H}
    gains = {name: generator.standard_normal(size).astype(dtype) for name, size in sizes.items()}
    return problem(T, B, dtype=dtype, seed=seed, H=H, **options) | gains


def known_statistics(steps: int, dtype: Any = np.float64, hidden: int = H) -> Statistics:
    """Population statistics unlike those of any minibatch here."""
    statistics, generator = Statistics(steps, hidden, dtype=dtype), rng(3)
    statistics.mean[...] = generator.standard_normal(statistics.mean.shape)
    statistics.variance[...] = 0.5 + generator.random(statistics.mean.shape)
    return statistics
