"""The zoneout LSTM of chapter 18 in JAX: `python run.py conformance benchmarks/conformance/jax_scan.py:JAX`.

Beside minizone: `pip install jax`.
"""

import contextlib
import importlib
import io
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "chapters"))
with contextlib.redirect_stdout(io.StringIO()):  # the chapter says which packages it does without
    chapter = importlib.import_module("18_your_own_code")

scan = jax.jit(chapter.jax_lstm)


def rows(a):
    """float32, and the last two axes swapped: examples are rows."""
    return jnp.asarray(np.float32(a).swapaxes(-1, -2))


def columns(a):
    return np.asarray(a).swapaxes(-1, -2)


class JAX:
    def __init__(self, W_x, W_h, b, z_h, z_c):
        self.weights, self.z = [jnp.asarray(np.float32(a)) for a in (W_x, W_h, b)], (z_h, z_c)

    def masks(self, T, H, B, train, seed):
        if not train:
            return [jnp.full((T, B, H), z) for z in self.z]
        keys = jax.random.split(jax.random.PRNGKey(seed))
        return [jax.random.bernoulli(key, z, (T, B, H)) * 1.0 for key, z in zip(keys, self.z, strict=True)]

    def sequence(self, x, h, c, train, seed):
        keeps = self.masks(len(x), *h.shape, train, seed)
        h, c = scan(*self.weights, rows(x), rows(h), rows(c), *keeps)
        return columns(h), columns(h), columns(c)

    def gradient(self, x, h, c, r, q, seed):
        keeps = self.masks(len(x), *h.shape, True, seed)

        def loss(x, h, c, *weights):
            out, cells = scan(*weights, x, h, c, *keeps)
            return (out * rows(r)).sum() + (cells[-1] * rows(q)).sum()

        found = jax.grad(loss, argnums=range(6))(rows(x), rows(h), rows(c), *self.weights)
        by_name = dict(zip(("x", "h", "c", "W_x", "W_h", "b"), found, strict=True))
        return {name: columns(a) if name in "xhc" else np.asarray(a) for name, a in by_name.items()}
