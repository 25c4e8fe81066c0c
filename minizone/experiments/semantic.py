"""Semantic consistency: what zoneout makes of a linear recurrent network that only has to remember.

The network has no input. It starts at a random vector and shall end there, after an even number of steps:

    h_0 = x        h~_t = W h_{t-1}        h_t = keep_t * h_{t-1} + (1 - keep_t) * h~_t        cost = |h_T - x|^2

From W near -I it has nothing to learn: (-I)^T = I, every unit changes its sign at every step, and all is back in place
at the end. A unit that may wait cannot keep that rhythm: whatever it holds must mean the same at every step, which only
W = I achieves. So two networks train side by side, from the same W, on the same x; one of them has zoneout.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tyro.conf import Suppress

from minizone.autograd.tensor import Function, Tensor, no_grad
from minizone.backend import Array, Generator, array_module, bernoulli, normal, stream, to_host
from minizone.layers.module import Module, Parameter
from minizone.runs.experiment import Experiment, Generated, Measured
from minizone.runs.plotting import plot_networks
from minizone.runs.settings import INFINITE, RunSettings, require
from minizone.zoneout import zone_out

NETWORKS = {"zoneout": "with zoneout", "plain": "without zoneout"}  # their names in logs and for people, in order
DRAWS = 100  # minibatches, each with masks of its own, that validation and test average over


@dataclass(frozen=True)
class SemanticSettings(RunSettings):
    """Train a linear network to remember, with and without zoneout (the authors' zoneout_semantic_consistency.py)."""

    dim: int = 2
    """Units of the network."""
    seq_len: int = 10
    """Steps from x back to x; if odd, -I is no solution."""
    noise_level: float = 0.01
    """Standard deviation of the Gaussian noise on the initial W = -I."""
    zoneout_prob: float = 0.1
    """Probability that a unit keeps its old value in one of the two networks; in the other it is 0."""
    updates_per_epoch: int = 1000
    """Updates from one row of the log to the next; the authors' --nsteps is this times --epochs."""

    data_dir: str | None = None
    """Accepted as everywhere; this task makes its own data."""

    write_predictions: Suppress[bool] = False  # what would do nothing here, or tie the two networks together
    hidden_size: Suppress[int] = 1
    clipping: Suppress[float] = 0.0
    clip_what: Suppress[str] = "gradient"  # type: ignore[assignment]
    weight_noise: Suppress[float] = 0.0
    l2_regularization: Suppress[float] = 0.0

    def check(self) -> None:
        super().check()
        for name in ("dim", "seq_len", "updates_per_epoch"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "be at least 1")
        require(
            0 <= self.noise_level < INFINITE,
            "noise_level",
            self.noise_level,
            "be finite (below 1e30), and 0 (none) or more",
        )
        require(0 <= self.zoneout_prob <= 1, "zoneout_prob", self.zoneout_prob, "be a probability in [0, 1]")

    def label_parts(self) -> list[str]:
        return [f"zoneout{self.zoneout_prob:g}", *super().label_parts()]


PAPER = SemanticSettings(
    preset="paper",
    batch_size=32,
    algorithm="sgd",
    learning_rate=1e-4,
    epochs=100,  # of 1,000 updates
)
PRESETS = {
    "paper": PAPER,
    "quick": replace(PAPER, preset="quick", epochs=50),
}


class LinearZoneout(Function):
    """The last state (..., n, B) of linear networks W (..., n, n) from x (..., n, B), for keep (T, ..., n, 1).

    A step is linear whatever the mask, ``h_t = A_t h_{t-1}``: the rows of A_t are those of I where a unit waits and
    those of W elsewhere. All A_t are made at once, and a step is one small product, forward and backward.
    """

    def __init__(self, keep: Array):
        self.keep = keep

    def forward(self, W: Array, x: Array) -> Array:
        xp, T, (n, B) = array_module(W), len(self.keep), x.shape[-2:]
        A = self.keep * xp.eye(n, dtype=W.dtype) + (1 - self.keep) * W  # (T, ..., n, n)
        networks = np.broadcast_shapes(A.shape[1:-2], x.shape[:-2])
        h = xp.empty((T + 1, *networks, n, B), xp.result_type(A, x))
        h[0] = x
        for t in range(T):
            xp.matmul(A[t], h[t], out=h[t + 1])
        self.A, self.h = A, h
        return h[T]

    def backward(self, gy: Array) -> tuple[Array, Array]:
        xp, A, h, T = array_module(gy), self.A, self.h, len(self.keep)
        dh = xp.empty_like(h)
        dh[T] = gy
        for t in reversed(range(T)):
            xp.matmul(A[t].swapaxes(-1, -2), dh[t + 1], out=dh[t])
        dA = dh[1:] @ h[:-1].swapaxes(-1, -2)  # (T, ..., n, n)
        return ((1 - self.keep) * dA).sum(axis=0), dh[0]


def linear_zoneout(W: Any, x: Any, keep: Array) -> Tensor:
    """The states (..., n, B) after T steps of zoneout in linear networks, with hand-written back-propagation.

        h_0 = x        h_t = keep_t * h_{t-1} + (1 - keep_t) * W h_{t-1}

    Parameters
    ----------
    W : (..., n, n)
        One matrix for each network.
    x : (..., n, B)
        Where they start; columns are examples.
    keep : (T, ..., n, 1)
        1 where a unit keeps its old value, the same for all examples. Not differentiated.
    """
    return LinearZoneout(keep)(W, x)


def linear_zoneout_unrolled(W: Tensor, x: Any, keep: Array) -> Tensor:
    """The readable reference: the same from primitive operations, unrolled by the tape."""
    h = x
    for t in range(len(keep)):
        h = zone_out(h, W @ h, keep[t])
    return h


class Networks(Module):
    """Two linear networks with the same start: W (2, n, n), in the order of ``NETWORKS``."""

    def __init__(self, n: int, noise_level: float, rng: Generator, dtype: Any = np.float32):
        W = noise_level * normal(rng, (n, n), dtype) - np.eye(n, dtype=dtype)
        self.W = Parameter(np.stack([W, W]).astype(dtype))

    def costs(self, x: Array, keep: Array) -> Tensor:
        """The sum of the squared errors of each network (2,), for x (n, B) and keep (T, 2, n, 1)."""
        error = linear_zoneout(self.W, x, keep) - x  # (2, n, B)
        return (error * error).sum(axis=(1, 2))


class Semantic(Experiment):
    """Two networks learn to remember; the measure is the cost of a minibatch in the one with zoneout, with its noise.

    The loss is the sum of both costs. As no parameter is shared and nothing clips the gradient of both together, each
    network learns as if it were alone.
    """

    task, metric, unit = "semantic", "cost", "sum of squared errors of a minibatch"
    presets: dict[str, Any] = PRESETS
    settings: Any

    def __init__(self, settings: Any, say: Callable[[str], None] = print):
        super().__init__(settings, say)
        self.data = Generated(f"normal vectors, dim {settings.dim}")
        rng = stream(settings.seed, "weights")
        self.model = self.to_device(Networks(settings.dim, settings.noise_level, rng))
        self.valid_costs = np.full(2, np.nan)  # of both networks, at the last validation

    def batches(self, epoch: int) -> Sequence[int]:
        """Their numbers: a minibatch is drawn when it is needed, by `draw`."""
        return range(self.settings.updates_per_epoch)

    def loss(self, batch: int, rng: Generator) -> Measured:
        """The cost of both networks, for fresh examples and masks."""
        costs = self.model.costs(*self.draw(rng))  # (2,)
        return Measured(costs.sum(), costs.data[0], 1)

    def draw(self, rng: Generator) -> tuple[Array, Array]:
        """A minibatch x (n, B), and masks (T, 2, n, 1) that are 0 for the network without zoneout."""
        s = self.settings
        x = normal(rng, (s.dim, s.batch_size))
        keep = array_module(x).zeros((s.seq_len, 2, s.dim, 1), x.dtype)
        keep[:, 0] = bernoulli(rng, s.zoneout_prob, (s.seq_len, s.dim, 1))
        return self.device.to_device(x), self.device.to_device(keep)

    def mean_costs(self, purpose: str) -> np.ndarray:
        """The costs (2,) of both networks, averaged over ``DRAWS`` minibatches, the same ones at every call."""
        rng = stream(self.settings.seed, purpose, device=self.device)
        with no_grad():
            costs = [self.model.costs(*self.draw(rng)).data for _ in range(DRAWS)]  # each (2,)
        return to_host(self.device.xp.stack(costs)).mean(axis=0)

    def validate(self) -> float:
        """The mean cost of a minibatch, on fresh examples and with masks as in training."""
        self.valid_costs = self.mean_costs("validation")
        return float(self.valid_costs[0])

    def columns(self) -> dict[str, Any]:
        return {"valid_cost_plain": float(self.valid_costs[1]), **self.matrices()}

    def test(self) -> dict[str, Any]:
        """As `validate`, on other examples; and both W."""
        zoneout, plain = self.mean_costs("test")
        return {"test_cost": float(zoneout), "test_cost_plain": float(plain), **self.matrices()}

    def matrices(self) -> dict[str, Any]:
        """Of each network W, and the largest absolute element of W - I and of W + I."""
        W, identity = to_host(self.model.W.data).astype(np.float64), np.eye(self.settings.dim)
        found = {
            "W": W,
            "distance_to_I": abs(W - identity).max(axis=(1, 2)),
            "distance_to_minus_I": abs(W + identity).max(axis=(1, 2)),
        }
        return {name: dict(zip(NETWORKS, (each.round(6) + 0.0).tolist(), strict=True)) for name, each in found.items()}

    def figure(self, folder: Path) -> None:
        plot_networks(folder, folder / "semantic.png")

    def farewell(self) -> None:
        """Both W, and which of I and -I they are near."""
        found = self.matrices()
        for name, title in NETWORKS.items():
            near, far = found["distance_to_I"][name], found["distance_to_minus_I"][name]
            verdict = "W is I" if near < 0.05 else "W is -I" if far < 0.05 else "W is neither I nor -I"
            self.say(f"{title}: {verdict}; its largest difference from I is {near:.4f}, from -I {far:.4f}")
            self.say(np.array2string(np.array(found["W"][name]), precision=4, suppress_small=True))
