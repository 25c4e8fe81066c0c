"""The arithmetic around the matrix products, for both devices: in place in NumPy, fused in CUDA.

`minizone.kernels.cpu` and `minizone.kernels.gpu` have the same functions with the same arguments.
"""

from __future__ import annotations

from types import ModuleType

import numpy as np

from minizone.backend import Array, array_module
from minizone.kernels import cpu, gpu


def kernels_for(array: Array) -> ModuleType:
    """The package for the device of the array: `minizone.kernels.cpu` or `minizone.kernels.gpu`.

    The functions for the CPU also handle CuPy arrays of dtypes other than float32 and float64.
    """
    return gpu if array_module(array) is not np and array.dtype.char in "fd" else cpu
