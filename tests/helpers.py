"""What several test files share: small recurrent layers, every kind of mask, gradients by name, small data files."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

from minizone import Tensor, Zoneout
from minizone.data.download import KnownFile
from minizone.regularizers import input_mask

Arrays = dict[str, Any]

D, H = 5, 4  # features and units of `problem`
ROUNDING = 1e-10  # between two ways to compute the same in float64
SEVERAL = settings(max_examples=150, deadline=None)  # of hypothesis

dense_and_tokens = pytest.mark.parametrize("tokens", [False, True], ids=["dense", "tokens"])

FLOATS = ("h0", "c0", "W_x", "W_h", "b")

ZONEOUTS = {  # as the layer draws them
    "independent": Zoneout(0.5, 0.3),
    "shared": Zoneout(0.4, 0.4, shared=True),
    "whole layer": Zoneout(0.4, 0.4, whole_layer=True),
    "static": Zoneout(0.5, 0.3, static_steps=2),
    "gaussian": Zoneout(0.5, 0.3, gaussian=True),
}

# "" is 0-d, "1B" is (1, B), "T1B" is (T, 1, B): every shape that broadcasts to (T, H, B)
SHAPES = ["".join(axes) for n in range(4) for axes in itertools.product(*zip("THB"[3 - n :], "1" * n, strict=True))]

KINDS = ["no mask", "evaluation", "boolean", *ZONEOUTS, *(f"shape ({','.join(shape)})" for shape in SHAPES)]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def normal(*shape: int) -> np.ndarray:
    """Numbers that depend on the shape alone."""
    return np.random.default_rng(sum(shape)).standard_normal(shape)


def masks(kind: str, T: int, H: int, B: int, *, inputs: bool = False, dtype: Any = np.float64) -> Arrays:
    """The mask arguments of `minizone.lstm`, of one of the ``KINDS``; with ``inputs`` also recurrent dropout."""
    rng = np.random.default_rng(7)
    keep_in: Any
    if kind in ZONEOUTS:
        keep_h, keep_c = ZONEOUTS[kind].masks(T, H, B, rng, np.random.default_rng(8), dtype)
        keep_in = input_mask(0.3, T, H, B, rng, dtype)
    elif kind == "boolean":
        keep_h, keep_c, keep_in = rng.random((3, T, H, B)) < 0.5
    elif kind == "evaluation":
        (keep_h, keep_c), keep_in = Zoneout(0.5, 0.3).masks(T, H, B, None), input_mask(0.3, T, H, B, None)
    elif kind == "no mask":
        keep_h, keep_c, keep_in = None, None, input_mask(0.3, T, H, B, rng, dtype)
    else:
        sizes = {"T": T, "H": H, "B": B, "1": 1}
        shape = tuple(sizes[axis] for axis in kind[len("shape (") : -1].split(",") if axis)
        keep_h, keep_c, keep_in = (np.asarray(rng.random(shape), dtype) for _ in range(3))
    return {"keep_h": keep_h, "keep_c": keep_c, "input_mask": keep_in if inputs else None}


def problem(
    T: int, B: int, *, D: int = D, H: int = H, tokens: bool = False, dtype: Any = np.float64, seed: int = 0
) -> Arrays:
    """The arguments of `minizone.lstm` by name: x (T, D, B), or tokens (T, B) below D; weights of unit gain."""
    rng = np.random.default_rng(seed)
    shapes = {"h0": (H, B), "c0": (H, B), "W_x": (4 * H, D), "W_h": (4 * H, H), "b": (4 * H,)}
    gain = {"W_x": 1 if tokens else D**-0.5, "W_h": H**-0.5}
    x = rng.integers(D, size=(T, B)) if tokens else rng.standard_normal((T, D, B)).astype(dtype)
    return {"x": x} | {name: (rng.standard_normal(s) * gain.get(name, 1)).astype(dtype) for name, s in shapes.items()}


def one_hot(tokens: np.ndarray, D: int) -> np.ndarray:
    """Tokens (T, B) as columns (T, D, B)."""
    return (tokens[:, None] == np.arange(D)[:, None]).astype(np.float64)


LOSSES: dict[str, Callable[..., Tensor]] = {
    "h": lambda h, c, w: (h * w[0]).sum(),
    "c": lambda h, c, w: (c * w[1]).sum(),
    "h and c": lambda h, c, w: (h * w[0]).sum() + (c * w[1]).sum(),
    "the last step": lambda h, c, w: (h[-1] * w[0, -1]).sum() + (c[-1] * w[1, -1]).sum(),
}


def tensors(arguments: Arrays) -> Arrays:
    """The floating arrays as leaves of a graph; tokens as they are."""
    return {name: Tensor(v) if v.dtype.kind == "f" else v for name, v in arguments.items()}


def run(function: Callable[..., Any], arguments: Arrays, options: Mapping[str, Any], loss: str = "h and c") -> Arrays:
    """Outputs ``h`` and ``c`` of the function, and ``dx``, ``dh0``, ... of a loss with fixed random weights."""
    leaves = tensors(arguments)
    h, c = function(**leaves, **options)
    weights = np.random.default_rng(99).standard_normal((2, *h.shape)).astype(h.dtype)
    LOSSES[loss](h, c, weights).backward()
    return {"h": h.data, "c": c.data} | {f"d{n}": leaf.grad for n, leaf in leaves.items() if isinstance(leaf, Tensor)}


def assert_same(actual: Arrays, expected: Arrays, tolerance: float) -> None:
    """Same names, shapes and dtypes; each array equal up to ``tolerance`` times the largest element expected of it."""
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert actual[name].shape == value.shape, name
        assert actual[name].dtype == value.dtype, name
        error, largest = np.abs(actual[name] - value).max(initial=0), np.abs(value).max(initial=0)
        assert error <= tolerance * largest, f"{name}: off by {error:.1e}, the largest element being {largest:.1e}"


def lstm_by_hand(
    x: np.ndarray, h0: np.ndarray, c0: np.ndarray, W_x: np.ndarray, W_h: np.ndarray, b: np.ndarray,
    keep_h: Any = 0.0, keep_c: Any = 0.0, input_mask: Any = 1.0,
) -> Arrays:  # fmt: skip
    """The equations of the paper (section 3.2), number by number, with nothing but Python's floats.

    Also gives the candidates of every step, ``new_h`` and ``new_c`` (T, H, B).
    """
    (T, D, B), H = x.shape, len(h0)
    keep_h, keep_c, input_mask = (np.broadcast_to(mask, (T, H, B)) for mask in (keep_h, keep_c, input_mask))
    out = {name: np.empty((T, H, B)) for name in ("h", "c", "new_h", "new_c")}

    def gate(row: int, t: int, n: int, h: np.ndarray) -> float:
        a = b[row] + sum(W_x[row, d] * x[t, d, n] for d in range(D)) + sum(W_h[row, j] * h[j, n] for j in range(H))
        return math.tanh(a) if 2 * H <= row < 3 * H else 1 / (1 + math.exp(-a))

    for t in range(T):
        h, c = (out["h"][t - 1], out["c"][t - 1]) if t else (h0, c0)
        for k, n in np.ndindex(H, B):
            i, f, g, o = (gate(part * H + k, t, n, h) for part in range(4))
            new_c = f * c[k, n] + input_mask[t, k, n] * i * g
            new_h = o * math.tanh(new_c)
            zc, zh = keep_c[t, k, n], keep_h[t, k, n]
            values = (zh * h[k, n] + (1 - zh) * new_h, zc * c[k, n] + (1 - zc) * new_c, new_h, new_c)
            for name, value in zip(out, values, strict=True):
                out[name][t, k, n] = value
    return out


# ---- data files

TRAIN = "ptb/ptb.train.txt"
SMALL = {  # three files of the shape of PTB's: one blank at either end of every line
    "ptb/ptb.train.txt": b" the cat <unk> N \n sat on \n a mat \n",
    "ptb/ptb.valid.txt": b" the mat \n",
    "ptb/ptb.test.txt": b" a cat sat \n on N \n",
}
NOWHERE = ("http://127.0.0.1:9/first", "http://127.0.0.1:9/second")


def known(raw: bytes, urls: tuple[str, ...] = NOWHERE, packed: bytes | None = None) -> KnownFile:
    return KnownFile(
        hashlib.sha256(raw).hexdigest(), len(raw), urls, None if packed is None else hashlib.sha256(packed).hexdigest()
    )
