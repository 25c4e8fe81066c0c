"""Primitive differentiable operations: first the `Function` classes, then the functions that apply them.

``x`` (or ``a`` and ``b``) are inputs and ``y`` is the output; ``gx`` and ``gy`` are dLoss/dx and dLoss/dy. Operations
on two arrays broadcast them. Their backward returns gradients of the broadcast shape, and `Tensor.backward` sums them
to the shape of the input. No operation takes a complex conjugate or a modulus. All of them are therefore analytic
(`Relu` piecewise), and a complex step can check them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minizone.autograd.tensor import Function, Index, Operand, Tensor, sum_in_float32
from minizone.backend import Array, array_module
from minizone.kernels import kernels_for
from minizone.kernels.stacks import columns


class Add(Function):
    """``y = a + b``."""

    def forward(self, a: Array, b: Array) -> Array:
        return a + b

    def backward(self, gy: Array) -> tuple[Array, Array]:
        return gy, gy


class Subtract(Function):
    """``y = a - b``."""

    def forward(self, a: Array, b: Array) -> Array:
        return a - b

    def backward(self, gy: Array) -> tuple[Array, Array]:
        return gy, -gy


class Multiply(Function):
    """``y = a * b``, elementwise."""

    def forward(self, a: Array, b: Array) -> Array:
        self.a, self.b = a, b
        return a * b

    def backward(self, gy: Array) -> tuple[Array | None, Array | None]:
        return gy * self.b if self.needs[0] else None, gy * self.a if self.needs[1] else None


class Divide(Function):
    """``y = a / b``, elementwise: dy/da = 1 / b, dy/db = -y / b."""

    def forward(self, a: Array, b: Array) -> Array:
        self.b, self.y = b, a / b
        return self.y

    def backward(self, gy: Array) -> tuple[Array, Array]:
        ga = gy / self.b
        return ga, -ga * self.y


class Negative(Function):
    """``y = -x``."""

    def forward(self, x: Array) -> Array:
        return -x

    def backward(self, gy: Array) -> Array:
        return -gy


class Power(Function):
    """``y = a ** b``, elementwise: dy/da = b a^(b-1), dy/db = y log(a).

    At a = 0, the products 0 a^(-1) and 0 log(0) are taken to be 0, as in PyTorch.
    """

    def forward(self, a: Array, b: Array) -> Array:
        self.a, self.b, self.y = a, b, a**b
        return self.y

    def backward(self, gy: Array) -> tuple[Array | None, Array | None]:
        xp, a, b = array_module(gy), self.a, self.b
        ga = gb = None
        if self.needs[0]:
            ga = gy * (b * a ** (b - 1 + (b == 0)))
        if self.needs[1]:
            a = xp.asarray(a, gy.dtype)
            gb = gy * (self.y * xp.log(a + (a == 0)))
        return ga, gb


class MatMul(Function):
    """``y = a @ b`` as in NumPy: one-dimensional arrays are vectors, leading axes are a stack of matrices.

    The usual case is one matrix for a whole sequence: a (M, K), b (T, K, B), y (T, M, B).
    """

    def forward(self, a: Array, b: Array) -> Array:
        self.a, self.b = a, b
        self.matrix_times_stack = a.ndim == 2 and b.ndim == 3
        self.matmul = kernels_for(b).times_stack if self.matrix_times_stack else array_module(b).matmul
        return self.matmul(a, b)

    def backward(self, gy: Array) -> tuple[Array | None, Array | None]:
        a, b, xp = self.a, self.b, array_module(gy)
        a2 = a[None, :] if a.ndim == 1 else a  # (..., M, K)
        b2 = b[:, None] if b.ndim == 1 else b  # (..., K, N)
        if b.ndim == 1:
            gy = xp.expand_dims(gy, -1)
        if a.ndim == 1:
            gy = xp.expand_dims(gy, -2)  # (..., M, N)
        ga = gb = None
        if self.needs[0]:
            ga = columns(gy) @ columns(b).T if self.matrix_times_stack else gy @ xp.swapaxes(b2, -1, -2)
            if a.ndim == 1:
                ga = ga.reshape(ga.shape[:-2] + ga.shape[-1:])
        if self.needs[1]:
            gb = self.matmul(xp.swapaxes(a2, -1, -2), gy)
            if b.ndim == 1:
                gb = gb.reshape(gb.shape[:-1])
        return ga, gb


class GetItem(Function):
    """``y = x[index]``, for every index that NumPy accepts."""

    def __init__(self, index: Index):
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
        else:  # a list or an array of indices may select an element twice
            xp.add.at(gx, self.index, gy)
        return gx


class Unstack(Function):
    """``x[0], x[1], ...`` for x (T, ...).

    This is one function because each of T `GetItem` functions would return a gradient of the whole x: O(T^2) in time.
    """

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
    """Join arrays of the same shape along a new first axis; the inverse of `Unstack`."""

    def forward(self, *xs: Array) -> Array:
        return array_module(*xs).stack(xs)

    def backward(self, gy: Array) -> tuple[Array, ...]:
        return tuple(gy)


class Sum(Function):
    """The sum, or the mean, over one axis, several axes or (None) all axes. float16 is summed in float32."""

    def __init__(self, axis: int | tuple[int, ...] | None, keepdims: bool, mean: bool = False):
        self.axis, self.keepdims, self.mean = axis, keepdims, mean

    def forward(self, x: Array) -> Array:
        self.shape = x.shape
        y = sum_in_float32(x, self.axis, self.keepdims)
        if self.mean:
            self.share = y.size / max(1, x.size)
            y = y * self.share
        return y.astype(x.dtype) if x.dtype == np.float16 else y

    def backward(self, gy: Array) -> Array:
        if self.mean:
            gy = gy * self.share
        xp = array_module(gy)
        if self.axis is not None and not self.keepdims and self.shape:
            axes = self.axis if isinstance(self.axis, tuple) else (self.axis,)
            gy = xp.expand_dims(gy, axes)
        return xp.broadcast_to(gy, self.shape)


class Reshape(Function):
    """The same elements in the same order in another shape."""

    def __init__(self, shape: tuple[int, ...]):
        self.shape = shape

    def forward(self, x: Array) -> Array:
        self.old_shape = x.shape
        return x.reshape(self.shape)

    def backward(self, gy: Array) -> Array:
        return gy.reshape(self.old_shape)


class Transpose(Function):
    """Permute the axes; None reverses them."""

    def __init__(self, axes: tuple[int, ...] | None):
        self.axes = axes

    def forward(self, x: Array) -> Array:
        return x.transpose(self.axes)

    def backward(self, gy: Array) -> Array:
        if self.axes is None:
            return gy.transpose()
        return gy.transpose(np.argsort([axis % gy.ndim for axis in self.axes]))  # the inverse permutation


class Exp(Function):
    """``y = exp(x)``: dy/dx = y."""

    def forward(self, x: Array) -> Array:
        self.y = array_module(x).exp(x)
        return self.y

    def backward(self, gy: Array) -> Array:
        return gy * self.y


class Log(Function):
    """``y = log(x)``, the natural logarithm: dy/dx = 1 / x."""

    def forward(self, x: Array) -> Array:
        self.x = x
        return array_module(x).log(x)

    def backward(self, gy: Array) -> Array:
        return gy / self.x


class Tanh(Function):
    """``y = tanh(x)``: dy/dx = 1 - y^2."""

    def forward(self, x: Array) -> Array:
        self.y = array_module(x).tanh(x)
        return self.y

    def backward(self, gy: Array) -> Array:
        return gy * (1 - self.y * self.y)


class Sigmoid(Function):
    """``y = 1 / (1 + exp(-x))``: dy/dx = y (1 - y). Computed with tanh, which does not overflow for large -x."""

    def forward(self, x: Array) -> Array:
        self.y = 0.5 * array_module(x).tanh(0.5 * x) + 0.5
        return self.y

    def backward(self, gy: Array) -> Array:
        return gy * (self.y * (1 - self.y))


class Relu(Function):
    """``y = max(x, 0)``: 0 where the real part of x is <= 0, else x. dy/dx is 0 or 1. Both are NaN where x is NaN."""

    def forward(self, x: Array) -> Array:
        self.y = array_module(x).where(x.real <= 0, x.dtype.type(0), x)  # a product would be NaN for -inf
        return self.y

    def backward(self, gy: Array) -> Array:
        return gy * array_module(gy).where(self.y.real > 0, self.y.dtype.type(1), self.y)  # here y is 0 or NaN


class SoftmaxCrossEntropy(Function):
    """``y = mean over t and n of -log softmax(scores[t, :, n])[targets[t, n]]``, in nats.

    scores (T, V, B) or (V, B), integer targets (T, B) or (B,).
    dy/dscores = (softmax(scores) - one_hot(targets)) / (T B).
    With ``ignore_index``, only the N targets that differ from it count: N replaces T B, and dy/dscores is 0 elsewhere.
    """

    def __init__(self, ignore_index: int | None = None):
        self.ignore_index = ignore_index

    def forward(self, scores: Array, targets: Array) -> Array:
        if scores.ndim < 2:
            raise ValueError(f"scores must be (T, V, B) or (V, B), got {scores.shape}")
        if targets.shape != scores.shape[:-2] + scores.shape[-1:]:
            raise ValueError("targets must have the shape of the scores without the class axis")
        if targets.dtype.kind not in "iu":
            raise TypeError(f"SoftmaxCrossEntropy: targets must be integers, got {targets.dtype}")
        if not targets.size:
            raise ValueError("the mean needs at least one target")
        xp, self.dtype = array_module(scores), scores.dtype
        scores = scores.astype(xp.result_type(self.dtype, np.float32), copy=False)  # float16 is summed in float32
        self.kernels, self.targets, self.counted = kernels_for(scores), targets, None
        if self.ignore_index is not None:
            self.counted, self.n = self.kernels.which_count(targets, self.ignore_index)
            self.targets = xp.where(self.counted, targets, 0)
        self.p, nats = self.kernels.cross_entropy_forward(scores, self.targets)  # (T, V, B) and (T, B)
        if self.counted is None:
            return nats.mean().astype(self.dtype, copy=False)
        return (xp.where(self.counted, nats, 0).sum() / self.n).astype(self.dtype, copy=False)

    def backward(self, gy: Array) -> tuple[Array, None]:
        xp, n = array_module(gy), self.targets.size if self.counted is None else self.n
        scale = (gy.astype(self.p.dtype, copy=False) / n).astype(self.p.dtype, copy=False)  # ()
        gx = self.kernels.cross_entropy_backward(self.p, self.targets, scale)
        if self.counted is not None:
            gx = xp.where(xp.expand_dims(self.counted, -2), gx, 0)  # a product would be NaN where a score is NaN
        return gx.astype(self.dtype, copy=False), None


def add(a: Operand, b: Operand) -> Tensor:
    """``a + b``."""
    return Add()(a, b)


def subtract(a: Operand, b: Operand) -> Tensor:
    """``a - b``."""
    return Subtract()(a, b)


def multiply(a: Operand, b: Operand) -> Tensor:
    """``a * b``, elementwise."""
    return Multiply()(a, b)


def divide(a: Operand, b: Operand) -> Tensor:
    """``a / b``, elementwise."""
    return Divide()(a, b)


def negative(x: Tensor) -> Tensor:
    """``-x``."""
    return Negative()(x)


def power(a: Operand, b: Operand) -> Tensor:
    """``a ** b``, elementwise; if b needs a gradient, a must not be negative."""
    return Power()(a, b)


def matmul(a: Operand, b: Operand) -> Tensor:
    """``a @ b``: (..., M, K) and (..., K, N) to (..., M, N); one-dimensional arrays are vectors."""
    return MatMul()(a, b)


def get_item(x: Tensor, index: Index) -> Tensor:
    """``x[index]``, for every index that NumPy accepts; it may contain tensors of integers or booleans."""
    index = tuple(_array(part) for part in index) if isinstance(index, tuple) else _array(index)
    return GetItem(index)(x)


def unstack(x: Tensor) -> tuple[Tensor, ...]:
    """The T tensors ``x[0] ... x[T-1]`` of x (T, ...)."""
    return Unstack()(x)


def stack(xs: list[Tensor]) -> Tensor:
    """T tensors of one shape as one tensor (T, ...)."""
    return Stack()(*xs)


def sum(x: Tensor, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Tensor:
    """The sum over one axis, several axes or (None) all axes; ``keepdims`` keeps these axes, with length 1."""
    return Sum(axis, keepdims)(x)


def mean(x: Tensor, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Tensor:
    """The mean over one axis, several axes or (None) all axes; ``keepdims`` keeps these axes, with length 1."""
    return Sum(axis, keepdims, mean=True)(x)


def reshape(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The elements of x, in the same order, in another shape; one length may be -1 and is then inferred."""
    return Reshape(shape)(x)


def transpose(x: Tensor, axes: tuple[int, ...] | None = None) -> Tensor:
    """Permute the axes of x: axis k of the result is axis ``axes[k]`` of x. None reverses the axes."""
    return Transpose(axes)(x)


def exp(x: Tensor) -> Tensor:
    """``e ** x``, elementwise."""
    return Exp()(x)


def log(x: Tensor) -> Tensor:
    """The natural logarithm, elementwise."""
    return Log()(x)


def tanh(x: Tensor) -> Tensor:
    """The hyperbolic tangent, elementwise."""
    return Tanh()(x)


def sigmoid(x: Tensor) -> Tensor:
    """``1 / (1 + exp(-x))``, elementwise."""
    return Sigmoid()(x)


def relu(x: Tensor) -> Tensor:
    """``max(x, 0)``, elementwise; where x is NaN, so are the result and the gradient."""
    return Relu()(x)


def softmax_cross_entropy(scores: Tensor, targets: Array, ignore_index: int | None = None) -> Tensor:
    """The mean of ``-log softmax(scores[t, :, n])[targets[t, n]]`` over all t and n, in nats; divide by ln 2 for bits.

    With ``ignore_index`` (the target of padding), it is the mean over the N pairs t, n that count:

        1 / N sum over t, n with targets[t, n] != ignore_index of -log softmax(scores[t, :, n])[targets[t, n]]

    The scores of the other pairs have gradient 0, whatever their values.

    scores (T, V, B) or (V, B); targets (T, B) or (B,), integers from 0 to V - 1, or ``ignore_index``, which may be any
    integer. The result has the shape () and the dtype of the scores. float16 is summed in float32.

    Raises ValueError if shapes do not fit or no target counts, TypeError if targets are not integers, and IndexError if
    a target is neither a class nor ``ignore_index``. A GPU does not check the values of targets, since the host would
    have to wait: the loss is NaN if a target is out of range or none counts. If none counts, the gradient is 0.
    """
    return SoftmaxCrossEntropy(ignore_index)(scores, targets)


# The operators and methods of Tensor. They are attached here because this file imports tensor.py, not vice versa.
OPERATORS: dict[str, Any] = {
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
    "__rpow__": lambda b, a: power(a, b),
    "__neg__": negative,
    "__pos__": lambda x: x,
    "__lt__": lambda a, b: Tensor(a.data < _array(b)),
    "__le__": lambda a, b: Tensor(a.data <= _array(b)),
    "__gt__": lambda a, b: Tensor(a.data > _array(b)),
    "__ge__": lambda a, b: Tensor(a.data >= _array(b)),
    "__eq__": lambda a, b: Tensor(a.data == _array(b)),
    "__ne__": lambda a, b: Tensor(a.data != _array(b)),
    "__getitem__": get_item,
    "__iter__": lambda x: iter(unstack(x)),
    "T": property(transpose),
    "sum": sum,
    "mean": mean,
    "reshape": lambda x, *shape: reshape(x, _unpacked(shape)),
    "transpose": lambda x, *axes: transpose(x, _unpacked(axes) or None),
}


def _array(x: Any) -> Any:
    """The array of a tensor; anything else unchanged."""
    return x.data if isinstance(x, Tensor) else x


def _unpacked(numbers: tuple[Any, ...]) -> tuple[int, ...]:
    """The shape in both ``x.reshape(2, 3)`` and ``x.reshape((2, 3))``; likewise the axes in ``x.transpose``."""
    return numbers[0] if len(numbers) == 1 and isinstance(numbers[0], tuple) else numbers


for _name, _operator in OPERATORS.items():
    setattr(Tensor, _name, _operator)
