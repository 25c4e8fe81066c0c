"""What an experiment is: the form that each of them fills in, and that the training loop works with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from minizone.autograd.tensor import Tensor
from minizone.backend import Array, Device, Generator
from minizone.layers import Module
from minizone.optim import Optimizer
from minizone.runs.groups import PaperResults
from minizone.runs.settings import RunSettings


class Measured(NamedTuple):
    """The result of a minibatch."""

    loss: Tensor  # with penalties: this is differentiated
    measure: Array | float  # without penalties: the mean that `Experiment.score` turns into the metric; an array is ()
    n: int  # how many numbers it is the mean of


@dataclass
class Generated:
    """The data of an experiment that draws its own: a name, and no files."""

    name: str
    sha256: dict[str, str] = field(default_factory=dict)


class Experiment:
    """One of the tasks: its settings, data and model. A subclass defines what raises NotImplementedError here.

    Attributes
    ----------
    task, metric, unit : str
        Names for files and figures: "char-ptb", "bpc", "bits per character". A smaller metric is better.
    presets : dict
        The settings of each preset.
    paper : dict
        The paper's results, {"Zoneout": {"valid": ..., "test": ...}}.
    data : object
        It has a ``name``, and the ``sha256`` of its files.
    memory : dict
        What a checkpoint must hold besides arrays, as JSON: a difficulty, for example.
    """

    task = metric = unit = ""
    presets: dict[str, Any]  # of RunSettings, or of a subclass
    paper: ClassVar[PaperResults] = {}
    settings: Any  # the same
    model: Any  # a Module
    data: Any

    def __init__(self, settings: RunSettings, say: Callable[[str], None] = print):
        self.settings = settings
        self.say = say
        self.device = Device(settings.device)
        self.memory: dict[str, Any] = {}

    @property
    def reference(self) -> PaperResults:
        """The paper's results when the run has the paper's data; else {}."""
        return {}

    def batches(self, epoch: int) -> Sequence[Any]:
        """The minibatches of an epoch, counted from 1."""
        raise NotImplementedError

    def loss(self, batch: Any, rng: Generator) -> Measured:
        """The loss of a minibatch in training; all its noise comes from ``rng``."""
        raise NotImplementedError

    def score(self, mean: float) -> float:
        """The metric, from the mean of the measures."""
        return mean

    def validate(self) -> float:
        """The metric on the validation data."""
        raise NotImplementedError

    def test(self) -> dict[str, float]:
        """``test_METRIC``, and other results on the test data. The state of the training does not change."""
        raise NotImplementedError

    def learning_rate(self, epoch: int) -> float:
        return self.settings.rate(epoch)

    def extra_columns(self) -> dict[str, Any]:
        """Further columns for the row of the epoch that has just been trained."""
        return {}

    def end_epoch(self, valid: float, optimizer: Optimizer) -> bool:
        """Called after validation. True when the task has changed, so that earlier results cannot be compared."""
        return False

    def carried(self) -> dict[str, Array]:
        """Arrays besides the parameters that one minibatch passes to the next; a checkpoint holds them."""
        return {}

    def load_carried(self, arrays: dict[str, np.ndarray]) -> None:
        """Restore, in a resumed run, what `carried` returned."""

    def begin(self, folder: Path) -> None:
        """Write, at the start of a run, what later commands need besides config.json."""

    def figure(self, folder: Path) -> None:
        """Draw the figures of the task besides its learning curves, from the log in the folder of the run."""

    def print_results(self) -> None:
        """Print examples or findings at the end of the run, with the best parameters."""

    def to_device(self, model: Module) -> Module:
        """Move the arrays of the model to the device; returns the model."""
        for _, tensor in model.named_tensors():
            tensor.data = self.device.to_device(tensor.data)
        return model
