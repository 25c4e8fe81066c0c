"""The arithmetic around the matrix products, in place in NumPy."""

from __future__ import annotations

from minizone.kernels.cpu.bn_lstm import (
    bn_lstm_backward,
    bn_lstm_forward,
    bn_lstm_gates_backward,
    bn_lstm_gates_forward,
    bn_lstm_output_backward,
    bn_lstm_output_forward,
    normalize_backward,
    normalize_forward,
)
from minizone.kernels.cpu.cells import (
    add_product,
    gru_backward,
    gru_forward,
    gru_gates_backward,
    gru_gates_forward,
    lstm_backward,
    lstm_forward,
    product,
    rnn_backward,
    rnn_forward,
    small_blocks,
)
from minizone.kernels.cpu.optim import clip_factor, norm
from minizone.kernels.cpu.tokens import (
    PART,
    add_up_tokens,
    check_tokens,
    cross_entropy_backward,
    cross_entropy_forward,
    projection,
    projector,
    take_columns,
    times_columns,
)

__all__ = [
    "PART",
    "add_product",
    "add_up_tokens",
    "bn_lstm_backward",
    "bn_lstm_forward",
    "bn_lstm_gates_backward",
    "bn_lstm_gates_forward",
    "bn_lstm_output_backward",
    "bn_lstm_output_forward",
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
    "normalize_backward",
    "normalize_forward",
    "product",
    "projection",
    "projector",
    "rnn_backward",
    "rnn_forward",
    "small_blocks",
    "take_columns",
    "times_columns",
]
