"""A museum of zoneouts that are wrong, each in the way of somebody's published code (PAPER.md B and F).

An exhibit is the readable LSTM of minizone with one part replaced, and names the invariants of the conformance kit that
must fail on it: those and no others.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minizone.autograd.ops import stack, tanh
from minizone.autograd.tensor import Tensor, no_grad
from minizone.backend import bernoulli, stream
from minizone.recurrent.cells import lstm_gates


class Right:
    """Nothing is wrong here. Exhibits replace `keeps`, what evaluation fills in, `mix`, `emit` or `step`."""

    fails: frozenset[str] = frozenset()

    def __init__(self, W_x: Any, W_h: Any, b: Any, z_h: float, z_c: float) -> None:
        self.weights, self.z, self.train = {"W_x": W_x, "W_h": W_h, "b": b}, (z_h, z_c), True

    def keeps(self, T: int, H: int, B: int, seed: int) -> list[np.ndarray]:
        """The masks of h and c, (T, H, B)."""
        rng = stream(seed, "masks")
        return [bernoulli(rng, z, (T, H, B), np.float64) for z in self.z]

    def expected(self, T: int, H: int, B: int, seed: int) -> list[np.ndarray]:
        return [np.full((T, H, B), z) for z in self.z]

    def mix(self, old: Tensor, new: Tensor, keep: Any, z: float) -> Tensor:
        return keep * old + (1 - keep) * new

    def emit(self, h: Tensor, new_h: Tensor, old_h: Tensor) -> Any:
        return h

    def step(self, x: Any, h: Tensor, c: Tensor, keep_h: Any, keep_c: Any, *weights: Tensor) -> tuple[Any, Any, Any]:
        i, f, g, o = lstm_gates(x, h, *weights)
        new_c = f * c + i * g
        new_h = o * tanh(new_c)
        mixed_h, mixed_c = self.mix(h, new_h, keep_h, self.z[0]), self.mix(c, new_c, keep_c, self.z[1])
        return self.emit(mixed_h, new_h, h), mixed_h, mixed_c

    def run(self, x: Tensor, h: Tensor, c: Tensor, *weights: Tensor, keeps: list[np.ndarray]) -> list[Tensor]:
        """Outputs, h and c, (T, H, B) each."""
        steps = []
        for t in range(len(x.data)):
            out, h, c = self.step(x[t], h, c, keeps[0][t], keeps[1][t], *weights)
            steps.append((out, h, c))
        return [stack(list(each)) for each in zip(*steps, strict=True)]

    def sequence(self, x: Any, h: Any, c: Any, train: bool, seed: int) -> list[np.ndarray]:
        self.train, draw = train, self.keeps if train else self.expected
        with no_grad():
            given = [Tensor(a) for a in (x, h, c, *self.weights.values())]
            return [each.data for each in self.run(*given, keeps=draw(len(x), *h.shape, seed))]

    def gradient(self, x: Any, h: Any, c: Any, r: Any, q: Any, seed: int) -> dict[str, Any]:
        self.train = True
        given = {n: Tensor(a) for n, a in {"x": x, "h": h, "c": c, **self.weights}.items()}
        out, _, cells = self.run(*given.values(), keeps=self.keeps_in_backward(len(x), *h.shape, seed))
        ((out * r).sum() + (cells[-1] * q).sum()).backward()
        return {name: tensor.grad for name, tensor in given.items()}

    def keeps_in_backward(self, T: int, H: int, B: int, seed: int) -> list[np.ndarray]:
        return self.keeps(T, H, B, seed)


class UnzonedOutput(Right):
    """The authors' TensorFlow wrapper, RETURNN #1313, Tacotron-2: the state is zoned out, the output not."""

    fails = frozenset({"output"})

    def emit(self, h, new_h, old_h):
        return new_h


class TwoMasksForOutputAndState(Right):
    """MXNet #18669: what is emitted and what goes on are zoned out by different masks."""

    fails = frozenset({"output"})

    def emit(self, h, new_h, old_h):
        keep = bernoulli(stream(0, "of the output"), self.z[0], h.shape, np.float64) if self.train else self.z[0]
        return self.mix(old_h, new_h, keep, self.z[0])


class NoExpectation(Right):
    """Chainer, and the authors' wrapper: the new state at test time. Speech came out too fast."""

    fails = frozenset({"expectation"})

    def expected(self, T, H, B, seed):
        return [np.zeros((T, H, B))] * 2


class NoiseInEvaluation(Right):
    """The authors' seq2seq script never says that it is evaluating."""

    fails = frozenset({"deterministic", "linear", "expectation"})

    def expected(self, T, H, B, seed):
        return self.keeps(T, H, B, seed)


class NoNoise(Right):
    """The expectation also in training."""

    fails = frozenset({"either", "frequency"})

    def keeps(self, T, H, B, seed):
        return self.expected(T, H, B, seed)


class OneMask(Right):
    """The authors' pMNIST script: the mask of h also for c, whatever was drawn for c."""

    fails = frozenset({"apart"})

    def keeps(self, T, H, B, seed):
        return [np.floor(bernoulli_level(seed, T, H, B) + z) for z in self.z]


def bernoulli_level(seed: int, T: int, H: int, B: int) -> np.ndarray:
    """Uniform in [0, 1): one number that decides for both states."""
    return stream(seed, "masks").random((T, H, B))


class SameMaskEachStep(Right):
    """TensorFlow #2789: with a seed, each unrolled step drew the same numbers."""

    fails = frozenset({"steps"})

    def keeps(self, T, H, B, seed):
        return [np.repeat(keep, T, axis=0) for keep in super().keeps(1, H, B, seed)]


class SameMaskEachExample(Right):
    """The authors' semantic script, on purpose: one mask for the whole batch."""

    fails = frozenset({"examples"})

    def keeps(self, T, H, B, seed):
        return [np.repeat(keep, B, axis=2) for keep in super().keeps(T, H, 1, seed)]


class SameMaskEachUnit(Right):
    """Stochastic depth under the name of zoneout: a layer waits as a whole."""

    fails = frozenset({"units"})

    def keeps(self, T, H, B, seed):
        return [np.repeat(keep, H, axis=1) for keep in super().keeps(T, 1, B, seed)]


class SeedIgnored(Right):
    """A generator made anew for each update: static identity connections, in silence."""

    fails = frozenset({"updates"})

    def keeps(self, T, H, B, seed):
        return super().keeps(T, H, B, 0)


class Inverted(Right):
    """The authors' Theano gist and flags: z is the probability of updating."""

    fails = frozenset({"plain", "frozen", "cells only", "either", "frequency", "expectation"})

    def __init__(self, W_x, W_h, b, z_h, z_c):
        super().__init__(W_x, W_h, b, 1 - z_h, 1 - z_c)


class Swapped(Right):
    """The authors' get_stream: (cells, states) to a constructor of (states, cells)."""

    fails = frozenset({"cells only", "candidate", "frequency", "expectation"})

    def __init__(self, W_x, W_h, b, z_h, z_c):
        super().__init__(W_x, W_h, b, z_c, z_h)


class CellsIgnored(Right):
    """haste #29: a probability for c is accepted, only h is zoned out."""

    fails = frozenset({"frozen", "cells only", "frequency", "expectation"})

    def __init__(self, W_x, W_h, b, z_h, z_c):
        super().__init__(W_x, W_h, b, z_h, 0.0)


class TanhOfTheMixedCell(Right):
    """c is updated first and h made from it."""

    fails = frozenset({"candidate", "either", "linear", "expectation"})

    def step(self, x, h, c, keep_h, keep_c, *weights):
        i, f, g, o = lstm_gates(x, h, *weights)
        c = self.mix(c, f * c + i * g, keep_c, self.z[1])
        h = self.mix(h, o * tanh(c), keep_h, self.z[0])
        return h, h, c


class DroppedToZero(Right):
    """Dropout of the state: a unit does not wait, it forgets."""

    fails = frozenset({"frozen", "cells only", "either", "frequency", "expectation"})

    def mix(self, old, new, keep, z):
        return (1 - keep) * new


class KeptAndForgotten(Right):
    """The authors' --ogates_zoneout: what is kept went through the forget gate; here through one of 0.9."""

    fails = frozenset({"frozen", "cells only", "either", "frequency", "expectation"})

    def mix(self, old, new, keep, z):
        return keep * (0.9 * old) + (1 - keep) * new


class RescaledLikeDropout(Right):
    """The factor that the authors' issues #3 and #7 ask about: the new value is divided by 1 - z."""

    fails = frozenset({"either", "expectation"})

    def mix(self, old, new, keep, z):
        return keep * old + (1 - keep) * new * (1 / max(1 - z, 1e-9))


class MaskFromDropoutOfOnes(Right):
    """MXNet #5567: the mask was Dropout(ones), whose ones are 1 / z."""

    fails = frozenset({"either", "frequency"})

    def keeps(self, T, H, B, seed):
        return [keep / (z or 1) for keep, z in zip(super().keeps(T, H, B, seed), self.z, strict=True)]


class ForgetBiasTwice(Right):
    """The authors' two models: one adds 1 in every step, the other starts its bias at 1."""

    fails = frozenset({"plain"})

    def __init__(self, W_x, W_h, b, z_h, z_c):
        H = W_h.shape[1]
        super().__init__(W_x, W_h, b + (np.arange(4 * H) // H == 1), z_h, z_c)


class FirstMaskInBackward(Right):
    """haste #43: back through all steps with the mask of step 0."""

    fails = frozenset({"gradient"})

    def keeps_in_backward(self, T, H, B, seed):
        return [np.repeat(keep[:1], T, axis=0) for keep in self.keeps(T, H, B, seed)]


class NewMaskInBackward(Right):
    """NNTrainer #1817: backward draws masks of its own."""

    fails = frozenset({"gradient"})

    def keeps_in_backward(self, T, H, B, seed):
        return self.keeps(T, H, B, seed + 1)


class NoGradientThroughTheKept(Right):
    """The old state taken out of the graph: no gradient comes through a unit that waits."""

    fails = frozenset({"gradient"})

    def mix(self, old, new, keep, z):
        return keep * old.data + (1 - keep) * new


class StraightThrough(Right):
    """Values are zoned out, gradients are those of the plain LSTM."""

    fails = frozenset({"gradient"})

    def mix(self, old, new, keep, z):
        return new + keep * (old.data - new.data)


MUSEUM = [exhibit for exhibit in Right.__subclasses__() if exhibit.__module__ == __name__]
