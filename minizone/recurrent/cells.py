"""Readable references: one step of each cell, composed of primitive operations and differentiated by the tape.

The sequence functions, such as `minizone.lstm`, compute the same with hand-written back-propagation through time.
Tests compare the values and the gradients of the two. Both raise the same ValueErrors for shapes and masks that do not
fit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minizone.autograd.ops import relu, sigmoid, stack, tanh, unstack
from minizone.autograd.tensor import Tensor
from minizone.backend import Array, array_module
from minizone.kernels.step import Mask
from minizone.recurrent.bn_lstm import check_normalization
from minizone.recurrent.sequence import check_shapes
from minizone.recurrent.statistics import Statistics, parts
from minizone.zoneout import check_mask, zone_out


def lstm_cell(
    x: Tensor | Array,
    h: Tensor,
    c: Tensor,
    W_x: Tensor,
    W_h: Tensor,
    b: Tensor,
    *,
    keep_h: Mask = None,
    keep_c: Mask = None,
    input_mask: Mask = None,
    hidden_mask: Mask = None,
) -> tuple[Tensor, Tensor]:
    """One step of an LSTM with zoneout: (h, c) from the input x (D, B) or tokens (B,) and the previous (h, c).

        i, f, o = sigmoid(W_x x + W_h h + b)        g = tanh(W_x x + W_h h + b)
        c~ = f * c + input_mask * i * g             h~ = o * tanh(c~)
        c' = keep_c * c + (1 - keep_c) * c~         h' = keep_h * h + (1 - keep_h) * h~

    h, c (H, B); W_x (4H, D); W_h (4H, H); b (4H,), rows in the order i, f, g, o; masks broadcastable to (H, B).
    Krueger et al. (2017), section 3.2: h~ is computed from the candidate c~, not from the zoned-out c'.
    """
    check_shapes(4, x, (h, c), W_x, W_h, b, step=True)
    i, f, g, o = lstm_gates(x, h, W_x, W_h, b, hidden_mask)
    new_c = f * c + times(input_mask, i * g)
    new_h = o * tanh(new_c)
    return zone_out(h, new_h, keep_h), zone_out(c, new_c, keep_c)


def lstm_gates(
    x: Tensor | Array, h: Tensor, W_x: Tensor, W_h: Tensor, b: Tensor, hidden_mask: Mask = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gates i, f, g, o of an LSTM, each (H, B)."""
    H = h.shape[0]
    a = project(x, W_x) + W_h @ times(hidden_mask, h) + b.reshape(-1, 1)  # (4H, B)
    return sigmoid(a[:H]), sigmoid(a[H : 2 * H]), tanh(a[2 * H : 3 * H]), sigmoid(a[3 * H :])


def output_gate_cell(
    x: Tensor | Array,
    h: Tensor,
    c: Tensor,
    o_before: Tensor | None,
    W_x: Tensor,
    W_h: Tensor,
    b: Tensor,
    *,
    output_gate: str,
    input_mask: Mask,
    keep_h: Mask = None,
    keep_c: Mask = None,
    hidden_mask: Mask = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """`lstm_cell` with recurrent dropout and zoneout of the output gate, in one of three forms; also returns o (H, B).

    For the input mask d: "paper" h~ = (d o + (1-d) o_before) tanh(c~), "printed" h~ = ((1-d) o + d o_before) tanh(c~),
    "authors" h' = d h' + (1-d) f h after zoneout. Section 3.2 of the paper, and the authors' code.
    """
    check_shapes(4, x, (h, c) if o_before is None else (h, c, o_before), W_x, W_h, b, step=True)
    i, f, g, o = lstm_gates(x, h, W_x, W_h, b, hidden_mask)
    new_c = f * c + times(input_mask, i * g)
    share = {"paper": input_mask, "printed": 1 - input_mask, "authors": 1}[output_gate]
    mixed = o if o_before is None else share * o + (1 - share) * o_before
    new_h = zone_out(h, mixed * tanh(new_c), keep_h)
    if output_gate == "authors":
        new_h = input_mask * new_h + (1 - input_mask) * (f * h)
    return new_h, zone_out(c, new_c, keep_c), o


def gru_cell(
    x: Tensor | Array,
    h: Tensor,
    W_x: Tensor,
    W_h: Tensor,
    b: Tensor,
    *,
    keep_h: Mask = None,
    input_mask: Mask = None,
    hidden_mask: Mask = None,
) -> tuple[Tensor]:
    """One step of a GRU with zoneout: h from the input x (D, B) or tokens (B,) and the previous h (H, B).

        r, z = sigmoid(W_x x + W_h h + b)                   n = tanh(W_x x + W_h (r * h) + b)
        h~ = z * h + (1 - z) * input_mask * n               h' = keep_h * h + (1 - keep_h) * h~

    W_x (3H, D), W_h (3H, H), b (3H,), rows in the order r, z, n. The reset gate is applied before the product, as in
    the authors' code.
    """
    check_shapes(3, x, (h,), W_x, W_h, b, step=True)
    H = h.shape[0]
    inputs, seen = project(x, W_x) + b.reshape(-1, 1), times(hidden_mask, h)
    gates = sigmoid(inputs[: 2 * H] + W_h[: 2 * H] @ seen)
    r, z = gates[:H], gates[H:]
    n = tanh(inputs[2 * H :] + W_h[2 * H :] @ (r * seen))
    new_h = z * h + (1 - z) * times(input_mask, n)
    return (zone_out(h, new_h, keep_h),)


def rnn_cell(
    x: Tensor | Array,
    h: Tensor,
    W_x: Tensor,
    W_h: Tensor,
    b: Tensor,
    *,
    keep_h: Mask = None,
    hidden_mask: Mask = None,
    activation: str = "tanh",
) -> tuple[Tensor]:
    """One step of a simple recurrent network with zoneout.

        h~ = activation(W_x x + W_h h + b)                  h' = keep_h * h + (1 - keep_h) * h~

    x (D, B) or tokens (B,), h (H, B), W_x (H, D), W_h (H, H), b (H,); activation "tanh" or "relu".
    """
    check_shapes(1, x, (h,), W_x, W_h, b, step=True)
    a = project(x, W_x) + W_h @ times(hidden_mask, h) + b.reshape(-1, 1)  # (H, B)
    return (zone_out(h, (tanh if activation == "tanh" else relu)(a), keep_h),)


def lstm_unrolled(
    x: Tensor | Array, h0: Tensor, c0: Tensor, *weights: Tensor, output_gate: str = "plain", **masks: Mask
) -> tuple[Tensor, Tensor]:
    """`lstm_cell` over a sequence; arguments and results as in `minizone.lstm`."""
    if output_gate != "plain":
        return output_gate_unrolled(x, h0, c0, *weights, output_gate=output_gate, **masks)
    h, c = unroll(lstm_cell, x, (h0, c0), *weights, **masks)
    return h, c


def output_gate_unrolled(
    x: Tensor | Array, h0: Any, c0: Any, W_x: Tensor | Array, W_h: Any, b: Any, *, output_gate: str, **masks: Mask
) -> tuple[Tensor, Tensor]:
    """`output_gate_cell` over a sequence; arguments (arrays or tensors) and results as in `minizone.lstm`."""
    given = h0, c0, W_x, W_h, b
    h0, c0, W_x, W_h, b = (v if isinstance(v, Tensor) else Tensor(v, requires_grad=False) for v in given)
    masks = {name: mask.astype(W_h.dtype) if hasattr(mask, "astype") else mask for name, mask in masks.items()}
    o_before: Tensor | None = None

    def cell(x_t: Any, h: Tensor, c: Tensor, *weights: Tensor, **masks_t: Mask) -> tuple[Tensor, Tensor]:
        nonlocal o_before
        h, c, o_before = output_gate_cell(x_t, h, c, o_before, *weights, output_gate=output_gate, **masks_t)
        return h, c

    h, c = unroll(cell, x, (h0, c0), W_x, W_h, b, **masks)
    return h, c


def gru_unrolled(x: Tensor | Array, h0: Tensor, *weights: Tensor, **options: Any) -> Tensor:
    """`gru_cell` over a sequence; arguments and results as in `minizone.gru`."""
    return unroll(gru_cell, x, (h0,), *weights, **options)[0]


def rnn_unrolled(x: Tensor | Array, h0: Tensor, *weights: Tensor, **options: Any) -> Tensor:
    """`rnn_cell` over a sequence; arguments and results as in `minizone.rnn`."""
    return unroll(rnn_cell, x, (h0,), *weights, **options)[0]


def unroll(
    cell: Callable[..., tuple[Tensor, ...]],
    x: Tensor | Array,
    states: tuple[Tensor, ...],
    *weights: Tensor,
    **options: Any,
) -> tuple[Tensor, ...]:
    """Run a cell over a sequence: all its states, each (T, H, B). Options that are masks are indexed by time step."""
    T = x.shape[0]
    if isinstance(x, Tensor):
        x = unstack(x) if x.ndim == 3 else x.data
    steps: list[tuple[Tensor, ...]] = []
    for t, x_t in enumerate(x):
        states = cell(x_t, *states, *weights, **{name: _at_step(value, t, T) for name, value in options.items()})
        steps.append(states)
    if not steps:
        return tuple(state * array_module(state.data).empty((0, 1, 1), state.dtype) for state in states)
    return tuple(stack(list(each)) for each in zip(*steps, strict=True))


def project(x: Tensor | Array, W_x: Tensor) -> Tensor:
    """``W_x @ x`` for x (D, B); for tokens (B,), the columns of W_x that they select."""
    return W_x[:, x] if x.ndim == 1 else W_x @ x


def times(mask: Mask, value: Tensor) -> Tensor:
    """``mask * value``; None: no mask. The mask broadcasts to the value, (H, B)."""
    check_mask(mask, value.shape, "(H, B)")
    return value if mask is None else mask * value


def _at_step(mask: Mask, t: int, T: int) -> Mask:
    """The mask of step t, from a mask that broadcasts to (T, H, B); anything else unchanged."""
    if mask is None or getattr(mask, "ndim", 0) < 3:
        return mask
    if mask.shape[0] not in (1, T):
        raise ValueError(f"a mask of shape {mask.shape} does not broadcast to (T, H, B) with T = {T}")
    return mask[t] if mask.shape[0] == T else mask[0]


def batch_normalize(
    s: Tensor,
    gamma: Tensor | Array,
    beta: Tensor | Array | float = 0.0,
    mean: Any = None,
    variance: Any = None,
    epsilon: float = 1e-5,
) -> Tensor:
    """``gamma * (s - mean) / sqrt(variance + epsilon) + beta``, row by row: Ioffe and Szegedy (2015).

    s (R, B); gamma (R, 1); beta (R, 1) or a number; ``mean`` and ``variance`` (R, 1), or None: those of the B columns
    of s (the biased variance, divided by B and not by B - 1). Raises ValueError for other shapes.
    """
    shapes = [getattr(v, "shape", ()) for v in (gamma, beta, mean, variance)]
    if s.ndim != 2 or any(shape not in ((), (len(s), 1)) for shape in shapes):
        raise ValueError(f"gamma, beta, mean, variance must be (R, 1) for s (R, B), got {shapes} for s {s.shape}")
    if mean is None:
        mean = s.mean(axis=1, keepdims=True)
        variance = ((s - mean) ** 2).mean(axis=1, keepdims=True)
    return gamma * ((s - mean) / (variance + epsilon) ** 0.5) + beta


def bn_lstm_cell(
    x: Tensor | Array,
    h: Tensor,
    c: Tensor,
    W_x: Tensor,
    W_h: Tensor,
    b: Tensor,
    gamma_x: Tensor,
    gamma_h: Tensor,
    gamma_c: Tensor,
    beta_c: Tensor,
    *,
    keep_h: Mask = None,
    keep_c: Mask = None,
    input_mask: Mask = None,
    hidden_mask: Mask = None,
    mean: Array | None = None,
    variance: Array | None = None,
    epsilon: float = 1e-5,
) -> tuple[Tensor, Tensor]:
    """One step of a batch-normalized LSTM with zoneout: (h, c) from the input x (D, B) or tokens (B,) and (h, c).

        a = BN(W_x x; gamma_x) + BN(W_h h; gamma_h) + b
        i, f, o = sigmoid(a)                        g = tanh(a)
        c~ = f * c + input_mask * i * g             h~ = o * tanh(BN(c~; gamma_c, beta_c))
        c' = keep_c * c + (1 - keep_c) * c~         h' = keep_h * h + (1 - keep_h) * h~

    Arguments as in `lstm_cell`; gamma_x, gamma_h (4H,), gamma_c, beta_c (H,); ``mean`` and ``variance`` (9H, 1) of
    W_x x, W_h h and c~, one above the other, or None: those of the B columns. Cooijmans et al. (2017), section 3.
    """
    check_shapes(4, x, (h, c), W_x, W_h, b, step=True)
    H = h.shape[0]
    check_normalization(H, gamma_x, gamma_h, gamma_c, beta_c, None)
    b, gamma_x, gamma_h, gamma_c, beta_c = (v.reshape(-1, 1) for v in (b, gamma_x, gamma_h, gamma_c, beta_c))
    known = [(None, None)] * 3
    if mean is not None and variance is not None:
        if not mean.shape == variance.shape == (9 * H, 1):
            raise ValueError(f"mean and variance must be ({9 * H}, 1), got {mean.shape} and {variance.shape}")
        known = [(mean[rows], variance[rows]) for rows in parts(H)]
    inputs = batch_normalize(project(x, W_x), gamma_x, 0, *known[0], epsilon)
    a = inputs + batch_normalize(W_h @ times(hidden_mask, h), gamma_h, 0, *known[1], epsilon) + b  # (4H, B)
    i, f, g, o = sigmoid(a[:H]), sigmoid(a[H : 2 * H]), tanh(a[2 * H : 3 * H]), sigmoid(a[3 * H :])
    new_c = f * c + times(input_mask, i * g)
    new_h = o * tanh(batch_normalize(new_c, gamma_c, beta_c, *known[2], epsilon))
    return zone_out(h, new_h, keep_h), zone_out(c, new_c, keep_c)


def bn_lstm_unrolled(
    x: Tensor | Array, h0: Tensor, c0: Tensor, *weights: Any, statistics: Statistics | None = None, **options: Any
) -> tuple[Tensor, Tensor]:
    """`bn_lstm_cell` over a sequence; arguments and results as in `minizone.bn_lstm`, but collects no statistics."""
    mean = variance = None
    if statistics is not None:
        mean, variance = (v[:, :, None] for v in statistics.first(x.shape[0]))  # (T, 9H, 1)
    h, c = unroll(bn_lstm_cell, x, (h0, c0), *weights, mean=mean, variance=variance, **options)
    return h, c
