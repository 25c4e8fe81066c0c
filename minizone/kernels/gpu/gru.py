"""The elementwise parts of a GRU step, each as one kernel; ``i`` is one unit of one example."""

from __future__ import annotations

from minizone.backend import Array
from minizone.kernels.gpu.cuda import Kernel
from minizone.kernels.gpu.zoneout import FUNCTIONS, or_number
from minizone.kernels.step import Gradients, Mask, Masks

_GATES_FORWARD = Kernel(
    "gru_gates_forward",
    "T h",
    "raw T a, T reset_h",
    """
    const ptrdiff_t n = _ind.size();
    const T r = sigmoid(a[i]), z = sigmoid(a[i + n]);
    reset_h = r * h;
    a[i] = r;  a[i + n] = z;
    """,
    FUNCTIONS,
)


def gru_gates_forward(a: Array, h: Array, reset_h: Array) -> None:
    """As `minizone.kernels.cpu.gru_gates_forward`."""
    _GATES_FORWARD(h, a, reset_h)


_FORWARD = Kernel(
    "gru_forward",
    "T h, T keep_h, T input_mask",
    "raw T a, T new_h",
    """
    const ptrdiff_t n = _ind.size();
    const T z = a[i + n], candidate = tanh(a[i + 2 * n]), masked = input_mask * candidate;
    new_h = zone_out(keep_h, h, masked + z * (h - masked));
    a[i + 2 * n] = candidate;
    """,
    FUNCTIONS,
)


def gru_forward(a: Array, h: Array, masks: Masks, new_h: Array, scratch: Array) -> None:
    """As `minizone.kernels.cpu.gru_forward`."""
    _FORWARD(h, or_number(masks.keep_h, 0), or_number(masks.input_mask, 1), a, new_h)


_BACKWARD = Kernel(
    "gru_backward",
    "T h, T keep_h, T input_mask, T dh_later, T dh_out",
    "raw T a, T dh_before",
    """
    const ptrdiff_t n = _ind.size();
    const T z = a[i + n], candidate = a[i + 2 * n], dh = dh_later + dh_out;
    const T dh_new = dh - keep_h * dh;  // h~ = z * h + (1 - z) * input_mask * candidate
    dh_before = keep_h * dh + dh_new * z;
    a[i + n] = dh_new * (h - input_mask * candidate) * z * (1 - z);
    a[i + 2 * n] = (dh_new - dh_new * z) * input_mask * (1 - candidate * candidate);
    """,
)


def gru_backward(a: Array, h: Array, masks: Masks, d: Gradients, scratch: Array) -> None:
    """As `minizone.kernels.cpu.gru_backward`; it does not change ``d.h``."""
    keep_h, input_mask = or_number(masks.keep_h, 0), or_number(masks.input_mask, 1)
    _BACKWARD(h, keep_h, input_mask, d.h, or_number(d.h_out, 0), a, d.h_before)


_GATES_BACKWARD = Kernel(
    "gru_gates_backward",
    "T h, T hidden_mask, T d_reset",
    "raw T a, T h_before",
    """
    const T r = a[i];
    a[i] = d_reset * h * r * (1 - r);
    h_before += hidden_mask * r * d_reset;
    """,
)


def gru_gates_backward(a: Array, h: Array, hidden_mask: Mask, d_reset: Array, h_before: Array, scratch: Array) -> None:
    """As `minizone.kernels.cpu.gru_gates_backward`; it does not change ``d_reset``."""
    _GATES_BACKWARD(h, or_number(hidden_mask, 1), d_reset, a, h_before)
