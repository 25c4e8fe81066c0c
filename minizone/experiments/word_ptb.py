"""Word-level language modelling on Penn Treebank: section 4.1.2 of the paper, Table 1. The model of Zaremba et al."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np

from minizone.autograd.ops import softmax_cross_entropy
from minizone.autograd.tensor import Tensor
from minizone.backend import Array, Generator, to_host
from minizone.data import TextDataset, load_own_words, load_words
from minizone.errors import UserError
from minizone.experiments.language import LanguageModel, LanguageModelling, OwnTextSettings
from minizone.experiments.recurrent import add_norm_stabilizer, initializer, input_dropout, recurrent_stack
from minizone.layers import Embedding, Linear, State
from minizone.runs.experiment import Measured
from minizone.runs.settings import Range

Batch = tuple[int, np.ndarray, np.ndarray]  # its index in the epoch; words (T, B); the next word of each (T, B)


# ---- settings


@dataclass(frozen=True)
class WordSettings(OwnTextSettings):
    """Train a word-level language model on Penn Treebank (Krueger et al., 2017, section 4.1.2), or on --text."""

    seq_len: Annotated[int, Range(at_least=2)] = 35
    """Time steps of a training sequence."""
    vocabulary_size: Annotated[int, Range(at_least=3)] = 10_000
    """Number of words of --text to keep, including <eos> and <unk>: the most frequent ones of the training text. Other
    words become <unk>."""
    tokenized: bool = False
    """Cut --text only at spaces and line ends, for tokenized texts such as PTB and WikiText. Otherwise, a word is a run
    of letters and digits, possibly with an apostrophe or a hyphen inside; each other mark, Chinese character and
    Japanese kana is a word (Thai has no spaces: use char-ptb). Upper case is kept; the end of a line is <eos>."""

    def check(self) -> None:
        super().check()
        if self.text is None and (self.tokenized or self.vocabulary_size != WordSettings.vocabulary_size):
            raise UserError("--vocabulary-size and --tokenized are for a text of your own: give --text")

    def load(self, say: Callable[[str], None]) -> TextDataset:
        if self.own_files:
            return load_own_words(self.own_files, self.vocabulary_size, tokenized=self.tokenized, say=say)
        return load_words(self.dataset, self.data_dir, offline=self.offline, say=say)

    @property
    def steps(self) -> int:
        return self.seq_len


PAPER = WordSettings(  # section 4.1.2, and Zaremba et al. (2014), whose model the paper uses
    preset="paper",
    num_layers=2,
    hidden_size=1500,
    batch_size=20,  # Zaremba et al., and the authors' script
    seq_len=35,  # likewise
    dropout=0.65,  # Zaremba et al.
    initialization="uniform",
    init_width=0.08,
    forget_bias=0.0,  # Zaremba et al.
    algorithm="sgd",
    learning_rate=1.0,
    lr_decay=1.15,
    decrease_lr_after_epoch=14,
    clipping=10.0,
    clip_what="gradient",
    epochs=55,  # Zaremba et al.
)
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
REFERENCE = {  # perplexity, Table 1 (ICLR 2017)
    "Unregularized LSTM": {"valid": 120.7, "test": 114.5},
    "Non-recurrent dropout": {"valid": 82.2, "test": 78.4},
    "Zoneout": {"valid": 81.4, "test": 77.4},
}


# ---- the model


class WordModel(LanguageModel):
    """Words (T, B) to scores of the next word (T, V, B): an embedding, and recurrent layers on it."""

    def __init__(self, vocabulary_size: int, settings: WordSettings, rng: Generator):
        H = settings.hidden_size
        self.input_drop = settings.input_drop
        self.embedding = Embedding(vocabulary_size, H, initializer=initializer(settings), rng=rng)
        self.rnn = recurrent_stack(settings, H, settings.steps, rng, learned_state=False)
        self.output = Linear(H, vocabulary_size, initializer=initializer(settings), rng=rng)

    def inputs(self, tokens: Array, rng: Generator | None) -> Tensor:
        return input_dropout(self.embedding(tokens), self.input_drop, rng)


# ---- minibatches


class Rows(Sequence[Batch]):
    """Minibatches of a text (N,) that is cut into B contiguous rows, which are read side by side.

    Minibatch k is (k, words, next words), both (T, B) with ``steps`` time steps, and continues where minibatch k - 1
    ended. The last one may be shorter. Up to B words at the end of the text are left out. A short text has fewer rows
    than ``batch_size``.
    """

    def __init__(self, text: np.ndarray, steps: int, batch_size: int):
        B = max(1, min(batch_size, (len(text) - 1) // 2))
        length = (len(text) - 1) // B
        self.words = text[: B * length].reshape(B, length).T  # (length, B)
        self.targets = text[1 : B * length + 1].reshape(B, length).T  # (length, B)
        self.steps = steps

    def __len__(self) -> int:
        return math.ceil(len(self.words) / self.steps)

    def __getitem__(self, index: int) -> Batch:  # type: ignore[override]  # no slices
        if not 0 <= index < len(self):
            raise IndexError(f"minibatch {index} of {len(self)}")
        part = slice(index * self.steps, (index + 1) * self.steps)
        return index, np.ascontiguousarray(self.words[part]), np.ascontiguousarray(self.targets[part])


# ---- the experiment


class WordPTB(LanguageModelling):
    """A recurrent network reads a text word by word. Its state is carried from one minibatch to the next."""

    task, metric, unit = "word-ptb", "ppl", "perplexity"
    presets = PRESETS
    paper = REFERENCE
    network = WordModel
    settings: WordSettings

    def __init__(self, settings: WordSettings, say: Callable[[str], None] = print):
        super().__init__(settings, say)
        self.state: list[tuple[Array, ...]] = []  # of every layer, each (H, B), after the last minibatch

    def batches(self, epoch: int) -> Rows:
        """The minibatches of an epoch, the same in every epoch."""
        return Rows(self.data.train, self.settings.steps, self.settings.batch_size)

    def loss(self, batch: Batch, rng: Generator) -> Measured:
        """Cross-entropy in nats, summed over time and averaged over rows: the scale for Zaremba's learning rate 1."""
        number, words, targets = batch
        state = None if number == 0 else self.carried_state()
        scores, states = self.model(self.device.to_device(words), state, rng)
        self.state = [tuple(s.data[-1].copy() for s in layer) for layer in states]
        cross_entropy = softmax_cross_entropy(scores, self.device.to_device(targets))
        loss = add_norm_stabilizer(cross_entropy * len(words), states, self.settings)
        return Measured(loss, cross_entropy.data, targets.size)

    def carried_state(self) -> list[State]:
        """The state after the last minibatch. No gradient passes through it: truncated back-propagation."""
        return [tuple(Tensor(s, requires_grad=False) for s in layer) for layer in self.state]

    def score(self, mean: float) -> float:
        """Nats to perplexity."""
        return math.exp(min(mean, 700.0))  # exp(710) would overflow

    def validate(self) -> float:
        """Validation perplexity as in training: in ``batch_size`` rows, with the state carried over."""
        return self.ppl_by_rows(self.data.valid)

    def test(self) -> dict[str, float]:
        """Test perplexity of the text as one sequence, which is usual in the literature, and in rows, as `validate`."""
        return {
            "test_ppl": self.score_of_one_sequence(self.data.test),
            "test_ppl_rows": self.ppl_by_rows(self.data.test),
        }

    def ppl_by_rows(self, text: np.ndarray) -> float:
        """Perplexity over a text in ``batch_size`` rows, each read from a zero state to its end."""

        def minibatches() -> Iterator[tuple[Tensor, np.ndarray]]:
            state = None
            for _, words, targets in Rows(text, self.settings.steps, self.settings.batch_size):
                scores, state = self.scores(words, state)
                yield scores, targets

        return self.score_of(minibatches())

    def carried(self) -> dict[str, Array]:
        """The state of layer k as "k.0" (h) and "k.1" (c), each (H, B)."""
        arrays = {}
        for layer, states in enumerate(self.state):
            for k, s in enumerate(states):
                arrays[f"{layer}.{k}"] = to_host(s)
        return arrays

    def load_carried(self, arrays: dict[str, np.ndarray]) -> None:
        self.state = []
        for layer in range(self.settings.num_layers if arrays else 0):
            names = [name for name in sorted(arrays) if name.startswith(f"{layer}.")]
            self.state.append(tuple(self.device.to_device(arrays[name]) for name in names))
