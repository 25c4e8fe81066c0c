"""The settings that all experiments share, and the checks of values that a person typed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from minizone.errors import UserError


@dataclass(frozen=True)
class RunSettings:
    """Where and how long a run trains; the defaults are those of the preset."""

    preset: Literal["quick", "paper"] = "quick"
    """quick: minutes on a laptop; paper: the settings of the paper. Every other flag overrides the preset."""
    device: Literal["cpu", "gpu"] = "cpu"
    """NumPy on the CPU, or CuPy on a CUDA GPU."""
    seed: int = 1
    """Seed of the initial weights, of the masks and of the order of the data."""
    data_dir: str | None = None
    """Folder with the data; without it $MINIZONE_DATA, or else a cache folder. What is missing is downloaded there."""
    out: str | None = None
    """Folder of the run; without it runs/TASK/LABEL, with a number behind it when that exists already."""
    resume: bool = False
    """Go on with the run in that folder from its last checkpoint."""
    max_minutes: float = math.inf
    """Save and stop after so many minutes; --resume goes on."""
    epochs: int = 1
    """Epochs to train at most."""
    patience: int = 0
    """Stop after so many epochs without a better validation result; 0: never."""
    hidden_size: int = 100
    """Hidden units of the recurrent layer."""
    batch_size: int = 32
    """Sequences per update."""
    seq_len: int = 100
    """Length of a training sequence."""
    learning_rate: float = 1e-3
    """Learning rate."""

    def check(self) -> None:
        """Raise UserError for a value that no run could use, before any work is done."""
        for name in ("hidden_size", "batch_size", "epochs"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "be at least 1")
        require(self.seq_len >= 2, "seq_len", self.seq_len, "be at least 2: one symbol in, one to predict")
        require(self.seed >= 0, "seed", self.seed, "be 0 or more")
        require(self.patience >= 0, "patience", self.patience, "be 0 or more")
        require(self.max_minutes > 0, "max_minutes", self.max_minutes, "be more than 0")
        require(
            0 < self.learning_rate < math.inf, "learning_rate", self.learning_rate, "be a finite number more than 0"
        )


def require(holds: bool, name: str, value: object, rule: str) -> None:
    """Raise UserError ``--name must <rule>, got value`` unless the rule holds."""
    if not holds:
        raise UserError(f"--{name.replace('_', '-')} must {rule}, got {value}")
