"""Character-level language modelling on Penn Treebank: section 4.1.1 of the paper, Table 1 and Figure 3."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from minizone.autograd.ops import softmax_cross_entropy
from minizone.autograd.tensor import Tensor
from minizone.backend import Generator, stream
from minizone.data import TextDataset, load_characters
from minizone.experiments.language import LanguageModelling
from minizone.experiments.recurrent import dropped_tokens, initializer, penalized, recurrent_stack
from minizone.experiments.settings import TextSettings
from minizone.layers import Linear, Module, State
from minizone.runs.experiment import Measured

Batch = tuple[np.ndarray, np.ndarray]  # tokens (T, B) and the symbols that follow them, (T, B)


@dataclass(frozen=True)
class CharSettings(TextSettings):
    """Train a character-level language model on Penn Treebank (Krueger et al., 2017, section 4.1.1)."""

    augment: bool = True
    """Cut the training text at another offset in every epoch."""
    dataset: Literal["auto", "ptb", "manual"] = "auto"
    """ptb: Penn Treebank; manual: the Python manual, a stand-in that every Python carries; auto: ptb, else manual."""
    ptb_form: Literal["authors", "stripped"] = "authors"
    """authors: with one blank at an end of each line; stripped: with none. The first is easier by about 0.8 %."""

    def load(self, say: Callable[[str], None]) -> TextDataset:
        """The text that the settings name."""
        return load_characters(self.dataset, self.data_dir, form=self.ptb_form, offline=self.offline, say=say)


PAPER = CharSettings(
    preset="paper",
    hidden_size=1000,
    batch_size=32,
    seq_len=100,
    learning_rate=2e-3,
    clip_what="step",
    epochs=110,  # those of the one log that the authors published; their default is 2000, stopped by hand
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
REFERENCE = {  # bits per character, Table 1 (ICLR 2017); shown beside runs on whole PTB
    "Unregularized LSTM": {"valid": 1.466, "test": 1.356},
    "Zoneout": {"valid": 1.362, "test": 1.27},
}


class CharModel(Module):
    """Tokens (T, B) to scores of the next symbol (T, V, B)."""

    def __init__(self, vocabulary_size: int, settings: TextSettings, rng: Generator):
        self.settings, self.vocabulary_size = settings, vocabulary_size
        self.rnn = recurrent_stack(settings, vocabulary_size, settings.steps, rng)
        self.output = Linear(settings.hidden_size, vocabulary_size, initializer=initializer(settings), rng=rng)

    def __call__(
        self, tokens: Any, state: list[State] | None = None, rng: Generator | None = None
    ) -> tuple[Tensor, list[State]]:
        """The scores, and all states (T, H, B) of every layer. ``rng`` given means training."""
        x = dropped_tokens(tokens, self.settings.input_drop, self.vocabulary_size, rng)
        h, states = self.rnn.states(x, state, rng)
        return self.output(h), states


class CharPTB(LanguageModelling):
    """A recurrent network reads a text symbol by symbol and says which comes next."""

    task, metric, unit = "char-ptb", "bpc", "bits per character"
    presets: dict[str, Any] = PRESETS
    paper = REFERENCE

    def build(self, rng: Generator) -> CharModel:
        return CharModel(self.data.vocabulary_size, self.settings, rng)

    def batches(self, epoch: int) -> Sequence[Batch]:
        """The minibatches of an epoch: chunks of ``seq_len`` symbols from an offset, both redrawn for every epoch."""
        rng = stream(self.settings.seed, "order", epoch)
        offset = int(rng.integers(self.settings.seq_len)) if self.settings.augment else 0
        return Chunks(self.data.train[offset:], self.settings.seq_len, self.settings.batch_size, rng)

    def loss(self, batch: Batch, rng: Generator) -> Measured:
        """Mean cross-entropy of a minibatch in nats, with the noise of training."""
        tokens, targets = (self.device.to_device(part) for part in batch)
        scores, states = self.model(tokens, rng=rng)
        loss = softmax_cross_entropy(scores, targets)
        return Measured(penalized(loss, states, self.settings), loss.data, targets.size)

    def score(self, mean: float) -> float:
        """Nats to bits per character."""
        return mean / math.log(2)

    def validate(self) -> float:
        """Validation BPC as the authors compute it: chunks of ``seq_len``, each from the learned initial state."""
        return self.bpc_by_chunks(self.data.valid)

    def test(self) -> dict[str, float]:
        """Both protocols: the text as one sequence, as the literature tests, and in chunks, as `validate`."""
        return {
            "test_bpc": self.score_of_one_sequence(self.data.test),
            "test_bpc_chunks": self.bpc_by_chunks(self.data.test),
        }

    def bpc_by_chunks(self, text: np.ndarray) -> float:
        """BPC over chunks of ``seq_len`` symbols, the state reset for each; a rest shorter than a chunk is left out."""
        chunks = Chunks(text, self.settings.seq_len, self.settings.batch_size)
        return self.score_of((self.scores(tokens, None)[0], targets) for tokens, targets in chunks)


class Chunks(Sequence[Batch]):
    """A text (N,) cut into chunks of ``length`` symbols, in minibatches of ``batch_size``, in the order of ``rng``.

    A minibatch is (tokens, targets), each (length - 1, B): from all symbols of a chunk but the last, all but the
    first are to be predicted, as in the authors' code. The last minibatch may be smaller.
    """

    def __init__(self, text: np.ndarray, length: int, batch_size: int, rng: Generator | None = None):
        starts = np.arange(len(text) // length) * length
        self.starts = starts if rng is None else rng.permutation(starts)
        self.text, self.length, self.batch_size = text, length, batch_size

    def __len__(self) -> int:
        return -(-len(self.starts) // self.batch_size)

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(f"minibatch {index} of {len(self)}")
        starts = self.starts[index * self.batch_size : (index + 1) * self.batch_size]
        chunk = self.text[starts + np.arange(self.length)[:, None]]  # (length, B)
        return chunk[:-1], chunk[1:]
