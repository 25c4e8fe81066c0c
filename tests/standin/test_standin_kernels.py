"""The kernels of the stand-in for CuPy: right numbers, and every refusal."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from tests import standin
from tests.standin import kernels as standin_kernels

HOST = np.arange(6.0, dtype=np.float32).reshape(2, 3)


@pytest.fixture
def xp():
    return standin.make()


@pytest.fixture
def x(xp):
    return xp.asarray(HOST)


def warp_sums(xp):
    """The sum of each 32 elements, known to all lanes."""
    preamble = """
    template <typename T> __device__ T over_lanes(T sum) {
        for (int k = 16; k > 0; k /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, k);
        return sum;
    }"""
    body = "T mine = x[i]; T sum = over_lanes(mine); y[i] = sum + over_lanes(mine * mine);"
    return xp.ElementwiseKernel("raw T x", "raw T y", body, "warp_sums", preamble=preamble)


# ---- elementwise kernels


def test_an_elementwise_kernel_broadcasts_and_has_raw_arguments(xp, x):
    body = "y = p * x + row[i % n] + (i < _ind.size() / 2 ? 0 : 100);  z[i] = i;"
    kernel = xp.ElementwiseKernel("T x, raw T row, float32 p, int64 n", "T y, raw int32 z", body, "affine")
    row, y, z = xp.asarray(HOST[1]), xp.empty((4, 2, 3), "f"), xp.empty(24, np.int32)
    with xp.counting() as counts:
        assert kernel(x, row, 2, 3, y, z)[0] is y
    half = np.repeat([0, 100], 12).reshape(4, 2, 3)
    assert_array_equal(y.get(), 2 * HOST + HOST[1] + half)
    assert_array_equal(z.get(), np.arange(24))
    assert (counts.launches, counts.kernels, counts.allocations) == (1, {"affine": 1}, 0)


def test_a_kernel_reads_and_writes_views(xp, x):
    y = xp.zeros((3, 4), "f")
    xp.ElementwiseKernel("T x", "T y", "y = x + 1", "next")(x.T, y[:, ::2])
    assert_array_equal(y.get()[:, ::2], HOST.T + 1)
    assert not y.get()[:, 1::2].any()


def test_a_kernel_in_place(xp, x):
    assert xp.ElementwiseKernel("", "T x", "x *= 2; if (x > 4) continue; x = -x;", "twice", no_return=True)(x) is None
    assert_array_equal(x.get(), np.where(HOST > 2, 2 * HOST, -2 * HOST))


def test_a_kernel_makes_its_output(xp, x):
    y = xp.ElementwiseKernel("T x, U b", "U y", "y = x > 2 ? b : U(-1)", "select")(x, xp.asarray(np.int64(7)))
    assert y.dtype == np.int64
    assert_array_equal(y.get(), np.where(HOST > 2, 7, -1))
    assert xp.ElementwiseKernel("T x", "T y", "y = x", "same")(x[:0]).shape == (0, 3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_mathematics_are_those_of_the_type(xp, dtype):
    """A float stays a float; min and max ignore NaN, as on the GPU."""
    body = 'y = tanh(x) + exp(x) * sqrt(x); double_ = sizeof(tanh(x)) == 8; z = isfinite(x) ? max(x, 1) : T(nan(""));'
    kernel = xp.ElementwiseKernel("T x", "T y, bool double_, T z", body, "mathematics")
    x = np.array([0.5, 2, np.inf], dtype)
    y, is_double, z = (each.get() for each in kernel(xp.asarray(x)))
    assert_allclose(y, np.tanh(x) + np.exp(x) * np.sqrt(x), rtol=2 * np.finfo(dtype).eps)
    assert (is_double == (dtype == np.float64)).all()
    assert_array_equal(z, [1, 2, np.nan])
    larger = xp.ElementwiseKernel("T x", "T y", "y = max(x, T(1)) + min(T(1), x)", "larger")
    assert_array_equal(larger(xp.asarray([np.nan, 0.0])).get(), [2, 1])


def test_lanes_of_a_warp_exchange_values(xp):
    x = np.random.default_rng(0).standard_normal((3, 32)).astype("f")
    device, y = xp.asarray(x), xp.empty((3, 32), "f")
    with xp.counting() as counts:
        warp_sums(xp)(device, y, size=96)
    assert counts.kernels["warp_sums"] == counts.launches == 1
    assert_allclose(y.get(), np.repeat((x + x**2).sum(1)[:, None], 32, 1), rtol=1e-5)


@pytest.mark.parametrize(
    ("exchange", "source"),
    [
        ("__shfl_sync(0xffffffff, x[i], 5)", lambda k: 5),
        ("__shfl_xor_sync(0xffffffff, x[i], 9)", lambda k: k ^ 9),
        ("__shfl_down_sync(0xffffffff, x[i], 4)", lambda k: k + 4 if k + 4 < 32 else k),
        ("__shfl_up_sync(0xffffffff, x[i], 4)", lambda k: k - 4 if k >= 4 else k),
    ],
)
def test_each_exchange_takes_from_the_right_lane(xp, exchange, source):
    """And what lanes have written before they meet, all see afterwards."""
    body = f"y[i] = {exchange}; __syncwarp(); z[i] = y[(i + 1) % 32];"
    y, z = (xp.empty(32, int) for _ in "yz")
    xp.ElementwiseKernel("raw T x", "raw T y, raw T z", body, "exchange")(xp.arange(32), y, z, size=32)
    assert_array_equal(y.get(), [source(k) for k in range(32)])
    assert_array_equal(z.get(), [source((k + 1) % 32) for k in range(32)])


def kernel_errors(xp, x):
    def make(ins, outs, body="", **options):
        return xp.ElementwiseKernel(ins, outs, body, "faulty", **options)

    one, read = make("T x", "T y", "y = x"), make("raw T x, int64 k", "raw T y", "y[i] = x[k]")
    total = xp.ReductionKernel("T x", "T y", "x", "a + b", "y = a", None, "total")
    line = xp.empty(6, "f")
    parting = make("raw T x", "raw T y", "if (i % 2) y[i] = __shfl_sync(~0u, x[0], 0);")
    return {
        "types that differ": (lambda: make("T x, T y", "T z")(x, line.astype("d"), x), TypeError, "Type is mismatched"),
        "another type": (lambda: make("float64 x", "T z")(x, x), TypeError, "Type is mismatched"),
        "an array of NumPy": (lambda: one(HOST, x), TypeError, "Unsupported type numpy.ndarray"),
        "an output of NumPy": (lambda: one(x, HOST), TypeError, "Unsupported type numpy.ndarray"),
        "a number to write to": (lambda: one(x, 1.0), TypeError, "must be an array"),
        "a raw number": (lambda: read(1.0, 0, line, size=1), TypeError, "must be an array"),
        "no array": (lambda: one(1.0), TypeError, "no array says what type T is"),
        "a fraction as an integer": (lambda: read(x, 0.5, line, size=1), TypeError, "k is int64, got 0.5"),
        "arguments too few": (lambda: make("T x", "T y, T z")(x, x), TypeError, "Wrong number of arguments"),
        "an unknown keyword": (lambda: one(x, x, axis=0), TypeError, "axis"),
        "another shape": (lambda: one(x, line), ValueError, "broadcast|mismatch"),
        "an output too small": (lambda: one(x, line.reshape(2, 3)[:1]), ValueError, "Out shape is mismatched"),
        "raw alone": (lambda: read(x, 0, line), ValueError, "Loop size is undecided"),
        "a size in vain": (lambda: one(x, x, size=6), ValueError, "'size' can be used only if"),
        "an index too large": (lambda: read(x, 6, line, size=6), RuntimeError, "faulty: index 6 .* x of 6"),
        "an index too small": (lambda: read(x, -1, line, size=6), RuntimeError, "index -1 is outside"),
        "raw, not contiguous": (lambda: read(x.T, 0, line, size=6), ValueError, "must be C-contiguous"),
        "the same memory": (lambda: one(x[0], x[0]), RuntimeError, "x shares memory with y, but is another array"),
        "memory that overlaps": (lambda: one(x[0, :2], x[0, 1:]), RuntimeError, "shares memory"),
        "lanes that part": (lambda: parting(x, xp.empty(32, "f"), size=32), RuntimeError, "its lanes part"),
        "half a warp": (lambda: warp_sums(xp)(line, line, size=6), RuntimeError, "no multiple of 32"),
        "C++ with an error": (lambda: make("T x", "T y", "y = x +")(x, x), RuntimeError, "does not compile"),
        "an index as a name": (lambda: make("T i", "T y"), ValueError, "Syntax error"),
        "an unknown type": (lambda: make("float16 x", "T y"), ValueError, "Syntax error"),
        "an unknown qualifier": (lambda: make("rare T x", "T y"), ValueError, "Syntax error"),
        "an option": (lambda: make("T x", "T y", loop_prep="int n;"), NotImplementedError, "knows no loop_prep"),
        "nothing to reduce": (lambda: total(x[:, :0], axis=1), ValueError, "zero-size array .* which has no identity"),
        "an axis too many": (lambda: total(x, axis=2), ValueError, "out of bounds"),
        "a reduction's other shape": (lambda: total(x, axis=0, out=x), ValueError, "Out shape is mismatched"),
        "a reduction's other argument": (lambda: total(HOST), TypeError, "Unsupported type numpy.ndarray"),
    }  # fmt: skip


@pytest.mark.parametrize("what", kernel_errors(standin.make(), standin.make().asarray(HOST)))
def test_kernels_refuse(what, xp, x):
    call, error, message = kernel_errors(xp, x)[what]
    with pytest.raises(error, match=message):
        call()


def test_without_a_compiler_a_test_is_skipped(xp, x, monkeypatch):
    monkeypatch.setattr(standin_kernels.shutil, "which", lambda name: None)
    with pytest.raises(pytest.skip.Exception, match="no C\\+\\+ compiler"):
        xp.ElementwiseKernel("T x", "T y", "y = 12345 * x", "never")(x)


# ---- reductions


@pytest.mark.parametrize("axis", [None, 0, 1, -1, (0, 2), (0, 1, 2)])
@pytest.mark.parametrize("keepdims", [False, True])
def test_a_reduction_goes_over_axes(xp, axis, keepdims):
    x = np.random.default_rng(0).standard_normal((2, 3, 4))
    kernel = xp.ReductionKernel("T x, T largest", "T y", "exp(x - largest)", "a + b", "y = log(a)", "0", "log_sum_exp")
    device, largest = xp.asarray(x), xp.asarray(1.0)
    with xp.counting() as counts:
        y = kernel(device, largest, axis=axis, keepdims=keepdims)
    assert_allclose(y.get(), np.log(np.exp(x - 1).sum(axis=axis, keepdims=keepdims)), rtol=1e-12)
    assert (counts.launches, counts.allocations, counts.kernels["log_sum_exp"]) == (1, 1, 1)
    out = xp.empty(y.shape)
    assert kernel(device, 1, axis=axis, keepdims=keepdims, out=out) is out
    assert_array_equal(out.get(), y.get())


# ---- the same source for nvcc


def test_nvcc_accepts_the_source(xp, tmp_path):
    if shutil.which("nvcc") is None:
        pytest.skip("no nvcc")
    reduction = xp.ReductionKernel("T x, int32 n", "T y", "x / n", "a + b", "y = sqrt(a)", "0", "root")
    for kernel in (warp_sums(xp), reduction, xp.ElementwiseKernel("T x, raw int64 k", "T y", "y = x + k[i]", "pick")):
        file = tmp_path / f"{kernel.name}.cu"
        file.write_text(standin.cuda_source(kernel, {"T": "float"}))
        assert f"__global__ void {kernel.name}(const float* _to_x" in file.read_text()
        made = subprocess.run(["nvcc", "-ptx", "-o", tmp_path / "out", file], capture_output=True, text=True)
        assert made.returncode == 0, made.stderr
