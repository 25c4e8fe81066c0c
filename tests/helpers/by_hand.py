"""The equations of the cells as plain loops over time in NumPy, independent of the package."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.helpers import Arrays


def sigmoid(a: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-a))


def lstm_by_hand(
    x: np.ndarray,
    h0: np.ndarray,
    c0: np.ndarray,
    W_x: np.ndarray,
    W_h: np.ndarray,
    b: np.ndarray,
    *,
    keep_h: Any = None,
    keep_c: Any = None,
    input_mask: Any = None,
    hidden_mask: Any = None,
    output_gate: str = "plain",
) -> tuple[np.ndarray, np.ndarray]:
    """h and c, each (T, H, B), by section 3.2 of the paper."""
    shape = (len(x), *h0.shape)
    keep_h, keep_c = of_steps(keep_h, 0, shape), of_steps(keep_c, 0, shape)
    input_mask, hidden_mask = of_steps(input_mask, 1, shape), of_steps(hidden_mask, 1, shape)
    h, c, o_before = h0, c0, None
    h_steps, c_steps = [], []
    for t in range(len(x)):
        a = W_x @ x[t] + W_h @ (hidden_mask[t] * h) + b[:, None]  # (4H, B)
        a_i, a_f, a_g, a_o = a.reshape(4, *h0.shape)
        i, f, g, o = sigmoid(a_i), sigmoid(a_f), np.tanh(a_g), sigmoid(a_o)
        d = input_mask[t]
        new_c = f * c + d * i * g
        mixed_o = o
        if output_gate == "paper" and o_before is not None:
            mixed_o = d * o + (1 - d) * o_before
        if output_gate == "printed" and o_before is not None:
            mixed_o = (1 - d) * o + d * o_before
        next_h = keep_h[t] * h + (1 - keep_h[t]) * mixed_o * np.tanh(new_c)
        if output_gate == "authors":
            next_h = d * next_h + (1 - d) * f * h
        h = next_h
        c = keep_c[t] * c + (1 - keep_c[t]) * new_c
        o_before = o
        h_steps.append(h)
        c_steps.append(c)
    return np.array(h_steps), np.array(c_steps)


def gru_by_hand(
    x: np.ndarray,
    h0: np.ndarray,
    W_x: np.ndarray,
    W_h: np.ndarray,
    b: np.ndarray,
    *,
    keep_h: Any = None,
    input_mask: Any = None,
    hidden_mask: Any = None,
) -> np.ndarray:
    """h (T, H, B) of the GRU in the authors' code: the reset comes before the product."""
    shape = (len(x), *h0.shape)
    keep_h, input_mask, hidden_mask = (
        of_steps(keep_h, 0, shape),
        of_steps(input_mask, 1, shape),
        of_steps(hidden_mask, 1, shape),
    )
    H = len(h0)
    h, h_steps = h0, []
    for t in range(len(x)):
        masked_h = hidden_mask[t] * h
        r = sigmoid(W_x[:H] @ x[t] + W_h[:H] @ masked_h + b[:H, None])
        z = sigmoid(W_x[H : 2 * H] @ x[t] + W_h[H : 2 * H] @ masked_h + b[H : 2 * H, None])
        n = np.tanh(W_x[2 * H :] @ x[t] + W_h[2 * H :] @ (r * masked_h) + b[2 * H :, None])
        new_h = z * h + (1 - z) * input_mask[t] * n
        h = keep_h[t] * h + (1 - keep_h[t]) * new_h
        h_steps.append(h)
    return np.array(h_steps)


def rnn_by_hand(
    x: np.ndarray,
    h0: np.ndarray,
    W_x: np.ndarray,
    W_h: np.ndarray,
    b: np.ndarray,
    *,
    activation: str = "tanh",
    keep_h: Any = None,
    hidden_mask: Any = None,
) -> np.ndarray:
    """h (T, H, B) of the simple recurrent network."""
    shape = (len(x), *h0.shape)
    keep_h, hidden_mask = of_steps(keep_h, 0, shape), of_steps(hidden_mask, 1, shape)
    h, h_steps = h0, []
    for t in range(len(x)):
        a = W_x @ x[t] + W_h @ (hidden_mask[t] * h) + b[:, None]
        new_h = np.tanh(a) if activation == "tanh" else np.maximum(a, 0)
        h = keep_h[t] * h + (1 - keep_h[t]) * new_h
        h_steps.append(h)
    return np.array(h_steps)


def bn_lstm_by_hand(
    x: np.ndarray,
    h0: np.ndarray,
    c0: np.ndarray,
    W_x: np.ndarray,
    W_h: np.ndarray,
    b: np.ndarray,
    gamma_x: np.ndarray,
    gamma_h: np.ndarray,
    gamma_c: np.ndarray,
    beta_c: np.ndarray,
    *,
    keep_h: Any = None,
    keep_c: Any = None,
    input_mask: Any = None,
    hidden_mask: Any = None,
    mean: np.ndarray | None = None,
    variance: np.ndarray | None = None,
    epsilon: float = 1e-5,
) -> Arrays:
    """h, c, each (T, H, B), and mean and variance of each minibatch, (T, 9H), by section 3 of Cooijmans et al.

    ``mean`` and ``variance`` (T, 9H) are used in place of those of the minibatch where they are given.
    """
    shape = (len(x), *h0.shape)
    keep_h, keep_c = of_steps(keep_h, 0, shape), of_steps(keep_c, 0, shape)
    input_mask, hidden_mask = of_steps(input_mask, 1, shape), of_steps(hidden_mask, 1, shape)
    H = len(h0)
    h, c = h0, c0
    found: dict[str, list[np.ndarray]] = {"h": [], "c": [], "mean": [], "variance": []}
    for t in range(len(x)):
        means, variances = [], []

        def normalize(s: np.ndarray, rows: slice, t: int = t, means: Any = means, variances: Any = variances) -> Any:
            means.append(s.mean(axis=1))
            variances.append(((s - means[-1][:, None]) ** 2).mean(axis=1))
            m = means[-1] if mean is None else mean[t, rows]
            v = variances[-1] if variance is None else variance[t, rows]
            return (s - m[:, None]) / np.sqrt(v + epsilon)[:, None]

        of_x = normalize(W_x @ x[t], slice(0, 4 * H))
        of_h = normalize(W_h @ (hidden_mask[t] * h), slice(4 * H, 8 * H))
        a = gamma_x[:, None] * of_x + gamma_h[:, None] * of_h + b[:, None]
        a_i, a_f, a_g, a_o = a.reshape(4, *h0.shape)
        new_c = sigmoid(a_f) * c + input_mask[t] * sigmoid(a_i) * np.tanh(a_g)
        of_c = normalize(new_c, slice(8 * H, 9 * H))
        new_h = sigmoid(a_o) * np.tanh(gamma_c[:, None] * of_c + beta_c[:, None])
        h = keep_h[t] * h + (1 - keep_h[t]) * new_h
        c = keep_c[t] * c + (1 - keep_c[t]) * new_c
        step = {"h": h, "c": c, "mean": np.concatenate(means), "variance": np.concatenate(variances)}
        for name, value in step.items():
            found[name].append(value)
    return {name: np.array(values) for name, values in found.items()}


def of_steps(value: Any, default: float, shape: tuple[int, ...]) -> np.ndarray:
    """A mask, a number or None as an array (T, H, B)."""
    return np.broadcast_to(default if value is None else value, shape)
