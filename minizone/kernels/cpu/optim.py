"""The optimizers' arithmetic on flat arrays (N,), in pieces that stay in the cache.

``p`` the parameters, ``g`` the gradient, used up; ``norm`` its L2 norm, ``clip`` the largest one allowed (0: any): the
gradient is shortened to it first. ``rate``: what the direction is multiplied with before it is subtracted from ``p``;
None: nothing is subtracted, and ``g`` becomes the direction.
"""

from __future__ import annotations

from collections.abc import Iterator

from minizone.backend import Array, array_module

PIECE = 65536  # elements updated at a time: the handful of arrays that one piece touches fit into a core's cache


def sgd(p: Array, g: Array, norm: float, clip: float, rate: float | None) -> None:
    """The direction is the gradient."""
    for (pp, gg), _ in _pieces(p, g):
        _shorten(gg, norm, clip)
        _subtract(pp, gg, rate)


def momentum(
    p: Array, g: Array, velocity: Array, norm: float, clip: float, rate: float | None, learning_rate: float, mu: float
) -> None:
    """``velocity = mu velocity + learning_rate g`` is the direction."""
    for (pp, gg, v), _ in _pieces(p, g, velocity):
        _shorten(gg, norm, clip)
        v *= mu
        gg *= learning_rate
        v += gg
        gg[...] = v
        _subtract(pp, gg, rate)


def rms_prop(
    p: Array, g: Array, ms: Array, norm: float, clip: float, rate: float | None, decay: float, floor: float
) -> None:
    """``ms = decay ms + (1 - decay) g^2``, direction ``g / max(sqrt(ms), floor)``."""
    xp = array_module(g)
    for (pp, gg, mm), s in _pieces(p, g, ms):
        _shorten(gg, norm, clip)
        mm *= decay
        xp.multiply(gg, gg, out=s)
        s *= 1 - decay
        mm += s
        xp.sqrt(mm, out=s)
        xp.maximum(s, floor, out=s)
        gg /= s
        _subtract(pp, gg, rate)


def adam(
    p: Array, g: Array, m: Array, v: Array,
    norm: float, clip: float, rate: float | None, beta1: float, beta2: float, epsilon: float,
) -> None:  # fmt: skip
    """``m = beta1 m + (1 - beta1) g``, ``v = beta2 v + (1 - beta2) g^2``, direction ``m / (sqrt(v) + epsilon)``."""
    xp = array_module(g)
    for (pp, gg, mm, vv), s in _pieces(p, g, m, v):
        _shorten(gg, norm, clip)
        mm *= beta1
        mm += xp.multiply(gg, 1 - beta1, out=s)
        vv *= beta2
        xp.multiply(gg, gg, out=s)
        s *= 1 - beta2
        vv += s
        xp.sqrt(vv, out=s)
        s += epsilon
        xp.divide(mm, s, out=gg)
        _subtract(pp, gg, rate)


def step_clipped(p: Array, g: Array, norm: float, direction_norm: float, clip: float, rate: float) -> None:
    """Subtract ``rate`` times the direction ``g``, or as much of it as is ``clip`` long. ``norm``: of the gradient."""
    length = rate * direction_norm
    g *= rate * clip / length if length > clip else rate
    p -= g


def norm(g: Array) -> float:
    """The L2 norm."""
    return float(array_module(g).sqrt(g @ g))


def _pieces(*arrays: Array) -> Iterator[tuple[tuple[Array, ...], Array]]:
    """The arrays piece by piece, and a scratch piece."""
    N, g = arrays[0].size, arrays[0]
    scratch = array_module(g).empty(min(PIECE, N), g.dtype)
    for start in range(0, N, PIECE):
        stop = min(start + PIECE, N)
        yield tuple(array[start:stop] for array in arrays), scratch[: stop - start]


def _shorten(g: Array, norm: float, clip: float) -> None:
    if 0 < clip < norm:
        g *= clip / norm


def _subtract(p: Array, g: Array, rate: float | None) -> None:
    if rate is not None:
        g *= rate
        p -= g
