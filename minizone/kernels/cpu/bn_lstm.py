"""Batch normalization, and the elementwise part of a batch-normalized LSTM step; see `minizone/recurrent/bn_lstm.py`.

Sums over the examples are products with a vector of ones, which take 3 us for 400 x 100 numbers; ``np.sum`` takes 13.
"""

from __future__ import annotations

from minizone.backend import Array, array_module
from minizone.kernels.cpu.lstm import activate_gates, gates_back
from minizone.kernels.cpu.zoneout import zone_out, zone_out_back
from minizone.kernels.step import Gradients, Masks, Normalization


def bn_lstm_forward(
    norm: Normalization, s_hat: Array, h: Array, c: Array, masks: Masks,
    a: Array, new_h: Array, new_c: Array, c_hat: Array, tanh_c: Array, scratch: Array,
) -> None:  # fmt: skip
    """One step of the batch-normalized LSTM after its matrix products.

    In: ``s_hat`` (8H, B), W_x x_t above W_h h_{t-1}; ``h``, ``c`` (H, B) the previous states; ``norm``.
    Out: ``s_hat`` normalized; ``a`` (4H, B) the gates i, f, g, o; ``new_h``, ``new_c`` (H, B) the states after
    zoneout; ``c_hat`` (H, B) the normalized c~; ``tanh_c`` (H, B) = tanh(BN(c~)); statistics in ``norm``.
    Scratch: at least (8H, B).
    """
    xp, H = array_module(a), len(h)
    i, f, g, o = a[:H], a[H : 2 * H], a[2 * H : 3 * H], a[3 * H :]
    u, v = scratch[:H], scratch[H : 2 * H]
    sums, cell = slice(0, 8 * H), slice(8 * H, 9 * H)

    normalize_forward(norm, sums, s_hat, scratch)
    xp.multiply(s_hat, norm.gamma[:, None], out=scratch)
    xp.add(scratch[: 4 * H], scratch[4 * H :], out=a)
    a += norm.b[:, None]
    activate_gates(a)

    xp.multiply(i, g, out=u)
    if masks.input_mask is not None:
        u *= masks.input_mask
    xp.multiply(f, c, out=v)
    u += v  # c~ = f * c + input_mask * i * g
    c_hat[...] = u
    zone_out(c, u, masks.keep_c, new_c, v)

    normalize_forward(norm, cell, c_hat, scratch)
    xp.multiply(c_hat, norm.gamma_c[:, None], out=tanh_c)
    tanh_c += norm.beta_c[:, None]
    xp.tanh(tanh_c, out=tanh_c)
    xp.multiply(o, tanh_c, out=u)  # h~ = o * tanh(BN(c~))
    zone_out(h, u, masks.keep_h, new_h, v)


def bn_lstm_backward(
    norm: Normalization, a: Array, s_hat: Array, c_hat: Array, tanh_c: Array, c: Array, masks: Masks, d: Gradients,
    d_gamma: Array, d_beta: Array, scratch: Array,
) -> None:  # fmt: skip
    """The backward pass of one step of the batch-normalized LSTM, up to its matrix product.

    In: what `bn_lstm_forward` wrote into ``a``, ``s_hat``, ``c_hat``, ``tanh_c``, all overwritten; ``c`` (H, B) the
    previous cell; ``d``, see `Gradients`. Out: ``s_hat`` (8H, B) dLoss/d(W_x x_t) above dLoss/d(W_h h_{t-1});
    ``d.c_before``; the part of ``d.h_before`` that does not go through W_h; ``d_gamma`` (9H,) of gamma and gamma_c;
    ``d_beta`` (5H,) of b and beta_c. Scratch: (8H, B).
    """
    xp, H = array_module(a), len(c)
    i, f, g, o = a[:H], a[H : 2 * H], a[2 * H : 3 * H], a[3 * H :]
    d_gates, d_normalized = scratch[: 4 * H], scratch[4 * H : 5 * H]
    di, df, dg, do = d_gates[:H], d_gates[H : 2 * H], d_gates[2 * H : 3 * H], d_gates[3 * H :]
    sums, cell = slice(0, 8 * H), slice(8 * H, 9 * H)
    dh, dc, dc_before = d.h, d.c, d.c_before
    zone_out_back(dh, masks.keep_h, d.h_out, d.h_before)  # dh is now dLoss/dh~
    zone_out_back(dc, masks.keep_c, d.c_out, dc_before)  # dc is now dLoss/dc~, without the part through h~

    xp.multiply(dh, tanh_c, out=do)  # h~ = o * tanh(BN(c~))
    xp.multiply(dh, o, out=d_normalized)
    xp.multiply(tanh_c, tanh_c, out=tanh_c)
    xp.subtract(1, tanh_c, out=tanh_c)
    d_normalized *= tanh_c  # now dLoss/dBN(c~)
    normalize_backward(norm, cell, norm.gamma_c, d_normalized, c_hat, d_gamma, d_beta[4 * H :], scratch[5 * H :])
    dc += c_hat  # dc is now complete

    xp.multiply(dc, f, out=df)  # c~ = f * c + input_mask * i * g
    dc_before += df
    xp.multiply(dc, c, out=df)
    d_update = dc if masks.input_mask is None else xp.multiply(dc, masks.input_mask, out=dh)  # dLoss/d(i * g)
    xp.multiply(d_update, g, out=di)
    xp.multiply(d_update, i, out=dg)
    gates_back(a, d_gates, scratch[4 * H :])

    normalize_backward(norm, sums, norm.gamma, a, s_hat, d_gamma, d_beta[: 4 * H], scratch)


def normalize_forward(norm: Normalization, rows: slice, s: Array, scratch: Array) -> None:
    """Batch normalization of every row, before gain and bias: ``s_hat = (s - mean) / sqrt(variance + epsilon)``.

    In: ``s`` (R, B); ``rows``, the R rows of the statistics in ``norm``. Out: ``s`` becomes s_hat; the mean and
    the biased variance of the B columns, unless they are given; ``norm.inverse``. Scratch: at least (R, B).
    """
    xp, B = array_module(s), s.shape[-1]
    mean, variance, inverse = norm.mean[rows], norm.variance[rows], norm.inverse[rows]  # (R,)
    if not norm.given:
        xp.matmul(s, norm.ones, out=mean)
        mean /= B
    s -= mean[:, None]
    if not norm.given:
        squares = xp.multiply(s, s, out=scratch[: len(s)])
        xp.matmul(squares, norm.ones, out=variance)
        variance /= B
    xp.add(variance, norm.epsilon, out=inverse)
    xp.sqrt(inverse, out=inverse)
    xp.divide(1, inverse, out=inverse)
    s *= inverse[:, None]


def normalize_backward(
    norm: Normalization, rows: slice, gamma: Array, d: Array, s_hat: Array, d_gamma: Array, d_beta: Array,
    scratch: Array,
) -> None:  # fmt: skip
    """Backward pass of ``y = gamma * s_hat + beta``, or of a sum of n such terms with one beta.

        ds = gamma / sqrt(variance + epsilon) * (d - mean(d) - s_hat * mean(d * s_hat))
        ds = gamma / sqrt(variance + epsilon) * d                           if the statistics are given

    In: ``d`` (R, B) = dLoss/dy, overwritten; ``s_hat`` (n R, B) and ``gamma`` (n R,), the terms one above the other;
    ``rows``, the n R rows of the statistics. Out: ``s_hat`` becomes dLoss/ds; ``d_gamma[rows]`` (n R,);
    ``d_beta`` (R,). Scratch: at least (n R, B).
    """
    xp, (R, B) = array_module(d), d.shape
    n = len(s_hat) // max(1, R)
    d_gamma, products = d_gamma[rows], scratch[: len(s_hat)]
    terms = s_hat.reshape(n, R, B)
    xp.multiply(d, terms, out=products.reshape(n, R, B))
    xp.matmul(products, norm.ones, out=d_gamma)
    xp.matmul(d, norm.ones, out=d_beta)
    if norm.given:
        terms[...] = d
    else:
        d -= (d_beta / B)[:, None]
        s_hat *= (d_gamma / B)[:, None]
        xp.subtract(d, terms, out=terms)
    s_hat *= (gamma * norm.inverse[rows])[:, None]
