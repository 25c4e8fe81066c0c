"""Semantic consistency: a linear recurrent network learns to return to its initial state, with and without zoneout.

The network has no input. It starts at a random vector and should end there after an even number of steps:

    h_0 = x        h~_t = W h_{t-1}        h_t = keep_t * h_{t-1} + (1 - keep_t) * h~_t        cost = |h_T - x|^2

W starts near -I. Without zoneout this is already a solution, since (-I)^T = I: every unit changes its sign at every
step. With zoneout a unit skips some steps and can end with the wrong sign. Only W = I is a solution for all masks: the
value of a unit then means the same at every step. Two networks are trained, one of them with zoneout, from the same W
and on the same x.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from tyro.conf import Suppress

from minizone.autograd.tensor import Function, Tensor, no_grad
from minizone.backend import Array, Generator, array_module, bernoulli, normal, stream, to_host
from minizone.layers.module import Module, Parameter
from minizone.runs.experiment import Experiment, Generated, Measured
from minizone.runs.plotting import plot_networks
from minizone.runs.settings import Range, RunSettings

NETWORKS = {"zoneout": "with zoneout", "plain": "without zoneout"}  # name in the log: name in messages; in this order
EVALUATION_BATCHES = 100  # minibatches that validation and test average over, each with new masks


# ---- settings


@dataclass(frozen=True)
class SemanticSettings(RunSettings):
    """Train a linear network to remember, with and without zoneout (the authors' zoneout_semantic_consistency.py)."""

    dim: Annotated[int, Range(at_least=1)] = 2
    """Number of units."""
    seq_len: Annotated[int, Range(at_least=1)] = 10
    """Number of time steps; if it is odd, -I is not a solution."""
    noise_level: Annotated[float, Range(at_least=0)] = 0.01
    """Standard deviation of the Gaussian noise on the initial W = -I."""
    zoneout_prob: Annotated[float, Range(at_least=0, at_most=1)] = 0.1
    """Probability that a unit keeps its old value, in the network with zoneout."""
    updates_per_epoch: Annotated[int, Range(at_least=1)] = 1000
    """Updates per epoch; --nsteps of the authors' script is this times --epochs."""

    data_dir: str | None = None
    """Has no effect: this task generates its data."""

    # These settings would have no effect, or clip the gradients of both networks together.
    hidden_size: Suppress[int] = 1
    clipping: Suppress[float] = 0.0
    clip_what: Suppress[str] = "gradient"  # type: ignore[assignment]
    weight_noise: Suppress[float] = 0.0
    l2_regularization: Suppress[float] = 0.0

    def label_parts(self) -> list[str]:
        return [f"zoneout{self.zoneout_prob:g}", *super().label_parts()]


PAPER = SemanticSettings(  # the authors' script; the experiment is not in the paper
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


# ---- the model


class LinearZoneout(Function):
    """The last state (..., n, B) of linear networks W (..., n, n), from x (..., n, B) and keep (T, ..., n, 1).

    A step is a matrix product: ``h_t = A_t h_{t-1}``. The rows of A_t are those of I where a unit keeps its value, and
    those of W elsewhere.
    """

    def __init__(self, keep: Array):
        self.keep = keep

    def forward(self, W: Array, x: Array) -> Array:
        xp = array_module(W)
        T = len(self.keep)
        n, B = x.shape[-2:]
        self.A = self.keep * xp.eye(n, dtype=W.dtype) + (1 - self.keep) * W  # (T, ..., n, n)
        networks = np.broadcast_shapes(self.A.shape[1:-2], x.shape[:-2])
        self.h = xp.empty((T + 1, *networks, n, B), xp.result_type(self.A, x))  # h[0] is the initial state
        self.h[0] = x
        for t in range(T):
            xp.matmul(self.A[t], self.h[t], out=self.h[t + 1])
        return self.h[T]

    def backward(self, gy: Array) -> tuple[Array, Array]:
        xp = array_module(gy)
        T = len(self.keep)
        dh = xp.empty_like(self.h)
        dh[T] = gy
        for t in reversed(range(T)):
            xp.matmul(self.A[t].swapaxes(-1, -2), dh[t + 1], out=dh[t])
        dA = dh[1:] @ self.h[:-1].swapaxes(-1, -2)  # (T, ..., n, n)
        dW = ((1 - self.keep) * dA).sum(axis=0)  # (..., n, n)
        return dW, dh[0]


def linear_zoneout(W: Array | Tensor, x: Array | Tensor, keep: Array) -> Tensor:
    """The states (..., n, B) of linear networks with zoneout after T steps; one graph node.

        h_0 = x        h_t = keep_t * h_{t-1} + (1 - keep_t) * W h_{t-1}

    Parameters
    ----------
    W : (..., n, n)
        One matrix for each network.
    x : (..., n, B)
        The initial states; columns are examples.
    keep : (T, ..., n, 1)
        1 where a unit keeps its old value, the same for all examples. Not differentiated.
    """
    return LinearZoneout(keep)(W, x)


def linear_zoneout_unrolled(W: Tensor, x: Any, keep: Array) -> Tensor:
    """The readable reference of `linear_zoneout`: primitive operations, differentiated by the tape."""
    h = x
    for t in range(len(keep)):
        h = keep[t] * h + (1 - keep[t]) * (W @ h)
    return h


class Networks(Module):
    """Two linear networks with the same initial weights: W (2, n, n), in the order of ``NETWORKS``."""

    def __init__(self, n: int, noise_level: float, rng: Generator, dtype: Any = np.float32):
        W = noise_level * normal(rng, (n, n), dtype) - np.eye(n, dtype=dtype)
        self.W = Parameter(np.stack([W, W]).astype(dtype))

    def costs(self, x: Array, keep: Array) -> Tensor:
        """The sum of squared errors of each network (2,), for x (n, B) and keep (T, 2, n, 1)."""
        error = linear_zoneout(self.W, x, keep) - x  # (2, n, B)
        return (error * error).sum(axis=(1, 2))


# ---- the experiment


class Semantic(Experiment):
    """Two networks learn to remember. The metric is the cost of the network with zoneout, including its noise.

    The loss is the sum of both costs. The networks share no parameter, so each learns as if it were alone.
    """

    task, metric, unit = "semantic", "cost", "sum of squared errors of a minibatch"
    presets = PRESETS
    settings: SemanticSettings
    data: Generated
    model: Networks

    def __init__(self, settings: SemanticSettings, say: Callable[[str], None] = print):
        super().__init__(settings, say)
        self.data = Generated(f"normal vectors, dim {settings.dim}")
        self.model = Networks(settings.dim, settings.noise_level, stream(settings.seed, "weights"))
        self.to_device(self.model)
        self.valid_costs = np.full(2, np.nan)  # of both networks, at the last validation

    def batches(self, epoch: int) -> range:
        """The numbers of the minibatches. `loss` draws their examples."""
        return range(self.settings.updates_per_epoch)

    def loss(self, batch: int, rng: Generator) -> Measured:
        """The cost of both networks on new examples and masks."""
        x, keep = self.draw(rng)
        costs = self.model.costs(x, keep)  # (2,)
        return Measured(costs.sum(), costs.data[0], 1)

    def draw(self, rng: Generator) -> tuple[Array, Array]:
        """A minibatch x (n, B), and masks keep (T, 2, n, 1), which are 0 for the network without zoneout."""
        s = self.settings
        x = normal(rng, (s.dim, s.batch_size))
        keep = array_module(x).zeros((s.seq_len, 2, s.dim, 1), x.dtype)
        keep[:, 0] = bernoulli(rng, s.zoneout_prob, (s.seq_len, s.dim, 1))
        return self.device.to_device(x), self.device.to_device(keep)

    def mean_costs(self, purpose: str) -> np.ndarray:
        """The mean costs (2,) of both networks over minibatches that depend only on the seed and the purpose."""
        rng = stream(self.settings.seed, purpose, device=self.device)
        costs = []
        with no_grad():
            for _ in range(EVALUATION_BATCHES):
                x, keep = self.draw(rng)
                costs.append(self.model.costs(x, keep).data)  # (2,)
        return to_host(self.device.xp.stack(costs)).mean(axis=0)

    def validate(self) -> float:
        """The mean cost of a minibatch, with masks as in training."""
        self.valid_costs = self.mean_costs("validation")
        return float(self.valid_costs[0])

    def extra_columns(self) -> dict[str, Any]:
        return {"valid_cost_plain": float(self.valid_costs[1]), **self.weights()}

    def test(self) -> dict[str, Any]:
        """The mean costs of both networks, as in `validate` but on other minibatches, and their weights."""
        zoneout, plain = self.mean_costs("test")
        return {"test_cost": float(zoneout), "test_cost_plain": float(plain), **self.weights()}

    def weights(self) -> dict[str, Any]:
        """For each network: W, and the largest absolute elements of W - I and of W + I."""
        identity = np.eye(self.settings.dim)
        found: dict[str, Any] = {"W": {}, "distance_to_I": {}, "distance_to_minus_I": {}}
        for name, W in zip(NETWORKS, to_host(self.model.W.data).astype(np.float64), strict=True):
            found["W"][name] = (W.round(6) + 0.0).tolist()  # + 0.0: no -0.0 in the log
            found["distance_to_I"][name] = float(abs(W - identity).max().round(6))
            found["distance_to_minus_I"][name] = float(abs(W + identity).max().round(6))
        return found

    def figure(self, folder: Path) -> None:
        plot_networks(folder, folder / "semantic.png")

    def print_results(self) -> None:
        """Print W of both networks, and whether it is near I or -I."""
        found = self.weights()
        for name, title in NETWORKS.items():
            to_I = found["distance_to_I"][name]
            to_minus_I = found["distance_to_minus_I"][name]
            if to_I < 0.05:
                verdict = "W is I"
            elif to_minus_I < 0.05:
                verdict = "W is -I"
            else:
                verdict = "W is neither I nor -I"
            self.say(f"{title}: {verdict}; its largest difference from I is {to_I:.4f}, from -I {to_minus_I:.4f}")
            self.say(np.array2string(np.array(found["W"][name]), precision=4, suppress_small=True))
