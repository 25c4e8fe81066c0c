"""The elementwise part of a step of a simple recurrent network, in place; see `minizone/recurrent/rnn.py`."""

from __future__ import annotations

from minizone.backend import Array, array_module
from minizone.kernels.cpu.zoneout import zone_out, zone_out_back
from minizone.kernels.step import Gradients, Masks


def rnn_forward(a: Array, h: Array, masks: Masks, relu: bool, new_h: Array, scratch: Array) -> None:
    """One step after its matrix product.

    In: ``a`` (H, B) the pre-activations; ``h`` (H, B) the previous state. Out: ``a`` = h~, its tanh or positive
    part; ``new_h`` (H, B) the state after zoneout. Scratch: at least (2H, B).
    """
    xp, H = array_module(a), len(h)
    u, v = scratch[:H], scratch[H : 2 * H]
    if relu and a.dtype.kind == "c":
        a[...] = xp.where(a.real <= 0, 0, a)
    elif relu:
        xp.maximum(a, 0, out=a)  # NaN stays NaN; a product would turn -inf into NaN
    else:
        xp.tanh(a, out=a)
    u[...] = a
    zone_out(h, u, masks.keep_h, new_h, v)


def rnn_backward(a: Array, masks: Masks, relu: bool, d: Gradients) -> None:
    """The backward pass of one step, up to its matrix product.

    In: ``a`` (H, B) = h~; ``d``, see `Gradients`. Out: ``a`` dLoss/d(pre-activations); the part of ``d.h_before`` that
    does not go through W_h.
    """
    xp, dh = array_module(a), d.h
    zone_out_back(dh, masks.keep_h, d.h_out, d.h_before)  # dh is now dLoss/dh~
    if relu:
        xp.sign(a.real, out=a)  # 1 where h~ > 0, 0 where it is 0, NaN where it is NaN
        a *= dh
    else:
        xp.multiply(a, a, out=a)  # da = dh~ * (1 - h~^2)
        xp.subtract(1, a, out=a)
        a *= dh
