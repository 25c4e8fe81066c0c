"""minizone: the Zoneout paper from scratch."""

import os

# OpenBLAS's threads, when out of work, sleep after 2^21 cycles, 1 ms, and not after 2^26: until then they keep a core
# from the threads of `minizone.threads`. NumPy reads it when it is first imported: import minizone before.
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "21")

from minizone.backend import Device, array_module
from minizone.batchnorm import bn_lstm
from minizone.errors import UserError
from minizone.gradcheck import GradientError, gradcheck
from minizone.layers import BNLSTM, GRU, LSTM, RNN, Dropout, Embedding, Linear, Stack
from minizone.module import Module, Parameter
from minizone.optim import SGD, Adam, Momentum, RMSProp
from minizone.recurrent import gru, lstm, rnn
from minizone.tensor import Function, Tensor, no_grad
from minizone.zoneout import Zoneout

__version__ = "0.1.0"
__all__ = [
    "BNLSTM",
    "GRU",
    "LSTM",
    "RNN",
    "SGD",
    "Adam",
    "Device",
    "Dropout",
    "Embedding",
    "Function",
    "GradientError",
    "Linear",
    "Module",
    "Momentum",
    "Parameter",
    "RMSProp",
    "Stack",
    "Tensor",
    "UserError",
    "Zoneout",
    "array_module",
    "bn_lstm",
    "gradcheck",
    "gru",
    "lstm",
    "no_grad",
    "rnn",
]
