"""Layers: the functions of this package, each with its parameters."""

from minizone.layers.basic import Dropout, Embedding, Linear
from minizone.layers.module import Buffer, Module, Parameter
from minizone.layers.recurrent import BNLSTM, GRU, LSTM, RNN, RecurrentLayer, Stack, State

__all__ = [
    "BNLSTM",
    "GRU",
    "LSTM",
    "RNN",
    "Buffer",
    "Dropout",
    "Embedding",
    "Linear",
    "Module",
    "Parameter",
    "RecurrentLayer",
    "Stack",
    "State",
]
