"""Addition, symbol by symbol: an encoder reads "12+7", a decoder writes "19". The numbers become longer in training.

The experiment is that of the authors' zoneout_seq2seq.py: the addition task of Erik Rehn (2016), with zoneout. It is
not in the paper, and there are no published numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np

from minizone.autograd.ops import softmax_cross_entropy
from minizone.autograd.tensor import Tensor, no_grad
from minizone.backend import Array, Generator, array_module, stream, to_host
from minizone.data.addition import GO, INPUT_LENGTH, MOST_DIGITS, SYMBOLS, TARGET_LENGTH, decode, draw_problems, encode
from minizone.experiments.recurrent import add_norm_stabilizer, initializer, recurrent_stack, token_dropout
from minizone.experiments.settings import RecurrentSettings
from minizone.layers import Linear, Module, Stack, State
from minizone.optim import Optimizer
from minizone.runs.experiment import Experiment, Generated, Measured
from minizone.runs.settings import Range, require

Batch = tuple[np.ndarray, np.ndarray]  # problems (13, B) and their sums (7, B), as tokens
EVALUATION_BATCH = 512  # examples that are evaluated at once


# ---- settings


@dataclass(frozen=True)
class Seq2SeqSettings(RecurrentSettings):
    """Train an encoder and a decoder to add numbers of increasing length (the authors' zoneout_seq2seq.py)."""

    updates_per_epoch: Annotated[int, Range(at_least=1)] = 20
    """Updates per epoch. The difficulty and the learning rate can change after each epoch."""
    valid_examples: Annotated[int, Range(at_least=1)] = 128 * 32
    """Number of validation problems, and of test problems for each length of numbers."""
    number_length: Annotated[int, Range(at_least=1)] = 2
    """Initial difficulty: numbers have at most this many digits, or are the next power of 10."""
    max_number_length: Annotated[int, Range(at_least=1, at_most=MOST_DIGITS)] = MOST_DIGITS
    """Largest difficulty."""
    raise_below: Annotated[float, Range(at_least=0, at_most=1)] = 0.10
    """Numbers become one digit longer when the validation error is below this."""
    decay_on_rise: Annotated[float, Range(more_than=0, at_most=1)] = 0.95
    """Factor of the learning rate whenever the validation error rises at the largest difficulty."""
    restart_after: Annotated[int, Range(at_least=0)] = 16
    """Epochs without a check for failure. If the next epoch ends above --restart-above, training restarts."""
    restart_above: Annotated[float, Range(at_least=0, at_most=1)] = 0.85
    """Validation error above which training has failed and restarts from new weights; 1: never."""
    overlap: bool = False
    """Validate on any problems, as the original does. Otherwise, only on problems that are never trained on."""

    data_dir: str | None = None
    """Has no effect: this task generates its data."""

    def check(self) -> None:
        super().check()
        rule = f"be at least --number-length {self.number_length}"
        require(self.max_number_length >= self.number_length, "max_number_length", self.max_number_length, rule)

    def label_parts(self) -> list[str]:
        parts = super().label_parts()
        if self.overlap:
            parts.append("overlap")
        return parts

    @property
    def train_splits(self) -> tuple[str, ...]:
        """The splits that training problems are drawn from."""
        return ("train", "valid") if self.overlap else ("train",)

    @property
    def valid_splits(self) -> tuple[str, ...]:
        """The splits that validation problems are drawn from."""
        return ("train", "valid") if self.overlap else ("valid",)


PAPER = Seq2SeqSettings(  # the authors' script
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
    # The 800 updates of 32 problems of the paper preset only suffice for two digits. This preset makes 6,000
    # updates of 128 problems, with half the width. Orthogonal weights and clipping shorten the first plateau.
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


# ---- the model


class Seq2SeqModel(Module):
    """Problems (13, B) to scores of the symbols of their sums (7, V, B).

    The decoder starts from the final states of the encoder. Its input at the first step is GO, and then the previous
    symbol of the sum. In training this is a symbol of the correct sum; in `answer`, the symbol that the decoder wrote.
    """

    def __init__(self, settings: Seq2SeqSettings, rng: Generator):
        V = len(SYMBOLS)
        self.settings = settings
        self.encoder = recurrent_stack(settings, V, INPUT_LENGTH, rng, learned_state=False)
        self.decoder = recurrent_stack(settings, V, TARGET_LENGTH, rng, learned_state=False)
        self.output = Linear(settings.hidden_size, V, initializer=initializer(settings), rng=rng)
        if settings.initialization == "uniform":  # as in the original; all other biases start as constants
            self.output.b.data[:] = initializer(settings)(rng, (V, 1), np.float32)[:, 0]

    def __call__(self, inputs: Array, targets: Array, rng: Generator | None = None) -> tuple[Tensor, list[State]]:
        """The scores (7, V, B) for correct sums (7, B), and all states of all layers. With ``rng``: training."""
        xp = array_module(targets)
        _, encoder_states = self._run(self.encoder, inputs, None, rng)
        go = xp.full_like(targets[:1], GO)
        previous = xp.concatenate([go, targets[:-1]])  # (7, B)
        h, decoder_states = self._run(self.decoder, previous, _last(encoder_states), rng)
        return self.output(h), encoder_states + decoder_states

    def answer(self, inputs: Array) -> Array:
        """The sums (7, B) that the model writes: at each step, the symbol with the largest score."""
        xp = array_module(inputs)
        tokens = xp.full((TARGET_LENGTH + 1, inputs.shape[1]), GO, inputs.dtype)  # GO, then the sum
        # Static masks depend on the time step, and these output gates depend on the gates of the previous step. In
        # both cases, the decoder runs again from its first step for every symbol.
        from_start = self.settings.static_mask or self.settings.output_gate != "plain"
        with no_grad():
            _, encoder_states = self._run(self.encoder, inputs, None, None)
            state = _last(encoder_states)
            for t in range(TARGET_LENGTH):
                previous = tokens[: t + 1] if from_start else tokens[t : t + 1]
                h, states = self._run(self.decoder, previous, state, None)
                tokens[t + 1] = self.output(h[-1]).data.argmax(axis=0)
                if not from_start:
                    state = _last(states)
        return tokens[1:]

    def _run(
        self, layers: Stack, tokens: Array, state: list[State] | None, rng: Generator | None
    ) -> tuple[Tensor, list[State]]:
        """The output (T, H, B) of the encoder or the decoder for tokens (T, B), and all states of its layers."""
        x = token_dropout(tokens, len(SYMBOLS), self.settings.input_drop, rng)
        return layers.states(x, state, rng)


def _last(states: list[State]) -> list[State]:
    """The last states (H, B) of every layer, from all its states (T, H, B)."""
    return [tuple(s[-1] for s in layer) for layer in states]


# ---- minibatches


class Problems(Sequence[Batch]):
    """The minibatches of an epoch: additions of one difficulty. Each is drawn when it is indexed."""

    def __init__(self, settings: Seq2SeqSettings, difficulty: int, epoch: int):
        self.settings = settings
        self.difficulty = difficulty
        self.epoch = epoch

    def __len__(self) -> int:
        return self.settings.updates_per_epoch

    def __getitem__(self, index: int) -> Batch:  # type: ignore[override]  # no slices
        if not 0 <= index < len(self):
            raise IndexError(f"minibatch {index} of {len(self)}")
        rng = stream(self.settings.seed, "problems", self.epoch, index + 1)
        return encode(draw_problems(rng, self.difficulty, self.settings.batch_size, self.settings.train_splits))


# ---- the experiment


class Seq2Seq(Experiment):
    """An encoder and a decoder learn to add. The metric is the share of sums with a wrong symbol, padding included.

    ``train_error`` is measured with the noise of training and with the correct previous symbols. Validation and test
    errors are measured without noise, on sums that the model writes by itself. (Correct previous symbols do not change
    the error of a whole sum, because they only matter after its first wrong symbol.)

    Attributes
    ----------
    memory : dict
        The state of the curriculum: ``difficulty`` of the next epoch; difficulty of the last validation
        (``validated``); number of the validation set (``valid_sets``); ``last_error``; factor of the learning rate
        (``rate``); ``epochs`` since the last restart; number of ``restarts``.
    """

    task, metric, unit = "seq2seq", "error", "wrong sequences (share)"
    presets = PRESETS
    settings: Seq2SeqSettings
    data: Generated
    model: Seq2SeqModel

    def __init__(self, settings: Seq2SeqSettings, say: Callable[[str], None] = print):
        super().__init__(settings, say)
        self.data = Generated(data_name(settings))
        self.memory = {
            "difficulty": settings.number_length,
            "validated": settings.number_length,
            "valid_sets": 1,
            "last_error": 1.0,
            "rate": 1.0,
            "epochs": 0,
            "restarts": 0,
        }
        self.model = self.new_model()

    def new_model(self) -> Seq2SeqModel:
        """A model with the first weights, or those of the last restart."""
        model = Seq2SeqModel(self.settings, stream(self.settings.seed, "weights", self.memory["restarts"]))
        self.to_device(model)
        return model

    def batches(self, epoch: int) -> Problems:
        """The minibatches of an epoch, with the current difficulty."""
        return Problems(self.settings, self.memory["difficulty"], epoch)

    def loss(self, batch: Batch, rng: Generator) -> Measured:
        """Mean cross-entropy of the 7 symbols of all sums in nats, and the share of wrong sums."""
        inputs = self.device.to_device(batch[0])  # (13, B)
        targets = self.device.to_device(batch[1])  # (7, B)
        scores, states = self.model(inputs, targets, rng)
        loss = add_norm_stabilizer(softmax_cross_entropy(scores, targets), states, self.settings)
        wrong = (scores.data.argmax(axis=1) != targets).any(axis=0)  # (B,)
        return Measured(loss, wrong.mean(), wrong.size)

    def learning_rate(self, epoch: int) -> float:
        return self.settings.rate(epoch) * self.memory["rate"]

    def validate(self) -> float:
        """The error on the validation problems."""
        self.memory["validated"] = self.memory["difficulty"]
        return self.error(self.valid_problems())

    def valid_problems(self) -> Batch:
        """The current validation problems, with the current difficulty."""
        rng = stream(self.settings.seed, "validation", self.memory["valid_sets"])
        n = self.settings.valid_examples
        return encode(draw_problems(rng, self.memory["difficulty"], n, self.settings.valid_splits))

    def test(self) -> dict[str, Any]:
        """``test_error`` for the difficulty of the last validation, and the error for every difficulty."""
        errors = {}
        for difficulty in range(self.settings.number_length, self.settings.max_number_length + 1):
            errors[f"test_error_{difficulty}"] = self.error(self.test_problems(difficulty))
        validated = self.memory["validated"]
        return {"test_error": errors[f"test_error_{validated}"], "difficulty": validated, **errors}

    def test_problems(self, difficulty: int) -> Batch:
        """Problems that neither training nor validation uses, with or without --overlap."""
        rng = stream(self.settings.seed, "test", difficulty)
        return encode(draw_problems(rng, difficulty, self.settings.valid_examples, ("test",)))

    def error(self, batch: Batch) -> float:
        """The share of sums that the model gets wrong."""
        inputs, targets = batch
        return float((self.answers(inputs) != targets).any(axis=0).mean())

    def answers(self, inputs: np.ndarray) -> np.ndarray:
        """The sums (7, N) that the model writes for problems (13, N)."""
        answers = []
        for start in range(0, inputs.shape[1], EVALUATION_BATCH):
            part = self.device.to_device(inputs[:, start : start + EVALUATION_BATCH])
            answers.append(to_host(self.model.answer(part)))
        return np.concatenate(answers, axis=1)

    def extra_columns(self) -> dict[str, Any]:
        return {"difficulty": self.memory["difficulty"], "restarts": self.memory["restarts"]}

    def end_epoch(self, valid: float, optimizer: Optimizer) -> bool:
        """Apply the curriculum of the original. True when the numbers become longer or training restarts.

        - If training has failed, it restarts from new weights with the first learning rate, at the same difficulty.
        - Else, if the error has risen at the largest difficulty, the learning rate decreases.
        - Else, if the error is small, the validation problems are replaced, and the numbers become longer.
        """
        m = self.memory
        if m["epochs"] == self.settings.restart_after and valid > self.settings.restart_above:
            m["restarts"] += 1
            m["epochs"] = 0
            m["rate"] = 1.0
            self.model.load_state_dict(self.new_model().state_dict())
            optimizer.reset()
            return True

        error_rose = valid > m["last_error"]
        m["last_error"] = valid
        m["epochs"] += 1
        largest_difficulty = m["difficulty"] == self.settings.max_number_length
        if largest_difficulty and error_rose:
            m["rate"] *= self.settings.decay_on_rise
        elif valid < self.settings.raise_below:
            m["valid_sets"] += 1
            if not largest_difficulty:
                m["difficulty"] += 1
                return True
        return False

    def print_results(self) -> None:
        """Print the answers to five test problems."""
        inputs, targets = self.test_problems(self.memory["validated"])
        answers = decode(self.answers(inputs[:, :5]))
        for problem, target, answer in zip(decode(inputs[:, :5]), decode(targets[:, :5]), answers, strict=True):
            verdict = "right" if answer == target else f"wrong, {target.rstrip('_')}"
            self.say(f"{problem.lstrip('_')} -> {answer.rstrip('_')} {verdict}")


def data_name(settings: Seq2SeqSettings) -> str:
    """For example "addition of numbers of up to 2..5 digits"."""
    first = settings.number_length
    last = settings.max_number_length
    digits = f"{first}..{last} digits"
    if first == last:
        digits = "1 digit" if first == 1 else f"{first} digits"
    overlap = ", validation may overlap with training" if settings.overlap else ""
    return f"addition of numbers of up to {digits}{overlap}"
