"""The invariants of zoneout, asked of an implementation that one can run but not look into.

Each check returns whether the implementation passed and what was seen. Where it can, a check compares the
implementation with itself, its step with z = 0 or the state before: a wrong forget gate then fails `plain` alone, and
a failure names its bug. Statistics allow six standard errors: right masks break such a bound once in 500 million times.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from minizone.autograd.tensor import no_grad
from minizone.backend import stream
from minizone.errors import UserError
from minizone.recurrent.lstm import lstm

D, H = 3, 20  # inputs and units of every problem
T, B = 12, 150  # steps and examples where draws are counted: 36,000 of them
SIGMAS = 6  # two-sided, normal: 2e-9


class NotOffered(Exception):
    """Raised by an adapter, with the reason: the implementation cannot do what is asked of it."""


@dataclass(frozen=True)
class Run:
    """What an implementation did: its output (T, H, B), and h and c (T, H, B), or (1, H, B) after the last step."""

    out: np.ndarray
    h: np.ndarray
    c: np.ndarray


class Suspect:
    """An implementation under test: its weights, how to run it, and how exact its numbers are."""

    def __init__(self, adapter: Any) -> None:
        self.adapter = adapter
        self.made: dict[tuple[float, float], Any] = {}  # instances, by z of h and of c
        shapes = {"W_x": (4 * H, D), "W_h": (4 * H, H), "b": (4 * H,)}
        self.weights = {n: normal("weights " + n, *shape) * 2 / shape[-1] ** 0.5 for n, shape in shapes.items()}
        alone = {zone: self.can(zone == "h", zone == "c") for zone in "hc"}
        self.one_rate = not any(alone.values()) and self.can(True, True)
        self.zones = "hc" if self.one_rate else "".join(zone for zone in "hc" if alone[zone])
        if not self.zones:
            raise UserError(f"{name_of(adapter)} offers no zoneout, neither of h nor of c")
        plain = self.run(0, 0, *problem(2, 2))
        # In units of the machine epsilon of the implementation: some hundred roundings of numbers of order 1.
        self.tolerance = 200 * float(np.finfo(np.result_type(plain.out, plain.h, plain.c)).eps)

    def can(self, h: bool, c: bool) -> bool:
        try:
            self.run(0.5 * h, 0.5 * c, *problem(2, 2))
        except NotOffered:
            return False
        return True

    def make(self, z_h: float, z_c: float, weights: dict[str, np.ndarray] | None = None) -> Any:
        """An instance of the adapter; one with the usual weights is made once."""
        z_h, z_c = float(z_h), float(z_c)
        if weights:
            return guarded(self.adapter, self.adapter, **weights, z_h=z_h, z_c=z_c)
        if (z_h, z_c) not in self.made:
            self.made[z_h, z_c] = guarded(self.adapter, self.adapter, **self.weights, z_h=z_h, z_c=z_c)
        return self.made[z_h, z_c]

    def rates(self, z_h: float, z_c: float) -> tuple[float, float]:
        """As near to these as the implementation can be set: 0 for a state that it does not zone out."""
        if self.one_rate:
            return z_h, z_h
        return z_h * ("h" in self.zones), z_c * ("c" in self.zones)

    def run(self, z_h: float, z_c: float, x: Any, h: Any, c: Any, *, train: bool = True, seed: int = 1) -> Run:
        return self.go(self.make(z_h, z_c), x, h, c, train, seed)

    def go(self, made: Any, x: Any, h: Any, c: Any, train: bool, seed: int) -> Run:
        """Inputs (T, D, B) from the states h, c (H, B) on, in one call of `sequence` or step by step."""
        steps, state = [], (h, c)
        if hasattr(made, "sequence"):
            found = guarded(self.adapter, made.sequence, x, h, c, train, seed)
        else:
            for t, x_t in enumerate(x):
                step = guarded(self.adapter, made.step, x_t, *state, train, None if t else seed)
                steps.append([np.array(a) for a in self.three(step)])
                state = steps[-1][1], steps[-1][2]
            found = [np.stack(each) for each in zip(*steps, strict=True)]
        arrays = [np.asarray(a) for a in self.three(found)]
        whole, last = (len(x), *h.shape), h.shape
        for name, array in zip(("output", "h", "c"), arrays, strict=True):
            if array.shape != whole and (array.shape != last or name == "output"):
                raise UserError(f"{name_of(self.adapter)} gave {name} of the shape {array.shape}, expected {whole}")
        return Run(arrays[0], *(a.reshape(-1, *last) for a in arrays[1:]))

    def three(self, found: Any) -> Any:
        if not isinstance(found, tuple | list) or len(found) != 3:
            raise UserError(f"{name_of(self.adapter)} must return three arrays, output, h and c")
        return found

    def paths(self, run: Run, h: np.ndarray, c: np.ndarray) -> dict[str, np.ndarray]:
        """(T + 1, H, B) of each state that can be zoned out and seen at every step, from the first one on."""
        ends = {
            "h": (h, run.h if len(run.h) == len(run.out) else np.concatenate([run.out[:-1], run.h])),
            "c": (c, run.c),
        }
        return {
            zone: np.concatenate([ends[zone][0][None], ends[zone][1]])
            for zone in self.zones
            if len(ends[zone][1]) == len(run.out)
        }

    def waits(self, z_h: float, z_c: float, seed: int = 1, over_time: bool = False) -> dict[str, np.ndarray]:
        """Which units kept their value, as 0 or 1, (T, H, B): one in motion never hits its old value to rounding.

        A state that is only seen after the last step is looked at in one step of T * B examples; or left out, where
        it is the differences between steps that matter.
        """
        for size in ((T, B), (1, T * B)):
            x, h, c = problem(*size)
            paths = self.paths(self.run(*self.rates(z_h, z_c), x, h, c, seed=seed), h, c)
            if over_time or len(paths) == len(self.zones):
                break
        return {zone: (np.abs(np.diff(path, axis=0)) <= self.tolerance) * 1.0 for zone, path in paths.items()}


def guarded(adapter: Any, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """What the function returns; an error in the implementation becomes one sentence."""
    try:
        return function(*arguments, **options)
    except (NotOffered, UserError):
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:300]
        what = getattr(function, "__name__", "it")
        raise UserError(f"{name_of(adapter)} raised {type(error).__name__} in {what}: {said}") from error


def name_of(adapter: Any) -> str:
    return f"the adapter {getattr(adapter, '__name__', adapter)}"


def normal(purpose: str, *shape: int) -> np.ndarray:
    return stream(0, purpose).standard_normal(shape)


def problem(T: int, B: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x (T, D, B), h and c (H, B)."""
    return normal("x", T, D, B), 0.5 * normal("h", H, B), normal("c", H, B)


def off(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference; not a number counts as infinite."""
    return float(np.nan_to_num(np.abs(a - b), nan=np.inf).max())


def plain(s: Suspect) -> tuple[bool, str]:
    x, h, c = problem(5, 4)
    with no_grad():
        want = [a.data for a in lstm(x, h, c, *s.weights.values())]
    worst = 0.0
    for train in (True, False):
        got = s.run(0, 0, x, h, c, train=train)
        worst = max(
            worst, off(got.out, want[0]), *(off(a, w[-len(a) :]) for a, w in zip((got.h, got.c), want, strict=True))
        )
    return worst <= s.tolerance, f"largest error {worst:.1e}"


def frozen(s: Suspect) -> tuple[bool, str]:
    z, (x, *given) = s.rates(1, 1), problem(5, 4)
    starts, worst = [given], dict.fromkeys(s.zones, 0.0)
    if hasattr(s.make(*z), "initial"):
        starts.append([np.asarray(a) for a in guarded(s.adapter, s.make(*z).initial, x.shape[-1])])
    for h, c in starts:
        run = s.run(*z, x, h, c)
        for zone in s.zones:
            worst[zone] = max(worst[zone], off(getattr(run, zone), {"h": h, "c": c}[zone]))
    return max(worst.values()) <= s.tolerance, ", ".join(f"{zone} moved by {w:.1e}" for zone, w in worst.items())


def cells_only(s: Suspect) -> tuple[bool, str]:
    x, h, c = problem(5, 4)
    run = s.run(0, 1, x, h, c)
    held, moved = off(run.c, c), float(np.abs(np.diff(run.out, axis=0)).max(axis=(1, 2)).min())
    return held <= s.tolerance < moved, f"c moved by {held:.1e}, h by {moved:.1e} a step or more"


def candidate(s: Suspect) -> tuple[bool, str]:
    start = problem(1, 50)
    worst = off(s.run(0, 0.9, *start).h, s.run(0, 0, *start).h)
    return worst <= s.tolerance, f"h of a step with z_c = 0.9 is off by {worst:.1e}"


def either(s: Suspect) -> tuple[bool, str]:
    x, h, c = problem(T, B)
    run = s.run(*s.rates(0.5, 0.5), x, h, c)
    if min(len(run.h), len(run.c)) < T:  # only the last states are seen: one step
        x = x[:1]
        run = s.run(*s.rates(0.5, 0.5), x, h, c)
    old = {
        zone: columns(np.concatenate([start[None], path[:-1]]))
        for zone, start, path in zip("hc", (h, c), (run.h, run.c), strict=True)
    }
    new, after = s.run(0, 0, columns(x)[None], old["h"], old["c"]), {"h": columns(run.h), "c": columns(run.c)}
    worst = 0.0
    for zone in s.zones:
        to_old, to_new = (np.abs(after[zone] - value) for value in (old[zone], getattr(new, zone)[-1]))
        worst = max(worst, off(np.minimum(to_old, to_new), np.zeros(())))
    return worst <= s.tolerance, f"{len(s.zones) * after['h'].size:,} elements, the worst {worst:.1e} from both"


def columns(path: np.ndarray) -> np.ndarray:
    """(T, N, B) to (N, T * B): every step of every example as an example of its own."""
    return path.transpose(1, 0, 2).reshape(path.shape[1], -1)


def draws(w: np.ndarray, but: int | None = None) -> np.ndarray:
    """One of each along the axes on which all are equal: what was drawn, as far as one can see."""
    if w.min() == w.max():
        return w  # no sign of a draw
    for axis in range(w.ndim):
        if axis != but and (w == w.take([0], axis)).all():
            w = w.take([0], axis)
    return w


def correlation(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Of two arrays of 0 and 1 with z = 0.5, and how much of it as many independent draws may show."""
    shares = [float(each.mean()) for each in (a, b)]
    for share in shares:
        if not 0.3 < share < 0.7:  # what waits are then no masks, but units that hit their old value by chance
            raise NotOffered(f"no masks seen: {share:.2f} kept where it should be half")
    mean = sum(shares) / 2
    return float(((a - mean) * (b - mean)).mean() / (mean * (1 - mean))), SIGMAS / a.size**0.5


def fresh(axis: int, what: str) -> Callable[[Suspect], tuple[bool, str]]:
    """The check that masks differ along an axis: pairs of all distances, in each state."""

    def check(s: Suspect) -> tuple[bool, str]:
        found, waits = [], s.waits(0.5, 0.5, over_time=axis == 0)
        for seen in waits.values():
            w = draws(seen, but=axis).swapaxes(0, axis)
            found += [
                correlation(w[lag:], w[:-lag]) for lag in range(1, len(w)) if w[lag:].size >= 100
            ]  # fewer tell nothing
        if not found:
            raise NotOffered("no state is seen at every step")
        r, limit = max(found, key=excess)
        return abs(r) <= limit, f"correlation of two {what} of {' and '.join(waits)} {r:.3f}, at most {limit:.3f}"

    return check


def excess(found: tuple[float, float]) -> float:
    return abs(found[0]) / found[1]


def independent(s: Suspect) -> tuple[bool, str]:
    waits = s.waits(0.5, 0.5)
    if len(waits) < 2:
        raise NotOffered("h and c are not both zoned out")
    h, c = np.broadcast_arrays(*(draws(w) for w in waits.values()))
    r, limit = correlation(h, c)
    return abs(r) <= limit, f"correlation of the masks of h and c {r:.3f}, at most {limit:.3f}"


def updates(s: Suspect) -> tuple[bool, str]:
    first, second = s.waits(0.5, 0.5, seed=1), s.waits(0.5, 0.5, seed=2)
    found = [correlation(draws(first[zone]), draws(second[zone])) for zone in first]
    r, limit = max(found, key=excess)
    return abs(r) <= limit, f"correlation of masks of two seeds {r:.3f}, at most {limit:.3f}"


def frequency(s: Suspect) -> tuple[bool, str]:
    passed, said, z = True, [], dict(zip("hc", s.rates(0.8, 0.1), strict=True))
    for zone, w in s.waits(0.8, 0.1).items():
        n, share = draws(w).size, float(w.mean())
        limit = SIGMAS * (z[zone] * (1 - z[zone]) / n) ** 0.5
        passed &= abs(share - z[zone]) <= limit
        said.append(f"{zone} kept {share:.3f} of {n:,}, expected {z[zone]:.3f} +- {limit:.3f}")
    return passed, "; ".join(said)


def deterministic(s: Suspect) -> tuple[bool, str]:
    z, start = s.rates(0.5, 0.5), problem(5, 50)
    first, second = (s.run(*z, *start, train=False, seed=seed) for seed in (1, 2))
    worst = max(off(getattr(first, n), getattr(second, n)) for n in ("out", "h", "c"))
    return worst <= s.tolerance, f"two evaluations differ by {worst:.1e}"


def linear(s: Suspect) -> tuple[bool, str]:
    low, middle, high = (s.run(*s.rates(z, z), *problem(1, 50), train=False) for z in (0.25, 0.5, 0.75))
    worst = max(off(getattr(middle, n), (getattr(low, n) + getattr(high, n)) / 2) for n in s.zones)
    return worst <= s.tolerance, f"a step with z = 0.5 is off the mean of 0.25 and 0.75 by {worst:.1e}"


def expectation(s: Suspect) -> tuple[bool, str]:
    x, h, c = problem(1, 50)
    new, old, worst = s.run(0, 0, x, h, c, train=False), {"h": h, "c": c}, 0.0
    for p in (0.1, 0.3, 0.8):
        z = dict(zip("hc", s.rates(p, 1 - p), strict=True))
        run = s.run(z["h"], z["c"], x, h, c, train=False)
        for zone in s.zones:
            worst = max(worst, off(getattr(run, zone), z[zone] * old[zone] + (1 - z[zone]) * getattr(new, zone)))
    return worst <= s.tolerance, f"off z * old + (1 - z) * new by {worst:.1e}"


def output(s: Suspect) -> tuple[bool, str]:
    runs = [s.run(*s.rates(0.5, 0.5), *problem(5, 50), train=train) for train in (True, False)]
    worst = max(off(run.out[-len(run.h) :], run.h) for run in runs)
    return worst <= s.tolerance, f"output and returned h differ by {worst:.1e}"


def gradient(s: Suspect) -> tuple[bool, str]:
    """Central differences of sum(r * output) + sum(q * last c), along two random directions for each array."""
    z, arrays = s.rates(0.4, 0.6), dict(zip("xhc", problem(5, 3), strict=True)) | s.weights
    if not hasattr(s.make(*z), "gradient"):
        raise NotOffered("the adapter has no gradient")
    r, q = normal("r", 5, H, 3), normal("q", H, 3)

    def loss(values: dict[str, np.ndarray]) -> float:
        made = s.make(*z, {n: values[n] for n in s.weights})
        run = s.go(made, values["x"], values["h"], values["c"], True, 7)
        return float((r * run.out).sum() + (q * run.c[-1]).sum())

    if abs(loss(arrays) - loss(arrays)) > 100 * s.tolerance:
        raise NotOffered("the same seed gave other masks")
    found = guarded(s.adapter, s.make(*z).gradient, *(arrays[n] for n in "xhc"), r, q, 7)
    exact = s.tolerance < 1e-10
    step, limit, worst = (1e-4, 1e-5, (0.0, "")) if exact else (1e-2, 0.03, (0.0, ""))
    for name, g in found.items():
        for k in range(2):
            v = normal(f"direction {k} {name}", *arrays[name].shape)
            v /= np.linalg.norm(v)
            ahead, behind = (loss(arrays | {name: arrays[name] + sign * step * v}) for sign in (1, -1))
            scale = max(float(np.linalg.norm(g)), 1e-3) / v.size**0.5  # what g * v comes to in a random direction
            error = abs((ahead - behind) / (2 * step) - float((g * v).sum())) / scale
            worst = max(worst, (float(np.nan_to_num(error, nan=np.inf)), name))
    return worst[0] <= limit, f"{len(found)} arrays, 5 steps, worst relative error {worst[0]:.1e} (d{worst[1]})"
