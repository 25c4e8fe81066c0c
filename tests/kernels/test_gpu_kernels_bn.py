"""The kernels of batch normalization with all lanes of a warp; and every kernel for the compilers of a real GPU."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minizone.kernels import gpu as package
from minizone.kernels.gpu import bn_lstm as gpu_bn
from minizone.kernels.gpu import cuda
from minizone.kernels.gpu.cuda import Kernel, Reduction
from tests import standin
from tests.kernels.test_gpu_kernels import (
    MORE,
    STEPS,
    assert_close,
    both_dtypes,
    check,
    every_kind,
    run,
    step_arguments,
)
from tests.standin.kernels import C_TYPES

every_step_of_bn = pytest.mark.parametrize("name", [name for name in STEPS if name.startswith("bn")])


@both_dtypes
@pytest.mark.parametrize("B", [1, 31, 32, 33, 70])
@every_step_of_bn
def test_32_lanes_give_what_one_gives_and_what_the_cpu_gives(gpu, monkeypatch, name, B, dtype):
    for H, given in ((1, False), (3, False), (3, True)):
        arguments, found = step_arguments(name, H, B, dtype, "mixed", given=given), {}
        for lanes in (1, 32):
            monkeypatch.setattr(gpu_bn, "LANES", lanes)
            found[lanes] = check(gpu, name, arguments, dtype)
        assert_close(found[32], found[1], dtype)


@both_dtypes
@every_kind
@every_step_of_bn
def test_32_lanes_with_every_mask(gpu, monkeypatch, name, kind, dtype):
    monkeypatch.setattr(gpu_bn, "LANES", 32)
    for more in MORE:
        check(gpu, name, step_arguments(name, 5, 7, dtype, kind, **more), dtype)


def test_without_examples_the_gradients_of_gain_and_bias_are_0(gpu):
    found = run(gpu, "bn_lstm_backward", step_arguments("bn_lstm_backward", 3, 0, np.float64))
    assert not found["d_gamma"].any() and not found["d_beta"].any()


# ---- the compilers of a real GPU

LETTERS = {
    "float": {"T": "float32", "I": "int32", "J": "int64"},
    "double": {"T": "float64", "I": "uint8", "J": "int64"},
}
FILES = ("cells", "bn_lstm", "tokens", "optim")
KERNELS = [
    each for file in FILES for each in vars(getattr(package, file)).values() if isinstance(each, Kernel | Reduction)
]
KERNELS += [gpu_bn._kernel(parts, 32) for parts in (gpu_bn._FORWARD, gpu_bn._BACKWARD)]


def with_nvcc(kernels: list[Any], monkeypatch: pytest.MonkeyPatch, folder: Path) -> str:
    """PTX of the kernels in the frame of the stand-in, made by nvcc."""
    if shutil.which("nvcc") is None:
        pytest.skip("no nvcc")
    parts, xp = [], standin.make()
    for kernel, (name, letters) in product(kernels, LETTERS.items()):
        made = cuda._compiled(xp, replace(kernel, name=f"{kernel.name}_{name}"))
        source = standin.cuda_source(made, {letter: C_TYPES[dtype] for letter, dtype in letters.items()})
        parts.append(f"namespace of_{made.name} {{\n{source}\n}}\n")
    (folder / "all.cu").write_text("".join(parts))
    command = "nvcc -std=c++17 -arch=sm_90 --compiler-options -Wall -Werror all-warnings -ptx all.cu -o all.ptx"
    result = subprocess.run(command.split(), cwd=folder, capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(result.stderr + result.stdout)
    return (folder / "all.ptx").read_text()


def with_nvrtc(kernels: list[Any], monkeypatch: pytest.MonkeyPatch, folder: Path) -> str:
    """PTX of the code that CuPy itself makes of the kernels, for arrays and for numbers, made by NVRTC."""
    cupy = pytest.importorskip("cupy", exc_type=ImportError)
    if not cupy.__version__.startswith("14."):
        pytest.skip(f"knows the inside of CuPy 14, this is {cupy.__version__}")
    from cupy._core import core
    from cupy.cuda import compiler

    try:
        compiler._get_nvrtc_version()
    except (ImportError, OSError, RuntimeError) as error:
        pytest.skip(f"no NVRTC: {error}")
    parts = []
    for kernel, (name, letters), numbers in product(kernels, LETTERS.items(), (False, True)):
        made = cuda._compiled(cupy, replace(kernel, name=f"{kernel.name}_{name}_{int(numbers)}"))
        parts.append(f"namespace of_{made.name} {{\n{code_of_cupy(made, letters, numbers)}\n}}\n")
    asked: list[Any] = []  # what CuPy would give to NVRTC: the source with its headers, and its options
    monkeypatch.setattr(compiler, "_compile_module_with_cache", lambda *each, **_: asked.extend(each) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        core.compile_with_cache("".join(parts))
    program, log = compiler._NVRTCProgram(asked[0], "all.cu"), io.StringIO()
    ptx, _ = program.compile((*asked[1], "-arch=compute_90", "--device-as-default-execution-space", "-ftz=true"), log)
    assert log.getvalue().strip() == ""
    return ptx.decode()


def code_of_cupy(kernel: Any, letters: dict[str, str], numbers: bool) -> str:
    """The source that CuPy makes of its kernel: inputs of two axes that are not contiguous, or numbers."""
    from cupy import ndarray
    from cupy._core import _carray, _kernel, _reduction, _scalar

    infos, elementwise = [], hasattr(kernel, "operation")
    for p in (params := kernel.params if elementwise else kernel._params):
        dtype = np.dtype(letters.get(p.ctype, p.dtype)) if p.ctype else None
        if dtype is None:
            infos.append(_kernel._ArgInfo(2, _carray.Indexer, None, 2, True, True))
        elif p.is_const and not p.raw and (numbers or p.dtype):
            infos.append(_kernel._ArgInfo(3, _scalar.CScalar, dtype, 0, True, True))
        else:
            infos.append(_kernel._ArgInfo(1, ndarray, dtype, 1 if p.raw else 2, p.raw, True))
    types = letters if elementwise else letters | {"IndexT": "int32"}
    types = _kernel._TypeMap(tuple((letter, np.dtype(dtype)) for letter, dtype in types.items()))
    if elementwise:
        what = kernel.operation, kernel.name, kernel.preamble
        return _kernel._get_elementwise_kernel_code(tuple(infos), types, params, *what)
    expressions = kernel.identity, kernel.map_expr, kernel.reduce_expr, kernel.post_map_expr, kernel.preamble, ()
    return _reduction._ReductionKernel_get_cached_function_code(
        kernel.nin, kernel.nout, params, tuple(infos), types, kernel.name, 512, kernel.reduce_type, *expressions
    )


@pytest.fixture(params=[with_nvcc, with_nvrtc], ids=["nvcc", "NVRTC"])
def ptx_of(request, monkeypatch, tmp_path) -> Callable[[list[Any]], str]:
    return lambda kernels: request.param(kernels, monkeypatch, tmp_path)


def test_every_kernel_compiles_for_a_real_gpu_and_is_single_precision_where_its_arrays_are(ptx_of):
    entries = re.split(r"\.visible \.entry ", ptx_of(KERNELS))[1:]
    found = {entry.partition("(")[0]: entry for entry in entries}
    assert {re.sub("_(float|double)(_[01])?$", "", name) for name in found} == {kernel.name for kernel in KERNELS}
    assert len(found) in (2 * len(KERNELS), 4 * len(KERNELS))
    assert [name for name, entry in found.items() if "_float" in name and ".f64" in entry] == []


@pytest.mark.parametrize("kernel", [
    Kernel("typo", "T x", "T y", "y = tahn(x);"),
    Kernel("typo", "T x", "T y", "y = x;", "__device__ int tahn() { return nothing; }"),
    Reduction("typo", "T x", "T y", "tahn(x)", "y = a"),
])  # fmt: skip
def test_a_kernel_with_a_typo_does_not_compile(ptx_of, kernel):
    with pytest.raises(Exception, match=r"tahn|nothing"):
        ptx_of([*KERNELS[:1], kernel])
