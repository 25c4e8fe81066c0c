"""Every kernel compiles for a real GPU: CuPy generates its source and NVRTC compiles it. No GPU is needed."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest

from minizone.kernels.gpu import bn_lstm, cuda, gru, lstm, optim, products, rnn, softmax, tokens
from minizone.kernels.gpu.cuda import Kernel, Reduction

LETTERS = {  # what the capital letters in the parameters of a kernel stand for
    "float": {"T": "float32", "I": "int32", "J": "int64"},
    "double": {"T": "float64", "I": "uint8", "J": "int64"},
}
KERNELS = [
    value
    for file in (gru, lstm, rnn, optim, products, softmax, tokens)
    for value in vars(file).values()
    if isinstance(value, Kernel | Reduction)
]
KERNELS += [bn_lstm._kernel(parts, 32) for parts in (bn_lstm._FORWARD, bn_lstm._BACKWARD)]


@pytest.fixture
def nvrtc(monkeypatch):
    """A function from source code to PTX, as CuPy would compile it."""
    cupy = pytest.importorskip("cupy", exc_type=ImportError)
    if not cupy.__version__.startswith("14."):
        pytest.skip(f"knows the inside of CuPy 14, this is {cupy.__version__}")
    from cupy._core import core
    from cupy.cuda import compiler

    try:
        compiler._get_nvrtc_version()
    except (ImportError, OSError, RuntimeError) as error:
        pytest.skip(f"no NVRTC: {error}")

    def compiled(source: str) -> str:
        asked: list[Any] = []  # what CuPy would give to NVRTC: the source with its headers, and its options
        monkeypatch.setattr(compiler, "_compile_module_with_cache", lambda *each, **_: asked.extend(each) or 1 / 0)
        with pytest.raises(ZeroDivisionError):
            core.compile_with_cache(source)
        program, log = compiler._NVRTCProgram(asked[0], "all.cu"), io.StringIO()
        options = (*asked[1], "-arch=compute_90", "--device-as-default-execution-space", "-ftz=true")
        ptx, _ = program.compile(options, log)
        assert log.getvalue().strip() == ""
        return ptx.decode()

    return compiled


def sources(kernels: list[Kernel | Reduction]) -> str:
    """The CUDA source of the kernels in single and in double precision, for inputs that are arrays or numbers."""
    import cupy

    parts = []
    for kernel, (name, letters), numbers in product(kernels, LETTERS.items(), (False, True)):
        made = cuda._compiled(cupy, replace(kernel, name=f"{kernel.name}_{name}_{int(numbers)}"))
        parts.append(f"namespace of_{made.name} {{\n{source_of(made, letters, numbers)}\n}}\n")
    return "".join(parts)


def source_of(kernel: Any, letters: dict[str, str], numbers: bool) -> str:
    """The source that CuPy makes of its kernel: inputs of two axes that are not contiguous, or numbers."""
    from cupy import ndarray
    from cupy._core import _carray, _kernel, _reduction, _scalar

    infos, elementwise = [], hasattr(kernel, "operation")
    params = kernel.params if elementwise else kernel._params
    for p in params:
        dtype = np.dtype(letters.get(p.ctype, p.dtype)) if p.ctype else None
        if dtype is None:
            infos.append(_kernel._ArgInfo(2, _carray.Indexer, None, 2, True, True))
        elif p.is_const and not p.raw and (numbers or p.dtype):
            infos.append(_kernel._ArgInfo(3, _scalar.CScalar, dtype, 0, True, True))
        else:
            infos.append(_kernel._ArgInfo(1, ndarray, dtype, 1 if p.raw else 2, p.raw, True))
    names = letters if elementwise else letters | {"IndexT": "int32"}
    types = _kernel._TypeMap(tuple((letter, np.dtype(dtype)) for letter, dtype in names.items()))
    if elementwise:
        what = kernel.operation, kernel.name, kernel.preamble
        return _kernel._get_elementwise_kernel_code(tuple(infos), types, params, *what)
    expressions = kernel.identity, kernel.map_expr, kernel.reduce_expr, kernel.post_map_expr, kernel.preamble, ()
    return _reduction._ReductionKernel_get_cached_function_code(
        kernel.nin, kernel.nout, params, tuple(infos), types, kernel.name, 512, kernel.reduce_type, *expressions
    )


def test_every_kernel_compiles_and_is_single_precision_where_its_arrays_are(nvrtc):
    entries = re.split(r"\.visible \.entry ", nvrtc(sources(KERNELS)))[1:]
    found = {entry.partition("(")[0]: entry for entry in entries}
    assert len(found) == 4 * len(KERNELS)
    assert {re.sub("_(float|double)_[01]$", "", name) for name in found} == {kernel.name for kernel in KERNELS}
    assert [name for name, entry in found.items() if "_float" in name and ".f64" in entry] == []


@pytest.mark.parametrize(
    "kernel",
    [
        Kernel("typo", "T x", "T y", "y = tahn(x);"),
        Kernel("typo", "T x", "T y", "y = x;", "__device__ int tahn() { return nothing; }"),
        Reduction("typo", "T x", "T y", "tahn(x)", "y = a"),
    ],
)
def test_a_kernel_with_a_typo_does_not_compile(nvrtc, kernel):
    with pytest.raises(Exception, match=r"tahn|nothing"):
        nvrtc(sources([kernel]))
