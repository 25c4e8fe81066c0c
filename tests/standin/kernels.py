"""`ElementwiseKernel` and `ReductionKernel` of the stand-in for CuPy: their own C++ source, compiled for the host.

The C++ around a kernel's source is in standin_cpp.py.
"""

from __future__ import annotations

import ctypes
import hashlib
import math
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from tests.standin.cpp import (
    CUDA,
    CUDA_ITSELF,
    ELEMENTWISE,
    ELEMENTWISE_ON_DEVICE,
    ONE_BY_ONE,
    REDUCTION,
    WARP_BY_WARP,
    WARPS,
)
from tests.standin.cuda import CuBLAS

__all__ = ["CuBLAS", "ElementwiseKernel", "ReductionKernel", "cuda_source"]
Module = Any  # standin.Module
MOST_AXES = 8
OPTIONS = ("-std=c++20", "-O1", "-shared", "-fPIC", "-ffp-contract=off", "-w", "-U_FORTIFY_SOURCE")
C_TYPES = {"bool": "bool", "int8": "signed char", "int16": "short", "int32": "int", "int64": "long long"}
C_TYPES |= {"uint8": "unsigned char", "uint16": "unsigned short", "uint32": "unsigned", "uint64": "unsigned long long"}
C_TYPES |= {"float32": "float", "float64": "double", "complex64": "complex<float>", "complex128": "complex<double>"}
ERRORS = {1: "index {} is outside of argument {} of {} elements", 2: "its lanes part before an exchange"}


def filled(template: str, **parts: Any) -> str:
    for name, part in parts.items():
        template = template.replace(f"@{name}@", str(part))
    return template


class Parameter(NamedTuple):
    type: str  # a capital letter, or the name of a dtype
    name: str
    raw: bool
    const: str  # "const " of inputs


def parsed(text: str, const: str) -> list[Parameter]:
    """The parameters in a text such as "T x, raw int64 tokens"."""
    parameters = []
    for part in filter(None, text.strip().split(",")):
        *words, kind, name = part.split()
        if words not in ([], ["raw"]) or (len(kind) > 1 and np.dtype(kind).name not in C_TYPES) or name == "i":
            raise ValueError(f"Syntax error: {part}")
        parameters.append(Parameter(kind, name, bool(words), const))
    return parameters


@cache
def compiled(source: str) -> Callable[..., Any]:
    """The function `run` of the source. Libraries are kept from one test run to the next."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no C++ compiler: the kernels of the GPU cannot be run on the host")
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    folder = Path(tempfile.gettempdir()) / f"minizone-standin-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    library = folder / (hashlib.sha256("\n".join((version, *OPTIONS, source)).encode()).hexdigest() + ".so")
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:  # other processes may be about to make it, too
            code, made = Path(scratch) / "kernel.cpp", Path(scratch) / "kernel.so"
            code.write_text(source)
            command = [compiler, *OPTIONS, "-o", str(made), str(code)]
            result = subprocess.run(command, capture_output=True, text=True)
            if result.returncode:
                raise RuntimeError(f"a kernel does not compile:\n{result.stderr}")
            made.replace(library)
    function = ctypes.CDLL(str(library)).run
    function.argtypes = [ctypes.c_longlong, ctypes.c_longlong, ctypes.c_void_p]
    function.restype = ctypes.POINTER(ctypes.c_longlong)
    return function


class Kernel:
    """What both kinds have in common: parameters, types, arguments."""

    def __init__(self, xp: Module, in_params: str, out_params: str, name: str, preamble: str):
        self.xp, self.name, self.preamble = xp, name, preamble
        self.ins, self.outs = parsed(in_params, "const "), parsed(out_params, "")
        self.params = [*self.ins, *self.outs]

    def types(self, args: tuple) -> dict[str, np.dtype]:
        """What the capital letters stand for, from the arrays among the arguments, the outputs first."""
        found: dict[str, np.dtype] = {}
        pairs = list(zip(self.params, args, strict=False))
        for x in args:
            self.xp.operand(x)  # raises
        for p, x in [*pairs[len(self.ins) :], *pairs[: len(self.ins)]]:
            if isinstance(x, self.xp.ndarray):
                dtype = found.setdefault(p.type, x.dtype) if len(p.type) == 1 else np.dtype(p.type)
                if dtype != x.dtype:
                    raise TypeError(f"Type is mismatched. {p.name} {x.dtype} {dtype}")
        for p in self.params:
            if len(p.type) == 1 and p.type not in found:
                raise TypeError(f"{self.name}: no array says what type {p.type} is")
        return found

    def dtype(self, p: Parameter, types: dict[str, np.dtype]) -> np.dtype:
        return types[p.type] if len(p.type) == 1 else np.dtype(p.type)

    def checked(self, args: tuple, types: dict[str, np.dtype]) -> list[np.ndarray]:
        """The arguments as NumPy's arrays, numbers as 0-d ones of the parameter's type."""
        arrays = []
        for p, x in zip(self.params, args, strict=False):
            raw, dtype = self.xp.operand(x), self.dtype(p, types)
            if not isinstance(raw, np.ndarray):
                if p.raw or not p.const:
                    raise TypeError(f"{self.name}: {p.name} must be an array of the device")
                if dtype.kind in "iu" and isinstance(raw, float | complex | np.inexact):
                    raise TypeError(f"{self.name}: {p.name} is {dtype}, got {raw!r}")
                raw = np.full((), raw, dtype)
            if p.raw and not raw.flags.c_contiguous:
                raise ValueError(f"{self.name}: {p.name} is raw, so here it must be C-contiguous")
            arrays.append(raw)
        for p, x in zip(self.ins, args, strict=False):
            for q, y in zip(self.outs, args[len(self.ins) :], strict=False):
                if isinstance(x, self.xp.ndarray) and x is not y and np.may_share_memory(x.raw, y.raw):
                    raise RuntimeError(f"{self.name}: {p.name} shares memory with {q.name}, but is another array")
        return arrays

    def source(self, types: dict[str, str], program: str) -> str:
        typedefs = "".join(f"typedef {c_type} {letter};\n" for letter, c_type in sorted(types.items()))
        return f"{typedefs}{self.preamble}\n{program}"

    def elements(self, params: list[Parameter], index: str, on_host: bool) -> str:
        """The lines that give parameters their names in the body."""
        lines = []
        for p in params:
            c_type, k = p.const + (p.type if len(p.type) == 1 else C_TYPES[np.dtype(p.type).name]), self.params.index(p)
            if p.raw and on_host:
                lines.append(f"const _Raw<{c_type}> {p.name}{{({c_type}*)_p[{k}].data, _p[{k}].size, {k}}};")
            elif p.raw:
                lines.append(f"const _Raw<{c_type}> {p.name}{{_to_{p.name}, _n}};")
            else:
                place = f"_element<{c_type}>(_p[{k}], {index})" if on_host else f"_to_{p.name}[{index}]"
                lines.append(f"{c_type}& {p.name} = {place};")
        return "\n    ".join(lines)

    def start(self, source: str, n: int, inner: int, raw: list[np.ndarray], arrays: list[Any]) -> None:
        """Launch it: now, or when the graph is."""
        words = np.zeros((len(raw), 3 + 2 * MOST_AXES), np.int64)
        for row, x in zip(words, raw, strict=True):
            row[: 3 + x.ndim] = x.ctypes.data, x.size, x.ndim, *x.shape
            row[3 + MOST_AXES : 3 + MOST_AXES + x.ndim] = x.strides
        function = compiled(filled(CUDA, AXES=MOST_AXES) + source)

        def run(memory: list[np.ndarray] = raw) -> None:
            error = function(n, inner, words.ctypes.data)
            if error[0]:
                facts = error[1], self.params[error[2]].name, error[3]
                raise RuntimeError(f"{self.name}: {ERRORS[error[0]].format(*facts)}")

        self.xp.launch(run, arrays, self.name)


class ElementwiseKernel(Kernel):
    """`cupy.ElementwiseKernel`."""

    def __init__(self, xp: Module, in_params: str, out_params: str, operation: str, name: str = "kernel",
                 reduce_dims: bool = True, preamble: str = "", no_return: bool = False, return_tuple: bool = False,
                 **kwargs: Any):  # fmt: skip
        if kwargs.keys() - {"options"}:
            raise NotImplementedError(f"the stand-in knows no {', '.join(kwargs)}")
        super().__init__(xp, in_params, out_params, name, preamble)
        self.operation, self.no_return, self.return_tuple = operation, no_return, return_tuple
        self.shuffles = "__shfl" in preamble + operation
        self.warps = self.shuffles and "#define LANES 1\n" not in preamble  # warps of one lane have nothing to exchange

    def __call__(self, *args: Any, size: int | None = None, block_size: int = 128) -> Any:
        if len(args) not in (len(self.ins), len(self.params)):
            raise TypeError(f"Wrong number of arguments for {self.name!r}")
        xp, types = self.xp, self.types(args)
        raw = self.checked(args, types)
        loops = [x.shape for p, x in zip(self.params, args, strict=False) if isinstance(x, xp.ndarray) and not p.raw]
        if loops and size is not None:
            raise ValueError("Specified 'size' can be used only if all of the ndarray are 'raw'.")
        if not loops and size is None:
            raise ValueError("Loop size is undecided.")
        shape, outs = np.broadcast_shapes(*loops) if size is None else (size,), list(args[len(self.ins) :])
        if not outs:
            if size is None and any(p.raw for p in self.outs):
                raise ValueError("Output array size is Undecided")
            outs = [xp.empty(shape, self.dtype(p, types)) for p in self.outs]
            raw += [y.raw for y in outs]
        if any(not p.raw and y.shape != shape for p, y in zip(self.outs, outs, strict=True)):
            raise ValueError("Out shape is mismatched")
        n = math.prod(shape)
        if self.warps and n % 32:
            raise RuntimeError(f"{self.name}: the lanes of a warp exchange values, but {n} is no multiple of 32")
        if n:
            raw = [x if p.raw else np.broadcast_to(x, shape) for p, x in zip(self.params, raw, strict=True)]
            names = {letter: C_TYPES[dtype.name] for letter, dtype in types.items()}
            self.start(self.host_source(names), n, 1, raw, [*xp.arrays(args), *outs])
        if self.no_return:
            return None
        return outs[0] if len(outs) == 1 and not self.return_tuple else tuple(outs)

    def host_source(self, types: dict[str, str]) -> str:
        elements, loop = self.elements(self.params, "i", True), WARP_BY_WARP if self.warps else ONE_BY_ONE
        program = filled(ELEMENTWISE, ELEMENTS=elements, BODY=self.operation, LOOP=loop)
        return (WARPS if self.shuffles else "") + self.source(types, program)

    def device_source(self, types: dict[str, str], head: str) -> str:
        parts = {"ELEMENTS": self.elements(self.params, "i", False), "BODY": self.operation}
        return self.source(types, filled(ELEMENTWISE_ON_DEVICE, HEAD=head, **parts))


class ReductionKernel(Kernel):
    """`cupy.ReductionKernel`; it adds up in the order of the axes, where a GPU would add up a tree."""

    def __init__(self, xp: Module, in_params: str, out_params: str, map_expr: str, reduce_expr: str,
                 post_map_expr: str, identity: Any, name: str = "reduce_kernel", reduce_type: str | None = None,
                 reduce_dims: bool = True, preamble: str = "", options: tuple = ()):  # fmt: skip
        super().__init__(xp, in_params, out_params, name, preamble)
        self.identity = "" if identity is None else str(identity)
        first = self.outs[0].type
        c_type = reduce_type or (first if len(first) == 1 else C_TYPES[np.dtype(first).name])
        self.parts = {"REDUCE": reduce_expr, "POST_MAP": post_map_expr, "TYPE": c_type}
        self.sum = {"MAP": map_expr, "IDENTITY": self.identity}

    def __call__(self, *args: Any, axis: Any = None, keepdims: bool = False, out: Any = None) -> Any:
        xp, args = self.xp, args if out is None else (*args, out)
        if len(args) not in (len(self.ins), len(self.params)):
            raise TypeError(f"Wrong number of arguments for {self.name!r}")
        types = self.types(args)
        raw, n_in = self.checked(args, types), len(self.ins)
        if any(p.raw for p in self.params):
            raise NotImplementedError("the stand-in has no raw arguments of reductions")
        shape = np.broadcast_shapes(*(x.shape for x in raw[:n_in]))
        axes = range(len(shape)) if axis is None else axis if isinstance(axis, tuple) else (axis,)
        reduced = sorted(np.lib.array_utils.normalize_axis_tuple(axes, len(shape)))
        kept = [k for k in range(len(shape)) if k not in reduced]
        out_shape = tuple(1 if k in reduced else n for k, n in enumerate(shape) if keepdims or k in kept)
        outs = list(args[n_in:]) or [xp.empty(out_shape, self.dtype(p, types)) for p in self.outs]
        if any(y.shape != out_shape for y in outs):
            raise ValueError("Out shape is mismatched")
        n, inner = (math.prod(shape[k] for k in each) for each in (kept, reduced))
        if n and not inner and not self.identity:
            raise ValueError(f"zero-size array to reduction operation {self.name} which has no identity")
        if n:
            raw = [np.broadcast_to(x, shape).transpose(*kept, *reduced) for x in raw[:n_in]] + [y.raw for y in outs]
            names = {letter: C_TYPES[dtype.name] for letter, dtype in types.items()}
            self.start(self.host_source(names), n, inner, raw, [*xp.arrays(args), *outs])
        return outs[0] if len(outs) == 1 else tuple(outs)

    def host_source(self, types: dict[str, str]) -> str:
        host = {"HEAD": "long long* run(long long _n, long long _inner, const _Array* _p)", "START": "0", "STEP": "1"}
        return self.source(types, self._program(True, **host, BEGIN="_error[0] = 0;", END="return _error;"))

    def device_source(self, types: dict[str, str], head: str) -> str:
        grid = {"START": "blockIdx.x * blockDim.x + threadIdx.x", "STEP": "gridDim.x * blockDim.x"}
        return self.source(types, self._program(False, HEAD=head, **grid, BEGIN="", END=""))

    def _program(self, on_host: bool, **around: str) -> str:
        elements, outputs = self.elements(self.ins, "_at", on_host), self.elements(self.outs, "_i", on_host)
        return filled(REDUCTION, ELEMENTS=elements, OUTPUTS=outputs, **self.sum, **self.parts, **around)


def cuda_source(kernel: Kernel, types: dict[str, str]) -> str:
    """A whole .cu file with the kernel's source, for the types of its capital letters, {"T": "float"}: for nvcc."""
    pointers = [
        p.const + (types.get(p.type) or C_TYPES[np.dtype(p.type).name]) + f"* _to_{p.name}" for p in kernel.params
    ]
    head = f"__global__ void {kernel.name}({', '.join(pointers)}, ptrdiff_t _n, ptrdiff_t _inner)"
    return CUDA_ITSELF + kernel.device_source(types, head)
