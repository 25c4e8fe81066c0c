"""One whole training update, data to optimizer, of the paper's models: minizone and the same model in PyTorch.

    python benchmarks/update.py [--tasks char-ptb pmnist word-ptb] [--rounds 9] [--json FILE]
    python benchmarks/update.py --scaling FIGURE.png      how the time of the recurrent layer grows with T, B and H
    python benchmarks/update.py --growth 1000 --tasks char-ptb    memory while that many updates are made

Random data of the shapes of the paper; masks drawn, gradients clipped, parameters updated. PyTorch is optional:
pip install -r benchmarks/requirements.txt
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

sys.path[:0] = [str(Path(__file__).resolve().parent.parent), str(Path(__file__).resolve().parent)]
import peers  # noqa: E402
from side_by_side import Candidate, machine, ratio, time_together, write_json  # noqa: E402

TASKS = {  # T, B, symbols or words, H, layers, z_c, z_h
    "char-ptb": (99, 32, 50, 1000, 1, 0.5, 0.05),
    "pmnist": (784, 100, 10, 100, 1, 0.15, 0.15),
    "word-ptb": (35, 20, 10_000, 1500, 2, 0.25, 0.025),
}


@dataclass(frozen=True)
class Settings:
    """Time whole training updates."""

    tasks: tuple[str, ...] = tuple(TASKS)
    """Which models."""
    rounds: int = 9
    """Repetitions of each candidate."""
    json: str | None = None
    """Write all numbers to this file."""
    growth: int = 0
    """Instead of times: the memory in use while this many updates are made."""
    scaling: str | None = None
    """Instead of updates: draw the time of lstm against T, B and H into this figure."""


def batch(task: str) -> tuple[Any, Any]:
    """Random inputs, tokens (T, B) or pixels (T, 1, B), and targets."""
    import numpy as np

    (T, B, V, *_), rng = TASKS[task], np.random.default_rng(0)
    if task == "pmnist":
        return rng.random((T, 1, B), np.float32), rng.integers(0, V, B)
    return rng.integers(0, V, (T, B)), rng.integers(0, V, (T, B))


def minizone_update(task: str, recurrent_only: bool = False) -> Callable[[], Any]:
    """An update as `minizone.runs.training` makes it; ``recurrent_only``: of the recurrent layers alone."""
    from dataclasses import replace

    from minizone import Tensor, array_module  # before NumPy, to which it says how long its threads shall wait
    from minizone.autograd.ops import softmax_cross_entropy
    from minizone.backend import keep_freed_memory, stream
    from minizone.experiments import char_ptb, pmnist, word_ptb
    from minizone.optim import make

    keep_freed_memory()
    T, B, V, H, _, z_c, z_h = TASKS[task]
    module = {"char-ptb": char_ptb, "pmnist": pmnist, "word-ptb": word_ptb}[task]
    settings: Any = replace(module.PRESETS["paper"], z_prob_cells=z_c, z_prob_states=z_h)
    rng = stream(0, "weights")
    if task == "pmnist":
        model: Any = pmnist.PMNISTModel(settings, T, rng)
    else:
        model = (char_ptb.CharModel if task == "char-ptb" else word_ptb.WordModel)(V, settings, rng)
    optimizer = make(
        settings.algorithm, model.parameters(), settings.learning_rate, clip=settings.clipping,
        clip_what=settings.clip_what, decay=settings.rms_decay,
    )  # fmt: skip
    (x, targets), count = batch(task), iter(range(10**9))
    weight = array_module(x).random.default_rng(1).standard_normal((T, H, B)).astype("float32")

    def repetition() -> None:
        masks = stream(0, "benchmark", next(count))
        if recurrent_only:
            inputs = Tensor(weight) if task == "word-ptb" else x
            model.rnn(inputs, rng=masks)[0].backward(weight)
            for parameter in model.rnn.parameters():
                parameter.grad = None
            return
        scores, _ = model(x, rng=masks)
        softmax_cross_entropy(scores, targets).backward()
        optimizer.step()

    owned = sum(p.data.nbytes for p in optimizer.parameters)
    owned += sum(average.nbytes for averages in optimizer.averages for average in averages)
    repetition.megabytes = owned / 2**20  # type: ignore[attr-defined]  # of parameters and optimizer
    return repetition


def torch_update(task: str) -> Callable[[], Any]:
    """The same model and update in PyTorch: rows as examples, the loop of `peers`, its own optimizers."""
    import torch
    from torch.nn import functional as F

    T, B, V, H, layers, z_c, z_h = TASKS[task]
    (x, targets), generator = batch(task), torch.manual_seed(0)
    D = {"char-ptb": V, "pmnist": 1, "word-ptb": H}[task]
    tokens = None if task == "pmnist" else torch.tensor(x)
    pixels = torch.tensor(x.transpose(0, 2, 1).copy()) if task == "pmnist" else None
    target = torch.tensor(targets)

    def parameter(*shape: int) -> Any:
        return torch.nn.Parameter(0.04 * torch.randn(*shape, generator=generator))

    embedding = parameter(V, H) if task == "word-ptb" else None
    weights = [(parameter(4 * H, H if k else D), parameter(4 * H, H), parameter(4 * H)) for k in range(layers)]
    states = [(parameter(H), parameter(H)) for _ in range(layers)]
    W_out, b_out = parameter(V, H), parameter(V)
    everything = [p for group in (*weights, *states) for p in group] + [W_out, b_out]
    everything += [] if embedding is None else [embedding]
    optimizers: dict[str, Callable[[], torch.optim.Optimizer]] = {
        "char-ptb": lambda: torch.optim.Adam(everything, lr=2e-3, foreach=True),
        "pmnist": lambda: torch.optim.RMSprop(everything, lr=1e-3, alpha=0.5, foreach=True),
        "word-ptb": lambda: torch.optim.SGD(everything, lr=1.0, foreach=True),
    }
    optimizer = optimizers[task]()

    def layer(projected: Any, k: int) -> Any:
        _, W_h, b = weights[k]
        keep_h, keep_c = (torch.empty(T, B, H).bernoulli_(z).unbind(0) for z in (z_h, z_c))
        h, c = (s.expand(B, H) for s in states[k])
        outputs = []
        for x_t, kept_h, kept_c in zip((projected + b).unbind(0), keep_h, keep_c, strict=True):
            i, f, g, o = (x_t + h @ W_h.t()).chunk(4, 1)
            new_c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.lerp(torch.sigmoid(o) * torch.tanh(new_c), h, kept_h)
            c = torch.lerp(new_c, c, kept_c)
            outputs.append(h)
        return torch.stack(outputs)

    def repetition() -> None:
        if task == "char-ptb":
            h = layer(F.embedding(tokens, weights[0][0].t()), 0)
        elif task == "pmnist":
            h = layer(F.linear(pixels, weights[0][0]), 0)[-1]
        else:
            h = F.dropout(F.embedding(tokens, embedding), 0.65)
            for k in range(layers):
                h = F.dropout(layer(F.linear(h, weights[k][0]), k), 0.65)
        scores = F.linear(h, W_out, b_out)
        F.cross_entropy(scores.reshape(-1, V), target.reshape(-1)).backward()
        torch.nn.utils.clip_grad_norm_(everything, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return repetition


def measure(task: str, rounds: int) -> dict[str, Any]:
    """Time one task and print its lines."""
    made = [
        Candidate("minizone", minizone_update, task),
        Candidate("minizone, recurrent layers", minizone_update, task, True),
        Candidate("torch", torch_update, task),
    ]
    running = [candidate for candidate in made if not candidate.error]
    for candidate in made:
        if candidate.error:
            print(f"  {candidate.name}: left out ({candidate.error})")
    try:
        time_together(running, rounds)
        found: dict[str, Any] = {"task": task, "shape": TASKS[task], "candidates": {}}
        for candidate in running:
            times = ratio(candidate, running[0])
            found["candidates"][candidate.name] = {
                "median_ms": 1000 * candidate.median, "of_ours": times, "peak_mb": candidate.megabytes,
                "seconds": candidate.seconds,
            }  # fmt: skip
            print(
                f"  {candidate.name:26s} {1000 * candidate.median:9.1f} ms   {times:5.2f} x minizone"
                f"   peak {candidate.megabytes:6.0f} MB", flush=True,
            )  # fmt: skip
        return found
    finally:
        for candidate in made:
            candidate.stop()


def growth(task: str, updates: int) -> dict[str, Any]:
    """Megabytes in use before the model is made, after 10, 100, ... updates and at the peak; printed."""
    import resource

    import minizone  # noqa: F401

    def in_use() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20

    before, update = in_use(), minizone_update(task)
    found: dict[str, Any] = {"task": task, "before": before, "parameters_and_optimizer": update.megabytes, "after": {}}  # type: ignore[attr-defined]
    print(f"  before {before:.0f} MB, parameters and optimizer {found['parameters_and_optimizer']:.0f} MB")
    for k in range(1, updates + 1):
        update()
        if k in (10, 100, 1000, updates):
            found["after"][k] = in_use()
            print(f"  after {k:5d} updates {found['after'][k]:6.0f} MB", flush=True)
    found["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"  peak {found['peak']:.0f} MB")
    return found


def scaling(figure: str, rounds: int) -> dict[str, list[tuple[int, float]]]:
    """Median seconds of lstm, forward and backward, along T, B and H from (100, 32, 50, 256); drawn log-log."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    ranges = {"T": (25, 50, 100, 200, 400, 800), "B": (8, 16, 32, 64, 128, 256), "H": (32, 64, 128, 256, 512, 1024)}
    found: dict[str, list[tuple[int, float]]] = {}
    _, axes = plt.subplots(figsize=(6, 4.2), layout="constrained")
    for axis, values in ranges.items():
        found[axis] = []
        for value in values:
            shape = {"T": 100, "B": 32, "D": 50, "H": 256} | {axis: value}
            candidate = Candidate("minizone", peers.minizone_layer, "lstm", *shape.values())
            time_together([candidate], rounds)
            found[axis].append((value, statistics.median(candidate.seconds)))
            candidate.stop()
            print(f"  {axis} = {value:5d}: {1000 * found[axis][-1][1]:9.2f} ms", flush=True)
        axes.loglog(*zip(*found[axis], strict=True), "o-", label=f"{axis}, the others of T 100, B 32, H 256")
    axes.set(title="minizone.lstm with zoneout", xlabel="T, B or H", ylabel="seconds, forward and backward")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    plt.savefig(figure, dpi=120)
    return found


def main() -> None:
    settings = tyro.cli(Settings, description=__doc__)
    found: dict[str, Any] = {"machine": machine()}
    print("\n".join(f"{name}: {value}" for name, value in found["machine"].items()))
    if settings.scaling:
        found["scaling"] = scaling(settings.scaling, settings.rounds)
    elif settings.growth:
        found["growth"] = [growth(task, settings.growth) for task in settings.tasks]
    else:
        found["results"] = []
        for task in settings.tasks:
            print(task, flush=True)
            found["results"].append(measure(task, settings.rounds))
    if settings.json:
        write_json(settings.json, found)


if __name__ == "__main__":
    main()
