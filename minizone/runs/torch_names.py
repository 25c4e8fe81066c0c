"""Convert weights to the names of `torch.nn.LSTM`, `RNN`, `Linear` and `Embedding`, and back.

`minizone/runs/torch_model.py` is the PyTorch module that the weights fit. The weights keep their shapes and the order
of their gates, i, f, g, o; only embeddings are transposed. ``bias_ih`` is b, and ``bias_hh`` is 0; a GRU has no
``bias_hh``, because it is not `torch.nn.GRU`. Learned initial states are ``h0`` and ``c0``, (layers, H). Only an LSTM
has c0, and a network without learned states has neither. ``--load-path`` also reads a safetensors file with these
names; missing h0 and c0 are 0.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from minizone.backend import Array

RECURRENT = {"W_x": "weight_ih", "W_h": "weight_hh", "b": "bias_ih"}
STATES = ("h0", "c0")


def torch_name(name: str) -> str:
    """PyTorch's name of a parameter: ``rnn.layers.0.W_x`` is ``rnn.weight_ih_l0``, ``output.W`` is ``output.weight``.

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
    """The parameters of a model under PyTorch's names. Raises ValueError if PyTorch has no such layer."""
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
    """PyTorch's arrays under the names of ``parameters``, the parameters of the model that will load them.

    The two biases are added. Missing initial states are 0. Static masks are left out: the run draws its own from its
    seed. Raises ValueError unless all other names and all shapes are those of the model.
    """
    expected = to_torch(parameters)
    arrays = {name: array for name, array in arrays.items() if ".keep_" not in name}
    missing = expected.keys() - arrays.keys() - set(STATES)
    unexpected = arrays.keys() - expected.keys()
    if missing or unexpected:
        problem = f"missing {sorted(missing)}, unexpected {sorted(unexpected)}"
        if is_gru(parameters):
            problem += "; minizone's GRU applies its reset gate before the product with W_h, torch.nn.GRU after it"
        raise ValueError(problem)
    for name, array in arrays.items():
        if array.shape != expected[name].shape:
            raise ValueError(f"{name} has shape {array.shape}, but the model's has {expected[name].shape}")

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
    """Whether the arrays have PyTorch's names."""
    return any(name.endswith(".weight_ih_l0") for name in arrays)


def is_gru(parameters: Mapping[str, Array]) -> bool:
    """Whether the recurrent layers are GRUs: W_h (3H, H)."""
    return any(len(W_h) == 3 * W_h.shape[1] for name, W_h in parameters.items() if name.endswith(".W_h"))


def is_embedding(name: str, parameters: Mapping[str, Array]) -> bool:
    """Whether ``name`` is an embedding, (D, V) here and (V, D) in PyTorch. Unlike a linear layer it has no bias."""
    return name.endswith(".W") and f"{name.removesuffix('W')}b" not in parameters
