"""Word-level Penn Treebank: rows of text, the state that is carried, the loss and the perplexity, and the model."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

import minizone.runs.training as training
from minizone import Tensor
from minizone.autograd.ops import softmax_cross_entropy
from minizone.data import load_words
from minizone.experiments import language, word_ptb
from minizone.experiments.word_ptb import PRESETS, REFERENCE, Rows, WordModel, WordPTB, WordSettings
from minizone.layers import init
from minizone.runs.files import load_arrays, read_rows
from minizone.runs.training import Interrupted, fit
from tests.helpers import real_data, rng
from tests.helpers.runs import quiet, same_run

TINY = replace(
    PRESETS["quick"],
    dataset="manual",
    hidden_size=6,
    batch_size=4,
    seq_len=5,
    epochs=2,
    train_symbols=75,
    eval_symbols=41,
    initialization="ortho",
    dropout=0.3,
    z_prob_cells=0.25,
    z_prob_states="0.025,0.05",
)  # 4 minibatches an epoch: 18 words in each of 4 rows, 5 + 5 + 5 + 3
CALM = {"dropout": 0.0, "z_prob_cells": 0.0, "z_prob_states": 0.0}


def experiment(**changes) -> WordPTB:
    settings = replace(TINY, **changes)
    settings.check()
    made = WordPTB(settings, say=quiet)
    for parameter in made.model.parameters():
        parameter.data *= 3  # so that states matter
    return made


def run(folder, **changes):
    return fit(experiment(**changes), folder, say=quiet)


load_words_once = cache(load_words)


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    monkeypatch.setattr(training, "plot_runs", quiet)
    monkeypatch.setattr(word_ptb, "load_words", load_words_once)


# ---- rows


@pytest.mark.parametrize(
    ("N", "steps", "B", "lengths"), [(101, 7, 4, [7, 7, 7, 4]), (22, 5, 3, [5, 2]), (31, 5, 3, [5, 5])]
)
def test_rows_are_contiguous_pieces_of_the_text_with_the_next_word_as_target(N, steps, B, lengths):
    text = 10 * np.arange(N, dtype=np.int32)
    batches = list(Rows(text, steps, B))
    assert [number for number, _, _ in batches] == list(range(len(lengths)))
    assert [words.shape for _, words, _ in batches] == [(n, B) for n in lengths]
    for _, words, targets in batches:
        assert np.array_equal(targets, words + 10)
    whole = np.concatenate([words for _, words, _ in batches])  # (length, B)
    assert np.array_equal(whole.T.ravel(), text[: whole.size]), "row after row, it is the text from its beginning"
    assert N - 1 - B < whole.size <= N - 1, "fewer than B words are left out"


@pytest.mark.parametrize(("N", "rows"), [(2, 1), (3, 1), (4, 1), (5, 2), (8, 3), (9, 4), (41, 20), (42, 20)])
def test_a_short_text_has_fewer_rows(N, rows):
    text = np.arange(N)
    ((number, words, targets),) = Rows(text, 35, 20)
    assert number == 0 and words.shape == targets.shape == ((N - 1) // rows, rows)
    assert np.array_equal(targets, words + 1) and np.array_equal(words.T.ravel(), text[: words.size])


def test_a_minibatch_can_be_taken_by_its_number_and_there_is_none_behind_the_last():
    rows = Rows(np.arange(101), 7, 4)
    assert len(rows) == 4
    for one, other in zip(rows[2], list(rows)[2], strict=True):
        assert np.array_equal(one, other)
    assert rows[1][1].flags.c_contiguous and rows[1][2].flags.c_contiguous
    for outside in (4, -1):
        with pytest.raises(IndexError, match=f"minibatch {outside} of 4"):
            rows[outside]


def test_every_epoch_reads_the_same_rows_in_the_same_order():
    made = experiment()
    for one, other in zip(made.batches(1), made.batches(2), strict=True):
        assert np.array_equal(one[1], other[1]) and np.array_equal(one[2], other[2])


# ---- the carried state


def losses(made: WordPTB, batches) -> list[float]:
    return [made.loss(batch, rng(7)).measure for batch in batches]


def test_the_state_is_carried_to_the_next_minibatch_and_starts_anew_with_an_epoch():
    """Without noise, the losses of the minibatches are those of one pass over the whole rows."""
    made = experiment(**CALM)
    batches = list(made.batches(1))
    first = losses(made, batches)
    words, targets = (np.concatenate([batch[k] for batch in batches]) for k in (1, 2))
    scores = made.model(words)[0]
    start = 0
    for batch, loss in zip(batches, first, strict=True):
        part = slice(start, start + len(batch[1]))
        assert loss == pytest.approx(float(softmax_cross_entropy(scores[part], targets[part])), rel=1e-5)
        start = part.stop
    assert losses(made, batches) == first, "an epoch starts with a state of zeros"


@pytest.mark.parametrize("options", [{}, CALM, {"rnn_type": "gru", "z_prob_cells": 0.0}])
def test_loss_of_the_second_minibatch_depends_on_the_first_one(options):
    made = experiment(**options)
    one, two, *_ = made.batches(1)
    _, after_one = losses(made, [one, two])
    _, after_other = losses(made, [(0, one[1][::-1].copy(), one[2]), two])
    assert after_one != after_other
    assert losses(made, [one, two])[1] == after_one


def test_no_gradient_goes_back_through_the_carried_state():
    made = experiment(**CALM)
    one, (_, words, targets), *_ = made.batches(1)
    made.loss(one, rng())
    state = [tuple(Tensor(s.copy(), requires_grad=False) for s in layer) for layer in made.state]
    made.loss((1, words, targets), rng()).loss.backward()
    truncated = [parameter.grad for parameter in made.model.parameters()]
    for parameter in made.model.parameters():
        parameter.grad = None
    (softmax_cross_entropy(made.model(words, state)[0], targets) * len(words)).backward()
    for parameter, expected in zip(made.model.parameters(), truncated, strict=True):
        np.testing.assert_array_equal(parameter.grad, expected)


def test_the_carried_state_is_part_of_a_checkpoint_and_returns_from_it():
    made, other = experiment(), experiment()
    assert made.carried() == {}
    losses(made, list(made.batches(1))[:2])
    arrays = {name: array.copy() for name, array in made.carried().items()}
    assert {name: array.shape for name, array in arrays.items()} == dict.fromkeys(["0.0", "0.1", "1.0", "1.1"], (6, 4))
    other.load_carried(arrays)
    third = made.batches(1)[2]
    assert made.loss(third, rng(7)).measure == other.loss(third, rng(7)).measure


@pytest.mark.parametrize(
    "options", [{}, {"static_mask": True, "input_drop": 0.1}, {"rnn_type": "gru", "z_prob_cells": 0.0}]
)
def test_a_run_cut_after_every_update_and_resumed_equals_the_uninterrupted_one(options, tmp_path):
    run(tmp_path / "whole", **options)
    stops = 0
    while True:
        try:
            run(tmp_path / "cut", max_minutes=1e-9, resume=stops > 0, **options)
            break
        except Interrupted:
            stops += 1
            names = load_arrays(tmp_path / "cut" / "last.safetensors")[0].keys()
            assert {"carried.0.0", "carried.1.0"} <= names
    assert stops == read_rows(tmp_path / "whole" / "metrics.jsonl")[-1]["update"] == 8
    same_run(tmp_path / "whole", tmp_path / "cut")


# ---- loss, perplexity, schedule


@pytest.mark.parametrize("coefficient", [0.0, 50.0])
def test_loss_is_summed_over_time_and_averaged_over_rows(coefficient):
    """Zaremba's learning rate of 1 is for this scale; the last minibatch is shorter, and so is its sum."""
    made = experiment(norm_cost_coeff=coefficient)
    for batch in made.batches(1):
        generator, state = rng(3), [tuple(Tensor(s, False) for s in layer) for layer in made.state] or None
        scores, states = made.model(batch[1], state if batch[0] else None, generator)
        nats = float(softmax_cross_entropy(scores, batch[2]))
        penalty = sum(float(training_penalty(layer[0].data)) for layer in states)
        loss, measure, n = made.loss(batch, rng(3))
        assert measure == pytest.approx(nats, rel=1e-6) and n == batch[2].size
        assert float(loss) == pytest.approx(len(batch[1]) * nats + coefficient * penalty, rel=1e-5)


def training_penalty(h: np.ndarray) -> float:
    norms = np.sqrt((h.astype(np.float64) ** 2).sum(axis=1))  # (T, B)
    return (np.diff(norms, axis=0) ** 2).sum() / norms.size


def nats_of(made: WordPTB, words: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """-log p of every target, (T, B), from one pass over all words in float64."""
    s = made.model(words)[0].data.astype(np.float64)  # (T, V, B)
    s -= s.max(axis=1, keepdims=True)
    return np.log(np.exp(s).sum(axis=1)) - np.take_along_axis(s, targets[:, None], axis=1)[:, 0]


@pytest.mark.parametrize("window", [1000, 13], ids=["in one go", "in windows"])
@pytest.mark.parametrize("options", [{}, {"static_mask": True}])
def test_both_perplexities_equal_a_direct_computation(options, window, monkeypatch):
    monkeypatch.setattr(language, "WINDOW", window)
    made = experiment(**options)
    text = made.data.test
    whole = np.exp(nats_of(made, text[:-1, None], text[1:, None]).mean())
    rows = text[:40].reshape(4, 10).T, text[1:41].reshape(4, 10).T
    side_by_side = np.exp(nats_of(made, *rows).mean())
    assert made.test() == pytest.approx({"test_ppl": whole, "test_ppl_rows": side_by_side}, rel=1e-5)
    assert whole != pytest.approx(side_by_side, rel=0.01)
    valid = made.data.valid
    rows = valid[:40].reshape(4, 10).T, valid[1:41].reshape(4, 10).T
    assert made.validate() == pytest.approx(np.exp(nats_of(made, *rows).mean()), rel=1e-5)


def test_evaluation_leaves_the_carried_state_alone():
    made = experiment()
    losses(made, list(made.batches(1))[:1])
    before = {name: array.copy() for name, array in made.carried().items()}
    made.validate()
    made.test()
    assert all(np.array_equal(array, before[name]) for name, array in made.carried().items())


def test_perplexity_is_e_to_the_nats_and_stays_a_number():
    assert experiment().score(math.log(78.4)) == pytest.approx(78.4)
    assert math.isfinite(experiment().score(1e9))


def test_an_untrained_model_is_as_perplexed_as_its_vocabulary_is_large():
    made = WordPTB(replace(TINY, initialization="uniform"), say=quiet)
    assert made.validate() == pytest.approx(made.data.vocabulary_size, rel=0.01)


def test_a_run_follows_the_schedule(tmp_path):
    run(tmp_path / "run", epochs=4, lr_decay=2.0, decrease_lr_after_epoch=2, learning_rate=0.5)
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    assert [row["learning_rate"] for row in rows] == [0.5, 0.5, 0.25, 0.125]
    assert list(rows[0])[3:5] == ["train_ppl", "valid_ppl"]


# ---- the model


@pytest.fixture
def weightless(monkeypatch):
    """Initial weights without memory behind them: all are the width of the interval."""
    draw = lambda width: lambda rng, shape, dtype=np.float32: np.broadcast_to(dtype(width), shape)  # noqa: E731
    monkeypatch.setattr(init, "uniform", draw)


def test_the_model_of_the_paper_has_66022000_parameters(weightless):
    """2 layers of 1,500 units on 10,000 words."""
    model = WordModel(10_000, PRESETS["paper"], rng())
    sizes = {name: parameter.data.size for name, parameter in model.named_parameters()}
    layer = {"W_x": 6000 * 1500, "W_h": 6000 * 1500, "b": 6000}
    assert sizes == {
        "embedding.W": 15_000_000,
        **{f"rnn.layers.{k}.{name}": size for k in range(2) for name, size in layer.items()},
        "output.W": 15_000_000,
        "output.b": 10_000,
    }
    assert sum(sizes.values()) == 66_022_000
    assert all(p.data.flat[0] == np.float32(0.08) for p in model.parameters() if p.ndim == 2)
    assert not any(parameter.data.any() for parameter in model.parameters() if parameter.ndim == 1)


def test_the_paper_preset_on_ptb(weightless):
    made = WordPTB(replace(PRESETS["paper"], dataset="ptb", data_dir=str(real_data("ptb"))), say=quiet)
    assert sum(p.data.size for p in made.model.parameters()) == 66_022_000
    assert len(made.batches(1)) == 1328 and made.batches(1)[0][1].shape == (35, 20)
    assert made.reference is REFERENCE


def inputs_of_the_layer(made: WordPTB, words: np.ndarray) -> list[np.ndarray]:
    """What enters the only recurrent layer, in training and in evaluation."""
    entered = []
    (layer,) = made.model.rnn.layers

    def states(x, state, rng, record):
        entered.append(x.data)
        return (x,)

    layer.states = states
    made.model(words, rng=rng())
    made.model(words)
    return entered


@pytest.mark.parametrize("p", [0.3, 0.65])
def test_dropout_of_the_embedding_between_the_layers_and_of_the_output(p):
    """With recurrent layers that are left out, the scores are those of embeddings dropped in one place."""
    made = experiment(dropout=p, num_layers=1, z_prob_cells=0.0, z_prob_states=0.0)
    words = made.batches(1)[0][1]
    in_training, in_evaluation = inputs_of_the_layer(made, words)
    embedded = made.model.embedding(words).data
    ratio = in_training / embedded
    assert np.isclose(ratio, 0).any() and np.isclose(ratio, 1 / (1 - p)).any()
    assert (np.isclose(ratio, 0) | np.isclose(ratio, 1 / (1 - p), rtol=1e-6)).all()
    assert np.array_equal(in_evaluation, embedded)


def test_dropped_words_are_columns_of_zeros_in_training_and_shrunk_in_evaluation():
    made = experiment(input_drop=0.5, num_layers=1, dropout=0.0, z_prob_states=0.0)
    words = np.repeat(made.batches(1)[0][1], 50, axis=1)
    in_training, in_evaluation = inputs_of_the_layer(made, words)
    embedded = made.model.embedding(words).data
    dropped = (in_training == 0).all(axis=1)  # (T, B)
    assert np.array_equal(in_training, embedded * ~dropped[:, None])
    assert abs(dropped.mean() - 0.5) < 5 * (0.25 / dropped.size) ** 0.5
    np.testing.assert_allclose(in_evaluation, 0.5 * embedded, rtol=1e-6)


def test_numbers_of_the_paper_are_shown_beside_runs_on_the_whole_of_ptb_only(monkeypatch):
    assert experiment(train_symbols=0, eval_symbols=0).reference == {}, "the stand-in"
    text = experiment().data
    monkeypatch.setattr(WordSettings, "load", lambda self, say: replace(text, name="PTB"))
    assert experiment(train_symbols=0, eval_symbols=0, seq_len=5).reference is REFERENCE
    for part in ({"train_symbols": 40, "eval_symbols": 0}, {"train_symbols": 0, "eval_symbols": 40}):
        assert experiment(**part).reference == {}
