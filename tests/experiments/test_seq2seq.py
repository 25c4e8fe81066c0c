"""Addition: which split may use which problem, the loop of the decoder, the curriculum, and runs."""

import json
from dataclasses import replace

import numpy as np
import pytest

import minizone.layers.recurrent
import minizone.runs.training as training
from minizone import Tensor
from minizone.autograd.ops import softmax_cross_entropy, stack
from minizone.backend import stream
from minizone.data.addition import decode, draw_problems, encode, split
from minizone.experiments.seq2seq import PAPER, PRESETS, Seq2Seq, Seq2SeqModel
from minizone.optim import Adam
from minizone.recurrent.cells import lstm_cell
from minizone.runs.files import read_rows
from minizone.runs.training import Interrupted, fit
from tests.helpers import assert_same
from tests.helpers.runs import quiet, same_run

TINY = replace(
    PRESETS["quick"], hidden_size=8, batch_size=10, updates_per_epoch=3, valid_examples=20, epochs=2,
    z_prob_cells=0.5, z_prob_states=0.05,
)  # fmt: skip


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    monkeypatch.setattr(training, "plot_runs", quiet)


def experiment(**changes):
    return Seq2Seq(replace(TINY, **changes), say=quiet)


def run(folder, kind=Seq2Seq, **changes):
    return fit(kind(replace(TINY, **changes), say=quiet), folder, say=quiet)


def problems_of_all_splits(**changes):
    """The problems of training, validation and test, at every difficulty, and to which splits the first two belong."""
    e, train, valid, test = experiment(batch_size=200, valid_examples=600, **changes), set(), set(), set()
    for difficulty in range(1, 6):
        e.memory |= {"difficulty": difficulty, "valid_sets": difficulty}
        train |= {problem for epoch in range(1, 5) for inputs, _ in e.batches(epoch) for problem in decode(inputs)}
        valid |= set(decode(e.valid_problems()[0]))
        test |= set(decode(e.test_problems(difficulty)[0]))
    splits = [{split(*map(int, p.strip("_").split("+"))) for p in problems} for problems in (train, valid)]
    return train, valid, test, splits


@pytest.mark.parametrize("overlap", [False, True])
def test_no_problem_of_validation_or_test_is_ever_trained_on_unless_validation_may_overlap(overlap):
    train, valid, test, splits = problems_of_all_splits(overlap=overlap)
    assert not test & (train | valid) and min(map(len, (train, valid, test))) > 1000
    assert all(max(len(p.strip("_")) for p in problems) >= 11 for problems in (train, valid, test)), "up to 5 digits"
    assert splits == ([{"train", "valid"}] * 2 if overlap else [{"train"}, {"valid"}])
    assert len(train & valid) > 100 if overlap else not train & valid


def test_minibatches_are_right_differ_and_come_again():
    e = experiment()
    batches = [*e.batches(1), *e.batches(2), *experiment(seed=2).batches(1)]
    assert len(batches) == 9 and len({inputs.tobytes() for inputs, _ in batches}) == 9
    for (inputs, targets), (again, _) in zip(batches, e.batches(1), strict=False):
        np.testing.assert_array_equal(inputs, again)
        sums = [str(sum(map(int, p.strip("_").split("+")))).ljust(7, "_") for p in decode(inputs)]
        assert inputs.shape == (13, 10) and sums == decode(targets)


def test_the_paper_preset_is_the_model_and_the_epoch_of_the_original():
    e = Seq2Seq(PAPER, say=quiet)
    half = 4 * 128 * (13 + 128) + 4 * 128 + 4 * 128 * (128 + 128) + 4 * 128  # an encoder, or a decoder
    assert sum(p.data.size for p in e.model.parameters()) == 2 * half + 128 * 13 + 13 == 410_253
    named = dict(e.model.named_parameters())
    assert not any(name.endswith(("h0", "c0")) for name in named), "the encoder starts at zero"
    weights = [p.data for name, p in named.items() if p.ndim == 2 or name == "output.b"]
    assert len({w.tobytes()[:52] for w in weights}) == 10 and all(0.05 < abs(w).max() <= 0.08 for w in weights)
    biases = [p.data for name, p in named.items() if name.endswith(".b") and name != "output.b"]
    assert all(list(b[128:256]) == [1] * 128 and not b[:128].any() and not b[256:].any() for b in biases)
    assert [inputs.shape for inputs, _ in e.batches(1)] == [(13, 32)] * 20 and e.valid_problems()[1].shape == (7, 4096)


def doubled(**changes):
    """A model in float64, its weights so large that its answers differ, with problems and sums."""
    model = experiment(**changes).model
    rng = np.random.default_rng(5)
    for p in model.parameters():
        p.data = rng.normal(0, 5, p.shape)
    return model, *encode(draw_problems(rng, 3, 40, ("train",)))


def by_cells(model, inputs, targets=None):
    """Scores (7, V, B), one cell at a time; the decoder reads the targets or, without them, what it finds likeliest."""
    s, B = model.settings, inputs.shape[1]
    states = [(Tensor(np.zeros((8, B))), Tensor(np.zeros((8, B)))) for _ in range(2)]

    def step(part, x):
        for k, layer in enumerate(part.layers):
            masks = {"keep_h": s.z_prob_states, "keep_c": s.z_prob_cells}
            states[k] = lstm_cell(x, *states[k], layer.W_x, layer.W_h, layer.b, **masks)
            x = states[k][0]
        return x

    for t in range(13):
        step(model.encoder, inputs[t])
    token, scores = np.zeros(B, int), []
    for t in range(7):
        h = step(model.decoder, token)
        scores.append(model.output.W @ h + model.output.b.reshape(-1, 1))
        token = scores[-1].data.argmax(axis=0) if targets is None else targets[t]
    return stack(scores)


def test_decoding_and_teacher_forcing_equal_a_loop_over_cells_with_all_gradients():
    model, inputs, targets = doubled()
    answers = model.answer(inputs)
    assert len(np.unique(answers)) > 5 and len(np.unique(answers, axis=1).T) > 20
    np.testing.assert_array_equal(answers, by_cells(model, inputs).data.argmax(axis=1))

    def gradients(scores):
        softmax_cross_entropy(scores, targets).backward()
        found = {name: p.grad for name, p in model.named_parameters()}
        for p in model.parameters():
            p.grad = None
        return {"scores": scores.data, **found}

    found = gradients(model(inputs, targets)[0])
    assert_same(found, gradients(by_cells(model, inputs, targets)), 1e-10)
    assert all(abs(g).max() > 1e-6 for g in found.values()), "the encoder learns from what the decoder writes"


@pytest.mark.parametrize("options", [
    {"static_mask": True},
    {"output_gate": "paper", "drop_prob_igates": 0.3},
    {"output_gate": "printed", "drop_prob_igates": 0.3, "num_layers": 1},
    {"ogates_zoneout": True, "drop_prob_igates": 0.3},
    {"input_drop": 0.2, "dropout": 0.2, "variational_dropout": 0.2, "gaussian_drop": True},
    {"rnn_type": "gru", "z_prob_cells": 0.0},
    {"rnn_type": "rnn", "z_prob_cells": 0.0, "num_layers": 3},
], ids=str)  # fmt: skip
def test_what_the_model_writes_is_what_it_finds_likeliest_when_it_reads_that(options):
    """With every regularizer, those whose masks belong to a step included."""
    model, inputs, _ = doubled(**options)
    answers = model.answer(inputs)
    scores, states = model(inputs, answers)
    np.testing.assert_array_equal(answers, scores.data.argmax(axis=1))
    assert [len(layer[0].data) for layer in states] == sorted([13, 7] * model.settings.num_layers, reverse=True)


def test_noise_is_drawn_for_encoder_and_decoder_and_for_their_layers_separately(monkeypatch):
    masks, lstm = [], minizone.layers.recurrent.lstm
    monkeypatch.setattr(minizone.layers.recurrent, "lstm", lambda *a, **k: masks.append(k["keep_c"]) or lstm(*a, **k))
    e = experiment()
    batch = e.batches(1)[0]
    loss = float(e.loss(batch, stream(1, "noise")).loss)
    assert [mask.shape for mask in masks] == [(13, 8, 10)] * 2 + [(7, 8, 10)] * 2
    assert len({mask[:7].tobytes() for mask in masks}) == 4
    for more in ({"norm_cost_coeff": 50.0}, {"input_drop": 0.5}):
        assert float(experiment(**more).loss(batch, stream(1, "noise")).loss) != loss, "what is not in the layers"


def test_loss_counts_all_seven_symbols_and_the_measure_whole_sums():
    e = experiment(z_prob_cells=0.0, z_prob_states=0.0)
    inputs, targets = e.batches(1)[0]
    loss, measure, n = e.loss((inputs, targets), stream(1, "noise"))
    scores = e.model(inputs, targets)[0].data.astype(np.float64)
    p = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    right = np.take_along_axis(p, targets[:, None].astype(int), axis=1)
    assert float(loss) == pytest.approx(-np.log(right).mean(), rel=1e-5)
    assert (measure, n) == (1, 10)
    mostly = targets.copy()  # of one sum a symbol is wrong, of another all are
    mostly[6, 0], mostly[:, 1] = 0, 0
    e.model = lambda inputs, targets, rng: (Tensor(1.0 * (mostly[:, None] == np.arange(13)[:, None])), [])
    assert e.loss((inputs, targets), None)[1:] == (0.2, 10)


class Epochs:
    """An experiment that is told its validation errors; a call returns what the rules said after each epoch."""

    def __init__(self, **changes):
        self.e = experiment(**changes)
        self.optimizer = Adam(self.e.model.parameters(), 1e-2)

    def __call__(self, *errors):
        return [self.e.end_epoch(error, self.optimizer) for error in errors]

    def __getattr__(self, name):
        return self.e.learning_rate(1) if name == "rate" else self.e.memory[name]


def test_numbers_become_longer_below_the_threshold_and_validation_problems_are_new():
    epochs = Epochs()
    before = epochs.e.valid_problems()[0]
    assert epochs(0.9, 0.95, 0.10) == [False] * 3 and (epochs.difficulty, epochs.rate) == (2, 0.01)
    np.testing.assert_array_equal(before, epochs.e.valid_problems()[0])
    assert epochs(0.0999) == [True] and (epochs.difficulty, epochs.rate) == (3, 0.01)
    assert epochs(0.9, 0.01, 0.01, 0.01) == [False, True, True, False] and epochs.difficulty == 5


def test_at_the_greatest_difficulty_a_rising_error_lowers_the_learning_rate_and_a_small_one_renews_the_problems():
    epochs = Epochs(number_length=4)
    assert epochs(0.5, 0.6, 0.05) == [False, False, True] and epochs.rate == 0.01, "not before"
    assert epochs(0.4) == [False] and epochs.rate == pytest.approx(0.0095), "compared with the error of easier problems"
    epochs(0.4, 0.3, 0.35)
    assert epochs.rate == pytest.approx(0.01 * 0.95**2) and epochs.valid_sets == 2
    before = epochs.e.valid_problems()[0]
    assert epochs(0.05) == [False] and (epochs.valid_sets, epochs.difficulty) == (3, 5)
    assert (before != epochs.e.valid_problems()[0]).any()
    epochs(0.06)  # small, but it rose: only the first of the two rules holds
    assert epochs.rate == pytest.approx(0.01 * 0.95**3) and epochs.valid_sets == 3


@pytest.mark.parametrize(("last", "restarts"), [(0.8501, True), (0.85, False)])
def test_a_failed_training_starts_again_at_the_end_of_the_epoch_after_sixteen(last, restarts):
    epochs = Epochs()
    assert epochs(*[1.0] * 16) == [False] * 16 and epochs(last) == [restarts]
    assert (epochs.restarts, epochs.epochs) == ((1, 0) if restarts else (0, 17))
    assert epochs(*[0.99] * 17) == [False] * 16 + [restarts], "after as many again, or never"


def test_a_restart_makes_new_weights_and_forgets_the_optimizer_but_not_the_difficulty():
    epochs = Epochs(number_length=4, restart_after=3)
    e = epochs.e
    first = {name: array.copy() for name, array in e.model.state_dict().items()}
    epochs(0.05, 0.5, 0.6)
    e.loss(e.batches(1)[0], stream(1, "noise"))[0].backward()
    assert epochs.optimizer.step() > 0 and epochs.rate < 0.01
    assert epochs(0.9) == [True] and (epochs.difficulty, epochs.last_error, epochs.rate) == (5, 0.6, 0.01)
    assert not any(array.any() for array in epochs.optimizer.state_dict().values())
    new = Seq2SeqModel(e.settings, stream(1, "weights", 1))
    assert_same(e.model.state_dict(), new.state_dict(), 0)
    assert max(abs(array - first[name]).max() for name, array in new.state_dict().items()) > 0.1


class Scripted(Seq2Seq):
    """The validation errors are given: by restarts, and epochs since."""

    def validate(self):
        super().validate()
        script = {(0, 0): 0.05, (0, 1): 0.9, (0, 2): 0.95, (1, 0): 0.09, (1, 1): 0.5, (1, 2): 0.6}
        return script[self.memory["restarts"], self.memory["epochs"]]


SCRIPT = {"epochs": 6, "max_number_length": 4, "restart_after": 2}


@pytest.mark.parametrize("options", [{}, {"static_mask": True}])
def test_a_run_cut_after_every_update_and_resumed_equals_the_uninterrupted_one(options, tmp_path):
    """Longer numbers, a restart, longer numbers again, a smaller learning rate."""
    run(tmp_path / "whole", Scripted, **SCRIPT, **options)
    stops = 0
    while True:
        try:
            run(tmp_path / "cut", Scripted, **SCRIPT, **options, max_minutes=1e-9, resume=stops > 0)
            break
        except Interrupted:
            stops += 1
    assert stops == 18
    same_run(tmp_path / "whole", tmp_path / "cut")
    rows = read_rows(tmp_path / "whole" / "metrics.jsonl")
    assert [(row["difficulty"], row["restarts"]) for row in rows] == [(2, 0), (3, 0), (3, 0), (3, 1), (4, 1), (4, 1)]
    assert [row["learning_rate"] for row in rows] == [0.01] * 5 + [0.0095]
    assert list(rows[0])[-3:] == ["learning_rate", "difficulty", "restarts"]


def test_the_same_seed_gives_the_same_run_and_another_seed_another(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(tmp_path / name, seed=seed)
    same_run(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a/best.safetensors").read_bytes() != (tmp_path / "c/best.safetensors").read_bytes()


@pytest.mark.parametrize(("epochs", "best_epoch", "valid", "difficulty"), [(4, 4, 0.09, 3), (5, 5, 0.5, 4)])
def test_best_parameters_are_of_the_difficulty_last_validated(epochs, best_epoch, valid, difficulty, tmp_path):
    """An easier one counts no more; but after the last epoch there is nothing else, even if it would go on."""
    summary = run(tmp_path / "run", Scripted, **{**SCRIPT, "epochs": epochs})
    assert [summary[key] for key in ("best_epoch", "best_valid_error", "difficulty")] == [best_epoch, valid, difficulty]
    assert summary["test_error"] == summary[f"test_error_{difficulty}"]
    assert [key for key in summary if key.startswith("test_error_")] == [f"test_error_{d}" for d in (2, 3, 4)]
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == summary


def test_the_error_is_the_share_of_wrong_sums_of_all_examples():
    """600 examples are more than are evaluated at once."""
    e = experiment(valid_examples=600)

    def wrong_for_even_numbers(inputs):
        problems = [tuple(map(int, problem.strip("_").split("+"))) for problem in decode(inputs)]
        answers = encode(problems)[1]
        answers[6, [a % 2 == 0 for a, _ in problems]] = 0
        return answers

    e.model.answer = wrong_for_even_numbers
    inputs, targets = e.test_problems(3)
    even = [int(problem.strip("_").split("+")[0]) % 2 == 0 for problem in decode(inputs)]
    assert len(even) == 600 and e.error((inputs, targets)) == np.mean(even)


def test_the_worked_examples_at_the_end():
    said = []
    e = Seq2Seq(replace(TINY, valid_examples=600), say=said.append)
    e.memory["validated"] = 3
    inputs, targets = e.test_problems(3)
    e.model.answer = lambda part: np.where(np.arange(part.shape[1]) == 0, targets[:, :1], encode([(9, 9)])[1])
    e.print_results()
    problems, sums = ([text.strip("_") for text in decode(tokens[:, :5])] for tokens in (inputs, targets))
    assert said[0] == f"{problems[0]} -> {sums[0]} right"
    assert said[1:] == [f"{p} -> 18 wrong, {s}" for p, s in zip(problems[1:], sums[1:], strict=True)]


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "up to 2..5 digits"),
        ({"max_number_length": 2}, "up to 2 digits"),
        ({"number_length": 1, "max_number_length": 1}, "up to 1 digit"),
        ({"overlap": True}, "up to 2..5 digits, validation may overlap with training"),
    ],
)
def test_the_name_of_the_data_has_the_lengths_and_the_overlap(changes, name):
    assert experiment(**changes).data.name == f"addition of numbers of {name}"
