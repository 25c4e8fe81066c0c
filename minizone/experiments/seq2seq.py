"""Addition, symbol by symbol: an encoder reads "12+7", a decoder writes "19"; the problems become harder as it learns.

The experiment of the authors' zoneout_seq2seq.py, which is that of Erik Rehn (2016) with zoneout. It is not in the
paper, and there are no published numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from minizone.autograd.ops import softmax_cross_entropy
from minizone.autograd.tensor import Tensor, no_grad
from minizone.backend import Array, Generator, array_module, stream, to_host
from minizone.data.addition import GO, INPUT_LENGTH, MOST_DIGITS, SYMBOLS, TARGET_LENGTH, decode, draw_problems, encode
from minizone.experiments.recurrent import dropped_tokens, initializer, penalized, recurrent_stack
from minizone.experiments.settings import RecurrentSettings
from minizone.layers import Linear, Module, State
from minizone.optim import Optimizer
from minizone.runs.experiment import Experiment, Generated, Measured
from minizone.runs.settings import require

Batch = tuple[np.ndarray, np.ndarray]  # problems (13, B) and their sums (7, B), as tokens
SEEN = ("train", "valid")  # with --overlap, the problems of training and of validation alike
AT_ONCE = 512  # examples that are evaluated at a time


@dataclass(frozen=True)
class Seq2SeqSettings(RecurrentSettings):
    """Train an encoder and a decoder to add numbers whose length grows (the authors' zoneout_seq2seq.py)."""

    updates_per_epoch: int = 20
    """Updates from one validation, and one decision on what comes next, to the following."""
    valid_examples: int = 128 * 32
    """Problems to validate on, and to test on for each length of numbers."""
    number_length: int = 2
    """The difficulty at first: numbers have up to so many digits, or are 1 and as many zeros."""
    max_number_length: int = MOST_DIGITS
    """The greatest difficulty."""
    raise_below: float = 0.10
    """Numbers become longer by a digit when the validation error is below this."""
    decay_on_rise: float = 0.95
    """Multiply the learning rate by this whenever the validation error rises at the greatest difficulty."""
    restart_after: int = 16
    """Start again from new weights when the epoch after so many still ends with an error above --restart-above."""
    restart_above: float = 0.85
    """The validation error above which training has failed; 1: never."""
    overlap: bool = False
    """Validate on any problems, trained on or not, as the original does; without it, only on problems held out."""

    data_dir: str | None = None
    """Accepted as everywhere; this task makes its own data."""

    def check(self) -> None:
        super().check()
        for name in ("updates_per_epoch", "valid_examples", "number_length"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "be at least 1")
        first, most = self.number_length, self.max_number_length
        require(most <= MOST_DIGITS, "max_number_length", most, f"be at most {MOST_DIGITS}: no more fits the input")
        require(most >= first, "max_number_length", most, f"be at least --number-length {first}")
        for name in ("raise_below", "restart_above"):
            require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "be a share in [0, 1]")
        require(0 < self.decay_on_rise <= 1, "decay_on_rise", self.decay_on_rise, "be in (0, 1]: it multiplies")
        require(self.restart_after >= 0, "restart_after", self.restart_after, "be 0 or more")

    def label_parts(self) -> list[str]:
        return [*super().label_parts(), *(["overlap"] if self.overlap else [])]


PAPER = Seq2SeqSettings(
    preset="paper",
    num_layers=2,
    hidden_size=128,
    batch_size=32,
    initialization="uniform",
    init_width=0.16,
    learning_rate=1e-2,
    clipping=0.0,
    epochs=40,
)
PRESETS = {
    "paper": PAPER,
    # 800 updates of 32 problems do not get beyond two digits. Here there are 6,000 of 128, and a network of half the
    # width makes them affordable. Orthogonal weights and clipping shorten the plateau at the beginning.
    "quick": replace(
        PAPER,
        preset="quick",
        hidden_size=64,
        batch_size=128,
        updates_per_epoch=100,
        epochs=60,
        initialization="ortho",
        clipping=1.0,
        valid_examples=1024,
    ),
}


class Seq2SeqModel(Module):
    """Problems (13, B) to scores of the symbols of their sums (7, V, B).

    The decoder has weights of its own, starts in the final states of the encoder, and reads GO and then, one step
    late, the sum itself: in training the right one, in `answer` its own.
    """

    def __init__(self, settings: Seq2SeqSettings, rng: Generator):
        V, draw = len(SYMBOLS), initializer(settings)
        self.settings = settings
        self.encoder = recurrent_stack(settings, V, INPUT_LENGTH, rng, learned_state=False)
        self.decoder = recurrent_stack(settings, V, TARGET_LENGTH, rng, learned_state=False)
        self.output = Linear(settings.hidden_size, V, initializer=draw, rng=rng)
        if settings.initialization == "uniform":  # as the original, whose other biases are constant
            self.output.b.data[:] = draw(rng, (V, 1), np.float32)[:, 0]

    def __call__(self, inputs: Array, targets: Array, rng: Generator | None = None) -> tuple[Tensor, list[State]]:
        """Scores with the right sums (7, B) fed in, and all states of every layer. ``rng`` given means training."""
        encoded = self._run(self.encoder, inputs, None, rng)[1]
        start = array_module(targets).full_like(targets[:1], GO)
        before = array_module(targets).concatenate([start, targets[:-1]])  # (7, B)
        h, decoded = self._run(self.decoder, before, _last(encoded), rng)
        return self.output(h), encoded + decoded

    def answer(self, inputs: Array) -> Array:
        """The sums (7, B) as the model writes them: at each step the likeliest symbol, which the next step reads."""
        xp, s = array_module(inputs), self.settings
        # What depends on the number of the step, or on the gates of the step before, is run from the first step again.
        again = s.static_mask or s.output_gate != "plain"
        tokens = xp.full((TARGET_LENGTH + 1, inputs.shape[1]), GO, inputs.dtype)
        with no_grad():
            state = _last(self._run(self.encoder, inputs, None, None)[1])
            for t in range(TARGET_LENGTH):
                h, states = self._run(self.decoder, tokens[0 if again else t : t + 1], state, None)
                tokens[t + 1] = self.output(h[-1]).data.argmax(axis=0)
                state = state if again else _last(states)
        return tokens[1:]

    def _run(
        self, part: Any, tokens: Array, state: list[State] | None, rng: Generator | None
    ) -> tuple[Tensor, list[State]]:
        """What the encoder or the decoder emits for tokens (T, B), and all its states."""
        return part.states(dropped_tokens(tokens, self.settings.input_drop, len(SYMBOLS), rng), state, rng)


class Seq2Seq(Experiment):
    """An encoder and a decoder learn to add; the measure is the share of sums with a wrong symbol, padding included.

    ``train_error`` is that of the minibatches of training, where each symbol is predicted from the right ones before
    it, behind the noise of training; the other errors are of sums that the model wrote alone, without noise. (To know
    the right symbols helps only after the first wrong one, so for a whole sum the noise is all the difference.)

    ``memory`` is the state of the curriculum: the ``difficulty`` that is trained now and the one that was last
    ``validated``, the number of the validation set (``valid_sets``), the ``last_error``, the factor (``rate``) that
    the learning rate has come to, the ``epochs`` since the weights were new, and ``restarts``.
    """

    task, metric, unit = "seq2seq", "error", "wrong sequences (share)"
    presets: dict[str, Any] = PRESETS
    settings: Any

    def __init__(self, settings: Any, say: Callable[[str], None] = print):
        super().__init__(settings, say)
        first, most = settings.number_length, settings.max_number_length
        digits = f"{first}..{most} digits" if first < most else f"{first} digit{'s' if first > 1 else ''}"
        shared = ", validation may overlap with training" if settings.overlap else ""
        self.data = Generated(f"addition of numbers of up to {digits}{shared}")
        self.memory = {"difficulty": first, "validated": first, "valid_sets": 1, "last_error": 1.0, "rate": 1.0}
        self.memory |= {"epochs": 0, "restarts": 0}
        self.model = self.new_model()

    def new_model(self) -> Module:
        """The model with its first weights, or those of the latest restart."""
        rng = stream(self.settings.seed, "weights", self.memory["restarts"])
        return self.to_device(Seq2SeqModel(self.settings, rng))

    def batches(self, epoch: int) -> Sequence[Batch]:
        """The minibatches of an epoch, of the difficulty that is trained now."""
        return Problems(self.settings, self.memory["difficulty"], epoch)

    def loss(self, batch: Batch, rng: Generator) -> Measured:
        """Mean cross-entropy of the 7 symbols of all sums, in nats, with the noise of training."""
        inputs, targets = (self.device.to_device(part) for part in batch)
        scores, states = self.model(inputs, targets, rng)
        loss = softmax_cross_entropy(scores, targets)
        wrong = (scores.data.argmax(axis=1) != targets).any(axis=0)  # (B,)
        return Measured(penalized(loss, states, self.settings), wrong.mean(), wrong.size)

    def validate(self) -> float:
        """The error on the validation problems, the same ones until the model has become good at them."""
        self.memory["validated"] = self.memory["difficulty"]
        return self.error(self.valid_problems())

    def valid_problems(self) -> Batch:
        """Those of the difficulty that is trained now, held out unless --overlap says otherwise."""
        s, m, splits = self.settings, self.memory, SEEN if self.settings.overlap else ("valid",)
        rng = stream(s.seed, "validation", m["valid_sets"])
        return encode(draw_problems(rng, m["difficulty"], s.valid_examples, splits))

    def test(self) -> dict[str, Any]:
        """The error on held-out problems of every difficulty, and ``test_error``, of the one last validated."""
        s, difficulty = self.settings, self.memory["validated"]
        errors = {d: self.error(self.test_problems(d)) for d in range(s.number_length, s.max_number_length + 1)}
        each = {f"test_error_{d}": error for d, error in errors.items()}
        return {"test_error": errors[difficulty], "difficulty": difficulty, **each}

    def test_problems(self, difficulty: int) -> Batch:
        """Held out from training and from validation, with or without --overlap."""
        s = self.settings
        return encode(draw_problems(stream(s.seed, "test", difficulty), difficulty, s.valid_examples, ("test",)))

    def error(self, batch: Batch) -> float:
        """The share of sums that the model writes wrong."""
        inputs, targets = batch
        return float((self.answers(inputs) != targets).any(axis=0).mean())

    def answers(self, inputs: np.ndarray) -> np.ndarray:
        """The sums (7, N) as the model writes them for problems (13, N)."""
        parts = [inputs[:, k : k + AT_ONCE] for k in range(0, inputs.shape[1], AT_ONCE)]
        return np.concatenate([to_host(self.model.answer(self.device.to_device(part))) for part in parts], axis=1)

    def predictions(self) -> dict[str, Array]:
        """Test problems of the difficulty last validated, their sums, and what the model writes; tokens, in columns."""
        inputs, targets = self.test_problems(self.memory["validated"])
        return {"inputs": inputs, "targets": targets, "predictions": self.answers(inputs)}

    def farewell(self) -> None:
        """Five test problems, and what the model makes of them."""
        inputs, targets = (tokens[:, :5] for tokens in self.test_problems(self.memory["validated"]))
        for problem, target, answer in zip(*map(decode, (inputs, targets, self.answers(inputs))), strict=True):
            verdict = "right" if answer == target else f"wrong, {target.rstrip('_')}"
            self.say(f"{problem.lstrip('_')} -> {answer.rstrip('_')} {verdict}")

    def learning_rate(self, epoch: int) -> float:
        return self.settings.rate(epoch) * self.memory["rate"]

    def columns(self) -> dict[str, Any]:
        return {name: self.memory[name] for name in ("difficulty", "restarts")}

    def end_epoch(self, valid: float, optimizer: Optimizer) -> bool:
        """The rules of the original, in their order; True when the numbers become longer or the weights are new.

        Failed after so many epochs: start again from new weights, with the first learning rate, at the same
        difficulty. Else, at the greatest difficulty and worse than before: a smaller learning rate. Else, good enough:
        longer numbers, if there are any, and in any case other validation problems.
        """
        m, s = self.memory, self.settings
        if m["epochs"] == s.restart_after and valid > s.restart_above:
            m |= {"restarts": m["restarts"] + 1, "epochs": 0, "rate": 1.0}
            self.model.load_state_dict(self.new_model().state_dict())
            optimizer.reset()
            return True
        greatest, rose = m["difficulty"] == s.max_number_length, valid > m["last_error"]
        m |= {"epochs": m["epochs"] + 1, "last_error": valid}
        if rose and greatest:
            m["rate"] *= s.decay_on_rise
        elif valid < s.raise_below:
            m["valid_sets"] += 1
            if not greatest:
                m["difficulty"] += 1
                return True
        return False


def _last(states: list[State]) -> list[State]:
    """The last state of every layer, from all its states."""
    return [tuple(each[-1] for each in layer) for layer in states]


class Problems(Sequence[Batch]):
    """Minibatches (13, B), (7, B) of additions of one difficulty, each drawn when it is asked for."""

    def __init__(self, settings: Seq2SeqSettings, difficulty: int, epoch: int):
        self.settings, self.difficulty, self.epoch = settings, difficulty, epoch

    def __len__(self) -> int:
        return self.settings.updates_per_epoch

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(f"minibatch {index} of {len(self)}")
        s, splits = self.settings, SEEN if self.settings.overlap else ("train",)
        rng = stream(s.seed, "problems", self.epoch, index + 1)
        return encode(draw_problems(rng, self.difficulty, s.batch_size, splits))
