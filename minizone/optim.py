"""Optimizers, by hand: all parameters in one flat array. Their arithmetic is in `minizone.kernels.cpu.optim`.

    g -> clip g -> direction (the optimizer) -> times the rate -> clip the step -> subtract from the parameters

At most one clipping is on, and which matters: the authors clip Adam's step, and else the gradient (PAPER.md B.7).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from minizone.autograd.tensor import Tensor
from minizone.backend import Array, array_module
from minizone.kernels import kernels_for


class Optimizer:
    """What all optimizers share: gather the gradients, clip, apply, save. A subclass says only what the step is.

    Parameters
    ----------
    parameters : sequence of Tensor
        Their ``data`` become views into one flat array, which `step` changes in place.
    learning_rate : float
        A plain attribute: a schedule may set it between two steps.
    clip : float
        Largest L2 norm, over all parameters together, of what ``clip_what`` names; 0: no clipping.
    clip_what : "step" or "gradient"
        "gradient": the gradient is shortened before the optimizer sees it. "step": what is subtracted from the
        parameters is shortened, and the optimizer's own arrays do not see it.

    Attributes
    ----------
    flat : array (N,)
        All parameters, in their order.
    steps : int
        Updates made so far.
    buffers : dict of str to array (N,)
        What is carried from step to step, by the names in ``BUFFERS``; zero at first.

    Raises ValueError for a negative ``clip``, an unknown ``clip_what``, or a parameter that is given twice.
    """

    BUFFERS: tuple[str, ...] = ()

    def __init__(
        self, parameters: Sequence[Tensor], learning_rate: float, *, clip: float = 0.0, clip_what: str = "gradient"
    ):
        if clip_what not in ("step", "gradient"):
            raise ValueError(f'clip_what must be "step" or "gradient", got {clip_what!r}')
        if not clip >= 0:  # true for NaN as well
            raise ValueError(f"clip must be 0 (none) or more, got {clip}")
        self.parameters = list(parameters)
        self.learning_rate = learning_rate
        self.clip, self.clip_what = clip, clip_what
        self.steps = 0
        self.flat = _flatten(self.parameters)
        xp = array_module(self.flat)
        self.buffers = {name: xp.zeros_like(self.flat) for name in self.BUFFERS}
        self._g = xp.empty_like(self.flat)

    def step(self) -> Any:
        """Update the parameters from their ``grad``, set those to None, and return the norm of the gradient.

        A gradient that is not finite changes nothing: the caller sees it by its norm. That is a float, or on a GPU an
        array () which the host has not seen yet; there such an update counts in ``steps``.
        Raises ValueError when a parameter has no gradient; then nothing has changed, the other gradients neither.
        """
        g, kernels = self._g, kernels_for(self.flat)
        _gather_gradients(self.parameters, g)
        norm = kernels.norm(g)
        if isinstance(norm, float) and not math.isfinite(norm):
            return norm
        self.steps += 1
        if self.clip_what == "step" and self.clip > 0:  # the norm of the step is known when all of it is
            self._direct(kernels, norm, 0.0, None)
            kernels.step_clipped(self.flat, g, norm, kernels.norm(g), self.clip, self._rate())
        else:
            self._direct(kernels, norm, self.clip if self.clip_what == "gradient" else 0.0, self._rate())
        return norm

    def _direct(self, kernels: Any, norm: Any, clip: float, rate: float | None) -> None:
        """Call this optimizer's kernel, see `minizone.kernels.cpu.optim`: with a rate it makes the whole step."""
        kernels.sgd(self.flat, self._g, norm, clip, rate)

    def _rate(self) -> float:
        """What the direction is multiplied with, the same for all parameters."""
        return self.learning_rate

    def reset(self) -> None:
        """Forget the past: buffers and counters as those of a fresh optimizer. Parameters and settings stay."""
        self.steps = 0
        for own in self.buffers.values():
            own.fill(0)

    def state_dict(self) -> dict[str, Array]:
        """What has to be saved, besides the parameters, to go on as if nothing had happened; no copies."""
        return {**self.buffers, "steps": np.array([self.steps])}

    def load_state_dict(self, arrays: Mapping[str, Array]) -> None:
        """Copy what `state_dict` gave; ValueError, and no change, when the names or the sizes are others."""
        names = {*self.buffers, "steps"}
        if names != arrays.keys():
            raise ValueError(f"optimizer state has {sorted(arrays)}, expected {sorted(names)}")
        for name, own in self.buffers.items():
            if arrays[name].shape != own.shape:
                raise ValueError(f"optimizer state {name} has {arrays[name].size} numbers, expected {own.size}")
        for name, own in self.buffers.items():
            own[...] = array_module(own).asarray(arrays[name])
        self.steps = int(arrays["steps"][0])


class SGD(Optimizer):
    """Stochastic gradient descent; that of word-level Penn Treebank, with `decayed` (Zaremba et al., 2014).

    step = learning_rate g                                  parameters: those of `Optimizer`
    """


class Momentum(Optimizer):
    """Gradient descent with momentum, in the form of Blocks: the learning rate is inside the velocity.

        velocity = momentum velocity + learning_rate g
        step = velocity

    A learning rate that is changed therefore takes about ``1 / (1 - momentum)`` steps to be felt.

    Parameters
    ----------
    momentum : float
        In [0, 1), or ValueError; 0.99 in the authors' scripts. The other parameters are those of `Optimizer`.

    Attributes
    ----------
    velocity : array (N,)
        The last step, before it was clipped.
    """

    BUFFERS = ("velocity",)

    def __init__(
        self, parameters: Sequence[Tensor], learning_rate: float, *,
        momentum: float = 0.99, clip: float = 0.0, clip_what: str = "gradient",
    ):  # fmt: skip
        _check_below_one("momentum", momentum)
        super().__init__(parameters, learning_rate, clip=clip, clip_what=clip_what)
        self.momentum = momentum
        self.velocity = self.buffers["velocity"]

    def _direct(self, kernels: Any, norm: Any, clip: float, rate: float | None) -> None:
        kernels.momentum(self.flat, self._g, self.velocity, norm, clip, rate, self.learning_rate, self.momentum)

    def _rate(self) -> float:
        return 1.0


class RMSProp(Optimizer):
    """RMSProp (Tieleman and Hinton, 2012), in the form of Blocks; that of the authors' permuted MNIST.

        ms = decay ms + (1 - decay) g^2
        step = learning_rate g / max(sqrt(ms), 1e-5)

    The average starts at 0 and is not corrected for that: while the gradient stays the same, the steps shrink from
    ``learning_rate / sqrt(1 - decay)`` to ``learning_rate``. The small constant is a floor; elsewhere it is added.

    Parameters
    ----------
    decay : float
        In [0, 1), or ValueError; 0.5 in the authors' permuted MNIST. The other parameters are those of `Optimizer`.

    Attributes
    ----------
    ms : array (N,)
        Moving average of the square of the gradient.
    """

    BUFFERS = ("ms",)
    FLOOR = 1e-5

    def __init__(
        self, parameters: Sequence[Tensor], learning_rate: float, *,
        decay: float = 0.9, clip: float = 0.0, clip_what: str = "gradient",
    ):  # fmt: skip
        _check_below_one("decay", decay)
        super().__init__(parameters, learning_rate, clip=clip, clip_what=clip_what)
        self.decay = decay
        self.ms = self.buffers["ms"]

    def _direct(self, kernels: Any, norm: Any, clip: float, rate: float | None) -> None:
        kernels.rms_prop(self.flat, self._g, self.ms, norm, clip, rate, self.decay, self.FLOOR)


class Adam(Optimizer):
    """Adam (Kingma and Ba, 2015), with the clipping of the authors' code or the usual one.

        m = b1 m + (1 - b1) g        v = b2 v + (1 - b2) g^2
        step = learning_rate * sqrt(1 - b2^t) / (1 - b1^t) * m / (sqrt(v) + 1e-8)

    The small constant is added after the bias correction has moved into the learning rate, as Blocks does.

    Parameters
    ----------
    clip_what : "step" or "gradient"
        "step": the Adam step is shortened to the norm ``clip``. That is what the authors' code does for Penn Treebank
        and text8, though the paper says gradient clipping; a fresh step of the char model has norm 4, so it acts as a
        warm-up. "gradient": the gradient is shortened before Adam sees it.
    parameters, learning_rate, clip : those of `Optimizer`

    Attributes
    ----------
    m, v : array (N,)
        Moving averages of the gradient and its square, in the order of the parameters.
    """

    BUFFERS = ("m", "v")

    def __init__(
        self, parameters: Sequence[Tensor], learning_rate: float, *,
        beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8, clip: float = 0.0, clip_what: str = "step",
    ):  # fmt: skip
        super().__init__(parameters, learning_rate, clip=clip, clip_what=clip_what)
        self.beta1, self.beta2, self.epsilon = beta1, beta2, epsilon
        self.m, self.v = self.buffers["m"], self.buffers["v"]

    def _direct(self, kernels: Any, norm: Any, clip: float, rate: float | None) -> None:
        constants = self.beta1, self.beta2, self.epsilon
        kernels.adam(self.flat, self._g, self.m, self.v, norm, clip, rate, *constants)

    def _rate(self) -> float:
        return self.learning_rate * (1 - self.beta2**self.steps) ** 0.5 / (1 - self.beta1**self.steps)


def make(
    algorithm: str, parameters: Sequence[Tensor], learning_rate: float, *,
    clip: float, clip_what: str | None = None, momentum: float = 0.99, decay: float = 0.9,
) -> Optimizer:  # fmt: skip
    """The optimizer of a name, with the names of the authors' ``--algorithm``.

    Parameters
    ----------
    algorithm : "adam", "rms_prop", "momentum" or "sgd"
        ValueError for any other.
    clip_what : "step", "gradient" or None
        None: the authors' choice for the algorithm, "step" for Adam and "gradient" for the others.
    momentum, decay : float
        Of `Momentum` and `RMSProp`; the other optimizers have no use for them.
    parameters, learning_rate, clip : those of `Optimizer`
    """
    choices: dict[str, Callable[..., Optimizer]] = {
        "adam": Adam,
        "rms_prop": partial(RMSProp, decay=decay),
        "momentum": partial(Momentum, momentum=momentum),
        "sgd": SGD,
    }
    if algorithm not in choices:
        raise ValueError(f"algorithm must be one of {', '.join(choices)}, got {algorithm!r}")
    options = {} if clip_what is None else {"clip_what": clip_what}
    return choices[algorithm](parameters, learning_rate, clip=clip, **options)


def decayed(learning_rate: float, epoch: int, *, divide_by: float = 1.0, after: int = 0) -> float:
    """The learning rate of an epoch: constant at first, then divided by the same number each epoch.

        learning_rate / divide_by ** max(0, epoch - after)

    Zaremba et al. (2014) divide by 1.15 after epoch 14; so does the paper for word-level Penn Treebank.

    Parameters
    ----------
    learning_rate, divide_by : float
        ``divide_by`` of 1: no decay; ValueError unless it is above 0.
    epoch, after : int
        Counted from 1, or ValueError; ``after`` is the last epoch with the full learning rate.
    """
    if epoch < 1:
        raise ValueError(f"epochs are counted from 1, got {epoch}")
    if not divide_by > 0:
        raise ValueError(f"divide_by must be above 0, got {divide_by}")
    try:
        return learning_rate / divide_by ** max(0, epoch - after)
    except OverflowError:  # divided by more than a float can be
        return 0.0


def _check_below_one(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"{name} must be in [0, 1), got {value}")


def _flatten(parameters: Sequence[Tensor]) -> Array:
    """All parameters in one new array (N,); their ``data`` become views of it."""
    if len({id(p) for p in parameters}) < len(parameters):
        raise ValueError("a parameter is given twice")
    xp = array_module(*(p.data for p in parameters))
    flat = xp.concatenate([p.data.reshape(-1) for p in parameters])
    start = 0
    for p in parameters:
        p.data = flat[start : start + p.data.size].reshape(p.shape)
        start += p.data.size
    return flat


def _gather_gradients(parameters: Sequence[Tensor], out: Array) -> None:
    """Move the gradients of the parameters into ``out`` (N,), in their order; all of them, or ValueError and none."""
    for k, p in enumerate(parameters):
        if p.grad is None:
            raise ValueError(f"parameter {k} of shape {p.shape} has no gradient: call backward() first")
    start = 0
    for p in parameters:
        out[start : start + p.data.size].reshape(p.shape)[...] = p.grad
        p.grad = None
        start += p.data.size
