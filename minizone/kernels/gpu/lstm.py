"""The elementwise part of an LSTM step as one kernel for each direction; ``i`` is one unit of one example."""

from __future__ import annotations

from minizone.backend import Array
from minizone.kernels.gpu.cuda import Kernel
from minizone.kernels.gpu.zoneout import FUNCTIONS, or_number
from minizone.kernels.step import Gradients, Masks

_FORWARD = Kernel(
    "lstm_forward",
    "T h, T c, T keep_h, T keep_c, T input_mask",
    "raw T a, T new_h, T new_c, T tanh_c",
    """
    const ptrdiff_t n = _ind.size();
    const T in = sigmoid(a[i]), forget = sigmoid(a[i + n]), g = tanh(a[i + 2 * n]), out = sigmoid(a[i + 3 * n]);
    const T candidate = input_mask * (in * g) + forget * c;
    tanh_c = tanh(candidate);
    new_c = zone_out(keep_c, c, candidate);
    new_h = zone_out(keep_h, h, out * tanh_c);
    a[i] = in;  a[i + n] = forget;  a[i + 2 * n] = g;  a[i + 3 * n] = out;
    """,
    FUNCTIONS,
)


def lstm_forward(
    a: Array, h: Array, c: Array, masks: Masks, new_h: Array, new_c: Array, tanh_c: Array, scratch: Array
) -> None:
    """As `minizone.kernels.cpu.lstm_forward`."""
    keep_h, keep_c = or_number(masks.keep_h, 0), or_number(masks.keep_c, 0)
    _FORWARD(h, c, keep_h, keep_c, or_number(masks.input_mask, 1), a, new_h, new_c, tanh_c)


_BACKWARD = Kernel(
    "lstm_backward",
    "T c, T tanh_c, T keep_h, T keep_c, T input_mask, T dh_later, T dc_later, T dh_out, T dc_out",
    "raw T a, T dh_before, T dc_before",
    """
    const ptrdiff_t n = _ind.size();
    const T in = a[i], forget = a[i + n], g = a[i + 2 * n], out = a[i + 3 * n];
    const T dh = dh_later + dh_out, dc = dc_later + dc_out;
    dh_before = keep_h * dh;
    const T dh_new = dh - dh_before;  // h~ = out * tanh(c~)
    const T dc_new = dc - keep_c * dc + dh_new * out * (1 - tanh_c * tanh_c);  // c~ = forget * c + input_mask * in * g
    dc_before = keep_c * dc + dc_new * forget;
    const T d_update = dc_new * input_mask;
    a[i] = d_update * g * in * (1 - in);
    a[i + n] = dc_new * c * forget * (1 - forget);
    a[i + 2 * n] = d_update * in * (1 - g * g);
    a[i + 3 * n] = dh_new * tanh_c * out * (1 - out);
    """,
)


def lstm_backward(a: Array, c: Array, tanh_c: Array, masks: Masks, d: Gradients, scratch: Array) -> None:
    """As `minizone.kernels.cpu.lstm_backward`; it does not change ``d.h`` and ``d.c``."""
    keep_h, keep_c = or_number(masks.keep_h, 0), or_number(masks.keep_c, 0)
    h_out, c_out = or_number(d.h_out, 0), or_number(d.c_out, 0)
    mask = or_number(masks.input_mask, 1)
    _BACKWARD(c, tanh_c, keep_h, keep_c, mask, d.h, d.c, h_out, c_out, a, d.h_before, d.c_before)
