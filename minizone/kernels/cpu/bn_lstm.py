"""Batch normalization of the rows of a matrix, and the pointwise part of the batch-normalized LSTM, as in `cpu`.

Sums over the columns are products with ``ones`` (B,): 3 us for 400 x 100 numbers, where ``np.sum`` takes 13.
"""

from __future__ import annotations

from minizone.backend import Array, array_module
from minizone.kernels.cpu.cells import _mix, _unmix


def normalize_forward(
    s: Array, mean: Array, variance: Array, inverse: Array, epsilon: float, given: bool, ones: Array, scratch: Array
) -> None:
    """Batch normalization of every row, before gain and bias: ``s_hat = (s - mean) / sqrt(variance + epsilon)``.

    In: ``s`` (R, B). Out: ``s`` is s_hat; ``inverse`` (R,) = 1 / sqrt(variance + epsilon). ``mean`` and the biased
    ``variance`` (R,) go in if they are ``given``, and else come out, those of the B columns. Scratch: (R, B).
    """
    xp, B = array_module(s), s.shape[-1]
    if not given:
        xp.matmul(s, ones, out=mean)
        mean /= B
    s -= mean[:, None]
    if not given:
        xp.matmul(xp.multiply(s, s, out=scratch[: len(s)]), ones, out=variance)
        variance /= B
    xp.add(variance, epsilon, out=inverse)
    xp.sqrt(inverse, out=inverse)
    xp.divide(1, inverse, out=inverse)
    s *= inverse[:, None]


def normalize_backward(
    d: Array, s_hat: Array, scale: Array, d_gamma: Array, d_beta: Array, given: bool, ones: Array, scratch: Array
) -> None:
    """The same backwards, for ``y = gamma * s_hat + beta``.

        ds = scale * (d - mean(d) - s_hat * mean(d * s_hat))          scale = gamma / sqrt(variance + epsilon)
        ds = scale * d                                                where mean and variance were given

    In: ``d`` (R, B) = dLoss/dy, used up; ``s_hat`` (R, B); ``scale`` (R,). Out: ``s_hat`` is dLoss/ds; ``d_gamma`` and
    ``d_beta`` (R,). There may be n sums of which y is made: n matrices s_hat, one below the other, (n R, B), with
    ``scale`` and ``d_gamma`` (n R,). Scratch: (n R, B).
    """
    xp, B = array_module(d), d.shape[-1]
    each, products = s_hat.reshape(len(s_hat) // max(1, len(d)), *d.shape), scratch[: len(s_hat)]  # each: (n, R, B)
    xp.multiply(d, each, out=products.reshape(each.shape))
    xp.matmul(products, ones, out=d_gamma)
    xp.matmul(d, ones, out=d_beta)
    if given:
        each[...] = d
    else:
        d -= (d_beta / B)[:, None]
        s_hat *= (d_gamma / B)[:, None]
        xp.subtract(d, each, out=each)
    s_hat *= scale[:, None]


def bn_lstm_forward(
    s_hat: Array,
    gamma: Array,
    b: Array,
    gamma_c: Array,
    beta_c: Array,
    statistics: tuple[Array, Array, Array],
    epsilon: float,
    given: bool,
    h: Array,
    c: Array,
    keep_h: Array | None,
    keep_c: Array | None,
    input_mask: Array | None,
    a: Array,
    new_h: Array,
    new_c: Array,
    c_hat: Array,
    tanh_c: Array,
    ones: Array,
    scratch: Array,
) -> None:
    """One step of the batch-normalized LSTM after its products.

    In: ``s_hat`` (8H, B) = W_x x_t and W_h h_{t-1}; ``gamma`` (8H,), ``b`` (4H,), ``gamma_c``, ``beta_c`` (H,);
    ``statistics``: mean and biased variance (9H,) of the sums and of c~, which go in if they are ``given`` and else
    come out, and 1 / sqrt(variance + epsilon), which comes out; ``h``, ``c`` (H, B) the previous states. Out: ``s_hat``
    normalized; ``a`` (4H, B) the gates i, f, g, o; ``new_h``, ``new_c`` (H, B) the states after zoneout; ``c_hat``
    (H, B) the normalized c~; ``tanh_c`` (H, B) = tanh(BN(c~)). ``ones`` (B,). Scratch: (8H, B).
    """
    H = len(h)
    mean, variance, inverse = statistics
    normalize_forward(s_hat, mean[: 8 * H], variance[: 8 * H], inverse[: 8 * H], epsilon, given, ones, scratch)
    bn_lstm_gates_forward(s_hat, gamma, b, c, keep_c, input_mask, a, new_c, c_hat, scratch)
    normalize_forward(c_hat, mean[8 * H :], variance[8 * H :], inverse[8 * H :], epsilon, given, ones, scratch)
    bn_lstm_output_forward(a[3 * H :], c_hat, gamma_c, beta_c, h, keep_h, new_h, tanh_c, scratch)


def bn_lstm_backward(
    a: Array,
    s_hat: Array,
    c_hat: Array,
    tanh_c: Array,
    scale: Array,
    given: bool,
    c: Array,
    keep_h: Array | None,
    keep_c: Array | None,
    input_mask: Array | None,
    dh: Array,
    dc: Array,
    more_h: Array | None,
    more_c: Array | None,
    dh_old: Array,
    dc_old: Array,
    d_gamma: Array,
    d_beta: Array,
    room: Array,
    ones: Array,
    scratch: Array,
) -> None:
    """One step of the batch-normalized LSTM backwards, up to its products.

    In: what `bn_lstm_forward` left in ``a``, ``s_hat``, ``c_hat``, ``tanh_c``, all used up; ``scale`` (9H,) = gamma
    times 1 / sqrt(variance + epsilon); ``c`` (H, B) the previous cell; ``dh``, ``dc`` (H, B) dLoss/d(the states after
    zoneout); ``more_h``, ``more_c`` (H, B) what the loss asks of the previous states by itself. Out: ``s_hat`` (8H, B)
    dLoss/d(W_x x_t and W_h h_{t-1}); ``dc_old`` dLoss/d(previous cell); ``dh_old`` the part of dLoss/d(previous h) that
    does not go through W_h; ``dh``, ``dc`` dLoss/dh~ and dLoss/dc~; ``d_gamma`` (9H,) of the gains, ``d_beta`` (5H,) of
    b and of beta_c. ``room`` (H, B), ``ones`` (B,). Scratch: (8H, B).
    """
    H = len(c)
    bn_lstm_output_backward(a[3 * H :], tanh_c, keep_h, dh, more_h, dh_old, room)
    cell = scale[8 * H :], d_gamma[8 * H :], d_beta[4 * H :]
    normalize_backward(room, c_hat, *cell, given, ones, scratch)
    bn_lstm_gates_backward(a, c, keep_c, input_mask, c_hat, dc, more_c, dc_old, scratch)
    sums = scale[: 8 * H], d_gamma[: 8 * H], d_beta[: 4 * H]
    normalize_backward(a, s_hat, *sums, given, ones, scratch)


def bn_lstm_gates_forward(
    s_hat: Array,
    gamma: Array,
    b: Array,
    c: Array,
    keep_c: Array | None,
    input_mask: Array | None,
    a: Array,
    new_c: Array,
    candidate: Array,
    scratch: Array,
) -> None:
    """A step of the batch-normalized LSTM from its normalized sums to the cell.

    In: ``s_hat`` (8H, B) of W_x x_t and of W_h h_{t-1}; ``gamma`` (8H,) and ``b`` (4H,); ``c`` (H, B) the previous
    cell. Out: ``a`` (4H, B) the gates; ``new_c`` (H, B) the cell after zoneout; ``candidate`` (H, B) = c~. Scratch:
    (8H, B).
    """
    xp, H = array_module(a), len(c)
    u, v = scratch[:H], scratch[H : 2 * H]
    xp.multiply(s_hat, gamma[:, None], out=scratch)
    xp.add(scratch[: 4 * H], scratch[4 * H :], out=a)
    a += b[:, None]
    _gates_and_candidate(a, c, input_mask, u, v)
    candidate[...] = u
    _mix(c, u, keep_c, new_c, v)


def bn_lstm_output_forward(
    o: Array,
    c_hat: Array,
    gamma_c: Array,
    beta_c: Array,
    h: Array,
    keep_h: Array | None,
    new_h: Array,
    tanh_c: Array,
    scratch: Array,
) -> None:
    """The rest of the step: ``tanh_c`` (H, B) = tanh(BN(c~)), and ``new_h`` (H, B) the hidden state after zoneout.

    In: ``o`` (H, B) the output gate; ``c_hat`` (H, B) the normalized c~; ``h`` (H, B) the previous hidden state.
    Scratch: (2H, B) or more.
    """
    xp, H = array_module(o), len(h)
    u, v = scratch[:H], scratch[H : 2 * H]
    xp.multiply(c_hat, gamma_c[:, None], out=tanh_c)
    tanh_c += beta_c[:, None]
    xp.tanh(tanh_c, out=tanh_c)
    xp.multiply(o, tanh_c, out=u)  # h~
    _mix(h, u, keep_h, new_h, v)


def bn_lstm_output_backward(
    o: Array, tanh_c: Array, keep_h: Array | None, dh: Array, more_h: Array | None, dh_old: Array, d: Array
) -> None:
    """The second half of the step backwards.

    In: ``o``; ``tanh_c`` (H, B), used up; ``dh`` (H, B) dLoss/dh_t. Out: ``o`` dLoss/d(its pre-activation); ``d``
    (H, B) dLoss/d(BN(c~)); ``dh`` dLoss/dh~; ``dh_old`` the part of dLoss/dh_{t-1} that does not go through W_h.
    """
    xp = array_module(o)
    _unmix(dh, keep_h, more_h, dh_old)  # dh: now of h~ = o tanh(BN(c~))
    xp.multiply(dh, o, out=d)
    xp.subtract(1, o, out=o)
    o *= d
    o *= tanh_c  # of the pre-activation: dh tanh(BN(c~)) o (1 - o)
    xp.multiply(tanh_c, tanh_c, out=tanh_c)
    xp.subtract(1, tanh_c, out=tanh_c)
    d *= tanh_c


def bn_lstm_gates_backward(
    a: Array,
    c: Array,
    keep_c: Array | None,
    input_mask: Array | None,
    d_candidate: Array,
    dc: Array,
    more_c: Array | None,
    dc_old: Array,
    scratch: Array,
) -> None:
    """The first half of the step backwards.

    In: the first 3H rows of ``a`` (4H, B) the gates i, f, g; ``c`` (H, B) the previous cell; ``d_candidate`` (H, B)
    what h_t asks of c~; ``dc`` (H, B) dLoss/dc_t. Out: these rows dLoss/d(pre-activations); ``dc`` dLoss/dc~ in all;
    ``dc_old`` dLoss/dc_{t-1}. Scratch: (3H, B) or more.
    """
    xp, H = array_module(a), len(c)
    i, f, g = a[:H], a[H : 2 * H], a[2 * H : 3 * H]
    u, v, w = (scratch[k * H : (k + 1) * H] for k in range(3))
    _unmix(dc, keep_c, more_c, dc_old)
    dc += d_candidate
    dc_old += xp.multiply(dc, f, out=w)
    w *= c  # d_f * f
    xp.subtract(1, f, out=f)
    f *= w
    d_update = dc if input_mask is None else xp.multiply(dc, input_mask, out=u)  # of i g
    xp.multiply(d_update, i, out=v)  # d_g
    xp.multiply(v, g, out=w)  # d_i * i
    xp.multiply(g, g, out=g)
    xp.subtract(1, g, out=g)
    g *= v
    xp.subtract(1, i, out=i)
    i *= w


def _gates_and_candidate(a: Array, c: Array, input_mask: Array | None, candidate: Array, scratch: Array) -> None:
    """``a`` (4H, B): pre-activations in, gates i, f, g, o out; ``candidate`` (H, B) = c~, from the cell ``c``."""
    xp, H = array_module(a), len(c)
    i, f, g, o = a[:H], a[H : 2 * H], a[2 * H : 3 * H], a[3 * H :]
    for sigmoids in (a[: 2 * H], o):  # sigmoid(a) = 0.5 tanh(0.5 a) + 0.5: one tanh for all gates
        sigmoids *= 0.5
    xp.tanh(a, out=a)
    for sigmoids in (a[: 2 * H], o):
        sigmoids *= 0.5
        sigmoids += 0.5
    xp.multiply(i, g, out=candidate)
    if input_mask is not None:
        candidate *= input_mask
    candidate += xp.multiply(f, c, out=scratch)
