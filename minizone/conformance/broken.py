"""A catalogue of broken zoneouts. Each has one bug, most of them from published code, and none raises an error.

`ReadableLSTM` is a correct zoneout LSTM in small methods. Each class in `CATALOGUE` overrides one part with a bug:

    its docstring   what the bug is
    whose           whose code had it
    cost            what a user loses
    caught_by       the names of the invariants that fail; all others pass

All classes are adapters. Try ``python run.py conformance minizone.conformance.broken:UnzonedOutput``.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from minizone.autograd.ops import stack, tanh
from minizone.autograd.tensor import Tensor, no_grad
from minizone.backend import Array, bernoulli, stream
from minizone.recurrent.cells import lstm_gates

Masks = tuple[Array, Array]  # keep_h and keep_c, each (T, H, B): 1 where the old value is kept


class ReadableLSTM:
    """A correct zoneout LSTM, step by step, differentiated by the tape."""

    whose: ClassVar[str]
    cost: ClassVar[str]
    caught_by: ClassVar[frozenset[str]]

    def __init__(self, W_x: Array, W_h: Array, b: Array, z_h: float, z_c: float):
        self.weights = {"W_x": W_x, "W_h": W_h, "b": b}  # (4H, D), (4H, H), (4H,)
        self.z_h, self.z_c = z_h, z_c
        self.training = True

    # ---- the parts that the bugs override

    def training_masks(self, T: int, H: int, B: int, seed: int) -> Masks:
        rng = stream(seed, "masks")
        keep_h = bernoulli(rng, self.z_h, (T, H, B), np.float64)
        keep_c = bernoulli(rng, self.z_c, (T, H, B), np.float64)
        return keep_h, keep_c

    def evaluation_masks(self, T: int, H: int, B: int, seed: int) -> Masks:
        return np.full((T, H, B), self.z_h), np.full((T, H, B), self.z_c)

    def backward_masks(self, T: int, H: int, B: int, seed: int) -> Masks:
        return self.training_masks(T, H, B, seed)

    def zone_out(self, old: Tensor, new: Tensor, keep: Array, z: float) -> Tensor:
        return keep * old + (1 - keep) * new

    def output(self, old_h: Tensor, new_h: Tensor, h: Tensor) -> Tensor:
        """The output of the layer, from the previous state, the candidate and the state after zoneout."""
        return h

    def step(
        self, x: Tensor, h: Tensor, c: Tensor, keep_h: Array, keep_c: Array, weights: list[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Output, h and c, each (H, B), from x (D, B) and the previous h and c."""
        i, f, g, o = lstm_gates(x, h, *weights)
        new_c = f * c + i * g
        new_h = o * tanh(new_c)
        next_h = self.zone_out(h, new_h, keep_h, self.z_h)
        next_c = self.zone_out(c, new_c, keep_c, self.z_c)
        return self.output(h, new_h, next_h), next_h, next_c

    # ---- the adapter

    def sequence(self, x: Array, h: Array, c: Array, train: bool, seed: int) -> tuple[Array, Array, Array]:
        self.training = train
        draw = self.training_masks if train else self.evaluation_masks
        H, B = h.shape
        masks = draw(len(x), H, B, seed)
        weights = [Tensor(array) for array in self.weights.values()]
        with no_grad():
            output, h_steps, c_steps = self.unroll(Tensor(x), Tensor(h), Tensor(c), weights, masks)
        return output.data, h_steps.data, c_steps.data

    def gradient(self, x: Array, h: Array, c: Array, r: Array, q: Array, seed: int) -> dict[str, Array]:
        self.training = True
        H, B = h.shape
        masks = self.backward_masks(len(x), H, B, seed)
        inputs = {"x": Tensor(x), "h": Tensor(h), "c": Tensor(c)}
        weights = {name: Tensor(array) for name, array in self.weights.items()}
        output, _, c_steps = self.unroll(inputs["x"], inputs["h"], inputs["c"], list(weights.values()), masks)
        ((output * r).sum() + (c_steps[-1] * q).sum()).backward()
        return {name: tensor.grad for name, tensor in (inputs | weights).items()}

    def unroll(
        self, x: Tensor, h: Tensor, c: Tensor, weights: list[Tensor], masks: Masks
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Outputs, h and c of all steps, each (T, H, B)."""
        keep_h, keep_c = masks
        outputs, h_steps, c_steps = [], [], []
        for t in range(len(keep_h)):
            output, h, c = self.step(x[t], h, c, keep_h[t], keep_c[t], weights)
            outputs.append(output)
            h_steps.append(h)
            c_steps.append(c)
        return stack(outputs), stack(h_steps), stack(c_steps)


# ---- the output


class UnzonedOutput(ReadableLSTM):
    """The state is zoned out, but the output is not."""

    whose = "the authors' TensorFlow wrapper (zoneout #6), RETURNN #1313, Tacotron-2, haste's TensorFlow layer"
    cost = "the layers above train without zoneout, and a trained model changes when the bug is fixed"
    caught_by = frozenset({"output"})

    def output(self, old_h, new_h, h):
        return new_h


class OutputMaskOfItsOwn(ReadableLSTM):
    """Output and state are zoned out with two different masks."""

    whose = "MXNet #18669"
    cost = "the layer emits values that are not its state"
    caught_by = frozenset({"output"})

    def output(self, old_h, new_h, h):
        keep = self.z_h
        if self.training:
            keep = bernoulli(stream(0, "masks of the output"), self.z_h, h.shape, np.float64)
        return self.zone_out(old_h, new_h, keep, self.z_h)


# ---- evaluation


class NoExpectation(ReadableLSTM):
    """Evaluation uses the new state and ignores the old one."""

    whose = "Chainer's StatefulZoneoutLSTM, Tacotron-2"
    cost = "states change faster at test time than in training; generated speech was too fast"
    caught_by = frozenset({"expectation"})

    def evaluation_masks(self, T, H, B, seed):
        return np.zeros((T, H, B)), np.zeros((T, H, B))


class NoiseInEvaluation(ReadableLSTM):
    """Evaluation draws masks, as training does."""

    whose = "the authors' TensorFlow wrapper, which always runs in training mode"
    cost = "scores that are worse and differ from one evaluation to the next"
    caught_by = frozenset({"deterministic", "linear", "expectation"})

    def evaluation_masks(self, T, H, B, seed):
        return self.training_masks(T, H, B, seed)


class NoNoise(ReadableLSTM):
    """Training uses the expectation, as evaluation does."""

    whose = "no published code that we know of"
    cost = "no regularization at all"
    caught_by = frozenset({"either", "frequency"})

    def training_masks(self, T, H, B, seed):
        return self.evaluation_masks(T, H, B, seed)


# ---- the masks


class CellMaskIsStateMask(ReadableLSTM):
    """The masks of h and c are made from the same random numbers."""

    whose = "the authors' pMNIST script, which draws a mask for c and throws it away"
    cost = "another regularizer: the shared mask, which did worse in the paper"
    caught_by = frozenset({"apart"})

    def training_masks(self, T, H, B, seed):
        uniform = stream(seed, "masks").random((T, H, B))
        return np.float64(uniform < self.z_h), np.float64(uniform < self.z_c)


class SameMaskEachStep(ReadableLSTM):
    """All time steps of a sequence have the same mask."""

    whose = "TensorFlow #2789: with a seed, each unrolled step drew the same numbers"
    cost = "a unit keeps its old value at all steps of a sequence or at none"
    caught_by = frozenset({"steps"})

    def training_masks(self, T, H, B, seed):
        keep_h, keep_c = super().training_masks(1, H, B, seed)
        return np.repeat(keep_h, T, axis=0), np.repeat(keep_c, T, axis=0)


class SameMaskEachExample(ReadableLSTM):
    """All examples of a minibatch have the same mask."""

    whose = "the authors' semantic-consistency script, on purpose"
    cost = "noisier gradients: a minibatch averages over one mask instead of many"
    caught_by = frozenset({"examples"})

    def training_masks(self, T, H, B, seed):
        keep_h, keep_c = super().training_masks(T, H, 1, seed)
        return np.repeat(keep_h, B, axis=2), np.repeat(keep_c, B, axis=2)


class SameMaskEachUnit(ReadableLSTM):
    """All units of a layer have the same mask."""

    whose = "no published code that we know of"
    cost = "another regularizer: stochastic depth, which did worse in the paper"
    caught_by = frozenset({"units"})

    def training_masks(self, T, H, B, seed):
        keep_h, keep_c = super().training_masks(T, 1, B, seed)
        return np.repeat(keep_h, H, axis=1), np.repeat(keep_c, H, axis=1)


class SameMaskEachUpdate(ReadableLSTM):
    """The generator is reset to the same seed in each update."""

    whose = (
        "no published code that we know of; the authors' pMNIST script comes close: it sets the seed with each stream"
    )
    cost = "static identity connections instead of noise"
    caught_by = frozenset({"updates"})

    def training_masks(self, T, H, B, seed):
        return super().training_masks(T, H, B, 0)


class MaskFromDropoutOfOnes(ReadableLSTM):
    """The mask is Dropout(ones), whose ones are rescaled to 1 / z."""

    whose = "MXNet #5567"
    cost = "a kept state is multiplied by 1 / z in each step and grows"
    caught_by = frozenset({"either", "frequency"})

    def training_masks(self, T, H, B, seed):
        keep_h, keep_c = super().training_masks(T, H, B, seed)
        return keep_h / (self.z_h or 1), keep_c / (self.z_c or 1)


# ---- the probabilities


class InvertedProbability(ReadableLSTM):
    """z is the probability of updating, not of keeping."""

    whose = "the authors' Theano gist; the flags of their char-PTB, word-PTB and text8 scripts"
    cost = "z = 0.05 means that 95 % of the units keep their old value"
    caught_by = frozenset({"plain", "frozen", "cells only", "either", "frequency", "expectation"})

    def __init__(self, W_x, W_h, b, z_h, z_c):
        super().__init__(W_x, W_h, b, 1 - z_h, 1 - z_c)


class SwappedProbabilities(ReadableLSTM):
    """The probability of c is used for h, and that of h for c."""

    whose = "the authors' pMNIST script: (cells, states) are passed to a constructor of (states, cells)"
    cost = "the paper's 0.5 and 0.05 become 0.05 and 0.5"
    caught_by = frozenset({"cells only", "candidate", "frequency", "expectation"})

    def __init__(self, W_x, W_h, b, z_h, z_c):
        super().__init__(W_x, W_h, b, z_c, z_h)


class CellsIgnored(ReadableLSTM):
    """A probability for c is accepted, but only h is zoned out."""

    whose = "haste, which zones out only h (#29 asks for c)"
    cost = "zoneout of c, which has the larger probability in the paper's best models"
    caught_by = frozenset({"frozen", "cells only", "frequency", "expectation"})

    def __init__(self, W_x, W_h, b, z_h, z_c):
        super().__init__(W_x, W_h, b, z_h, 0.0)


# ---- the step


class TanhOfZonedCell(ReadableLSTM):
    """h~ is computed from the cell after zoneout, not from the candidate cell."""

    whose = "no published code that we know of; it happens when c is updated first"
    cost = "h does not follow its input where c is kept, and evaluation is not the mean over the masks"
    caught_by = frozenset({"candidate", "either", "linear", "expectation"})

    def step(self, x, h, c, keep_h, keep_c, weights):
        i, f, g, o = lstm_gates(x, h, *weights)
        c = self.zone_out(c, f * c + i * g, keep_c, self.z_c)
        h = self.zone_out(h, o * tanh(c), keep_h, self.z_h)
        return h, h, c


class KeptStateForgotten(ReadableLSTM):
    """The kept h is multiplied by the forget gate."""

    whose = "the authors' flag --ogates_zoneout"
    cost = "a kept state decays"
    caught_by = frozenset({"frozen", "either", "frequency", "expectation"})

    def step(self, x, h, c, keep_h, keep_c, weights):
        i, f, g, o = lstm_gates(x, h, *weights)
        new_c = f * c + i * g
        next_h = self.zone_out(f * h, o * tanh(new_c), keep_h, self.z_h)
        return next_h, next_h, self.zone_out(c, new_c, keep_c, self.z_c)


class DroppedToZero(ReadableLSTM):
    """Dropout of the state: a unit becomes 0 instead of keeping its old value."""

    whose = "no published code that we know of"
    cost = "the memory of the network"
    caught_by = frozenset({"frozen", "cells only", "either", "frequency", "expectation"})

    def zone_out(self, old, new, keep, z):
        return (1 - keep) * new


class RescaledLikeDropout(ReadableLSTM):
    """The new value is divided by 1 - z, as in dropout."""

    whose = "the factor that users of the authors' code ask about (zoneout #3, #7)"
    cost = "states that grow in training, and an evaluation on another scale"
    caught_by = frozenset({"either", "expectation"})

    def zone_out(self, old, new, keep, z):
        return keep * old + (1 - keep) * new * (1 / max(1 - z, 1e-9))


class ForgetBiasTwice(ReadableLSTM):
    """1 is added to the forget gate in each step, and its bias starts at 1 as well."""

    whose = "the authors' two models, mixed: their char-PTB model adds 1, their pMNIST model starts at 1"
    cost = "an LSTM that forgets less than the one it is compared with"
    caught_by = frozenset({"plain"})

    def __init__(self, W_x, W_h, b, z_h, z_c):
        H = W_h.shape[1]
        b = b.copy()
        b[H : 2 * H] += 1
        super().__init__(W_x, W_h, b, z_h, z_c)


# ---- the backward pass


class FirstMaskInBackward(ReadableLSTM):
    """The backward pass uses the mask of step 0 for all steps."""

    whose = "haste #43"
    cost = "outputs are right but gradients are wrong, which only a gradient check shows"
    caught_by = frozenset({"gradient"})

    def backward_masks(self, T, H, B, seed):
        keep_h, keep_c = self.training_masks(T, H, B, seed)
        return np.repeat(keep_h[:1], T, axis=0), np.repeat(keep_c[:1], T, axis=0)


class NewMaskInBackward(ReadableLSTM):
    """The backward pass draws new masks."""

    whose = "NNTrainer #1817"
    cost = "gradients of a network that was not run"
    caught_by = frozenset({"gradient"})

    def backward_masks(self, T, H, B, seed):
        return self.training_masks(T, H, B, seed + 1)


class NoGradientThroughKept(ReadableLSTM):
    """No gradient flows through a unit that keeps its old value."""

    whose = "no published code that we know of"
    cost = "the gradient to early time steps, which is what zoneout is for"
    caught_by = frozenset({"gradient"})

    def zone_out(self, old, new, keep, z):
        return keep * old.data + (1 - keep) * new


class PlainGradient(ReadableLSTM):
    """The values are zoned out, but the gradients are those of the LSTM without zoneout."""

    whose = "no published code that we know of"
    cost = "gradients of a network that was not run"
    caught_by = frozenset({"gradient"})

    def zone_out(self, old, new, keep, z):
        return new + keep * (old.data - new.data)


CATALOGUE: tuple[type[ReadableLSTM], ...] = (
    UnzonedOutput,
    OutputMaskOfItsOwn,
    NoExpectation,
    NoiseInEvaluation,
    NoNoise,
    CellMaskIsStateMask,
    SameMaskEachStep,
    SameMaskEachExample,
    SameMaskEachUnit,
    SameMaskEachUpdate,
    MaskFromDropoutOfOnes,
    InvertedProbability,
    SwappedProbabilities,
    CellsIgnored,
    TanhOfZonedCell,
    KeptStateForgotten,
    DroppedToZero,
    RescaledLikeDropout,
    ForgetBiasTwice,
    FirstMaskInBackward,
    NewMaskInBackward,
    NoGradientThroughKept,
    PlainGradient,
)
