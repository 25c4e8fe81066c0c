"""The same layers in JAX, on a CPU or a GPU. Rows are examples. Only candidates' processes import this module."""

from __future__ import annotations

import itertools
import os

os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # else JAX takes most of a GPU's memory

import jax
import jax.numpy as jnp
import problems
from harness import Built
from jax import Array
from problems import Z_C, Z_H, Shape

State = tuple[Array, Array]  # h and c, (B, H); without cells c is not used


def new_states(cell: str, w: dict[str, Array], x_t: Array, h: Array, c: Array) -> State:
    """A step of the cell, without zoneout; x_t (B, G H) are the projected inputs."""
    H = h.shape[1]
    if cell == "gru":
        r, z = jnp.split(jax.nn.sigmoid(x_t[:, : 2 * H] + h @ w["W_h"][: 2 * H].T), 2, 1)
        n = jnp.tanh(x_t[:, 2 * H :] + (r * h) @ w["W_h"][2 * H :].T)
        return z * h + (1 - z) * n, c
    a = h @ w["W_h"].T
    if cell == "rnn":
        return jnp.tanh(x_t + a), c
    if cell == "bn_lstm":
        x_t, a = normalize(x_t, w["gamma_x"]) + w["b"], normalize(a, w["gamma_h"])
    i, f, g, o = jnp.split(x_t + a, 4, 1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    shown = c if cell == "lstm" else normalize(c, w["gamma_c"]) + w["beta_c"]
    return jax.nn.sigmoid(o) * jnp.tanh(shown), c


def normalize(s: Array, gamma: Array) -> Array:
    centered = s - s.mean(0)
    return gamma * centered * jax.lax.rsqrt((centered * centered).mean(0) + 1e-5)


def sequence(cell: str, x: Array, w: dict[str, Array], keep_h: Array, keep_c: Array) -> Array:
    """All h (T, B, H) of a layer with zoneout, for x (T, B, D) and masks (T, B, H)."""
    inputs = x @ w["W_x"].T + (0 if cell == "bn_lstm" else w["b"])  # (T, B, G H)

    def step(states: State, now: tuple[Array, Array, Array]) -> tuple[State, Array]:
        (h, c), (x_t, keep_h_t, keep_c_t) = states, now
        new_h, new_c = new_states(cell, w, x_t, h, c)
        h = keep_h_t * h + (1 - keep_h_t) * new_h
        if problems.has_cells(cell):
            c = keep_c_t * c + (1 - keep_c_t) * new_c
        return (h, c), h

    zeros = jnp.zeros(keep_h.shape[1:], x.dtype)
    return jax.lax.scan(step, (zeros, zeros), (inputs, keep_h, keep_c))[1]


def layer(cell: str, shape: Shape, device: str = "cpu") -> Built:
    """Draw the masks, go forward over a sequence with `jax.lax.scan` and back to the weights, all jitted together."""
    jax.config.update("jax_default_device", jax.devices(device)[0])
    (T, B, _, H), a = shape, problems.arrays(cell, shape)
    x, dh = (jnp.asarray(a[name].transpose(0, 2, 1)) for name in ("x", "dh"))  # (T, B, D), (T, B, H)
    weights = {name: jnp.asarray(a[name]) for name in ("W_x", "W_h", "b")}
    if cell == "bn_lstm":
        sizes = {"gamma_x": 4 * H, "gamma_h": 4 * H, "gamma_c": H, "beta_c": H}
        weights |= {name: jnp.full(size, 0.1, jnp.float32) for name, size in sizes.items()}

    def loss(w: dict[str, Array], key: Array) -> Array:
        key_h, key_c = jax.random.split(key)
        keep_h = jax.random.bernoulli(key_h, Z_H, (T, B, H)).astype(jnp.float32)
        keep_c = keep_h
        if problems.has_cells(cell):
            keep_c = jax.random.bernoulli(key_c, Z_C, (T, B, H)).astype(jnp.float32)
        return (sequence(cell, x, w, keep_h, keep_c) * dh).sum()

    gradient, count = jax.jit(jax.grad(loss)), itertools.count()
    last: list[object] = []

    def repeat() -> None:
        last[:] = [gradient(weights, jax.random.PRNGKey(next(count)))]

    def wait() -> None:
        jax.block_until_ready(last)

    if device == "gpu":
        return Built(repeat, wait, lambda: jax.local_devices()[0].memory_stats()["peak_bytes_in_use"] / 2**20)

    def repeat_and_wait() -> None:
        repeat()
        wait()

    return Built(repeat_and_wait)
