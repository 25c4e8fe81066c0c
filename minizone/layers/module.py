"""Parameters, and the modules that hold them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from minizone.autograd.tensor import Tensor
from minizone.backend import Array, array_module


class Parameter(Tensor):
    """A tensor that is learned."""

    __slots__ = ()


class Buffer(Tensor):
    """A tensor that is saved with the parameters and not learned: population statistics, for example."""

    __slots__ = ()

    def __init__(self, data: Array):
        super().__init__(data, requires_grad=False)


class Module:
    """Something with parameters: its own attributes, and those of the modules, or lists of them, among its attributes.

    Their order is the order in which ``__init__`` assigned them, in every process.
    """

    def named_tensors(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        """Pairs like ``("rnn.layers.0.W_x", parameter)``, parameters and buffers."""
        for name, value in vars(self).items():
            if isinstance(value, Parameter | Buffer):
                yield prefix + name, value
            listed = isinstance(value, list)
            modules = {f"{name}.{k}": each for k, each in enumerate(value)} if listed else {name: value}
            for path, module in modules.items():
                if isinstance(module, Module):
                    yield from module.named_tensors(f"{prefix}{path}.")

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """The pairs of `named_tensors` that are learned."""
        return ((name, tensor) for name, tensor in self.named_tensors() if isinstance(tensor, Parameter))

    def parameters(self) -> list[Parameter]:
        return [parameter for _, parameter in self.named_parameters()]

    def state_dict(self) -> dict[str, Array]:
        """Name to array, parameters and buffers; the arrays are those of the module, not copies."""
        return {name: tensor.data for name, tensor in self.named_tensors()}

    def load_state_dict(self, arrays: Mapping[str, Array]) -> None:
        """Copy arrays into the module's; ValueError unless names and shapes are exactly those of the module."""
        own = dict(self.named_tensors())
        if own.keys() != arrays.keys():
            raise ValueError(
                f"load_state_dict: missing {sorted(own.keys() - arrays.keys())},"
                f" unexpected {sorted(arrays.keys() - own.keys())}"
            )
        for name, parameter in own.items():
            if parameter.shape != arrays[name].shape:
                raise ValueError(f"load_state_dict: {name} has shape {parameter.shape}, got {arrays[name].shape}")
        for name, parameter in own.items():
            parameter.data[...] = array_module(parameter.data).asarray(arrays[name])
