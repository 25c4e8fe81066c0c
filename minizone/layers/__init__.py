"""Layers: the functions of this package with parameters of their own."""

from minizone.layers.module import Buffer, Module, Parameter
from minizone.layers.recurrent import BNLSTM, GRU, LSTM, RNN, Dropout, Embedding, Linear, RecurrentLayer, Stack, State

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
