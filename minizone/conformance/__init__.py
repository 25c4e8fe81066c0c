"""Is THIS a correct zoneout? The invariants of `minizone.conformance.invariants`, run on anybody's LSTM.

`python run.py conformance MODULE:ADAPTER` tests the implementation that a class named ADAPTER makes runnable. MODULE
is a .py file or an importable module. The kit gives weights in minizone's layout (those of `torch.nn.LSTM`, one bias)
and inputs whose columns are examples; the adapter converts them, and gives NumPy arrays back. An example, whole:

    class Adapter:
        def __init__(self, W_x, W_h, b, z_h, z_c):    # (4H, D), (4H, H), (4H,), rows i, f, g, o; z: probability to keep
            if z_c:
                raise NotOffered("zones out h only")  # from minizone.conformance: no failure, the table says so
            self.layer = ...

        def step(self, x, h, c, train, seed):         # x (D, B); h, c (H, B); train: draw masks, else evaluate
            if seed is not None:                      # an integer in the first step of a sequence, then None:
                seed_the_library(seed)                # the generator goes on
            return output, h, c                       # each (H, B)

        def initial(self, B):                         # optional: the states h, c (H, B) that the library starts from
            ...

        def gradient(self, x, h, c, r, q, seed):      # optional: of (r * output).sum() + (q * last c).sum() in
            return {"x": ..., "W_h": ...}             # training, by any of x, h, c, W_x, W_h, b; x (T, D, B)

In place of `step` there may be `sequence(x, h, c, train, seed)`: x (T, D, B) to the outputs (T, H, B), and h and c,
(T, H, B) or, where only the last ones can be had, (H, B). No mask is ever asked for: a seed is enough, and without one
all but the gradient can be tested. `Function` and `Layer` below are the adapters of minizone itself.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minizone.autograd.tensor import Tensor, no_grad
from minizone.backend import stream
from minizone.conformance import invariants as checks
from minizone.conformance.invariants import NotOffered, Suspect
from minizone.errors import UserError
from minizone.layers import LSTM
from minizone.recurrent.lstm import lstm
from minizone.zoneout import Zoneout


@dataclass(frozen=True)
class Invariant:
    """A check, what it claims, and the known bugs that it fails on (who had them: PAPER.md B and F)."""

    name: str
    claim: str
    bug: str
    check: Callable[[Suspect], tuple[bool, str]]


INVARIANTS = [
    Invariant("plain", "z = 0 is the plain LSTM", "forget bias twice, other gates, inverted z", checks.plain),
    Invariant("frozen", "z = 1 keeps the state", "kept state decayed or set to 0, inverted z", checks.frozen),
    Invariant("cells only", "z_c = 1, z_h = 0: only h moves", "z_c and z_h swapped, inverted z", checks.cells_only),
    Invariant(
        "candidate", "h is made from the candidate cell", "tanh of the zoned-out cell, z swapped", checks.candidate
    ),
    Invariant("either", "every element is old or new", "rescaled like dropout, tanh of zoned-out cell", checks.either),
    Invariant("frequency", "z is the share that is kept", "inverted or swapped z, no masks", checks.frequency),
    Invariant("apart", "masks of c and h differ", "cell mask = state mask", checks.independent),
    Invariant("steps", "each step has its masks", "one seed or one mask for all steps", checks.fresh(0, "steps")),
    Invariant("examples", "each example has its masks", "mask shared over the batch", checks.fresh(2, "examples")),
    Invariant("units", "each unit has its masks", "one draw for a whole layer", checks.fresh(1, "units")),
    Invariant("updates", "another seed, other masks", "static masks, seed ignored", checks.updates),
    Invariant("deterministic", "evaluation is deterministic", "noise in evaluation", checks.deterministic),
    Invariant(
        "linear", "an evaluated step is linear in z", "noise in evaluation, tanh of zoned-out cell", checks.linear
    ),
    Invariant("expectation", "evaluation is the expectation", "no expectation at test time", checks.expectation),
    Invariant("output", "the output is the returned h", "un-zoned output, masks of its own", checks.output),
    Invariant("gradient", "gradient with masks replayed", "mask of step 0, or a new one, in backward", checks.gradient),
]


@dataclass(frozen=True)
class Result:
    """What became of an invariant: status is "pass", "FAIL" or "not offered"."""

    invariant: Invariant
    status: str
    seen: str


def conform(adapter: Any) -> list[Result]:
    """All invariants of an adapter class, in the order of `INVARIANTS`.

    Raises
    ------
    UserError
        The adapter raises anything but NotOffered, or what it returns are not the arrays that were asked for.
    """
    results = []
    with np.errstate(all="ignore"):  # 0 / 0 is what some bugs do; not a number fails its check
        suspect = Suspect(adapter)
        for invariant in INVARIANTS:
            try:
                passed, seen = invariant.check(suspect)
                results.append(Result(invariant, "pass" if passed else "FAIL", seen))
            except NotOffered as reason:
                results.append(Result(invariant, "not offered", str(reason)))
    return results


def table(results: list[Result]) -> str:
    """Rows of invariant, result, what was seen, and the known bugs that it fails on; and how many of each result."""
    rows = [("invariant", "result", "seen", "fails with")]
    rows += [(f"{r.invariant.name}: {r.invariant.claim}", r.status, r.seen, r.invariant.bug) for r in results]
    widths = [max(len(row[k]) for row in rows) for k in range(3)]
    lines = ["  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[3]]) for row in rows]
    counts = [f"{sum(r.status == s for r in results)} {s}" for s in ("pass", "FAIL", "not offered")]
    return "\n".join([*lines, f"{len(results)} invariants: {', '.join(counts)}", ""])


def load(name: str) -> Any:
    """The class of "MODULE:ADAPTER", where MODULE is a .py file or an importable module."""
    module, _, attribute = name.rpartition(":")
    if not module or not attribute:
        raise UserError(f"expected MODULE:ADAPTER, for example minizone.conformance:Layer, got {name!r}")
    try:
        if module.endswith(".py"):
            loaded = load_file(Path(module))
        else:
            sys.path.insert(0, os.getcwd())
            try:
                loaded = importlib.import_module(module)
            finally:
                sys.path.remove(os.getcwd())
    except UserError:
        raise
    except ModuleNotFoundError as error:
        what = f"needs {error.name}, which is not installed" if error.name != module else "is no file and no module"
        raise UserError(f"{module} {what}") from error
    except Exception as error:
        raise UserError(
            f"{module} cannot be imported: {type(error).__name__}: {' '.join(str(error).split())}"
        ) from error
    if not callable(getattr(loaded, attribute, None)):
        classes = [n for n, v in vars(loaded).items() if isinstance(v, type) and v.__module__ == loaded.__name__]
        raise UserError(f"there is no class {attribute!r} in {module}; its classes: {', '.join(classes) or 'none'}")
    return getattr(loaded, attribute)


def load_file(path: Path) -> Any:
    """The module of a file; what lies beside it can be imported by it."""
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(f"conformance_of_{path.stem}", path)
    assert spec and spec.loader  # given for every name that ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.resolve().parent))
    try:
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.resolve().parent))
    return module


class Function:
    """`minizone.lstm` with the masks of `minizone.Zoneout`."""

    def __init__(self, W_x: Any, W_h: Any, b: Any, z_h: float, z_c: float) -> None:
        self.weights, self.zoneout = {"W_x": W_x, "W_h": W_h, "b": b}, Zoneout(cells=z_c, states=z_h)

    def sequence(self, x: Any, h: Any, c: Any, train: bool, seed: int) -> tuple[Any, Any, Any]:
        with no_grad():
            h, c = (state.data for state in self.run(x, h, c, *self.weights.values(), train=train, seed=seed))
        return h, h, c

    def run(self, x: Any, h: Any, c: Any, *weights: Any, train: bool, seed: int) -> tuple[Tensor, Tensor]:
        (H, B), rng = h.shape, stream(seed, "masks") if train else None
        keep_h, keep_c = self.zoneout.masks(len(x), H, B, rng, dtype=h.dtype)
        return lstm(x, h, c, *weights, keep_h=keep_h, keep_c=keep_c)

    def gradient(self, x: Any, h: Any, c: Any, r: Any, q: Any, seed: int) -> dict[str, Any]:
        tensors = {n: Tensor(a) for n, a in {"x": x, "h": h, "c": c, **self.weights}.items()}
        out, cells = self.run(*tensors.values(), train=True, seed=seed)
        ((out * r).sum() + (cells[-1] * q).sum()).backward()
        return {name: tensor.grad for name, tensor in tensors.items()}


class Layer:
    """`minizone.LSTM`, as models use it: it returns the last c only."""

    def __init__(self, W_x: Any, W_h: Any, b: Any, z_h: float, z_c: float) -> None:
        H, D = W_h.shape[1], W_x.shape[1]
        zoneout = Zoneout(cells=z_c, states=z_h)
        self.layer: Any = LSTM(D, H, zoneout=zoneout, rng=stream(0, "replaced"), dtype=W_x.dtype)
        for name, value in {"W_x": W_x, "W_h": W_h, "b": b}.items():
            getattr(self.layer, name).data = value.copy()

    def initial(self, B: int) -> list[Any]:
        return [np.repeat(start.data[:, None], B, axis=1) for start in (self.layer.h0, self.layer.c0)]

    def sequence(self, x: Any, h: Any, c: Any, train: bool, seed: int) -> tuple[Any, Any, Any]:
        with no_grad():
            out, (h, c) = self.layer(x, (Tensor(h), Tensor(c)), rng=stream(seed, "masks") if train else None)
        return out.data, h.data, c.data

    def gradient(self, x: Any, h: Any, c: Any, r: Any, q: Any, seed: int) -> dict[str, Any]:
        for parameter in self.layer.parameters():
            parameter.grad = None
        given = {"x": Tensor(x), "h": Tensor(h), "c": Tensor(c)}
        out, (_, last_c) = self.layer(given["x"], (given["h"], given["c"]), rng=stream(seed, "masks"))
        ((out * r).sum() + (last_c * q).sum()).backward()
        given |= {name: getattr(self.layer, name) for name in ("W_x", "W_h", "b")}
        return {name: tensor.grad for name, tensor in given.items()}
