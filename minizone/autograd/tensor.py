"""Reverse-mode differentiation: tensors, functions, and one loop that applies the chain rule backwards.

A `Function` that is applied to tensors becomes the ``creator`` of its outputs and gets a serial number. These links
are the tape. A function can only use tensors that exist already, so serial numbers increase along every path of the
graph. The backward pass visits the functions in decreasing order of their numbers. Each function then comes after all
functions that used its outputs, so the gradients of its outputs are complete.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import numpy as np

from minizone.backend import Array, array_module

Operand = Any  # a Tensor, an array, a nested list or a number
Index = Any  # what NumPy accepts in ``x[index]``

_recording = ContextVar("recording", default=True)
_serial_numbers = itertools.count()


@contextmanager
def no_grad() -> Iterator[None]:
    """Record no function inside ``with no_grad():``, so that intermediate arrays can be freed at once."""
    token = _recording.set(False)
    try:
        yield
    finally:
        _recording.reset(token)


class Tensor:
    """An array, with the function that computed it and, for a leaf, its gradient.

    Parameters
    ----------
    data : array, nested list, number or Tensor
        NumPy or CuPy arrays are not copied. Lists and Python numbers become arrays of float32, complex64, integers or
        booleans. From a Tensor, only the array is taken, so the new tensor is a leaf.
    requires_grad : bool, optional
        Whether `backward` computes a gradient for it. Default: True for floating and complex numbers.

    Attributes
    ----------
    data : array
        Functions keep it for their backward pass. If `Optimizer.step`, `Module.load_state_dict` or `weight_noise`
        changes it before that, `backward` raises an error. An in-place change by hand, ``x.data *= 10``, is not
        detected and makes the gradient wrong. Assigning a new array, ``x.data = 10 * x.data``, is safe.
    grad : array or None
        dLoss/d(data), of the shape of ``data``, summed over all backward passes since it was last set to None. Only
        leaves (tensors not computed by a function) have one. Do not change it in place: another leaf may share the
        array. `backward` replaces it.
    requires_grad : bool
    creator : Function or None
        The function that computed it; None for leaves and for results that were not recorded.
    output_index : int
        Which output of its creator it is.
    version : list of one int
        How often `step`, `load_state_dict` or `weight_noise` has changed ``data`` in place. Tensors that share an array
        share the list.

    Raises ValueError if ``requires_grad`` is True for integers or booleans, and TypeError if ``data`` is not numeric or
    is a list of tensors. Such a list would lose its gradients; `minizone.autograd.ops.stack` keeps them.

    Python's operators and protocols (comparisons, ``bool``, ``len``, ``iter``, ``float``, ``format``, ...) work as for
    arrays. ``np.asarray`` of a tensor that requires a gradient raises TypeError, since the gradient would be lost.
    """

    __slots__ = ("__weakref__", "creator", "data", "grad", "output_index", "requires_grad", "version")
    __array_ufunc__ = None  # `ndarray + Tensor` then calls Tensor.__radd__

    def __init__(self, data: Tensor | Array | list | tuple | complex, requires_grad: bool | None = None):
        self.version: list[int] = [0]
        if isinstance(data, Tensor):
            self.version = data.version
            data = data.data
        if not hasattr(data, "dtype"):
            if _holds_tensor(data):
                raise TypeError("a list of tensors would lose its gradients as a tensor: use ops.stack(list)")
            data = np.asarray(data)
            if data.dtype == np.float64:
                data = data.astype(np.float32)
            elif data.dtype == np.complex128:
                data = data.astype(np.complex64)
        elif isinstance(data, np.generic):
            data = np.asarray(data)
        if data.dtype.kind not in "biufc":
            raise TypeError(f"a tensor must hold numbers, got an array of {data.dtype}")
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
        """The shape of ``data``."""
        return self.data.shape

    @property
    def ndim(self) -> int:
        """The number of axes of ``data``."""
        return self.data.ndim

    @property
    def dtype(self) -> np.dtype:
        """The dtype of ``data``."""
        return self.data.dtype

    def item(self) -> complex:
        """The only element, as a Python number; ValueError if there are several."""
        return self.data.item()

    def detach(self) -> Tensor:
        """The same array, not copied, as a constant: no gradient flows through it."""
        return Tensor(self, requires_grad=False)

    def mark_changed(self) -> None:
        """Record an in-place change of ``data``: `backward` then raises if a function was applied to the old values."""
        self.version[0] += 1

    def __len__(self) -> int:
        return len(self.data)

    def __contains__(self, value: Operand) -> bool:
        return bool((self == value).data.any())

    def __bool__(self) -> bool:
        return bool(self.data)

    def __int__(self) -> int:
        return int(self.data)

    def __index__(self) -> int:
        return self.data.__index__()

    def __float__(self) -> float:
        return float(self.data)

    def __complex__(self) -> complex:
        return complex(self.data)

    def __repr__(self) -> str:
        return f"Tensor({self.data!r})"

    def __format__(self, spec: str) -> str:
        return format(self.data, spec) if spec else str(self)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if self.requires_grad:
            raise TypeError(
                "converting this tensor to an array would lose its gradient: use .data, or .detach() it first"
            )
        return np.array(self.data, dtype=dtype, copy=copy)

    def __getstate__(self) -> object:
        if self.creator is not None:
            raise TypeError("a tensor computed by a function cannot be copied or pickled: detach() it, or copy .data")
        return super().__getstate__()

    def backward(self, grad: Array | None = None) -> None:
        """Add d(self)/d(leaf) to the ``grad`` of every leaf from which this tensor was computed.

        Parameters
        ----------
        grad : array of the shape of ``data``, optional
            dLoss/d(self), for a loss computed from this tensor; 1 by default. Required if the tensor has several
            elements.

        Raises
        ------
        ValueError
            If ``grad`` is missing for a tensor of several elements, if its shape is not that of the tensor, or if
            nothing was recorded.
        RuntimeError
            If `Optimizer.step`, `Module.load_state_dict` or `weight_noise` has changed an input of a function since it
            was applied.
        """
        if not self.requires_grad:
            raise ValueError("backward: this tensor was computed without a gradient (no_grad, or constants only)")
        if grad is None:
            if self.data.size != 1:
                raise ValueError(f"backward: a tensor of shape {self.shape} needs a gradient of that shape")
            grad = array_module(self.data).ones_like(self.data)
        elif grad.shape != self.shape:
            raise ValueError(f"backward: got a gradient of shape {grad.shape} for a tensor of shape {self.shape}")

        # By serial number: the functions with a gradient for at least one output, and their output gradients.
        pending: dict[int, tuple[Function, list[Array | None]]] = {}
        numbers: list[int] = []  # a heap of their serial numbers, negated so that the highest comes first

        def add_gradient(tensor: Tensor, g: Array) -> None:
            function = tensor.creator
            if function is None:
                total = g if tensor.grad is None else tensor.grad + g
                tensor.grad = array_module(tensor.data).asarray(total)  # operations on 0-d arrays return scalars
                return
            if function.serial not in pending:
                pending[function.serial] = (function, [None] * function.outputs)
                heapq.heappush(numbers, -function.serial)
            _, output_grads = pending[function.serial]
            old = output_grads[tensor.output_index]
            output_grads[tensor.output_index] = g if old is None else old + g

        add_gradient(self, grad)
        while numbers:
            function, output_grads = pending.pop(-heapq.heappop(numbers))
            _check_versions(function)
            input_grads = function.backward(*output_grads)
            if not isinstance(input_grads, tuple):
                input_grads = (input_grads,)
            for k, (x, gx) in enumerate(zip(function.inputs, input_grads, strict=True)):
                if x is not None:
                    _check_gradient(function, k, gx, x.shape)
                    add_gradient(x, _undo_broadcast(gx, x.shape))

    if TYPE_CHECKING:  # ops.py, which imports this file, defines and attaches these methods

        def __add__(self, other: Operand) -> Tensor: ...
        def __radd__(self, other: Operand) -> Tensor: ...
        def __sub__(self, other: Operand) -> Tensor: ...
        def __rsub__(self, other: Operand) -> Tensor: ...
        def __mul__(self, other: Operand) -> Tensor: ...
        def __rmul__(self, other: Operand) -> Tensor: ...
        def __truediv__(self, other: Operand) -> Tensor: ...
        def __rtruediv__(self, other: Operand) -> Tensor: ...
        def __matmul__(self, other: Operand) -> Tensor: ...
        def __rmatmul__(self, other: Operand) -> Tensor: ...
        def __pow__(self, other: Operand) -> Tensor: ...
        def __rpow__(self, other: Operand) -> Tensor: ...
        def __neg__(self) -> Tensor: ...
        def __pos__(self) -> Tensor: ...
        def __lt__(self, other: Operand) -> Tensor: ...
        def __le__(self, other: Operand) -> Tensor: ...
        def __gt__(self, other: Operand) -> Tensor: ...
        def __ge__(self, other: Operand) -> Tensor: ...
        def __eq__(self, other: Operand) -> Tensor: ...  # type: ignore[override]
        def __ne__(self, other: Operand) -> Tensor: ...  # type: ignore[override]
        def __hash__(self) -> int: ...
        def __getitem__(self, index: Index) -> Tensor: ...
        def __iter__(self) -> Iterator[Tensor]: ...
        @property
        def T(self) -> Tensor: ...
        def sum(self, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Tensor: ...
        def mean(self, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Tensor: ...
        def reshape(self, *shape: int | tuple[int, ...]) -> Tensor: ...
        def transpose(self, *axes: int | tuple[int, ...]) -> Tensor: ...


class Function:
    """A differentiable operation. An instance is called once, with the inputs, and returns the outputs as tensors.

    Subclasses define two methods:

    ``forward(*arrays)`` takes the inputs as arrays (tensors become their ``data``) and returns one array or a tuple of
    arrays. It may store on ``self`` what ``backward`` needs.

    ``backward(*output_grads)`` takes dLoss/d(output) for each output and returns dLoss/d(input) for each input, a tuple
    if there are several. A gradient may have the broadcast shape of its input. The gradient of an input k with
    ``self.needs[k]`` False is ignored and may be None. A function with several outputs receives None for each
    output that does not influence the loss.

    Attributes
    ----------
    inputs : tuple of Tensor or None
        None for an input that needs no gradient.
    needs : tuple of bool
        Which inputs need a gradient.
    outputs : int
        The number of outputs.
    versions : list of pairs
        For each input tensor, its ``version`` and the number in it when the function was applied.
    serial : int
        Larger than the serial numbers of all functions recorded before.
    """

    inputs: tuple[Tensor | None, ...] = ()
    needs: tuple[bool, ...] = ()
    outputs = 1
    versions: Sequence[tuple[list[int], int]] = ()
    serial = -1

    def forward(self, *arrays: Any) -> Array | tuple[Array, ...]:
        """Compute the outputs from the inputs, given as arrays."""
        raise NotImplementedError

    def backward(self, *output_grads: Any) -> Array | tuple[Array | None, ...]:
        """Compute dLoss/d(input) for each input from dLoss/d(output) for each output."""
        raise NotImplementedError

    def __call__(self, *inputs: Operand) -> Any:
        """Apply the function and return a Tensor, or a tuple of them if ``forward`` returns a tuple."""
        # A NumPy float64 scalar would turn a float32 array into float64. A Python number does not.
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
        sources = [x for x in inputs if isinstance(x, Tensor)]
        for tensor in tensors:
            for x in sources:
                if _same_memory(tensor.data, x.data):
                    tensor.version = x.version
        if any(self.needs):
            self.versions = [(x.version, x.version[0]) for x in sources]
            self.inputs = tuple(x if need else None for x, need in zip(inputs, self.needs, strict=True))
            self.outputs = len(tensors)
            self.serial = next(_serial_numbers)
            for index, tensor in enumerate(tensors):
                tensor.creator, tensor.output_index = self, index
        return tensors if several else tensors[0]


def _holds_tensor(data: Any) -> bool:
    """Whether a nested list contains a tensor."""
    if isinstance(data, list | tuple):
        return any(_holds_tensor(element) for element in data)
    return isinstance(data, Tensor)


def _same_memory(y: Array, x: Array) -> bool:
    """Whether y is a view of x, or both are views of one array."""
    owner = x if x.base is None else x.base
    return y.base is owner or y is x


def _check_versions(function: Function) -> None:
    """Raise RuntimeError if an input of ``function`` was changed in place after it was applied."""
    if any(version[0] != number for version, number in function.versions):
        raise RuntimeError(
            f"backward: an input of {type(function).__name__} was changed in place, by optimizer.step(),"
            " load_state_dict() or weight_noise(), after it was used, so the gradient would be wrong. Call backward()"
            " before the change; to carry a state on to the next update, detach() it."
        )


def _check_gradient(function: Function, k: int, g: Array | None, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless ``g`` has the shape of input k, or a shape to which input k broadcasts."""
    if g is None or (g.shape != shape and not _broadcasts(shape, g.shape)):
        found = "no gradient" if g is None else f"a gradient of shape {g.shape}"
        raise ValueError(f"{type(function).__name__}.backward returned {found} for argument {k} of shape {shape}")


def _broadcasts(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    """Whether an array of this shape broadcasts to the shape ``target``."""
    if len(target) < len(shape):
        return False
    return all(n in (1, m) for n, m in zip(shape[::-1], target[::-1], strict=False))


def _undo_broadcast(g: Array, shape: tuple[int, ...]) -> Array:
    """Sum ``g`` to ``shape``, over the axes that broadcasting added or repeated."""
    if g.shape == shape:
        return g
    new = g.ndim - len(shape)  # number of axes added on the left
    repeated = [new + k for k, n in enumerate(shape) if n == 1 and g.shape[new + k] != 1]
    return sum_in_float32(g, (*range(new), *repeated), True).reshape(shape).astype(g.dtype, copy=False)


def sum_in_float32(x: Array, axis: int | tuple[int, ...] | None, keepdims: bool) -> Array:
    """``x.sum(axis, keepdims)``; float16, whose integers are exact only up to 2,048, is summed in float32."""
    return x.sum(axis=axis, keepdims=keepdims, dtype=np.float32 if x.dtype == np.float16 else None)
