"""An implementation of zoneout as a black box: how its adapter is made and called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from minizone.backend import stream
from minizone.errors import UserError

D, H = 3, 20  # inputs and units of every problem
T, B = 12, 150  # steps and examples where draws are counted: H * T * B = 36,000 of them for each state

Adapter = Any  # a class as the docstring of minizone.conformance describes it, or an instance of one


class NotOffered(Exception):
    """An adapter raises this if the implementation lacks an option. The message is the reason."""


@dataclass(frozen=True)
class Run:
    """What an implementation returned: the output (T, H, B); h and c (T, H, B), or (1, H, B) after the last step."""

    output: np.ndarray
    h: np.ndarray
    c: np.ndarray


class Implementation:
    """An implementation under test: its weights, how to run it, and its rounding errors.

    Attributes
    ----------
    zoned_states : list of "h" and "c"
        The states that the implementation can zone out.
    one_rate : bool
        Whether h and c can only have the same probability.
    tolerance : float
        Allowed rounding error: 200 times the machine epsilon of its numbers.
    """

    def __init__(self, adapter: Adapter):
        self.adapter = adapter
        self.name = f"the adapter {getattr(adapter, '__name__', adapter)}"
        self.weights = {
            "W_x": normal("weights W_x", 4 * H, D) * 2 / D**0.5,
            "W_h": normal("weights W_h", 4 * H, H) * 2 / H**0.5,
            "b": normal("weights b", 4 * H) * 2 / (4 * H) ** 0.5,
        }
        self.instances: dict[tuple[float, float], Adapter] = {}  # with the usual weights, by z_h and z_c
        self.zoned_states = []
        if self.offers(z_h=0.5, z_c=0):
            self.zoned_states.append("h")
        if self.offers(z_h=0, z_c=0.5):
            self.zoned_states.append("c")
        self.one_rate = not self.zoned_states and self.offers(z_h=0.5, z_c=0.5)
        if self.one_rate:
            self.zoned_states = ["h", "c"]
        if not self.zoned_states:
            raise UserError(f"{self.name} offers no zoneout, neither of h nor of c")
        plain = self.run(0, 0, *problem(2, 2))
        self.tolerance = 200 * float(np.finfo(np.result_type(plain.output, plain.h, plain.c)).eps)

    def offers(self, z_h: float, z_c: float) -> bool:
        """Whether the implementation runs with these probabilities."""
        try:
            self.run(z_h, z_c, *problem(2, 2))
        except NotOffered:
            return False
        return True

    def rates(self, z_h: float, z_c: float) -> tuple[float, float]:
        """The nearest probabilities that it can be set to: 0 for a state that it does not zone out."""
        if self.one_rate:
            return z_h, z_h
        return z_h if "h" in self.zoned_states else 0, z_c if "c" in self.zoned_states else 0

    def instance(self, z_h: float, z_c: float) -> Adapter:
        """The adapter with the usual weights; made once for each pair of probabilities."""
        key = float(z_h), float(z_c)
        if key not in self.instances:
            self.instances[key] = self.make(self.weights, *key)
        return self.instances[key]

    def make(self, weights: dict[str, np.ndarray], z_h: float, z_c: float) -> Adapter:
        return self.call(self.adapter, **weights, z_h=float(z_h), z_c=float(z_c))

    def run(
        self, z_h: float, z_c: float, x: np.ndarray, h: np.ndarray, c: np.ndarray, train: bool = True, seed: int = 1
    ) -> Run:
        """Run the inputs x (T, D, B), starting from the states h and c (H, B)."""
        return self.run_instance(self.instance(z_h, z_c), x, h, c, train, seed)

    def run_instance(
        self, instance: Adapter, x: np.ndarray, h: np.ndarray, c: np.ndarray, train: bool, seed: int
    ) -> Run:
        """`run` with a given instance: one call of ``sequence``, or a call of ``step`` for each time step."""
        if hasattr(instance, "sequence"):
            output, h_steps, c_steps = self.three_arrays(self.call(instance.sequence, x, h, c, train, seed))
        else:
            output, h_steps, c_steps = self.run_steps(instance, x, h, c, train, seed)
        every_step, last_step = (len(x), *h.shape), h.shape
        for name, array in (("output", output), ("h", h_steps), ("c", c_steps)):
            if array.shape != every_step and (array.shape != last_step or name == "output"):
                raise UserError(f"{self.name} returned {name} of shape {array.shape}, expected {every_step}")
        return Run(output, h_steps.reshape(-1, *last_step), c_steps.reshape(-1, *last_step))

    def run_steps(
        self, instance: Adapter, x: np.ndarray, h: np.ndarray, c: np.ndarray, train: bool, seed: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        outputs, h_steps, c_steps = [], [], []
        for t in range(len(x)):
            returned = self.call(instance.step, x[t], h, c, train, seed if t == 0 else None)
            output, h, c = (array.copy() for array in self.three_arrays(returned))
            outputs.append(output)
            h_steps.append(h)
            c_steps.append(c)
        return np.stack(outputs), np.stack(h_steps), np.stack(c_steps)

    def three_arrays(self, returned: Any) -> list[np.ndarray]:
        if not isinstance(returned, tuple | list) or len(returned) != 3:
            raise UserError(f"{self.name} must return three arrays, output, h and c")
        return [np.asarray(array) for array in returned]

    def call(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Call a function of the adapter. An error in the implementation becomes a `UserError` of one sentence."""
        try:
            return function(*arguments, **options)
        except (NotOffered, UserError):
            raise
        except Exception as error:
            message = " ".join(str(error).split())[:300]
            where = getattr(function, "__name__", "it")
            raise UserError(f"{self.name} raised {type(error).__name__} in {where}: {message}") from error

    def kept(self, z_h: float, z_c: float, seed: int = 1, over_time: bool = False) -> dict[str, np.ndarray]:
        """Which units kept their old value in training: for each zoned state an array of 0 and 1, (T, H, B).

        A unit that is updated never has its old value again, up to rounding. A state that is only returned after the
        last step is tested in one step of T * B examples; with ``over_time``, which compares steps, it is left out.
        """
        kept = self.kept_in(problem(T, B), z_h, z_c, seed)
        if len(kept) < len(self.zoned_states) and not over_time:
            kept = self.kept_in(problem(1, T * B), z_h, z_c, seed)
        return kept

    def kept_in(
        self, given: tuple[np.ndarray, np.ndarray, np.ndarray], z_h: float, z_c: float, seed: int
    ) -> dict[str, np.ndarray]:
        """`kept` for given x, h and c; only for the states that are returned for every step."""
        x, h, c = given
        run = self.run(*self.rates(z_h, z_c), x, h, c, seed=seed)
        h_steps = run.h
        if len(h_steps) < len(x):  # only the last h is returned: the earlier ones are in the output
            h_steps = np.concatenate([run.output[:-1], run.h])
        kept = {}
        for state, start, steps in (("h", h, h_steps), ("c", c, run.c)):
            if state in self.zoned_states and len(steps) == len(x):
                path = np.concatenate([start[None], steps])  # (T + 1, H, B)
                kept[state] = (np.abs(np.diff(path, axis=0)) <= self.tolerance) * 1.0
        return kept


def normal(purpose: str, *shape: int) -> np.ndarray:
    """Standard normal numbers that depend only on the purpose and the shape."""
    return stream(0, purpose).standard_normal(shape)


def problem(T: int, B: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x (T, D, B), h and c (H, B)."""
    return normal("x", T, D, B), 0.5 * normal("h", H, B), normal("c", H, B)
