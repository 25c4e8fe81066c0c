"""Streams, graphs and cuBLAS of the stand-in for CuPy: right numbers, and every refusal."""

from __future__ import annotations

import ctypes
import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from tests import standin
from tests.standin import cuda as standin_cuda

HOST = np.arange(6.0, dtype=np.float32).reshape(2, 3)


@pytest.fixture
def xp():
    return standin.make()


@pytest.fixture
def x(xp):
    return xp.asarray(HOST)


# ---- graphs


class Library:
    """cuBLAS as minizone calls it, in the current stream."""

    def __init__(self, xp):
        self.xp, self.functions, self.handle = xp, xp.cublas(), ctypes.c_void_p()
        self.workspace = xp.empty(1024, np.uint8)
        for name, parameters in standin_cuda.PARAMETERS.items():
            kinds = {"m": ctypes.c_int, "n": ctypes.c_int, "k": ctypes.c_int, "workspaceSizeInBytes": ctypes.c_size_t}
            kinds |= {name: ctypes.c_int for name in ("transa", "transb", "lda", "ldb", "ldc")}
            getattr(self.functions, name).argtypes = [kinds.get(p, ctypes.c_void_p) for p in parameters.split()]
        assert self.functions.cublasCreate_v2(ctypes.byref(self.handle)) == 0

    def set_stream(self, workspace=True):
        assert self.functions.cublasSetStream_v2(self.handle, self.xp.cuda.get_current_stream().ptr) == 0
        if workspace:
            assert self.functions.cublasSetWorkspace_v2(self.handle, self.workspace.data.ptr, 1024) == 0

    def gemm(self, dtype, transa, transb, sizes, A, lda, B, ldb, C, ldc, alpha=1.0, beta=0.0):
        number, function = (ctypes.c_float, "S") if np.dtype(dtype) == np.float32 else (ctypes.c_double, "D")
        one, factor = ctypes.byref(number(alpha)), ctypes.byref(number(beta))
        function = getattr(self.functions, f"cublas{function}gemm_v2")
        pointers = (getattr(array, "data", array) for array in (A, B, C))
        a, b, c = (getattr(data, "ptr", data) for data in pointers)
        return function(self.handle, transa, transb, *sizes, one, a, lda, b, ldb, factor, c, ldc)

    def gram(self, x, out, workspace=True):
        """The first columns of ``out`` become ``x @ x.T``."""
        self.set_stream(workspace)
        n, k = x.shape
        return self.gemm(x.dtype, 1, 0, (n, n, k), x, k, x, k, out, out.shape[1])


def captured(xp, record):
    stream = xp.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        try:
            record()
        finally:
            graph = stream.end_capture()
    return graph


def test_a_graph_reads_memory_when_it_is_launched(xp, x):
    out, total, row = xp.zeros((2, 3), "f"), xp.zeros(3, "f"), x[0]
    kernel, view = xp.ElementwiseKernel("T x", "T y", "y += x", "add_up", no_return=True), out[1]
    blas = Library(xp)

    def record():
        xp.multiply(x, 2, out=out)
        out[...] += 1
        view[...] = row
        out[0] = 5
        kernel(view, total)
        blas.gram(x, out)

    before = xp.counts.launches
    graph = captured(xp, record)
    assert (xp.counts.captured, xp.counts.launches - before, xp.counts.graph_launches) == (6, 0, 0)
    assert not out.get().any() and not total.get().any()
    for _ in range(2):
        graph.launch()
    assert_array_equal(total.get(), 2 * HOST[0])
    assert_array_equal(out.get()[:, :2], HOST @ HOST.T)
    assert (xp.counts.graph_launches, xp.counts.replayed, xp.counts.launches - before) == (2, 12, 0)
    x.fill(1)
    graph.launch(xp.cuda.Stream())
    assert_array_equal(total.get(), 2 * HOST[0] + 1)


FORBIDDEN = {
    "a new array": lambda xp, x: x + 1,
    "a reduction": lambda xp, x: x.sum(),
    "a reduction with out": lambda xp, x: xp.sum(x, axis=0, out=x[0]),
    "a product": lambda xp, x: xp.matmul(x, x.T, out=x[:, :2]),
    "memory": lambda xp, x: xp.empty(3),
    "an output that overlaps": lambda xp, x: xp.add(x[0], 1, out=x[0]),
    "a kernel's output": lambda xp, x: xp.ElementwiseKernel("T x", "T y", "y = x")(x),
    "take": lambda xp, x: xp.take(x, 0, axis=0, out=x[0]),
    "a list of indices": lambda xp, x: x[[0]],
    "indices, assigned to": lambda xp, x: x.__setitem__(x.i, 0),
    "add.at": lambda xp, x: xp.add.at(x, x.i, 1),
    "a mask": lambda xp, x: x[x.mask],
    "sort": lambda xp, x: x.sort(),
    "float": lambda xp, x: float(x[0, 0]),
    "get": lambda xp, x: x.get(),
    "asarray": lambda xp, x: xp.asarray(HOST),
    "set": lambda xp, x: x.set(HOST),
    "unique": lambda xp, x: xp.unique(x),
    "random numbers": lambda xp, x: xp.random.default_rng(0).random(3),
    "waiting": lambda xp, x: xp.cuda.get_current_stream().synchronize(),
    "waiting for the device": lambda xp, x: xp.cuda.Device().synchronize(),
    "another capture": lambda xp, x: xp.cuda.get_current_stream().begin_capture(),
    "another graph": lambda xp, x: x.graph.launch(),
    "cuBLAS without a workspace": lambda xp, x: x.library.gram(x, x, workspace=False),
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_what_cannot_be_captured_is_refused_and_ends_the_capture(what, xp):
    class Prepared(xp.ndarray):
        """With what is there before the capture."""

        i, mask, graph, library = xp.asarray([1, 0]), xp.asarray(HOST > 2), captured(xp, lambda: None), Library(xp)

    x, stream = Prepared._of(HOST.copy(), xp.asarray(HOST).holder), xp.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        assert stream.is_capturing()
        with pytest.raises(RuntimeError, match="operation not permitted when stream is capturing: "):
            FORBIDDEN[what](xp, x)
        with pytest.raises(xp.cuda.runtime.CUDARuntimeError, match="cudaErrorStreamCaptureInvalidated"):
            stream.end_capture()
        assert not stream.is_capturing()
    assert_array_equal(x.get(), HOST)


def test_a_graph_does_not_keep_its_arrays_alive(xp):
    memory = {"x": xp.ones(3), "y": xp.empty(3)}
    graph = captured(xp, lambda: xp.tanh(memory["x"], out=memory["y"]))
    graph.launch()
    del memory["x"]
    with pytest.raises(RuntimeError, match="a graph uses memory that has been freed"):
        graph.launch()


def test_streams(xp):
    one, other = xp.cuda.Stream(), xp.cuda.Stream(non_blocking=True)
    assert 0 == xp.cuda.Stream.null.ptr < one.ptr < other.ptr and xp.cuda.Stream(null=True) == xp.cuda.Stream.null
    with one:
        with other:
            assert xp.cuda.get_current_stream() is other
        assert xp.cuda.get_current_stream() is one
    assert xp.cuda.get_current_stream() is xp.cuda.Stream.null
    with pytest.raises(RuntimeError, match="not capturing"):
        one.end_capture()


def test_a_device_can_be_looked_at(xp):
    runtime = xp.cuda.runtime
    assert runtime.getDeviceCount() == 1 and issubclass(runtime.CUDARuntimeError, RuntimeError)
    assert runtime.getDeviceProperties(xp.cuda.Device().id)["name"].decode() == "stand-in"
    assert runtime.memGetInfo() == xp.cuda.Device().mem_info
    start, end = xp.cuda.Event(), xp.cuda.Event()
    start.record()
    end.record(xp.cuda.Stream())
    assert xp.cuda.get_elapsed_time(start, end) >= 0


# ---- cuBLAS


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("transa", [0, 1])
@pytest.mark.parametrize("transb", [0, 1])
def test_a_product_of_cublas(xp, dtype, transa, transb):
    """Column after column, in parts of larger matrices: from the second row on."""
    rng, (m, n, k) = np.random.default_rng(0), (2, 3, 4)
    a, b, c = (rng.standard_normal((9, 9)).astype(dtype) for _ in "abc")
    A, B, C = (xp.asarray(np.ascontiguousarray(each.T)) for each in (a, b, c))
    blas = Library(xp)
    blas.set_stream()
    with xp.counting() as counts:
        starts = (each.reshape(-1)[1:] for each in (A, B, C))
        assert blas.gemm(dtype, transa, transb, (m, n, k), *sum(((each, 9) for each in starts), ()), 2, 0.5) == 0
    a, b = (a[1:5, :2].T if transa else a[1:3, :4]), (b[1:4, :4].T if transb else b[1:5, :3])
    c[1:3, :3] = 2 * a @ b + 0.5 * c[1:3, :3]
    assert_allclose(C.get().T, c, rtol=1e-5)
    assert (counts.launches, counts.gemms, counts.allocations) == (1, 1, 0)


def test_beta_0_ignores_what_was_there(xp, x):
    out = xp.empty((2, 2), "f")
    assert Library(xp).gram(x, out) == 0
    assert_array_equal(out.get(), HOST @ HOST.T)


def cublas_errors(xp, x):
    blas, out, sizes, other = Library(xp), xp.empty((2, 2), "f"), (2, 2, 3), xp.cuda.Stream()
    blas.set_stream()
    functions, bare = blas.functions, xp.cublas().cublasSetStream_v2

    def elsewhere():
        with other:
            blas.gemm("f", 1, 0, sizes, x, 3, x, 3, out, 2)

    def lost():
        del blas.workspace
        blas.gemm("f", 1, 0, sizes, x, 3, x, 3, out, 2)

    def too_many_types():
        blas.functions.cublasSgemm_v2.argtypes = 15 * [ctypes.c_void_p]
        blas.gemm("f", 1, 0, sizes, x, 3, x, 3, out, 2)

    return {
        "m below 0": (lambda: blas.gemm("f", 1, 0, (-1, 2, 3), x, 3, x, 3, out, 2), 7, ""),
        "lda": (lambda: blas.gemm("f", 1, 0, sizes, x, 2, x, 3, out, 2), 7, ""),
        "ldb": (lambda: blas.gemm("f", 1, 0, sizes, x, 3, x, 2, out, 2), 7, ""),
        "ldc": (lambda: blas.gemm("f", 1, 0, sizes, x, 3, x, 3, out, 1), 7, ""),
        "ldc of nothing": (lambda: blas.gemm("f", 1, 0, (0, 0, 0), x, 1, x, 1, out, 0), 7, ""),
        "an operation": (lambda: blas.gemm("f", 3, 0, sizes, x, 3, x, 3, out, 2), 7, ""),
        "no handle": (lambda: blas.functions.cublasSetStream_v2(5, 0), 1, ""),
        "no memory": (lambda: blas.gemm("f", 1, 0, sizes, 4096, 3, x, 3, out, 2), RuntimeError, "in no array"),
        "past the end": (lambda: blas.gemm("f", 1, 0, (2, 3, 3), x, 3, x, 3, out, 2), RuntimeError, "in no array"),
        "an output as a factor": (lambda: blas.gemm("f", 1, 0, sizes, x, 3, x, 3, x, 2), RuntimeError, "overwrite"),
        "no stream": (lambda: functions.cublasSetStream_v2(blas.handle, 12345), RuntimeError, "no stream"),
        "another stream": (elsewhere, RuntimeError, "the stream of the handle is not the current one"),
        "a workspace that is gone": (lost, RuntimeError, "the workspace has been freed"),
        "a workspace": (lambda: functions.cublasSetWorkspace_v2(blas.handle, 8, 9), RuntimeError, "in no array"),
        "arguments too few": (lambda: functions.cublasSetStream_v2(blas.handle), TypeError, "2 parameters; 1 arg"),
        "types too many": (too_many_types, TypeError, "has 14 parameters; 14 arguments given, 15 argtypes"),
        "a type": (lambda: functions.cublasSetStream_v2(blas.handle, "0"), ctypes.ArgumentError, "wrong type str"),
        "64 bits without types": (lambda: bare(1, 1 << 40), ctypes.ArgumentError, "would be cut to 32 bits"),
    }  # fmt: skip


@pytest.mark.parametrize("what", cublas_errors(standin.make(), standin.make().asarray(HOST)))
def test_cublas_refuses(what, xp, x):
    call, error, message = cublas_errors(xp, x)[what]
    if isinstance(error, int):
        assert call() == error
    else:
        with pytest.raises(error, match=message):
            call()


def test_alpha_is_a_number_of_the_type(xp, x):
    blas, one = Library(xp), ctypes.byref(ctypes.c_double(1))
    blas.set_stream()
    with pytest.raises(TypeError, match="references to c_float"):
        blas.functions.cublasSgemm_v2(blas.handle, 1, 0, 2, 2, 3, one, x.data.ptr, 3, x.data.ptr, 3, one, x.data.ptr, 2)


def test_the_parameters_of_cublas_are_those_of_its_header():
    spec = importlib.util.find_spec("nvidia")
    folders = [
        *Path("/usr/local").glob("cuda*/include"),
        *(Path(p) for p in (spec and spec.submodule_search_locations) or []),
    ]
    header = next((file for folder in folders for file in folder.rglob("cublas_api.h")), None)
    if header is None:
        pytest.skip("no cublas_api.h")
    for name, parameters in standin_cuda.PARAMETERS.items():
        found = re.search(rf"\b{name}\s*\(([^)]*)\)", header.read_text())
        assert [part.split()[-1].lstrip("*") for part in found[1].split(",")] == parameters.split(), name
