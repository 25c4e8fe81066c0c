"""Is a hand-written gradient right? Compare it with derivatives that were not written by hand.

The complex step. For an analytic f of real numbers, f(x + ih) = f(x) + ih f'(x) - O(h^2), so Im f(x + ih) / h is the
derivative: nothing is subtracted, nothing cancels, h can be 1e-20 and the result is good to rounding error. A finite
difference subtracts two nearly equal numbers and is good to about 1e-10 at best; it is here for functions that are
not analytic (a maximum, an absolute value, a comparison).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from minizone.autograd.tensor import Tensor, no_grad


class GradientError(AssertionError):
    """A gradient is wrong; the message names the argument and the element and gives both numbers."""


def gradcheck(
    f: Callable[..., Any],
    *arrays: Any,
    method: str = "complex",
    rtol: float | None = None,
    directions: int | None = None,
    names: Sequence[str] | None = None,
    seed: int = 0,
) -> float:
    """Raise unless the backward pass of ``f`` agrees with its derivative, in every floating argument.

    The outputs are contracted with fixed random weights to one number L. For each argument, dL/d(argument) from
    ``backward`` is compared with the derivative of L along every element, or along random directions.

    Parameters
    ----------
    f : callable
        Takes one `Tensor` for each array and returns a `Tensor` or a tuple of them. It must draw nothing at random:
        pass masks in. Integer arrays are passed through as they are, and not differentiated.
    *arrays : array_like
        Where to check; computed in float64.
    method : "complex" or "difference"
        Complex step, or central differences with a step of 1e-6.
    rtol : float, optional
        Allowed error, relative to the largest derivative of the argument (or, where that is smaller, to
        10^-6 of the terms of L, 10^-3 for "difference"); 1e-9 ("complex") or 1e-6 ("difference").
    directions : int, optional
        Number of random directions an argument, for arrays too large to go through by elements (the default).
    names : sequence of str, optional
        Names of the arguments for the message; "argument 0", ... otherwise.

    Returns
    -------
    float
        The largest relative error that was found.

    Raises
    ------
    GradientError
        When an error exceeds ``rtol``, a gradient is missing, not finite, or not of the shape of its argument.
    """
    if method not in ("complex", "difference"):
        raise ValueError(f'gradcheck: method must be "complex" or "difference", got {method!r}')
    if directions is not None and directions < 1:
        raise ValueError(f"gradcheck: directions must be at least 1, got {directions}")
    rtol = {"complex": 1e-9, "difference": 1e-6}[method] if rtol is None else rtol
    rng = np.random.default_rng(seed)
    values = [np.asarray(a) if np.asarray(a).dtype.kind in "iub" else np.array(a, np.float64) for a in arrays]
    checked = [k for k, v in enumerate(values) if v.dtype == np.float64]
    names = names or [f"argument {k}" for k in range(len(values))]

    tensors: list[Any] = [Tensor(v) if k in checked else v for k, v in enumerate(values)]
    outputs = _as_tuple(f(*tensors))
    weights = [rng.standard_normal(y.shape) for y in outputs]
    loss = sum(((y * w).sum() for y, w in zip(outputs, weights, strict=True)), start=Tensor(np.zeros(())))
    try:
        loss.backward()
    except ValueError as error:
        raise GradientError(str(error)) from error
    # Below this a derivative is rounding error, of terms of the loss that cancel.
    negligible = {"complex": 1e-6, "difference": 1e-3}[method] * float(
        sum(np.abs(y.data * w).sum() for y, w in zip(outputs, weights, strict=True))
    )

    def contracted(k: int, value: np.ndarray) -> Any:
        """L with argument k replaced."""
        with no_grad():
            moved = _as_tuple(f(*(Tensor(value) if j == k else t for j, t in enumerate(tensors))))
        return sum((y.data * w).sum() for y, w in zip(moved, weights, strict=True))

    worst = 0.0
    for k in checked:
        gradient = tensors[k].grad
        if gradient is None:
            raise GradientError(f"{names[k]}: backward left no gradient")
        if gradient.shape != values[k].shape:
            raise GradientError(f"{names[k]}: gradient of shape {gradient.shape} for shape {values[k].shape}")
        if not np.isfinite(gradient).all():
            raise GradientError(f"{names[k]}: the gradient from backward is not finite")
        steps = _directions(values[k].shape, directions, rng)
        numeric = np.array([_derivative(partial(contracted, k), values[k], d, method) for _, d in steps])
        analytic = np.array([(gradient * d).sum() for _, d in steps])
        scale = max(np.abs(numeric).max(initial=0.0), np.abs(analytic).max(initial=0.0), negligible)
        if scale == 0.0 or not steps:
            continue
        errors = np.abs(numeric - analytic) / scale
        at = int(errors.argmax())
        if not errors[at] <= rtol:
            raise GradientError(
                f"{names[k]}, {steps[at][0]}: backward gives {analytic[at]:.12g}, the {method} check {numeric[at]:.12g}"
                f" (relative error {errors[at]:.1e}, allowed {rtol:.0e})"
            )
        worst = max(worst, float(errors[at]))
    return worst


def _as_tuple(outputs: Any) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def _directions(shape: tuple[int, ...], count: int | None, rng: np.random.Generator) -> list[tuple[str, np.ndarray]]:
    """What to move along: every element by itself, or ``count`` random directions; each with a name."""
    if count is not None:
        return [(f"random direction {n}", rng.standard_normal(shape)) for n in range(count)]
    steps = []
    for index in np.ndindex(shape):
        unit = np.zeros(shape)
        unit[index] = 1.0
        steps.append((f"element {index}", unit))
    return steps


def _derivative(f: Callable[[np.ndarray], Any], x: np.ndarray, direction: np.ndarray, method: str) -> float:
    """The derivative of f at x along the direction."""
    if method == "complex":
        h = 1e-20
        return float(np.imag(f(x + 1j * h * direction)) / h)
    h = 1e-6
    return float((f(x + h * direction) - f(x - h * direction)) / (2 * h))
