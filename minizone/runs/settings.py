"""The settings of all runs, and the ranges of their values.

A setting declares its range in its type. `RunSettings.check` checks all ranges, including those of subclasses:

    hidden_size: Annotated[int, Range(at_least=1)] = 100
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal, get_type_hints

from minizone.errors import UserError
from minizone.optim import decayed


@dataclass(frozen=True, kw_only=True)
class Range:
    """The range of a number. It never contains NaN, and contains infinity only if ``finite`` is False."""

    at_least: float | None = None
    more_than: float | None = None
    at_most: float | None = None
    less_than: float | None = None
    finite: bool = True

    def check(self, name: str, value: float) -> None:
        """Raise UserError if the value of the setting ``name`` is not in the range."""
        if self.finite:
            require(-math.inf < value < math.inf, name, value, "be finite")
        if self.at_least is not None:
            require(value >= self.at_least, name, value, f"be at least {self.at_least:g}")
        if self.more_than is not None:
            require(value > self.more_than, name, value, f"be more than {self.more_than:g}")
        if self.at_most is not None:
            require(value <= self.at_most, name, value, f"be at most {self.at_most:g}")
        if self.less_than is not None:
            require(value < self.less_than, name, value, f"be less than {self.less_than:g}")


def require(holds: bool, name: str, value: object, rule: str) -> None:
    """Raise UserError "--name must RULE, got VALUE" unless the rule holds."""
    if not holds:
        raise UserError(f"--{name.replace('_', '-')} must {rule}, got {value}")


@dataclass(frozen=True)
class RunSettings:
    """The device, the length, the files and the optimizer of a run. The preset gives the defaults."""

    preset: Literal["quick", "paper"] = "quick"
    """quick: takes minutes on a laptop; paper: the settings of the paper. All other flags override the preset."""
    device: Literal["cpu", "gpu"] = "cpu"
    """NumPy on the CPU, or CuPy on a CUDA GPU."""
    seed: Annotated[int, Range(at_least=0)] = 1
    """Seed of the initial weights, the masks and the order of the data. 1,2,3: three runs, one after the other."""
    data_dir: str | None = None
    """Folder with the data. The default is $MINIZONE_DATA or a cache folder. Missing files are downloaded to it."""
    offline: bool = False
    """Download nothing. A stand-in replaces missing data, unless --dataset or --data-dir asks for the real data."""
    out: str | None = None
    """Folder of the run. The default is runs/TASK/LABEL, or runs/TASK/LABEL-2, ... if that exists."""
    resume: bool = False
    """Continue the run in that folder from its last checkpoint."""
    max_minutes: Annotated[float, Range(more_than=0, finite=False)] = math.inf
    """Save a checkpoint and stop after this number of minutes; `run.py resume RUN` continues the run."""
    load_path: str | None = None
    """Start from the parameters in this safetensors file, with a new optimizer. The file is the best or last checkpoint
    of another run, or a PyTorch state dict with the names that `run.py export` writes."""
    test_cost: bool = False
    """Test after every epoch, in addition to the test of the best parameters at the end."""
    epochs: Annotated[int, Range(at_least=1)] = 1
    """Maximum number of epochs."""
    patience: Annotated[int, Range(at_least=0)] = 0
    """Stop early after this number of epochs without a better validation result; 0: never."""
    hidden_size: Annotated[int, Range(at_least=1)] = 100
    """Number of hidden units of each recurrent layer."""
    batch_size: Annotated[int, Range(at_least=1)] = 32
    """Number of sequences in a minibatch."""
    algorithm: Literal["adam", "rms_prop", "momentum", "sgd"] = "adam"
    """Optimizer."""
    learning_rate: Annotated[float, Range(more_than=0)] = 1e-3
    """Learning rate of the optimizer."""
    lr_decay: Annotated[float, Range(at_least=1)] = 1.0
    """Divisor of the learning rate after every epoch, from --decrease-lr-after-epoch on; 1: constant learning rate."""
    decrease_lr_after_epoch: Annotated[int, Range(at_least=0)] = 0
    """Last epoch with the full learning rate, for --lr-decay."""
    momentum: Annotated[float, Range(at_least=0, less_than=1)] = 0.99
    """Momentum of --algorithm momentum."""
    rms_decay: Annotated[float, Range(at_least=0, less_than=1)] = 0.9
    """Decay rate of the moving average of squared gradients, for --algorithm rms_prop."""
    clipping: Annotated[float, Range(at_least=0)] = 1.0
    """Maximum L2 norm of the gradient or of the step, see --clip-what; 0: no clipping."""
    clip_what: Literal["step", "gradient"] = "gradient"
    """gradient: clip the gradient, as in the paper; step: clip the step of the optimizer, as in the authors' code."""
    weight_noise: Annotated[float, Range(at_least=0)] = 0.0
    """Standard deviation of Gaussian noise on the weight matrices, drawn for every minibatch; 0.075 in the paper."""
    l2_regularization: Annotated[float, Range(at_least=0)] = 0.0
    """Weight of the sum of squares of all weight matrices in the loss."""

    def check(self) -> None:
        """Raise UserError if a value is not allowed."""
        for name, hint in get_type_hints(type(self), include_extras=True).items():
            for declared in getattr(hint, "__metadata__", ()):
                if isinstance(declared, Range):
                    declared.check(name, getattr(self, name))

    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch. The first epoch is 1."""
        return decayed(self.learning_rate, epoch, divide_by=self.lr_decay, after=self.decrease_lr_after_epoch)

    def label(self) -> str:
        """A short name for the run: its regularizers and its seed."""
        return "-".join([*self.label_parts(), f"seed{self.seed}"])

    def label_parts(self) -> list[str]:
        """The parts of the label before the seed. Subclasses put theirs first."""
        parts = []
        if self.weight_noise:
            parts.append(f"noise{self.weight_noise:g}")
        if self.l2_regularization:
            parts.append(f"l2_{self.l2_regularization:g}")
        return parts
