"""From settings to recurrent layers, and what the experiments do with them in the same way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minizone.autograd.tensor import Tensor
from minizone.backend import Array, Generator, array_module, bernoulli
from minizone.experiments.settings import RecurrentSettings
from minizone.layers import GRU, LSTM, RNN, RecurrentLayer, Stack, State, init
from minizone.layers.regularizers import norm_stabilizer

IDENTITY = ("id", "identity")


def initializer(settings: RecurrentSettings) -> init.Initializer:
    """The initial values of weight matrices."""
    name = settings.initialization
    if name == "uniform":
        return init.uniform(settings.init_width)
    return init.INITIALIZERS["ortho" if name in IDENTITY else name]


def recurrent_stack(
    settings: RecurrentSettings,
    input_size: int,
    steps: int,
    rng: Generator,
    *,
    lstm: Callable[..., RecurrentLayer] = LSTM,
    **options: Any,
) -> Stack:
    """The recurrent layers of a model, for inputs of ``input_size`` and sequences of ``steps`` time steps.

    ``lstm`` makes the layers of --rnn-type lstm; further ``options`` go to every layer.
    """
    layers: list[RecurrentLayer] = []
    for k in range(settings.num_layers):
        shared: dict[str, Any] = {
            "zoneout": settings.zoneout(k, steps),
            "drop_inputs": settings.per_layer("drop_prob_igates")[k],
            "drop_hidden": settings.variational_dropout,
            "initializer": initializer(settings),
            "identity": settings.initialization in IDENTITY,
            "rng": rng,
            **options,
        }
        sizes = (settings.hidden_size if k else input_size, settings.hidden_size)
        if settings.rnn_type == "lstm":
            gate = "authors" if settings.ogates_zoneout else settings.output_gate
            layers.append(lstm(*sizes, output_gate=gate, forget_bias=settings.forget_bias, **shared))
        elif settings.rnn_type == "gru":
            layers.append(GRU(*sizes, **shared))
        else:
            layers.append(RNN(*sizes, activation=settings.activation, **shared))
    return Stack(layers, dropout=settings.dropout, variational=settings.variational_dropout)


def penalized(loss: Tensor, states: list[State], settings: RecurrentSettings) -> Tensor:
    """The loss with the norm stabilizer on the states of every layer."""
    if settings.norm_cost_coeff:
        which = 1 if settings.penalty == "cells" else 0
        for layer in states:
            loss = loss + settings.norm_cost_coeff * norm_stabilizer(layer[which])
    return loss


def input_factor(p: float, x: Array, rng: Generator | None) -> Array | float:
    """Input dropout: the factor, broadcastable to (T, 1, B), of tokens (T, B) as columns, or of pixels (T, 1, B).

    0 with probability ``p``, else 1; in evaluation (no rng) the expectation, 1 - p.
    """
    if p == 0 or rng is None:
        return 1 - p
    return array_module(x).asarray(bernoulli(rng, 1 - p, (x.shape[0], 1, x.shape[-1])))


def dropped_tokens(tokens: Array, p: float, size: int, rng: Generator | None) -> Array:
    """Tokens (T, B) with input dropout: one-hot columns (T, size, B) times `input_factor`; without any, the tokens."""
    if p == 0:
        return tokens
    xp = array_module(tokens)
    columns = (tokens[:, None] == xp.arange(size)[:, None]).astype(xp.float32)
    return columns * input_factor(p, tokens, rng)
