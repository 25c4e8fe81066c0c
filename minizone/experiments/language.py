"""What the language models share: a text, a model that reads it, and the evaluation as one sequence."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from operator import mul
from typing import Any

import numpy as np

from minizone.autograd.ops import softmax_cross_entropy
from minizone.autograd.tensor import Tensor, no_grad
from minizone.backend import Array, Generator, stream, to_host, to_numbers
from minizone.layers import Module, State
from minizone.runs.experiment import Experiment
from minizone.runs.settings import require

WINDOW = 1000  # symbols that are evaluated in one go


class LanguageModelling(Experiment):
    """A recurrent network reads a text and says what comes next; the measure is nats a symbol (or word).

    A subclass has the settings, whose ``load`` gives the text, and builds a model: tokens (T, B), a state and, in
    training, a generator to scores (T, V, B) and all states of every layer.
    """

    paper: dict[str, dict[str, float]] = {}  # noqa: RUF012  (of the class)
    settings: Any

    def __init__(self, settings: Any, say: Callable[[str], None] = print):
        super().__init__(settings, say)
        self.data = settings.load(say).first(settings.train_symbols, settings.eval_symbols)
        shortest = min(len(self.data.train) // 2, len(self.data.valid), len(self.data.test))
        require(
            settings.seq_len <= shortest, "seq_len", settings.seq_len, f"be at most {shortest} for {self.data.name}"
        )
        self.model = self.to_device(self.build(stream(settings.seed, "weights")))

    def build(self, rng: Generator) -> Module:
        raise NotImplementedError

    @property
    def reference(self) -> dict[str, dict[str, float]]:
        s = self.settings
        return self.paper if self.is_papers_text() and s.train_symbols == s.eval_symbols == 0 else {}

    def is_papers_text(self) -> bool:
        return self.data.name.startswith("PTB")

    def score_of_one_sequence(self, text: np.ndarray) -> float:
        """The metric over all symbols but the first, in one pass with the state carried from beginning to end."""
        return self.score_of(self.one_sequence(text))

    def score_of(self, parts: Iterable[tuple[Tensor, np.ndarray]]) -> float:
        """The metric, from scores (T, V, B) and targets (T, B), part by part."""
        nats, counts = [], []
        for scores, targets in parts:
            nats.append(softmax_cross_entropy(scores, self.device.to_device(targets)).data)
            counts.append(targets.size)
        return self.score(sum(map(mul, to_numbers(nats), counts)) / sum(counts))

    def one_sequence(self, text: np.ndarray) -> Iterator[tuple[Tensor, np.ndarray]]:
        """Scores (T, V, 1) and targets (T, 1), window by window, the state carried."""
        steps = self.settings.steps  # static masks repeat after so many
        window, state = steps * max(1, WINDOW // steps), None
        for start in range(0, len(text) - 1, window):
            part = text[start : start + window + 1, None]
            scores, state = self.scores(part[:-1], state)
            yield scores, part[1:]

    def scores(self, tokens: np.ndarray, state: list[State] | None) -> tuple[Tensor, list[State]]:
        """In evaluation: the scores (T, V, B), and the last state of every layer."""
        with no_grad():
            scores, states = self.model(self.device.to_device(tokens), state)
            return scores, [tuple(each[-1] for each in layer) for layer in states]

    def predictions(self) -> dict[str, Array]:
        """Of the test text as one sequence: each symbol after the first, its log p (nats), and the likeliest one."""
        columns: list[tuple[Array, ...]] = []
        for scores, targets in self.one_sequence(self.data.test):
            s, target = to_host(scores.data)[:, :, 0].astype(np.float64), targets[:, 0]  # (T, V), (T,)
            s -= s.max(axis=1, keepdims=True)
            right = s[np.arange(len(s)), target]
            columns.append((target, right - np.log(np.exp(s).sum(axis=1)), s.argmax(axis=1)))
        names = ("target", "log_probability", "predicted")
        return {name: np.concatenate(parts) for name, parts in zip(names, zip(*columns, strict=True), strict=True)}
