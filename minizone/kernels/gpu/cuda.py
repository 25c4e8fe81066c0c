"""Only for a GPU: kernels compiled from C++ source, matrix products that can be recorded, and CUDA graphs.

Nothing here is used or compiled until an array is on a GPU.
"""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cache
from typing import Any

from minizone import backend
from minizone.backend import Array
from minizone.kernels.workspace import Workspace

CUBLAS_WORKSPACE = 32 * 2**20  # bytes, as NVIDIA recommends for its latest GPUs
MOST_WORKSPACES = 16  # kept for later sequences of the same shapes
graphs_allowed = True  # False: every loop is launched step by step


@dataclass(frozen=True)
class Kernel:
    """A kernel that runs its body for every element (`cupy.ElementwiseKernel`), compiled on its first call.

    Call it with its inputs and then its outputs. In the body, ``i`` is the index of the element, parameters are
    elements, and raw parameters are whole arrays.
    """

    name: str
    in_params: str
    out_params: str
    body: str
    preamble: str = ""

    def __call__(self, *arguments: Any, **size: int) -> Any:
        return _compiled(backend.cupy, self)(*arguments, **size)


@dataclass(frozen=True)
class Reduction:
    """A sum over axes of a function of each element (`cupy.ReductionKernel`), compiled on its first call."""

    name: str
    in_params: str
    out_params: str
    each: str
    last: str

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return _compiled(backend.cupy, self)(*arguments, **options)


@cache
def _compiled(cupy: Any, kernel: Kernel | Reduction) -> Callable[..., Any]:
    if isinstance(kernel, Reduction):
        parameters = kernel.in_params, kernel.out_params, kernel.each, "a + b", kernel.last, "0", kernel.name
        return cupy.ReductionKernel(*parameters)
    return cupy.ElementwiseKernel(
        kernel.in_params, kernel.out_params, kernel.body, kernel.name, preamble=kernel.preamble, no_return=True
    )


# ---- matrix products


class Blas:
    """cuBLAS, called directly, because CuPy refuses to call it while a graph is recorded (cupy issue 6290).

    Its workspace is allocated here. Otherwise cuBLAS would allocate one inside every graph.
    """

    def __init__(self, cupy: Any, library: Any):
        self.library, self.handle, self.stream = library, ctypes.c_void_p(), None
        pointer, integer = ctypes.c_void_p, ctypes.c_int
        library.cublasCreate_v2.argtypes = [pointer]
        library.cublasSetStream_v2.argtypes = [pointer, pointer]
        library.cublasSetWorkspace_v2.argtypes = [pointer, pointer, ctypes.c_size_t]
        for gemm in (library.cublasSgemm_v2, library.cublasDgemm_v2):
            matrix = [pointer, integer]
            gemm.argtypes = [pointer, *5 * [integer], pointer, *matrix, *matrix, pointer, *matrix]
        self._check(library.cublasCreate_v2(ctypes.byref(self.handle)))
        self.workspace = cupy.empty(CUBLAS_WORKSPACE, "uint8")
        self.gemms = {"f": (library.cublasSgemm_v2, ctypes.c_float), "d": (library.cublasDgemm_v2, ctypes.c_double)}

    def gemm(self, W: Array, x: Array, out: Array, beta: float) -> None:
        """``out = W @ x + beta * out``; W (M, K), x (K, N), out (M, N), C-contiguous.

        cuBLAS stores matrices column by column, so it sees the transposes: out.T = x.T @ W.T + beta * out.T.
        """
        stream = backend.cupy.cuda.get_current_stream().ptr
        if stream != self.stream:  # setting a stream resets the workspace
            self._check(self.library.cublasSetStream_v2(self.handle, stream))
            size = CUBLAS_WORKSPACE
            self._check(self.library.cublasSetWorkspace_v2(self.handle, self.workspace.data.ptr, size))
            self.stream = stream
        (M, K), N = W.shape, x.shape[1]
        function, number = self.gemms[out.dtype.char]
        one, factor = ctypes.byref(number(1)), ctypes.byref(number(beta))
        of_x, of_W, of_out = ((a.data.ptr, max(1, a.shape[1])) for a in (x, W, out))
        self._check(function(self.handle, 0, 0, N, M, K, one, *of_x, *of_W, factor, *of_out))

    @staticmethod
    def _check(status: int) -> None:
        if status:
            raise RuntimeError(f"cuBLAS: status {status}")


def gemm(W: Array, x: Array, out: Array, beta: float = 0.0) -> None:
    """``out = W @ x + beta * out`` in place, in the current stream; all C-contiguous and of the dtype of ``out``."""
    for array in (W, x, out):
        if not array.flags.c_contiguous or array.dtype != out.dtype:
            raise ValueError(f"gemm: an array {array.shape} of {array.dtype} must be C-contiguous and of {out.dtype}")
    if out.size:
        _blas(backend.cupy, backend.cupy.cuda.Device().id).gemm(W, x, out, beta)


@cache
def _blas(cupy: Any, device: int) -> Blas:
    return Blas(cupy, backend.load_cublas())


# ---- graphs


class ReplayedWorkspace(Workspace):
    """Arrays that keep their addresses from one sequence to the next of the same shapes.

    The launches of a loop over time are then the same each time. The first run compiles kernels and fills the memory
    pool, the second is recorded as a CUDA graph, and from then on the graph is replayed with one launch.
    """

    def __init__(self, xp: Any, key: Hashable):
        super().__init__(xp)
        self.key = key
        self.arrays: dict[str, Array] = {}
        self.graphs: dict[Hashable, Any] = {}  # None: has run, but is not recorded yet

    def empty(self, name: str, shape: tuple[int, ...], dtype: Any) -> Array:
        if name not in self.arrays:
            try:
                self.arrays[name] = super().empty(name, shape, dtype)
            except MemoryError:  # unused workspaces of other shapes may fill the memory
                _free.clear()
                self.arrays[name] = super().empty(name, shape, dtype)
        return self.arrays[name]

    def load(self, name: str, value: Any, dtype: Any = None) -> Any:
        if not hasattr(value, "shape"):
            return value
        own = self.empty(name, value.shape, dtype or value.dtype)
        own[...] = value
        return own

    def output(self, array: Array) -> Array:
        return array.copy()

    def run(self, name: Hashable, loop: Callable[[], None]) -> None:
        if name in self.graphs and self.graphs[name] is None and graphs_allowed:
            self.graphs[name] = record(loop)
        graph = self.graphs.setdefault(name, None)
        if graph is None:
            loop()
        else:
            graph.launch()

    def release(self) -> None:
        if self not in _free:
            _free.append(self)
        del _free[:-MOST_WORKSPACES]


_free: list[ReplayedWorkspace] = []  # those not in use, the latest last


def workspace(xp: Any, key: Hashable | None) -> Workspace:
    """A workspace used for this ``key`` before, or a new one; a plain `Workspace` without a key or without graphs."""
    if key is None or not graphs_allowed:
        return Workspace(xp)
    key = xp.cuda.Device().id, key
    known = [each for each in _free if each.xp is xp and each.key == key]
    if not known:
        return ReplayedWorkspace(xp, key)
    _free.remove(known[-1])
    return known[-1]


def record(body: Callable[[], None]) -> Any:
    """Record the launches of ``body`` as a CUDA graph. It must not allocate, copy from or to the host, or wait.

    If that fails, warn, return None, and do not try again.
    """
    global graphs_allowed
    stream = backend.cupy.cuda.Stream(non_blocking=True)
    try:
        with stream:
            stream.begin_capture()
            try:
                body()
            finally:
                graph = stream.end_capture()
        return graph
    except Exception as error:  # of CUDA, CuPy or cuBLAS: their versions decide what can be recorded
        graphs_allowed = False
        warnings.warn(f"no CUDA graph could be recorded, so loops are launched step by step: {error}", stacklevel=2)
        return None
