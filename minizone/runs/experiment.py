"""The base class of all experiments, which is their interface to the training loop."""

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
    """The loss and the measure of a minibatch."""

    loss: Tensor  # a scalar with all penalties, which is differentiated
    measure: Array | float  # mean without penalties, for `Experiment.score`; an array has shape ()
    n: int  # number of values in that mean


@dataclass
class Generated:
    """A data set that the experiment generates. It has a name and no files."""

    name: str
    sha256: dict[str, str] = field(default_factory=dict)


class Experiment:
    """A task: its settings, data and model. Subclasses define the methods that raise NotImplementedError here.

    Attributes
    ----------
    task, metric, unit : str
        Names for files and figures: "char-ptb", "bpc", "bits per character". A smaller metric is better.
    presets : dict
        The settings of each preset.
    paper : dict
        The paper's results, {"Zoneout": {"valid": ..., "test": ...}}.
    data : object
        The data set, with a ``name`` and the ``sha256`` of its files.
    memory : dict
        The state that a checkpoint stores as JSON, for example a difficulty.
    """

    task = metric = unit = ""
    presets: dict[str, Any]  # from names to RunSettings or a subclass
    paper: ClassVar[PaperResults] = {}
    settings: Any  # RunSettings or a subclass
    model: Any  # a Module
    data: Any

    def __init__(self, settings: RunSettings, say: Callable[[str], None] = print):
        self.settings = settings
        self.say = say
        self.device = Device(settings.device)
        self.memory: dict[str, Any] = {}

    @property
    def reference(self) -> PaperResults:
        """The paper's results if the run uses the paper's data, else {}."""
        return {}

    def batches(self, epoch: int) -> Sequence[Any]:
        """The minibatches of an epoch. The first epoch is 1."""
        raise NotImplementedError

    def loss(self, batch: Any, rng: Generator) -> Measured:
        """The training loss of a minibatch. All noise is drawn from ``rng``."""
        raise NotImplementedError

    def score(self, mean: float) -> float:
        """Convert the mean of the measures to the metric."""
        return mean

    def validate(self) -> float:
        """The metric on the validation data."""
        raise NotImplementedError

    def test(self) -> dict[str, float]:
        """The results on the test data: ``test_METRIC`` and others. The training state does not change."""
        raise NotImplementedError

    def learning_rate(self, epoch: int) -> float:
        return self.settings.rate(epoch)

    def extra_columns(self) -> dict[str, Any]:
        """Additional columns for the log row of the epoch that has just been trained."""
        return {}

    def end_epoch(self, valid: float, optimizer: Optimizer) -> bool:
        """Called after validation. Returns True if the task has changed and earlier results are not comparable."""
        return False

    def carried(self) -> dict[str, Array]:
        """Arrays that one minibatch passes to the next, besides the parameters. Checkpoints store them."""
        return {}

    def load_carried(self, arrays: dict[str, np.ndarray]) -> None:
        """Restore the arrays of `carried` in a resumed run."""

    def begin(self, folder: Path) -> None:
        """Called at the start of a run. Writes the files that later commands need besides config.json."""

    def figure(self, folder: Path) -> None:
        """Draw the figures of the task, except its learning curves, from the log in the run folder."""

    def print_results(self) -> None:
        """Print examples or findings from the best parameters at the end of the run."""

    def to_device(self, model: Module) -> Module:
        """Move the arrays of the model to the device, and return the model."""
        for _, tensor in model.named_tensors():
            tensor.data = self.device.to_device(tensor.data)
        return model
