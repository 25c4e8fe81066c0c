"""A stand-in for CuPy: the parts that minizone uses, computed by NumPy, with the rules of a GPU.

    cupy = standin.make()
    monkeypatch.setattr(minizone.backend, "cupy", cupy)
    with cupy.counting() as counts:
        ...
    assert counts.synchronizations == 0

It enforces rules that NumPy does not have:

- NumPy's functions do not take arrays of the device. CuPy's functions, ufuncs and kernels do not take NumPy arrays.
- Only the functions, methods and keywords in `tests.standin.arrays` exist; ufuncs have no ``where``.
- An index in an array wraps around. An index that contains an element twice cannot be assigned to, and a copy cannot
  overlap with its source. ``add.at`` needs a type with an atomic addition.
- Results are C-contiguous, whatever the operands are. New memory is filled with NaN.
- Every copy to the host synchronizes, including ``float(x)`` and ``bool(x)``. This is counted, and so are launches.
- A kernel runs its own C++ source. An index out of range, a raw argument that is not contiguous, an argument of another
  type and an input that overlaps with an output are errors.
- While a graph is recorded, nothing may allocate, copy from or to the host, or synchronize. A graph does not keep its
  arrays alive.
- cuBLAS needs the types of its arguments, the current stream, a workspace, and matrices that lie inside arrays.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.standin.arrays import FUNCTIONS, UFUNCS, Function, Memory, Ufunc, ndarray, unsupported
from tests.standin.cuda import CuBLAS, CUDARuntimeError, Device, Event, Stream
from tests.standin.kernels import ElementwiseKernel, ReductionKernel

__all__ = ["Counts", "Cupy", "make", "ndarray"]


@dataclass
class Counts:
    """What a GPU would have done. The launches that a graph records and plays back are counted apart."""

    launches: int = 0
    gemms: int = 0  # of these, products by cuBLAS
    allocations: int = 0
    synchronizations: int = 0
    to_device: int = 0
    to_host: int = 0
    captured: int = 0
    graph_launches: int = 0
    replayed: int = 0


class Generator:
    """`cupy.random.Generator`, with the numbers of NumPy's."""

    def __init__(self, xp: Cupy, bits: np.random.BitGenerator):
        self.xp, self.host = xp, np.random.Generator(bits)

    def random(self, size: Any = None, dtype: Any = np.float64) -> ndarray:
        self.xp.counts.launches += 1
        return self.xp.new(np.asarray(self.host.random(size, dtype)))

    def standard_normal(self, size: Any = None, dtype: Any = np.float64) -> ndarray:
        self.xp.counts.launches += 1
        return self.xp.new(np.asarray(self.host.standard_normal(size, dtype)))


class OpenGrid:
    """`cupy.ogrid`."""

    def __init__(self, xp: Cupy):
        self.xp = xp

    def __getitem__(self, slices: tuple[slice, ...]) -> tuple[ndarray, ...]:
        return tuple(self.xp.new(axis) for axis in np.ogrid[slices])


class MemoryPool:
    """The default memory pool: it has the memory of all arrays that are alive, in units of 512 bytes."""

    def __init__(self, xp: Cupy):
        self.xp = xp

    def used_bytes(self) -> int:
        return sum(-(-memory.size // 512) * 512 for memory in self.xp.memories)

    total_bytes = used_bytes

    def free_all_blocks(self) -> None:
        """Nothing: what is freed is returned at once."""


class Cupy:
    """What stands for the module `cupy`.

    ``counts`` counts from the beginning, `counting` a block. After ``too_large = n`` the next allocation of more than n
    bytes fails.
    """

    __name__, __version__ = "cupy", "stand-in"
    ndarray = ndarray
    float32, float64, int32, int64 = np.float32, np.float64, np.int32, np.int64

    def __init__(self) -> None:
        self.counts = Counts()
        self.too_large: int | None = None
        self.memories: weakref.WeakSet[Memory] = weakref.WeakSet()
        self.pointers: weakref.WeakValueDictionary[int, ndarray] = weakref.WeakValueDictionary()  # those asked for
        self.ogrid = OpenGrid(self)
        self.pool = MemoryPool(self)
        self.streams = [Stream(self)]  # the current one is the last one
        properties = {"name": b"stand-in", "totalGlobalMem": 8 << 30}
        self.cuda = SimpleNamespace(
            Device=partial(Device, self),
            Event=partial(Event, self),
            Stream=partial(Stream, self),
            get_current_stream=lambda: self.streams[-1],
            get_elapsed_time=lambda start, end: 1e3 * (end.time - start.time),
            runtime=SimpleNamespace(
                CUDARuntimeError=CUDARuntimeError,
                getDeviceCount=lambda: 1,
                getDeviceProperties=lambda device: properties,
                runtimeGetVersion=lambda: 13000,
            ),
        )
        self.random = SimpleNamespace(Generator=partial(Generator, self), Philox4x3210=np.random.Philox)
        self.ElementwiseKernel = partial(ElementwiseKernel, self)
        self.ReductionKernel = partial(ReductionKernel, self)
        self.cublas = partial(CuBLAS, self)  # what `backend.load_cublas` returns

    def __getattr__(self, name: str) -> Any:
        if name in FUNCTIONS:
            made: Any = Function(self, name, getattr(np, name))
        elif name in UFUNCS:
            made = Ufunc(self, name)
        else:
            raise AttributeError(f"the stand-in has no cupy.{name}; add it to tests.standin.arrays if CuPy has it")
        setattr(self, name, made)
        return made

    @contextmanager
    def counting(self) -> Iterator[Counts]:
        """The counts of the block, which are there when it ends."""
        counts, before = Counts(), copy.copy(self.counts)
        yield counts
        for field in fields(Counts):
            setattr(counts, field.name, getattr(self.counts, field.name) - getattr(before, field.name))

    # ---- functions of CuPy that are not NumPy's

    def asarray(self, a: Any, dtype: Any = None) -> ndarray:
        if isinstance(a, ndarray):
            return a if dtype is None or dtype == a.dtype else a.astype(dtype)
        self.refuse_in_capture("a copy to the device")
        self.counts.to_device += 1
        return self.new(np.array(a, dtype))

    def asnumpy(self, a: Any) -> np.ndarray:
        return a.get() if isinstance(a, ndarray) else np.asarray(a)

    def empty(self, shape: Any, dtype: Any = float) -> ndarray:
        """New memory has anything in it: NaN, or -1."""
        raw = np.empty(shape, dtype)
        raw.reshape(-1).view(np.uint8).fill(255 if raw.dtype != bool else 1)
        return self.new(raw)

    def empty_like(self, a: ndarray, dtype: Any = None) -> ndarray:
        return self.empty(a.shape, dtype or a.dtype)

    def get_array_module(self, *args: Any) -> Any:
        return self if any(isinstance(arg, ndarray) for arg in args) else np

    def get_default_memory_pool(self) -> MemoryPool:
        return self.pool

    # ---- for the other parts of the stand-in

    def refuse_in_capture(self, what: str) -> None:
        """Raise if a graph is being recorded, which is then useless."""
        self.streams[-1].refuse(what)

    def launch(self, run: Callable[[], Any], arrays: Iterable[ndarray]) -> None:
        """Run it now, or record it."""
        self.streams[-1].launch(run, arrays)

    def synchronize(self, what: str) -> None:
        self.refuse_in_capture(what)
        self.counts.synchronizations += 1

    def new(self, raw: np.ndarray) -> ndarray:
        """An array of the device in memory of its own."""
        if raw.size:
            self.refuse_in_capture("an allocation")
            self.counts.allocations += 1
        if self.too_large is not None and raw.nbytes > self.too_large:
            self.too_large = None
            raise MemoryError(f"Out of memory allocating {raw.nbytes:,} bytes")
        memory = Memory(raw.nbytes)
        self.memories.add(memory)
        return ndarray(self, raw, memory)

    def arrays_in(self, tree: Any) -> list[ndarray]:
        """The arrays of the device in nested tuples and lists."""
        if isinstance(tree, tuple | list):
            return [array for branch in tree for array in self.arrays_in(branch)]
        return [tree] if isinstance(tree, ndarray) else []

    def to_raw(self, tree: Any, host_arrays: bool = False) -> Any:
        """The same with NumPy arrays in their place."""
        if isinstance(tree, tuple | list):
            return type(tree)([self.to_raw(branch, host_arrays) for branch in tree])
        if isinstance(tree, np.ndarray) and not host_arrays:
            raise unsupported(tree)
        return tree.raw if isinstance(tree, ndarray) else tree

    def operand(self, x: Any) -> Any:
        """An array of the device as a NumPy array, a number as it is; nothing else."""
        if isinstance(x, bool | int | float | complex | np.generic):
            return x
        if not isinstance(x, ndarray):
            raise unsupported(x)
        return x.raw

    def from_raw(self, result: Any, arrays: list[ndarray], keeps_order: bool = False) -> Any:
        """What NumPy has computed from these arrays, on the device: themselves, views of them, or new arrays."""
        if isinstance(result, tuple):
            return tuple(self.from_raw(each, arrays, keeps_order) for each in result)
        if not isinstance(result, np.ndarray | np.generic):
            return result
        for array in arrays:
            if result is array.raw:
                return array
            if np.may_share_memory(result, array.raw):
                return array.view_of(result)
        self.counts.launches += 1
        return self.new(np.asarray(result, order="K" if keeps_order else "C"))


def make() -> Cupy:
    """A CuPy with an empty device."""
    return Cupy()
