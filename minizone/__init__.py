"""minizone: the Zoneout paper from scratch."""

from minizone.autograd.gradcheck import GradientError, gradcheck
from minizone.autograd.ops import softmax_cross_entropy
from minizone.autograd.tensor import Function, Tensor, no_grad
from minizone.backend import Device, array_module, stream
from minizone.errors import UserError
from minizone.layers import BNLSTM, GRU, LSTM, RNN, Dropout, Embedding, Linear, RecurrentLayer, Stack
from minizone.layers.module import Module, Parameter
from minizone.optim import SGD, Adam, Momentum, RMSProp
from minizone.recurrent.bn_lstm import bn_lstm
from minizone.recurrent.gru import gru
from minizone.recurrent.lstm import lstm
from minizone.recurrent.rnn import rnn
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
    "RecurrentLayer",
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
    "softmax_cross_entropy",
    "stream",
]
