"""Weights to PyTorch and back: the names of `torch.nn.LSTM`, `RNN`, `Linear` and `Embedding`, in a safetensors file.

What `python run.py export RUN` writes is the state dict of a module like this one, of a language model of characters:

    class Model(torch.nn.Module):
        def __init__(self, V, H, layers=1):
            super().__init__()
            self.rnn, self.output = torch.nn.LSTM(V, H, layers), torch.nn.Linear(H, V)
            self.h0, self.c0 = (torch.nn.Parameter(torch.zeros(layers, H)) for _ in "hc")

        def forward(self, tokens):  # (T, B) to scores (T, B, V): in PyTorch the examples are rows
            start = [s[:, None].expand(-1, tokens.shape[1], -1).contiguous() for s in (self.h0, self.c0)]
            columns = torch.nn.functional.one_hot(tokens, self.rnn.input_size).float()
            return self.output(self.rnn(columns, tuple(start))[0])

    model.load_state_dict(safetensors.torch.load_file("torch.safetensors"))

The weights keep their shapes and the order of their gates, i, f, g, o; only those of an embedding are transposed.
``bias_hh`` is 0 and ``bias_ih`` is all of b. Learned initial states are ``h0`` and ``c0``, (layers, H); a network
without an LSTM has no c0, and one without learned states has neither. A file in these names is also what
``--load-path`` takes; where it has no h0 and c0, they are 0.

PyTorch's LSTM does not zone out. A run with zoneout or recurrent dropout computes something else in evaluation as well,
the expectation; its probabilities are in the metadata of the file, for a loop over `torch.nn.LSTMCell`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

LAYER = re.compile(r"(.+)\.layers\.(\d+)\.(\w+)")
RECURRENT = {"W_x": "weight_ih", "W_h": "weight_hh", "b": "bias_ih"}
STATES = ("h0", "c0")


def to_torch(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The parameters of a model in PyTorch's names; ValueError where PyTorch has no such layer."""
    check(arrays)
    found: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        theirs, k = torch_name(name)
        if theirs in STATES:
            found[theirs] = np.vstack([*([found[theirs]] if k else []), array])  # (layers, H)
        else:
            found[theirs] = array.T if is_embedding(name, arrays) else array
        if "bias_ih" in theirs:
            found[theirs.replace("bias_ih", "bias_hh")] = np.zeros_like(array)
    return found


def from_torch(arrays: Mapping[str, np.ndarray], own: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """PyTorch's parameters in the names of a model whose parameters are ``own``: the reverse of `to_torch`.

    The two biases are added up; initial states that are not there are 0. ValueError where names are missing or left.
    """
    check(own)
    found, left = {}, dict(arrays)
    try:
        for name, array in own.items():
            theirs, k = torch_name(name)
            if theirs in STATES:
                left.pop(theirs, None)
                found[name] = arrays[theirs][k] if theirs in arrays else np.zeros(array.shape, np.float32)
                continue
            found[name] = left.pop(theirs).T if is_embedding(name, own) else left.pop(theirs)
            if "bias_ih" in theirs:
                found[name] = found[name] + left.pop(theirs.replace("bias_ih", "bias_hh"))
    except KeyError as missing:
        raise ValueError(f"there is no {missing.args[0]}") from None
    except IndexError:
        raise ValueError(f"{theirs} has {len(arrays[theirs])} layers, and the model has more") from None
    if left:
        raise ValueError(f"the model has no place for {', '.join(sorted(left))}")
    return found


def is_torch(arrays: Mapping[str, Any]) -> bool:
    """Whether these are PyTorch's names."""
    return any(name.endswith(".weight_ih_l0") for name in arrays)


def check(arrays: Mapping[str, Any]) -> None:
    """Raise ValueError unless PyTorch has the layers of these parameters, computing the same."""
    recurrent = [name for name in arrays if LAYER.fullmatch(name)]
    if not recurrent:
        raise ValueError("it has no recurrent layers")
    if any(name.endswith(".gamma_x") for name in recurrent):
        raise ValueError("PyTorch has no batch-normalized LSTM")
    if any(name.endswith(".W_h") and len(arrays[name]) == 3 * arrays[name].shape[1] for name in recurrent):
        raise ValueError(
            "a GRU here resets before the product with W_h, as the authors' code, and torch.nn.GRU after it: with"
            " the same weights it is another function"
        )


def torch_name(name: str) -> tuple[str, int]:
    """PyTorch's name of a parameter, and the number of its layer."""
    layer = LAYER.fullmatch(name)
    if layer:
        stack, k, own = layer.groups()
        return (own if own in STATES else f"{stack}.{RECURRENT[own]}_l{k}"), int(k)
    path, _, own = name.rpartition(".")
    return f"{path}.{'weight' if own == 'W' else 'bias'}", 0


def is_embedding(name: str, arrays: Mapping[str, Any]) -> bool:
    """Whether a matrix (D, V) has the vectors as columns: PyTorch has them as rows. A linear layer has a bias."""
    return not LAYER.fullmatch(name) and name.endswith(".W") and f"{name[:-1]}b" not in arrays
