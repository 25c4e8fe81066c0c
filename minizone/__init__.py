"""minizone: the Zoneout paper from scratch."""

from minizone.backend import Device, array_module
from minizone.errors import UserError
from minizone.gradcheck import GradientError, gradcheck
from minizone.layers import LSTM, Linear, Module, Parameter
from minizone.optim import Adam
from minizone.recurrent import gru, lstm, rnn
from minizone.tensor import Function, Tensor, no_grad
from minizone.zoneout import Zoneout

__version__ = "0.1.0"
__all__ = [
    "LSTM",
    "Adam",
    "Device",
    "Function",
    "GradientError",
    "Linear",
    "Module",
    "Parameter",
    "Tensor",
    "UserError",
    "Zoneout",
    "array_module",
    "gradcheck",
    "gru",
    "lstm",
    "no_grad",
    "rnn",
]
