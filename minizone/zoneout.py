"""Zoneout in one line, and every way to fill its mask.

For any state s with candidate s~, Krueger et al. (2017), section 3.2:

    s_t = keep * s_{t-1} + (1 - keep) * s~_t                  keep = 1: the old value stays

Training draws ``keep`` from {0, 1} with P(keep = 1) = z. Evaluation uses the same line with the expectation of keep,
which is z; no weight is rescaled. The variants below differ only in how they fill ``keep``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from minizone.backend import Array, Generator, array_module, bernoulli, normal


def zone_out(old: Any, new: Any, keep: Any) -> Any:
    """``keep * old + (1 - keep) * new``: the state after zoneout; arrays or Tensors.

    Parameters
    ----------
    old, new : (H, B)
        The previous state and the candidate for the next one.
    keep : broadcastable to (H, B), or None
        1 keeps the old value, 0 takes the new one, and a number in between mixes them; None: no zoneout.

    Raises ValueError if old and new differ in shape, or if the mask does not broadcast to it.
    """
    before, after = (getattr(state, "shape", ()) for state in (old, new))
    if before != after:
        raise ValueError(f"old and new must have the same shape (H, B), got {before} and {after}")
    check_mask(keep, after, "(H, B)")
    return new if keep is None else keep * old + (1 - keep) * new


def check_mask(mask: Any, shape: tuple[int, ...], axes: str) -> None:
    """Raise ValueError unless the mask broadcasts to ``shape`` without making it larger; ``axes`` names its axes."""
    found = getattr(mask, "shape", ())  # () for a number or None
    if len(found) > len(shape) or any(n not in (1, m) for n, m in zip(found[::-1], shape[::-1], strict=False)):
        raise ValueError(f"a mask of shape {found} does not broadcast to {axes} = {shape}")


def check_probability(name: str, p: float) -> None:
    """Raise ValueError unless ``p`` is a number in [0, 1]."""
    if not 0 <= p <= 1:  # false for NaN as well
        raise ValueError(f"{name} must be in [0, 1], got {p}")


@dataclass(frozen=True)
class Zoneout:
    """The zoneout probabilities of a recurrent layer, and the form of its masks.

    Parameters
    ----------
    cells, states : float in [0, 1]
        z_c and z_h: the probability that a unit of c, of h, keeps its old value. With 1, it never changes.
    shared : bool
        One mask for c and h (section 4.3 of the paper), instead of one each.
    whole_layer : bool
        Stochastic depth in time (section 4.1.1): one draw for each time step of each example decides for all units,
        of both c and h.
    static_steps : int
        0: fresh masks for every update. n > 0: static identity connections (appendix of the paper). Masks of n time
        steps are drawn once and used for all examples and all updates; they repeat after n steps. Evaluation uses them
        too, because they are a fixed part of the network and not noise.
    gaussian : bool
        keep ~ Normal(z, z (1 - z)): mean and variance of the Bernoulli mask. The paper's code has such a flag, but
        its implementation is lost; this definition is ours, after Srivastava et al. (2014), section 10.

    Raises
    ------
    ValueError
        If a probability is outside [0, 1], ``static_steps`` < 0, or one mask has two different nonzero probabilities.
    """

    cells: float = 0.0
    states: float = 0.0
    shared: bool = False
    whole_layer: bool = False
    static_steps: int = 0
    gaussian: bool = False

    def __post_init__(self) -> None:
        check_probability("the zoneout probability of cells", self.cells)
        check_probability("the zoneout probability of states", self.states)
        if self.static_steps < 0:
            raise ValueError(f"static_steps must be 0 or more, got {self.static_steps}")
        if self._one_mask and self.cells and self.states and self.cells != self.states:
            raise ValueError(
                f"one mask for cells and states needs one probability, got {self.cells} for cells and {self.states} for"
                " states (make them equal, or one of them 0)"
            )

    @property
    def _one_mask(self) -> bool:
        return self.shared or self.whole_layer

    def masks(
        self,
        T: int,
        H: int,
        B: int,
        rng: Generator | None,
        static_rng: Generator | None = None,
        dtype: Any = np.float32,
    ) -> tuple[Array | float | None, Array | float | None]:
        """``(keep_h, keep_c)`` for a sequence, each broadcastable to (T, H, B), or None where z = 0.

        Parameters
        ----------
        T, H, B : int
            Time steps, hidden units, examples.
        rng : generator or None
            Training: the masks are drawn from it. None: evaluation, the masks are their expectation.
        static_rng : generator
            Source of static masks; it must give the same numbers in every call.
        """
        if self.static_steps:
            keep_h, keep_c = self._draw(static_rng, self.static_steps, H, 1, dtype)
            return _repeat(keep_h, T), _repeat(keep_c, T)
        if rng is None:
            return self.states or None, self.cells or None
        return self._draw(rng, T, H, B, dtype)

    def _draw(self, rng: Generator | None, T: int, H: int, B: int, dtype: Any) -> tuple[Array | None, Array | None]:
        shape = (T, 1 if self.whole_layer else H, B)
        if self._one_mask:
            z = max(self.cells, self.states)
            keep = self._keep(rng, z, shape, dtype)
            return keep if self.states else None, keep if self.cells else None
        return self._keep(rng, self.states, shape, dtype), self._keep(rng, self.cells, shape, dtype)

    def _keep(self, rng: Generator | None, z: float, shape: tuple[int, ...], dtype: Any) -> Array | None:
        if z == 0:
            return None
        if self.gaussian:
            return z + (z * (1 - z)) ** 0.5 * normal(rng, shape, dtype)
        return bernoulli(rng, z, shape, dtype)


def _repeat(keep: Array | None, T: int) -> Array | None:
    """A mask (n, H, 1), repeated along time to (T, H, 1)."""
    return None if keep is None else keep[array_module(keep).arange(T) % len(keep)]
