"""The elementwise parts of a GRU step, in place. The equations are in `minizone/recurrent/gru.py`."""

from __future__ import annotations

from minizone.backend import Array, array_module
from minizone.kernels.cpu.lstm import sigmoid_back
from minizone.kernels.cpu.zoneout import zone_out, zone_out_back
from minizone.kernels.step import Gradients, Mask, Masks


def gru_gates_forward(a: Array, h: Array, reset_h: Array) -> None:
    """The first half of a step, up to its second matrix product.

    In: the first 2H rows of ``a`` (3H, B), the pre-activations of r and z; ``h`` (H, B) the previous state, after its
    hidden mask. Out: these rows become the gates; ``reset_h`` (H, B) = r * h.
    """
    xp, H = array_module(a), len(h)
    gates = a[: 2 * H]
    gates *= 0.5
    xp.tanh(gates, out=gates)
    gates *= 0.5
    gates += 0.5
    xp.multiply(a[:H], h, out=reset_h)


def gru_forward(a: Array, h: Array, masks: Masks, new_h: Array, scratch: Array) -> None:
    """The second half of a step.

    In: ``a`` (3H, B) the gates r and z and the pre-activation of n; ``h`` (H, B) the previous state.
    Out: ``a`` all gates; ``new_h`` (H, B) the state after zoneout. Scratch: at least (2H, B).
    """
    xp, H = array_module(a), len(h)
    z, n = a[H : 2 * H], a[2 * H :]
    u, v = scratch[:H], scratch[H : 2 * H]
    xp.tanh(n, out=n)
    masked_n = n if masks.input_mask is None else xp.multiply(n, masks.input_mask, out=u)
    xp.subtract(h, masked_n, out=v)
    v *= z
    xp.add(masked_n, v, out=u)  # h~ = z * h + (1 - z) * input_mask * n
    zone_out(h, u, masks.keep_h, new_h, v)


def gru_backward(a: Array, h: Array, masks: Masks, d: Gradients, scratch: Array) -> None:
    """The backward pass of the second half of a step, up to its matrix product.

    In: ``a`` (3H, B) the gates; ``h`` (H, B) the previous state; ``d``, see `Gradients`.
    Out: the rows of z and n in ``a``, dLoss/d(pre-activations); the part of ``d.h_before`` that does not go through
    a matrix product. Scratch: at least (2H, B).
    """
    xp, H = array_module(a), len(h)
    z, n = a[H : 2 * H], a[2 * H :]
    dz, w = scratch[:H], scratch[H : 2 * H]
    dh, dh_before = d.h, d.h_before
    zone_out_back(dh, masks.keep_h, d.h_out, dh_before)  # dh is now dLoss/dh~, h~ = z * h + (1 - z) * input_mask * n
    if masks.input_mask is None:
        xp.subtract(h, n, out=dz)
    else:
        xp.multiply(n, masks.input_mask, out=w)
        xp.subtract(h, w, out=dz)
    dz *= dh
    xp.multiply(dh, z, out=w)
    dh_before += w
    dh -= w  # dLoss/d(input_mask * n)
    if masks.input_mask is not None:
        dh *= masks.input_mask
    xp.multiply(n, n, out=n)  # da_n = dn * (1 - n^2)
    xp.subtract(1, n, out=n)
    n *= dh
    sigmoid_back(z, dz)


def gru_gates_backward(a: Array, h: Array, hidden_mask: Mask, d_reset: Array, h_before: Array, scratch: Array) -> None:
    """The backward pass of the first half of a step.

    In: the first H rows of ``a``, the gate r; ``h`` (H, B) the previous state, after its hidden mask; ``d_reset``
    (H, B) dLoss/d(r * h), overwritten. Out: these rows become dLoss/d(pre-activation of r); what goes through r * h is
    added to ``h_before``, dLoss/d(previous state). Scratch: at least (H, B).
    """
    xp, r, dr = array_module(a), a[: len(h)], scratch[: len(h)]
    xp.multiply(d_reset, h, out=dr)
    d_reset *= r
    if hidden_mask is not None:
        d_reset *= hidden_mask
    h_before += d_reset
    sigmoid_back(r, dr)
