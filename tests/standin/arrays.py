"""The arrays of the stand-in, and the functions and ufuncs of CuPy that minizone calls.

NumPy does the computations. What a GPU or CuPy would refuse raises an error here; the list is in `tests.standin`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

if TYPE_CHECKING:
    from tests.standin import Cupy

# What minizone calls. Where CuPy is installed, a test checks that CuPy has all of it.
CREATION = ["arange", "eye", "full", "full_like", "ones", "ones_like", "zeros", "zeros_like"]
SHAPES = ["ascontiguousarray", "broadcast_to", "concatenate", "expand_dims", "moveaxis", "stack", "swapaxes"]
FUNCTIONS = {*CREATION, *SHAPES, "argsort", "matmul", "result_type", "where"}
METHODS = ["any", "argmax", "astype", "copy", "max", "mean", "min", "reshape", "sum", "swapaxes", "transpose"]
KEYWORDS = ["axis", "copy", "dtype", "keepdims", "kind", "out"]  # of these; not "where", "initial" or "mode"
ARITHMETIC = ["add", "subtract", "multiply", "divide", "floor_divide", "remainder", "power", "negative", "absolute"]
LOGIC = ["less", "less_equal", "greater", "greater_equal", "equal", "not_equal", "bitwise_and", "bitwise_or", "invert"]
UFUNCS = {*ARITHMETIC, *LOGIC, "exp", "isfinite", "isnan", "log", "maximum", "minimum", "sign", "sqrt", "tanh"}

KEEPS_ORDER = {"astype", "full_like", "ones_like", "zeros_like"}  # every other result is C-contiguous
TAKES_HOST_ARRAYS = {"reshape", "transpose"}  # as shape and as axes


def unsupported(x: object) -> TypeError:
    return TypeError(f"Unsupported type {type(x).__module__}.{type(x).__qualname__}")


class Function:
    """A function or method of CuPy, computed by the one of NumPy."""

    def __init__(self, xp: Cupy, name: str, host: Callable[..., Any]):
        self.xp, self.name, self.host = xp, name, host

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        xp = self.xp
        for keyword in kwargs:
            if keyword not in KEYWORDS:
                raise TypeError(f"cupy.{self.name}() got an unexpected keyword argument {keyword!r}")
        given = xp.to_raw(args, host_arrays=self.name in TAKES_HOST_ARRAYS)
        out = kwargs.pop("out", None)
        with np.errstate(all="ignore"):
            result = self.host(*given, **kwargs)
        if out is None:
            return xp.from_raw(result, xp.arrays_in(args), keeps_order=self.name in KEEPS_ORDER)
        xp.refuse_in_capture(self.name)
        xp.counts.launches += 1
        xp.operand(out)[...] = result
        return out


class Ufunc:
    """A ufunc of CuPy. It takes no NumPy arrays and has no `where`. A graph can record it if it has an `out`."""

    def __init__(self, xp: Cupy, name: str):
        self.xp, self.name, self.host = xp, name, getattr(np, name)

    def __call__(self, *args: Any, out: ndarray | None = None, casting: Any = "same_kind") -> ndarray:
        xp = self.xp
        operands = [xp.operand(x) for x in args]
        if out is None:
            with np.errstate(all="ignore"):
                result = self.host(*operands, casting=casting)
            xp.counts.launches += 1
            return xp.new(np.asarray(result, order="C"))
        if not isinstance(out, ndarray):
            raise TypeError("Output arguments type must be cupy.ndarray")
        if np.broadcast_shapes(out.shape, *(np.shape(x) for x in operands)) != out.shape:
            raise ValueError("Out shape is mismatched")
        for x in args:
            if isinstance(x, ndarray) and x is not out and np.may_share_memory(x.raw, out.raw):
                xp.refuse_in_capture(f"the copy of an operand of {self.name} that shares memory with its output")
                xp.counts.allocations += 1
        xp.launch(partial(self.host, *operands, out=out.raw, casting=casting), [*xp.arrays_in(args), out])
        return out

    def at(self, a: ndarray, indices: Any, b: Any) -> None:
        """`cupy.add.at`, with the types that have an atomic addition."""
        if self.name != "add":
            raise NotImplementedError(f"`cupy_{self.name}.at` is not supported yet")
        parts, copies = a.index_of(indices)
        if copies and a.dtype.char not in "efdFDiIQL":
            raise TypeError(f"scatter_add does not support {a.dtype}")
        self.xp.refuse_in_capture("add.at")
        self.xp.counts.launches += 1
        np.add.at(a.raw, parts, self.xp.operand(b))


class Memory:
    """The memory of one allocation, shared by an array and its views."""

    def __init__(self, size: int):
        self.size = size  # bytes


class ndarray(NDArrayOperatorsMixin):
    """An array on the device: ``raw``, a NumPy array that only the stand-in sees, and the memory that it lies in."""

    def __init__(self, xp: Cupy, raw: np.ndarray, memory: Memory, base: ndarray | None = None):
        self.xp, self.raw, self.memory, self.base = xp, raw, memory, base

    def view_of(self, raw: np.ndarray) -> ndarray:
        return ndarray(self.xp, raw, self.memory, self if self.base is None else self.base)

    # ---- NumPy

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("np.asarray was called with an array of the device")

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        raise TypeError(f"np.{function.__name__} was called with an array of the device")

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = (None,), **kwargs: Any) -> Any:
        """All operators come here, and calls of NumPy's ufuncs: CuPy's are called in their place."""
        return getattr(self.xp, ufunc.__name__)(*inputs, out=out[0], **kwargs)

    # ---- to the host, which waits

    def get(self) -> np.ndarray:
        self.xp.synchronize("a copy to the host")
        self.xp.counts.to_host += 1
        return self.raw.copy()

    def item(self) -> Any:
        return self.get().item()

    def __bool__(self) -> bool:
        return bool(self.get())

    def __int__(self) -> int:
        return int(self.get())

    def __float__(self) -> float:
        return float(self.get())

    def __repr__(self) -> str:  # pytest calls it for its messages, so it is not counted
        return repr(self.raw)

    # ---- elements

    def __len__(self) -> int:
        return len(self.raw)

    def __iter__(self) -> Iterator[ndarray]:
        return (self[k] for k in range(len(self)))

    def index_of(self, index: Any) -> tuple[tuple[Any, ...], bool]:
        """The index for ``raw``, and whether indexing copies. An index in an array wraps around, as on the GPU."""
        xp, parts = self.xp, list(index) if isinstance(index, tuple) else [index]
        parts = [xp.asarray(np.array(p, None if p else int)) if isinstance(p, list) else p for p in parts]
        axes = [_axes_of(part) for part in parts]
        axis, copies = 0, False
        for k, part in enumerate(parts):
            if isinstance(part, ndarray):
                copies, parts[k] = True, part.raw
                if part.dtype == bool:
                    xp.synchronize("an index of booleans")
                elif part.dtype.kind not in "iu":
                    raise IndexError(f"arrays used as indices must be of integer or boolean type, got {part.dtype}")
                elif axis < self.ndim and self.shape[axis]:
                    parts[k] = part.raw % self.shape[axis]
            axis += self.ndim - sum(axes) if part is ... else axes[k]
        if copies:
            xp.refuse_in_capture("an index array")
        elif not any(part is ... for part in parts):
            parts.append(...)  # then NumPy gives a view, of a single element too
        return tuple(parts), copies

    def __getitem__(self, index: Any) -> ndarray:
        parts, copies = self.index_of(index)
        if not copies:
            return self.view_of(self.raw[parts])
        self.xp.counts.launches += 1
        return self.xp.new(np.array(self.raw[parts], order="C"))

    def __setitem__(self, index: Any, value: Any) -> None:
        xp = self.xp
        parts, copies = self.index_of(index)
        raw = np.asarray(xp.operand(value))
        if copies:
            places = np.arange(self.size).reshape(self.shape)[parts]
            if raw.ndim and len(np.unique(places)) < places.size:
                raise RuntimeError("an index names an element twice: on the GPU either value may be written")
            self.raw[parts] = raw
            xp.counts.launches += 1
            return
        view = self.raw[parts]
        if isinstance(value, ndarray) and np.may_share_memory(raw, view):
            if (raw.ctypes.data, raw.shape, raw.strides) == (view.ctypes.data, view.shape, view.strides):
                return  # the end of `x[a:b] += y`
            raise RuntimeError("source and destination of a copy overlap: on the GPU the result is undefined")
        np.broadcast_to(raw, np.broadcast_shapes(raw.shape, view.shape))  # raises
        xp.launch(partial(np.copyto, view, raw, casting="unsafe"), [self, *xp.arrays_in([value])])

    def fill(self, value: float) -> None:
        self[...] = value

    def __deepcopy__(self, memo: Any) -> ndarray:
        return self.copy()

    # ---- attributes; the methods are in METHODS

    @property
    def T(self) -> ndarray:
        return self.view_of(self.raw.T)

    @property
    def real(self) -> ndarray:
        return self.view_of(self.raw.real)

    @property
    def data(self) -> SimpleNamespace:
        pointer = self.raw.ctypes.data
        self.xp.pointers[pointer] = self
        return SimpleNamespace(ptr=pointer)

    @property
    def flags(self) -> SimpleNamespace:
        return SimpleNamespace(c_contiguous=self.raw.flags.c_contiguous)

    def __getattr__(self, name: str) -> Any:
        if name in ("dtype", "itemsize", "nbytes", "ndim", "shape", "size", "strides"):
            return getattr(self.raw, name)
        if name not in METHODS:
            raise AttributeError(f"the stand-in has no cupy.ndarray.{name}; add it to METHODS if CuPy has it")
        return partial(Function(self.xp, name, getattr(np.ndarray, name)), self)


def _axes_of(part: Any) -> int:
    """How many axes a part of an index takes."""
    if isinstance(part, np.ndarray | bool | np.bool_):
        raise unsupported(part)
    if isinstance(part, ndarray) and part.dtype == bool:
        return part.ndim
    return 0 if part is None or part is ... else 1
