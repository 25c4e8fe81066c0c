"""Character-level language modelling on Penn Treebank: section 4.1.1 of the paper, Table 1 and Figure 3."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from minizone.autograd.ops import softmax_cross_entropy
from minizone.backend import Array, Generator, stream
from minizone.data import TextDataset, load_characters, load_own_characters
from minizone.experiments.language import LanguageModel, LanguageModelling, OwnTextSettings
from minizone.experiments.recurrent import add_norm_stabilizer, initializer, recurrent_stack, token_dropout
from minizone.experiments.settings import CharacterSettings, TextSettings
from minizone.layers import Linear
from minizone.runs.experiment import Measured

Batch = tuple[np.ndarray, np.ndarray]  # symbols (T, B), and the next symbol of each (T, B)


# ---- settings


@dataclass(frozen=True)
class CharSettings(OwnTextSettings, CharacterSettings):
    """Train a character-level language model on Penn Treebank (Krueger et al., 2017, section 4.1.1), or on --text."""

    ptb_form: Literal["authors", "stripped"] = "authors"
    """authors: each line ends with a space; stripped: it does not. BPC is about 0.8 % lower with authors."""

    def load(self, say: Callable[[str], None]) -> TextDataset:
        if self.own_files:
            return load_own_characters(self.own_files, say)
        return load_characters(self.dataset, self.data_dir, form=self.ptb_form, offline=self.offline, say=say)


PAPER = CharSettings(  # section 4.1.1
    preset="paper",
    hidden_size=1000,
    batch_size=32,
    seq_len=100,
    algorithm="adam",
    learning_rate=2e-3,
    clipping=1.0,
    clip_what="step",  # the authors' code; the paper says "gradient clipping"
    epochs=110,  # the length of the authors' published log; their default is 2000, and they stopped runs by hand
)
PRESETS = {
    "paper": PAPER,
    "quick": replace(
        PAPER,
        preset="quick",
        hidden_size=256,
        batch_size=16,
        seq_len=50,
        epochs=24,
        train_symbols=100_000,
        eval_symbols=20_000,
    ),
}
REFERENCE = {  # bits per character, Table 1 (ICLR 2017)
    "Unregularized LSTM": {"valid": 1.466, "test": 1.356},
    "Weight noise": {"valid": 1.507, "test": 1.344},
    "Norm stabilizer": {"valid": 1.459, "test": 1.352},
    "Stochastic depth": {"valid": 1.432, "test": 1.343},
    "Recurrent dropout": {"valid": 1.358, "test": 1.321},  # better than zoneout: contradicts the paper's text
    "Zoneout": {"valid": 1.362, "test": 1.27},
}


# ---- the model


class CharModel(LanguageModel):
    """Symbols (T, B) to scores of the next symbol (T, V, B): recurrent layers on one-hot inputs."""

    def __init__(self, vocabulary_size: int, settings: TextSettings, rng: Generator):
        self.vocabulary_size = vocabulary_size
        self.input_drop = settings.input_drop
        self.rnn = recurrent_stack(settings, vocabulary_size, settings.steps, rng)
        self.output = Linear(settings.hidden_size, vocabulary_size, initializer=initializer(settings), rng=rng)

    def inputs(self, tokens: Array, rng: Generator | None) -> Array:
        return token_dropout(tokens, self.vocabulary_size, self.input_drop, rng)


# ---- minibatches


class Chunks(Sequence[Batch]):
    """Minibatches of a text (N,) that is cut into chunks of ``length`` symbols.

    A minibatch is (symbols, targets), both (length - 1, B): the targets are the chunk without its first symbol, as in
    the authors' code. ``rng`` shuffles the chunks. The last minibatch may be smaller than ``batch_size``.
    """

    def __init__(self, text: np.ndarray, length: int, batch_size: int, rng: Generator | None = None):
        self.text = text
        self.length = length
        self.batch_size = batch_size
        self.starts = np.arange(len(text) // length) * length  # (chunks,)
        if rng is not None:
            self.starts = rng.permutation(self.starts)

    def __len__(self) -> int:
        return math.ceil(len(self.starts) / self.batch_size)

    def __getitem__(self, index: int) -> Batch:  # type: ignore[override]  # no slices
        if not 0 <= index < len(self):
            raise IndexError(f"minibatch {index} of {len(self)}")
        starts = self.starts[index * self.batch_size : (index + 1) * self.batch_size]  # (B,)
        chunks = self.text[starts + np.arange(self.length)[:, None]]  # (length, B)
        return chunks[:-1], chunks[1:]


# ---- the experiment


class CharPTB(LanguageModelling):
    """A recurrent network reads a text symbol by symbol and predicts the next symbol."""

    task, metric, unit = "char-ptb", "bpc", "bits per character"
    presets: dict[str, Any] = PRESETS  # Any: `Text8` overrides it
    paper = REFERENCE
    network = CharModel
    settings: CharacterSettings

    def batches(self, epoch: int) -> Chunks:
        """The minibatches of an epoch. With --augment the text is cut at a new offset in every epoch."""
        rng = stream(self.settings.seed, "order", epoch)
        offset = int(rng.integers(self.settings.seq_len)) if self.settings.augment else 0
        return Chunks(self.data.train[offset:], self.settings.seq_len, self.settings.batch_size, rng)

    def loss(self, batch: Batch, rng: Generator) -> Measured:
        """Mean cross-entropy of a minibatch in nats."""
        tokens, targets = batch
        scores, states = self.model(self.device.to_device(tokens), rng=rng)
        cross_entropy = softmax_cross_entropy(scores, self.device.to_device(targets))
        loss = add_norm_stabilizer(cross_entropy, states, self.settings)
        return Measured(loss, cross_entropy.data, targets.size)

    def score(self, mean: float) -> float:
        """Nats to bits per character."""
        return mean / math.log(2)

    def validate(self) -> float:
        """Validation BPC as in the authors' code: chunks of ``seq_len``, each from the learned initial state."""
        return self.bpc_by_chunks(self.data.valid)

    def test(self) -> dict[str, float]:
        """Test BPC of the text as one sequence, which is usual in the literature, and in chunks, as in `validate`."""
        return {
            "test_bpc": self.score_of_one_sequence(self.data.test),
            "test_bpc_chunks": self.bpc_by_chunks(self.data.test),
        }

    def bpc_by_chunks(self, text: np.ndarray) -> float:
        """BPC over chunks of ``seq_len`` symbols. A shorter remainder at the end of the text is left out."""
        chunks = Chunks(text, self.settings.seq_len, self.settings.batch_size)
        return self.score_of((self.scores(tokens, None)[0], targets) for tokens, targets in chunks)
