"""Code shared by the recurrent experiments: layers made from settings, input dropout, and the norm stabilizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minizone.autograd.tensor import Tensor
from minizone.backend import Array, Generator, array_module, bernoulli
from minizone.experiments.settings import RecurrentSettings
from minizone.layers import GRU, LSTM, RNN, RecurrentLayer, Stack, State, init
from minizone.layers.regularizers import norm_stabilizer


def initializer(settings: RecurrentSettings) -> init.Initializer:
    """The function that draws the initial values of weight matrices."""
    if settings.initialization == "uniform":
        return init.uniform(settings.init_width)
    if settings.initialization in ("id", "identity"):
        return init.INITIALIZERS["ortho"]
    return init.INITIALIZERS[settings.initialization]


def recurrent_stack(
    settings: RecurrentSettings,
    input_size: int,
    steps: int,
    rng: Generator,
    *,
    learned_state: bool = True,
    lstm: Callable[..., RecurrentLayer] = LSTM,
) -> Stack:
    """Make the recurrent layers of a model.

    Parameters
    ----------
    settings : RecurrentSettings
    input_size : int
        D of the first layer.
    steps : int
        Time steps of a training sequence, for static masks.
    rng : Generator
        Draws the initial weights.
    learned_state : bool
        Whether the initial states are parameters; otherwise they are 0.
    lstm : callable
        Makes the layers of --rnn-type lstm.
    """
    H = settings.hidden_size
    layers: list[RecurrentLayer] = []
    for k in range(settings.num_layers):
        D = input_size if k == 0 else H
        options: dict[str, Any] = {
            "zoneout": settings.zoneout(k, steps),
            "drop_inputs": settings.per_layer("drop_prob_igates")[k],
            "drop_hidden": settings.variational_dropout,
            "initializer": initializer(settings),
            "identity": settings.initialization in ("id", "identity"),
            "learned_state": learned_state,
            "rng": rng,
        }
        if settings.rnn_type == "lstm":
            output_gate = "authors" if settings.ogates_zoneout else settings.output_gate
            layers.append(lstm(D, H, output_gate=output_gate, forget_bias=settings.forget_bias, **options))
        elif settings.rnn_type == "gru":
            layers.append(GRU(D, H, **options))
        else:
            layers.append(RNN(D, H, activation=settings.activation, **options))
    return Stack(layers, dropout=settings.dropout, variational=settings.variational_dropout)


def add_norm_stabilizer(loss: Tensor, states: list[State], settings: RecurrentSettings) -> Tensor:
    """The loss plus the weighted norm stabilizer of every layer.

    ``states`` has the states (T, H, B) of every layer, h first.
    """
    if settings.norm_cost_coeff == 0:
        return loss
    for layer in states:
        state = layer[1] if settings.penalty == "cells" else layer[0]
        loss = loss + settings.norm_cost_coeff * norm_stabilizer(state)
    return loss


def input_dropout(x: Any, p: float, rng: Generator | None) -> Any:
    """Drop whole inputs: in training, each column of each time step of x (T, D, B) is 0 with probability ``p``.

    Without ``rng``, in evaluation, all inputs are multiplied by the expectation 1 - p. ``x`` is an array or a Tensor.
    """
    if p == 0:
        return x
    if rng is None:
        return x * (1 - p)
    T, _, B = x.shape
    xp = array_module(x.data if isinstance(x, Tensor) else x)
    return x * xp.asarray(bernoulli(rng, 1 - p, (T, 1, B)))


def token_dropout(tokens: Array, vocabulary_size: int, p: float, rng: Generator | None) -> Array:
    """`input_dropout` of tokens (T, B), as one-hot columns (T, V, B); the tokens themselves when ``p`` is 0."""
    if p == 0:
        return tokens
    xp = array_module(tokens)
    one_hot = (tokens[:, None] == xp.arange(vocabulary_size)[:, None]).astype(xp.float32)  # (T, V, B)
    return input_dropout(one_hot, p, rng)
