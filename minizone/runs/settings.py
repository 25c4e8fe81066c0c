"""The settings that all runs have, and the checks of values that a person typed."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal

from minizone.errors import UserError
from minizone.optim import decayed

INFINITE = 1e30  # in float32 products of such numbers are infinite
MOST = {"hidden_size": 10**6, "batch_size": 10**6, "seq_len": 10**6, "dim": 10**6, "num_layers": 1000}


@dataclass(frozen=True)
class RunSettings:
    """Where, how long and with which optimizer a run trains; the defaults are those of the preset."""

    preset: Literal["quick", "paper"] = "quick"
    """quick: minutes on a laptop; paper: the settings of the paper. Every other flag overrides the preset."""
    device: Literal["cpu", "gpu"] = "cpu"
    """NumPy on the CPU, or CuPy on a CUDA GPU."""
    seed: int = 1
    """Seed of the initial weights, of the masks and of the order of the data."""
    data_dir: str | None = None
    """Folder with the data; without it $MINIZONE_DATA, or else a cache folder. What is missing is downloaded there."""
    offline: bool = False
    """Download nothing: what is missing has a stand-in, or is an error where it was asked for by name or folder."""
    out: str | None = None
    """Folder of the run; without it runs/TASK/LABEL, with a number behind it when that exists already."""
    resume: bool = False
    """Go on with the run in that folder from its last checkpoint."""
    max_minutes: float = math.inf
    """Save and stop after so many minutes; --resume goes on."""
    load_path: str | None = None
    """Start from the parameters of this safetensors file (best or last of another run, or a state dict of PyTorch in
    the names that `run.py export` writes), with a fresh optimizer."""
    test_cost: bool = False
    """Also test after every epoch, not only the best parameters at the end."""
    write_predictions: bool = False
    """Write what the best parameters predict for the test data to predictions.safetensors."""
    epochs: int = 1
    """Epochs to train at most."""
    patience: int = 0
    """Stop after so many epochs without a better validation result; 0: never."""
    hidden_size: int = 100
    """Hidden units of a recurrent layer."""
    batch_size: int = 32
    """Sequences per update."""
    algorithm: Literal["adam", "rms_prop", "momentum", "sgd"] = "adam"
    """The optimizer."""
    learning_rate: float = 1e-3
    """Learning rate."""
    lr_decay: float = 1.0
    """Divide the learning rate by this after every epoch from --decrease-lr-after-epoch on."""
    decrease_lr_after_epoch: int = 0
    """The last epoch at the full learning rate, where --lr-decay is given."""
    momentum: float = 0.99
    """Of --algorithm momentum."""
    rms_decay: float = 0.9
    """Decay rate of the average of --algorithm rms_prop."""
    clipping: float = 1.0
    """Largest L2 norm of what --clip-what names; 0: no clipping."""
    clip_what: Literal["step", "gradient"] = "gradient"
    """step: clip the optimizer's step, as the authors' code does with Adam; gradient: as the paper says."""
    weight_noise: float = 0.0
    """Standard deviation of Gaussian noise on the weight matrices, drawn for every minibatch; the paper's is 0.075."""
    l2_regularization: float = 0.0
    """Weight of the sum of the squares of the weight matrices in the loss."""

    def check(self) -> None:
        """Raise UserError for a value that no run could use, before any work is done."""
        for field in fields(self):
            value, most = getattr(self, field.name), MOST.get(field.name, 10**9)
            if isinstance(value, int) and field.name != "seed":
                require(value <= most, field.name, value, f"be at most {most:,}")
        for name in ("hidden_size", "batch_size", "epochs"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "be at least 1")
        for name in ("seed", "patience", "decrease_lr_after_epoch"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "be 0 or more")
        require(self.max_minutes > 0, "max_minutes", self.max_minutes, "be more than 0")
        require(0 < self.learning_rate < math.inf, "learning_rate", self.learning_rate, "be finite and more than 0")
        require(1 <= self.lr_decay < math.inf, "lr_decay", self.lr_decay, "be finite and at least 1: it divides")
        for name in ("momentum", "rms_decay"):
            require(0 <= getattr(self, name) < 1, name, getattr(self, name), "be in [0, 1)")
        for name in ("clipping", "weight_noise", "l2_regularization"):
            require(0 <= getattr(self, name) < math.inf, name, getattr(self, name), "be finite, and 0 (none) or more")

    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 1."""
        return decayed(self.learning_rate, epoch, divide_by=self.lr_decay, after=self.decrease_lr_after_epoch)

    def label(self) -> str:
        """A short name for the run: what is special about it, and its seed."""
        return "-".join([*self.label_parts(), f"seed{self.seed}"])

    def label_parts(self) -> list[str]:
        parts = [f"noise{self.weight_noise:g}"] if self.weight_noise else []
        return parts + ([f"l2_{self.l2_regularization:g}"] if self.l2_regularization else [])


def require(holds: bool, name: str, value: object, rule: str) -> None:
    """Raise UserError ``--name must <rule>, got value`` unless the rule holds."""
    if not holds:
        raise UserError(f"--{name.replace('_', '-')} must {rule}, got {value}")
