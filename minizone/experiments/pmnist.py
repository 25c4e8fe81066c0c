"""Permuted sequential MNIST: section 4.3 of the paper, Table 2 and Figure 5. One pixel a time step, then its class."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np

from minizone.autograd.ops import softmax_cross_entropy
from minizone.autograd.tensor import Tensor, no_grad
from minizone.backend import Array, Generator, array_module, normal, stream, to_host
from minizone.data import Images, load_images, permutation
from minizone.errors import UserError
from minizone.experiments.recurrent import initializer, input_factor, penalized, recurrent_stack
from minizone.experiments.settings import RecurrentSettings
from minizone.layers import BNLSTM, LSTM, Linear, Module, State
from minizone.runs.experiment import Experiment, Measured
from minizone.runs.settings import INFINITE, require

Batch = tuple[np.ndarray, np.ndarray]  # pixels (T, 1, B) in [0, 1], or scores (10, B), and labels (B,)


@dataclass(frozen=True)
class PMNISTSettings(RecurrentSettings):
    """Train a classifier of images that are read pixel by pixel (Krueger et al., 2017, section 4.3)."""

    dataset: Literal["auto", "mnist", "digits"] = "auto"
    """mnist; digits: the 8x8 digits of UCI, a stand-in; auto: mnist, else digits."""
    permutation: Literal["true", "authors"] = "true"
    """true: every pixel once; authors: theirs, drawn with replacement (501 of the 784 pixels, some of them often)."""
    unpermuted: bool = False
    """Read the pixels in their order."""
    pool: int = 1
    """Average the pixels over squares of this side, of MNIST only: shorter sequences."""
    train_examples: int = 0
    """Train on so many of the first images; 0: on all."""
    eval_examples: int = 0
    """Validate and test on so many of the first images; 0: on all."""
    batch_normalization: bool = False
    """Recurrent batch normalization (Cooijmans et al., 2017)."""
    initial_gamma: float = 0.1
    """Initial gain of batch normalization."""
    initial_beta: float = 0.0
    """Initial bias of the batch-normalized cell."""
    epsilon: float = 1e-5
    """Added to the variances of batch normalization."""
    statistics_rate: float = 0.01
    """How fast the population statistics that validation uses follow those of the minibatches, in (0, 1]."""
    noise: float = 0.0
    """Standard deviation of Gaussian noise on the initial hidden state in training: constant pixels have variance 0."""
    summarize: bool = False
    """Add the mean pixel of an image to its initial hidden state."""

    def check(self) -> None:
        super().check()
        require(self.pool >= 1, "pool", self.pool, "be at least 1")
        for name in ("train_examples", "eval_examples"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "be 0 (all) or more")
        require(0 <= self.noise < INFINITE, "noise", self.noise, "be finite (below 1e30) and 0 or more")
        require(0 < self.epsilon < INFINITE, "epsilon", self.epsilon, "be finite (below 1e30) and more than 0")
        require(0 < self.statistics_rate <= 1, "statistics_rate", self.statistics_rate, "be in (0, 1]")
        for name in ("initial_gamma", "initial_beta"):
            require(abs(getattr(self, name)) < INFINITE, name, getattr(self, name), "be finite (below 1e30)")
        if self.batch_normalization and self.rnn_type != "lstm":
            raise UserError(f"--batch-normalization is for --rnn-type lstm, got --rnn-type {self.rnn_type}")
        if self.batch_normalization and (self.ogates_zoneout or self.output_gate != "plain"):
            raise UserError("--batch-normalization does not go with zoneout of the output gate")
        if self.noise and self.summarize:
            raise UserError("--noise and --summarize both set the initial hidden state: choose one")
        if self.unpermuted and self.permutation != "true":
            raise UserError(f"--unpermuted leaves no room for --permutation {self.permutation}: choose one")

    def label_parts(self) -> list[str]:
        parts = super().label_parts()
        if self.batch_normalization:
            parts = ["bn", *(part for part in parts if part != "lstm")]
            parts += [f"gamma{self.initial_gamma:g}"] if self.initial_gamma != 0.1 else []
        parts += ["unpermuted"] if self.unpermuted else []
        return parts + ([f"{self.permutation}-permutation"] if self.permutation != "true" else [])


PAPER = PMNISTSettings(
    preset="paper",
    hidden_size=100,  # and the batch: not in the paper, from its code
    batch_size=100,
    algorithm="rms_prop",
    learning_rate=1e-3,
    rms_decay=0.5,
    clipping=1.0,
    epochs=150,
)
PRESETS = {
    "paper": PAPER,
    "quick": replace(
        PAPER,
        preset="quick",
        batch_size=50,
        pool=4,
        train_examples=5_000,
        eval_examples=2_000,
        epochs=30,
        statistics_rate=0.1,  # 26 updates an epoch of the stand-in: 0.01 would look four epochs back
    ),
}
REFERENCE = {  # error rates, Table 2 (ICLR 2017); the authors' permutation lost 283 pixels, so compare with care
    "Unregularized LSTM": {"valid": 0.092, "test": 0.102},
    "Recurrent dropout": {"valid": 0.083, "test": 0.075},
    "Zoneout": {"valid": 0.063, "test": 0.069},
    "Recurrent batchnorm & Zoneout": {"valid": 0.045, "test": 0.041},
}


class PMNISTModel(Module):
    """Pixels (T, 1, B) to scores of the classes (10, B), from the last hidden state."""

    def __init__(self, settings: PMNISTSettings, steps: int, rng: Generator):
        self.settings = settings
        s = settings
        lstm: Any = LSTM
        if s.batch_normalization:
            options: Any = {"gamma": s.initial_gamma, "beta": s.initial_beta, "epsilon": s.epsilon}
            lstm = partial(BNLSTM, steps=steps, alpha=s.statistics_rate, **options)
        self.rnn = recurrent_stack(settings, 1, steps, rng, lstm=lstm)
        self.output = Linear(settings.hidden_size, 10, initializer=initializer(settings), rng=rng)

    def __call__(self, pixels: Array, rng: Generator | None = None, record: Any = None) -> tuple[Tensor, list[State]]:
        """The scores, and all states (T, H, B) of every layer. ``rng`` given means training."""
        start = self.start(pixels, rng)
        x = pixels * input_factor(self.settings.input_drop, pixels, rng) if self.settings.input_drop else pixels
        h, states = self.rnn.states(x, start, rng, record)
        return self.output(h[-1]), states

    def start(self, pixels: Array, rng: Generator | None) -> list[State] | None:
        """The initial states of every layer: the learned ones, h with its noise or with the image's mean pixel."""
        noise, B = self.settings.noise if rng is not None else 0.0, pixels.shape[-1]
        if not noise and not self.settings.summarize:
            return None
        states = [layer.initial_state(B) for layer in self.rnn.layers]
        shape, dtype = states[0][0].shape, states[0][0].dtype
        xp = array_module(states[0][0].data)
        more = [xp.asarray(noise * normal(rng, shape, dtype) if noise else pixels.mean(axis=0)) for _ in states]
        return [(h + extra, *rest) for (h, *rest), extra in zip(states, more, strict=True)]

    @property
    def normalized(self) -> list[BNLSTM]:
        """The batch-normalized layers."""
        return [layer for layer in self.rnn.layers if isinstance(layer, BNLSTM)]


class PMNIST(Experiment):
    """Images, pixel by pixel in a fixed order; the measure is the share of wrong classes."""

    task, metric, unit = "pmnist", "error", "error rate"
    presets: dict[str, Any] = PRESETS
    settings: PMNISTSettings

    def __init__(self, settings: PMNISTSettings, say: Callable[[str], None] = print):
        super().__init__(settings, say)
        data = load_images(settings.dataset, settings.data_dir, offline=settings.offline, say=say)
        self.data = data.first(settings.train_examples, settings.eval_examples)
        if settings.pool > 1 and data.name.startswith("MNIST"):  # the stand-in is small already
            self.data = self.data.pooled(settings.pool)
        kind = "none" if settings.unpermuted else settings.permutation
        self.order = permutation(self.data.steps, kind)  # (T,), the same for every seed
        self.model = self.to_device(PMNISTModel(settings, self.data.steps, stream(settings.seed, "weights")))

    @property
    def reference(self) -> dict[str, dict[str, float]]:
        s = self.settings
        whole = s.train_examples == s.eval_examples == 0 and s.pool == 1 and not s.unpermuted
        return REFERENCE if self.data.name == "MNIST" and whole else {}

    def batches(self, epoch: int) -> Sequence[Batch]:
        """All training images, in an order redrawn for every epoch."""
        rows = stream(self.settings.seed, "order", epoch).permutation(len(self.data.train))
        return Minibatches(self, self.data.train, rows)

    def loss(self, batch: Batch, rng: Generator, record: Any = None) -> Measured:
        """Mean cross-entropy of a minibatch in nats, with the noise of training; measured: the share of errors."""
        pixels, labels = (self.device.to_device(part) for part in batch)
        scores, states = self.model(pixels, rng, record)
        wrong = (scores.data.argmax(axis=0) != labels).mean()
        return Measured(penalized(softmax_cross_entropy(scores, labels), states, self.settings), wrong, len(labels))

    def validate(self) -> float:
        """Validation error; with batch normalization, by the population statistics that training keeps up to date."""
        return self.error(self.data.valid)

    def test(self) -> dict[str, float]:
        """Test error; with batch normalization by exact population statistics, and by the moving averages as well."""
        if not self.model.normalized:
            return {"test_error": self.error(self.data.test)}
        moving, before = self.error(self.data.test), {k: v.copy() for k, v in self.model.state_dict().items()}
        self.reestimate()
        exact = self.error(self.data.test)
        self.model.load_state_dict(before)
        return {"test_error": exact, "test_error_moving_averages": moving}

    def reestimate(self) -> None:
        """Replace the population statistics by their mean over the training images, in minibatches of the same size."""
        with ExitStack() as collecting:
            for layer in self.model.normalized:
                collecting.enter_context(layer.statistics.reestimate())
            for _ in self.evaluated(self.data.train):
                pass

    def error(self, images: Images) -> float:
        """The share of images whose likeliest class is wrong."""
        return sum(int((s.argmax(axis=0) != labels).sum()) for s, labels in self.evaluated(images)) / len(images)

    def evaluated(self, images: Images) -> Iterator[Batch]:
        """In evaluation: the scores of the classes (10, B) and the labels (B,), minibatch by minibatch."""
        for pixels, labels in Minibatches(self, images):
            with no_grad():
                yield to_host(self.model(self.device.to_device(pixels))[0].data), labels

    def predictions(self) -> dict[str, Array]:
        """Of the test images: the labels (N,) and the probabilities of the classes (N, 10)."""
        if self.model.normalized:
            self.reestimate()
        scores = np.concatenate([scores for scores, _ in self.evaluated(self.data.test)], axis=1).T
        p = np.exp(scores - scores.max(axis=1, keepdims=True))
        return {"label": self.data.test.labels, "probability": p / p.sum(axis=1, keepdims=True)}


class Minibatches(Sequence[Batch]):
    """Images in minibatches, in the order of ``rows`` or their own; the last minibatch may be smaller."""

    def __init__(self, experiment: PMNIST, images: Images, rows: np.ndarray | None = None):
        self.experiment, self.images = experiment, images
        self.rows = np.arange(len(images)) if rows is None else rows
        self.size = experiment.settings.batch_size

    def __len__(self) -> int:
        return -(-len(self.rows) // self.size)

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(f"minibatch {index} of {len(self)}")
        images = self.images[self.rows[index * self.size : (index + 1) * self.size]]
        pixels = self.experiment.data.scaled(images)[:, self.experiment.order]  # (B, T)
        return np.ascontiguousarray(pixels.T)[:, None, :], images.labels
