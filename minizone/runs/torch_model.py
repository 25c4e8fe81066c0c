"""Zoneout in PyTorch, and the model of a minizone run. `python run.py export RUN` puts this file beside the weights.

    from torch_model import ZoneoutRNN, load

    model = load("torch.safetensors")      # in evaluation mode: zoneout uses its expectation, and nothing is random
    scores, state = model(tokens)          # tokens (T, B), int64; scores of the next token (T, B, V)
    scores, state = model(more, state)     # continues from the last state
    model.train()                          # zoneout and dropout draw masks from the generator of torch

    layers = ZoneoutRNN("lstm", 50, 100, z_cells=[0.5], z_states=[0.05])    # one number for each layer

A model of images takes pixels (T, B, 1) and returns class scores (B, V). T is the number of time steps, B the batch
size, D the number of input features, H the number of hidden units, V the number of classes. Weight noise and penalties
belong to the training loop and are not here. The file needs only torch and safetensors.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

GATES = {"lstm": 4, "gru": 3, "tanh": 1, "relu": 1}  # blocks of H rows: i, f, g, o; r, z, n


def zone_out(old: Tensor, new: Tensor, keep: Tensor) -> Tensor:
    """The state after zoneout. In training ``keep`` is 1 where the old value stays, else 0; in evaluation the mean."""
    return keep * old + (1 - keep) * new


class ZoneoutRNN(nn.Module):
    """Recurrent layers with zoneout (Krueger et al., 2017), with the parameters of `torch.nn.LSTM`.

    Parameters
    ----------
    cell : "lstm", "gru", "tanh" or "relu"
        The GRU applies its reset gate before the product with weight_hh, so it has only one bias, bias_ih.
    input_size, hidden_size : int
        D and H.
    z_cells, z_states : list of float
        The probability that a unit of c or h keeps its old value, for each layer.
    drop_inputs : list of float, optional
        Recurrent dropout (Semeniuta et al., 2016): the probability that i * g (n in a GRU) of a unit is dropped.
    dropout, variational : float
        Dropout between layers and after the last; variational: one mask for all time steps, also on h_{t-1}.
    shared, whole_layer, gaussian : bool
        One mask for c and h; one draw for all units of a layer; masks from Normal(z, z (1 - z)).
    static_steps : int
        n > 0: masks of n time steps that are drawn once and repeat. They are buffers, and also apply in evaluation.
    output_gate : "plain", "paper", "printed" or "authors"
        Zoneout of the output gate, with the mask of ``drop_inputs``.
    """

    def __init__(
        self,
        cell: str,
        input_size: int,
        hidden_size: int,
        *,
        z_cells: Sequence[float],
        z_states: Sequence[float],
        drop_inputs: Sequence[float] = (),
        dropout: float = 0.0,
        variational: float = 0.0,
        shared: bool = False,
        whole_layer: bool = False,
        gaussian: bool = False,
        static_steps: int = 0,
        output_gate: str = "plain",
    ):
        super().__init__()
        drop_inputs = drop_inputs or [0.0] * len(z_states)
        if not len(z_cells) == len(z_states) == len(drop_inputs):
            raise ValueError("z_cells, z_states and drop_inputs need one number for each layer")
        if not all(0 <= p <= 1 for p in (*z_cells, *z_states, *drop_inputs)):
            raise ValueError(f"probabilities must be in [0, 1], got {z_cells}, {z_states}, {drop_inputs}")
        if cell != "lstm" and any(z_cells):
            raise ValueError(f"{cell} has no cells to zone out, got z_cells {z_cells}")
        self.cell, self.hidden_size, self.num_layers = cell, hidden_size, len(z_states)
        self.z_cells, self.z_states, self.drop_inputs = z_cells, z_states, drop_inputs
        self.dropout, self.variational = dropout, variational
        self.shared, self.whole_layer, self.gaussian = shared, whole_layer, gaussian
        self.static_steps, self.output_gate = static_steps, output_gate
        rows, H = GATES[cell] * hidden_size, hidden_size
        for k in range(self.num_layers):
            shapes = {"weight_ih": (rows, H if k else input_size), "weight_hh": (rows, H), "bias_ih": (rows,)}
            if cell != "gru":
                shapes["bias_hh"] = (rows,)
            for name, shape in shapes.items():
                values = torch.empty(shape).uniform_(-(H**-0.5), H**-0.5)
                self.register_parameter(f"{name}_l{k}", nn.Parameter(values))
            if static_steps:
                for name, mask in zip(("keep_h", "keep_c"), self.draw(k, static_steps, 1), strict=True):
                    self.register_buffer(f"{name}_l{k}", mask)

    def forward(self, x: Tensor, state: Sequence[Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The output (T, B, H) of the last layer, and the last states (h, c), or (h,), each (layers, B, H).

        x is (T, B, D). ``state`` is the initial state; None means zeros.
        """
        if state is None:
            zeros = x.new_zeros(self.num_layers, x.shape[1], self.hidden_size)
            state = (zeros, zeros) if self.cell == "lstm" else (zeros,)
        last = []
        for k in range(self.num_layers):
            x, last_of_layer = self.layer(k, self.drop(x) if k else x, [s[k] for s in state])
            last.append(last_of_layer)
        return self.drop(x), tuple(torch.stack(each) for each in zip(*last, strict=True))

    def layer(self, k: int, x: Tensor, state: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The output (T, B, H) of layer k, and its last states, each (B, H)."""
        W_ih, W_hh, b = (getattr(self, f"{name}_l{k}") for name in ("weight_ih", "weight_hh", "bias_ih"))
        if self.cell != "gru":
            b = b + getattr(self, f"bias_hh_l{k}")
        h, c = state[0], state[-1]  # only an LSTM uses c
        T, (B, H) = len(x), h.shape
        keep_h, keep_c = self.masks(k, T, B)
        input_mask = drop_mask(self.drop_inputs[k], (T, B, H), self.training, h)
        hidden_mask = F.dropout(torch.ones_like(h), self.variational, self.training)  # (B, H)

        inputs, outputs, o_before = x @ W_ih.T + b, [], None  # inputs (T, B, gates * H)
        for a, keep_h_t, keep_c_t, d in zip(inputs, keep_h, keep_c, input_mask, strict=True):
            seen = hidden_mask * h
            if self.cell == "lstm":
                i, f, g, o = (a + seen @ W_hh.T).chunk(4, dim=1)
                i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
                new_c = f * c + d * i * g
                gate = o
                if self.output_gate in ("paper", "printed") and o_before is not None:
                    gate = zone_out(o_before, o, 1 - d if self.output_gate == "paper" else d)
                new_h = zone_out(h, gate * new_c.tanh(), keep_h_t)  # from the candidate c, not the zoned-out one
                h = d * new_h + (1 - d) * f * h if self.output_gate == "authors" else new_h
                c, o_before = zone_out(c, new_c, keep_c_t), o
            elif self.cell == "gru":
                r, z = (a[:, : 2 * H] + seen @ W_hh[: 2 * H].T).sigmoid().chunk(2, dim=1)
                n = (a[:, 2 * H :] + (r * seen) @ W_hh[2 * H :].T).tanh()
                h = zone_out(h, z * h + (1 - z) * d * n, keep_h_t)
            else:
                h = zone_out(h, getattr(torch, self.cell)(a + seen @ W_hh.T), keep_h_t)
            outputs.append(h)
        return torch.stack(outputs), (h, c) if self.cell == "lstm" else (h,)

    def masks(self, k: int, T: int, B: int) -> list[Tensor]:
        """keep_h and keep_c of layer k, each broadcastable to (T, B, H)."""
        if self.static_steps:
            t = torch.arange(T) % self.static_steps
            return [getattr(self, f"{name}_l{k}")[t] for name in ("keep_h", "keep_c")]
        if self.training:
            return self.draw(k, T, B)
        ones = getattr(self, f"weight_hh_l{k}").new_ones(T, 1, 1)
        return [z * ones for z in (self.z_states[k], self.z_cells[k])]

    def draw(self, k: int, T: int, B: int) -> list[Tensor]:
        """keep_h and keep_c of layer k in training, each (T, B, H), or (T, B, 1) with ``whole_layer``."""
        nothing = getattr(self, f"weight_hh_l{k}").new_empty(T, B, 1 if self.whole_layer else self.hidden_size)
        draw = torch.randn_like if self.gaussian else torch.rand_like
        of_h = draw(nothing)
        of_c = of_h if self.shared or self.whole_layer else draw(nothing)
        pairs = (of_h, self.z_states[k]), (of_c, self.z_cells[k])
        if self.gaussian:
            return [z + (z * (1 - z)) ** 0.5 * drawn for drawn, z in pairs]
        return [(drawn < z).to(drawn.dtype) for drawn, z in pairs]

    def drop(self, x: Tensor) -> Tensor:
        """Dropout of the input of a layer or the output of the last one, (T, B, H)."""
        x = F.dropout(x, self.dropout, self.training)
        return x * F.dropout(torch.ones_like(x[:1]), self.variational, self.training)


class Model(nn.Module):
    """The model of a run: inputs, `ZoneoutRNN`, and class scores. `load` reads one from a file.

    Parameters
    ----------
    rnn : dict
        The arguments of `ZoneoutRNN`.
    classes : int
        V.
    images : bool
        If True, the inputs are pixels and only the last output is classified; else the inputs are tokens.
    embedding, learned_state : bool
        Tokens are embedded, not one-hot; the initial states are parameters, not 0.
    input_drop : float
        The probability that the input of a time step is dropped.
    noise : float
        Standard deviation of the noise on the initial h in training.
    summarize : bool
        The mean pixel is added to the initial h.
    """

    def __init__(
        self,
        rnn: dict[str, Any],
        classes: int,
        *,
        images: bool,
        embedding: bool,
        learned_state: bool,
        input_drop: float,
        noise: float = 0.0,
        summarize: bool = False,
    ):
        super().__init__()
        H = rnn["hidden_size"]
        self.images, self.input_drop, self.noise, self.summarize = images, input_drop, noise, summarize
        self.embedding = nn.Embedding(classes, H) if embedding else None
        self.rnn = ZoneoutRNN(**rnn)
        self.output = nn.Linear(H, classes)
        self.states = ("h0", "c0") if rnn["cell"] == "lstm" else ("h0",)
        for name in self.states:
            zeros = torch.zeros(self.rnn.num_layers, H)
            setattr(self, name, nn.Parameter(zeros) if learned_state else None)

    def forward(self, x: Tensor, state: Sequence[Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The scores (T, B, V) of tokens (T, B), or (B, V) of pixels (T, B, 1), and the last state.

        ``state`` is the state that an earlier call returned; None means the initial state.
        """
        if state is None:
            state = self.start(x)
        if self.images:
            inputs = x
        elif self.embedding is not None:
            inputs = self.embedding(x)
        else:
            inputs = F.one_hot(x, self.output.out_features).to(self.output.weight.dtype)  # (T, B, V)
        inputs = inputs * drop_mask(self.input_drop, (*x.shape[:2], 1), self.training, inputs)
        if self.embedding is not None:
            inputs = self.rnn.drop(inputs)
        h, last = self.rnn(inputs, state)
        return self.output(h[-1] if self.images else h), last

    def start(self, x: Tensor) -> tuple[Tensor, ...] | None:
        """The initial states, each (layers, B, H); None if they are 0."""
        if self.h0 is None:
            return None
        h, *c = (getattr(self, name)[:, None].expand(-1, x.shape[1], -1) for name in self.states)
        if self.summarize:
            h = h + x.mean(dim=0)
        if self.training and self.noise:
            h = h + self.noise * torch.randn_like(h)
        return h, *c


def drop_mask(p: float, shape: tuple[int, ...], training: bool, like: Tensor) -> Tensor:
    """In training a mask (T, B, ...), 0 with probability p, else 1; in evaluation its mean 1 - p, (T, 1, 1)."""
    if not training:
        return (1 - p) * like.new_ones(shape[0], 1, 1)
    return (torch.rand_like(like.new_empty(shape)) >= p).to(like.dtype)


def load(path: str | Path) -> Model:
    """Read the model from a file that `run.py export` wrote; it is in evaluation mode."""
    with safe_open(path, framework="pt") as file:
        metadata = json.loads((file.metadata() or {}).get("minizone", "{}"))
    if "model" not in metadata:
        raise ValueError(f"{path} does not describe its model: it must be a file that `run.py export` wrote")
    model = Model(**metadata["model"])
    model.load_state_dict(load_file(path))
    return model.eval()
