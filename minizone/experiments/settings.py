"""The settings of models: recurrent layers, their regularizers, texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from minizone.errors import UserError
from minizone.runs.settings import INFINITE, RunSettings, require
from minizone.zoneout import Zoneout

PerLayer = float | str  # one number for all layers, or "0.25,0.1": one for each


@dataclass(frozen=True)
class RecurrentSettings(RunSettings):
    """The recurrent layers and their regularizers. Every probability is that of zoning out or of dropping."""

    rnn_type: Literal["lstm", "gru", "rnn"] = "lstm"
    """The recurrent cell; the learning rates of the paper are 2e-3 / 1e-3 / 3e-4 for the three on char-ptb."""
    activation: Literal["tanh", "relu"] = "tanh"
    """Of --rnn-type rnn: tanh as in the paper, relu as in the authors' code."""
    num_layers: int = 1
    """Recurrent layers on top of each other."""
    initialization: Literal["ortho", "ortho-whole", "glorot", "uniform", "id", "identity"] = "ortho"
    """Initial weights; ortho: square orthogonal blocks, as the authors; ortho-whole: the whole rectangle; id, identity:
    ortho, but the identity where W_h makes the candidate."""
    init_width: float = 0.2
    """Full width of the interval of --initialization uniform."""
    forget_bias: float = 1.0
    """Initial bias of the forget gate of an LSTM."""
    z_prob_cells: PerLayer = 0.0
    """Probability that a cell keeps its old value (zoneout of c); "0.25,0.1": one for each layer."""
    z_prob_states: PerLayer = 0.0
    """Probability that a hidden state keeps its old value (zoneout of h); "0.25,0.1": one for each layer."""
    share_mask: bool = False
    """One zoneout mask for cells and states."""
    static_mask: bool = False
    """Masks drawn once for the whole training: static identity connections."""
    stoch_depth: bool = False
    """A zoneout mask decides for the whole layer at a time step: stochastic depth."""
    gaussian_drop: bool = False
    """Zoneout masks from Normal(z, z(1-z)) instead of 0 and 1."""
    drop_prob_igates: PerLayer = 0.0
    """Probability that i*g of a unit is dropped: recurrent dropout."""
    output_gate: Literal["plain", "paper", "printed"] = "plain"
    """Zoneout of the output gate where --drop-prob-igates drops; paper: as its text wants it; printed: as its formula
    has it."""
    ogates_zoneout: bool = False
    """The variant of that in the authors' code: h becomes f * h_{t-1} where i*g is dropped."""
    dropout: float = 0.0
    """Dropout between layers (not on raw inputs) and before the output: as Zaremba et al. (2014)."""
    variational_dropout: float = 0.0
    """The same with one mask for all time steps, and one on h_{t-1} (Gal and Ghahramani, 2016)."""
    input_drop: float = 0.0
    """Probability that an element of the input (a symbol, a pixel) is dropped."""
    norm_cost_coeff: float = 0.0
    """Weight of the norm stabilizer; the paper's is 50."""
    penalty: Literal["hids", "cells"] = "hids"
    """What the norm stabilizer is on: the hidden states or the cells."""

    def check(self) -> None:
        super().check()
        require(self.num_layers >= 1, "num_layers", self.num_layers, "be at least 1")
        for name in ("dropout", "variational_dropout", "input_drop"):
            p = getattr(self, name)
            require(0 <= p < 1, name, p, "be a probability in [0, 1): of 1 nothing is left")
        require(abs(self.forget_bias) < INFINITE, "forget_bias", self.forget_bias, "be finite (below 1e30)")
        for name in ("norm_cost_coeff", "init_width"):
            require(
                0 <= getattr(self, name) < INFINITE, name, getattr(self, name), "be finite (below 1e30) and 0 or more"
            )
        cells, states, igates = (self.per_layer(n) for n in ("z_prob_cells", "z_prob_states", "drop_prob_igates"))
        if self.rnn_type != "lstm":
            forbidden = {
                "z_prob_cells": any(cells),
                "output_gate": self.output_gate != "plain",
                "ogates_zoneout": self.ogates_zoneout,
                "penalty cells": self.penalty == "cells",
                "drop_prob_igates": any(igates) and self.rnn_type == "rnn",
            }
            for name, used in forbidden.items():
                if used:
                    what = "an input gate" if name == "drop_prob_igates" else "cells and an output gate"
                    raise UserError(
                        f"--{name.replace('_', '-')} needs {what}, and --rnn-type {self.rnn_type} has none; use"
                        " --rnn-type lstm" + (" (zoneout of h is --z-prob-states)" if name == "z_prob_cells" else "")
                    )
        if (self.output_gate != "plain" or self.ogates_zoneout) and not all(igates):
            raise UserError("zoneout of the output gate follows the mask of recurrent dropout: give --drop-prob-igates")
        if self.output_gate != "plain" and self.ogates_zoneout:
            raise UserError("--output-gate and --ogates-zoneout are two variants of one thing: choose one")
        if self.activation != "tanh" and self.rnn_type != "rnn":
            raise UserError(f"--activation {self.activation} is for --rnn-type rnn, got --rnn-type {self.rnn_type}")
        for flag in ("share_mask", "static_mask", "stoch_depth", "gaussian_drop"):
            if getattr(self, flag) and not any(cells) and not any(states):
                raise UserError(
                    f"--{flag.replace('_', '-')} is a kind of zoneout: give --z-prob-cells or --z-prob-states"
                )
        if self.share_mask or self.stoch_depth:
            flag = "share_mask" if self.share_mask else "stoch_depth"
            for c, h in zip(cells, states, strict=True):
                require(c == h or 0 in (c, h), flag, f"{c} and {h}", "have --z-prob-cells and --z-prob-states equal")

    def per_layer(self, name: str) -> list[float]:
        """The probabilities of a flag, one for each layer; UserError unless each is in [0, 1]."""
        value, n = getattr(self, name), self.num_layers
        try:
            numbers = [float(part) for part in value.split(",")] if isinstance(value, str) else [value] * n
        except ValueError:
            numbers = []
        if len(numbers) != n or not all(0 <= p <= 1 for p in numbers):
            layers = f", or {n} of them with commas between" if n > 1 else ""
            raise UserError(f"--{name.replace('_', '-')} must be a probability in [0, 1]{layers}, got {value}")
        return numbers

    def zoneout(self, layer: int, steps: int) -> Zoneout:
        """Zoneout of a layer, for sequences of so many steps."""
        return Zoneout(
            self.per_layer("z_prob_cells")[layer],
            self.per_layer("z_prob_states")[layer],
            shared=self.share_mask,
            whole_layer=self.stoch_depth,
            static_steps=steps if self.static_mask else 0,
            gaussian=self.gaussian_drop,
        )

    def label_parts(self) -> list[str]:
        parts: list[str] = [] if self.rnn_type == "lstm" else [self.rnn_type if self.activation == "tanh" else "relu"]
        kinds = (("share_mask", "shared"), ("static_mask", "static"), ("stoch_depth", "layer"))
        if self._any("z_prob_cells") or self._any("z_prob_states"):
            cells = f"-c{_short(self.z_prob_cells)}" if self.rnn_type == "lstm" else ""
            parts.append(f"zoneout{cells}-h{_short(self.z_prob_states)}")
            parts += [name for flag, name in kinds if getattr(self, flag)]
            parts += ["gaussian"] if self.gaussian_drop else []
        if self._any("drop_prob_igates"):
            parts.append(f"igates{_short(self.drop_prob_igates)}")
            parts += ["ogates"] if self.ogates_zoneout else []
            parts += [f"ogates-{self.output_gate}"] if self.output_gate != "plain" else []
        numbers = (("dropout", "dropout"), ("variational_dropout", "variational"), ("input_drop", "input"))
        parts += [f"{name}{getattr(self, flag):g}" for flag, name in numbers if getattr(self, flag)]
        parts += [f"norm{self.norm_cost_coeff:g}-{self.penalty}"] if self.norm_cost_coeff else []
        return (parts or ["lstm"]) + super().label_parts()

    def _any(self, name: str) -> bool:
        return any(self.per_layer(name))


@dataclass(frozen=True)
class TextSettings(RecurrentSettings):
    """Settings of a language model."""

    seq_len: int = 100
    """Length of a training sequence; its last symbol is only predicted, so the network makes one step less."""
    train_symbols: int = 0
    """Train on so many symbols (or words) from the beginning of the training text; 0: on all."""
    eval_symbols: int = 0
    """Evaluate on so many symbols (or words) from the beginning of the validation and test texts; 0: on all."""

    def check(self) -> None:
        super().check()
        require(self.seq_len >= 2, "seq_len", self.seq_len, "be at least 2: one symbol in, one to predict")
        for name in ("train_symbols", "eval_symbols"):
            n = getattr(self, name)
            require(n == 0 or n > 2 * self.seq_len, name, n, f"be 0 or more than twice --seq-len {self.seq_len}")

    @property
    def steps(self) -> int:
        """Time steps of a training sequence."""
        return self.seq_len - 1


def _short(probability: PerLayer) -> str:
    return "_".join(f"{float(p):g}" for p in str(probability).split(","))
