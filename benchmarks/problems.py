"""The timed problems: the shapes of layers and of whole training updates, and random numbers of these shapes.

A module of minizone, PyTorch or JAX that builds a candidate takes its problem from here. NumPy is imported inside the
functions, because minizone must be imported before it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

Shape = tuple[int, int, int, int]  # T, B, D, H of a layer
UpdateShape = tuple[int, int, int, int, int, float, float]  # T, B, classes, H, layers, z_c, z_h of an update

Z_C, Z_H = 0.5, 0.05  # zoneout of the layers
GATES = {"lstm": 4, "gru": 3, "rnn": 1, "bn_lstm": 4}
SHAPES: tuple[Shape, ...] = (  # those of the paper's char-ptb, pmnist, word-ptb and text8, and two smaller ones
    (100, 32, 50, 1000),
    (784, 100, 1, 100),
    (35, 20, 1500, 1500),
    (180, 128, 27, 256),
    (100, 32, 50, 256),
    (180, 128, 27, 2000),
)
TASKS: dict[str, UpdateShape] = {
    "char-ptb": (99, 32, 50, 1000, 1, 0.5, 0.05),
    "pmnist": (784, 100, 10, 100, 1, 0.15, 0.15),
    "word-ptb": (35, 20, 10_000, 1500, 2, 0.25, 0.025),
}
TINY_SHAPE: Shape = (5, 3, 2, 4)
TINY_TASKS: dict[str, UpdateShape] = {
    "char-ptb": (5, 3, 7, 4, 1, 0.5, 0.05),
    "pmnist": (9, 3, 10, 4, 1, 0.15, 0.15),
    "word-ptb": (4, 3, 11, 5, 2, 0.25, 0.025),
}


def has_cells(cell: str) -> bool:
    """Whether the layer has a cell state c beside h."""
    return cell in ("lstm", "bn_lstm")


def arrays(cell: str, shape: Shape) -> dict[str, np.ndarray]:
    """Inputs, weights and the gradient dh of the outputs, in float32; columns are examples."""
    import numpy as np

    T, B, D, H = shape
    G, rng = GATES[cell], np.random.default_rng(0)

    def normal(*size: int) -> np.ndarray:
        return rng.standard_normal(size, np.float32)

    return {
        "x": normal(T, D, B),
        "W_x": normal(G * H, D) * np.float32(D**-0.5),
        "W_h": normal(G * H, H) * np.float32(H**-0.5),
        "b": normal(G * H) * np.float32(0.1),
        "dh": normal(T, H, B) / np.float32(T * B),
    }


def batch(task: str, shape: UpdateShape) -> tuple[np.ndarray, np.ndarray]:
    """A random minibatch: tokens (T, B) and targets (T, B), or pixels (T, 1, B) and classes (B,)."""
    import numpy as np

    T, B, V, *_ = shape
    rng = np.random.default_rng(0)
    if task == "pmnist":
        return rng.random((T, 1, B), np.float32), rng.integers(0, V, B)
    return rng.integers(0, V, (T, B)), rng.integers(0, V, (T, B))
