"""The elementwise part of a step of a simple recurrent network as one kernel for each direction."""

from __future__ import annotations

from minizone.backend import Array
from minizone.kernels.gpu.cuda import Kernel
from minizone.kernels.gpu.zoneout import FUNCTIONS, or_number
from minizone.kernels.step import Gradients, Masks

_FORWARD = Kernel(
    "rnn_forward",
    "T h, T keep_h, bool relu",
    "T a, T new_h",
    """
    a = relu ? (a < 0 ? T(0) : a) : tanh(a);  // NaN stays NaN, so that a diverging run is noticed
    new_h = zone_out(keep_h, h, a);
    """,
    FUNCTIONS,
)


def rnn_forward(a: Array, h: Array, masks: Masks, relu: bool, new_h: Array, scratch: Array) -> None:
    """As `minizone.kernels.cpu.rnn_forward`."""
    _FORWARD(h, or_number(masks.keep_h, 0), relu, a, new_h)


_BACKWARD = Kernel(
    "rnn_backward",
    "T keep_h, T dh_later, T dh_out, bool relu",
    "T a, T dh_before",
    """
    const T dh = dh_later + dh_out;
    dh_before = keep_h * dh;
    const T dh_new = dh - dh_before;
    a = dh_new * (relu ? (a > 0 ? T(1) : a) : 1 - a * a);  // for a rectifier, a is 0 or NaN unless it is above 0
    """,
)


def rnn_backward(a: Array, masks: Masks, relu: bool, d: Gradients) -> None:
    """As `minizone.kernels.cpu.rnn_backward`; it does not change ``d.h``."""
    _BACKWARD(or_number(masks.keep_h, 0), d.h, or_number(d.h_out, 0), relu, a, d.h_before)
