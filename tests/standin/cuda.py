"""Streams, recorded graphs, and cuBLAS as ctypes calls it, for the stand-in."""

from __future__ import annotations

import ctypes
import itertools
import time
import weakref
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

if TYPE_CHECKING:
    from tests.standin import Cupy
    from tests.standin.arrays import Memory, ndarray


class CUDARuntimeError(RuntimeError):
    """`cupy.cuda.runtime.CUDARuntimeError`."""


class Stream:
    """A stream. What is launched in it runs at once, unless the stream records it for a graph."""

    addresses = itertools.count(1 << 40)

    def __init__(self, xp: Cupy, non_blocking: bool = False):
        self.xp, self.ptr = xp, next(self.addresses)
        self.recorded: list[tuple[Callable[[], Any], list[weakref.ref[Memory]]]] | None = None
        self.refused = ""  # what has made the recording useless

    def __enter__(self) -> Stream:
        self.xp.streams.append(self)
        return self

    def __exit__(self, *error: object) -> None:
        self.xp.streams.pop()

    def synchronize(self) -> None:
        self.xp.synchronize("a synchronization")

    def begin_capture(self) -> None:
        self.recorded, self.refused = [], ""

    def end_capture(self) -> Graph:
        recorded, self.recorded = self.recorded or [], None
        if self.refused:
            raise CUDARuntimeError(f"cudaErrorStreamCaptureInvalidated: by {self.refused}")
        return Graph(self.xp, recorded)

    def refuse(self, what: str) -> None:
        """Raise if the stream records."""
        if self.recorded is not None:
            self.refused = what
            raise CUDARuntimeError(f"operation not permitted when stream is capturing: {what}")

    def launch(self, run: Callable[[], Any], arrays: Iterable[ndarray]) -> None:
        """Run it, or record it with weak references to the memory that it uses."""
        if self.recorded is not None:
            self.recorded.append((run, [weakref.ref(array.memory) for array in arrays]))
            self.xp.counts.captured += 1
            return
        self.xp.counts.launches += 1
        with np.errstate(all="ignore"):
            run()


class Graph:
    """What a stream has recorded. As on a GPU, it does not keep its arrays alive."""

    def __init__(self, xp: Cupy, recorded: list[tuple[Callable[[], Any], list[weakref.ref[Memory]]]]):
        self.xp, self.recorded = xp, recorded

    def launch(self) -> None:
        self.xp.refuse_in_capture("the launch of another graph")
        self.xp.counts.graph_launches += 1
        self.xp.counts.replayed += len(self.recorded)
        with np.errstate(all="ignore"):
            for run, memories in self.recorded:
                if any(memory() is None for memory in memories):
                    raise RuntimeError("a graph uses memory that has been freed")
                run()


class Event:
    """A mark in a stream, for `cupy.cuda.get_elapsed_time`."""

    def __init__(self, xp: Cupy):
        self.xp, self.time = xp, 0.0

    def record(self) -> None:
        self.time = time.perf_counter()

    def synchronize(self) -> None:
        self.xp.synchronize("a synchronization")


class Device:
    """The current device."""

    id = 0

    def __init__(self, xp: Cupy):
        self.xp = xp

    @property
    def mem_info(self) -> tuple[int, int]:
        """Free and total bytes."""
        total = 8 << 30
        return total - self.xp.pool.used_bytes(), total


# ---- cuBLAS


class CFunction:
    """A function of a C library. Without ``argtypes``, ctypes would cut a pointer to 32 bits."""

    def __init__(self, function: Callable[..., int]):
        self.function = function
        self.argtypes: list[Any] | None = None

    def __call__(self, *args: Any) -> int:
        if self.argtypes is None or len(self.argtypes) != len(args):
            raise TypeError(f"argtypes {self.argtypes} do not describe {len(args)} arguments")
        for arg, argtype in zip(args, self.argtypes, strict=True):
            argtype.from_param(arg)  # raises what ctypes would
        return self.function(*(getattr(arg, "_obj", arg) for arg in args))  # the object behind a byref


class CuBLAS:
    """The five functions of the library that minizone calls. Matrices are stored column by column."""

    def __init__(self, xp: Cupy):
        self.xp, self.stream = xp, 0
        self.workspace: weakref.ref[Memory] | None = None
        self.cublasCreate_v2 = CFunction(lambda handle: 0)
        self.cublasSetStream_v2 = CFunction(self._set_stream)
        self.cublasSetWorkspace_v2 = CFunction(self._set_workspace)
        self.cublasSgemm_v2 = CFunction(partial(self._gemm, ctypes.c_float))
        self.cublasDgemm_v2 = CFunction(partial(self._gemm, ctypes.c_double))

    def _set_stream(self, handle: object, stream: int) -> int:
        self.stream, self.workspace = stream, None  # a change of the stream takes the workspace away
        return 0

    def _set_workspace(self, handle: object, workspace: int, size: int) -> int:
        self.workspace = weakref.ref(self.xp.pointers[workspace].memory)
        return 0

    def _gemm(
        self, number: type[Any], handle: object, transa: int, transb: int, m: int, n: int, k: int,
        alpha: Any, a: int, lda: int, b: int, ldb: int, beta: Any, c: int, ldc: int,
    ) -> int:  # fmt: skip
        """``C = alpha * A @ B + beta * C``: (m, n), (m, k), (k, n)."""
        if transa or transb:
            raise NotImplementedError("the stand-in multiplies matrices that are not transposed")
        if type(alpha) is not number or type(beta) is not number:
            raise TypeError(f"cuBLAS: alpha and beta must be references to {number.__name__}")
        self._check_stream()
        dtype = np.dtype(number)
        arrays = [self.xp.pointers[pointer] for pointer in (a, b, c)]
        A, B = _matrix(arrays[0], m, k, lda, dtype), _matrix(arrays[1], k, n, ldb, dtype)
        C = _matrix(arrays[2], m, n, ldc, dtype)
        if np.may_share_memory(A, C) or np.may_share_memory(B, C):
            raise RuntimeError("cuBLAS: the product would overwrite its factors")
        scale, factor = dtype.type(alpha.value), dtype.type(beta.value)

        def run() -> None:
            C[...] = scale * (A @ B) + (factor * C if factor else 0)

        self.xp.counts.gemms += self.xp.streams[-1].recorded is None
        self.xp.launch(run, arrays)
        return 0

    def _check_stream(self) -> None:
        """The product goes into the stream of the handle, which should be the current one."""
        current = self.xp.streams[-1]
        if self.stream != current.ptr:
            raise RuntimeError("cuBLAS: the stream of the handle is not the current one")
        if self.workspace is None:
            current.refuse("cuBLAS, which allocates a workspace, as none was set after the stream")
        elif self.workspace() is None:
            raise RuntimeError("cuBLAS: the workspace has been freed")


def _matrix(array: ndarray, rows: int, columns: int, ld: int, dtype: np.dtype) -> np.ndarray:
    """The numbers of an array as cuBLAS sees them: columns of numbers that start ``ld`` numbers apart."""
    if array.dtype != dtype or ld < max(1, rows) or (columns - 1) * ld + rows > array.size:
        numbers = f"{array.size} numbers of {array.dtype}"
        raise RuntimeError(f"cuBLAS: {numbers} are no ({rows}, {columns}) of {dtype} with columns {ld} apart")
    return as_strided(array.raw.reshape(-1), (rows, columns), (dtype.itemsize, ld * dtype.itemsize))
