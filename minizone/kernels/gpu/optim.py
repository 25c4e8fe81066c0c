"""The optimizers on a GPU: the norm, which stays on the device, and one kernel for each formula of `minizone.optim`.

The host does not wait for the norm, so it cannot skip an update if the norm is not finite. The kernels skip it:
`clip_factor` is then NaN, the gradient times this factor is NaN, and nothing changes where it is NaN.
"""

from __future__ import annotations

from collections.abc import Sequence

from minizone.backend import Array, array_module
from minizone.kernels.gpu.cuda import Kernel


def norm(arrays: Sequence[Array]) -> Array:
    """The L2 norm of all elements of the arrays together, an array () on the device."""
    squares = [a.reshape(-1) @ a.reshape(-1) for a in arrays]
    return array_module(*arrays).sqrt(sum(squares[1:], start=squares[0]))


_CLIP_FACTOR = Kernel(
    "clip_factor",
    "T norm, T clip",
    "T factor",
    'factor = !isfinite(norm) ? T(nan("")) : 0 < clip && clip < norm ? clip / norm : T(1);',
)


def clip_factor(norm: Array, clip: float) -> Array:
    """The factor that scales arrays of this norm down to the norm ``clip``; 1 if ``norm <= clip`` or ``clip`` is 0.

    NaN if the norm is not finite.
    """
    factor = array_module(norm).empty_like(norm)  # ()
    _CLIP_FACTOR(norm, clip, factor)
    return factor


def _update(name: str, constants: str, averages: str, formula: str) -> Kernel:
    """A kernel from the statements that compute ``step`` and the averages from the gradient g, unless g is NaN."""
    body = f"step = 0; if (!isnan(g)) {{ {formula} }}"
    return Kernel(name, "T g, " + constants, averages + "T step", body)


_SGD = _update("sgd", "T rate", "", "step = rate * g;")


def sgd(g: Array, rate: float) -> Array:
    """The step of `minizone.optim.SGD`."""
    step = array_module(g).empty_like(g)
    _SGD(g, rate, step)
    return step


_MOMENTUM = _update("momentum", "T rate, T mu", "T velocity, ", "velocity = mu * velocity + rate * g; step = velocity;")


def momentum(g: Array, velocity: Array, rate: float, momentum: float) -> Array:
    """The step of `minizone.optim.Momentum`; changes ``velocity``."""
    step = array_module(g).empty_like(g)
    _MOMENTUM(g, rate, momentum, velocity, step)
    return step


_RMS_PROP = _update(  # max() of NaN and the floor would be the floor
    "rms_prop",
    "T rate, T decay, T rest, T floor",
    "T ms, ",
    "ms = decay * ms + rest * g * g; step = rate * g / (sqrt(ms) < floor ? floor : sqrt(ms));",
)


def rms_prop(g: Array, ms: Array, rate: float, decay: float, floor: float) -> Array:
    """The step of `minizone.optim.RMSProp`; changes ``ms``."""
    step = array_module(g).empty_like(g)
    _RMS_PROP(g, rate, decay, 1 - decay, floor, ms, step)
    return step


_ADAM = _update(
    "adam",
    "T rate, T beta1, T rest1, T beta2, T rest2, T epsilon",
    "T m, T v, ",
    "m = beta1 * m + rest1 * g; v = beta2 * v + rest2 * g * g; step = rate * m / (sqrt(v) + epsilon);",
)


def adam(g: Array, m: Array, v: Array, rate: float, beta1: float, beta2: float, epsilon: float) -> Array:
    """The step of `minizone.optim.Adam`; changes ``m`` and ``v``."""
    step = array_module(g).empty_like(g)
    _ADAM(g, rate, beta1, 1 - beta1, beta2, 1 - beta2, epsilon, m, v, step)
    return step
