"""`ElementwiseKernel` and `ReductionKernel` of the stand-in: the C++ source of minizone, compiled for the host."""

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
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest

from tests.standin.arrays import ndarray, unsupported

if TYPE_CHECKING:
    from tests.standin import Cupy

OPTIONS = ("-std=c++20", "-O1", "-shared", "-fPIC", "-ffp-contract=off", "-w", "-U_FORTIFY_SOURCE")
MOST_AXES = 8
C_TYPES = {
    "bool": "bool",
    "uint8": "unsigned char",
    "int32": "int",
    "int64": "long long",
    "float32": "float",
    "float64": "double",
}

# What CUDA and CuPy give to the body of a kernel. An index out of range is noted in `_error`.
CUDA = """
#include <cmath>
#include <cstddef>
#include <csetjmp>
#include <cstring>
#include <ucontext.h>
using namespace std;
#define __device__
static long long _error[4];  // a number of ERRORS, and what its sentence says
template <class A, class B> auto max(A a, B b) { return fmax(a, b); }
template <class A, class B> auto min(A a, B b) { return fmin(a, b); }

struct _Array { char* data; long long size, ndim, shape[MOST_AXES], strides[MOST_AXES]; };
struct _Indexer { ptrdiff_t n; ptrdiff_t size() const { return n; } };
template <class E> E& _element(const _Array& a, ptrdiff_t i) {
    ptrdiff_t offset = 0;
    for (int k = a.ndim - 1; k >= 0; i /= a.shape[k--]) offset += i % a.shape[k] * a.strides[k];
    return *(E*)(a.data + offset);
}
template <class E> struct _Raw {
    const _Array& a; int parameter;
    E& operator[](ptrdiff_t k) const {
        static remove_const_t<E> nothing;
        if (0 <= k && k < a.size) return ((E*)a.data)[k];
        if (!_error[0]) { _error[0] = 1; _error[1] = k; _error[2] = parameter; _error[3] = a.size; }
        return nothing;
    }
};
""".replace("MOST_AXES", str(MOST_AXES))
ERRORS = {1: "index {} is outside of argument {} of {} elements", 2: "the lanes of a warp do not exchange together"}

# The 32 lanes of a warp are coroutines. Each runs up to its next exchange, then all of them continue.
WARPS = """
static void _body(ptrdiff_t i, const void* pointer);
static jmp_buf _scheduler, _resume[32];
static ucontext_t _entry[32], _unused;
static char _stack[32][1 << 16], _slots[2][32][8];  // two sets of slots, used in turns
static bool _started[32], _done[32];
static int _lane, _turn;
static ptrdiff_t _first;
static const void* _given;

template <class V> V __shfl_xor_sync(unsigned, V v, int k) {
    const int turn = _turn;
    memcpy(_slots[turn][_lane], &v, sizeof v);
    if (!_setjmp(_resume[_lane])) _longjmp(_scheduler, 1);
    memcpy(&v, _slots[turn][(_lane ^ k) & 31], sizeof v);
    return v;
}
static void _run_lane() {
    _body(_first + _lane, _given);
    _done[_lane] = true;
    _longjmp(_scheduler, 1);
}
static void _run_warp() {
    for (int k = 0; k < 32; ++k) {
        _started[k] = _done[k] = false;
        getcontext(&_entry[k]);
        _entry[k].uc_stack.ss_sp = _stack[k];
        _entry[k].uc_stack.ss_size = sizeof _stack[k];
        _entry[k].uc_link = &_unused;
        makecontext(&_entry[k], _run_lane, 0);
    }
    static int waiting;
    do {
        waiting = 0;
        for (_lane = 0; _lane < 32; ++_lane) {
            if (_done[_lane]) continue;
            if (!_setjmp(_scheduler)) {
                if (_started[_lane]) _longjmp(_resume[_lane], 1);
                _started[_lane] = true;
                setcontext(&_entry[_lane]);
            }
            waiting += !_done[_lane];
        }
        if (waiting % 32) _error[0] = 2;
        _turn ^= 1;
    } while (waiting);
}
"""
ONE_BY_ONE = "for (ptrdiff_t i = 0; i < n; ++i) _body(i, &given);"
WARP_BY_WARP = "_given = &given; for (_first = 0; _first < n; _first += 32) _run_warp();"
PROGRAM = """
struct _Given { const _Array* arrays; ptrdiff_t n; };
static void _body(ptrdiff_t i, const void* _pointer) {
    const _Array* _arrays = ((const _Given*)_pointer)->arrays;
    const _Indexer _ind{((const _Given*)_pointer)->n};
    @PARAMETERS@
    @BODY@;
}
extern "C" long long* run(long long n, const _Array* arrays) {
    const _Given given{arrays, n};
    _error[0] = 0;
    @LOOP@
    return _error;
}
"""


class Parameter(NamedTuple):
    type: str  # a capital letter, or the name of a dtype
    name: str
    raw: bool
    is_input: bool

    def c_type(self, types: dict[str, np.dtype]) -> str:
        return ("const " if self.is_input else "") + C_TYPES[self.dtype(types).name]

    def dtype(self, types: dict[str, np.dtype]) -> np.dtype:
        return types[self.type] if len(self.type) == 1 else np.dtype(self.type)


def parsed(text: str, is_input: bool) -> list[Parameter]:
    """The parameters in a text such as "T x, raw int64 tokens"."""
    parameters = []
    for part in filter(None, text.strip().split(",")):
        *qualifiers, kind, name = part.split()
        parameters.append(Parameter(kind, name, qualifiers == ["raw"], is_input))
    return parameters


@cache
def compiled(source: str) -> Callable[..., Any]:
    """The function `run` of the source. Libraries are kept from one run of the tests to the next."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no C++ compiler: the kernels of the GPU cannot be run on the host")
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    folder = Path(tempfile.gettempdir()) / f"minizone-standin-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    library = folder / (hashlib.sha256("\n".join((version, *OPTIONS, source)).encode()).hexdigest() + ".so")
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:  # another process may compile the same now
            code, made = Path(scratch) / "kernel.cpp", Path(scratch) / "kernel.so"
            code.write_text(source)
            command = [compiler, *OPTIONS, "-o", str(made), str(code)]
            result = subprocess.run(command, capture_output=True, text=True)
            if result.returncode:
                raise RuntimeError(f"a kernel does not compile:\n{result.stderr}")
            made.replace(library)
    function = ctypes.CDLL(str(library)).run
    function.argtypes = [ctypes.c_longlong, ctypes.c_void_p]
    function.restype = ctypes.POINTER(ctypes.c_longlong)
    return function


class ElementwiseKernel:
    """`cupy.ElementwiseKernel`, called with all its outputs."""

    def __init__(
        self, xp: Cupy, in_params: str, out_params: str, operation: str, name: str = "kernel",
        *, preamble: str = "", no_return: bool = False,
    ):  # fmt: skip
        self.xp, self.name, self.preamble, self.operation = xp, name, preamble, operation
        self.params = [*parsed(in_params, True), *parsed(out_params, False)]

    def __call__(self, *args: Any, size: int | None = None) -> None:
        xp, types = self.xp, self.types_of(args)
        raw = [self.checked(p, x, types) for p, x in zip(self.params, args, strict=True)]
        self.check_overlap(args)
        shapes = [x.shape for p, x in zip(self.params, args, strict=True) if isinstance(x, ndarray) and not p.raw]
        if (size is None) == (not shapes):
            raise ValueError(f"{self.name}: it needs a size if all arrays are raw, and only then")
        shape = np.broadcast_shapes(*shapes) if size is None else (size,)
        for p, x in zip(self.params, raw, strict=True):
            if not p.raw and not p.is_input and x.shape != shape:
                raise ValueError(f"{self.name}: {p.name} {x.shape} is not of the shape {shape}")
        n = math.prod(shape)
        if n:
            raw = [x if p.raw else np.broadcast_to(x, shape) for p, x in zip(self.params, raw, strict=True)]
            xp.launch(self.launcher(compiled(self.source(types)), n, raw), xp.arrays_in(args))

    def types_of(self, args: tuple[Any, ...]) -> dict[str, np.dtype]:
        """What the capital letters stand for."""
        if len(args) != len(self.params):
            raise TypeError(f"{self.name} has {len(self.params)} parameters, got {len(args)} arguments")
        types: dict[str, np.dtype] = {}
        for p, x in zip(self.params, args, strict=True):
            if isinstance(x, ndarray):
                dtype = types.setdefault(p.type, x.dtype) if len(p.type) == 1 else np.dtype(p.type)
                if dtype != x.dtype:
                    raise TypeError(f"{self.name}: type is mismatched: {p.name} is {x.dtype}, not {dtype}")
        return types

    def checked(self, p: Parameter, x: Any, types: dict[str, np.dtype]) -> np.ndarray:
        """The argument as a NumPy array; a number is one () of the type of the parameter."""
        raw = self.xp.operand(x)
        if not isinstance(raw, np.ndarray):
            if p.raw or not p.is_input:
                raise unsupported(x)
            if p.dtype(types).kind in "iu" and raw != int(raw):
                raise TypeError(f"{self.name}: {p.name} is {p.dtype(types)}, got {raw!r}")
            return np.full((), raw, p.dtype(types))
        if p.raw and not raw.flags.c_contiguous:
            raise ValueError(f"{self.name}: {p.name} is raw, so it must be C-contiguous")
        return raw

    def check_overlap(self, args: tuple[Any, ...]) -> None:
        """CuPy copies an input that overlaps with an output. That is not what minizone wants anywhere."""
        for p, x in zip(self.params, args, strict=True):
            for q, y in zip(self.params, args, strict=True):
                both_arrays = isinstance(x, ndarray) and isinstance(y, ndarray) and x is not y
                if both_arrays and p.is_input and not q.is_input and np.may_share_memory(x.raw, y.raw):
                    raise RuntimeError(f"{self.name}: {p.name} shares memory with {q.name}, but is another array")

    def source(self, types: dict[str, np.dtype]) -> str:
        typedefs = "".join(f"typedef {C_TYPES[dtype.name]} {letter};\n" for letter, dtype in sorted(types.items()))
        lines = []
        for k, p in enumerate(self.params):
            c_type = p.c_type(types)
            if p.raw:
                lines.append(f"const _Raw<{c_type}> {p.name}{{_arrays[{k}], {k}}};")
            else:
                lines.append(f"{c_type}& {p.name} = _element<{c_type}>(_arrays[{k}], i);")
        has_warps = "__shfl" in self.preamble
        program = PROGRAM.replace("@PARAMETERS@", "\n    ".join(lines)).replace("@BODY@", self.operation)
        program = program.replace("@LOOP@", WARP_BY_WARP if has_warps else ONE_BY_ONE)
        return CUDA + (WARPS if has_warps else "") + typedefs + self.preamble + program

    def launcher(self, function: Callable[..., Any], n: int, raw: list[np.ndarray]) -> Callable[[], None]:
        """A function that runs the kernel for n elements."""
        words = np.zeros((len(raw), 3 + 2 * MOST_AXES), np.int64)  # an _Array each
        for row, x in zip(words, raw, strict=True):
            row[: 3 + x.ndim] = x.ctypes.data, x.size, x.ndim, *x.shape
            row[3 + MOST_AXES : 3 + MOST_AXES + x.ndim] = x.strides

        def run(memory: list[np.ndarray] = raw) -> None:
            error = function(n, words.ctypes.data)
            if error[0]:
                facts = error[1], self.params[error[2]].name, error[3]
                raise RuntimeError(f"{self.name}: {ERRORS[error[0]].format(*facts)}")

        return run


class ReductionKernel:
    """`cupy.ReductionKernel` for sums, in two elementwise kernels: before and after the sum."""

    def __init__(
        self, xp: Cupy, in_params: str, out_params: str, map_expr: str, reduce_expr: str, post_map_expr: str,
        identity: str, name: str,
    ):  # fmt: skip
        if (reduce_expr, identity) != ("a + b", "0"):
            raise NotImplementedError("the stand-in has no reductions but sums")
        self.xp = xp
        letter = out_params.split()[0]
        self.each = ElementwiseKernel(xp, in_params, f"{letter} mapped", f"mapped = {map_expr}", name)
        self.last = ElementwiseKernel(xp, f"{letter} a", out_params, post_map_expr, name)

    def __call__(self, *args: Any, axis: int, keepdims: bool = False) -> ndarray:
        xp = self.xp
        arrays = xp.arrays_in(args)
        mapped = xp.empty(np.broadcast_shapes(*(x.shape for x in arrays)), arrays[0].dtype)
        self.each(*args, mapped)
        total = mapped.sum(axis=axis, keepdims=keepdims)
        y = xp.empty(total.shape, total.dtype)
        self.last(total, y)
        return y
