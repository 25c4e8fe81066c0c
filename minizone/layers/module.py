"""Parameters, and the modules that hold them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from minizone.autograd.tensor import Tensor
from minizone.backend import Array, array_module


class Parameter(Tensor):
    """A tensor that is learned. Raises ValueError for integers and booleans."""

    __slots__ = ()

    def __init__(self, data: Tensor | Array, requires_grad: bool = True):
        super().__init__(data, requires_grad)


class Buffer(Tensor):
    """A tensor that is saved with the parameters but not learned, for example population statistics."""

    __slots__ = ()

    def __init__(self, data: Tensor | Array):
        super().__init__(data, requires_grad=False)


class Module:
    """Base class of everything with parameters: its own, and those of the modules among its attributes.

    Parameters and modules in lists, tuples and dicts, nested or not, are found as well. A parameter that occurs twice
    (tied weights) counts once, under its first name. The order is that in which ``__init__`` assigned them, in every
    process. A set has no such order, so a set with parameters or modules raises TypeError.
    """

    def named_tensors(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        """Pairs like ``("rnn.layers.0.W_x", parameter)``, for all parameters and buffers."""
        return _named_tensors(self, prefix, set())

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """The pairs of `named_tensors` that are learned."""
        return ((name, tensor) for name, tensor in self.named_tensors() if isinstance(tensor, Parameter))

    def parameters(self) -> list[Parameter]:
        return [parameter for _, parameter in self.named_parameters()]

    def state_dict(self) -> dict[str, Array]:
        """The arrays of all parameters and buffers by name; they are not copied."""
        return {name: tensor.data for name, tensor in self.named_tensors()}

    def load_state_dict(self, arrays: Mapping[str, Array]) -> None:
        """Copy ``arrays`` into the module; ValueError unless names and shapes are exactly those of the module."""
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
    """The parameters and buffers in a module, list, tuple or dict; ``seen``: the ids of objects found before."""
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
