"""Check the gradients of a function against numerical derivatives.

The complex step: for an analytic function f of real numbers, f(x + ih) = f(x) + ih f'(x) - O(h^2), so the derivative is
Im f(x + ih) / h. Nothing is subtracted, so h can be 1e-20 and the result is exact up to rounding.

Central differences, (f(x + h) - f(x - h)) / 2h, subtract two nearly equal numbers and are exact to about 1e-10 at best.
Use them for functions that are not analytic: a maximum, an absolute value, a comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from minizone.autograd.tensor import Tensor, no_grad

Outputs = Tensor | tuple[Tensor, ...]
Method = Literal["complex", "difference"]

COMPLEX_STEP = 1e-20
DIFFERENCE_STEP = 1e-6
TOLERANCE = {"complex": 1e-9, "difference": 1e-6}  # default of rtol
# Derivatives below this fraction of the terms of L count as rounding errors of terms that cancel.
NEGLIGIBLE = {"complex": 1e-6, "difference": 1e-3}


class GradientError(AssertionError):
    """A gradient is wrong. The message names the argument and the element and gives both numbers."""


def gradcheck(
    f: Callable[..., Outputs],
    *arrays: ArrayLike,
    method: Method = "complex",
    rtol: float | None = None,
    directions: int | None = None,
    names: Sequence[str] | None = None,
    seed: int = 0,
) -> float:
    """Raise `GradientError` unless the gradients of ``f`` match numerical derivatives, for every floating argument.

    The outputs are multiplied by fixed random weights and summed to one number L. For each argument, dL/d(argument)
    from ``backward`` is compared with the derivative of L along every element, or along random directions.

    Parameters
    ----------
    f : callable
        Takes a `Tensor` for each array and returns a `Tensor` or a tuple of them. It must not draw random numbers:
        pass masks as arrays. Arrays of integers and booleans are passed as they are and not differentiated.
    *arrays : array_like
        The arguments; floating ones are converted to float64.
    method : "complex" or "difference"
        Complex step, or central differences with a step of 1e-6.
    rtol : float, optional
        Allowed error, relative to the largest derivative with respect to the argument, or to a fraction of the terms
        of L (1e-6, or 1e-3 for differences) if that is larger. Default: 1e-9, or 1e-6 for differences.
    directions : int, optional
        Check this many random directions of each argument instead of every element. For large arrays.
    names : sequence of str, optional
        Names of the arguments in error messages. Default: "argument 0", ...
    seed : int
        Seed of the random weights and directions.

    Returns
    -------
    float
        The largest relative error.

    Raises
    ------
    GradientError
        If an error exceeds ``rtol``, or a gradient is missing, not finite, or not of the shape of its argument.
    ValueError
        If ``method`` is unknown or ``directions`` is less than 1.
    """
    if method not in ("complex", "difference"):
        raise ValueError(f'gradcheck: method must be "complex" or "difference", got {method!r}')
    if directions is not None and directions < 1:
        raise ValueError(f"gradcheck: directions must be at least 1, got {directions}")
    rtol = TOLERANCE[method] if rtol is None else rtol
    rng = np.random.default_rng(seed)
    values = [np.asarray(a) if np.asarray(a).dtype.kind in "iub" else np.array(a, np.float64) for a in arrays]
    names = names or [f"argument {k}" for k in range(len(values))]

    tensors = [Tensor(v) if v.dtype == np.float64 else v for v in values]
    outputs = _as_tuple(f(*tensors))
    weights = [rng.standard_normal(y.shape) for y in outputs]
    loss = sum(((y * w).sum() for y, w in zip(outputs, weights, strict=True)), start=Tensor(np.zeros(())))
    try:
        loss.backward()
    except ValueError as error:
        raise GradientError(str(error)) from error
    terms = float(sum(np.abs(y.data * w).sum() for y, w in zip(outputs, weights, strict=True)))

    def loss_with(k: int, value: np.ndarray) -> complex:
        """L with ``value`` in place of argument k."""
        with no_grad():
            outputs = _as_tuple(f(*(Tensor(value) if j == k else t for j, t in enumerate(tensors))))
        return sum((y.data * w).sum() for y, w in zip(outputs, weights, strict=True))

    worst = 0.0
    for k, (x, tensor) in enumerate(zip(values, tensors, strict=True)):
        if not isinstance(tensor, Tensor):
            continue
        gradient = _checked(names[k], tensor.grad, x.shape)
        steps = _steps(x.shape, directions, rng)
        numeric = np.array([_derivative(partial(loss_with, k), x, step, method) for _, step in steps])
        analytic = np.array([(gradient * step).sum() for _, step in steps])
        scale = max(np.abs(numeric).max(initial=0), np.abs(analytic).max(initial=0), NEGLIGIBLE[method] * terms)
        if scale == 0 or not steps:
            continue
        errors = np.abs(numeric - analytic) / scale
        largest = int(errors.argmax())
        if not errors[largest] <= rtol:  # true for NaN as well
            raise GradientError(
                f"{names[k]}, {steps[largest][0]}: backward gives {analytic[largest]:.12g}, the {method} check"
                f" {numeric[largest]:.12g} (relative error {errors[largest]:.1e}, allowed {rtol:.0e})"
            )
        worst = max(worst, float(errors[largest]))
    return worst


def _as_tuple(outputs: Outputs) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def _checked(name: str, gradient: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
    """The gradient; GradientError if it is missing, not finite or of another shape."""
    if gradient is None:
        raise GradientError(f"{name}: backward computed no gradient")
    if gradient.shape != shape:
        raise GradientError(f"{name}: the gradient from backward has shape {gradient.shape}, the argument {shape}")
    if not np.isfinite(gradient).all():
        raise GradientError(f"{name}: the gradient from backward is not finite")
    return gradient


def _steps(shape: tuple[int, ...], count: int | None, rng: np.random.Generator) -> list[tuple[str, np.ndarray]]:
    """Names and directions, each of this shape: the unit vector of each element, or ``count`` random directions."""
    if count is not None:
        return [(f"random direction {n}", rng.standard_normal(shape)) for n in range(count)]
    steps = []
    for index in np.ndindex(shape):
        unit = np.zeros(shape)
        unit[index] = 1.0
        steps.append((f"element {index}", unit))
    return steps


def _derivative(f: Callable[[np.ndarray], complex], x: np.ndarray, direction: np.ndarray, method: Method) -> float:
    """The derivative of f at x along ``direction``."""
    if method == "complex":
        return float(np.imag(f(x + 1j * COMPLEX_STEP * direction)) / COMPLEX_STEP)
    h = DIFFERENCE_STEP
    return float((f(x + h * direction) - f(x - h * direction)).real / (2 * h))
