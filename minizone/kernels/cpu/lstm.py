"""The elementwise part of an LSTM step, in place. The equations are in `minizone/recurrent/lstm.py`."""

from __future__ import annotations

from minizone.backend import Array, array_module
from minizone.kernels.cpu.zoneout import zone_out, zone_out_back
from minizone.kernels.step import Gradients, Masks


def lstm_forward(
    a: Array, h: Array, c: Array, masks: Masks, new_h: Array, new_c: Array, tanh_c: Array, scratch: Array
) -> None:
    """One step of the LSTM after its matrix products.

    In: ``a`` (4H, B) the pre-activations of i, f, g, o; ``h``, ``c`` (H, B) the previous states.
    Out: ``a`` the gates; ``new_h``, ``new_c`` (H, B) the states after zoneout; ``tanh_c`` (H, B) = tanh(c~).
    Scratch: at least (2H, B).
    """
    xp, H = array_module(a), len(h)
    i, f, g, o = a[:H], a[H : 2 * H], a[2 * H : 3 * H], a[3 * H : 4 * H]
    u, v = scratch[:H], scratch[H : 2 * H]
    activate_gates(a)
    xp.multiply(i, g, out=u)
    if masks.input_mask is not None:
        u *= masks.input_mask
    xp.multiply(f, c, out=v)
    u += v  # c~ = f * c + input_mask * i * g
    xp.tanh(u, out=tanh_c)
    zone_out(c, u, masks.keep_c, new_c, v)
    xp.multiply(o, tanh_c, out=u)  # h~ = o * tanh(c~)
    zone_out(h, u, masks.keep_h, new_h, v)


def lstm_backward(a: Array, c: Array, tanh_c: Array, masks: Masks, d: Gradients, scratch: Array) -> None:
    """The backward pass of one step of the LSTM, up to its matrix product.

    In: ``a`` (4H, B) the gates; ``c`` (H, B) the previous cell; ``tanh_c`` (H, B); ``d``, see `Gradients`.
    Out: ``a`` dLoss/d(pre-activations); ``d.c_before``; the part of ``d.h_before`` that does not go through W_h.
    Scratch: (8H, B).
    """
    xp, H = array_module(a), len(c)
    i, f, g, o = a[:H], a[H : 2 * H], a[2 * H : 3 * H], a[3 * H : 4 * H]
    d_gates, w = scratch[: 4 * H], scratch[4 * H : 5 * H]
    di, df, dg, do = d_gates[:H], d_gates[H : 2 * H], d_gates[2 * H : 3 * H], d_gates[3 * H :]
    dh, dc, dc_before = d.h, d.c, d.c_before
    zone_out_back(dh, masks.keep_h, d.h_out, d.h_before)  # dh is now dLoss/dh~
    zone_out_back(dc, masks.keep_c, d.c_out, dc_before)  # dc is now dLoss/dc~, without the part through h~

    xp.multiply(dh, tanh_c, out=do)  # h~ = o * tanh(c~)
    xp.multiply(tanh_c, tanh_c, out=w)
    xp.subtract(1, w, out=w)
    w *= o
    w *= dh
    dc += w  # dc is now complete

    xp.multiply(dc, c, out=df)  # c~ = f * c + input_mask * i * g
    xp.multiply(dc, f, out=w)
    dc_before += w
    d_update = dc if masks.input_mask is None else xp.multiply(dc, masks.input_mask, out=dh)  # dLoss/d(i * g)
    xp.multiply(d_update, g, out=di)
    xp.multiply(d_update, i, out=dg)
    gates_back(a, d_gates, scratch[4 * H :])


def activate_gates(a: Array) -> None:
    """Turn pre-activations (4H, B) of i, f, g, o into gates: sigmoid, sigmoid, tanh, sigmoid.

    One call of tanh computes all of them, since sigmoid(a) = 0.5 * tanh(0.5 * a) + 0.5.
    """
    H = len(a) // 4
    i_and_f, o = a[: 2 * H], a[3 * H :]
    i_and_f *= 0.5
    o *= 0.5
    array_module(a).tanh(a, out=a)
    i_and_f *= 0.5
    i_and_f += 0.5
    o *= 0.5
    o += 0.5


def gates_back(a: Array, d_gates: Array, scratch: Array) -> None:
    """Turn gates i, f, g, o (4H, B) into dLoss/d(pre-activations), from ``d_gates``, dLoss/d(gates). Scratch: (4H, B).

    The derivative is s - s^2 for the sigmoids and 1 - g^2 for g: one subtraction computes all of them.
    """
    H = len(a) // 4
    array_module(a).multiply(a, a, out=scratch)
    a[2 * H : 3 * H] = 1
    a -= scratch
    a *= d_gates


def sigmoid_back(s: Array, ds: Array) -> None:
    """Turn gates ``s`` into dLoss/d(pre-activations), ``ds * s * (1 - s)``; ``ds`` is overwritten."""
    ds *= s
    array_module(s).subtract(1, s, out=s)
    s *= ds
