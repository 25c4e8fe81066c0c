"""The same functions as in `minizone.kernels.cpu`, each fused into one CUDA kernel."""

from __future__ import annotations

from minizone.kernels.gpu.bn_lstm import bn_lstm_backward, bn_lstm_forward
from minizone.kernels.gpu.gru import gru_backward, gru_forward, gru_gates_backward, gru_gates_forward
from minizone.kernels.gpu.lstm import lstm_backward, lstm_forward
from minizone.kernels.gpu.optim import clip_factor, norm
from minizone.kernels.gpu.products import PART, add_product, product, project, times_stack
from minizone.kernels.gpu.rnn import rnn_backward, rnn_forward
from minizone.kernels.gpu.softmax import cross_entropy_backward, cross_entropy_forward, which_count
from minizone.kernels.gpu.tokens import add_up_tokens, check_tokens, take_columns

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
