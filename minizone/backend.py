"""Arrays on two devices, and random streams. The only file that imports CuPy.

Everywhere else the array library follows from the data: ``xp = array_module(x)``.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from minizone.errors import UserError

try:
    import cupy
except ImportError:
    cupy = None

Array = Any  # a numpy.ndarray or a cupy.ndarray
Generator = Any  # a numpy.random.Generator or a cupy.random.Generator


@cache
def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def array_module(*arrays: Array) -> ModuleType:
    """The library that the arrays belong to: ``numpy``, or ``cupy`` if any of them is a CuPy array."""
    return np if cupy is None else cupy.get_array_module(*arrays)


@dataclass(frozen=True)
class Device:
    """Where a run computes: ``"cpu"`` (NumPy) or ``"gpu"`` (CuPy). Raises `UserError` if there is no such device."""

    name: str = "cpu"

    def __post_init__(self) -> None:
        if self.name not in ("cpu", "gpu"):
            raise UserError(f"device must be cpu or gpu, got {self.name!r}")
        if self.name == "gpu":
            if cupy is None:
                raise UserError("device gpu needs CuPy: pip install -r requirements-gpu.txt, or use --device cpu")
            try:
                found = cupy.cuda.runtime.getDeviceCount()
            except cupy.cuda.runtime.CUDARuntimeError as error:
                raise UserError(f"device gpu: CuPy finds no usable CUDA device ({error}); use --device cpu") from None
            if found == 0:
                raise UserError("device gpu: there is no CUDA device in this machine; use --device cpu")

    @property
    def xp(self) -> ModuleType:
        """The array library of this device."""
        return np if self.name == "cpu" else cupy

    @property
    def description(self) -> str:
        """The hardware, for the logs: ``"AMD EPYC, 2 cores"``, or the GPU's name and memory."""
        if self.name == "gpu":
            properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
            return f"{properties['name'].decode()}, {properties['totalGlobalMem'] / 2**30:.0f} GiB"
        try:
            lines = Path("/proc/cpuinfo").read_text().splitlines()
            model = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
        except (OSError, StopIteration):
            model = platform.processor() or platform.machine()
        return f"{model}, {cores()} core{'s' if cores() > 1 else ''}"

    @property
    def versions(self) -> dict[str, str]:
        """Versions of the libraries that only this device uses."""
        if self.name == "cpu":
            return {}
        major, minor = divmod(cupy.cuda.runtime.runtimeGetVersion() // 10, 100)
        return {"cupy": cupy.__version__, "cuda": f"{major}.{minor}"}

    @property
    def free_memory(self) -> int | None:
        """The free memory of a GPU in bytes; None for a CPU."""
        return None if self.name == "cpu" else cupy.cuda.Device().mem_info[0]

    @property
    def updates_per_look(self) -> int:
        """The number of updates between two reads of losses and norms: on a GPU, the host must wait for each read."""
        return 1 if self.name == "cpu" else 25

    def to_device(self, array: Array) -> Array:
        """The array on this device; not copied if it is already there."""
        return to_host(array) if self.name == "cpu" else cupy.asarray(array)


def to_device(array: Array, device: Device) -> Array:
    """The array on ``device``; not copied if it is already there."""
    return device.to_device(array)


def to_host(array: Array) -> np.ndarray:
    """The array as a NumPy array; not copied if it is one already."""
    return np.asarray(array) if array_module(array) is np else cupy.asnumpy(array)


def to_numbers(values: Sequence[Any]) -> list[float]:
    """Convert numbers and arrays of one element to Python floats; all arrays on a GPU in one transfer."""
    on_gpu = {k: v for k, v in enumerate(values) if hasattr(v, "dtype") and array_module(v) is not np}
    if on_gpu:
        xp = array_module(*on_gpu.values())
        copied = to_host(xp.stack([v.reshape(()).astype(np.float64) for v in on_gpu.values()]))
        on_gpu = dict(zip(on_gpu, copied, strict=True))
    return [float(on_gpu.get(k, v)) for k, v in enumerate(values)]


def synchronize(device: Device) -> None:
    """Wait until the device has finished all its work; does nothing on a CPU."""
    if device.name == "gpu":
        cupy.cuda.get_current_stream().synchronize()


def load_cublas() -> Any:
    """The cuBLAS library that CuPy has loaded, through the extension module that is linked with it."""
    from cupy_backends.cuda.libs import cublas  # type: ignore[import-not-found,unused-ignore]

    return ctypes.CDLL(cublas.__file__)


def keep_freed_memory() -> None:
    """Ask the C library to keep the memory of large freed arrays for the next update, instead of returning its pages.

    glibc returns arrays over 32 MB at once, so every page is zeroed again in the next update. Keeping them saves 6,600
    page faults and a tenth of the time of the 1,000-unit model (587 ms an update instead of 647 ms). Without glibc
    this does nothing.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(-3, 2**30)  # M_MMAP_THRESHOLD: smallest size of an array with pages of its own
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: free memory kept at the top of the heap


def stream(seed: int, purpose: str, *key: int, device: Device | None = None) -> Generator:
    """A random generator that depends only on its arguments.

    ``stream(seed, "masks", epoch, update)`` always gives the same numbers. A resumed run therefore draws the same
    numbers as an uninterrupted one, and no state of a generator is saved. Two streams that differ in the seed, the
    purpose or any part of the key are independent.
    """
    digest = hashlib.sha256(repr((int(seed), purpose, *map(int, key))).encode()).digest()
    sequence = np.random.SeedSequence(int.from_bytes(digest[:16], "little"))
    if device is None or device.name == "cpu":
        return np.random.Generator(np.random.SFC64(sequence))
    return cupy.random.Generator(cupy.random.Philox4x3210(int(sequence.generate_state(1, np.uint64)[0])))


def bernoulli(rng: Generator, p: float, shape: tuple[int, ...], dtype: Any = np.float32) -> Array:
    """An array of ``dtype``: 1 with probability ``p``, else 0.

    On the CPU, 16 random bits decide each element (0.6 ns, against 2 ns for a uniform float). Alone, they could only
    express multiples of 1/65536. A further draw decides the one element in 65536 that falls on the boundary, which
    makes ``p`` exact.
    """
    if not isinstance(rng, np.random.Generator):
        return (rng.random(shape, dtype=np.float32) < p).astype(dtype)
    if p >= 1:
        return np.ones(shape, dtype)
    n = int(np.prod(shape))
    words = rng.integers(0, 2**64 - 1, size=-(-n // 4), dtype=np.uint64, endpoint=True)
    bits = words.view(np.uint16)[:n]  # (n,)
    whole = int(p * 65536)  # bits below it: 1, above it: 0, equal to it: the remainder of p decides
    ones = np.empty(n, dtype)
    np.less(bits, whole, out=ones, casting="unsafe")
    boundary = np.flatnonzero(bits == whole)
    ones[boundary] = rng.random(boundary.size) < p * 65536 - whole
    return ones.reshape(shape)


def normal(rng: Generator, shape: tuple[int, ...], dtype: Any = np.float32) -> Array:
    """Standard normal numbers of ``dtype``, drawn in float32 if that is the dtype, otherwise in float64."""
    drawn = np.float32 if np.dtype(dtype) == np.float32 else np.float64
    return rng.standard_normal(shape, dtype=drawn).astype(dtype, copy=False)
