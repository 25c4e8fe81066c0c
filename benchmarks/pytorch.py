"""The same layers and updates in PyTorch, on a CPU or a GPU. Rows are examples.

Only candidates' processes import this module. The loops are written for speed: inputs are projected once for all steps
(or by `torch.lstm_cell`, whose arithmetic is one kernel), masks are drawn at once, and sequences are split with
``unbind`` (``A[t]`` in the loop would make the backward pass quadratic in T). float32 is used without TF32, unless a
candidate sets it. ``graph``: forward and backward are captured as one CUDA graph.
"""

from __future__ import annotations

from collections.abc import Callable

import problems
import torch
from harness import Built
from problems import Z_C, Z_H, Shape, UpdateShape
from torch import Tensor
from torch.nn import functional as F

DROPOUT = 0.65  # of word-ptb
CLIPPING = {"char-ptb": 1.0, "pmnist": 1.0, "word-ptb": 10.0}
State = tuple[Tensor, ...]  # (h, c) or (h,), each (B, H)
Step = Callable[[Tensor, State], State]  # input of a time step and states -> new states


def prepare(device: str, tf32: bool = False) -> torch.device:
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    return torch.device("cuda" if device == "gpu" else "cpu")


def built(repeat: Callable[[], object], device: torch.device, holds: object = None) -> Built:
    if device.type == "cpu":
        return Built(repeat, holds=holds)
    return Built(repeat, torch.cuda.synchronize, lambda: torch.cuda.max_memory_reserved() / 2**20, holds)


def captured(run: Callable[[], None]) -> Callable[[], None]:
    """Capture ``run`` as one CUDA graph. Its arrays must not move, and its gradients must be None at the start."""
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


# ---- a loop over time


def lstm_step(W_h: Tensor) -> Step:
    W = W_h.t()

    def step(x_t: Tensor, states: State) -> State:
        h, c = states
        i, f, g, o = torch.addmm(x_t, h, W).chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c

    return step


def lstm_cell_step(W_x: Tensor, W_h: Tensor, b: Tensor) -> Step:
    """PyTorch's own cell, around which most published zoneouts are built; it projects the inputs step by step."""
    zeros = torch.zeros_like(b, requires_grad=False)
    return lambda x_t, states: torch.lstm_cell(x_t, states, W_x, W_h, b, zeros)


def gru_step(W_h: Tensor) -> Step:
    H = W_h.shape[1]
    W_rz, W_n = W_h[: 2 * H].t(), W_h[2 * H :].t()

    def step(x_t: Tensor, states: State) -> State:
        (h,) = states
        r, z = torch.sigmoid(torch.addmm(x_t[:, : 2 * H], h, W_rz)).chunk(2, 1)
        n = torch.tanh(torch.addmm(x_t[:, 2 * H :], r * h, W_n))
        return (torch.lerp(n, h, z),)

    return step


def rnn_step(W_h: Tensor) -> Step:
    W = W_h.t()
    return lambda x_t, states: (torch.tanh(torch.addmm(x_t, states[0], W)),)


def bn_lstm_step(W_h: Tensor, b: Tensor, gamma_x: Tensor, gamma_h: Tensor, gamma_c: Tensor, beta_c: Tensor) -> Step:
    W = W_h.t()

    def normalize(s: Tensor, gamma: Tensor, beta: Tensor | None = None) -> Tensor:
        return F.batch_norm(s, None, None, gamma, beta, True)

    def step(x_t: Tensor, states: State) -> State:
        h, c = states
        i, f, g, o = (normalize(x_t, gamma_x) + normalize(h @ W, gamma_h) + b).chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(normalize(c, gamma_c, beta_c)), c

    return step


def unroll(step: Step, inputs: Tensor, states: State, masks: State) -> Tensor:
    """All h (T, B, H) with zoneout, for one mask (T, B, H) for each state."""
    outputs = []
    for x_t, *keeps in zip(inputs.unbind(0), *(mask.unbind(0) for mask in masks), strict=True):
        candidates = step(x_t, states)
        states = tuple(map(torch.lerp, candidates, states, keeps))  # keep * state + (1 - keep) * candidate
        outputs.append(states[0])
    return torch.stack(outputs)


def sequence(cell: str, x: Tensor, weights: list[Tensor], states: State, masks: State) -> Tensor:
    """All h (T, B, H) of a layer, for x (T, B, D). ``cell`` "LSTMCell" is an LSTM around PyTorch's own cell."""
    W_x, W_h, b, *gains = weights
    if cell == "LSTMCell":
        return unroll(lstm_cell_step(W_x, W_h, b), x, states, masks)
    inputs = F.linear(x, W_x, None if cell == "bn_lstm" else b)  # (T, B, G H)
    if cell == "bn_lstm":
        return unroll(bn_lstm_step(W_h, b, *gains), inputs, states, masks)
    step = {"lstm": lstm_step, "gru": gru_step, "rnn": rnn_step}[cell](W_h)
    return unroll(step, inputs, states, masks)


# ---- layers


def layer(cell: str, shape: Shape, device: str = "cpu", own_cell: bool = False, graph: bool = False) -> Built:
    """Draw the masks, go forward over a sequence, and back to the gradients of the weights.

    ``own_cell``: build an LSTM around `torch.nn.LSTMCell`. ``graph``: run it as one CUDA graph.
    """
    on, (T, B, _, H), a = prepare(device), shape, problems.arrays(cell, shape)
    x = torch.tensor(a["x"].transpose(0, 2, 1).copy(), device=on)  # (T, B, D)
    dh = torch.tensor(a["dh"].transpose(0, 2, 1).copy(), device=on)  # (T, B, H)
    weights = [torch.tensor(a[name], device=on, requires_grad=True) for name in ("W_x", "W_h", "b")]
    if cell == "bn_lstm":
        sizes = (4 * H, 4 * H, H, H)
        weights += [torch.full((size,), 0.1, device=on, requires_grad=True) for size in sizes]
    probabilities = (Z_H, Z_C) if problems.has_cells(cell) else (Z_H,)
    masks = tuple(torch.zeros(T, B, H, device=on) for _ in probabilities)
    states = (torch.zeros(B, H, device=on),) * len(probabilities)

    def run() -> None:
        for weight in weights:
            weight.grad = None
        sequence("LSTMCell" if own_cell else cell, x, weights, states, masks).backward(dh)

    forward_and_back = captured(run) if graph else run

    def repeat() -> None:
        for mask, z in zip(masks, probabilities, strict=True):
            mask.bernoulli_(z)
        forward_and_back()

    return built(repeat, on, holds=run)


def plain_layer(cell: str, shape: Shape, device: str = "cpu", tf32: bool = False) -> Built:
    """`torch.nn.LSTM` (GRU, RNN), which is cuDNN's on a GPU: the whole sequence at once, without zoneout."""
    on, (_, _, D, H), a = prepare(device, tf32), shape, problems.arrays(cell, shape)
    x = torch.tensor(a["x"].transpose(0, 2, 1).copy(), device=on)  # (T, B, D)
    dh = torch.tensor(a["dh"].transpose(0, 2, 1).copy(), device=on)  # (T, B, H)
    module = getattr(torch.nn, cell.upper())(D, H).to(on)

    def repeat() -> None:
        module.zero_grad(set_to_none=True)
        module(x)[0].backward(dh)

    return built(repeat, on)


# ---- whole updates


class Model(torch.nn.Module):
    """The model of a task, with a shape from `problems.TASKS`: tokens (T, B) or pixels (T, B, 1) to scores."""

    def __init__(self, task: str, shape: UpdateShape):
        super().__init__()
        _, _, V, H, layers, _, _ = shape
        words = task == "word-ptb"
        D = {"char-ptb": V, "pmnist": 1, "word-ptb": H}[task]
        self.task, self.V, self.dropout = task, V, DROPOUT if words else 0.0
        self.embedding = self.parameter(V, H) if words else None
        self.layers = torch.nn.ModuleList()
        for k in range(layers):
            weights = {"W_x": (4 * H, H if k else D), "W_h": (4 * H, H), "b": (4 * H,)}
            states = {} if words else {"h0": (H,), "c0": (H,)}  # those of words start at 0
            sizes = weights | states
            self.layers.append(torch.nn.ParameterDict({name: self.parameter(*sizes[name]) for name in sizes}))
        self.W_out, self.b_out = self.parameter(V, H), self.parameter(V)

    @staticmethod
    def parameter(*size: int) -> torch.nn.Parameter:
        return torch.nn.Parameter(0.04 * torch.randn(*size))

    def forward(self, x: Tensor, masks: list[State], one_hot: bool = False) -> Tensor:
        """``one_hot``: embed characters by a product, whose gradient can be captured in a CUDA graph."""
        if self.embedding is not None:
            x = self.drop(F.embedding(x, self.embedding))  # (T, B, H)
        for weights, layer_masks in zip(self.layers, masks, strict=True):
            W_x, W_h, b = weights["W_x"], weights["W_h"], weights["b"]
            if x.is_floating_point():
                inputs = F.linear(x, W_x, b)  # (T, B, 4H)
            elif one_hot:
                symbols = torch.arange(self.V, device=x.device)
                inputs = F.linear((x.unsqueeze(-1) == symbols).to(W_x.dtype), W_x, b)
            else:
                inputs = F.embedding(x, W_x.t()) + b
            B, H = x.shape[1], W_h.shape[1]
            if "h0" in weights:
                states = weights["h0"].expand(B, H), weights["c0"].expand(B, H)
            else:
                states = (W_h.new_zeros(B, H),) * 2
            x = self.drop(unroll(lstm_step(W_h), inputs, states, layer_masks))  # (T, B, H)
        return F.linear(x[-1] if self.task == "pmnist" else x, self.W_out, self.b_out)

    def drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout) if self.dropout else x

    def loss(self, x: Tensor, targets: Tensor, masks: list[State], one_hot: bool = False) -> Tensor:
        scores = self(x, masks, one_hot)
        return F.cross_entropy(scores.reshape(-1, self.V), targets.reshape(-1))


def optimizer_of(task: str, model: Model, graph: bool) -> torch.optim.Optimizer:
    """The paper's optimizer. With ``graph``, its step can be captured."""
    if task == "char-ptb":
        return torch.optim.Adam(model.parameters(), lr=2e-3, foreach=True, capturable=graph)
    if task == "pmnist":
        return torch.optim.RMSprop(model.parameters(), lr=1e-3, alpha=0.5, foreach=True, capturable=graph)
    return torch.optim.SGD(model.parameters(), lr=1.0, foreach=True)


def update(task: str, shape: UpdateShape, device: str = "cpu", graph: bool = False) -> Built:
    """A training update: masks, loss and gradients, clipping of the gradient, step.

    On a GPU the minibatch starts in page-locked memory and is copied to the device.
    """
    on, (T, B, _, H, layers, z_c, z_h) = prepare(device), shape
    model = Model(task, shape).to(on)
    optimizer = optimizer_of(task, model, graph)
    masks = [(torch.zeros(T, B, H, device=on), torch.zeros(T, B, H, device=on)) for _ in range(layers)]
    x, targets = (torch.tensor(array) for array in problems.batch(task, shape))
    batch = [x.transpose(1, 2).contiguous() if task == "pmnist" else x, targets]
    if device == "gpu":
        batch = [array.pin_memory() for array in batch]
    batch_on_device = [array.to(on) for array in batch]

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        model.loss(*batch_on_device, masks, one_hot=graph).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIPPING[task])
        optimizer.step()

    compute = captured(run) if graph else run

    def repeat() -> None:
        for here, array in zip(batch_on_device, batch, strict=True):
            here.copy_(array, non_blocking=True)
        for keep_h, keep_c in masks:
            keep_h.bernoulli_(z_h)
            keep_c.bernoulli_(z_c)
        compute()

    return built(repeat, on, holds=(run, model))
