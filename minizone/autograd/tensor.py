"""The tape: tensors, functions, and one loop that runs the chain rule backwards.

A `Function` that is applied to tensors leaves itself behind as the `creator` of its outputs, with a serial number.
That is the whole tape. A function can only use tensors that exist already, so serial numbers rise along every path
of the graph, and visiting the functions from the highest number down meets each one after all that used its outputs.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import numpy as np

from minizone.backend import Array, array_module

_recording = ContextVar("recording", default=True)
_serial = itertools.count()


@contextmanager
def no_grad() -> Iterator[None]:
    """Inside ``with no_grad():`` nothing is recorded, and nothing is kept for a backward pass."""
    token = _recording.set(False)
    try:
        yield
    finally:
        _recording.reset(token)


class Tensor:
    """An array that remembers how it was computed.

    Parameters
    ----------
    data : array, or (nested) list or number
        NumPy or CuPy, kept as it is; lists and Python numbers become float32 (or complex64) arrays.
    requires_grad : bool, optional
        Whether ``backward`` shall compute a gradient for it. Default: yes, if the numbers are floating or complex.

    Attributes
    ----------
    grad : array or None
        dLoss/d(data), same shape, summed over all backward passes since it was last set to None. Only tensors that
        no function created (leaves) get one. It is replaced, never changed in place, and may be shared with the
        gradient of another leaf: do not change it in place either.
    """

    __slots__ = ("__weakref__", "creator", "data", "grad", "output_index", "requires_grad")
    __array_ufunc__ = None  # so that `ndarray + Tensor` asks the Tensor

    def __init__(self, data: Any, requires_grad: bool | None = None):
        if not hasattr(data, "dtype"):
            data = np.asarray(data)
            if data.dtype == np.float64:
                data = data.astype(np.float32)
            elif data.dtype == np.complex128:
                data = data.astype(np.complex64)
        elif isinstance(data, np.generic):
            data = np.asarray(data)
        differentiable = data.dtype.kind in "fc"
        if requires_grad and not differentiable:
            raise ValueError(f"a tensor of {data.dtype} cannot have a gradient; give it a floating dtype")
        self.data: Array = data
        self.grad: Array | None = None
        self.requires_grad = differentiable if requires_grad is None else requires_grad
        self.creator: Function | None = None
        self.output_index = 0

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    @property
    def ndim(self) -> int:
        return self.data.ndim

    @property
    def dtype(self) -> np.dtype:
        return self.data.dtype

    def __len__(self) -> int:
        return len(self.data)

    def __repr__(self) -> str:
        return f"Tensor({self.data!r})"

    def __float__(self) -> float:
        return float(self.data)

    def backward(self, grad: Array | None = None) -> None:
        """Add dSelf/dLeaf to the ``grad`` of every leaf that this tensor was computed from.

        Parameters
        ----------
        grad : array of the shape of ``data``, optional
            dLoss/d(self). May be left out for a tensor with one element: 1.

        Raises
        ------
        ValueError
            When ``grad`` is missing though the tensor has several elements, or has another shape than the tensor,
            or when no gradient was recorded.
        """
        if not self.requires_grad:
            raise ValueError("backward: this tensor was computed without a gradient (no_grad, or constants only)")
        if grad is None:
            if self.data.size != 1:
                raise ValueError(f"backward: a tensor of shape {self.shape} needs a gradient of that shape")
            grad = array_module(self.data).ones_like(self.data)
        elif grad.shape != self.shape:
            raise ValueError(f"backward: a gradient of shape {grad.shape} for a tensor of shape {self.shape}")

        waiting: dict[int, tuple[Function, list[Array | None]]] = {}
        queue: list[int] = []  # serial numbers of the functions in `waiting`, negated: the latest first

        def flow(tensor: Tensor, g: Array) -> None:
            creator = tensor.creator
            if creator is None:
                total = g if tensor.grad is None else tensor.grad + g
                tensor.grad = array_module(tensor.data).asarray(total)  # operations on 0-d arrays give scalars
                return
            if creator.serial not in waiting:
                waiting[creator.serial] = (creator, [None] * creator.outputs)
                heapq.heappush(queue, -creator.serial)
            slot = waiting[creator.serial][1]
            so_far = slot[tensor.output_index]
            slot[tensor.output_index] = g if so_far is None else so_far + g

        flow(self, grad)
        while queue:
            function, output_grads = waiting.pop(-heapq.heappop(queue))
            input_grads = function.backward(*output_grads)
            if not isinstance(input_grads, tuple):
                input_grads = (input_grads,)
            for k, (x, gx) in enumerate(zip(function.inputs, input_grads, strict=True)):
                if x is not None:
                    _check_gradient(function, k, gx, x.shape)
                    flow(x, _undo_broadcast(gx, x.shape))

    if TYPE_CHECKING:  # the operators are functions of ops.py, which builds on this file and attaches them

        def __add__(self, other: Any) -> Tensor: ...
        def __radd__(self, other: Any) -> Tensor: ...
        def __sub__(self, other: Any) -> Tensor: ...
        def __rsub__(self, other: Any) -> Tensor: ...
        def __mul__(self, other: Any) -> Tensor: ...
        def __rmul__(self, other: Any) -> Tensor: ...
        def __truediv__(self, other: Any) -> Tensor: ...
        def __rtruediv__(self, other: Any) -> Tensor: ...
        def __matmul__(self, other: Any) -> Tensor: ...
        def __rmatmul__(self, other: Any) -> Tensor: ...
        def __pow__(self, exponent: float) -> Tensor: ...
        def __neg__(self) -> Tensor: ...
        def __getitem__(self, index: Any) -> Tensor: ...
        def sum(self, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Tensor: ...
        def mean(self, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Tensor: ...
        def reshape(self, *shape: Any) -> Tensor: ...
        def transpose(self, *axes: Any) -> Tensor: ...


class Function:
    """A differentiable operation; calling an instance applies it, once.

    ``forward(*arrays)`` computes one array or a tuple of arrays, and may leave on ``self`` what its mirror
    ``backward(*output_grads)`` needs: dLoss/d(output) in, dLoss/d(input) out, one for each input. An output that the
    loss does not depend on has the gradient None (only a function with several outputs meets that). What is returned
    for an input i with ``self.needs[i]`` False is ignored, and a gradient may have the broadcast shape of its input.
    """

    inputs: tuple[Tensor | None, ...] = ()
    needs: tuple[bool, ...] = ()
    outputs = 1
    serial = -1

    def forward(self, *arrays: Any) -> Any:
        raise NotImplementedError

    def backward(self, *output_grads: Any) -> Any:
        raise NotImplementedError

    def __call__(self, *inputs: Any) -> Any:
        # A NumPy scalar is a strong float64; as the Python number it is, it leaves float32 alone.
        inputs = tuple(x.item() if isinstance(x, np.generic) else x for x in inputs)
        inputs = tuple(Tensor(x).data if isinstance(x, list | tuple) else x for x in inputs)
        recording = _recording.get()
        self.needs = tuple(recording and isinstance(x, Tensor) and x.requires_grad for x in inputs)
        arrays = [x.data if isinstance(x, Tensor) else x for x in inputs]
        try:
            results = self.forward(*arrays)
        except (ValueError, IndexError) as error:
            shapes = " and ".join(str(np.shape(x)) for x in arrays)
            raise type(error)(f"{type(self).__name__}: inputs of shape {shapes}: {error}") from None
        several = isinstance(results, tuple)
        tensors = tuple(Tensor(y, requires_grad=any(self.needs)) for y in (results if several else (results,)))
        if any(self.needs):
            self.inputs = tuple(x if need else None for x, need in zip(inputs, self.needs, strict=True))
            self.outputs = len(tensors)
            self.serial = next(_serial)
            for index, tensor in enumerate(tensors):
                tensor.creator, tensor.output_index = self, index
        return tensors if several else tensors[0]


def _check_gradient(function: Function, k: int, g: Any, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless ``g`` can be the gradient of an input of this shape, perhaps broadcast."""
    if g is None or (g.shape != shape and (len(g.shape) < len(shape) or not _repeats(shape, g.shape))):
        found = "no gradient" if g is None else f"a gradient of shape {g.shape}"
        raise ValueError(f"{type(function).__name__}.backward: {found} for argument {k} of shape {shape}")


def _repeats(small: tuple[int, ...], large: tuple[int, ...]) -> bool:
    """Whether an array of the shape ``small`` broadcasts to ``large``."""
    return all(n in (1, m) for n, m in zip(small[::-1], large[::-1], strict=False))


def _undo_broadcast(g: Array, shape: tuple[int, ...]) -> Array:
    """Sum ``g`` over the axes along which an input of this shape was repeated."""
    if g.shape == shape:
        return g
    added = g.ndim - len(shape)
    repeated = tuple(range(added)) + tuple(added + k for k, n in enumerate(shape) if n == 1 and g.shape[added + k] != 1)
    return g.sum(axis=repeated, keepdims=True).reshape(shape)
