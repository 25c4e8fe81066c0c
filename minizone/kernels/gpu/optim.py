"""The optimizers' arithmetic on a GPU: the functions of `cpu_optim`, each one kernel.

The host does not know the norm: it is an array (), and a kernel that finds it not finite changes nothing.
"""

from __future__ import annotations

from minizone.backend import Array, array_module
from minizone.kernels.gpu.cuda import Kernel

_LIMITS = "T norm, T clip, T rate, bool subtract"
_PREAMBLE = """
template <typename T> __device__ T shortened(T g, T norm, T clip) {
    return 0 < clip && clip < norm ? g * (clip / norm) : g;
}
"""


def _optimizer(name: str, in_params: str, buffers: str, direction: str) -> Kernel:
    """A kernel from the lines that turn the shortened gradient ``g`` into the direction."""
    body = f"""
    if (isfinite(norm)) {{
        g = shortened(T(g), norm, clip);
        {direction}
        if (subtract) p -= rate * g;
    }}
    """
    return Kernel(name, ", ".join(filter(None, (_LIMITS, in_params))), "T p, T g" + buffers, body, _PREAMBLE)


_SGD = _optimizer("sgd", "", "", "")


def sgd(p: Array, g: Array, norm: Array, clip: float, rate: float | None) -> None:
    """As `cpu_optim.sgd`."""
    _SGD(*_limits(norm, clip, rate), p, g)


_MOMENTUM = _optimizer(
    "momentum", "T learning_rate, T mu", ", T velocity", "g = velocity = mu * velocity + learning_rate * g;"
)


def momentum(
    p: Array, g: Array, velocity: Array, norm: Array, clip: float, rate: float | None, learning_rate: float, mu: float
) -> None:
    """As `cpu_optim.momentum`."""
    _MOMENTUM(*_limits(norm, clip, rate), learning_rate, mu, p, g, velocity)


_RMS_PROP = _optimizer(
    "rms_prop",
    "T decay, T rest, T floor",
    ", T ms",
    "ms = decay * ms + rest * g * g;  g /= max(sqrt(ms), floor);",
)


def rms_prop(
    p: Array, g: Array, ms: Array, norm: Array, clip: float, rate: float | None, decay: float, floor: float
) -> None:
    """As `cpu_optim.rms_prop`."""
    _RMS_PROP(*_limits(norm, clip, rate), decay, 1 - decay, floor, p, g, ms)


_ADAM = _optimizer(
    "adam",
    "T beta1, T rest1, T beta2, T rest2, T epsilon",
    ", T m, T v",
    "m = beta1 * m + rest1 * g;  v = beta2 * v + rest2 * g * g;  g = m / (sqrt(v) + epsilon);",
)


def adam(
    p: Array, g: Array, m: Array, v: Array,
    norm: Array, clip: float, rate: float | None, beta1: float, beta2: float, epsilon: float,
) -> None:  # fmt: skip
    """As `cpu_optim.adam`."""
    _ADAM(*_limits(norm, clip, rate), beta1, 1 - beta1, beta2, 1 - beta2, epsilon, p, g, m, v)


_STEP_CLIPPED = Kernel(
    "step_clipped",
    "T g, T norm, T direction_norm, T clip, T rate",
    "T p",
    """
    const T length = rate * direction_norm;
    if (isfinite(norm)) p -= g * (length > clip ? rate * clip / length : rate);
    """,
)


def step_clipped(p: Array, g: Array, norm: Array, direction_norm: Array, clip: float, rate: float) -> None:
    """As `cpu_optim.step_clipped`."""
    _STEP_CLIPPED(g, norm, direction_norm, clip, rate, p)


def norm(g: Array) -> Array:
    """The L2 norm, an array () that stays on the device."""
    return array_module(g).sqrt(g @ g)


def _limits(norm: Array, clip: float, rate: float | None) -> tuple[Array, float, float, bool]:
    return norm, clip, 0.0 if rate is None else rate, rate is not None
