"""What several test files share: small recurrent layers, every kind of mask, gradients by name, small data files."""

from __future__ import annotations

import hashlib
import itertools
import math
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import settings

from minizone import Tensor, Zoneout, gru, rnn
from minizone.data.download import KnownFile, MissingFile
from minizone.errors import UserError
from minizone.layers.regularizers import input_mask
from minizone.recurrent import sequence
from minizone.recurrent.cells import gru_unrolled, rnn_unrolled

Arrays = dict[str, Any]

D, H = 5, 4  # features and units of `problem`
ROUNDING = 1e-10  # between two ways to compute the same in float64
SEVERAL = settings(max_examples=150, deadline=None)  # of hypothesis

dense_and_tokens = pytest.mark.parametrize("tokens", [False, True], ids=["dense", "tokens"])

FLOATS = ("h0", "c0", "W_x", "W_h", "b")
HIDDEN = {"": (), "constant hidden mask": "HB", "hidden mask": "THB"}  # and their axes
SIZES = [(T, B) for T in (1, 2, 7) for B in (1, 3)]

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


def hidden_mask(kind: str, T: int, H: int, B: int) -> np.ndarray | None:
    """Variational dropout of h_{t-1} with probability 0.3 and its rescaling, of one of the kinds in ``HIDDEN``."""
    sizes = {"T": T, "H": H, "B": B}
    shape = [sizes[axis] for axis in HIDDEN[kind]]
    return (np.random.default_rng(6).random(shape) < 0.7) / 0.7 if shape else None


def problem(
    T: int,
    B: int,
    *,
    D: int = D,
    H: int = H,
    tokens: bool = False,
    dtype: Any = np.float64,
    seed: int = 0,
    gates: int = 4,
) -> Arrays:
    """The arguments of `minizone.lstm` by name: x (T, D, B), or tokens (T, B) below D; weights of unit gain.

    With 3 gates those of `minizone.gru`, with 1 those of `minizone.rnn`: without c0.
    """
    rng = np.random.default_rng(seed)
    G = gates * H
    shapes = {"h0": (H, B), "c0": (H, B), "W_x": (G, D), "W_h": (G, H), "b": (G,)}
    if gates != 4:
        del shapes["c0"]
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
LOSSES_OF_H: dict[str, Callable[..., Tensor]] = {
    "h": lambda h, w: (h * w[0]).sum(),
    "the last step": lambda h, w: (h[-1] * w[0, -1]).sum(),
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


def run_h(function: Callable[..., Tensor], arguments: Arrays, options: Mapping[str, Any], loss: str = "h") -> Arrays:
    """The same for functions with one output ``h``."""
    leaves = tensors(arguments)
    h = function(**leaves, **options)
    weights = np.random.default_rng(99).standard_normal((2, *h.shape)).astype(h.dtype)
    LOSSES_OF_H[loss](h, weights).backward()
    return {"h": h.data} | {f"d{n}": leaf.grad for n, leaf in leaves.items() if isinstance(leaf, Tensor)}


def split_columns(monkeypatch: pytest.MonkeyPatch, cores: int, B: int) -> None:
    """Split the columns of small problems as those of large ones, over this number of cores."""
    monkeypatch.setattr(sequence, "WORTH_BLOCKS", 0)
    monkeypatch.setattr(sequence, "cores", lambda: cores)
    assert len(sequence.column_blocks(np.empty((H, H)), B)) == min(cores, B // sequence.FEWEST_COLUMNS) > 1


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
    keep_h: Any = 0.0, keep_c: Any = 0.0, input_mask: Any = 1.0, hidden_mask: Any = 1.0, output_gate: str = "plain",
) -> Arrays:  # fmt: skip
    """The equations of the paper (section 3.2), number by number, with nothing but Python's floats.

    Also gives the candidates of every step, ``new_h`` and ``new_c`` (T, H, B).
    """
    (T, D, B), H = x.shape, len(h0)
    keep_h, keep_c, input_mask, hidden_mask = (
        np.broadcast_to(mask, (T, H, B)) for mask in (keep_h, keep_c, input_mask, hidden_mask)
    )
    out = {name: np.empty((T, H, B)) for name in ("h", "c", "new_h", "new_c")}
    gate_before = np.empty((H, B))  # o of the step before

    def gate(row: int, t: int, n: int, h: np.ndarray) -> float:
        seen = [hidden_mask[t, j, n] * h[j, n] for j in range(H)]
        a = b[row] + sum(W_x[row, d] * x[t, d, n] for d in range(D)) + sum(W_h[row, j] * seen[j] for j in range(H))
        return math.tanh(a) if 2 * H <= row < 3 * H else 1 / (1 + math.exp(-a))

    for t in range(T):
        h, c = (out["h"][t - 1], out["c"][t - 1]) if t else (h0, c0)
        for k, n in np.ndindex(H, B):
            i, f, g, o = (gate(part * H + k, t, n, h) for part in range(4))
            d, zc, zh = float(input_mask[t, k, n]), keep_c[t, k, n], keep_h[t, k, n]
            new_c = f * c[k, n] + d * i * g
            o_before, gate_before[k, n] = gate_before[k, n] if t else o, o
            o = {"paper": d * o + (1 - d) * o_before, "printed": (1 - d) * o + d * o_before}.get(output_gate, o)
            new_h = o * math.tanh(new_c)
            zoned_h = zh * h[k, n] + (1 - zh) * new_h
            if output_gate == "authors":
                zoned_h = d * zoned_h + (1 - d) * f * h[k, n]
            values = (zoned_h, zc * c[k, n] + (1 - zc) * new_c, new_h, new_c)
            for name, value in zip(out, values, strict=True):
                out[name][t, k, n] = value
    return out


# ---- the cells without c


def affine(row: int, inputs: np.ndarray, h: Any, W_x: np.ndarray, W_h: np.ndarray, b: np.ndarray) -> float:
    """One row of ``W_x @ inputs + W_h @ h + b`` for one example."""
    return b[row] + sum(w * v for W, u in ((W_x, inputs), (W_h, h)) for w, v in zip(W[row], u, strict=True))


def gru_by_hand(
    x: np.ndarray, h0: np.ndarray, *weights: np.ndarray,
    keep_h: Any = 0.0, input_mask: Any = 1.0, hidden_mask: Any = 1.0,
) -> np.ndarray:  # fmt: skip
    """The GRU of the authors' code, number by number, with nothing but Python's floats; h (T, H, B)."""
    (T, _, B), H = x.shape, len(h0)
    keep_h, input_mask, hidden_mask = (np.broadcast_to(m, (T, H, B)) for m in (keep_h, input_mask, hidden_mask))
    out = np.empty((T, H, B))
    for t, n in np.ndindex(T, B):
        h = (out[t - 1] if t else h0)[:, n]
        seen = [hidden_mask[t, k, n] * h[k] for k in range(H)]
        r, z = ([1 / (1 + math.exp(-affine(G + k, x[t, :, n], seen, *weights))) for k in range(H)] for G in (0, H))
        reset = [r[k] * seen[k] for k in range(H)]
        for k in range(H):
            candidate = input_mask[t, k, n] * math.tanh(affine(2 * H + k, x[t, :, n], reset, *weights))
            new = z[k] * h[k] + (1 - z[k]) * candidate
            out[t, k, n] = keep_h[t, k, n] * h[k] + (1 - keep_h[t, k, n]) * new
    return out


def rnn_by_hand(
    activation: Callable[[float], float],
    x: np.ndarray, h0: np.ndarray, *weights: np.ndarray, keep_h: Any = 0.0, hidden_mask: Any = 1.0,
) -> np.ndarray:  # fmt: skip
    """The same of the simple recurrent network."""
    (T, _, B), H = x.shape, len(h0)
    keep_h, hidden_mask = (np.broadcast_to(m, (T, H, B)) for m in (keep_h, hidden_mask))
    out = np.empty((T, H, B))
    for t, k, n in np.ndindex(T, H, B):
        h = (out[t - 1] if t else h0)[:, n]
        new = activation(affine(k, x[t, :, n], [hidden_mask[t, j, n] * h[j] for j in range(H)], *weights))
        out[t, k, n] = keep_h[t, k, n] * h[k] + (1 - keep_h[t, k, n]) * new
    return out


class Cell(NamedTuple):
    fused: Callable[..., Tensor]
    reference: Callable[..., Tensor]
    by_hand: Callable[..., np.ndarray]
    gates: int
    inputs: bool = False  # with recurrent dropout

    def problem(self, T: int, B: int, **sizes: Any) -> Arrays:
        return problem(T, B, gates=self.gates, **sizes)

    def masks(self, kind: str, T: int, B: int, hidden: str = "", units: int = H, dtype: Any = np.float64) -> Arrays:
        given = masks(kind, T, units, B, inputs=True, dtype=dtype)
        given["hidden_mask"] = hidden_mask(hidden, T, units, B)
        return {n: given[n] for n in ("keep_h", "hidden_mask", *(["input_mask"] if self.inputs else []))}


def simple(activation: str, function: Callable[[float], float]) -> Cell:
    fused, reference = (partial(f, activation=activation) for f in (rnn, rnn_unrolled))
    return Cell(fused, reference, partial(rnn_by_hand, function), 1)


CELLS = {
    "gru": Cell(gru, gru_unrolled, gru_by_hand, 3),
    "gru with input mask": Cell(gru, gru_unrolled, gru_by_hand, 3, inputs=True),
    "tanh": simple("tanh", math.tanh),
    "relu": simple("relu", lambda a: max(a, 0.0)),
}


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


REAL = os.environ.get("MINIZONE_DATA", "")  # the reader's own; the fixture `nobody_elses_files` hides it


def real_data(name: str) -> Path:
    """The reader's data folder, or the end of the test if it has no such data: MINIZONE_DATA=folder pytest ..."""
    if not REAL or not (Path(REAL) / name).is_dir():
        pytest.skip(f"no $MINIZONE_DATA/{name}")
    return Path(REAL)


def check_stand_in(load: Callable[..., Any], title: str, choices: str, folder: Path) -> None:
    """When a loader may fall back on its stand-in, and what it says. ``folder`` is an empty one."""
    said: list[str] = []
    real, stand_in = choices.split(", ")[1:]
    data = load(offline=True, say=said.append)
    assert data.name.endswith("(stand-in)") and title not in data.name
    assert len(said) == 1 and "\n" not in said[0]
    for part in (f"{title} is neither in {os.environ['MINIZONE_DATA']} ", data.name, f"not {title}'s", "--data-dir"):
        assert part in said[0]
    assert f"--dataset {real} " in said[0]
    assert load(stand_in, folder, say=pytest.fail).sha256 == data.sha256, "asked for, so nothing to be said"
    for options in ({"dataset": real}, {"data_dir": folder}, {"data_dir": str(folder / "typo")}):
        with pytest.raises(MissingFile):
            load(offline=True, say=pytest.fail, **options)
    with pytest.raises(UserError, match=f"^dataset must be one of {choices}, got 'PTB'$"):
        load("PTB")
