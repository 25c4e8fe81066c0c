"""The same recurrent layers in minizone, PyTorch and JAX, and the floor: their matrix products alone.

Every builder takes (T, B, D, H) and gives a function that is one repetition: draw the zoneout masks, go forward over
the sequence, and back from fixed random gradients of all hidden states to the inputs' weights, hidden weights and bias.
float32, z_c = 0.5, z_h = 0.05. Peers are at their best: inputs projected once for all steps, masks drawn at once,
sequences taken apart with ``unbind`` (``A[t]`` in the loop makes PyTorch's backward quadratic in T).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Repetition = Callable[[], Any]
Z_C, Z_H = 0.5, 0.05
GATES = {"lstm": 4, "gru": 3, "rnn": 1, "bn_lstm": 4}


def arrays(cell: str, T: int, B: int, D: int, H: int) -> dict[str, Any]:
    """Inputs, weights and the gradient of the outputs, columns as examples."""
    import numpy as np

    rng, G = np.random.default_rng(0), GATES[cell]
    shapes = {"x": (T, D, B), "W_x": (G * H, D), "W_h": (G * H, H), "b": (G * H,), "dh": (T, H, B)}
    scale = {"W_x": D**-0.5, "W_h": H**-0.5, "b": 0.1, "dh": 1 / (T * B)}
    return {n: (rng.standard_normal(s) * scale.get(n, 1)).astype(np.float32) for n, s in shapes.items()}


def minizone_layer(cell: str, T: int, B: int, D: int, H: int) -> Repetition:
    import minizone  # before NumPy, to which it says how long its threads shall wait
    from minizone.backend import keep_freed_memory, stream

    keep_freed_memory()
    a = arrays(cell, T, B, D, H)
    np, dh = minizone.array_module(a["x"]), a["dh"]
    zeros = np.zeros((H, B), np.float32)
    weights = [minizone.Tensor(a[name]) for name in ("W_x", "W_h", "b")]
    if cell == "bn_lstm":
        weights += [minizone.Tensor(np.full(n * H, 0.1, np.float32)) for n in (4, 4, 1, 1)]
    states = [zeros] * (2 if "lstm" in cell else 1)
    zoneout = minizone.Zoneout(Z_C if "lstm" in cell else 0.0, Z_H)
    function = getattr(minizone, cell)
    count = iter(range(10**9))

    def repetition() -> None:
        keep_h, keep_c = zoneout.masks(T, H, B, stream(0, "benchmark", next(count)))
        masks = {"keep_h": keep_h} | ({"keep_c": keep_c} if "lstm" in cell else {})
        h = function(a["x"], *states, *weights, **masks)
        h = h[0] if isinstance(h, tuple) else h
        h.backward(dh)
        for w in weights:
            w.grad = None

    return repetition


def floor(cell: str, T: int, B: int, D: int, H: int) -> Repetition:
    """The matrix products of the layer and nothing else, in NumPy, in the layout that DESIGN found fastest."""
    import numpy as np

    a, G = arrays(cell, T, B, D, H), GATES[cell]
    h, da = np.ones((T, H, B), np.float32), np.ones((T, G * H, B), np.float32)
    projected, out, back = (
        np.empty((T, G * H, B), np.float32),
        np.empty((G * H, B), np.float32),
        np.empty((H, B), np.float32),
    )
    flat_a, flat_h, flat_x = (np.ones((n, T * B), np.float32) for n in (G * H, H, D))
    W_T = np.ascontiguousarray(a["W_h"].T)

    def repetition() -> None:
        np.matmul(a["W_x"], a["x"], out=projected)
        for t in range(T):
            np.matmul(a["W_h"], h[t], out=out)
        for t in range(T):
            np.matmul(W_T, da[t], out=back)
        flat_a @ flat_h.T
        flat_a @ flat_x.T

    return repetition


def torch_zoneout(variant: str, cell: str, T: int, B: int, D: int, H: int) -> Repetition:
    """A loop over time in PyTorch with zoneout, rows as examples; ``variant`` of the mix: "where" or "lerp"."""
    import torch

    a = arrays(cell, T, B, D, H)
    x = torch.tensor(a["x"].transpose(0, 2, 1).copy())  # (T, B, D)
    dh = torch.tensor(a["dh"].transpose(0, 2, 1).copy())
    W_x, W_h, b = (torch.nn.Parameter(torch.tensor(a[n])) for n in ("W_x", "W_h", "b"))
    extra = [torch.nn.Parameter(torch.full((n * H,), 0.1)) for n in (4, 4, 1, 1)] if cell == "bn_lstm" else []
    zeros = torch.zeros(B, H)

    def keep(z: float) -> Any:
        ones = torch.empty(T, B, H, dtype=torch.bool if variant == "where" else torch.float32).bernoulli_(z)
        return ones.unbind(0)

    def mix(old: Any, new: Any, kept: Any) -> Any:
        return torch.where(kept, old, new) if variant == "where" else torch.lerp(new, old, kept)

    def normalize(s: Any, gamma: Any) -> Any:
        return torch.nn.functional.batch_norm(s, None, None, gamma, None, True)

    def forward() -> Any:
        inputs = torch.nn.functional.linear(x, W_x, None if cell == "bn_lstm" else b)  # (T, B, G H)
        keeps_h, h, c, outputs = keep(Z_H), zeros, zeros, []
        keeps_c = keep(Z_C) if "lstm" in cell else keeps_h
        for x_t, kept_h, kept_c in zip(inputs.unbind(0), keeps_h, keeps_c, strict=True):
            if cell == "lstm":
                i, f, g, o = (x_t + h @ W_h.t()).chunk(4, 1)
                new_c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
                new_h = torch.sigmoid(o) * torch.tanh(new_c)
                h, c = mix(h, new_h, kept_h), mix(c, new_c, kept_c)
            elif cell == "gru":
                r, z, n = x_t.chunk(3, 1)
                gates = torch.sigmoid(torch.cat([r, z], 1) + h @ W_h[: 2 * H].t())
                r, z = gates.chunk(2, 1)
                n = torch.tanh(n + (r * h) @ W_h[2 * H :].t())
                h = mix(h, torch.lerp(n, h, z), kept_h)
            elif cell == "rnn":
                h = mix(h, torch.tanh(x_t + h @ W_h.t()), kept_h)
            else:
                gates = normalize(x_t, extra[0]) + normalize(h @ W_h.t(), extra[1]) + b
                i, f, g, o = gates.chunk(4, 1)
                new_c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
                normal_c = torch.nn.functional.batch_norm(new_c, None, None, extra[2], extra[3], True)
                h, c = mix(h, torch.sigmoid(o) * torch.tanh(normal_c), kept_h), mix(c, new_c, kept_c)
            outputs.append(h)
        return torch.stack(outputs)

    def repetition() -> None:
        forward().backward(dh)
        for p in (W_x, W_h, b, *extra):
            p.grad = None

    return repetition


def torch_lstm_cell(variant: str, cell: str, T: int, B: int, D: int, H: int) -> Repetition:
    """`torch.nn.LSTMCell` in a loop, as most published zoneouts do; it projects the inputs step by step."""
    import torch

    a = arrays(cell, T, B, D, H)
    x = torch.tensor(a["x"].transpose(0, 2, 1).copy())
    dh = torch.tensor(a["dh"].transpose(0, 2, 1).copy())
    layer, zeros = torch.nn.LSTMCell(D, H), torch.zeros(B, H)

    def repetition() -> None:
        dtype = torch.bool if variant == "where" else torch.float32
        keeps_h, keeps_c = (torch.empty(T, B, H, dtype=dtype).bernoulli_(z).unbind(0) for z in (Z_H, Z_C))
        h, c, outputs = zeros, zeros, []
        for x_t, kept_h, kept_c in zip(x.unbind(0), keeps_h, keeps_c, strict=True):
            new_h, new_c = layer(x_t, (h, c))
            if variant == "where":
                h, c = torch.where(kept_h, h, new_h), torch.where(kept_c, c, new_c)
            else:
                h, c = torch.lerp(new_h, h, kept_h), torch.lerp(new_c, c, kept_c)
            outputs.append(h)
        torch.stack(outputs).backward(dh)
        layer.zero_grad(set_to_none=True)

    return repetition


def torch_plain(cell: str, T: int, B: int, D: int, H: int) -> Repetition:
    """`torch.nn.LSTM` (GRU, RNN): the whole sequence in C++, and no zoneout."""
    import torch

    a = arrays(cell, T, B, D, H)
    x = torch.tensor(a["x"].transpose(0, 2, 1).copy())
    dh = torch.tensor(a["dh"].transpose(0, 2, 1).copy())
    layer = getattr(torch.nn, cell.upper())(D, H)

    def repetition() -> None:
        layer(x)[0].backward(dh)
        layer.zero_grad(set_to_none=True)

    return repetition


def jax_scan(cell: str, T: int, B: int, D: int, H: int) -> Repetition:
    """`jax.lax.scan` with zoneout, forward and gradient jitted together."""
    import jax
    import jax.numpy as jnp

    a = arrays(cell, T, B, D, H)
    x, dh = (jnp.asarray(a[n].transpose(0, 2, 1)) for n in ("x", "dh"))
    weights = {n: jnp.asarray(a[n]) for n in ("W_x", "W_h", "b")}
    if cell == "bn_lstm":
        weights |= {n: jnp.full(k * H, 0.1, jnp.float32) for n, k in (("gx", 4), ("gh", 4), ("gc", 1), ("bc", 1))}

    def normalize(s: Any, gamma: Any) -> Any:
        centered = s - s.mean(0)
        return gamma * centered * jax.lax.rsqrt((centered * centered).mean(0) + 1e-5)

    def loss(w: dict[str, Any], key: Any) -> Any:
        key_h, key_c = jax.random.split(key)
        keep_h = jax.random.bernoulli(key_h, Z_H, (T, B, H)).astype(jnp.float32)
        keep_c = jax.random.bernoulli(key_c, Z_C, (T, B, H)).astype(jnp.float32) if "lstm" in cell else keep_h
        inputs = x @ w["W_x"].T + (0 if cell == "bn_lstm" else w["b"])

        def step(carry: Any, now: Any) -> Any:
            (h, c), (x_t, kept_h, kept_c) = carry, now
            if cell == "gru":
                gates = jax.nn.sigmoid(x_t[:, : 2 * H] + h @ w["W_h"][: 2 * H].T)
                r, z = jnp.split(gates, 2, 1)
                n = jnp.tanh(x_t[:, 2 * H :] + (r * h) @ w["W_h"][2 * H :].T)
                new_h, new_c = z * h + (1 - z) * n, c
            elif cell == "rnn":
                new_h, new_c = jnp.tanh(x_t + h @ w["W_h"].T), c
            else:
                s = h @ w["W_h"].T
                s = x_t + s if cell == "lstm" else normalize(x_t, w["gx"]) + normalize(s, w["gh"]) + w["b"]
                i, f, g, o = jnp.split(s, 4, 1)
                new_c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
                shown = new_c if cell == "lstm" else normalize(new_c, w["gc"]) + w["bc"]
                new_h = jax.nn.sigmoid(o) * jnp.tanh(shown)
            h = kept_h * h + (1 - kept_h) * new_h
            c = kept_c * c + (1 - kept_c) * new_c if "lstm" in cell else c
            return (h, c), h

        zeros = jnp.zeros((B, H))
        _, hs = jax.lax.scan(step, (zeros, zeros), (inputs, keep_h, keep_c))
        return (hs * dh).sum()

    gradient, keys = jax.jit(jax.grad(loss)), iter(range(10**9))

    def repetition() -> None:
        jax.block_until_ready(gradient(weights, jax.random.PRNGKey(next(keys))))

    return repetition
