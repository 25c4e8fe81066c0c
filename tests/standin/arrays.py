"""The array type of the stand-in for CuPy (standin.py), and its functions and ufuncs: NumPy's, with CuPy's refusals."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.standin.signatures import TABLE, bind

Module = Any  # standin.Module

IN_PLACE = {"copyto", "fill_diagonal", "partition", "place", "put", "putmask", "sort"}  # where they return None
SYNCHRONIZING = {"argwhere", "bincount", "compress", "extract", "flatnonzero", "intersect1d", "nonzero", "setdiff1d"}
SYNCHRONIZING |= {"setxor1d", "trim_zeros", "union1d"} | {name for name in TABLE if name.startswith("unique")}
FETCHES = {"dump", "dumps", "item", "tobytes", "tofile", "tolist"}  # methods whose result is on the host
GEMMS = {"dot", "inner", "matmul", "tensordot", "vdot"}
TAKES_HOST_ARRAYS = {
    "can_cast",
    "iscomplexobj",
    "isrealobj",
    "isscalar",
    "issubdtype",
    "min_scalar_type",
    "result_type",
}
TAKES_HOST_ARRAYS |= {"reshape", "transpose"}  # as shape and axes
FROM_HOST = {"array", "asanyarray", "asarray", "ascontiguousarray", "asfortranarray"}
KEEPS_ORDER = FROM_HOST | {"astype", "copy", "eye", "full", "full_like", "ones", "ones_like", "ravel", "reshape"}
KEEPS_ORDER |= {"zeros", "zeros_like"}  # all other functions, and ufuncs, give C-contiguous arrays
ANSWERS_ON_DEVICE = {"allclose", "array_equal", "array_equiv"}  # where NumPy gives a bool
ARRAY_NAMES = {"a", "ar", "arr", "array", "m", "x"}  # of a first parameter that CuPy does not make from a list
SCATTERED = "efdFDiIQL"  # types that have an atomic addition; int64 has none
BINARY = {"add": "add", "sub": "subtract", "mul": "multiply", "truediv": "divide", "floordiv": "floor_divide"}
BINARY |= {"mod": "remainder", "pow": "power", "matmul": "matmul", "divmod": "divmod", "lshift": "left_shift"}
BINARY |= {"rshift": "right_shift", "and": "bitwise_and", "or": "bitwise_or", "xor": "bitwise_xor"}
COMPARISONS = {"lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal"}
COMPARISONS |= {"eq": "equal", "ne": "not_equal"}
UNARY = {"neg": "negative", "pos": "positive", "abs": "absolute", "invert": "invert"}


class Function:
    """A function of CuPy, computed by NumPy's: arguments unwrapped, results wrapped and counted."""

    def __init__(self, xp: Module, name: str, host: Callable[..., Any]):
        self.xp, self.name, self.host, self.__name__ = xp, name, host, name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        xp, short, given = self.xp, self.name.rpartition(".")[2], bind(self.name, args, kwargs)
        first, out, arrays = next(iter(given.values()), None), given.get("out"), xp.arrays((args, kwargs))
        if short in FROM_HOST and not arrays:
            host = np.array(first, given.get("dtype"), ndmin=given.get("ndmin", 0))
            by_columns = short != "ascontiguousarray" and host.flags.f_contiguous and given.get("order") != "C"
            return xp.to_device(np.asarray(host, order="F" if by_columns else "C"))
        if next(iter(given), "") in ARRAY_NAMES and isinstance(first, list | tuple) and short not in FROM_HOST:
            raise unsupported(first)
        if out is not None and not isinstance(out, xp.ndarray):
            raise TypeError("Output arguments type must be cupy.ndarray")
        if short in SYNCHRONIZING | FETCHES or (short == "where" and len(args) == 1):
            xp.synchronize(self.name)
        in_place = out is not None or short in IN_PLACE
        if in_place:
            xp.refuse(self.name)
        raw_args, raw_kwargs = xp.unwrap((args, kwargs), short in TAKES_HOST_ARRAYS)
        raw_kwargs.pop("blocking", None)
        with np.errstate(all="ignore"):
            result = self.host(*raw_args, **raw_kwargs)
        if short in FETCHES:
            xp.counts.to_host += 1
            return result
        result, new = xp.wrap(
            np.asarray(result) if short in ANSWERS_ON_DEVICE else result, arrays, short in KEEPS_ORDER
        )
        xp.counts.launches += bool(in_place or new)
        xp.counts.gemms += short in GEMMS
        return result


class Ufunc:
    """A ufunc of CuPy: it refuses arrays of NumPy, and `where`; given ``out``, it can be captured."""

    def __init__(self, xp: Module, name: str, host: Any):
        self.xp, self.name, self.host, self.__name__ = xp, name, host, name
        self.nin, self.nout = getattr(host, "nin", 1), getattr(host, "nout", 1)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        xp, nin, out = self.xp, self.nin, bind(self.name, args, kwargs).get("out")
        ins, outs = args[:nin], args[nin:] or (out if isinstance(out, tuple) else (out,) * (out is not None))
        if len(ins) < nin or len(outs) not in (0, self.nout):
            raise TypeError(f"Wrong number of arguments for 'cupy_{self.name}'")
        if not all(isinstance(y, xp.ndarray) for y in outs):
            raise TypeError("Output arguments type must be cupy.ndarray")
        raw = [xp.operand(x) for x in ins]
        host = partial(self.host, *raw, **{key: value for key, value in kwargs.items() if key != "out"})
        if not outs:
            with np.errstate(all="ignore"):
                result, new = xp.wrap(host(), [])
            xp.counts.launches += bool(new)
            return result
        if np.broadcast_shapes(*map(np.shape, raw), *(y.shape for y in outs)) != outs[0].shape:
            raise ValueError("Out shape is mismatched")
        like = [np.empty(0, x.dtype) if isinstance(x, np.ndarray) else x for x in raw]
        self.host(*like, out=tuple(np.empty(0, y.dtype) for y in outs), **host.keywords)  # for its TypeErrors
        for x in xp.arrays(ins):  # CuPy copies an input that overlaps with the output, if it is another object
            if any(x is not y and np.may_share_memory(x.raw, y.raw) for y in outs):
                xp.refuse(f"{self.name}: its input overlaps with its output and has to be copied")
                xp.counts.launches += 1
                xp.counts.allocations += 1
        if outs[0].size:
            xp.launch(partial(host, out=tuple(y.raw for y in outs)), [*xp.arrays(ins), *outs])
        return outs[0] if self.nout == 1 else outs

    def __getattr__(self, method: str) -> Any:
        if method not in ("accumulate", "at", "outer", "reduce", "reduceat"):
            raise AttributeError(f"'cupy.ufunc' object has no attribute {method!r}")
        if f"{self.name}.{method}" not in TABLE:
            raise NotImplementedError(f"`cupy_{self.name}.{method}` is not supported yet")
        return self._at if method == "at" else Function(self.xp, f"{self.name}.{method}", getattr(self.host, method))

    def _at(self, a: Any, indices: Any, b: Any = None) -> None:
        """Atomic on the GPU, so only for those types that have such an instruction."""
        parts, advanced = a._index(indices)
        if advanced and a.dtype.char not in SCATTERED:
            raise TypeError(f"scatter_{self.name} does not support {a.dtype}")
        self.xp.refuse(f"{self.name}.at")
        self.xp.counts.launches += 1
        with np.errstate(all="ignore"):
            self.host.at(a.raw, parts, np.asarray(self.xp.operand(b)).astype(a.dtype))


class ndarray:
    """An array of the device: ``raw``, an array of NumPy that nobody else sees, and the holder of its memory.

    ``Module.ndarray`` is a subclass, which knows its module.
    """

    _xp: Module
    __slots__ = ("base", "holder", "raw")
    __array_priority__ = 100
    __hash__ = None  # type: ignore[assignment]

    def __new__(cls, shape: Any, dtype: Any = float, memptr: Any = None, strides: Any = None, order: Any = "C") -> Any:
        if memptr is not None or strides is not None:
            raise NotImplementedError("the stand-in makes arrays in new memory only")
        return cls._xp.empty(shape, dtype, order)

    @classmethod
    def _of(cls, raw: np.ndarray, holder: Any, base: ndarray | None = None) -> ndarray:
        made = object.__new__(cls)
        made.raw, made.holder, made.base = raw, holder, base
        return made

    def _view(self, raw: np.ndarray) -> ndarray:
        return self._of(raw, self.holder, self if self.base is None else self.base)

    # ---- what NumPy must not do with it

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("np.asarray was called with an array of the device")

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        raise TypeError(f"np.{function.__name__} was called with an array of the device")

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        name = ufunc.__name__
        if isinstance(inputs[0], np.generic) and name in {*BINARY.values(), *COMPARISONS.values()} and not kwargs:
            return getattr(self._xp, name)(*inputs)  # np.float32(2) * x
        raise TypeError(f"np.{name} was called with an array of the device")

    # ---- to the host

    def get(self, stream: Any = None, order: Any = "C", out: Any = None, blocking: bool = True) -> np.ndarray:
        host = self._xp.fetch(self)
        if out is None:
            return host.copy(order)
        out[...] = host
        return out

    def __format__(self, spec: str) -> str:
        return format(self._xp.fetch(self), spec)

    def __repr__(self) -> str:  # for the messages of failing tests, so it is not counted
        return repr(self.raw)

    # ---- elements

    def __len__(self) -> int:
        return len(self.raw)

    def __iter__(self) -> Iterator[ndarray]:
        return (self[k] for k in range(len(self)))

    def _index(self, index: Any) -> tuple[tuple, bool]:
        """The index for ``raw``, with indices in arrays wrapped around as CuPy does, and whether there are arrays."""
        xp, parts = self._xp, list(index if isinstance(index, tuple) else (index,))
        for k, part in enumerate(parts):
            if isinstance(part, np.ndarray | bool | np.bool_):
                raise unsupported(part)
            if isinstance(part, list):
                parts[k] = xp.to_device(np.array(part) if part else np.array(part, np.int64))
        masks = [isinstance(p, xp.ndarray) and p.dtype == bool for p in parts]
        axes = [p.ndim if m else int(p is not None and p is not ...) for p, m in zip(parts, masks, strict=True)]
        axis, advanced = 0, False
        for k, part in enumerate(parts):
            if isinstance(part, xp.ndarray):
                advanced, parts[k] = True, part.raw
                if masks[k]:
                    xp.synchronize("a boolean index")
                elif part.dtype.kind not in "iu":
                    raise IndexError(f"arrays used as indices must be of integer or boolean type, got {part.dtype}")
                elif axis < self.ndim and self.shape[axis]:
                    parts[k] = part.raw % self.shape[axis]
            axis += self.ndim - sum(axes) if part is ... else axes[k]
        if advanced:
            xp.refuse("an index array")
        elif not any(part is ... for part in parts):
            parts.append(...)  # so that NumPy gives a view, of a single element too
        return tuple(parts), advanced

    def __getitem__(self, index: Any) -> ndarray:
        parts, advanced = self._index(index)
        if not advanced:
            return self._view(self.raw[parts])
        result, new = self._xp.wrap(np.array(self.raw[parts], order="C"), [])
        self._xp.counts.launches += bool(new)
        return result

    def __setitem__(self, index: Any, value: Any) -> None:
        xp, (parts, advanced) = self._xp, self._index(index)
        raw = xp.operand(value)
        raw = raw if isinstance(raw, np.ndarray) else np.full((), raw, self.dtype)
        if advanced:
            places = np.arange(self.size).reshape(self.shape)[parts]
            if raw.ndim and len(np.unique(places)) < places.size:
                raise RuntimeError("an index names an element twice: on the GPU either value may be written")
            self.raw[parts] = raw
            xp.counts.launches += 1
            return
        view = self.raw[parts]
        while raw.ndim > view.ndim and raw.shape[0] == 1:
            raw = raw[0]
        steps = [s for n, s in zip(view.shape, view.strides, strict=True) if n > 1]
        same = raw.shape == view.shape and [s for n, s in zip(raw.shape, raw.strides, strict=True) if n > 1] == steps
        if not view.size or (same and raw.ctypes.data == view.ctypes.data):
            return  # as at the end of `x[a:b] += y`
        raw = np.broadcast_to(raw, view.shape)
        if np.may_share_memory(raw, view):
            raise RuntimeError("source and destination of a copy overlap: on the GPU the result is undefined")
        xp.launch(partial(np.copyto, view, raw, casting="unsafe"), [self, *xp.arrays([value])])

    def fill(self, value: Any) -> None:
        self[...] = value

    def set(self, arr: np.ndarray, stream: Any = None) -> None:
        self._xp.refuse("a transfer to the device")
        self._xp.counts.to_device += 1
        self.raw[...] = arr

    def take(self, indices: Any, axis: Any = None, out: Any = None) -> ndarray:
        return self._xp.take(self, indices, axis, out)

    def __copy__(self) -> ndarray:
        return self.copy()

    def __deepcopy__(self, memo: Any) -> ndarray:
        return self.copy()

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise NotImplementedError("the stand-in does not pickle arrays")

    # ---- attributes and the other methods

    @property
    def data(self) -> SimpleNamespace:
        return SimpleNamespace(ptr=self.raw.ctypes.data, mem=self.holder, device_id=0)

    @property
    def flags(self) -> SimpleNamespace:
        c, f = self.raw.flags.c_contiguous, self.raw.flags.f_contiguous
        return SimpleNamespace(c_contiguous=c, f_contiguous=f, owndata=self.base is None)

    @property
    def T(self) -> ndarray:
        return self._view(self.raw.T)

    @property
    def real(self) -> ndarray:
        return self._view(self.raw.real) if self.dtype.kind == "c" else self

    @property
    def imag(self) -> ndarray:
        return self._view(self.raw.imag) if self.dtype.kind == "c" else self._xp.zeros_like(self)

    def __getattr__(self, name: str) -> Any:
        if f"ndarray.{name}" not in TABLE:
            raise AttributeError(f"'cupy.ndarray' object has no attribute {name!r}")
        host = getattr(np.ndarray, name, getattr(np, name, None))
        if not callable(host):
            raise NotImplementedError(f"the stand-in has no ndarray.{name}")
        return partial(Function(self._xp, f"ndarray.{name}", host), self)


def unsupported(x: Any) -> TypeError:
    return TypeError(f"Unsupported type {type(x).__module__}.{type(x).__qualname__}")


def _unary(name: str) -> Callable[[ndarray], Any]:
    return lambda self: getattr(self._xp, name)(self)


def _binary(name: str, reflected: bool = False, in_place: bool = False) -> Callable[[ndarray, Any], Any]:
    def operate(self: ndarray, other: Any) -> Any:
        if getattr(type(other), "__array_ufunc__", self) is None:
            return NotImplemented  # so that the other one, a Tensor, is asked
        ufunc = getattr(self._xp, name)
        return ufunc(self, other, out=self) if in_place else ufunc(other, self) if reflected else ufunc(self, other)

    return operate


def _attribute(name: str) -> property:
    return property(lambda self: getattr(self.raw, name))


def _converter(convert: Callable[[Any], Any]) -> Callable[[ndarray], Any]:
    return lambda self: convert(self._xp.fetch(self))


for _name in ("dtype", "itemsize", "nbytes", "ndim", "shape", "size", "strides"):
    setattr(ndarray, _name, _attribute(_name))
for _name, _ufunc in UNARY.items():
    setattr(ndarray, f"__{_name}__", _unary(_ufunc))
for _name, _ufunc in (BINARY | COMPARISONS).items():
    setattr(ndarray, f"__{_name}__", _binary(_ufunc))
    if _name in BINARY:
        setattr(ndarray, f"__r{_name}__", _binary(_ufunc, reflected=True))
    if _name in BINARY and _name not in ("divmod", "matmul"):  # CuPy has no `@=` of its own
        setattr(ndarray, f"__i{_name}__", _binary(_ufunc, in_place=True))
for _type in (bool, int, float, complex):
    setattr(ndarray, f"__{_type.__name__}__", _converter(_type))
