"""Word-level language modelling on Penn Treebank: section 4.1.2 of the paper, Table 1. The model of Zaremba et al."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from minizone.autograd.ops import softmax_cross_entropy
from minizone.autograd.tensor import Tensor
from minizone.backend import Array, Generator, to_host
from minizone.data import TextDataset, load_words
from minizone.experiments.language import LanguageModelling
from minizone.experiments.recurrent import initializer, input_factor, penalized, recurrent_stack
from minizone.experiments.settings import TextSettings
from minizone.layers import Embedding, Linear, Module, State
from minizone.runs.experiment import Measured

Batch = tuple[int, np.ndarray, np.ndarray]  # the number of the minibatch in its epoch; words and next words, (T, B)


@dataclass(frozen=True)
class WordSettings(TextSettings):
    """Train a word-level language model on Penn Treebank (Krueger et al., 2017, section 4.1.2)."""

    seq_len: int = 35
    """Time steps of a training sequence."""
    dataset: Literal["auto", "ptb", "manual"] = "auto"
    """ptb: Penn Treebank; manual: the Python manual, a stand-in that every Python carries; auto: ptb, else manual."""

    def load(self, say: Callable[[str], None]) -> TextDataset:
        """The text that the settings name."""
        return load_words(self.dataset, self.data_dir, offline=self.offline, say=say)

    @property
    def steps(self) -> int:
        return self.seq_len


PAPER = WordSettings(
    preset="paper",
    num_layers=2,
    hidden_size=1500,
    batch_size=20,
    seq_len=35,
    dropout=0.65,
    initialization="uniform",
    init_width=0.08,
    forget_bias=0.0,
    algorithm="sgd",
    learning_rate=1.0,
    lr_decay=1.15,
    decrease_lr_after_epoch=14,
    clipping=10.0,
    epochs=55,
)  # dropout, epochs and no forget bias are those of Zaremba et al. (2014), whose model the paper takes over
PRESETS = {
    "paper": PAPER,
    "quick": replace(
        PAPER,
        preset="quick",
        hidden_size=128,
        seq_len=20,
        dropout=0.5,
        lr_decay=1.5,
        decrease_lr_after_epoch=8,
        epochs=14,
        train_symbols=60_000,
        eval_symbols=10_000,
    ),
}
REFERENCE = {  # perplexity, Table 1 (ICLR 2017); shown beside runs on whole PTB
    "Unregularized LSTM": {"valid": 120.7, "test": 114.5},
    "Non-recurrent dropout": {"valid": 82.2, "test": 78.4},
    "Zoneout": {"valid": 81.4, "test": 77.4},
}


class WordModel(Module):
    """Words (T, B) to scores of the next word (T, V, B): embedding, recurrent layers, dropout between all of them."""

    def __init__(self, vocabulary_size: int, settings: WordSettings, rng: Generator):
        self.settings, H, start = settings, settings.hidden_size, initializer(settings)
        self.embedding = Embedding(vocabulary_size, H, initializer=start, rng=rng)
        self.rnn = recurrent_stack(settings, H, settings.steps, rng, learned_state=False)
        self.output = Linear(H, vocabulary_size, initializer=start, rng=rng)

    def __call__(
        self, words: Any, state: list[State] | None = None, rng: Generator | None = None
    ) -> tuple[Tensor, list[State]]:
        """The scores, and all states (T, H, B) of every layer. ``rng`` given means training."""
        x, p = self.embedding(words), self.settings.input_drop
        x = x * input_factor(p, words, rng) if p else x
        h, states = self.rnn.states(x, state, rng)
        return self.output(h), states


class WordPTB(LanguageModelling):
    """A recurrent network reads a text word by word; its state is carried from one minibatch to the next."""

    task, metric, unit = "word-ptb", "ppl", "perplexity"
    presets: dict[str, Any] = PRESETS
    paper = REFERENCE

    def build(self, rng: Generator) -> WordModel:
        self.state: list[tuple[Array, ...]] = []  # of every layer, at the end of the last minibatch
        return WordModel(self.data.vocabulary_size, self.settings, rng)

    def batches(self, epoch: int) -> Sequence[Batch]:
        return Rows(self.data.train, self.settings.steps, self.settings.batch_size)

    def loss(self, batch: Batch, rng: Generator) -> Measured:
        """Cross-entropy in nats, summed over the time steps: Zaremba's learning rate of 1 is for this scale."""
        number, words, targets = batch
        state = None if number == 0 else [tuple(Tensor(s, requires_grad=False) for s in each) for each in self.state]
        scores, states = self.model(self.device.to_device(words), state, rng)
        nats = softmax_cross_entropy(scores, self.device.to_device(targets))
        self.state = [tuple(each.data[-1].copy() for each in layer) for layer in states]
        return Measured(penalized(nats * len(words), states, self.settings), nats.data, targets.size)

    def score(self, mean: float) -> float:
        """Nats to perplexity."""
        return math.exp(min(mean, 700.0))  # e^709 is the largest there is

    def validate(self) -> float:
        """Validation perplexity as in training: ``batch_size`` pieces of the text side by side, the state carried."""
        return self.ppl_by_rows(self.data.valid)

    def test(self) -> dict[str, float]:
        """The text as one sequence, as the literature tests, and in pieces side by side, as `validate`."""
        return {
            "test_ppl": self.score_of_one_sequence(self.data.test),
            "test_ppl_rows": self.ppl_by_rows(self.data.test),
        }

    def ppl_by_rows(self, text: np.ndarray) -> float:
        """Perplexity over a text in ``batch_size`` pieces side by side, each read from a zero state to its end."""

        def parts() -> Iterator[tuple[Tensor, np.ndarray]]:
            state = None
            for _, words, targets in Rows(text, self.settings.steps, self.settings.batch_size):
                scores, state = self.scores(words, state)
                yield scores, targets

        return self.score_of(parts())

    def carried(self) -> dict[str, Array]:
        return {f"{layer}.{k}": to_host(s) for layer, each in enumerate(self.state) for k, s in enumerate(each)}

    def recall(self, arrays: dict[str, np.ndarray]) -> None:
        layers = range(1 + max((int(name.split(".")[0]) for name in arrays), default=-1))
        self.state = [
            tuple(self.device.to_device(arrays[name]) for name in sorted(arrays) if name.startswith(f"{layer}."))
            for layer in layers
        ]


class Rows(Sequence[Batch]):
    """A text (N,) in B contiguous pieces side by side, cut into minibatches of ``steps`` time steps, in reading order.

    Minibatch k is (k, words, next words), each (T, B); the last one may be shorter. Fewer than B words at the end of
    the text are left out, and where the text is too short for B pieces there are fewer of them.
    """

    def __init__(self, text: np.ndarray, steps: int, batch_size: int):
        B = max(1, min(batch_size, (len(text) - 1) // 2))
        length = (len(text) - 1) // B  # of a piece, not counting the word that follows it
        self.words = text[: B * length].reshape(B, length).T  # (length, B)
        self.targets = text[1 : B * length + 1].reshape(B, length).T
        self.steps = steps

    def __len__(self) -> int:
        return -(-len(self.words) // self.steps)

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(f"minibatch {index} of {len(self)}")
        part = slice(index * self.steps, (index + 1) * self.steps)
        return index, np.ascontiguousarray(self.words[part]), np.ascontiguousarray(self.targets[part])
