"""Weights to PyTorch and back: the names of `torch.nn.LSTM`, `RNN`, `Linear` and `Embedding`, in a safetensors file.

`minizone/runs/torch_model.py` is the PyTorch module that they fit. The weights keep their shapes and the order of their
gates, i, f, g, o; only those of an embedding are transposed. ``bias_hh`` is 0 and ``bias_ih`` is all of b; a GRU has no
``bias_hh``, because it is not `torch.nn.GRU`. Learned initial states are ``h0`` and ``c0``, (layers, H); a network
without an LSTM has no c0, and one without learned states has neither. ``--load-path`` takes a file in these names, too;
where h0 and c0 are missing, they are 0.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from minizone.backend import Array

RECURRENT = {"W_x": "weight_ih", "W_h": "weight_hh", "b": "bias_ih"}
STATES = ("h0", "c0")


def torch_name(name: str) -> str:
    """PyTorch's name of a parameter: ``rnn.layers.0.W_x`` is ``rnn.weight_ih_l0``, and ``output.W`` ``output.weight``.

    The initial states of all layers share the names ``h0`` and ``c0``.
    """
    path, _, own = name.rpartition(".")
    if own in STATES:
        return own
    if ".layers." in path:
        stack, _, layer = path.partition(".layers.")
        return f"{stack}.{RECURRENT[own]}_l{layer}"
    return f"{path}.weight" if own == "W" else f"{path}.bias"


def to_torch(parameters: Mapping[str, Array]) -> dict[str, Array]:
    """The parameters of a model in PyTorch's names; ValueError where PyTorch has no such layer."""
    if not any(name.endswith(".W_h") for name in parameters):
        raise ValueError("it has no recurrent layers")
    if any(name.endswith(".gamma_x") for name in parameters):
        raise ValueError("PyTorch has no batch-normalized LSTM")
    translated: dict[str, Array] = {}
    for name, array in parameters.items():
        theirs = torch_name(name)
        if theirs in STATES:
            array = np.vstack([*translated.get(theirs, []), array])  # (layers, H)
        translated[theirs] = array.T if is_embedding(name, parameters) else array
        if "bias_ih" in theirs and not is_gru(parameters):
            translated[theirs.replace("bias_ih", "bias_hh")] = np.zeros_like(array)
    return translated


def from_torch(arrays: Mapping[str, Array], parameters: Mapping[str, Array]) -> dict[str, Array]:
    """PyTorch's arrays in the names of ``parameters``, which are those of the model that shall load them.

    The two biases are added. Initial states that are missing are 0, and static masks are left out: the seed of the run
    draws its own. ValueError unless the other names, and all shapes, are those of the model.
    """
    expected = to_torch(parameters)
    arrays = {name: array for name, array in arrays.items() if ".keep_" not in name}
    missing = expected.keys() - arrays.keys() - set(STATES)
    unexpected = arrays.keys() - expected.keys()
    if missing or unexpected:
        problem = f"missing {sorted(missing)}, unexpected {sorted(unexpected)}"
        if is_gru(parameters):
            problem += "; a GRU here resets before the product with W_h, and torch.nn.GRU after it"
        raise ValueError(problem)
    for name, array in arrays.items():
        if array.shape != expected[name].shape:
            raise ValueError(f"{name} has shape {array.shape}, the model's has {expected[name].shape}")

    translated = {}
    for name, own in parameters.items():
        theirs = torch_name(name)
        if theirs in STATES:
            layer = int(name.split(".")[-2])
            translated[name] = arrays[theirs][layer] if theirs in arrays else np.zeros(own.shape, np.float32)
        elif "bias_ih" in theirs:
            translated[name] = arrays[theirs] + arrays.get(theirs.replace("bias_ih", "bias_hh"), 0)
        else:
            translated[name] = arrays[theirs].T if is_embedding(name, parameters) else arrays[theirs]
    return translated


def is_torch(arrays: Mapping[str, Array]) -> bool:
    """Whether these are PyTorch's names."""
    return any(name.endswith(".weight_ih_l0") for name in arrays)


def is_gru(parameters: Mapping[str, Array]) -> bool:
    """Whether the recurrent layers are GRUs: W_h (3H, H)."""
    return any(len(W_h) == 3 * W_h.shape[1] for name, W_h in parameters.items() if name.endswith(".W_h"))


def is_embedding(name: str, parameters: Mapping[str, Array]) -> bool:
    """Whether a matrix (D, V) has the vectors as columns: PyTorch has them as rows. A linear layer has a bias."""
    return name.endswith(".W") and f"{name.removesuffix('W')}b" not in parameters
