"""Layers: parameters and the functions that use them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from minizone import init
from minizone.backend import Array, Generator, array_module
from minizone.recurrent import lstm
from minizone.tensor import Tensor
from minizone.zoneout import Zoneout, check_probability, input_mask

State = tuple[Tensor, Tensor]


class Parameter(Tensor):
    """A tensor that is learned."""

    __slots__ = ()


class Module:
    """Something with parameters: its own attributes, and those of the modules among its attributes.

    Their order is the order in which ``__init__`` assigned them, in every process.
    """

    def named_parameters(self, prefix: str = "") -> Iterator[tuple[str, Parameter]]:
        """Pairs like ``("lstm.W_x", parameter)``."""
        for name, value in vars(self).items():
            if isinstance(value, Parameter):
                yield prefix + name, value
            elif isinstance(value, Module):
                yield from value.named_parameters(f"{prefix}{name}.")

    def parameters(self) -> list[Parameter]:
        return [parameter for _, parameter in self.named_parameters()]

    def state_dict(self) -> dict[str, Array]:
        """Name to array; the arrays are those of the parameters, not copies."""
        return {name: parameter.data for name, parameter in self.named_parameters()}

    def load_state_dict(self, arrays: Mapping[str, Array]) -> None:
        """Copy arrays into the parameters; ValueError unless names and shapes are exactly those of the module."""
        own = dict(self.named_parameters())
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


class Linear(Module):
    """``y[t] = W @ x[t] + b`` for x (T, D, B) or (D, B): class scores (T, V, B) from states (T, H, B).

    Parameters W (V, D) and b (V,).
    """

    def __init__(
        self,
        input_size: int,
        output_size: int,
        *,
        initializer: init.Initializer = init.orthogonal_blocks,
        rng: Generator,
        dtype: Any = np.float32,
    ):
        self.W = Parameter(initializer(rng, (output_size, input_size), dtype))
        self.b = Parameter(np.zeros(output_size, dtype))

    def __call__(self, x: Tensor) -> Tensor:
        return self.W @ x + self.b.reshape(-1, 1)


class LSTM(Module):
    """An LSTM with zoneout and learned initial states: `minizone.lstm` with parameters W_x, W_h, b, h0, c0.

    Parameters
    ----------
    input_size, hidden_size : int
        D and H. For token inputs, D is the number of kinds of tokens.
    zoneout : Zoneout
        Probabilities and kind of masks.
    drop_inputs : float in [0, 1]
        Recurrent dropout (Semeniuta et al., 2016): probability that i * g of a unit is dropped.
    forget_bias : float
        Initial bias of the forget gate; the other biases start at 0.
    initializer : callable
        For W_x and W_h, see `minizone.init`.
    rng : numpy.random.Generator
        For the initial weights, and the seed of static masks.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        zoneout: Zoneout = Zoneout(),  # noqa: B008  (frozen)
        drop_inputs: float = 0.0,
        forget_bias: float = 1.0,
        initializer: init.Initializer = init.orthogonal_blocks,
        rng: Generator,
        dtype: Any = np.float32,
    ):
        check_probability("drop_inputs", drop_inputs)
        H = hidden_size
        self.zoneout, self.drop_inputs = zoneout, drop_inputs
        self.W_x = Parameter(initializer(rng, (4 * H, input_size), dtype))
        self.W_h = Parameter(initializer(rng, (4 * H, H), dtype))
        self.b = Parameter(np.zeros(4 * H, dtype))
        self.b.data[H : 2 * H] = forget_bias
        self.h0 = Parameter(np.zeros(H, dtype))
        self.c0 = Parameter(np.zeros(H, dtype))
        self._static_seed = int(rng.integers(2**63)) if zoneout.static_steps else None

    def __call__(self, x: Any, state: State | None = None, rng: Generator | None = None) -> tuple[Tensor, State]:
        """``(h, (h_T, c_T))`` for x (T, D, B) or tokens (T, B): all states h (T, H, B) and the last ones, each (H, B).

        ``state`` (h, c), each (H, B), is where the sequence starts; None: the learned h0 and c0. ``rng`` given means
        training, and masks are drawn from it; None means evaluation, and masks are their expectation.
        """
        T, H, B = x.shape[0], self.h0.shape[0], x.shape[-1]
        xp, dtype = array_module(self.W_h.data), self.W_h.dtype
        static = None if self._static_seed is None else np.random.default_rng(self._static_seed)
        keep_h, keep_c = (
            mask if mask is None or isinstance(mask, float) else xp.asarray(mask)
            for mask in self.zoneout.masks(T, H, B, rng, static, dtype)
        )
        if state is None:
            ones = xp.ones((1, B), dtype)
            state = (self.h0.reshape(-1, 1) * ones, self.c0.reshape(-1, 1) * ones)  # (H, B)
        h, c = lstm(
            x, *state, self.W_x, self.W_h, self.b,
            keep_h=keep_h, keep_c=keep_c, input_mask=input_mask(self.drop_inputs, T, H, B, rng, dtype),
        )  # fmt: skip
        return h, (h[-1], c[-1])
