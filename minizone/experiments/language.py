"""Code shared by the language models: settings for the user's own text, the model, evaluation, and a sample line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from minizone.autograd.ops import softmax_cross_entropy
from minizone.autograd.tensor import Tensor, no_grad
from minizone.backend import Array, Generator, array_module, stream, to_numbers
from minizone.data import TextDataset
from minizone.errors import UserError
from minizone.experiments.sampling import first_line, write_vocabulary
from minizone.experiments.settings import TextSettings
from minizone.layers import Linear, Module, Stack, State
from minizone.runs.experiment import Experiment
from minizone.runs.folder import TEXTS
from minizone.runs.settings import require

WINDOW = 1000  # time steps that are evaluated at once


@dataclass(frozen=True)
class OwnTextSettings(TextSettings):
    """Settings of a language model on Penn Treebank or on the user's own text."""

    dataset: Literal["auto", "ptb", "manual"] = "auto"
    """ptb: Penn Treebank; manual: the Python manual, a stand-in that every Python installation contains; auto: ptb,
    or manual if ptb is missing."""
    text: str | None = None
    """Train on this UTF-8 text file instead. It is split by position: 90 % training, 5 % validation, 5 % test. The
    quick preset uses only the beginning of each part; --train-symbols 0 --eval-symbols 0 uses all of it. Symbols that
    occur only in validation or test become <unk>."""
    valid_text: str | None = None
    """Validation text. --text is then not split, and --test-text is needed too."""
    test_text: str | None = None
    """Test text, to be given together with --text and --valid-text."""

    @property
    def own_files(self) -> list[str]:
        """The files of the user's text: none, one, or those for training, validation and test."""
        return [file for file in (self.text, self.valid_text, self.test_text) if file is not None]

    def check(self) -> None:
        super().check()
        for name in TEXTS:
            if getattr(self, name) == "":
                raise UserError(f"--{name.replace('_', '-')} is empty: give it a file, or leave it out")
        if (self.valid_text is None) != (self.test_text is None):
            raise UserError("give both --valid-text and --test-text, or neither; then --text is split 90/5/5")
        if self.text is None and self.own_files:
            raise UserError("--valid-text and --test-text need a training text: give --text")
        if self.text is not None and self.dataset != "auto":
            raise UserError(f"--text and --dataset {self.dataset} are two data sets: give one of them")

    def label_parts(self) -> list[str]:
        own = [] if self.text is None else [Path(self.text).stem]
        return own + super().label_parts()


class LanguageModel(Module):
    """Tokens (T, B) to scores of the next token (T, V, B). A subclass makes the layers and their inputs."""

    rnn: Stack
    output: Linear

    def inputs(self, tokens: Array, rng: Generator | None) -> Array | Tensor:
        """The inputs of the first recurrent layer: x (T, D, B), or tokens (T, B)."""
        raise NotImplementedError

    def __call__(
        self, tokens: Array, state: list[State] | None = None, rng: Generator | None = None
    ) -> tuple[Tensor, list[State]]:
        """The scores (T, V, B), and all states (T, H, B) of every layer. With ``rng``: training."""
        h, states = self.rnn.states(self.inputs(tokens, rng), state, rng)
        return self.output(h), states

    def evaluate(self, tokens: np.ndarray, state: list[State] | None = None) -> tuple[Tensor, list[State]]:
        """The scores (T, V, B) of tokens (T, B) in evaluation, and the last state (H, B) of every layer."""
        with no_grad():
            scores, states = self(array_module(self.output.W.data).asarray(tokens), state)
            last = [tuple(s[-1] for s in layer) for layer in states]
        return scores, last


class LanguageModelling(Experiment):
    """A recurrent network predicts the next token of a text. The loss is in nats per token.

    A subclass defines the minibatches.

    Attributes
    ----------
    network : type of LanguageModel
        Its arguments are the size of the vocabulary, the settings, and the generator of the initial weights.
    """

    network: Callable[[int, Any, Generator], LanguageModel]
    settings: TextSettings
    data: TextDataset
    model: LanguageModel

    def __init__(self, settings: TextSettings, say: Callable[[str], None] = print):
        super().__init__(settings, say)
        self.data = settings.load(say).first(settings.train_symbols, settings.eval_symbols)
        longest = min(len(self.data.train) // 2, len(self.data.valid), len(self.data.test))
        rule = f"be at most {longest} for {self.data.name}"
        require(settings.seq_len <= longest, "seq_len", settings.seq_len, rule)
        self.model = self.build(stream(settings.seed, "weights"))
        self.to_device(self.model)

    def build(self, rng: Generator) -> LanguageModel:
        """A new model; ``rng`` draws its weights."""
        return self.network(self.data.vocabulary_size, self.settings, rng)

    def begin(self, folder: Path) -> None:
        """Write the vocabulary, which `run.py sample` needs."""
        write_vocabulary(self.data, folder)

    def print_results(self) -> None:
        """Print the beginning of what `run.py sample` prints with the seed of the run."""
        self.say(f"sample: {first_line(self.model, self.data, self.settings.seed)}")

    @property
    def reference(self) -> dict[str, dict[str, float]]:
        whole_text = self.settings.train_symbols == 0 and self.settings.eval_symbols == 0
        return self.paper if whole_text and self.has_papers_text() else {}

    def has_papers_text(self) -> bool:
        """Whether the text is that of the paper, not a stand-in or the user's own."""
        return self.data.name.startswith("PTB") and not self.data.own

    def score_of_one_sequence(self, text: np.ndarray) -> float:
        """The metric over a text (N,) read as one sequence. All tokens but the first are predicted."""
        return self.score_of(self.one_sequence(text))

    def one_sequence(self, text: np.ndarray) -> Iterator[tuple[Tensor, np.ndarray]]:
        """Scores (T, V, 1) and targets (T, 1) of a text (N,), window by window; the state is carried."""
        steps = self.settings.steps
        window = steps * max(1, WINDOW // steps)  # a multiple of the steps after which static masks repeat
        state = None
        for start in range(0, len(text) - 1, window):
            part = text[start : start + window + 1, None]  # (T + 1, 1)
            scores, state = self.scores(part[:-1], state)
            yield scores, part[1:]

    def scores(self, tokens: np.ndarray, state: list[State] | None) -> tuple[Tensor, list[State]]:
        """`LanguageModel.evaluate` of the model."""
        return self.model.evaluate(tokens, state)

    def score_of(self, minibatches: Iterable[tuple[Tensor, np.ndarray]]) -> float:
        """The metric over all tokens of minibatches of scores (T, V, B) and targets (T, B)."""
        losses, counts = [], []
        for scores, targets in minibatches:
            losses.append(softmax_cross_entropy(scores, self.device.to_device(targets)).data)  # (), the mean
            counts.append(targets.size)
        total = sum(loss * n for loss, n in zip(to_numbers(losses), counts, strict=True))
        return self.score(total / sum(counts))
