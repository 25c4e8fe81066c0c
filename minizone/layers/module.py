"""Parameters, and the modules that hold them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from minizone.autograd.tensor import Tensor
from minizone.backend import Array, array_module


class Parameter(Tensor):
    """A tensor that is learned. ValueError for integers and booleans, which cannot be."""

    __slots__ = ()

    def __init__(self, data: Tensor | Array, requires_grad: bool = True):
        super().__init__(data, requires_grad)


class Buffer(Tensor):
    """A tensor that is saved with the parameters and not learned: population statistics, for example."""

    __slots__ = ()

    def __init__(self, data: Tensor | Array):
        super().__init__(data, requires_grad=False)


class Module:
    """Something with parameters: those among its attributes, and those of the modules among its attributes.

    They are found in lists, tuples and dicts as well, nested or not. A parameter that is there twice (tied weights)
    counts once, under its first name. Their order is the order in which ``__init__`` assigned them, in every process;
    a set has no such order, and one with parameters or modules is a TypeError.
    """

    def named_tensors(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        """Pairs like ``("rnn.layers.0.W_x", parameter)``, parameters and buffers."""
        return _named_tensors(self, prefix, set())

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
            parameter.mark_changed()


def _named_tensors(holder: Any, prefix: str, seen: set[int]) -> Iterator[tuple[str, Tensor]]:
    """The parameters and buffers in a module, list, tuple or dict; ``seen``: the ids of what was found before."""
    holder = vars(holder) if isinstance(holder, Module) else holder
    for name, value in holder.items() if isinstance(holder, dict) else enumerate(holder):
        if isinstance(value, set | frozenset) and any(isinstance(each, Tensor | Module) for each in value):
            raise TypeError(f"{prefix}{name} is a set, which has no order: keep parameters and modules in a list")
        if isinstance(value, Parameter | Buffer | Module | list | tuple | dict) and id(value) not in seen:
            seen.add(id(value))
            if isinstance(value, Tensor):
                yield f"{prefix}{name}", value
            else:
                yield from _named_tensors(value, f"{prefix}{name}.", seen)
