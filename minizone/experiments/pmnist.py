"""Permuted sequential MNIST: section 4.3 of the paper, Table 2 and Figure 5. A network reads images pixel by pixel."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Literal

import numpy as np

from minizone.autograd.ops import softmax_cross_entropy
from minizone.autograd.tensor import Tensor, no_grad
from minizone.backend import Array, Generator, array_module, normal, stream, to_host
from minizone.data import ImageDataset, Images, load_images, permutation
from minizone.errors import UserError
from minizone.experiments.recurrent import add_norm_stabilizer, initializer, input_dropout, recurrent_stack
from minizone.experiments.settings import RecurrentSettings
from minizone.layers import BNLSTM, LSTM, Linear, Module, State
from minizone.recurrent.sequence import StateGradients
from minizone.runs.experiment import Experiment, Measured
from minizone.runs.settings import Range

Batch = tuple[np.ndarray, np.ndarray]  # pixels (T, 1, B) in [0, 1], and labels (B,)


# ---- settings


@dataclass(frozen=True)
class PMNISTSettings(RecurrentSettings):
    """Train a classifier of images that are read pixel by pixel (Krueger et al., 2017, section 4.3)."""

    dataset: Literal["auto", "mnist", "digits"] = "auto"
    """mnist; digits: the 8x8 digits of UCI, a stand-in; auto: mnist, or digits if mnist is missing."""
    permutation: Literal["true", "authors"] = "true"
    """Order of the pixels. true: a random permutation; authors: their order, which was drawn with replacement and
    contains only 501 of the 784 pixels."""
    unpermuted: bool = False
    """Read the pixels row by row."""
    pool: Annotated[int, Range(at_least=1)] = 1
    """Average the pixels of MNIST over squares of this side length, which shortens the sequences."""
    train_examples: Annotated[int, Range(at_least=0)] = 0
    """Number of training images, counted from the first one; 0: all."""
    eval_examples: Annotated[int, Range(at_least=0)] = 0
    """Number of validation images and of test images, counted from the first one; 0: all."""
    batch_normalization: bool = False
    """Recurrent batch normalization (Cooijmans et al., 2017)."""
    initial_gamma: Annotated[float, Range()] = 0.1
    """Initial gain of batch normalization."""
    initial_beta: Annotated[float, Range()] = 0.0
    """Initial bias of the batch-normalized cell."""
    epsilon: Annotated[float, Range(more_than=0)] = 1e-5
    """Number added to the variances of batch normalization."""
    statistics_batches: Annotated[int, Range(at_least=1)] = 20
    """Number of training minibatches over which batch normalization averages its statistics before each validation,
    for validation and test. They are the first ones of the training set, the same in every epoch."""
    noise: Annotated[float, Range(at_least=0)] = 0.0
    """Standard deviation of Gaussian noise on the initial hidden state in training. Batch normalization of unpermuted
    images needs it: their first pixels are constant and have variance 0."""
    summarize: bool = False
    """Add the mean pixel of an image to its initial hidden state."""

    def check(self) -> None:
        super().check()
        if self.batch_normalization and self.rnn_type != "lstm":
            raise UserError(f"--batch-normalization needs --rnn-type lstm, got --rnn-type {self.rnn_type}")
        if self.batch_normalization and (self.ogates_zoneout or self.output_gate != "plain"):
            raise UserError("--batch-normalization cannot be combined with zoneout of the output gate")
        if self.noise and self.summarize:
            raise UserError("--noise and --summarize both change the initial hidden state: choose one")
        if self.unpermuted and self.permutation != "true":
            raise UserError(f"--unpermuted and --permutation {self.permutation} are two orders of pixels: choose one")

    def label_parts(self) -> list[str]:
        parts = super().label_parts()
        if self.batch_normalization:
            parts = ["bn", *(part for part in parts if part != "lstm")]
            if self.initial_gamma != 0.1:
                parts.append(f"gamma{self.initial_gamma:g}")
        if self.unpermuted:
            parts.append("unpermuted")
        if self.permutation != "true":
            parts.append(f"{self.permutation}-permutation")
        return parts


PAPER = PMNISTSettings(  # section 4.3
    preset="paper",
    hidden_size=100,  # the authors' code
    batch_size=100,  # the authors' code
    algorithm="rms_prop",
    learning_rate=1e-3,
    rms_decay=0.5,
    clipping=1.0,
    clip_what="gradient",
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
    ),
}
REFERENCE = {  # error rates, Table 2 (ICLR 2017); the authors' order of pixels lacks 283 pixels
    "Unregularized LSTM": {"valid": 0.092, "test": 0.102},
    "Recurrent dropout": {"valid": 0.083, "test": 0.075},
    "Zoneout": {"valid": 0.063, "test": 0.069},
    "Recurrent batchnorm": {"test": 0.046},  # of Cooijmans et al. (2017)
    "Recurrent batchnorm & Zoneout": {"valid": 0.045, "test": 0.041},
}


# ---- the model


class PMNISTModel(Module):
    """Pixels (T, 1, B) to scores of the classes (10, B), from the last hidden state."""

    def __init__(self, settings: PMNISTSettings, steps: int, rng: Generator):
        self.noise = settings.noise
        self.summarize = settings.summarize
        self.input_drop = settings.input_drop
        lstm: Callable[..., LSTM] = LSTM
        if settings.batch_normalization:
            lstm = partial(
                BNLSTM,
                steps=steps,
                gamma=settings.initial_gamma,
                beta=settings.initial_beta,
                epsilon=settings.epsilon,
            )
        self.rnn = recurrent_stack(settings, 1, steps, rng, lstm=lstm)
        self.output = Linear(settings.hidden_size, 10, initializer=initializer(settings), rng=rng)

    def __call__(
        self, pixels: Array, rng: Generator | None = None, record: StateGradients | None = None
    ) -> tuple[Tensor, list[State]]:
        """The scores (10, B), and all states (T, H, B) of every layer. With ``rng``: training."""
        start = self.initial_states(pixels, rng)
        x = input_dropout(pixels, self.input_drop, rng)
        h, states = self.rnn.states(x, start, rng, record)
        return self.output(h[-1]), states

    def initial_states(self, pixels: Array, rng: Generator | None) -> list[State] | None:
        """The initial states of every layer, with noise or the mean pixel added to h; None if neither is."""
        add_noise = self.noise > 0 and rng is not None
        if not add_noise and not self.summarize:
            return None
        states = []
        for layer in self.rnn.layers:
            h, *cells = layer.initial_state(pixels.shape[-1])  # (H, B)
            noise_or_mean = self.noise * normal(rng, h.shape, h.dtype) if add_noise else pixels.mean(axis=0)
            h = h + array_module(h.data).asarray(noise_or_mean)  # (H, B) plus (H, B) or (1, B)
            states.append((h, *cells))
        return states

    @property
    def normalized_layers(self) -> list[BNLSTM]:
        """The batch-normalized layers."""
        return [layer for layer in self.rnn.layers if isinstance(layer, BNLSTM)]


# ---- minibatches


class Minibatches(Sequence[Batch]):
    """Minibatches of images as sequences of pixels. The last one may be smaller than ``batch_size``.

    Parameters
    ----------
    data : ImageDataset
        Scales the pixels to [0, 1].
    images : Images
        A split of the data.
    pixel_order : (T,)
        Index of the pixel that is read at each time step.
    image_order : (N,), optional
        Order of the images; by default that of ``images``.
    """

    def __init__(
        self,
        data: ImageDataset,
        images: Images,
        pixel_order: np.ndarray,
        batch_size: int,
        image_order: np.ndarray | None = None,
    ):
        self.data = data
        self.images = images
        self.pixel_order = pixel_order
        self.batch_size = batch_size
        self.image_order = np.arange(len(images)) if image_order is None else image_order

    def __len__(self) -> int:
        return math.ceil(len(self.image_order) / self.batch_size)

    def __getitem__(self, index: int) -> Batch:  # type: ignore[override]  # no slices
        if not 0 <= index < len(self):
            raise IndexError(f"minibatch {index} of {len(self)}")
        images = self.images[self.image_order[index * self.batch_size : (index + 1) * self.batch_size]]
        pixels = self.data.scaled(images)[:, self.pixel_order]  # (B, T)
        return np.ascontiguousarray(pixels.T)[:, None, :], images.labels


# ---- the experiment


class PMNIST(Experiment):
    """A recurrent network reads images pixel by pixel, in a fixed order. The metric is the share of wrong classes."""

    task, metric, unit = "pmnist", "error", "error rate"
    presets, paper = PRESETS, REFERENCE
    settings: PMNISTSettings
    data: ImageDataset
    model: PMNISTModel

    def __init__(self, settings: PMNISTSettings, say: Callable[[str], None] = print):
        super().__init__(settings, say)
        data = load_images(settings.dataset, settings.data_dir, offline=settings.offline, say=say)
        self.data = data.first(settings.train_examples, settings.eval_examples)
        if settings.pool > 1 and data.name.startswith("MNIST"):  # the stand-in is small already
            self.data = self.data.pooled(settings.pool)
        kind = "none" if settings.unpermuted else settings.permutation
        self.order = permutation(self.data.steps, kind)  # (T,), the same for every seed
        self.model = PMNISTModel(settings, self.data.steps, stream(settings.seed, "weights"))
        self.to_device(self.model)

    @property
    def reference(self) -> dict[str, dict[str, float]]:
        s = self.settings
        papers_task = s.train_examples == 0 and s.eval_examples == 0 and s.pool == 1 and not s.unpermuted
        return self.paper if papers_task and self.data.name == "MNIST" else {}

    def minibatches(self, images: Images, image_order: np.ndarray | None = None) -> Minibatches:
        return Minibatches(self.data, images, self.order, self.settings.batch_size, image_order)

    def batches(self, epoch: int) -> Minibatches:
        """All training images, in a new order in every epoch."""
        image_order = stream(self.settings.seed, "order", epoch).permutation(len(self.data.train))
        return self.minibatches(self.data.train, image_order)

    def loss(self, batch: Batch, rng: Generator, record: StateGradients | None = None) -> Measured:
        """Mean cross-entropy of a minibatch in nats, and the share of wrong classes."""
        pixels = self.device.to_device(batch[0])  # (T, 1, B)
        labels = self.device.to_device(batch[1])  # (B,)
        scores, states = self.model(pixels, rng, record)
        loss = add_norm_stabilizer(softmax_cross_entropy(scores, labels), states, self.settings)
        return Measured(loss, are_wrong(scores.data, labels).mean(), len(labels))

    def validate(self) -> float:
        """Validation error. Batch normalization estimates its population statistics first."""
        self.reestimate()
        return self.error(self.data.valid)

    def test(self) -> dict[str, float]:
        """Test error, with the population statistics of the last validation, which are saved with the parameters."""
        return {"test_error": self.error(self.data.test)}

    def reestimate(self) -> None:
        """Set the population statistics of batch normalization to their mean over training minibatches.

        The moving averages that the layers keep in training lag behind the parameters.
        """
        if not self.model.normalized_layers:
            return
        batches = self.minibatches(self.data.train)
        with ExitStack() as estimating, no_grad():
            for layer in self.model.normalized_layers:
                estimating.enter_context(layer.statistics.reestimate())
            for index in range(min(self.settings.statistics_batches, len(batches))):
                self.model(self.device.to_device(batches[index][0]))

    def error(self, images: Images) -> float:
        """The share of images that are classified wrongly."""
        wrong = 0
        for scores, labels in self.class_scores(images):
            wrong += int(are_wrong(scores, labels).sum())
        return wrong / len(images)

    def class_scores(self, images: Images) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the scores of the classes (10, B) in evaluation and the labels (B,) of each minibatch."""
        for pixels, labels in self.minibatches(images):
            with no_grad():
                scores, _ = self.model(self.device.to_device(pixels))
            yield to_host(scores.data), labels


def are_wrong(scores: Array, labels: Array) -> Array:
    """Whether the class with the largest score is wrong: (B,), for scores (10, B); True where a score is NaN."""
    return (scores.argmax(axis=0) != labels) | array_module(scores).isnan(scores).any(axis=0)  # (B,)
