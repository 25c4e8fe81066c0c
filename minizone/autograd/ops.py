"""Primitive differentiable operations: each a mirrored pair, the derivative right under the value.

``y`` is the output, ``x`` an input, ``gy`` and ``gx`` are dLoss/dy and dLoss/dx. Where shapes broadcast, a backward
returns the gradient of the broadcast shape and `Tensor.backward` sums it down, in one place. Nothing here takes a
complex conjugate or a modulus, so every operation is analytic and can be checked with a complex step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minizone.autograd.tensor import Function, Tensor
from minizone.backend import Array, array_module
from minizone.kernels import kernels_for
from minizone.kernels.stacks import columns


class Add(Function):
    def forward(self, a: Array, b: Array) -> Array:
        return a + b

    def backward(self, gy: Array) -> tuple[Array, Array]:
        return gy, gy


class Subtract(Function):
    def forward(self, a: Array, b: Array) -> Array:
        return a - b

    def backward(self, gy: Array) -> tuple[Array, Array]:
        return gy, -gy


class Multiply(Function):
    def forward(self, a: Array, b: Array) -> Array:
        self.a, self.b = a, b
        return a * b

    def backward(self, gy: Array) -> tuple[Array | None, Array | None]:
        return gy * self.b if self.needs[0] else None, gy * self.a if self.needs[1] else None


class Divide(Function):
    def forward(self, a: Array, b: Array) -> Array:
        self.b, self.y = b, a / b
        return self.y

    def backward(self, gy: Array) -> tuple[Array, Array]:
        ga = gy / self.b
        return ga, -ga * self.y


class Negative(Function):
    def forward(self, x: Array) -> Array:
        return -x

    def backward(self, gy: Array) -> Array:
        return -gy


class Power(Function):
    """``x ** p`` for a constant number p."""

    def __init__(self, p: float):
        self.p = p

    def forward(self, x: Array) -> Array:
        self.x = x
        return x**self.p

    def backward(self, gy: Array) -> Array:
        return gy * (self.p * self.x ** (self.p - 1)) if self.p != 0 else 0 * gy


class MatMul(Function):
    """``a @ b`` with NumPy's rules: 1-D arrays are vectors, leading axes are a stack."""

    def forward(self, a: Array, b: Array) -> Array:
        self.a, self.b = a, b
        self.one_for_all = a.ndim == 2 and b.ndim == 3  # one matrix for a stack: what it multiplies are columns
        self.times_stack = kernels_for(b).times_stack if self.one_for_all else array_module(b).matmul
        return self.times_stack(a, b)

    def backward(self, gy: Array) -> tuple[Array | None, Array | None]:
        a, b, xp = self.a, self.b, array_module(gy)
        if a.ndim == 1 or b.ndim == 1:  # give vectors their second axis, and take it away again
            gy = xp.expand_dims(gy, tuple(axis for axis, v in ((-2, a), (-1, b)) if v.ndim == 1))
        a2 = a[None, :] if a.ndim == 1 else a
        b2 = b[:, None] if b.ndim == 1 else b
        ga = gb = None
        if self.needs[0]:
            ga = columns(gy) @ columns(b).T if self.one_for_all else gy @ xp.swapaxes(b2, -1, -2)
            ga = ga.reshape(ga.shape[:-2] + ga.shape[-1:]) if a.ndim == 1 else ga
        if self.needs[1]:
            gb = self.times_stack(xp.swapaxes(a2, -1, -2), gy)
            gb = gb.reshape(gb.shape[:-1]) if b.ndim == 1 else gb
        return ga, gb


class GetItem(Function):
    """``x[index]``, where the index is anything NumPy accepts."""

    def __init__(self, index: Any):
        self.index = index

    def forward(self, x: Array) -> Array:
        self.x = x
        return x[self.index]

    def backward(self, gy: Array) -> Array:
        xp = array_module(gy)
        gx = xp.zeros_like(self.x)
        parts = self.index if isinstance(self.index, tuple) else (self.index,)
        if all(part is None or part is Ellipsis or isinstance(part, int | slice) for part in parts):
            gx[self.index] = gy
        else:  # a list or array of indices may name an element twice
            xp.add.at(gx, self.index, gy)
        return gx


class Unstack(Function):
    """``x[0], x[1], ...``: one function, where indexing in a loop would make the backward pass quadratic in T."""

    def forward(self, x: Array) -> tuple[Array, ...]:
        self.x = x
        return tuple(x)

    def backward(self, *gys: Array | None) -> Array:
        gx = array_module(self.x).zeros_like(self.x)
        for t, gy in enumerate(gys):
            if gy is not None:
                gx[t] = gy
        return gx


class Stack(Function):
    """The inverse of `Unstack`: arrays of one shape along a new first axis."""

    def forward(self, *xs: Array) -> Array:
        return array_module(*xs).stack(xs)

    def backward(self, gy: Array) -> tuple[Array, ...]:
        return tuple(gy)


class Sum(Function):
    def __init__(self, axis: int | tuple[int, ...] | None, keepdims: bool):
        self.axis, self.keepdims = axis, keepdims

    def forward(self, x: Array) -> Array:
        self.shape = x.shape
        return x.sum(axis=self.axis, keepdims=self.keepdims)

    def backward(self, gy: Array) -> Array:
        xp = array_module(gy)
        if self.axis is not None and not self.keepdims and self.shape:
            axes = self.axis if isinstance(self.axis, tuple) else (self.axis,)
            gy = xp.expand_dims(gy, axes)
        return xp.broadcast_to(gy, self.shape)


class Reshape(Function):
    def __init__(self, shape: tuple[int, ...]):
        self.shape = shape

    def forward(self, x: Array) -> Array:
        self.old = x.shape
        return x.reshape(self.shape)

    def backward(self, gy: Array) -> Array:
        return gy.reshape(self.old)


class Transpose(Function):
    def __init__(self, axes: tuple[int, ...] | None):
        self.axes = axes

    def forward(self, x: Array) -> Array:
        return x.transpose(self.axes)

    def backward(self, gy: Array) -> Array:
        return gy.transpose(None if self.axes is None else np.argsort([axis % gy.ndim for axis in self.axes]))


class Exp(Function):
    def forward(self, x: Array) -> Array:
        self.y = array_module(x).exp(x)
        return self.y

    def backward(self, gy: Array) -> Array:
        return gy * self.y


class Log(Function):
    def forward(self, x: Array) -> Array:
        self.x = x
        return array_module(x).log(x)

    def backward(self, gy: Array) -> Array:
        return gy / self.x


class Tanh(Function):
    def forward(self, x: Array) -> Array:
        self.y = array_module(x).tanh(x)
        return self.y

    def backward(self, gy: Array) -> Array:
        return gy * (1 - self.y * self.y)


class Sigmoid(Function):
    """``1 / (1 + exp(-x))``, written as a tanh: exact at both ends, and no overflow in between."""

    def forward(self, x: Array) -> Array:
        self.y = 0.5 * array_module(x).tanh(0.5 * x) + 0.5
        return self.y

    def backward(self, gy: Array) -> Array:
        return gy * (self.y * (1 - self.y))


class Relu(Function):
    """``x`` where its real part is positive, else 0."""

    def forward(self, x: Array) -> Array:
        self.positive = x.real > 0
        return array_module(x).where(self.positive, x, x.dtype.type(0))  # not a product: -inf * 0 is NaN

    def backward(self, gy: Array) -> Array:
        return gy * self.positive


class SoftmaxCrossEntropy(Function):
    """Mean over all T*B columns of -log softmax(scores)[target], in nats; scores (T, V, B), integer targets (T, B)."""

    def forward(self, scores: Array, targets: Array) -> Array:
        if targets.shape != scores.shape[:-2] + scores.shape[-1:]:
            raise ValueError("targets must have the shape of the scores without the axis of the classes")
        if targets.dtype.kind not in "iu":
            raise TypeError(f"SoftmaxCrossEntropy: targets must be integers, got {targets.dtype}")
        if not targets.size:
            raise ValueError("a mean needs at least one column")
        self.kernels, self.targets = kernels_for(scores), targets
        self.p, loss = self.kernels.cross_entropy_forward(scores, targets)
        return loss

    def backward(self, gy: Array) -> tuple[Array, None]:
        return self.kernels.cross_entropy_backward(self.p, self.targets, gy), None


def add(a: Any, b: Any) -> Tensor:
    return Add()(a, b)


def subtract(a: Any, b: Any) -> Tensor:
    return Subtract()(a, b)


def multiply(a: Any, b: Any) -> Tensor:
    return Multiply()(a, b)


def divide(a: Any, b: Any) -> Tensor:
    return Divide()(a, b)


def negative(x: Tensor) -> Tensor:
    return Negative()(x)


def power(x: Tensor, p: float) -> Tensor:
    return Power(p.item() if isinstance(p, np.generic) else p)(x)


def matmul(a: Any, b: Any) -> Tensor:
    return MatMul()(a, b)


def get_item(x: Tensor, index: Any) -> Tensor:
    return GetItem(index)(x)


def unstack(x: Tensor) -> tuple[Tensor, ...]:
    """The T tensors ``x[0] ... x[T-1]``."""
    return Unstack()(x)


def stack(xs: list[Tensor]) -> Tensor:
    """Tensors of one shape, as one tensor with a new first axis."""
    return Stack()(*xs)


def sum(x: Tensor, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Tensor:
    return Sum(axis, keepdims)(x)


def mean(x: Tensor, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Tensor:
    total = sum(x, axis, keepdims)
    return total * (total.data.size / max(1, x.data.size))


def reshape(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    return Reshape(shape)(x)


def transpose(x: Tensor, axes: tuple[int, ...] | None = None) -> Tensor:
    return Transpose(axes)(x)


def exp(x: Tensor) -> Tensor:
    return Exp()(x)


def log(x: Tensor) -> Tensor:
    return Log()(x)


def tanh(x: Tensor) -> Tensor:
    return Tanh()(x)


def sigmoid(x: Tensor) -> Tensor:
    return Sigmoid()(x)


def relu(x: Tensor) -> Tensor:
    return Relu()(x)


def softmax_cross_entropy(scores: Tensor, targets: Array) -> Tensor:
    """Mean cross-entropy in nats of scores (T, V, B) against integer targets (T, B). Divide by ln 2 for bits."""
    return SoftmaxCrossEntropy()(scores, targets)


# The operators and methods of Tensor. They are attached here: tensor.py cannot import this file, which builds on it.
OPERATORS: dict[str, Callable[..., Tensor]] = {
    "__add__": add,
    "__radd__": lambda b, a: add(a, b),
    "__sub__": subtract,
    "__rsub__": lambda b, a: subtract(a, b),
    "__mul__": multiply,
    "__rmul__": lambda b, a: multiply(a, b),
    "__truediv__": divide,
    "__rtruediv__": lambda b, a: divide(a, b),
    "__matmul__": matmul,
    "__rmatmul__": lambda b, a: matmul(a, b),
    "__pow__": power,
    "__neg__": negative,
    "__getitem__": get_item,
    "sum": sum,
    "mean": mean,
    "reshape": lambda x, *shape: reshape(x, _unpacked(shape)),
    "transpose": lambda x, *axes: transpose(x, _unpacked(axes) or None),
}


def _unpacked(numbers: tuple[Any, ...]) -> tuple[int, ...]:
    """Both ``x.reshape(2, 3)`` and ``x.reshape((2, 3))`` are allowed, as in NumPy."""
    return numbers[0] if len(numbers) == 1 and isinstance(numbers[0], tuple) else numbers


for _name, _operator in OPERATORS.items():
    setattr(Tensor, _name, _operator)
