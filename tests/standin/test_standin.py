"""The stand-in for CuPy computes what NumPy computes, raises where a GPU or CuPy would, and counts what a GPU does."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from tests import standin
from tests.standin.arrays import FUNCTIONS, METHODS, UFUNCS

HOST = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture
def xp():
    return standin.make()


@pytest.fixture
def x(xp):
    return xp.asarray(HOST)


@pytest.mark.parametrize(
    "compute",
    [
        lambda xp, x: 2.0 / (x + 1) - x**2,
        lambda xp, x: -x @ x.T,
        lambda xp, x: x.max(axis=-1, keepdims=True),
        lambda xp, x: xp.stack([x, x]).reshape(-1),
        lambda xp, x: xp.where(x > 2, x, 0),
        lambda xp, x: x[:, xp.asarray([2, 0])],
        lambda xp, x: x[x > 2],
        lambda xp, x: x.astype(np.float64).transpose(1, 0),
    ],
)
def test_numbers_and_types_are_those_of_numpy(compute, xp, x):
    expected, found = compute(np, HOST), compute(xp, x)
    assert (found.shape, found.dtype) == (np.shape(expected), np.asarray(expected).dtype)
    assert_array_equal(found.get(), expected)


def test_an_index_out_of_range_wraps_around(xp, x):
    far = xp.asarray([3, -4])
    assert_array_equal(x[0, far].get(), HOST[0, [0, 2]])
    assert_array_equal(x[..., far].get(), HOST[:, [0, 2]])
    xp.add.at(x, (slice(None), far), 10)
    x[:, far] -= 10
    assert_array_equal(x.get(), HOST)


def test_results_are_contiguous_and_new_memory_is_full_of_nan(xp, x):
    for y in (x.T + 1, xp.tanh(x.T), xp.stack([x.T, x.T]), x.T[:, xp.asarray([1, 0])], x.T.copy()):
        assert y.flags.c_contiguous
    assert np.isnan(xp.empty(3).get()).all() and (xp.empty_like(x, int).get() == -1).all()


# ---- what it refuses


def assign(x, index, value):
    x[index] = value


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda xp, x: np.sum(x), TypeError, "np.sum was called with an array of the device"),
        (lambda xp, x: np.asarray(x), TypeError, "np.asarray was called"),
        (lambda xp, x: x + HOST, TypeError, "Unsupported type numpy.ndarray"),
        (lambda xp, x: HOST + x, TypeError, "Unsupported type numpy.ndarray"),
        (lambda xp, x: xp.concatenate([x, HOST]), TypeError, "Unsupported type numpy.ndarray"),
        (lambda xp, x: x[np.array([0])], TypeError, "Unsupported type numpy.ndarray"),
        (lambda xp, x: assign(x, 0, np.ones(3)), TypeError, "Unsupported type numpy.ndarray"),
        (lambda xp, x: xp.tanh(x, out=HOST), TypeError, "must be cupy.ndarray"),
        (lambda xp, x: xp.tanh(x, out=xp.empty(3, "f")), ValueError, "mismatch"),
        (lambda xp, x: xp.add(x, x, where=x > 0), TypeError, "unexpected keyword argument 'where'"),
        (lambda xp, x: x.max(initial=0), TypeError, "unexpected keyword argument 'initial'"),
        (lambda xp, x: xp.errstate, AttributeError, "the stand-in has no cupy.errstate"),
        (lambda xp, x: x.cumsum, AttributeError, "the stand-in has no cupy.ndarray.cumsum"),
        (lambda xp, x: assign(x, xp.asarray([0, 2]), x), RuntimeError, "names an element twice"),
        (lambda xp, x: assign(x, (0, slice(1, 3)), x[0, :2]), RuntimeError, "overlap"),
        (lambda xp, x: xp.add.at(xp.zeros(3, int), xp.asarray([0]), 1), TypeError, "does not support int64"),
    ],
)
def test_it_refuses_what_cupy_refuses(call, error, message, xp, x):
    with pytest.raises(error, match=message):
        call(xp, x)


# ---- what it counts


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda xp, x: (x.T, x[1:, 0], x.reshape(3, 2), x.astype("f", copy=False), xp.asarray(x), repr(x)), {}),
        (lambda xp, x: xp.empty(3), {"allocations": 1}),
        (lambda xp, x: x + 1, {"allocations": 1, "launches": 1}),
        (lambda xp, x: x.sum(axis=0), {"allocations": 1, "launches": 1}),
        (lambda xp, x: xp.tanh(x, out=x), {"launches": 1}),
        (lambda xp, x: assign(x, 0, x[1]), {"launches": 1}),
        (lambda xp, x: xp.asarray(HOST), {"allocations": 1, "to_device": 1}),
        (lambda xp, x: float(x[0, 0]), {"synchronizations": 1, "to_host": 1}),
        (lambda xp, x: xp.asnumpy(x), {"synchronizations": 1, "to_host": 1}),
        (lambda xp, x: xp.cuda.get_current_stream().synchronize(), {"synchronizations": 1}),
    ],
)
def test_it_counts(call, expected, xp, x):
    with xp.counting() as counts:
        call(xp, x)
    assert {name: n for name, n in vars(counts).items() if n} == expected


def test_memory_is_used_until_the_last_view_is_gone_and_can_run_out(xp):
    x = xp.empty(1000)
    view = x[::2]
    del x
    assert xp.get_default_memory_pool().used_bytes() == 8192
    del view
    assert xp.get_default_memory_pool().used_bytes() == 0
    xp.too_large = 100
    with pytest.raises(MemoryError, match="Out of memory allocating 8,000 bytes"):
        xp.empty(1000)


# ---- kernels


def warp_sum(xp):
    """The sum of each 32 elements, in all lanes."""
    preamble = """
    template <typename T> __device__ T over_lanes(T sum) {
        for (int k = 16; k > 0; k /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, k);
        return sum;
    }"""
    body = "const T sum = over_lanes(x[i]);  y[i] = sum + over_lanes(x[i] * x[i]);"
    return xp.ElementwiseKernel("raw T x", "raw T y", body, "warp_sum", preamble=preamble)


def test_a_kernel_broadcasts_has_raw_arguments_and_writes_views(xp, x):
    body = "y = p * x + row[i % n] + (i < _ind.size() / 2 ? 0 : 100)"
    kernel = xp.ElementwiseKernel("T x, raw T row, float32 p, int64 n", "T y", body, "affine")
    row, y = xp.asarray(HOST[1]), xp.zeros((4, 2, 6), "f")
    kernel(x, row, 2, 3, y[..., ::2])
    half = np.repeat([0, 100], 12).reshape(4, 2, 3)
    assert_array_equal(y.get()[..., ::2], 2 * HOST + HOST[1] + half)
    assert not y.get()[..., 1::2].any()


def test_a_sum_over_an_axis(xp, x):
    kernel = xp.ReductionKernel("T x, T largest", "T y", "exp(x - largest)", "a + b", "y = log(a)", "0", "log_sum_exp")
    found = kernel(x, x.max(axis=0, keepdims=True), axis=0, keepdims=True)
    assert_allclose(found.get(), np.log(np.exp(HOST - HOST[1]).sum(0, keepdims=True)), rtol=1e-6)


def test_the_lanes_of_a_warp_exchange_values(xp):
    x = np.random.default_rng(0).standard_normal((3, 32))
    y = xp.empty((3, 32))
    warp_sum(xp)(xp.asarray(x), y, size=96)
    assert_allclose(y.get(), np.repeat((x + x**2).sum(1)[:, None], 32, 1))


@pytest.mark.parametrize(
    ("in_params", "body", "arguments", "error", "message"),
    [
        ("T x", "y = x", lambda xp, x: (HOST, x), TypeError, "Unsupported type numpy.ndarray"),
        ("T x", "y = x", lambda xp, x: (x, 1.0), TypeError, "Unsupported type builtins.float"),
        ("T x", "y = x", lambda xp, x: (x, x.astype("d")), TypeError, "type is mismatched"),
        ("int64 k", "y = k", lambda xp, x: (0.5, x), TypeError, "k is int64, got 0.5"),
        ("T x", "y = x", lambda xp, x: (x,), TypeError, "2 parameters, got 1 arguments"),
        ("T x", "y = x", lambda xp, x: (x, xp.empty((1, 3), "f")), ValueError, "is not of the shape"),
        ("T x", "y = x", lambda xp, x: (x[0], x[0]), RuntimeError, "x shares memory with y"),
        ("raw T x", "y = x[6]", lambda xp, x: (x, x + 1), RuntimeError, "index 6 is outside of argument x of 6"),
        ("raw T x", "y = x[-1]", lambda xp, x: (x, x + 1), RuntimeError, "index -1 is outside"),
        ("raw T x", "y = x[0]", lambda xp, x: (x.T, x + 1), ValueError, "must be C-contiguous"),
        ("T x", "y = x +", lambda xp, x: (1.0, x), RuntimeError, "does not compile"),
    ],
)
def test_a_kernel_refuses(in_params, body, arguments, error, message, xp, x):
    with pytest.raises(error, match=message):
        xp.ElementwiseKernel(in_params, "T y", body, "faulty")(*arguments(xp, x))


def test_the_lanes_of_a_warp_must_exchange_together(xp):
    body = "if (i % 2) y = __shfl_xor_sync(0xffffffffu, x, 1)"
    kernel = xp.ElementwiseKernel("T x", "T y", body, "parting", preamble="// __shfl_xor_sync")
    with pytest.raises(RuntimeError, match="the lanes of a warp do not exchange together"):
        kernel(xp.ones(32), xp.empty(32))


# ---- recorded graphs and cuBLAS


class Library:
    """cuBLAS as minizone calls it."""

    def __init__(self, xp):
        self.xp, self.functions, self.handle = xp, xp.cublas(), ctypes.c_void_p()
        self.workspace = xp.empty(1024, np.uint8)
        pointer, integer = ctypes.c_void_p, ctypes.c_int
        self.functions.cublasSetStream_v2.argtypes = [pointer, pointer]
        self.functions.cublasSetWorkspace_v2.argtypes = [pointer, pointer, ctypes.c_size_t]
        matrix = [pointer, integer]
        self.functions.cublasSgemm_v2.argtypes = [pointer, *5 * [integer], pointer, *2 * matrix, pointer, *matrix]

    def set_stream(self, workspace=True):
        self.functions.cublasSetStream_v2(self.handle, self.xp.cuda.get_current_stream().ptr)
        if workspace:
            self.functions.cublasSetWorkspace_v2(self.handle, self.workspace.data.ptr, 1024)

    def product(self, W, x, out, ld=None, number=ctypes.c_float, beta=0.0):
        """``out = W @ x + beta * out``; cuBLAS sees the transposes."""
        (M, K), N = W.shape, x.shape[1]
        of_x, of_W, of_out = ((a.data.ptr, ld or a.shape[1]) for a in (x, W, out))
        one, factor = ctypes.byref(number(1)), ctypes.byref(number(beta))
        self.functions.cublasSgemm_v2(self.handle, 0, 0, N, M, K, one, *of_x, *of_W, factor, *of_out)


def recorded(xp, record):
    stream = xp.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        try:
            record()
        finally:
            graph = stream.end_capture()
    return graph


def test_a_graph_computes_when_it_is_launched_with_what_its_memory_then_has(xp, x):
    doubled, total, library = xp.zeros((2, 3), "f"), xp.zeros(3, "f"), Library(xp)
    weights, product = xp.asarray(np.ones((2, 2), np.float32)), xp.ones((2, 3), "f")
    kernel = xp.ElementwiseKernel("T x", "T y", "y += x", "add_up", no_return=True)

    def record():
        xp.multiply(x, 2, out=doubled)
        doubled[0] = 5
        kernel(doubled[1], total)
        library.set_stream()
        library.product(weights, doubled, product, beta=1.0)

    graph = recorded(xp, record)
    assert not doubled.get().any()
    x.fill(1)
    with xp.counting() as counts:
        graph.launch()
        graph.launch()
    assert (counts.graph_launches, counts.replayed, counts.launches) == (2, 8, 0)
    assert_array_equal(total.get(), 4)
    assert_array_equal(product.get(), 1 + 2 * 7)


@pytest.mark.parametrize(
    "call",
    [
        lambda xp, x: x + 1,
        lambda xp, x: xp.empty(3),
        lambda xp, x: xp.matmul(x, x.T, out=x[:, :2]),
        lambda xp, x: xp.add(x[0], 1, out=x[0]),
        lambda xp, x: x[[0]],
        lambda xp, x: float(x[0, 0]),
        lambda xp, x: xp.asarray(HOST),
        lambda xp, x: xp.random.Generator(xp.random.Philox4x3210(0)).random(3),
        lambda xp, x: xp.cuda.get_current_stream().synchronize(),
        lambda xp, x: x.library.set_stream(workspace=False) or x.library.product(x.square, x, x.out),
    ],
)
def test_what_cannot_be_recorded_is_refused_and_ends_the_recording(call, xp, x):
    x.library, x.square, x.out = Library(xp), xp.empty((2, 2), "f"), xp.empty((2, 3), "f")
    stream = xp.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        with pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
            call(xp, x)
        with pytest.raises(RuntimeError, match="StreamCaptureInvalidated"):
            stream.end_capture()


def test_a_graph_does_not_keep_its_arrays_alive(xp, x):
    outputs = [xp.empty((2, 3), "f")]
    graph = recorded(xp, lambda: xp.tanh(x, out=outputs[0]))
    graph.launch()
    outputs.clear()
    with pytest.raises(RuntimeError, match="a graph uses memory that has been freed"):
        graph.launch()


def test_cublas_refuses_what_would_be_a_wrong_number_or_a_crash(xp, x):
    library, square, out = Library(xp), xp.ones((2, 2), "f"), xp.empty((2, 3), "f")
    with pytest.raises(RuntimeError, match="the stream of the handle is not the current one"):
        library.product(square, x, out)
    library.set_stream()
    with pytest.raises(RuntimeError, match="with columns 2 apart"):
        library.product(square, x, out, ld=2)
    with pytest.raises(RuntimeError, match="6 numbers of float64 are no"):
        library.product(square, x.astype(np.float64), out)
    with pytest.raises(TypeError, match="references to c_float"):
        library.product(square, x, out, number=ctypes.c_double)
    with pytest.raises(RuntimeError, match="overwrite its factors"):
        library.product(square, x, x)
    library.functions.cublasSgemm_v2.argtypes = None
    with pytest.raises(TypeError, match="argtypes None do not describe 14 arguments"):
        library.product(square, x, out)


def test_cupy_has_what_the_stand_in_has():
    cupy = pytest.importorskip("cupy", exc_type=ImportError)
    assert [name for name in FUNCTIONS | UFUNCS if not hasattr(cupy, name)] == []
    assert [name for name in METHODS if not hasattr(cupy.ndarray, name)] == []
    assert hasattr(cupy.random.Generator, "standard_normal") and hasattr(cupy.cuda.Stream, "begin_capture")
