"""The invariants of zoneout: sixteen checks of an implementation as a black box.

Each check returns whether the implementation passed, and what was seen. Where possible, a check compares the
implementation with itself: with its own step at z = 0, or with its own state one step before. So a wrong forget gate
only fails `plain`, and a failure identifies its bug. Checks of random numbers allow six standard errors, which correct
masks exceed in one of 500 million checks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from minizone.autograd.tensor import no_grad
from minizone.conformance.implementation import B, H, Implementation, NotOffered, T, normal, problem
from minizone.recurrent.lstm import lstm

STANDARD_ERRORS = 6

Outcome = tuple[bool, str]  # whether the check passed, and what was seen


@dataclass(frozen=True)
class Invariant:
    """A check, its claim, and the bugs that it detects (as classes in `minizone.conformance.broken`)."""

    name: str
    claim: str
    bugs: str
    check: Callable[[Implementation], Outcome]


# ---- the cell


def plain(tested: Implementation) -> Outcome:
    """With z = 0 the implementation is the plain LSTM, in training and in evaluation."""
    x, h, c = problem(5, 4)
    with no_grad():
        plain_h, plain_c = (states.data for states in lstm(x, h, c, *tested.weights.values()))
    worst = 0.0
    for train in (True, False):
        run = tested.run(0, 0, x, h, c, train=train)
        for found, expected in ((run.output, plain_h), (run.h, plain_h), (run.c, plain_c)):
            worst = max(worst, difference(found, expected[-len(found) :]))
    return worst <= tested.tolerance, f"largest error {worst:.1e}"


def frozen(tested: Implementation) -> Outcome:
    """With z = 1 no state ever changes, whatever the initial state."""
    z_h, z_c = tested.rates(1, 1)
    x, h, c = problem(5, 4)
    starts = [(h, c)]
    instance = tested.instance(z_h, z_c)
    if hasattr(instance, "initial"):
        own_h, own_c = tested.call(instance.initial, x.shape[-1])
        starts.append((np.asarray(own_h), np.asarray(own_c)))
    moved = dict.fromkeys(tested.zoned_states, 0.0)
    for start_h, start_c in starts:
        run = tested.run(z_h, z_c, x, start_h, start_c)
        for state, steps, start in (("h", run.h, start_h), ("c", run.c, start_c)):
            if state in moved:
                moved[state] = max(moved[state], difference(steps, start))
    seen = ", ".join(f"{state} moved by {distance:.1e}" for state, distance in moved.items())
    return max(moved.values()) <= tested.tolerance, seen


def cells_only(tested: Implementation) -> Outcome:
    """With z_c = 1 and z_h = 0, c does not change and h does."""
    x, h, c = problem(5, 4)
    run = tested.run(0, 1, x, h, c)
    c_moved = difference(run.c, c)
    h_moved = float(np.abs(np.diff(run.output, axis=0)).max(axis=(1, 2)).min())  # in the step where it moved least
    return c_moved <= tested.tolerance < h_moved, f"c moved by {c_moved:.1e}, h by {h_moved:.1e} a step or more"


def candidate(tested: Implementation) -> Outcome:
    """h is computed from the candidate cell: z_c does not change the h of the same step."""
    start = problem(1, 50)
    worst = difference(tested.run(0, 0.9, *start).h, tested.run(0, 0, *start).h)
    return worst <= tested.tolerance, f"h of a step with z_c = 0.9 is off by {worst:.1e}"


def either(tested: Implementation) -> Outcome:
    """In training every element of a zoned state is its old value or its new one."""
    x, h, c = problem(T, B)
    run = tested.run(*tested.rates(0.5, 0.5), x, h, c)
    if min(len(run.h), len(run.c)) < T:  # only the last states are returned: one step
        x = x[:1]
        run = tested.run(*tested.rates(0.5, 0.5), x, h, c)
    old = {  # (H, T * B): each step of each example becomes an example
        "h": side_by_side(np.concatenate([h[None], run.h[:-1]])),
        "c": side_by_side(np.concatenate([c[None], run.c[:-1]])),
    }
    one_step = tested.run(0, 0, side_by_side(x)[None], old["h"], old["c"])
    new = {"h": one_step.h[-1], "c": one_step.c[-1]}
    after = {"h": side_by_side(run.h), "c": side_by_side(run.c)}
    worst = 0.0
    for state in tested.zoned_states:
        to_nearest = np.minimum(np.abs(after[state] - old[state]), np.abs(after[state] - new[state]))
        worst = max(worst, difference(to_nearest, np.zeros(())))
    elements = after["h"].size
    return worst <= tested.tolerance, (
        f"{len(tested.zoned_states) * elements:,} elements, the worst {worst:.1e} from both"
    )


def side_by_side(steps: np.ndarray) -> np.ndarray:
    """(T, N, B) to (N, T * B)."""
    return steps.transpose(1, 0, 2).reshape(steps.shape[1], -1)


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """The largest absolute difference; infinite if a difference is NaN."""
    return float(np.nan_to_num(np.abs(a - b), nan=np.inf).max())


# ---- the masks


def frequency(tested: Implementation) -> Outcome:
    """In training the share of units that keep their value is z."""
    z_h, z_c = tested.rates(0.8, 0.1)
    passed, seen = True, []
    for state, kept in tested.kept(0.8, 0.1).items():
        z = z_h if state == "h" else z_c
        n, share = distinct_draws(kept).size, float(kept.mean())
        allowed = STANDARD_ERRORS * (z * (1 - z) / n) ** 0.5
        passed &= abs(share - z) <= allowed
        seen.append(f"{state} kept {share:.3f} of {n:,}, expected {z:.3f} +- {allowed:.3f}")
    return passed, "; ".join(seen)


def apart(tested: Implementation) -> Outcome:
    """The masks of h and c are independent."""
    kept = tested.kept(0.5, 0.5)
    if len(kept) < 2:
        raise NotOffered("h and c are not both zoned out")
    h, c = np.broadcast_arrays(distinct_draws(kept["h"]), distinct_draws(kept["c"]))
    found = correlate(h, c)
    return found.passed, f"correlation of the masks of h and c {found}"


def fresh(tested: Implementation, axis: int, what: str) -> Outcome:
    """Masks along an axis are independent, at every distance and for each state."""
    kept = tested.kept(0.5, 0.5, over_time=axis == 0)
    found = []
    for mask in kept.values():
        draws = distinct_draws(mask, keep_axis=axis).swapaxes(0, axis)
        for lag in range(1, len(draws)):
            if draws[lag:].size >= 100:  # fewer are too few to judge
                found.append(correlate(draws[lag:], draws[:-lag]))
    if not found:
        raise NotOffered("no state is seen at every step")
    worst = max(found, key=Correlation.excess)
    return worst.passed, f"correlation of two {what} of {' and '.join(kept)} {worst}"


def updates(tested: Implementation) -> Outcome:
    """A different seed gives different masks."""
    first, second = tested.kept(0.5, 0.5, seed=1), tested.kept(0.5, 0.5, seed=2)
    found = [correlate(distinct_draws(first[state]), distinct_draws(second[state])) for state in first]
    worst = max(found, key=Correlation.excess)
    return worst.passed, f"correlation of masks of two seeds {worst}"


def distinct_draws(kept: np.ndarray, keep_axis: int | None = None) -> np.ndarray:
    """The mask without the axes along which it only repeats, so that each draw is counted once."""
    if kept.min() == kept.max():
        return kept  # no draws are visible
    for axis in range(kept.ndim):
        first = kept.take([0], axis)
        if axis != keep_axis and (kept == first).all():
            kept = first
    return kept


@dataclass(frozen=True)
class Correlation:
    """The correlation of two masks, and the largest value allowed for independent masks."""

    r: float
    allowed: float

    @property
    def passed(self) -> bool:
        return abs(self.r) <= self.allowed

    def excess(self) -> float:
        return abs(self.r) / self.allowed

    def __str__(self) -> str:
        return f"{self.r:.3f}, at most {self.allowed:.3f}"


def correlate(a: np.ndarray, b: np.ndarray) -> Correlation:
    """The correlation of two arrays of 0 and 1, drawn with z = 0.5."""
    for share in (float(a.mean()), float(b.mean())):
        if not 0.3 < share < 0.7:  # no masks are visible, only units that have their old value by chance
            raise NotOffered(f"no masks seen: {share:.2f} kept where it should be half")
    mean = (float(a.mean()) + float(b.mean())) / 2
    r = float(((a - mean) * (b - mean)).mean() / (mean * (1 - mean)))
    return Correlation(r, STANDARD_ERRORS / a.size**0.5)


# ---- evaluation


def deterministic(tested: Implementation) -> Outcome:
    """Two evaluations give the same result, whatever the seed."""
    z_h, z_c = tested.rates(0.5, 0.5)
    start = problem(5, 50)
    first = tested.run(z_h, z_c, *start, train=False, seed=1)
    second = tested.run(z_h, z_c, *start, train=False, seed=2)
    pairs = ((first.output, second.output), (first.h, second.h), (first.c, second.c))
    worst = max(difference(a, b) for a, b in pairs)
    return worst <= tested.tolerance, f"two evaluations differ by {worst:.1e}"


def linear(tested: Implementation) -> Outcome:
    """The states after one evaluated step are linear in z."""
    low, middle, high = (tested.run(*tested.rates(z, z), *problem(1, 50), train=False) for z in (0.25, 0.5, 0.75))
    worst = 0.0
    if "h" in tested.zoned_states:
        worst = max(worst, difference(middle.h, (low.h + high.h) / 2))
    if "c" in tested.zoned_states:
        worst = max(worst, difference(middle.c, (low.c + high.c) / 2))
    return worst <= tested.tolerance, f"a step with z = 0.5 is off the mean of 0.25 and 0.75 by {worst:.1e}"


def expectation(tested: Implementation) -> Outcome:
    """An evaluated step is z * old + (1 - z) * new."""
    x, h, c = problem(1, 50)
    new = tested.run(0, 0, x, h, c, train=False)
    worst = 0.0
    for z in (0.1, 0.3, 0.8):
        z_h, z_c = tested.rates(z, 1 - z)
        run = tested.run(z_h, z_c, x, h, c, train=False)
        if "h" in tested.zoned_states:
            worst = max(worst, difference(run.h, z_h * h + (1 - z_h) * new.h))
        if "c" in tested.zoned_states:
            worst = max(worst, difference(run.c, z_c * c + (1 - z_c) * new.c))
    return worst <= tested.tolerance, f"off z * old + (1 - z) * new by {worst:.1e}"


# ---- output and gradient


def output(tested: Implementation) -> Outcome:
    """The output of the last step is the h that is returned, in training and in evaluation."""
    worst = 0.0
    for train in (True, False):
        run = tested.run(*tested.rates(0.5, 0.5), *problem(5, 50), train=train)
        worst = max(worst, difference(run.output[-len(run.h) :], run.h))
    return worst <= tested.tolerance, f"output and returned h differ by {worst:.1e}"


def gradient(tested: Implementation) -> Outcome:
    """The gradient of sum(r * output) + sum(q * last c) equals central differences with the masks replayed.

    Each array is changed along two random directions.
    """
    z_h, z_c = tested.rates(0.4, 0.6)
    if not hasattr(tested.instance(z_h, z_c), "gradient"):
        raise NotOffered("the adapter has no gradient")
    x, h, c = problem(5, 3)
    arrays = {"x": x, "h": h, "c": c} | tested.weights
    r, q = normal("r", 5, H, 3), normal("q", H, 3)

    def loss(values: dict[str, np.ndarray]) -> float:
        instance = tested.make({name: values[name] for name in tested.weights}, z_h, z_c)
        run = tested.run_instance(instance, values["x"], values["h"], values["c"], train=True, seed=7)
        return float((r * run.output).sum() + (q * run.c[-1]).sum())

    if abs(loss(arrays) - loss(arrays)) > 100 * tested.tolerance:
        raise NotOffered("the same seed gave other masks")
    in_float64 = tested.tolerance < 1e-10
    step, allowed = (1e-4, 1e-5) if in_float64 else (1e-2, 0.03)
    gradients = tested.call(tested.instance(z_h, z_c).gradient, x, h, c, r, q, 7)
    worst, worst_name = 0.0, ""
    for name, found in gradients.items():
        for k in range(2):
            v = normal(f"direction {k} {name}", *arrays[name].shape)
            v /= np.linalg.norm(v)
            ahead, behind = (
                loss(arrays | {name: arrays[name] + step * v}),
                loss(arrays | {name: arrays[name] - step * v}),
            )
            derivative = (ahead - behind) / (2 * step)
            scale = max(float(np.linalg.norm(found)), 1e-3) / v.size**0.5  # size of (found * v).sum() for a random v
            error = abs(derivative - float((found * v).sum())) / scale
            error = float(np.nan_to_num(error, nan=np.inf))
            if error >= worst:
                worst, worst_name = error, name
    return worst <= allowed, f"{len(gradients)} arrays, 5 steps, worst relative error {worst:.1e} (d{worst_name})"


INVARIANTS = [
    Invariant("plain", "z = 0 is the plain LSTM", "forget bias twice, other gates, inverted z", plain),
    Invariant("frozen", "z = 1 keeps the state", "kept state decayed or set to 0, inverted z", frozen),
    Invariant("cells only", "z_c = 1, z_h = 0: only h moves", "z_c and z_h swapped, inverted z", cells_only),
    Invariant("candidate", "h is made from the candidate cell", "tanh of the zoned-out cell, z swapped", candidate),
    Invariant("either", "every element is old or new", "rescaled like dropout, tanh of zoned-out cell", either),
    Invariant("frequency", "z is the share that is kept", "inverted or swapped z, no masks", frequency),
    Invariant("apart", "masks of c and h differ", "cell mask = state mask", apart),
    Invariant(
        "steps",
        "each step has its masks",
        "one seed or one mask for all steps",
        partial(fresh, axis=0, what="steps"),
    ),
    Invariant(
        "examples",
        "each example has its masks",
        "mask shared over the batch",
        partial(fresh, axis=2, what="examples"),
    ),
    Invariant(
        "units",
        "each unit has its masks",
        "one draw for a whole layer",
        partial(fresh, axis=1, what="units"),
    ),
    Invariant("updates", "another seed, other masks", "static masks, seed ignored", updates),
    Invariant("deterministic", "evaluation is deterministic", "noise in evaluation", deterministic),
    Invariant("linear", "an evaluated step is linear in z", "noise in evaluation, tanh of zoned-out cell", linear),
    Invariant("expectation", "evaluation is the expectation", "no expectation at test time", expectation),
    Invariant("output", "the output is the returned h", "un-zoned output, masks of its own", output),
    Invariant("gradient", "gradient with masks replayed", "mask of step 0, or a new one, in backward", gradient),
]
