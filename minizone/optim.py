"""Optimizers: stochastic gradient descent, momentum, RMSProp and Adam, each with its formula.

One step, for each parameter p with the gradient g and its own arrays of moving averages:

    step = update(g, averages)        the formula of the optimizer
    p = p - step

Either the gradient or the step is clipped: scaled down to a maximum L2 norm over all parameters together. The choice
matters: the authors clip the step of Adam, and the gradient in the other optimizers (docs/original-code.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from minizone.autograd.tensor import Tensor
from minizone.backend import Array, array_module
from minizone.kernels import gpu, kernels_for
from minizone.kernels.gpu import optim as fused

PIECE = 65536  # elements of a parameter that are updated at a time, so that all their arrays stay in a core's cache


class Optimizer:
    """Base class of the optimizers: takes the gradients, clips, subtracts the steps and saves the averages.

    A subclass defines the formula in `update`, and the same formula as one CUDA kernel in `fused_update`.

    Parameters
    ----------
    parameters : sequence of Tensor
        `step` changes their ``data`` in place.
    learning_rate : float
        A plain attribute, which you may change between two steps.
    clip : float
        Maximum L2 norm of the gradient or the step, over all parameters together; 0: no clipping.
    clip_what : "gradient" or "step"
        "gradient": the gradient is scaled down before the optimizer uses it. "step": the step is scaled down before it
        is subtracted; the moving averages are those of the unclipped gradient.

    Attributes
    ----------
    steps : int
        Number of updates so far.
    averages : list of tuples of arrays
        For each parameter, arrays of its shape that are kept between steps, in the order of ``AVERAGES``, which has
        their names. They are initially zero, and float32 for float16 parameters.

    For float16 parameters everything is computed in float32, and only the new parameters are rounded.

    Raises ValueError for a negative ``clip`` or ``learning_rate``, an unknown ``clip_what``, or parameters that share
    an array.
    """

    AVERAGES: tuple[str, ...] = ()

    def __init__(
        self, parameters: Sequence[Tensor], learning_rate: float, *, clip: float = 0.0, clip_what: str = "gradient"
    ):
        if clip_what not in ("step", "gradient"):
            raise ValueError(f'clip_what must be "step" or "gradient", got {clip_what!r}')
        if not clip >= 0:  # true for NaN as well
            raise ValueError(f"clip must be 0 (none) or more, got {clip}")
        if not learning_rate >= 0:
            raise ValueError(f"learning_rate must be 0 or more, got {learning_rate}")
        self.parameters = list(parameters)
        if len({id(p.version) for p in self.parameters}) < len(self.parameters):
            raise ValueError("a parameter is given twice, or two parameters share one array")
        self.learning_rate = learning_rate
        self.clip = clip
        self.clip_what = clip_what
        self.steps = 0
        self.averages = [
            tuple(array_module(p.data).zeros_like(_at_least_float32(p.data)) for _ in self.AVERAGES)
            for p in self.parameters
        ]

    def update(self, g: Array, *averages: Array) -> Array:
        """The step for a parameter, or a piece of one, with the gradient g. Changes its averages in place."""
        raise NotImplementedError

    def fused_update(self, g: Array, *averages: Array) -> Array:
        """The same on a GPU, in one kernel. Where g is NaN, the step is 0 and the averages do not change."""
        raise NotImplementedError

    def step(self) -> float | Array:
        """Update the parameters from their ``grad``, set each ``grad`` to None, and return the L2 norm of the gradient.

        The norm is a float; on a GPU it is an array (), not yet copied to the host. If the norm is not finite, no
        parameter and no average changes. (On a GPU, ``steps`` counts such an update.) A parameter whose ``grad`` is
        None does not change. The loss does not depend on it: for example, the initial state of a layer that was called
        with a state.

        Raises ValueError if no parameter has a gradient.
        """
        used = [k for k, p in enumerate(self.parameters) if p.grad is not None]
        if not used:
            raise ValueError("no parameter has a gradient: call backward() first")
        parameters = [self.parameters[k] for k in used]
        averages = [self.averages[k] for k in used]
        arrays = [p.data for p in parameters]
        gradients = [_at_least_float32(p.grad) for p in parameters]
        for p in parameters:
            p.grad = None

        kernels = kernels_for(gradients[0])
        norm = kernels.norm(gradients)
        if isinstance(norm, float) and not math.isfinite(norm):
            return norm
        self.steps += 1
        if self.clip_what == "gradient":
            factor = kernels.clip_factor(norm, self.clip)
            for p_piece, step in self._updates(arrays, gradients, averages, factor):
                p_piece -= step
        else:
            steps = [array_module(g).empty_like(p, dtype=g.dtype) for p, g in zip(arrays, gradients, strict=True)]
            for piece, step in self._updates(steps, gradients, averages, kernels.clip_factor(norm, 0.0)):
                piece[...] = step
            factor = kernels.clip_factor(kernels.norm(steps), self.clip)
            for p, step in zip(arrays, steps, strict=True):
                step *= factor
                p -= step
        for p in parameters:
            p.mark_changed()
        return norm

    def _updates(
        self, targets: list[Array], gradients: list[Array], averages: list[tuple[Array, ...]], factor: float | Array
    ) -> Iterator[tuple[Array, Array]]:
        """Pairs: an array of ``targets``, or a piece of one, and its step from ``factor`` times the gradient."""
        for target, g, own_averages in zip(targets, gradients, averages, strict=True):
            if kernels_for(g) is gpu:
                yield target, self.fused_update(factor * g, *own_averages)
                continue
            for target_piece, g_piece, *average_pieces in _pieces(target, g, *own_averages):
                yield target_piece, self.update(factor * g_piece, *average_pieces)

    def reset(self) -> None:
        """Set the averages and the number of steps to zero, as in a new optimizer. Parameters and settings stay."""
        self.steps = 0
        for averages in self.averages:
            for average in averages:
                average.fill(0)

    def state_dict(self) -> dict[str, Array]:
        """The averages by names like "m.0" (m of the first parameter), and "steps"; the arrays are not copied."""
        return {**self._named_averages(), "steps": np.array([self.steps])}

    def load_state_dict(self, arrays: Mapping[str, Array]) -> None:
        """Copy the arrays of a `state_dict`. ValueError, without any change, if names or shapes differ."""
        own = self._named_averages()
        names = {*own, "steps"}
        if names != arrays.keys():
            raise ValueError(f"optimizer state has {sorted(arrays)}, expected {sorted(names)}")
        for name, average in own.items():
            if arrays[name].shape != average.shape:
                raise ValueError(f"optimizer state {name} has shape {arrays[name].shape}, expected {average.shape}")
        for name, average in own.items():
            average[...] = array_module(average).asarray(arrays[name])
        self.steps = int(arrays["steps"][0])

    def _named_averages(self) -> dict[str, Array]:
        return {
            f"{name}.{k}": average
            for k, averages in enumerate(self.averages)
            for name, average in zip(self.AVERAGES, averages, strict=True)
        }


class SGD(Optimizer):
    """Stochastic gradient descent; used with `decayed` for word-level Penn Treebank (Zaremba et al., 2014).

        step = learning_rate g

    The parameters are those of `Optimizer`.
    """

    def update(self, g: Array) -> Array:
        return self.learning_rate * g

    def fused_update(self, g: Array) -> Array:
        return fused.sgd(g, self.learning_rate)


class Momentum(Optimizer):
    """Gradient descent with momentum, as in Blocks: the velocity includes the learning rate.

        velocity = momentum velocity + learning_rate g
        step = velocity

    A change of the learning rate therefore takes about ``1 / (1 - momentum)`` steps to take full effect.

    Parameters
    ----------
    momentum : float
        In [0, 1), else ValueError; 0.99 in the authors' scripts. The other parameters are those of `Optimizer`.
    """

    AVERAGES = ("velocity",)

    def __init__(
        self,
        parameters: Sequence[Tensor],
        learning_rate: float,
        *,
        momentum: float = 0.99,
        clip: float = 0.0,
        clip_what: str = "gradient",
    ):
        _check_below_one("momentum", momentum)
        super().__init__(parameters, learning_rate, clip=clip, clip_what=clip_what)
        self.momentum = momentum

    def update(self, g: Array, velocity: Array) -> Array:
        velocity *= self.momentum
        velocity += self.learning_rate * g
        return velocity

    def fused_update(self, g: Array, velocity: Array) -> Array:
        return fused.momentum(g, velocity, self.learning_rate, self.momentum)


class RMSProp(Optimizer):
    """RMSProp (Tieleman and Hinton, 2012), as in Blocks; the authors use it for permuted MNIST.

        ms = decay ms + (1 - decay) g^2
        step = learning_rate g / max(sqrt(ms), 1e-5)

    ``ms``, the mean square of the gradient, starts at 0 without bias correction: with a constant gradient the steps
    shrink from ``learning_rate / sqrt(1 - decay)`` to ``learning_rate``. The small constant is a lower bound; other
    implementations add it.

    Parameters
    ----------
    decay : float
        In [0, 1), else ValueError; 0.5 in the authors' permuted MNIST. The other parameters are those of `Optimizer`.
    """

    AVERAGES = ("ms",)
    FLOOR = 1e-5

    def __init__(
        self,
        parameters: Sequence[Tensor],
        learning_rate: float,
        *,
        decay: float = 0.9,
        clip: float = 0.0,
        clip_what: str = "gradient",
    ):
        _check_below_one("decay", decay)
        super().__init__(parameters, learning_rate, clip=clip, clip_what=clip_what)
        self.decay = decay

    def update(self, g: Array, ms: Array) -> Array:
        xp = array_module(g)
        ms *= self.decay
        ms += (1 - self.decay) * (g * g)
        return self.learning_rate * (g / xp.maximum(xp.sqrt(ms), self.FLOOR))

    def fused_update(self, g: Array, ms: Array) -> Array:
        return fused.rms_prop(g, ms, self.learning_rate, self.decay, self.FLOOR)


class Adam(Optimizer):
    """Adam (Kingma and Ba, 2015), with the clipping of the authors' code or the usual one.

        m = beta1 m + (1 - beta1) g
        v = beta2 v + (1 - beta2) g^2
        step = learning_rate sqrt(1 - beta2^t) / (1 - beta1^t) m / (sqrt(v) + epsilon)

    m and v are moving averages of the gradient and its square; t counts the steps from 1. As in Blocks, the
    bias correction is part of the learning rate, and epsilon is added to sqrt(v) as it is, without bias correction.

    Parameters
    ----------
    beta1, beta2, epsilon : float
        The constants of the formula.
    clip_what : "step" or "gradient"
        "step", the default, is what the authors' code does for Penn Treebank and text8, though the paper says gradient
        clipping. The first steps of the character model have a norm of 4, so a ``clip`` of 1 acts as a warm-up.
    parameters, learning_rate, clip : those of `Optimizer`
    """

    AVERAGES = ("m", "v")

    def __init__(
        self,
        parameters: Sequence[Tensor],
        learning_rate: float,
        *,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        clip: float = 0.0,
        clip_what: str = "step",
    ):
        super().__init__(parameters, learning_rate, clip=clip, clip_what=clip_what)
        self.beta1 = beta1
        self.beta2 = beta2
        self.epsilon = epsilon

    def update(self, g: Array, m: Array, v: Array) -> Array:
        m *= self.beta1
        m += (1 - self.beta1) * g
        v *= self.beta2
        v += (1 - self.beta2) * (g * g)
        return self._corrected_rate() * (m / (array_module(v).sqrt(v) + self.epsilon))

    def fused_update(self, g: Array, m: Array, v: Array) -> Array:
        return fused.adam(g, m, v, self._corrected_rate(), self.beta1, self.beta2, self.epsilon)

    def _corrected_rate(self) -> float:
        """The learning rate with the bias correction of m and v."""
        t = self.steps
        return self.learning_rate * (1 - self.beta2**t) ** 0.5 / (1 - self.beta1**t)


def make(
    algorithm: str,
    parameters: Sequence[Tensor],
    learning_rate: float,
    *,
    clip: float,
    clip_what: str | None = None,
    momentum: float = 0.99,
    decay: float = 0.9,
) -> Optimizer:
    """Make an optimizer from its name in the authors' ``--algorithm``.

    Parameters
    ----------
    algorithm : "adam", "rms_prop", "momentum" or "sgd"
        Any other name raises ValueError.
    clip_what : "step", "gradient" or None
        None: the authors' choice for the algorithm, "step" for Adam and "gradient" for the others.
    momentum, decay : float
        For `Momentum` and `RMSProp`; the other optimizers do not use them.
    parameters, learning_rate, clip : those of `Optimizer`
    """
    if clip_what is None:
        clip_what = "step" if algorithm == "adam" else "gradient"
    if algorithm == "adam":
        return Adam(parameters, learning_rate, clip=clip, clip_what=clip_what)
    if algorithm == "rms_prop":
        return RMSProp(parameters, learning_rate, decay=decay, clip=clip, clip_what=clip_what)
    if algorithm == "momentum":
        return Momentum(parameters, learning_rate, momentum=momentum, clip=clip, clip_what=clip_what)
    if algorithm == "sgd":
        return SGD(parameters, learning_rate, clip=clip, clip_what=clip_what)
    raise ValueError(f"algorithm must be one of adam, rms_prop, momentum, sgd, got {algorithm!r}")


def decayed(learning_rate: float, epoch: int, *, divide_by: float = 1.0, after: int = 0) -> float:
    """The learning rate of an epoch: constant at first, then divided by a constant in each epoch.

        learning_rate / divide_by ** max(0, epoch - after)

    Zaremba et al. (2014) divide by 1.15 after epoch 14; so does the paper for word-level Penn Treebank.

    Parameters
    ----------
    learning_rate, divide_by : float
        ``divide_by`` must be above 0, else ValueError; 1 means no decay.
    epoch, after : int
        ``epoch`` is counted from 1, else ValueError; ``after`` is the last epoch with the full learning rate.
    """
    if epoch < 1:
        raise ValueError(f"epochs are counted from 1, got {epoch}")
    if not divide_by > 0:
        raise ValueError(f"divide_by must be above 0, got {divide_by}")
    try:
        return learning_rate / divide_by ** max(0, epoch - after)
    except OverflowError:  # the divisor is too large for a float
        return 0.0


def _check_below_one(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"{name} must be in [0, 1), got {value}")


def _at_least_float32(array: Array) -> Array:
    """The array itself, or a float32 copy of a float16 array."""
    return array.astype(np.result_type(array.dtype, np.float32), copy=False)


def _pieces(*arrays: Array) -> Iterator[list[Array]]:
    """Split arrays of one shape into views of the same rows, each of about ``PIECE`` elements."""
    arrays = tuple(array_module(a).atleast_1d(a) for a in arrays)
    rows, size = len(arrays[0]), arrays[0].size
    rows_of_piece = max(1, PIECE * rows // max(1, size))
    for start in range(0, rows, rows_of_piece):
        yield [a[start : start + rows_of_piece] for a in arrays]
