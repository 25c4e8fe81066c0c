"""Text from a language model: the prompt that is read, the symbols that are drawn, and how they are spelled."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from minizone.errors import UserError
from minizone.experiments.char_ptb import CharPTB
from minizone.experiments.sampling import choose, draw, first_line, read_prompt, spelled
from tests.helpers import rng
from tests.helpers.runs import TINY, quiet

PROMPT = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8]  # longer than the masks of 10 time steps
MODELS = {
    "zoneout": {},
    "static masks": {"static_mask": True},
    "gru": {"rnn_type": "gru", "z_prob_cells": 0.0},
    "two layers, dropped inputs": {"num_layers": 2, "input_drop": 0.2, "dropout": 0.5},
}


def model(**changes):
    """A small model whose scores differ."""
    made = CharPTB(replace(TINY, **changes), say=quiet).model
    for parameter in made.parameters():
        parameter.data *= 3
    return made


@pytest.mark.parametrize("changes", MODELS.values(), ids=MODELS)
def test_each_symbol_follows_the_scores_of_the_whole_text_before_it(changes):
    """So the state after the prompt is that of the model, in evaluation, on the prompt; and so on after each symbol."""
    drawing = model(**changes)
    drawn = list(islice(draw(drawing, PROMPT, 0, rng()), 25))
    scores, _ = drawing(np.array(PROMPT + drawn)[:, None])  # (T, V, 1), all of it in one go
    np.testing.assert_array_equal(drawn, scores.data[len(PROMPT) - 1 : -1, :, 0].argmax(axis=1))
    assert len(set(drawn)) > 1


def test_the_seed_decides_the_text():
    drawing = model()
    one, same, other = (list(islice(draw(drawing, PROMPT, 1.0, rng(seed)), 50)) for seed in (1, 1, 2))
    assert one == same != other


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_follow_the_softmax_of_the_scores_over_the_temperature(temperature):
    drawing = model()
    scores = drawing(np.array(PROMPT)[:, None])[0].data[-1, :, 0].astype(np.float64)
    p = np.exp(scores / temperature) / np.exp(scores / temperature).sum()  # (V,)
    n, generator = 4000, rng(5)
    counts = np.bincount([choose(scores, temperature, generator) for _ in range(n)], minlength=p.size)
    rare = n * p < 5
    observed, expected = (np.append(x[~rare], x[rare].sum()) for x in (counts, n * p))
    chi2 = ((observed - expected) ** 2 / np.maximum(expected, 1)).sum()
    freedom = (~rare).sum()
    assert abs(chi2 - freedom) < 4 * np.sqrt(2 * freedom), "its mean and four times its standard deviation"
    wrong = np.exp(scores) / np.exp(scores).sum() if temperature != 1 else np.full(p.size, 1 / p.size)
    assert ((counts - n * wrong) ** 2 / np.maximum(n * wrong, 1)).sum() > 10 * freedom, "the test can fail"


@pytest.mark.parametrize("temperature", [0, 1e-300, 1e-9])
def test_without_temperature_it_is_the_likeliest_symbol(temperature):
    scores = np.array([1.0, 5.0, 4.999, -30.0], np.float32)
    assert {choose(scores, temperature, rng(k)) for k in range(20)} == {1}


def test_a_high_temperature_draws_everything_and_large_scores_do_not_overflow():
    scores = np.array([1e30, -1e30, 0.0], np.float32)
    assert {choose(scores, 1e38, rng(k)) for k in range(50)} == {0, 1, 2}
    assert {choose(scores, 1.0, rng(k)) for k in range(20)} == {0}


# ---- prompts

WORDS = ["the", "<eos>", "<unk>", "mr.", "do", "n't", "don't", ".", ",", "cat"]


@pytest.mark.parametrize(
    ("prompt", "unit", "vocabulary", "symbols"),
    [
        ("cab", "characters", list("abc"), ["c", "a", "b"]),
        ("", "characters", ["\n", " ", "a"], ["\n"]),
        ("", "characters", [" ", "a"], [" "]),
        ("", "characters", ["a"], ["a"]),
        ("", "words", WORDS, ["<eos>"]),
        ("the cat, mr. cat.", "words", WORDS, ["the", "cat", ",", "mr.", "cat", "."]),
        ("do n't\nthe <unk>", "words", WORDS, ["do", "n't", "<eos>", "the", "<unk>"]),
    ],
)
def test_prompts_become_indices(prompt, unit, vocabulary, symbols):
    assert [vocabulary[k] for k in read_prompt(prompt, unit, vocabulary)] == symbols


@pytest.mark.parametrize(("prompt", "unit", "unknown"), [("abd", "characters", "'d'"), ("the dog", "words", "'dog'")])
def test_an_unknown_symbol_in_a_prompt_is_one_sentence(prompt, unit, unknown):
    vocabulary = WORDS if unit == "words" else list("abc")
    with pytest.raises(UserError, match=f"--prompt has {unknown}, which is not among the {len(vocabulary)} {unit}"):
        read_prompt(prompt, unit, vocabulary)


# ---- spelling

SPELLED = [
    ("the cat , mr. <unk> said . <eos> it", "the cat, mr. <unk> said.\nit"),
    ("it 's ( not ) n't “ so ” ?", "it's (not)n't “so”?"),
    ("f ( x ) = 3 % [ a ] ; <eos> <eos> b", "f (x) = 3% [a];\n\nb"),
    ("我 用 Python 。 안녕 하세요", "我用Python。안녕 하세요"),
]


@pytest.mark.parametrize(("words", "text"), SPELLED)
def test_words_are_joined_as_they_are_written(words, text):
    assert "".join(spelled(words.split(), "words")) == text


def test_characters_are_spelled_as_they_are():
    assert "".join(spelled(["a", " ", "\n", "<unk>"], "characters")) == "a \n<unk>"


def test_the_line_at_the_end_of_a_run_is_one_line_that_the_seed_decides():
    experiment = CharPTB(TINY, say=quiet)
    lines = [first_line(experiment.model, experiment.data, seed) for seed in (1, 1, 2)]
    assert lines[0] == lines[1] != lines[2]
    assert all(0 < len(line) <= 80 and "\n" not in line for line in lines)
