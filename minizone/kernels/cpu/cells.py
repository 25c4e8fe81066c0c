"""The pointwise part of each cell: forward, and backward in mirror order, in place, without an allocation.

``a`` (4H, B) holds the pre-activations when a forward starts and the gates when it ends; the backward finds the gates
there and leaves dLoss/d(pre-activations). Masks broadcast to (H, B), or are None. A state after zoneout is computed
as ``keep * old + (new - keep * new)``: with keep = 1 that is the old value and with keep = 0 the new one, to the bit.
"""

from __future__ import annotations

from minizone.backend import Array, array_module

SMALL_PRODUCT = 1_000_000  # multiplications up to which OpenBLAS has a kernel that does not pack its operands
FEWEST_ROWS = 8


def small_blocks(W: Array, columns: int, pieces: int = 1) -> Array:
    """``W`` (M, K) cut into blocks (pieces, n, M / n, K / pieces), each times ``columns`` columns a small product.

    OpenBLAS copies (packs) a matrix before it multiplies, for a handful of columns a third of its time, and does not
    where rows * K * columns is at most 10^6. Seen for two threads with 16 columns each and H = 1000: W_h @ h 130 ms a
    100 steps instead of 183, W_h.T @ da, cut into the four gates as well, 124 instead of 173.
    Where no block of 8 rows or more divides M, the rows stay together.
    """
    M, K = W.shape
    most = min(M, SMALL_PRODUCT * pieces // max(1, K * columns))
    rows = next((m for m in range(most, FEWEST_ROWS - 1, -1) if M % m == 0), M)
    blocks = W.reshape(M // rows, rows, pieces, K // pieces).transpose(2, 0, 1, 3)
    return array_module(W).ascontiguousarray(blocks)


def product(blocks: Array, h: Array, out: Array, scratch: Array) -> Array:
    """``W @ h`` into ``out`` (M, B), for the `small_blocks` of W; scratch holds at least pieces * M * B numbers."""
    xp, (pieces, n, rows, K) = array_module(h), blocks.shape
    if pieces == 1:
        xp.matmul(blocks[0], h, out=out.reshape(n, rows, h.shape[-1]))
        return out
    parts = scratch.reshape(-1)[: pieces * out.size].reshape(pieces, n, rows, -1)
    xp.matmul(blocks, h.reshape(pieces, 1, K, -1), out=parts)
    xp.add.reduce(parts, axis=0, out=out.reshape(n, rows, -1))
    return out


def add_product(blocks: Array, h: Array, out: Array, mask: Array | None, room: Array, scratch: Array) -> None:
    """``out += mask * (W @ h)``, (M, B), as `product`; room is for M * B numbers of its own."""
    found = product(blocks, h, room, scratch)
    if mask is not None:
        found *= mask
    out += found


def lstm_forward(
    a: Array,
    h: Array,
    c: Array,
    keep_h: Array | None,
    keep_c: Array | None,
    input_mask: Array | None,
    new_h: Array,
    new_c: Array,
    tanh_c: Array,
    scratch: Array,
) -> None:
    """One step of the LSTM after its products.

    In: ``a`` (4H, B) pre-activations, in the order i, f, o, g, halved but for g; ``h``, ``c`` (H, B) the previous
    states. Out: ``a`` the gates; ``new_h``, ``new_c`` (H, B) the states after zoneout; ``tanh_c`` (H, B) = tanh(c~).
    Scratch: (4H, B).
    """
    xp, H = array_module(a), len(c)
    i, f, o, g = a[:H], a[H : 2 * H], a[2 * H : 3 * H], a[3 * H :]
    u, v, sigmoids = scratch[:H], scratch[H : 2 * H], a[: 3 * H]
    xp.tanh(a, out=a)  # of all gates at once: sigmoid(a) = 0.5 tanh(0.5 a) + 0.5
    sigmoids *= 0.5
    sigmoids += 0.5
    xp.multiply(i, g, out=u)
    if input_mask is not None:
        u *= input_mask
    u += xp.multiply(f, c, out=v)  # c~
    xp.tanh(u, out=tanh_c)
    _mix(c, u, keep_c, new_c, v)
    xp.multiply(o, tanh_c, out=u)  # h~, from the candidate cell
    _mix(h, u, keep_h, new_h, v)


def lstm_backward(
    a: Array,
    c: Array,
    tanh_c: Array,
    keep_h: Array | None,
    keep_c: Array | None,
    input_mask: Array | None,
    dh: Array,
    dc: Array,
    more_h: Array | None,
    more_c: Array | None,
    dh_old: Array,
    dc_old: Array,
    scratch: Array,
) -> None:
    """One step of the LSTM backwards, up to its products.

    In: ``a`` (4H, B) the gates, in the order i, f, o, g; ``c`` (H, B) the previous cell; ``dh``, ``dc`` (H, B)
    dLoss/d(the states after zoneout), which are used up; ``more_h``, ``more_c`` (H, B) what the loss asks of the
    previous states by itself. Out: ``a`` dLoss/d(pre-activations); ``dc_old`` dLoss/d(previous cell); ``dh_old`` the
    part of dLoss/d(previous h) that does not go through W_h; ``dc`` dLoss/dc~. Scratch: (4H, B).
    """
    xp, H = array_module(a), len(c)
    i, f, o, g = a[:H], a[H : 2 * H], a[2 * H : 3 * H], a[3 * H :]
    di, df, do, w = (scratch[k * H : (k + 1) * H] for k in range(4))
    sigmoids, d_sigmoids = a[: 3 * H], scratch[: 3 * H]
    _unmix(dh, keep_h, more_h, dh_old)  # dh: now of h~ = o tanh(c~)
    _unmix(dc, keep_c, more_c, dc_old)  # dc: now of c~, as far as it does not go through h~
    xp.multiply(tanh_c, tanh_c, out=w)
    xp.subtract(1, w, out=w)
    w *= o
    w *= dh
    dc += w  # of c~ = f c + input_mask i g
    xp.multiply(dh, tanh_c, out=do)
    dc_old += xp.multiply(dc, f, out=w)
    xp.multiply(dc, c, out=df)  # of f
    d_update = dc if input_mask is None else xp.multiply(dc, input_mask, out=dh)  # of i g
    xp.multiply(d_update, g, out=di)  # of i
    xp.multiply(g, g, out=w)
    xp.subtract(1, w, out=w)
    w *= d_update
    xp.multiply(w, i, out=g)  # of the pre-activation of g
    d_sigmoids *= sigmoids
    xp.subtract(1, sigmoids, out=sigmoids)
    sigmoids *= d_sigmoids  # of the pre-activations of the sigmoids: d * s (1 - s)


def gru_gates_forward(a: Array, h: Array, reset_h: Array) -> None:
    """The first half of a step of the GRU, up to its second product.

    In: the first 2H rows of ``a`` (3H, B) hold half of the pre-activations of r and z; ``h`` (H, B) as the weights see
    it. Out: these rows the gates; ``reset_h`` (H, B) = r * h.
    """
    xp, H = array_module(a), len(h)
    gates = a[: 2 * H]
    xp.tanh(gates, out=gates)
    gates *= 0.5
    gates += 0.5
    xp.multiply(a[:H], h, out=reset_h)


def gru_forward(
    a: Array, h: Array, keep_h: Array | None, input_mask: Array | None, new_h: Array, scratch: Array
) -> None:
    """The second half of a step of the GRU.

    In: ``a`` (3H, B) the gates r and z and the pre-activation of n; ``h`` (H, B) the previous state. Out: ``a`` all
    gates; ``new_h`` (H, B) the state after zoneout. Scratch: (3H, B).
    """
    xp, H = array_module(a), len(h)
    z, n = a[H : 2 * H], a[2 * H :]
    u, v = scratch[:H], scratch[H : 2 * H]
    xp.tanh(n, out=n)
    shown = n if input_mask is None else xp.multiply(n, input_mask, out=u)
    xp.subtract(h, shown, out=v)
    v *= z
    xp.add(shown, v, out=u)  # h~ = z h + (1 - z) input_mask n
    _mix(h, u, keep_h, new_h, v)


def gru_backward(
    a: Array,
    h: Array,
    keep_h: Array | None,
    input_mask: Array | None,
    dh: Array,
    more_h: Array | None,
    dh_old: Array,
    scratch: Array,
) -> None:
    """The second half of a step of the GRU backwards, up to its product.

    In: ``a`` (3H, B) the gates; ``h`` (H, B) the previous state; ``dh`` dLoss/d(the state after zoneout), used up;
    ``more_h`` (H, B) what the loss asks of the previous state by itself. Out: the rows of z and n of ``a``
    dLoss/d(pre-activations); ``dh_old`` the part of dLoss/d(previous state) that goes through no product. Scratch:
    (3H, B).
    """
    xp, H = array_module(a), len(h)
    z, n = a[H : 2 * H], a[2 * H :]
    dz, w = scratch[:H], scratch[H : 2 * H]
    _unmix(dh, keep_h, more_h, dh_old)  # dh: now of h~
    dh_old += xp.multiply(dh, z, out=w)
    if input_mask is None:
        xp.subtract(h, n, out=dz)
    else:
        xp.subtract(h, xp.multiply(n, input_mask, out=w), out=dz)
    dz *= dh
    dh -= xp.multiply(dh, z, out=w)  # of input_mask n
    if input_mask is not None:
        dh *= input_mask
    xp.multiply(n, n, out=n)
    xp.subtract(1, n, out=n)
    n *= dh  # of the pre-activation of n
    dz *= z
    xp.subtract(1, z, out=z)
    z *= dz  # of the pre-activation of z


def gru_gates_backward(
    a: Array, h: Array, hidden_mask: Array | None, d_reset: Array, dh_old: Array, scratch: Array
) -> None:
    """The first half of a step of the GRU backwards.

    In: the first H rows of ``a`` the gate r; ``h`` (H, B) as the weights see it, behind ``hidden_mask``; ``d_reset``
    (H, B) dLoss/d(r * h), used up. Out: these rows dLoss/d(pre-activation of r); added to ``dh_old``: what goes through
    r * h. Scratch: (3H, B).
    """
    xp, r, dr = array_module(a), a[: len(h)], scratch[: len(h)]
    xp.multiply(d_reset, h, out=dr)
    d_reset *= r
    dr *= r
    xp.subtract(1, r, out=r)
    r *= dr
    if hidden_mask is not None:
        d_reset *= hidden_mask
    dh_old += d_reset


def rnn_forward(a: Array, h: Array, keep_h: Array | None, relu: bool, new_h: Array, scratch: Array) -> None:
    """A step of a simple recurrent network after its product.

    In: ``a`` (H, B) pre-activations; ``h`` (H, B) the previous state. Out: ``a`` = h~, tanh of it or what of it is
    positive; ``new_h`` (H, B) the state after zoneout. Scratch: (2H, B).
    """
    u, v = scratch[: len(h)], scratch[len(h) : 2 * len(h)]
    if relu and a.dtype.kind == "c":
        a *= a.real > 0
    elif relu:
        array_module(a).maximum(a, 0, out=a)  # not a product: -inf * 0 is NaN
    else:
        array_module(a).tanh(a, out=a)
    u[...] = a
    _mix(h, u, keep_h, new_h, v)


def rnn_backward(a: Array, keep_h: Array | None, relu: bool, dh: Array, more_h: Array | None, dh_old: Array) -> None:
    """The same backwards, up to its product.

    In: ``a`` (H, B) = h~; ``dh`` (H, B) dLoss/d(the state after zoneout), used up; ``more_h`` (H, B) what the loss asks
    of the previous state by itself. Out: ``a`` dLoss/d(pre-activations); ``dh_old`` the part of dLoss/d(previous state)
    that does not go through W_h; ``dh`` dLoss/dh~.
    """
    xp = array_module(a)
    _unmix(dh, keep_h, more_h, dh_old)
    if relu:
        xp.multiply(dh, a.real > 0, out=a)
        return
    xp.multiply(a, a, out=a)
    xp.subtract(1, a, out=a)
    a *= dh


def _mix(old: Array, new: Array, keep: Array | None, out: Array, scratch: Array) -> None:
    """``out = keep * old + (1 - keep) * new``; ``new`` is used up."""
    xp = array_module(new)
    if keep is None:
        out[...] = new
        return
    new -= xp.multiply(keep, new, out=scratch)
    xp.multiply(keep, old, out=out)
    out += new


def _unmix(d: Array, keep: Array | None, more: Array | None, d_old: Array) -> None:
    """The mirror of `_mix`: ``d_old = keep * d + more`` and, in place, ``d = (1 - keep) * d``, that of ``new``."""
    if keep is None:
        d_old[...] = 0 if more is None else more
        return
    array_module(d).multiply(keep, d, out=d_old)
    d -= d_old
    if more is not None:
        d_old += more
