"""Reverse-mode differentiation: tensors, functions, and one loop that applies the chain rule backwards.

A `Function` that is applied to tensors becomes the ``creator`` of its outputs and gets a serial number. These links
are the tape. A function can only use tensors that exist already, so serial numbers increase along every path of the
graph. The backward pass visits the functions in decreasing order of their numbers: each function comes after all
functions that used its outputs, when the gradients of its outputs are complete.
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
    """In a ``with no_grad():`` block no function is recorded, so that its arrays can be freed at once."""
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
        booleans. Of a tensor, the array is taken: the new tensor is a leaf.
    requires_grad : bool, optional
        Whether `backward` computes a gradient for it. Default: True for floating and complex numbers.

    Attributes
    ----------
    data : array
        Functions keep it for their backward pass. When `Optimizer.step`, `Module.load_state_dict` or `weight_noise`
        changes it in between, `backward` raises an error. A change by hand, ``x.data *= 10``, cannot be seen and makes
        the gradient wrong; ``x.data = 10 * x.data``, a new array, does not.
    grad : array or None
        dLoss/d(data), of the shape of ``data``, summed over all backward passes since it was last set to None. Only
        leaves have one: tensors that were not computed by a function. The array may be shared with the gradient of
        another leaf, so it must not be changed in place; `backward` replaces it.
    requires_grad : bool
    creator : Function or None
        The function that computed it; None for leaves and for what was not recorded.
    output_index : int
        Which output of its creator it is.
    version : list of one int
        How often `step`, `load_state_dict` or `weight_noise` has changed ``data`` in place. Tensors that share an array
        share the list.

    Raises ValueError when ``requires_grad`` is True for integers or booleans, TypeError for what is not numbers and for
    lists of tensors, which would lose their gradients: `minizone.autograd.ops.stack` keeps them.

    Python's operators and protocols (comparisons, ``bool``, ``len``, ``iter``, ``float``, ``format``, ...) do what they
    do for arrays. ``np.asarray`` of a tensor that needs a gradient is a TypeError, since the gradient would be lost.
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
                raise TypeError("a list of tensors is not a tensor: ops.stack(list) makes one and keeps the gradients")
            data = np.asarray(data)
            if data.dtype == np.float64:
                data = data.astype(np.float32)
            elif data.dtype == np.complex128:
                data = data.astype(np.complex64)
        elif isinstance(data, np.generic):
            data = np.asarray(data)
        if data.dtype.kind not in "biufc":
            raise TypeError(f"a tensor holds numbers, got an array of {data.dtype}")
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
        """The only element, as a Python number; ValueError when there are several."""
        return self.data.item()

    def detach(self) -> Tensor:
        """The same array as a constant: gradients do not go back beyond it. It is not copied."""
        return Tensor(self, requires_grad=False)

    def mark_changed(self) -> None:
        """Say that ``data`` was changed in place, so that `backward` refuses to use what was computed from it."""
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
                "an array of this tensor would lose its gradient: take .data, or .detach() the tensor first"
            )
        return np.array(self.data, dtype=dtype, copy=copy)

    def __getstate__(self) -> object:
        if self.creator is not None:
            raise TypeError("a tensor that was computed cannot be copied or pickled: detach() it first, or copy .data")
        return super().__getstate__()

    def backward(self, grad: Array | None = None) -> None:
        """Add d(self)/d(leaf) to the ``grad`` of every leaf from which this tensor was computed.

        Parameters
        ----------
        grad : array of the shape of ``data``, optional
            dLoss/d(self), where the loss is something computed from this tensor; 1 by default. A tensor of several
            elements needs it.

        Raises
        ------
        ValueError
            When ``grad`` is missing for a tensor of several elements, or has another shape than the tensor, or when
            no gradient was recorded.
        RuntimeError
            When `Optimizer.step`, `Module.load_state_dict` or `weight_noise` has changed an input of a function since
            it was applied.
        """
        if not self.requires_grad:
            raise ValueError("backward: this tensor was computed without a gradient (no_grad, or constants only)")
        if grad is None:
            if self.data.size != 1:
                raise ValueError(f"backward: a tensor of shape {self.shape} needs a gradient of that shape")
            grad = array_module(self.data).ones_like(self.data)
        elif grad.shape != self.shape:
            raise ValueError(f"backward: a gradient of shape {grad.shape} for a tensor of shape {self.shape}")

        # The functions that have a gradient for at least one output, by serial number, with these gradients.
        pending: dict[int, tuple[Function, list[Array | None]]] = {}
        numbers: list[int] = []  # a heap of their serial numbers, negated: the highest comes first

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

    if TYPE_CHECKING:  # ops.py defines these methods and attaches them: it imports this file

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
    ``self.needs[k]`` False is ignored and may be None. A function with several outputs gets None as the gradient of an
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
        The ``version`` of each tensor among the inputs, and the number in it when the function was applied.
    serial : int
        Larger than that of all functions that were recorded before.
    """

    inputs: tuple[Tensor | None, ...] = ()
    needs: tuple[bool, ...] = ()
    outputs = 1
    versions: Sequence[tuple[list[int], int]] = ()
    serial = -1

    def forward(self, *arrays: Any) -> Array | tuple[Array, ...]:
        """The outputs, from the inputs as arrays."""
        raise NotImplementedError

    def backward(self, *output_grads: Any) -> Array | tuple[Array | None, ...]:
        """dLoss/d(input) of each input, from dLoss/d(output) of each output."""
        raise NotImplementedError

    def __call__(self, *inputs: Operand) -> Any:
        """Apply the function; a Tensor, or a tuple of them if ``forward`` returns a tuple."""
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
    """Raise ValueError unless the shape of ``g`` is that of input k, or one to which input k broadcasts."""
    if g is None or (g.shape != shape and not _broadcasts(shape, g.shape)):
        found = "no gradient" if g is None else f"a gradient of shape {g.shape}"
        raise ValueError(f"{type(function).__name__}.backward: {found} for argument {k} of shape {shape}")


def _broadcasts(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    """Whether an array of this shape broadcasts to the shape ``target``."""
    if len(target) < len(shape):
        return False
    return all(n in (1, m) for n, m in zip(shape[::-1], target[::-1], strict=False))


def _undo_broadcast(g: Array, shape: tuple[int, ...]) -> Array:
    """Sum ``g`` over the axes that broadcasting an array of this shape has added or repeated."""
    if g.shape == shape:
        return g
    new = g.ndim - len(shape)  # number of axes added on the left
    repeated = [new + k for k, n in enumerate(shape) if n == 1 and g.shape[new + k] != 1]
    return sum_in_float32(g, (*range(new), *repeated), True).reshape(shape).astype(g.dtype, copy=False)


def sum_in_float32(x: Array, axis: int | tuple[int, ...] | None, keepdims: bool) -> Array:
    """``x.sum(axis, keepdims)``; of float16, which is exact to 2,048 only, in float32."""
    return x.sum(axis=axis, keepdims=keepdims, dtype=np.float32 if x.dtype == np.float16 else None)
