"""The arithmetic around the matrix products, in place in NumPy."""

from __future__ import annotations

from minizone.kernels.cpu.bn_lstm import bn_lstm_backward, bn_lstm_forward
from minizone.kernels.cpu.gru import gru_backward, gru_forward, gru_gates_backward, gru_gates_forward
from minizone.kernels.cpu.lstm import lstm_backward, lstm_forward
from minizone.kernels.cpu.optim import clip_factor, norm
from minizone.kernels.cpu.products import PART, add_product, product, project, times_stack
from minizone.kernels.cpu.rnn import rnn_backward, rnn_forward
from minizone.kernels.cpu.softmax import cross_entropy_backward, cross_entropy_forward, which_count
from minizone.kernels.cpu.tokens import add_up_tokens, check_tokens, take_columns

__all__ = [
    "PART",
    "add_product",
    "add_up_tokens",
    "bn_lstm_backward",
    "bn_lstm_forward",
    "check_tokens",
    "clip_factor",
    "cross_entropy_backward",
    "cross_entropy_forward",
    "gru_backward",
    "gru_forward",
    "gru_gates_backward",
    "gru_gates_forward",
    "lstm_backward",
    "lstm_forward",
    "norm",
    "product",
    "project",
    "rnn_backward",
    "rnn_forward",
    "take_columns",
    "times_stack",
    "which_count",
]
