"""`cupy.cuda` in the stand-in for CuPy (standin.py): streams, graphs, the memory pool, and cuBLAS as ctypes sees it."""

from __future__ import annotations

import ctypes
import time
import weakref
from collections.abc import Callable, Iterable
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np

Module = Any  # standin.Module
TOTAL_MEMORY = 8 << 30


class CUDARuntimeError(RuntimeError):
    """`cupy.cuda.runtime.CUDARuntimeError`."""


class OutOfMemoryError(MemoryError):
    """`cupy.cuda.memory.OutOfMemoryError`."""


class Stream:
    """A stream. Nothing waits in it: what is launched has happened, unless the stream records it for a graph."""

    _xp: Module
    null: Stream
    _pointers = iter(range(1 << 20, 1 << 40, 1 << 10))

    def __init__(self, null: bool = False, non_blocking: bool = False, ptds: bool = False, priority: Any = None):
        self.ptr = 0 if null else next(self._pointers)
        self.is_non_blocking, self.done = non_blocking, True
        self.operations: list[tuple] | None = None  # those recorded so far
        self.broken = ""  # by what
        self._xp.streams[self.ptr] = self

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream) and self.ptr == other.ptr

    def __hash__(self) -> int:
        return self.ptr

    def __enter__(self) -> Stream:
        self._xp.stream_stack.append(self)
        return self

    def __exit__(self, *error: object) -> None:
        self._xp.stream_stack.pop()

    def use(self) -> Stream:
        self._xp.stream_stack[-1] = self
        return self

    def synchronize(self) -> None:
        self._refuse("a synchronization")
        self._xp.synchronize("a synchronization")

    def record(self, event: Event | None = None) -> Event:
        event = event or self._xp.cuda.Event()
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        """Nothing to wait for."""

    def is_capturing(self) -> bool:
        return self.operations is not None

    def begin_capture(self, mode: Any = None) -> None:
        if self.ptr == 0:
            raise RuntimeError("cannot capture on the default (legacy) stream")
        self._refuse("begin_capture")
        self.operations, self.broken = [], ""

    def end_capture(self) -> Graph:
        if self.operations is None:
            raise CUDARuntimeError("cudaErrorIllegalState: the stream is not capturing")
        operations, self.operations = self.operations, None
        if self.broken:
            raise CUDARuntimeError(f"cudaErrorStreamCaptureInvalidated: by {self.broken}")
        graph = object.__new__(Graph)
        graph._xp, graph._operations = self._xp, operations
        return graph

    def _refuse(self, what: str) -> None:
        """Raise if the stream captures, which then is of no use any more."""
        if self.operations is not None:
            self.broken = what
            raise CUDARuntimeError(f"operation not permitted when stream is capturing: {what}")

    def _launch(self, run: Callable[[], Any], arrays: Iterable[Any], kernel: str | None = None) -> None:
        """Do it now, or record it, with weak references to the memory of the arrays that it works on."""
        counts = self._xp.counts
        if self.operations is not None:
            self.operations.append((run, [weakref.ref(array.holder) for array in arrays]))
            counts.captured += 1
            return
        counts.launches += 1
        if kernel:
            counts.kernels[kernel] += 1
        with np.errstate(all="ignore"):
            run()


class Graph:
    """What a stream has recorded. As on a GPU, it does not keep alive the arrays that it works on."""

    _xp: Module
    _operations: list[tuple[Callable[[], Any], list[weakref.ref]]]

    def __init__(self, *args: Any):
        raise NotImplementedError("a graph is made by a stream that captures")

    def launch(self, stream: Stream | None = None) -> None:
        (stream or self._xp.stream_stack[-1])._refuse("the launch of another graph")
        if any(holder() is None for _, holders in self._operations for holder in holders):
            raise RuntimeError("a graph uses memory that has been freed")
        self._xp.counts.graph_launches += 1
        self._xp.counts.replayed += len(self._operations)
        with np.errstate(all="ignore"):
            for run, _ in self._operations:
                run()

    def upload(self, stream: Stream | None = None) -> None:
        """Nothing: it is there."""


class Event:
    _xp: Module

    def __init__(self, block: bool = False, disable_timing: bool = False, interprocess: bool = False):
        self.ptr, self.time, self.done = 1, 0.0, True

    def record(self, stream: Stream | None = None) -> None:
        self.time = time.perf_counter()

    def synchronize(self) -> None:
        self._xp.synchronize("a synchronization")


class Device:
    _xp: Module
    id, compute_capability = 0, "90"

    def __init__(self, device: Any = None):
        if device not in (None, 0):
            raise CUDARuntimeError("cudaErrorInvalidDevice: invalid device ordinal")

    def __enter__(self) -> Device:
        return self

    use = __enter__

    def __exit__(self, *error: object) -> None: ...

    @property
    def mem_info(self) -> tuple[int, int]:
        return TOTAL_MEMORY - self._xp.pool.total_bytes(), TOTAL_MEMORY

    def synchronize(self) -> None:
        self._xp.synchronize("a synchronization")


class MemoryPool:
    """Memory in units of 512 bytes; what is freed stays with the pool."""

    def __init__(self) -> None:
        self._used = self._most = 0

    def _take(self, size: int) -> None:
        self._used += size
        self._most = max(self._most, self._used)

    def used_bytes(self) -> int:
        return self._used

    def total_bytes(self) -> int:
        return self._most

    def free_bytes(self) -> int:
        return self._most - self._used

    def free_all_blocks(self, stream: Any = None) -> None:
        self._most = self._used


def namespace(xp: Module) -> SimpleNamespace:
    stream, event, device = (type(c.__name__, (c,), {"_xp": xp}) for c in (Stream, Event, Device))
    properties = {"name": b"stand-in", "totalGlobalMem": TOTAL_MEMORY, "multiProcessorCount": 1, "warpSize": 32}
    runtime = SimpleNamespace(
        CUDARuntimeError=CUDARuntimeError,
        getDeviceCount=lambda: 1,
        getDevice=lambda: 0,
        getDeviceProperties=lambda device: properties | {"major": 9, "minor": 0},
        runtimeGetVersion=lambda: 13000,
        driverGetVersion=lambda: 13000,
        memGetInfo=lambda: device().mem_info,
        deviceSynchronize=lambda: device().synchronize(),
        streamCaptureModeGlobal=0,
        streamCaptureModeThreadLocal=1,
        streamCaptureModeRelaxed=2,
    )
    stream.null = stream(null=True)
    return SimpleNamespace(
        runtime=runtime,
        memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
        Stream=stream,
        Event=event,
        Graph=Graph,
        Device=device,
        MemoryPool=MemoryPool,
        get_current_stream=lambda device_id=-1: xp.stream_stack[-1],
        get_elapsed_time=lambda start_event, end_event: 1e3 * (end_event.time - start_event.time),
    )


# ---- cuBLAS

GEMM = "handle transa transb m n k alpha A lda B ldb beta C ldc"
PARAMETERS = {
    "cublasCreate_v2": "handle",
    "cublasSetStream_v2": "handle streamId",
    "cublasSetWorkspace_v2": "handle workspace workspaceSizeInBytes",
    "cublasSgemm_v2": GEMM,
    "cublasDgemm_v2": GEMM,
}
NOT_INITIALIZED, INVALID_VALUE = 1, 7


class CFunction:
    """A function of a library as ctypes has it; what ctypes would cut to 32 bits it refuses."""

    def __init__(self, name: str, call: Callable[..., int]):
        self.name, self.call, self.argtypes, self.restype = name, call, None, ctypes.c_int

    def __call__(self, *args: Any) -> int:
        n = len(PARAMETERS[self.name].split())
        if len(args) != n or (self.argtypes is not None and len(self.argtypes) != n):
            kinds = len(self.argtypes or ())
            raise TypeError(f"{self.name} has {n} parameters; {len(args)} arguments given, {kinds} argtypes")
        for arg, kind in zip(args, self.argtypes or n * [ctypes.c_int], strict=True):
            if self.argtypes is not None:
                kind.from_param(arg)  # raises what ctypes would
            if kind is ctypes.c_int and isinstance(arg, int) and not -(2**31) <= arg < 2**31:
                raise ctypes.ArgumentError(f"{self.name}: {arg:#x} would be cut to 32 bits")
        return self.call(*map(self._seen, args))

    @staticmethod
    def _seen(arg: Any) -> Any:
        """What C sees: the object behind a reference, or a number."""
        if hasattr(arg, "_obj"):
            return arg._obj
        number = arg.value if isinstance(arg, ctypes._SimpleCData) else arg
        if not isinstance(number, int | None):
            raise ctypes.ArgumentError(f"wrong type {type(arg).__name__}")
        return number or 0


class CuBLAS:
    """The library, as far as it is called: columns are stored one after the other, pointers are addresses."""

    def __init__(self, xp: Module):
        self._xp, self._handles, self._found = xp, {}, weakref.WeakValueDictionary()
        for name in PARAMETERS:
            setattr(self, name, CFunction(name, getattr(self, f"_{name[6:-3]}")))

    def _Create(self, handle: Any) -> int:
        handle.value = 4096 + 256 * len(self._handles)
        self._handles[handle.value] = {"stream": 0, "workspace": None}
        return 0

    def _SetStream(self, handle: int, stream: int) -> int:
        if stream not in self._xp.streams:
            raise RuntimeError(f"cuBLAS: there is no stream {stream:#x}")
        if handle not in self._handles:
            return NOT_INITIALIZED
        self._handles[handle] = {"stream": stream, "workspace": None}  # it takes the workspace away
        return 0

    def _SetWorkspace(self, handle: int, workspace: int, size: int) -> int:
        if handle not in self._handles:
            return NOT_INITIALIZED
        self._handles[handle]["workspace"] = weakref.ref(self._holder(workspace, size))
        return 0

    def _Sgemm(self, *args: Any) -> int:
        return self._gemm(ctypes.c_float, *args)

    def _Dgemm(self, *args: Any) -> int:
        return self._gemm(ctypes.c_double, *args)

    def _gemm(self, number: Any, handle: int, transa: int, transb: int, m: int, n: int, k: int, alpha: Any, A: int,
              lda: int, B: int, ldb: int, beta: Any, C: int, ldc: int) -> int:  # fmt: skip
        """``C = alpha * op(A) @ op(B) + beta * C``, (m, k), (k, n), (m, n)."""
        if handle not in self._handles:
            return NOT_INITIALIZED
        shapes = (k, m) if transa else (m, k), (n, k) if transb else (k, n), (m, n)
        if min(m, n, k) < 0 or {transa, transb} - {0, 1, 2}:
            return INVALID_VALUE
        if any(ld < max(1, rows) for ld, (rows, _) in zip((lda, ldb, ldc), shapes, strict=True)):
            return INVALID_VALUE
        if type(alpha) is not number or type(beta) is not number:
            raise TypeError(f"cuBLAS: alpha and beta must be references to {number.__name__}")
        stream, workspace = self._place(self._handles[handle])
        if not m * n:
            return 0
        (a, b, c), holders = zip(*map(partial(self._matrix, number), (A, B, C), shapes, (lda, ldb, ldc)), strict=True)
        if any(np.shares_memory(x, c) for x in (a, b)):
            raise RuntimeError("cuBLAS: the product would overwrite its factors")
        a, b = a.T if transa else a, b.T if transb else b
        factor, old = c.dtype.type(alpha.value), c.dtype.type(beta.value)

        def run(memory: Any = [holder and holder.memory for holder in holders]) -> None:  # noqa: B006
            c[...] = factor * (a @ b) + (old * c if old else 0)

        self._xp.counts.gemms += not stream.is_capturing()
        stream._launch(run, [SimpleNamespace(holder=holder) for holder in (*holders, workspace) if holder])
        return 0

    def _place(self, state: dict[str, Any]) -> tuple[Any, Any]:
        """The stream and the holder of the workspace of a handle."""
        stream, workspace = self._xp.streams.get(state["stream"]), state["workspace"] and state["workspace"]()
        if stream != self._xp.stream_stack[-1]:
            raise RuntimeError("cuBLAS: the stream of the handle is not the current one")
        if state["workspace"] and workspace is None:
            raise RuntimeError("cuBLAS: the workspace has been freed")
        if stream.is_capturing() and workspace is None:
            stream._refuse("cuBLAS allocates a workspace, as none was set after the stream")
        return stream, workspace

    def _holder(self, pointer: int, size: int) -> Any:
        known = self._found.get(pointer)
        for holder in self._xp.holders if known is None else [known]:
            if holder.address <= pointer and pointer + size <= holder.end:
                self._found[pointer] = holder
                return holder
        raise RuntimeError(f"cuBLAS: {size} bytes at {pointer:#x} are in no array of the device")

    def _matrix(self, number: Any, pointer: int, shape: tuple[int, int], ld: int) -> tuple[np.ndarray, Any]:
        """The memory as (rows, columns), and its holder."""
        (rows, columns), item = shape, ctypes.sizeof(number)
        if not rows * columns:
            return np.empty(shape, number), None
        size = ((columns - 1) * ld + rows) * item
        holder = self._holder(pointer, size)
        return np.ndarray(shape, number, (ctypes.c_char * size).from_address(pointer), 0, (item, ld * item)), holder
