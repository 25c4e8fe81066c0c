"""From settings to recurrent layers, and what the experiments do with them in the same way."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from minizone import init
from minizone.backend import Array, Generator, array_module, bernoulli, to_host
from minizone.experiments.settings import RecurrentSettings
from minizone.layers import GRU, LSTM, RNN, RecurrentLayer, Stack, State
from minizone.regularizers import norm_stabilizer
from minizone.tensor import Tensor


def initializer(settings: RecurrentSettings) -> init.Initializer:
    """The initial values of weight matrices."""
    name = settings.initialization
    return (
        init.uniform(settings.init_width) if name == "uniform" else init.INITIALIZERS["ortho" if name == "id" else name]
    )


def recurrent_stack(settings: RecurrentSettings, input_size: int, steps: int, rng: Generator, **options: Any) -> Stack:
    """The recurrent layers of a model, for inputs of ``input_size`` and sequences of ``steps`` time steps."""
    layers: list[RecurrentLayer] = []
    for k in range(settings.num_layers):
        shared: dict[str, Any] = {
            "zoneout": settings.zoneout(k, steps),
            "drop_inputs": settings.per_layer("drop_prob_igates")[k],
            "drop_hidden": settings.variational_dropout,
            "initializer": initializer(settings),
            "identity": settings.initialization == "id",
            "rng": rng,
            **options,
        }
        sizes = (settings.hidden_size if k else input_size, settings.hidden_size)
        if settings.rnn_type == "lstm":
            gate = "authors" if settings.ogates_zoneout else settings.output_gate
            layers.append(LSTM(*sizes, output_gate=gate, **shared))
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


def predicted_symbols(windows: Iterable[tuple[Tensor, Array]]) -> dict[str, Array]:
    """``target``, ``log_probability`` and ``predicted``, each (N,), from scores (T, V, 1) and targets (T, 1)."""
    columns: list[tuple[Array, ...]] = []
    for scores, targets in windows:
        s, target = to_host(scores.data)[:, :, 0].astype(np.float64), to_host(targets)[:, 0]
        s -= s.max(axis=1, keepdims=True)
        right = s[np.arange(len(s)), target]
        columns.append((target, right - np.log(np.exp(s).sum(axis=1)), s.argmax(axis=1)))
    names = ("target", "log_probability", "predicted")
    return {name: np.concatenate(parts) for name, parts in zip(names, zip(*columns, strict=True), strict=True)}


def dropped_tokens(tokens: Array, p: float, size: int, rng: Generator | None) -> Array:
    """Input dropout of tokens (T, B): their one-hot columns (T, size, B), each with probability ``p`` all 0.

    In evaluation (rng None) the columns have their expectation, 1 - p. With p = 0 the tokens stay tokens.
    """
    if p == 0:
        return tokens
    xp, (T, B) = array_module(tokens), tokens.shape
    columns = (tokens[:, None] == xp.arange(size)[:, None]).astype(xp.float32)
    columns *= 1 - p if rng is None else xp.asarray(bernoulli(rng, 1 - p, (T, 1, B)))
    return columns
