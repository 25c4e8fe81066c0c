"""What benchmarks/gpu.py times of minizone, and the floor under it, for the worker of CuPy."""

from __future__ import annotations

import gc
import itertools
import math
import statistics
import subprocess
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import peers
from gpu_workers import Built
from peers import GATES, Z_C, Z_H

GROUPS = {
    "lstm": (4,),
    "bn_lstm": (4,),
    "gru": (2, 1),
    "rnn": (1,),
}  # gates whose rows of W_h multiply the same columns
SIZES = {"char-ptb": 5_059_550, "pmnist": 50_000, "word-ptb": 929_589}  # of the paper's training data


class Gpu:
    """The GPU as CuPy, and so minizone, sees it."""

    def __init__(self) -> None:
        from minizone import Device, backend

        Device("gpu")
        self.cupy: Any = backend.cupy
        self.free = self.cupy.cuda.Device().mem_info[0]
        self.event = self.cupy.cuda.Event

    def elapsed(self, start: Any, stop: Any) -> float:
        return self.cupy.cuda.get_elapsed_time(start, stop)

    def describe(self) -> dict[str, Any]:
        from minizone import Device

        properties = self.cupy.cuda.runtime.getDeviceProperties(0)
        memory = round(properties["totalGlobalMem"] / 2**30, 1)
        return {
            "device": properties["name"].decode(),
            "memory_gib": memory,
            "driver": driver(),
            **Device("gpu").versions,
        }

    def clear(self) -> None:
        from minizone.kernels.gpu import cuda

        cuda._free.clear()  # the workspaces of loops that have been recorded
        gc.collect()
        self.cupy.get_default_memory_pool().free_all_blocks()

    def memory(self) -> dict[str, float]:
        """MiB: what the pool holds, which gives nothing back while there is room, and all that the GPU lacks."""
        held = self.cupy.get_default_memory_pool().total_bytes()
        return {"held_mib": held / 2**20, "taken_mib": (self.free - self.cupy.cuda.Device().mem_info[0]) / 2**20}

    def bandwidth(self, size: int = 2**30) -> float:
        """GB/s of a copy from the device to itself, bytes read plus bytes written: the median of nine."""
        a, b = (self.cupy.full(size // 4, k + 0.5, "float32") for k in range(2))
        found = []
        for k in range(11):
            start, stop = self.event(), self.event()
            start.record()
            b[...] = a
            stop.record()
            stop.synchronize()
            found += [2 * size / 1e6 / self.elapsed(start, stop)] if k > 1 else []
        return statistics.median(found)


def fixed_masks(cell: str, T: int, B: int, H: int) -> dict[str, Any]:
    """Masks (T, H, B) that all candidates can use to be compared."""
    import numpy as np

    rng, z = np.random.default_rng(1), {"keep_h": Z_H} | ({"keep_c": Z_C} if "lstm" in cell else {})
    return {name: (rng.random((T, H, B), np.float32) < p).astype(np.float32) for name, p in z.items()}


def layer(cell: str, graphs: bool, shape: tuple[int, ...], device: str = "gpu", dtype: str = "float32") -> Built:
    """`peers.minizone_layer` on a device: masks, forward, backward; with or without CUDA graphs."""
    import minizone
    from minizone.backend import stream, to_host
    from minizone.kernels.gpu import cuda

    (T, B, _, H), place = shape, minizone.Device(device)
    a = {name: place.to_device(array.astype(dtype)) for name, array in peers.arrays(cell, *shape).items()}
    xp, dh = place.xp, a["dh"]
    weights = [minizone.Tensor(a[name]) for name in ("W_x", "W_h", "b")]
    if cell == "bn_lstm":
        weights += [minizone.Tensor(xp.full(n * H, 0.1, dtype)) for n in (4, 4, 1, 1)]
    states = [xp.zeros((H, B), dtype)] * (2 if "lstm" in cell else 1)
    zoneout = minizone.Zoneout(Z_C if "lstm" in cell else 0.0, Z_H)
    function, count = getattr(minizone, cell), itertools.count()

    def run(masks: dict[str, Any]) -> Any:
        for weight in weights:
            weight.grad = None
        h = function(a["x"], *states, *weights, **masks)
        h = h[0] if isinstance(h, tuple) else h
        h.backward(dh)
        return h

    def repeat() -> None:
        keep_h, keep_c = zoneout.masks(T, H, B, stream(0, "benchmark", next(count), device=place), dtype=dtype)
        run({"keep_h": keep_h} | ({"keep_c": keep_c} if "lstm" in cell else {}))

    def check() -> dict[str, Any]:
        masks = fixed_masks(cell, T, B, H)
        h = run({name: place.to_device(mask.astype(dtype)) for name, mask in masks.items()})
        named = zip(("dW_x", "dW_h", "db", "d_gamma_x", "d_gamma_h", "d_gamma_c", "d_beta_c"), weights, strict=False)
        return {"h": to_host(h.data), **{name: to_host(weight.grad) for name, weight in named}}

    return Built(repeat, lambda: setattr(cuda, "graphs_allowed", graphs), check)


def floor(cell: str, shape: tuple[int, ...]) -> Built:
    """The matrix products of the layer and nothing else, one after the other in one CUDA graph."""
    from minizone import Device
    from minizone.backend import normal, stream
    from minizone.kernels.gpu import cuda
    from minizone.kernels.gpu.cuda import gemm

    (T, B, D, H), G, device = shape, GATES[cell], Device("gpu")
    rng, xp = stream(0, "floor", device=device), device.xp

    def full(*size: int) -> Any:
        return normal(rng, size)  # not of zeros, on which a GPU may be faster

    W_x, x, h, d_x = full(G * H, D), full(D, T * B), full(T, H, B), full(T * B, D)
    projected, back, dW_x = (xp.empty(s, "float32") for s in ((G * H, T * B), (H, B), (G * H, D)))
    d_a, d_h = full(G * H, T * B), full(T * B, H)
    groups = [
        (
            full(g * H, H),
            full(H, g * H),
            full(T, g * H, B),
            xp.empty((g * H, B), "float32"),
            xp.empty((g * H, H), "float32"),
        )
        for g in GROUPS[cell]
    ]

    def products() -> None:
        gemm(W_x, x, projected)
        for t in range(T):
            for W, _, _, out, _ in groups:
                gemm(W, h[t], out)
        for t in range(T):
            for _, W_T, da, _, _ in groups:
                gemm(W_T, da[t], back)
        start = 0
        for W, _, _, _, dW in groups:
            gemm(d_a[start : start + len(W)], d_h, dW)
            start += len(W)
        gemm(d_a, d_x, dW_x)

    products()
    cuda.graphs_allowed = True
    graph = cuda.record(products)
    if graph is None:
        raise RuntimeError("no CUDA graph could be recorded")
    return Built(graph.launch, holds=products)


def driver() -> str:
    command = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return "unknown"


def least_bytes(cell: str, T: int, B: int, D: int, H: int) -> int:
    """Bytes that forward and backward must move, if all that a single time step needs stays in the cache, in float32.

    x and dLoss/dh are read; h, the gates and c are written on the way forward and read on the way back; weights are
    read and their gradients written. Masks can be drawn again, so they need not be moved.
    """
    G, units = GATES[cell], T * B * H
    kept = 1 + G + ("lstm" in cell)
    return 4 * (T * B * D + units + 2 * kept * units + 2 * G * H * (H + D + 1))


def update(task: str, shape: tuple[Any, ...], size: int, device: str = "gpu") -> Built:
    """A training update of an experiment of minizone with the paper's preset, on ``size`` random symbols or images.

    ``shape``: as in `update.TASKS`. As `minizone.runs.training` does, it takes a minibatch out of the data,
    brings it to
    the device, and looks at the losses now and then.
    """
    from minizone.backend import stream, to_numbers
    from minizone.kernels.gpu import cuda
    from minizone.optim import make

    experiment = random_experiment(task, shape, size, device)
    settings, batches = experiment.settings, experiment.batches(1)
    optimizer = make(
        settings.algorithm, experiment.model.parameters(), settings.learning_rate, clip=settings.clipping,
        clip_what=settings.clip_what, momentum=settings.momentum, decay=settings.rms_decay,
    )  # fmt: skip
    count, unseen = itertools.count(), list[Any]()

    def repeat() -> None:
        epoch, k = divmod(next(count), max(1, len(batches) - 1))  # the last minibatch may be smaller
        measured = experiment.loss(batches[k], stream(1, "noise", epoch, k, device=experiment.device))
        measured.loss.backward()
        unseen.extend((measured.loss.data, measured.measure, optimizer.step()))
        if len(unseen) >= 3 * experiment.device.updates_per_look:
            values = to_numbers(unseen)
            unseen.clear()
            if not all(map(math.isfinite, values)):
                raise RuntimeError("the loss or the gradient is not finite")

    facts = {"updates_per_epoch": len(batches)}
    return Built(repeat, lambda: setattr(cuda, "graphs_allowed", True), facts=facts, holds=experiment)


def random_experiment(task: str, shape: tuple[Any, ...], size: int, device: str) -> Any:
    """The experiment of a task with the paper's preset, but for ``shape``, on random data."""
    from minizone.experiments import char_ptb, pmnist, word_ptb

    T, B, _, H, layers, z_c, z_h = shape
    module, name, loader = {
        "char-ptb": (char_ptb, "CharPTB", "load_characters"),
        "pmnist": (pmnist, "PMNIST", "load_images"),
        "word-ptb": (word_ptb, "WordPTB", "load_words"),
    }[task]
    length = {"char-ptb": {"seq_len": T + 1}, "word-ptb": {"seq_len": T}}.get(task, {})  # a chunk has one symbol more
    settings: Any = replace(
        module.PRESETS["paper"], device=device, batch_size=B, hidden_size=H, num_layers=layers, z_prob_cells=z_c,
        z_prob_states=z_h, **length,
    )  # fmt: skip
    say: Callable[[str], None] = lambda text: None  # noqa: E731
    with patch.object(module, loader, return_value=random_data(task, shape, size)):
        return getattr(module, name)(settings, say)


def random_data(task: str, shape: tuple[Any, ...], size: int) -> Any:
    """Text or images without any sense."""
    import numpy as np

    from minizone.data import ImageDataset, Images, TextDataset

    (T, B, V, *_), rng = shape, np.random.default_rng(0)
    if task == "pmnist":
        pixels = rng.integers(0, 256, (size, math.isqrt(T), math.isqrt(T)), np.uint8)
        images = Images(pixels, rng.integers(0, V, size, np.uint8))
        return ImageDataset("random", images, images[:B], images[:B], 255, {})
    text = rng.integers(0, V, size, np.uint8 if task == "char-ptb" else np.int32)
    few = text[: 2 * T * B]
    if task == "char-ptb":
        return TextDataset("random", text, few, few, tuple(map(chr, range(32, 32 + V))), {})
    return TextDataset("random", text, few, few, tuple(map(str, range(V))), {}, unit="words")
