"""What the language models share: the model behind its inputs, and the evaluation of a text as one sequence."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from minizone.autograd.ops import softmax_cross_entropy
from minizone.autograd.tensor import Tensor, no_grad
from minizone.backend import Array, Generator, stream, to_numbers
from minizone.data import TextDataset
from minizone.experiments.settings import TextSettings
from minizone.layers import Linear, Module, Stack, State
from minizone.runs.experiment import Experiment
from minizone.runs.settings import require

WINDOW = 1000  # time steps that are evaluated at once


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
        """The scores (T, V, B), and all states (T, H, B) of every layer. ``rng`` given means training."""
        h, states = self.rnn.states(self.inputs(tokens, rng), state, rng)
        return self.output(h), states


class LanguageModelling(Experiment):
    """A recurrent network predicts the next token of a text. The loss is in nats per token.

    A subclass makes the model and says what a minibatch is.
    """

    paper: dict[str, dict[str, float]]
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
        raise NotImplementedError

    @property
    def reference(self) -> dict[str, dict[str, float]]:
        whole_text = self.settings.train_symbols == 0 and self.settings.eval_symbols == 0
        return self.paper if whole_text and self.has_papers_text() else {}

    def has_papers_text(self) -> bool:
        """Whether the text is that of the paper, and not a stand-in."""
        return self.data.name.startswith("PTB")

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
        """In evaluation: the scores (T, V, B) for tokens (T, B), and the last state (H, B) of every layer."""
        with no_grad():
            scores, states = self.model(self.device.to_device(tokens), state)
            last = [tuple(s[-1] for s in layer) for layer in states]
        return scores, last

    def score_of(self, minibatches: Iterable[tuple[Tensor, np.ndarray]]) -> float:
        """The metric over all tokens of minibatches of scores (T, V, B) and targets (T, B)."""
        losses, counts = [], []
        for scores, targets in minibatches:
            losses.append(softmax_cross_entropy(scores, self.device.to_device(targets)).data)  # (), the mean
            counts.append(targets.size)
        total = sum(loss * n for loss, n in zip(to_numbers(losses), counts, strict=True))
        return self.score(total / sum(counts))
