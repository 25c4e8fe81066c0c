"""minizone's candidates, and the floor of the matrix products.

They only use names of `minizone`, `minizone.backend` and `minizone.experiments`, so that they also run on other
checkouts (``--against``).
"""

from __future__ import annotations

import importlib
import itertools
import warnings
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import problems
from harness import Built
from problems import GATES, Z_C, Z_H, Shape, UpdateShape

import minizone
from minizone import backend


def prepare(device: str, graphs: bool = True) -> minizone.Device:
    """The device, with the settings that a training run has."""
    if device == "gpu":
        from minizone.kernels.gpu import cuda

        cuda.graphs_allowed = graphs
        warnings.filterwarnings("error", message="loops are launched step by step")  # graphs are to be measured
    elif hasattr(backend, "keep_freed_memory"):
        backend.keep_freed_memory()
    return minizone.Device(device)


def built(repeat: Callable[[], object], device: minizone.Device, holds: object = None) -> Built:
    if device.name == "cpu":
        return Built(repeat, holds=holds)
    pool = backend.cupy.get_default_memory_pool()  # it frees nothing while there is room: its size is its peak
    return Built(repeat, lambda: backend.synchronize(device), lambda: pool.total_bytes() / 2**20, holds)


def layer(cell: str, shape: Shape, device: str = "cpu", graphs: bool = True) -> Built:
    """Draw the masks, go forward over a sequence, and back to the gradients of the weights.

    ``graphs``: whether the loops over time are recorded as CUDA graphs on a GPU.
    """
    on, (T, B, _, H) = prepare(device, graphs), shape
    a = {name: on.to_device(array) for name, array in problems.arrays(cell, shape).items()}
    weights = [minizone.Tensor(a[name]) for name in ("W_x", "W_h", "b")]
    if cell == "bn_lstm":
        gains = [on.xp.full(size, 0.1, "float32") for size in (4 * H, 4 * H, H, H)]
        weights += [minizone.Tensor(gain) for gain in gains]
    has_cells = problems.has_cells(cell)
    states = [on.xp.zeros((H, B), "float32")] * (2 if has_cells else 1)
    zoneout = minizone.Zoneout(Z_C if has_cells else 0.0, Z_H)
    function, count = getattr(minizone, cell), itertools.count()

    def repeat() -> None:
        rng = backend.stream(0, "benchmark", next(count), device=on)
        keep_h, keep_c = zoneout.masks(T, H, B, rng)
        if has_cells:
            h, _ = function(a["x"], *states, *weights, keep_h=keep_h, keep_c=keep_c)
        else:
            h = function(a["x"], *states, *weights, keep_h=keep_h)
        h.backward(a["dh"])
        for weight in weights:
            weight.grad = None

    return built(repeat, on)


def floor(cell: str, shape: Shape, device: str = "cpu") -> Built:
    """Only the matrix products of the layer; on a GPU one after the other in one CUDA graph."""
    on, (T, B, D, H), G = prepare(device), shape, GATES[cell]
    rng, xp = backend.stream(0, "floor", device=on), on.xp

    def normal(*size: int) -> Any:
        return backend.normal(rng, size)  # not zeros, on which a GPU may be faster

    W_x, W_h, W_h_T = normal(G * H, D), normal(G * H, H), normal(H, G * H)
    x, h, da = normal(D, T * B), normal(T, H, B), normal(T, G * H, B)
    da_columns, h_rows, x_rows = normal(G * H, T * B), normal(T * B, H), normal(T * B, D)
    projected, a, dh = xp.empty((G * H, T * B), "f4"), xp.empty((G * H, B), "f4"), xp.empty((H, B), "f4")
    dW_h, dW_x = xp.empty((G * H, H), "f4"), xp.empty((G * H, D), "f4")
    if device == "gpu":
        from minizone.kernels.gpu import cuda

        multiply: Callable[..., object] = cuda.gemm
    else:
        multiply = xp.matmul

    def products() -> None:
        multiply(W_x, x, projected)
        for t in range(T):
            multiply(W_h, h[t], a)
        for t in range(T):
            multiply(W_h_T, da[t], dh)
        multiply(da_columns, h_rows, dW_h)
        multiply(da_columns, x_rows, dW_x)

    if device == "cpu":
        return built(products, on)
    products()  # loads cuBLAS, which cannot be recorded
    graph = cuda.record(products)
    if graph is None:
        raise RuntimeError("no CUDA graph could be recorded")
    return built(graph.launch, on, holds=products)


def update(task: str, shape: UpdateShape, device: str = "cpu", graphs: bool = True) -> Built:
    """A training update of an experiment's model with the paper's preset: loss, gradients, clipping, step."""
    T, B, V, H, layers, z_c, z_h = shape
    on = prepare(device, graphs)
    experiment = importlib.import_module("minizone.experiments." + task.replace("-", "_"))
    settings = replace(
        experiment.PRESETS["paper"],
        batch_size=B,
        hidden_size=H,
        num_layers=layers,
        z_prob_cells=z_c,
        z_prob_states=z_h,
    )
    rng = backend.stream(0, "weights")
    if task == "char-ptb":
        model = experiment.CharModel(V, settings, rng)
    elif task == "word-ptb":
        model = experiment.WordModel(V, settings, rng)
    else:
        model = experiment.PMNISTModel(settings, T, rng)
    for parameter in model.parameters():
        parameter.data = on.to_device(parameter.data)
    optimizer = optimizer_of(settings, model)
    cross_entropy = first_module("minizone.autograd.ops", "minizone.ops").softmax_cross_entropy
    x, targets = problems.batch(task, shape)
    count = itertools.count()

    def repeat() -> None:
        masks = backend.stream(0, "benchmark", next(count), device=on)
        scores, _ = model(on.to_device(x), rng=masks)
        cross_entropy(scores, on.to_device(targets)).backward()
        optimizer.step()

    return built(repeat, on, holds=model)


def optimizer_of(settings: Any, model: Any) -> Any:
    """The optimizer of the preset."""
    clipping = {"clip": settings.clipping, "clip_what": settings.clip_what}
    if settings.algorithm == "rms_prop":
        return minizone.RMSProp(model.parameters(), settings.learning_rate, decay=settings.rms_decay, **clipping)
    kind = minizone.Adam if settings.algorithm == "adam" else minizone.SGD
    return kind(model.parameters(), settings.learning_rate, **clipping)


def first_module(*names: str) -> ModuleType:
    """The first of these modules that the checkout has. Older checkouts use other names."""
    for name in names:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            pass
    raise ImportError(f"this checkout has none of {', '.join(names)}")
