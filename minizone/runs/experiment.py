"""What an experiment is: all that the training loop needs to know of one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minizone.autograd.tensor import Tensor
from minizone.backend import Array, Device, Generator
from minizone.layers import Module
from minizone.optim import Optimizer
from minizone.runs.settings import RunSettings


class Measured(NamedTuple):
    """The outcome of a minibatch."""

    loss: Tensor  # what is differentiated, penalties included
    measure: Any  # the mean of what `Experiment.score` turns into the metric, without penalties: a number or array ()
    n: int  # how many numbers that is the mean of


@dataclass
class Generated:
    """The data of an experiment that makes its own: a name in the place of files."""

    name: str
    sha256: dict[str, str] = field(default_factory=dict)


class Experiment:
    """One of the tasks. A subclass has the settings, the data and the model, and says how they meet.

    Attributes
    ----------
    task, metric, unit : str
        Names for files and figures: "char-ptb", "bpc", "bits per character". The smaller the metric, the better.
    presets : dict
        Preset name to settings.
    settings, data, model, device
        ``data`` has a ``name`` and the ``sha256`` of its files.
    memory : dict
        What else a checkpoint must hold, as JSON: a difficulty, for example.
    """

    task = metric = unit = ""
    presets: dict[str, Any]
    model: Any  # a Module
    data: Any

    def __init__(self, settings: RunSettings, say: Callable[[str], None] = print):
        self.settings, self.say, self.device = settings, say, Device(settings.device)
        self.memory: dict[str, Any] = {}

    @property
    def reference(self) -> dict[str, dict[str, float]]:
        """The paper's numbers, {"Zoneout": {"valid": ..., "test": ...}}, when this run's data are those they are on."""
        return {}

    def batches(self, epoch: int) -> Sequence[Any]:
        """The minibatches of an epoch, counted from 1."""
        raise NotImplementedError

    def loss(self, batch: Any, rng: Generator) -> Measured:
        """A minibatch in training; all noise comes from ``rng``."""
        raise NotImplementedError

    def score(self, mean: float) -> float:
        """The metric, from the mean of the measures."""
        return mean

    def validate(self) -> float:
        """The metric on the validation data."""
        raise NotImplementedError

    def test(self) -> dict[str, float]:
        """``test_METRIC``, and what else is to be known of the test data; leaves the training as it is."""
        raise NotImplementedError

    def predictions(self) -> dict[str, Array]:
        """What the model predicts for the test data, as named arrays."""
        raise NotImplementedError

    def learning_rate(self, epoch: int) -> float:
        return self.settings.rate(epoch)

    def columns(self) -> dict[str, Any]:
        """More columns for the log, as the epoch that has just been trained was."""
        return {}

    def end_epoch(self, valid: float, optimizer: Optimizer) -> bool:
        """Called after validation; whether the task has changed, so that the best result so far counts no more."""
        return False

    def carried(self) -> dict[str, Array]:
        """Arrays that pass from one minibatch to the next beside the parameters: part of every checkpoint."""
        return {}

    def recall(self, arrays: dict[str, np.ndarray]) -> None:
        """Take up what `carried` gave."""

    def figure(self, folder: Path) -> None:
        """Draw what the task shows beyond its learning curves, from the log in the folder of the run."""

    def farewell(self) -> None:
        """Say what a person may want to see at the end, with the best parameters."""

    def to_device(self, model: Module) -> Module:
        """The model, with its arrays on the device."""
        for _, tensor in model.named_tensors():
            tensor.data = self.device.to_device(tensor.data)
        return model
