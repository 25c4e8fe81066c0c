"""The same functions as in `minizone.kernels.cpu`, each fused into one CUDA kernel."""

from __future__ import annotations

from minizone.kernels.gpu.bn_lstm import (
    bn_lstm_backward,
    bn_lstm_forward,
)
from minizone.kernels.gpu.cells import (
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
from minizone.kernels.gpu.optim import (
    adam,
    clip_factor,
    momentum,
    norm,
    rms_prop,
    sgd,
)
from minizone.kernels.gpu.tokens import (
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
    "adam",
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
    "momentum",
    "norm",
    "product",
    "projection",
    "projector",
    "rms_prop",
    "rnn_backward",
    "rnn_forward",
    "sgd",
    "small_blocks",
    "take_columns",
    "times_columns",
]
