"""Code shared by the tests: problems and masks for recurrent cells, gradients by name, small data files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

from minizone import Tensor, Zoneout
from minizone.data.download import KnownFile, MissingFile
from minizone.errors import UserError
from minizone.layers.regularizers import input_mask

Arrays = dict[str, Any]

D, H = 5, 4  # features and units of `problem`
ROUNDING = 1e-10  # between two ways to compute the same in float64
SEVERAL = settings(max_examples=150, deadline=None)  # of hypothesis

dense_and_tokens = pytest.mark.parametrize("tokens", [False, True], ids=["dense", "tokens"])


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def normal(*shape: int) -> np.ndarray:
    """Numbers that depend on the shape alone."""
    return rng(sum(shape)).standard_normal(shape)


# ---- masks

ZONEOUTS = {  # as a layer draws them
    "independent": Zoneout(0.5, 0.3),
    "shared": Zoneout(0.4, 0.4, shared=True),
    "whole layer": Zoneout(0.4, 0.4, whole_layer=True),
    "static": Zoneout(0.5, 0.3, static_steps=2),
    "gaussian": Zoneout(0.5, 0.3, gaussian=True),
}
SHAPES = {  # which axes of (T, H, B) a mask has; the others are of length 1 or missing
    "()": (),
    "(1,B)": (1, "B"),
    "(H,1)": ("H", 1),
    "(1,H,B)": (1, "H", "B"),
    "(T,1,1)": ("T", 1, 1),
    "(T,H,B)": ("T", "H", "B"),
}
KINDS = ["no mask", "evaluation", "boolean", *ZONEOUTS, *(f"shape {shape}" for shape in SHAPES)]
HIDDEN = {"": None, "constant hidden mask": ("H", "B"), "hidden mask": ("T", "H", "B")}  # and their axes


def masks(kind: str, T: int, H: int, B: int, *, inputs: bool = False, dtype: Any = np.float64) -> Arrays:
    """keep_h, keep_c and input_mask of one of the ``KINDS``; without ``inputs`` there is no recurrent dropout."""
    generator = rng(7)
    keep_in: Any
    if kind in ZONEOUTS:
        keep_h, keep_c = ZONEOUTS[kind].masks(T, H, B, generator, rng(8), dtype)
        keep_in = input_mask(0.3, T, H, B, generator, dtype)
    elif kind == "boolean":
        keep_h, keep_c, keep_in = generator.random((3, T, H, B)) < 0.5
    elif kind == "evaluation":
        keep_h, keep_c = Zoneout(0.5, 0.3).masks(T, H, B, None)
        keep_in = input_mask(0.3, T, H, B, None)
    elif kind == "no mask":
        keep_h, keep_c = None, None
        keep_in = input_mask(0.3, T, H, B, generator, dtype)
    else:
        shape = lengths(SHAPES[kind.removeprefix("shape ")], T, H, B)
        keep_h, keep_c, keep_in = (np.asarray(generator.random(shape), dtype) for _ in range(3))
    return {"keep_h": keep_h, "keep_c": keep_c, "input_mask": keep_in if inputs else None}


def hidden_mask(kind: str, T: int, H: int, B: int) -> np.ndarray | None:
    """Variational dropout of h_{t-1} with probability 0.3 and its rescaling, of one of the kinds in ``HIDDEN``."""
    axes = HIDDEN[kind]
    return None if axes is None else (rng(6).random(lengths(axes, T, H, B)) < 0.7) / 0.7


def lengths(axes: tuple[Any, ...], T: int, H: int, B: int) -> list[int]:
    """The shape that axes such as ``("T", 1, "B")`` stand for."""
    return [{"T": T, "H": H, "B": B, 1: 1}[axis] for axis in axes]


# ---- arguments, and what comes of them


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
    generator = rng(seed)
    shapes = {"h0": (H, B), "c0": (H, B), "W_x": (gates * H, D), "W_h": (gates * H, H), "b": (gates * H,)}
    if gates != 4:
        del shapes["c0"]
    gains = {"W_x": 1 if tokens else D**-0.5, "W_h": H**-0.5}
    arguments = {"x": generator.integers(D, size=(T, B)) if tokens else generator.standard_normal((T, D, B))}
    for name, shape in shapes.items():
        arguments[name] = generator.standard_normal(shape) * gains.get(name, 1)
    return {name: array.astype(dtype) if array.dtype.kind == "f" else array for name, array in arguments.items()}


def one_hot(tokens: np.ndarray, D: int) -> np.ndarray:
    """Tokens (T, B) as columns (T, D, B)."""
    return (tokens[:, None] == np.arange(D)[:, None]).astype(np.float64)


def tensors(arguments: Arrays) -> Arrays:
    """The floating arrays as leaves of a graph; tokens as they are."""
    return {name: Tensor(v) if v.dtype.kind == "f" else v for name, v in arguments.items()}


LOSSES = ("h and c", "h", "c", "the last step")


def loss_of(outputs: tuple[Tensor, ...], which: str = "h and c") -> Tensor:
    """One of the ``LOSSES`` of the states, with the weights of `loss_weights`; "h and c" of a single output is of h."""
    weighted = zip(outputs, loss_weights(outputs[0]), strict=False)
    terms = [((y[-1] * w[-1]) if which == "the last step" else (y * w)).sum() for y, w in weighted]
    terms = {"h": terms[:1], "c": terms[1:]}.get(which, terms)
    return sum(terms[1:], start=terms[0])


def loss_weights(h: Tensor | np.ndarray) -> np.ndarray:
    """What the losses multiply h and c with, (2, T, H, B)."""
    return rng(99).standard_normal((2, *h.shape)).astype(h.dtype)


def as_tuple(outputs: Any) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def run(function: Callable[..., Any], arguments: Arrays, options: Mapping[str, Any], loss: str = "h and c") -> Arrays:
    """Outputs ``h`` and, of an LSTM, ``c``; gradients ``dx``, ``dh0``, ... of a loss, 0 where it does not reach."""
    leaves = tensors(arguments)
    outputs = as_tuple(function(**leaves, **options))
    loss_of(outputs, loss).backward()
    found = {name: y.data for name, y in zip(("h", "c"), outputs, strict=False)}
    for name, leaf in leaves.items():
        if isinstance(leaf, Tensor):
            found[f"d{name}"] = np.zeros_like(leaf.data) if leaf.grad is None else leaf.grad
    return found


def assert_same(actual: Arrays, expected: Arrays, tolerance: float) -> None:
    """Same names, shapes and dtypes; each array equal up to ``tolerance`` times the largest element expected of it."""
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert actual[name].shape == value.shape, name
        assert actual[name].dtype == value.dtype, name
        error, largest = np.abs(actual[name] - value).max(initial=0), np.abs(value).max(initial=0)
        assert error <= tolerance * largest, f"{name}: off by {error:.1e}, the largest element being {largest:.1e}"


# ---- data files

TRAIN = "ptb/ptb.train.txt"
SMALL = {  # three files of the shape of PTB's: one blank at either end of every line
    "ptb/ptb.train.txt": b" the cat <unk> N \n sat on \n a mat \n",
    "ptb/ptb.valid.txt": b" the mat \n",
    "ptb/ptb.test.txt": b" a cat sat \n on N \n",
}
NOWHERE = ("http://127.0.0.1:9/first", "http://127.0.0.1:9/second")


def known(raw: bytes, urls: tuple[str, ...] = NOWHERE) -> KnownFile:
    return KnownFile(hashlib.sha256(raw).hexdigest(), len(raw), urls)


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
    for part in (f"{title} is not in {os.environ['MINIZONE_DATA']} ", data.name, f"not {title}'s", "--data-dir"):
        assert part in said[0]
    assert f"--dataset {real} " in said[0]
    assert load(stand_in, folder, say=pytest.fail).sha256 == data.sha256, "asked for, so nothing to be said"
    for options in ({"dataset": real}, {"data_dir": folder}, {"data_dir": str(folder / "typo")}):
        with pytest.raises(MissingFile):
            load(offline=True, say=pytest.fail, **options)
    with pytest.raises(UserError, match=f"^dataset must be one of {choices}, got 'PTB'$"):
        load("PTB")
