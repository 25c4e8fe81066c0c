"""A strict stand-in for CuPy: arrays "of a device" whose memory is NumPy's, and a count of what a GPU would have to do.

    xp = standin.make()
    monkeypatch.setattr(minizone.backend, "cupy", xp)
    with xp.counting() as counts:
        ...
    assert counts.synchronizations == 0

It has what CuPy has, with its keywords (cupy_signatures.py), and refuses what CuPy refuses. NumPy computes
(standin_arrays.py), and the host's own compiler makes the kernels (standin_kernels.py, standin_cpp.py). Streams, graphs
and cuBLAS are in standin_cuda.py.
"""

from __future__ import annotations

import copy
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.standin import cuda as standin_cuda
from tests.standin import kernels as standin_kernels
from tests.standin.arrays import Function, Ufunc, ndarray, unsupported
from tests.standin.cuda import CuBLAS
from tests.standin.kernels import cuda_source
from tests.standin.signatures import TABLE, UFUNC, bind

__all__ = ["Counts", "CuBLAS", "Module", "cuda_source", "make", "ndarray"]
TYPES = "?bhilqBHILQefdFD"


@dataclass
class Counts:
    """What a GPU would have done. An operation of a graph is captured once, then replayed at every launch of it."""

    launches: int = 0
    gemms: int = 0
    kernels: Counter[str] = field(default_factory=Counter)
    to_device: int = 0
    to_host: int = 0
    synchronizations: int = 0
    allocations: int = 0
    graph_launches: int = 0
    captured: int = 0
    replayed: int = 0


class Holder:
    """One allocation, shared by all views of it; it is gone when the last of them is."""

    def __init__(self, memory: np.ndarray, pool: standin_cuda.MemoryPool):
        self.memory, (self.address, self.end) = memory, np.lib.array_utils.byte_bounds(memory)
        self.pool, self.size = pool, -(-(self.end - self.address) // 512) * 512
        pool._take(self.size)

    def __del__(self) -> None:
        self.pool._take(-self.size)


class Generator:
    """`cupy.random.Generator`, with the numbers of NumPy's."""

    def __init__(self, xp: Module, bit_generator: np.random.BitGenerator):
        self._xp, self._host = xp, np.random.Generator(bit_generator)

    def __getattr__(self, name: str) -> Any:
        if f"random.Generator.{name}" not in TABLE:
            raise AttributeError(f"'Generator' object has no attribute {name!r}")

        def draw(_: Generator, *args: Any, **kwargs: Any) -> Any:
            takes_dtype = name in ("integers", "random", "standard_exponential", "standard_gamma", "standard_normal")
            dtype = None if takes_dtype else kwargs.pop("dtype", None)
            drawn = getattr(self._host, name)(*args, **kwargs)
            return drawn if dtype is None else np.asarray(drawn, dtype)

        return partial(Function(self._xp, f"random.Generator.{name}", draw), self)


def _random(xp: Module) -> SimpleNamespace:
    def bits(seed: Any = None, *, size: int = -1) -> np.random.BitGenerator:
        return np.random.Philox(seed)

    def default_rng(seed: Any = None) -> Generator:
        return Generator(xp, bits(seed))

    return SimpleNamespace(
        Generator=partial(Generator, xp), Philox4x3210=bits, XORWOW=bits, MRG32k3a=bits, default_rng=default_rng
    )


class Names:
    """`cupy.linalg`; and `cupy.ogrid`, `cupy.r_` and their like, which are indexed."""

    def __init__(self, xp: Module, name: str):
        self._xp, self._name = xp, name

    def __getattr__(self, name: str) -> Any:
        if f"{self._name}.{name}" not in TABLE:
            raise AttributeError(f"module 'cupy.{self._name}' has no attribute {name!r}")
        return Function(self._xp, f"{self._name}.{name}", getattr(getattr(np, self._name), name))

    def __getitem__(self, index: Any) -> Any:
        result, new = self._xp.wrap(getattr(np, self._name)[self._xp.unwrap(index)], self._xp.arrays(index))
        self._xp.counts.launches += bool(new)
        return result


class Module:
    """What stands for the module `cupy`.

    ``counts`` counts from the beginning, `counting` a block. ``too_large = n`` makes the next allocation of more than
    n bytes fail. ``cublas()`` is what ctypes would make of the library.
    """

    def __init__(self) -> None:
        self.__name__, self.__version__ = "cupy", TABLE["__version__"]
        self.counts, self.too_large = Counts(), None
        self.holders: weakref.WeakSet[Holder] = weakref.WeakSet()
        self.streams: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
        self.pool, self._local = standin_cuda.MemoryPool(), threading.local()
        self.ndarray = type("ndarray", (ndarray,), {"_xp": self, "__slots__": ()})
        self.cuda, self.random = standin_cuda.namespace(self), _random(self)
        self.ElementwiseKernel = partial(standin_kernels.ElementwiseKernel, self)
        self.ReductionKernel = partial(standin_kernels.ReductionKernel, self)
        self.cublas = partial(CuBLAS, self)

    def __getattr__(self, name: str) -> Any:
        host = getattr(np, name, None)
        if name not in TABLE or name.startswith("__"):
            raise AttributeError(f"module 'cupy' has no attribute {name!r}")
        if not hasattr(np, name) or (isinstance(host, type(np)) and name != "linalg"):
            raise NotImplementedError(f"the stand-in has no cupy.{name}")
        if TABLE[name] == UFUNC:
            made = Ufunc(self, name, host)
        elif name == "linalg" or (hasattr(host, "__getitem__") and not isinstance(host, type)):
            made = Names(self, name)
        else:
            made = host if isinstance(host, type) or not callable(host) else Function(self, name, host)
        self.__dict__[name] = made
        return made

    # ---- for tests

    @contextmanager
    def counting(self) -> Iterator[Counts]:
        """Counts that at the end of the block are those of the block."""
        counts, before = Counts(), copy.deepcopy(self.counts)
        yield counts
        for each in fields(Counts):
            setattr(counts, each.name, getattr(self.counts, each.name) - getattr(before, each.name))

    # ---- for the other parts of the stand-in

    @property
    def stream_stack(self) -> list[Any]:
        """The current stream of this thread is the last one."""
        if not hasattr(self._local, "stack"):
            self._local.stack = [self.cuda.Stream.null]
        return self._local.stack

    def refuse(self, what: str) -> None:
        self.stream_stack[-1]._refuse(what)

    def launch(self, run: Callable[[], Any], arrays: Iterable[Any], kernel: str | None = None) -> None:
        self.stream_stack[-1]._launch(run, arrays, kernel)

    def synchronize(self, what: str) -> None:
        self.refuse(what)
        self.counts.synchronizations += 1

    def fetch(self, array: ndarray) -> np.ndarray:
        """The numbers, to be copied."""
        self.synchronize("a transfer to the host")
        self.counts.to_host += 1
        return array.raw

    def to_device(self, array: np.ndarray) -> ndarray:
        self.refuse("a transfer to the device")
        self.counts.to_device += 1
        return self.new(array)

    def new(self, raw: np.ndarray) -> ndarray:
        """Memory of its own for an array that nobody else has."""
        if raw.dtype.char not in TYPES:
            raise ValueError(f"Unsupported dtype {raw.dtype}")
        if raw.size:
            self.refuse("an allocation")
            self.counts.allocations += 1
        if self.too_large is not None and raw.nbytes > self.too_large:
            self.too_large = None
            raise standin_cuda.OutOfMemoryError(f"Out of memory allocating {raw.nbytes:,} bytes")
        holder = Holder(raw, self.pool)
        self.holders.add(holder)
        return self.ndarray._of(raw, holder)

    def arrays(self, tree: Any) -> list[ndarray]:
        """The arrays of the device in nested tuples, lists and dictionaries."""
        if isinstance(tree, dict):
            tree = tree.values()
        elif not isinstance(tree, tuple | list):
            return [tree] if isinstance(tree, self.ndarray) else []
        return [array for branch in tree for array in self.arrays(branch)]

    def unwrap(self, tree: Any, host_arrays: bool = False) -> Any:
        """The same with NumPy's arrays; there may be none among them yet."""
        if isinstance(tree, dict):
            return {key: self.unwrap(branch, host_arrays) for key, branch in tree.items()}
        if isinstance(tree, tuple | list):
            return type(tree)([self.unwrap(branch, host_arrays) for branch in tree])
        foreign = isinstance(tree, ndarray) and not isinstance(tree, self.ndarray)
        if foreign or (isinstance(tree, np.ndarray) and not host_arrays):
            raise unsupported(tree)
        return tree.raw if isinstance(tree, ndarray) else tree

    def operand(self, x: Any) -> Any:
        """An array of the device as NumPy's, a number as it is."""
        if isinstance(x, bool | int | float | complex | np.generic):
            return x
        if not isinstance(x, self.ndarray):
            raise unsupported(x)
        return x.raw

    def wrap(self, result: Any, arrays: list[ndarray], keeps_order: bool = False) -> tuple[Any, int]:
        """What NumPy has made of these arrays: they themselves, views of them or new; and how many are new."""
        if isinstance(result, tuple | list):
            pairs = [self.wrap(each, arrays, keeps_order) for each in result]
            parts = [part for part, _ in pairs]
            return type(result)(*parts) if hasattr(result, "_fields") else type(result)(parts), sum(n for _, n in pairs)
        if not isinstance(result, np.ndarray | np.generic):
            return result, 0
        for array in arrays:
            if result is array.raw:
                return array, 0
            if np.may_share_memory(result, array.raw):
                return array._view(result), 0
        return self.new(np.asarray(result, order="K" if keeps_order else "C")), int(result.size > 0)

    # ---- what NumPy has no equal of

    def empty(self, shape: Any, dtype: Any = float, order: Any = "C") -> ndarray:
        return self._rubbish(np.empty(shape, dtype, order))

    def empty_like(
        self, prototype: Any, dtype: Any = None, order: Any = "K", subok: Any = None, shape: Any = None
    ) -> Any:
        return self._rubbish(np.empty_like(self.unwrap(prototype), dtype, order, shape=shape))

    def _rubbish(self, raw: np.ndarray) -> ndarray:
        new = self.new(raw)
        if raw.dtype == bool:
            raw.fill(True)
        elif raw.size:
            raw.ravel("K").view(np.uint8).fill(255)  # NaN, or -1
        return new

    def asnumpy(self, a: Any, stream: Any = None, order: Any = "C", out: Any = None, *, blocking: bool = True) -> Any:
        return a.get(stream, order, out) if isinstance(a, self.ndarray) else np.asarray(a, order=order)

    def take(self, *args: Any, **kwargs: Any) -> ndarray:
        """The indices wrap around, and there is no mode."""
        given = {"axis": None, "out": None} | bind("take", args, kwargs)
        a, indices, axis, out = (given[name] for name in ("a", "indices", "axis", "out"))
        self.refuse("take")
        raw, index = self.unwrap(a), self.to_device(np.array(indices)) if isinstance(indices, list) else indices
        n, index = raw.size if axis is None else raw.shape[axis], self.operand(index)
        result = np.take(raw, index % n if n else index, axis)
        if out is not None:
            if (out.dtype, out.shape) != (result.dtype, result.shape):
                raise TypeError("Output dtype mismatch") if out.dtype != result.dtype else ValueError("Output shape")
            out.raw[...] = result
        wrapped, new = self.wrap(result, []) if out is None else (out, 1)
        self.counts.launches += bool(new)
        return wrapped

    def get_array_module(self, *args: Any) -> Any:
        return self if any(isinstance(arg, self.ndarray) for arg in args) else np

    def get_default_memory_pool(self) -> Any:
        return self.pool

    def is_available(self) -> bool:
        return True


def make() -> Module:
    """A CuPy of its own, with nothing on its device yet."""
    return Module()
