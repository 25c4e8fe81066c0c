"""What benchmarks/gpu.py times of PyTorch, for its worker: loops with zoneout, cuDNN without, and whole updates.

Rows are examples. float32, without TF32 unless a candidate says so. A loop is at its best: inputs projected once for
all steps (or `torch.lstm_cell`, whose arithmetic is one kernel), masks drawn at once, sequences taken apart with
``unbind``. "graph": forward and backward captured as one CUDA graph; "compile": the loop through `torch.compile`.
"""

from __future__ import annotations

import gc
import itertools
import math
from collections.abc import Callable
from typing import Any

import peers
import torch
from gpu_ours import fixed_masks
from gpu_workers import Built
from peers import Z_C, Z_H
from torch.nn import functional as F

LOOK = 25  # updates after which the host looks at the losses, as minizone's training does
DROPOUT = 0.65  # of word-ptb
MODES = {"compile": "default", "compile with graphs": "reduce-overhead"}
State = tuple[torch.Tensor, ...]  # (h, c) or (h,), each (B, H)
Step = Callable[[torch.Tensor, State], State]


def precise(tf32_of_cudnn: bool = False) -> None:
    """float32 is float32, but for cuDNN's own default where it is asked for."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = tf32_of_cudnn


class Gpu:
    """The GPU as PyTorch sees it."""

    def __init__(self) -> None:
        if not torch.cuda.is_available():
            raise RuntimeError("PyTorch finds no CUDA device")
        torch.zeros((), device="cuda")
        self.free = torch.cuda.mem_get_info()[0]

    def event(self) -> Any:
        return torch.cuda.Event(enable_timing=True)

    def elapsed(self, start: Any, stop: Any) -> float:
        return start.elapsed_time(stop)

    def describe(self) -> dict[str, Any]:
        return {"torch": torch.__version__, "cudnn": torch.backends.cudnn.version()}

    def clear(self) -> None:
        gc.collect()
        torch.cuda.empty_cache()

    def memory(self) -> dict[str, float]:
        cuda = torch.cuda
        found = {"held_mib": cuda.max_memory_reserved(), "allocated_mib": cuda.max_memory_allocated()}
        return {k: v / 2**20 for k, v in (found | {"taken_mib": self.free - cuda.mem_get_info()[0]}).items()}


# ---- a loop over time


def lstm_step(W_h: Any) -> Step:
    W = W_h.t()

    def step(x_t: Any, states: State) -> State:
        h, c = states
        i, f, g, o = torch.addmm(x_t, h, W).chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c

    return step


def lstm_cell_step(W_x: Any, W_h: Any, b: Any) -> Step:
    """PyTorch's own cell, which projects the inputs step by step."""
    zeros = torch.zeros_like(b, requires_grad=False)
    return lambda x_t, states: torch.lstm_cell(x_t, states, W_x, W_h, b, zeros)


def gru_step(W_h: Any) -> Step:
    H = W_h.shape[1]
    W_rz, W_n = W_h[: 2 * H].t(), W_h[2 * H :].t()

    def step(x_t: Any, states: State) -> State:
        (h,) = states
        r, z = torch.sigmoid(torch.addmm(x_t[:, : 2 * H], h, W_rz)).chunk(2, 1)
        n = torch.tanh(torch.addmm(x_t[:, 2 * H :], r * h, W_n))
        return (torch.lerp(n, h, z),)

    return step


def rnn_step(W_h: Any) -> Step:
    W = W_h.t()
    return lambda x_t, states: (torch.tanh(torch.addmm(x_t, states[0], W)),)


def bn_lstm_step(W_h: Any, b: Any, gamma_x: Any, gamma_h: Any, gamma_c: Any, beta_c: Any) -> Step:
    W = W_h.t()

    def normalize(s: Any, gamma: Any, beta: Any = None) -> Any:
        return F.batch_norm(s, None, None, gamma, beta, True)

    def step(x_t: Any, states: State) -> State:
        h, c = states
        i, f, g, o = (normalize(x_t, gamma_x) + normalize(h @ W, gamma_h) + b).chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(normalize(c, gamma_c, beta_c)), c

    return step


def unroll(step: Step, variant: str, inputs: Any, states: State, keeps: tuple[Any, ...]) -> tuple[Any, State]:
    """All h (T, B, H) and the last states; ``variant`` ends in the name of the mix: "where" or "lerp"."""
    outputs = []
    for x_t, *kept in zip(inputs.unbind(0), *(keep.unbind(0) for keep in keeps), strict=True):
        triples = zip(states, step(x_t, states), kept, strict=True)
        if variant.endswith("where"):
            states = tuple(torch.where(k, old, new) for old, new, k in triples)
        else:
            states = tuple(torch.lerp(new, old, k) for old, new, k in triples)
        outputs.append(states[0])
    return torch.stack(outputs), states


def sequence(cell: str, variant: str, x: Any, weights: list[Any], states: State, keeps: tuple[Any, ...]) -> Any:
    """All h (T, B, H) of a layer, for x (T, B, D)."""
    W_x, W_h, b, *gains = weights
    if variant.startswith("LSTMCell"):
        return unroll(lstm_cell_step(W_x, W_h, b), variant, x, states, keeps)[0]
    inputs = F.linear(x, W_x, None if cell == "bn_lstm" else b)  # (T, B, G H)
    if cell == "bn_lstm":
        return unroll(bn_lstm_step(W_h, b, *gains), variant, inputs, states, keeps)[0]
    return unroll({"lstm": lstm_step, "gru": gru_step, "rnn": rnn_step}[cell](W_h), variant, inputs, states, keeps)[0]


# ---- layers


def captured(run: Callable[[], Any]) -> Callable[[], Any]:
    """``run`` as one CUDA graph; its arrays must stay where they are, and its gradients be None when it begins."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def masks_like(variant: str, n: int, shape: tuple[int, ...], device: str, dtype: Any) -> tuple[Any, ...]:
    """Room for n masks, of the type that the variant wants."""
    kind = torch.bool if variant.endswith("where") else dtype
    return tuple(torch.zeros(shape, dtype=kind, device=device) for _ in range(n))


def layer(
    cell: str, variant: str, how: str, shape: tuple[int, ...], device: str = "cuda", dtype: str = "float32"
) -> Built:
    """Masks, forward and backward of one sequence. ``how``: "eager", "graph", "compile" or "compile with graphs"."""
    precise()
    (T, B, _, H), kind, a = shape, getattr(torch, dtype), peers.arrays(cell, *shape)

    def here(array: Any) -> Any:
        return torch.tensor(array).to(device, kind)

    x, dh = (here(a[name].transpose(0, 2, 1).copy()) for name in ("x", "dh"))  # (T, B, D), (T, B, H)
    weights = [torch.nn.Parameter(here(a[name])) for name in ("W_x", "W_h", "b")]
    if cell == "bn_lstm":
        weights += [torch.nn.Parameter(torch.full((n * H,), 0.1, dtype=kind, device=device)) for n in (4, 4, 1, 1)]
    z = (Z_H, Z_C) if "lstm" in cell else (Z_H,)
    keeps = masks_like(variant, len(z), (T, B, H), device, kind)
    states = (torch.zeros(B, H, dtype=kind, device=device),) * len(z)
    forward = sequence
    if how in MODES:
        torch._dynamo.reset()  # it would stop compiling after some shapes
        forward = torch.compile(sequence, fullgraph=True, dynamic=False, mode=MODES[how])
    last: dict[str, Any] = {}

    def run() -> None:
        for weight in weights:
            weight.grad = None
        if how == "compile with graphs":
            torch.compiler.cudagraph_mark_step_begin()  # what the last repetition has given may be overwritten
        h = forward(cell, variant, x, weights, states, keeps)
        h.backward(dh)
        last["h"] = h.detach()

    inner = captured(run) if how == "graph" else run

    def repeat() -> None:
        for keep, p in zip(keeps, z, strict=True):
            keep.bernoulli_(p)
        inner()

    def check() -> dict[str, Any]:
        for keep, mask in zip(keeps, fixed_masks(cell, T, B, H).values(), strict=True):
            keep.copy_(torch.tensor(mask.transpose(0, 2, 1).copy()))
        inner()
        named = zip(("dW_x", "dW_h", "db", "d_gamma_x", "d_gamma_h", "d_gamma_c", "d_beta_c"), weights, strict=False)
        grads = {name: weight.grad.cpu().numpy() for name, weight in named}
        return {"h": last["h"].cpu().numpy().transpose(0, 2, 1), **grads}

    return Built(repeat, precise, check, holds=keeps)


def cudnn(cell: str, tf32: bool, shape: tuple[int, ...]) -> Built:
    """`torch.nn.LSTM` (GRU, RNN), cuDNN's: the whole sequence at once, and no zoneout."""
    (_, _, D, H), a = shape, peers.arrays(cell, *shape)
    x, dh = (torch.tensor(a[name].transpose(0, 2, 1).copy()).cuda() for name in ("x", "dh"))
    module = getattr(torch.nn, cell.upper())(D, H).cuda()

    def repeat() -> None:
        module.zero_grad(set_to_none=True)
        module(x)[0].backward(dh)

    return Built(repeat, lambda: precise(tf32))


# ---- whole updates


class Model:
    """The model of a task, see `update.TASKS`, with its optimizer. A minibatch, the masks and the states have a place.

    What is not minizone's: it clips the gradient, never the step, and its minibatches lie ready in page-locked memory.
    """

    def __init__(self, task: str, shape: tuple[Any, ...], variant: str, device: str = "cuda", dtype: str = "float32"):
        self.task, (T, B, V, H, layers, *self.z) = task, shape
        self.variant, self.dropout, (D, self.clip) = variant, DROPOUT, {
            "char-ptb": (V, 1.0), "pmnist": (1, 1.0), "word-ptb": (H, 10.0),
        }[task]  # fmt: skip
        kind, words = getattr(torch, dtype), task == "word-ptb"
        generator = torch.Generator().manual_seed(0)

        def parameter(*size: int) -> Any:
            return torch.nn.Parameter(0.04 * torch.randn(*size, generator=generator).to(device, kind))

        self.embedding = parameter(V, H) if words else None
        self.layers = [(parameter(4 * H, H if k else D), parameter(4 * H, H), parameter(4 * H)) for k in range(layers)]
        self.W_out, self.b_out = parameter(V, H), parameter(V)
        self.starts = [
            tuple(torch.zeros(B if words else 1, H, dtype=kind, device=device) for _ in "hc") for _ in self.layers
        ]
        if not words:  # learned; those of words are carried from one minibatch to the next
            self.starts = [tuple(torch.nn.Parameter(s) for s in each) for each in self.starts]
        own = [*itertools.chain(*self.layers, *([] if words else self.starts)), self.W_out, self.b_out]
        self.parameters = own + ([self.embedding] if words else [])
        self.keeps = [masks_like(variant, 2, (T, B, H), device, kind) for _ in self.layers]
        self.batches = random_batches(task, shape, device)
        self.batch = [each.to(device) for each in self.batches[0]]
        self.V, self.B, self.symbols = V, B, torch.arange(V, device=device)

    def draw(self) -> None:
        for keep_h, keep_c in self.keeps:
            keep_c.bernoulli_(self.z[0])
            keep_h.bernoulli_(self.z[1])

    def forward(self) -> tuple[Any, list[State]]:
        """The loss, and the last states of every layer."""
        x, target = self.batch
        h = F.dropout(F.embedding(x, self.embedding), self.dropout) if self.embedding is not None else x
        last = []
        for k, ((W_x, W_h, b), start) in enumerate(zip(self.layers, self.starts, strict=True)):
            if self.task == "char-ptb" and k == 0:  # one-hot columns: a product whose gradient a graph can have
                h = (h.unsqueeze(-1) == self.symbols).to(W_x.dtype)
            inputs = F.linear(h, W_x, b)
            states = tuple(s.expand(self.B, -1) for s in start)
            h, states = unroll(lstm_step(W_h), self.variant, inputs, states, self.keeps[k])
            h = F.dropout(h, self.dropout) if self.task == "word-ptb" else h
            last.append(states)
        scores = F.linear(h[-1] if self.task == "pmnist" else h, self.W_out, self.b_out)
        loss = F.cross_entropy(scores.reshape(-1, self.V), target.reshape(-1))
        return loss * len(x) if self.task == "word-ptb" else loss, last

    def optimizer(self, graphed: bool) -> Any:
        """The paper's; ``graphed``: one whose step can be captured."""
        if self.task == "char-ptb":
            return torch.optim.Adam(self.parameters, lr=2e-3, foreach=True, capturable=graphed)
        if self.task == "pmnist":
            return torch.optim.RMSprop(self.parameters, lr=1e-3, alpha=0.5, foreach=True, capturable=graphed)
        return torch.optim.SGD(self.parameters, lr=1.0, foreach=True)


def random_batches(task: str, shape: tuple[Any, ...], device: str) -> list[tuple[Any, Any]]:
    """Some minibatches on the host: tokens (T, B) or pixels (T, B, 1), and targets."""
    (T, B, V, *_), generator = shape, torch.Generator().manual_seed(0)

    def made() -> tuple[Any, Any]:
        if task == "pmnist":
            return torch.rand(T, B, 1, generator=generator), torch.randint(V, (B,), generator=generator)
        x, target = (torch.randint(V, (T, B), generator=generator) for _ in range(2))
        return x, target

    pairs = [made() for _ in range(4)]
    return [tuple(each.pin_memory() for each in pair) for pair in pairs] if device == "cuda" else pairs  # type: ignore


def update(task: str, variant: str, how: str, shape: tuple[Any, ...], device: str = "cuda") -> Built:
    """A training update: a minibatch to the device, masks, loss and gradient, clipping, step; "eager" or "graph"."""
    precise()
    model = Model(task, shape, variant, device)
    optimizer, seen, unseen = model.optimizer(how == "graph"), dict[str, Any](), list[Any]()

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss, last = model.forward()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters, model.clip)
        optimizer.step()
        if task == "word-ptb":
            for own, new in zip(itertools.chain(*model.starts), itertools.chain(*last), strict=True):
                own.copy_(new.detach())
        seen["loss, norm"] = torch.stack((loss.detach(), norm.detach()))

    inner, count = captured(run) if how == "graph" else run, itertools.count()

    def repeat() -> None:
        for own, new in zip(model.batch, model.batches[next(count) % len(model.batches)], strict=True):
            own.copy_(new, non_blocking=True)
        model.draw()
        inner()
        unseen.append(seen["loss, norm"].clone())
        if len(unseen) == LOOK:
            values = torch.stack(unseen).flatten().tolist()
            unseen.clear()
            if not all(map(math.isfinite, values)):
                raise RuntimeError("the loss or the gradient is not finite")

    return Built(repeat, precise)
