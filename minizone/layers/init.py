"""Initial values of weights: functions of (rng, shape, dtype) that return a matrix (M, N), for inputs of N numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minizone.backend import Array, Generator, normal

Initializer = Callable[[Generator, tuple[int, int], Any], Array]


def _orthonormal(rng: Generator, side: int, rows: int, count: int = 1) -> np.ndarray:
    """``count`` sets of ``rows <= side`` orthonormal rows of length ``side``, drawn uniformly (Mezzadri, 2007)."""
    q, r = np.linalg.qr(normal(rng, (count, side, rows), np.float64))
    return (q * np.sign(np.diagonal(r, axis1=1, axis2=2))[:, None]).swapaxes(1, 2)  # (count, rows, side)


def orthogonal(rng: Generator, shape: tuple[int, int], dtype: Any = np.float32) -> Array:
    """Orthogonal as a whole: orthonormal rows or, if the matrix (M, N) is taller than wide, orthonormal columns.

    As in the code of Cooijmans et al. (2017), and in that of Krueger et al. before its last commit.
    """
    M, N = shape
    W = _orthonormal(rng, max(M, N), min(M, N))[0]
    return (W if M <= N else W.T).astype(dtype)


def orthogonal_blocks(rng: Generator, shape: tuple[int, int], dtype: Any = np.float32) -> Array:
    """Square orthogonal blocks side by side, each drawn independently, as in the code behind the paper's numbers.

    The scale differs from `orthogonal`: each gate of W_h (4H, H) gets an orthogonal block, whereas `orthogonal` gives
    it a block of about half that scale. In the original, the shorter side must divide the longer one. Here the last
    block is cut off if it does not (27 symbols, 8,000 rows).
    """
    M, N = shape
    side, longer = min(M, N), max(M, N)
    blocks = _orthonormal(rng, side, side, -(-longer // side))
    W = blocks.reshape(-1, side)[:longer]  # (longer, side)
    return (W if M >= N else W.T).astype(dtype)


def glorot(rng: Generator, shape: tuple[int, int], dtype: Any = np.float32) -> Array:
    """Uniform in +-sqrt(6 / (M + N)): Glorot and Bengio (2010)."""
    return uniform((24 / sum(shape)) ** 0.5)(rng, shape, dtype)


def uniform(width: float) -> Initializer:
    """Uniform in an interval of this full width around zero, as in Blocks; the character model has 0.2 by default."""

    def draw(rng: Generator, shape: tuple[int, int], dtype: Any = np.float32) -> Array:
        return (width * (rng.random(shape) - 0.5)).astype(dtype)

    return draw


def identity(rng: Generator, shape: tuple[int, int], dtype: Any = np.float32) -> Array:
    """Ones on the diagonal; draws nothing."""
    return np.eye(*shape, dtype=dtype)


INITIALIZERS: dict[str, Initializer] = {
    "ortho": orthogonal_blocks,
    "ortho-whole": orthogonal,
    "glorot": glorot,
    "uniform": uniform(0.2),
}
