"""The settings that several experiments share: recurrent layers with their regularizers, and language models."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from minizone.data import TextDataset
from minizone.errors import UserError
from minizone.runs.settings import Range, RunSettings, require
from minizone.zoneout import Zoneout

# One number for all layers, or "0.25,0.1": one for each layer.
PerLayer = Annotated[float | str, tyro.conf.arg(metavar="P[,P...]")]


@dataclass(frozen=True)
class RecurrentSettings(RunSettings):
    """The recurrent layers and their regularizers. Probabilities are those of keeping the old value or of dropping."""

    rnn_type: Literal["lstm", "gru", "rnn"] = "lstm"
    """Recurrent cell. On char-ptb, the paper's learning rates are 2e-3 for lstm, 1e-3 for gru and 3e-4 for rnn."""
    activation: Literal["tanh", "relu"] = "tanh"
    """Activation of --rnn-type rnn: tanh as in the paper, relu as in the authors' code."""
    num_layers: Annotated[int, Range(at_least=1)] = 1
    """Number of recurrent layers."""
    initialization: Literal["ortho", "ortho-whole", "glorot", "uniform", "id", "identity"] = "ortho"
    """Initial weights. ortho: square orthogonal blocks, as in the authors' code; ortho-whole: one orthogonal rectangle;
    id or identity: ortho, but W_h of the candidate is the identity."""
    init_width: Annotated[float, Range(at_least=0)] = 0.2
    """Width of the interval around 0 of --initialization uniform."""
    forget_bias: Annotated[float, Range()] = 1.0
    """Initial bias of the forget gate of an LSTM."""
    z_prob_cells: PerLayer = 0.0
    """Probability that a cell keeps its old value (zoneout of c); "0.25,0.1": one probability for each layer."""
    z_prob_states: PerLayer = 0.0
    """Probability that a hidden state keeps its old value (zoneout of h); "0.25,0.1": one for each layer."""
    share_mask: bool = False
    """Use one zoneout mask for cells and hidden states."""
    static_mask: bool = False
    """Draw the zoneout masks once for the whole training: static identity connections."""
    stoch_depth: bool = False
    """Zone out all units of a layer together at a time step: stochastic depth."""
    gaussian_drop: bool = False
    """Draw zoneout masks from Normal(z, z(1-z)) instead of 0 and 1."""
    drop_prob_igates: PerLayer = 0.0
    """Probability that i*g of a unit is dropped: recurrent dropout."""
    output_gate: Literal["plain", "paper", "printed"] = "plain"
    """Zoneout of the output gate with the mask of --drop-prob-igates. paper: with the sign that the text
    of the paper motivates; printed: the formula as printed in the paper."""
    ogates_zoneout: bool = False
    """Zoneout of the output gate as in the authors' code: h becomes f * h_{t-1} where i*g is dropped."""
    dropout: Annotated[float, Range(at_least=0, less_than=1)] = 0.0
    """Dropout between layers and before the output (Zaremba et al., 2014); raw inputs are not dropped."""
    variational_dropout: Annotated[float, Range(at_least=0, less_than=1)] = 0.0
    """Dropout with one mask for all time steps, also on h_{t-1} (Gal and Ghahramani, 2016)."""
    input_drop: Annotated[float, Range(at_least=0, less_than=1)] = 0.0
    """Probability that an input (a symbol, a word or a pixel) is dropped."""
    norm_cost_coeff: Annotated[float, Range(at_least=0)] = 0.0
    """Weight of the norm stabilizer; 50 in the paper."""
    penalty: Literal["hids", "cells"] = "hids"
    """Apply the norm stabilizer to the hidden states or to the cells."""

    def check(self) -> None:
        super().check()
        cells = self.per_layer("z_prob_cells")
        states = self.per_layer("z_prob_states")
        drops = self.per_layer("drop_prob_igates")

        if self.rnn_type != "lstm":
            but = f"and --rnn-type {self.rnn_type} has none; use --rnn-type lstm"
            if any(cells):
                raise UserError(f"--z-prob-cells needs cells, {but} (zoneout of h is --z-prob-states)")
            if self.penalty == "cells":
                raise UserError(f"--penalty cells needs cells, {but}")
            if self.output_gate != "plain":
                raise UserError(f"--output-gate needs an output gate, {but}")
            if self.ogates_zoneout:
                raise UserError(f"--ogates-zoneout needs an output gate, {but}")
            if self.rnn_type == "rnn" and any(drops):
                raise UserError(f"--drop-prob-igates needs an input gate, {but}")
        if self.activation != "tanh" and self.rnn_type != "rnn":
            raise UserError(f"--activation {self.activation} needs --rnn-type rnn, got --rnn-type {self.rnn_type}")

        if self.output_gate != "plain" and self.ogates_zoneout:
            raise UserError("--output-gate and --ogates-zoneout are variants of the same regularizer: choose one")
        if (self.output_gate != "plain" or self.ogates_zoneout) and not all(drops):
            raise UserError("zoneout of the output gate needs the mask of recurrent dropout: give --drop-prob-igates")

        if not any(cells) and not any(states):
            for name in ("share_mask", "static_mask", "stoch_depth", "gaussian_drop"):
                if getattr(self, name):
                    flag = f"--{name.replace('_', '-')}"
                    raise UserError(f"{flag} is a kind of zoneout: give --z-prob-cells or --z-prob-states")
        if self.share_mask or self.stoch_depth:
            flag = "--share-mask" if self.share_mask else "--stoch-depth"
            for z_c, z_h in zip(cells, states, strict=True):
                if z_c and z_h and z_c != z_h:
                    raise UserError(f"{flag} needs equal --z-prob-cells and --z-prob-states, got {z_c} and {z_h}")

    def per_layer(self, name: str) -> list[float]:
        """The probabilities of a setting, one for each layer; UserError unless all are in [0, 1]."""
        value = getattr(self, name)
        parts = str(value).split(",")
        if len(parts) == 1:
            parts *= self.num_layers
        if len(parts) != self.num_layers:
            layers = "1 layer" if self.num_layers == 1 else f"{self.num_layers} layers"
            flag = f"--{name.replace('_', '-')}"
            raise UserError(
                f"{flag} {value}: {len(parts)} values for {layers}; give one for all layers, or one for each"
            )
        try:
            probabilities = [float(part) for part in parts]
        except ValueError:
            probabilities = [math.nan]
        rule = "be a probability in [0, 1]" + (", or one for each layer" if self.num_layers > 1 else "")
        require(all(0 <= p <= 1 for p in probabilities), name, value, rule)
        return probabilities

    def zoneout(self, layer: int, steps: int) -> Zoneout:
        """Zoneout of a layer. Static masks are for sequences of ``steps`` time steps."""
        return Zoneout(
            self.per_layer("z_prob_cells")[layer],
            self.per_layer("z_prob_states")[layer],
            shared=self.share_mask,
            whole_layer=self.stoch_depth,
            static_steps=steps if self.static_mask else 0,
            gaussian=self.gaussian_drop,
        )

    def label_parts(self) -> list[str]:
        parts: list[str] = []
        if self.rnn_type != "lstm":
            parts.append("relu" if self.activation == "relu" else self.rnn_type)
        if any(self.per_layer("z_prob_cells")) or any(self.per_layer("z_prob_states")):
            cells = f"-c{_short(self.z_prob_cells)}" if self.rnn_type == "lstm" else ""
            parts.append(f"zoneout{cells}-h{_short(self.z_prob_states)}")
            if self.share_mask:
                parts.append("shared")
            if self.static_mask:
                parts.append("static")
            if self.stoch_depth:
                parts.append("layer")
            if self.gaussian_drop:
                parts.append("gaussian")
        if any(self.per_layer("drop_prob_igates")):
            parts.append(f"igates{_short(self.drop_prob_igates)}")
            if self.ogates_zoneout:
                parts.append("ogates")
            if self.output_gate != "plain":
                parts.append(f"ogates-{self.output_gate}")
        if self.dropout:
            parts.append(f"dropout{self.dropout:g}")
        if self.variational_dropout:
            parts.append(f"variational{self.variational_dropout:g}")
        if self.input_drop:
            parts.append(f"input{self.input_drop:g}")
        if self.norm_cost_coeff:
            parts.append(f"norm{self.norm_cost_coeff:g}-{self.penalty}")
        return (parts or ["lstm"]) + super().label_parts()


@dataclass(frozen=True)
class TextSettings(RecurrentSettings):
    """Settings of a language model."""

    seq_len: Annotated[int, Range(at_least=2)] = 100
    """Length of a training sequence. The network makes one step fewer, because the last symbol is only a target."""
    train_symbols: Annotated[int, Range(at_least=0)] = 0
    """Number of symbols (or words) at the beginning of the training text to train on; 0: all."""
    eval_symbols: Annotated[int, Range(at_least=0)] = 0
    """Number of symbols (or words) at the beginning of the validation and test texts to evaluate on; 0: all."""

    def check(self) -> None:
        super().check()
        for name in ("train_symbols", "eval_symbols"):
            n = getattr(self, name)
            rule = f"be 0, or more than twice --seq-len {self.seq_len}"
            require(n == 0 or n > 2 * self.seq_len, name, n, rule)

    @property
    def steps(self) -> int:
        """Time steps of a training sequence."""
        return self.seq_len - 1

    def load(self, say: Callable[[str], None]) -> TextDataset:
        """Load the text."""
        raise NotImplementedError


@dataclass(frozen=True)
class CharacterSettings(TextSettings):
    """Settings of a language model that reads single characters."""

    augment: bool = True
    """Cut the training text into sequences at a new random offset in every epoch."""


def _short(probability: PerLayer) -> str:
    """A probability, or several, for a label: "0.5" or "0.5_0.1"."""
    return "_".join(f"{float(p):g}" for p in str(probability).split(","))
