"""The arithmetic around the matrix products, for either device: in place in NumPy, fused in CUDA.

Both have the same functions with the same arguments. `kernels_for` tells which ones an array wants.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from minizone.backend import Array, array_module
from minizone.kernels.cpu import bn_lstm as cpu_bn
from minizone.kernels.cpu import cells as cpu
from minizone.kernels.cpu import optim as cpu_optim
from minizone.kernels.cpu import tokens as cpu_tokens
from minizone.kernels.gpu import bn_lstm as gpu_bn
from minizone.kernels.gpu import cells as gpu
from minizone.kernels.gpu import optim as gpu_optim
from minizone.kernels.gpu import tokens as gpu_tokens


class Kernels(NamedTuple):
    """Modules: the cells' pointwise parts; batch normalization; inputs, tokens and scores; the optimizers."""

    cells: Any
    batch_norm: Any
    tokens: Any
    optim: Any


CPU = Kernels(cpu, cpu_bn, cpu_tokens, cpu_optim)
GPU = Kernels(gpu, gpu_bn, gpu_tokens, gpu_optim)


def kernels_for(array: Array) -> Kernels:
    """Those of the device that the array is on. Those for the CPU also take CuPy arrays of other kinds of numbers."""
    return GPU if array_module(array) is not np and array.dtype.char in "fd" else CPU
