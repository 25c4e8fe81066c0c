"""Sample text from a trained language model: read a prompt, then draw one character or word at a time."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from minizone.backend import Generator, stream, to_host
from minizone.data import TextDataset
from minizone.data.own_text import EAST_ASIAN, cut_words
from minizone.data.words import END, UNKNOWN
from minizone.errors import UserError
from minizone.runs import files

TEMPERATURE = 0.8  # the default
LINE = {"characters": 80, "words": 16}  # the length of `first_line` in units
JOINED = {*".,;:!?%…", "n't"}  # words without a space before them


# ---- the vocabulary of a run


def write_vocabulary(data: TextDataset, folder: Path) -> None:
    """Write vocabulary.json: the unit, "characters" or "words", and the symbols in the order of their indices."""
    files.write_json(folder / "vocabulary.json", {"unit": data.unit, "symbols": data.vocabulary})


def read_vocabulary(folder: Path) -> tuple[str, list[str]]:
    """The unit and the symbols of a run. UserError if an older version made the run, without vocabulary.json."""
    path = folder / "vocabulary.json"
    if not path.exists():
        raise UserError(f"{path} is missing; older versions did not write it: give the training command with --resume")
    content = files.read_json(path)
    return content["unit"], content["symbols"]


# ---- from text to indices and back


def read_prompt(prompt: str, unit: str, vocabulary: Sequence[str]) -> list[int]:
    """The indices of a prompt, or the index of an end of line if it is empty. UserError for an unknown symbol.

    A part between spaces is one word if the vocabulary has it. Otherwise it is cut further.
    """
    index = {symbol: i for i, symbol in enumerate(vocabulary)}
    if not prompt:
        return [next(index[symbol] for symbol in (END, "\n", " ", vocabulary[0]) if symbol in index)]
    symbols = list(prompt)
    if unit == "words":
        between_blanks = cut_words(prompt, tokenized=True)
        symbols = [word for part in between_blanks for word in ([part] if part in index else cut_words(part))]
    for symbol in symbols:
        if symbol not in index:
            raise UserError(f"--prompt has {symbol!r}, which is not among the {len(index):,} {unit} that the run has")
    return [index[symbol] for symbol in symbols]


def spelled(symbols: Iterable[str], unit: str) -> Iterator[str]:
    """Yield the text of each symbol; of a word, with the space before it if there is one.

    `<eos>` is the end of a line. Straight quotation marks have spaces on both sides, because opening and closing marks
    are the same word.
    """
    before = END
    for symbol in symbols:
        if unit == "characters":
            yield symbol
        elif symbol == END:
            yield "\n"
        else:
            yield symbol if _is_joined(before, symbol) else f" {symbol}"
        before = symbol


def _is_joined(before: str, word: str) -> bool:
    """Whether there is no space between two words: after an opening mark, before a closing one, in Chinese, ..."""
    return (
        before == END
        or (len(before) == 1 and unicodedata.category(before) in ("Ps", "Pi"))  # opening brackets and quotes
        or (len(word) == 1 and unicodedata.category(word) in ("Pe", "Pf"))  # closing ones
        or word in JOINED
        or (word[0] == "'" and len(word) > 1)  # PTB's 's
        or re.match(EAST_ASIAN, before) is not None
        or re.match(EAST_ASIAN, word) is not None
    )


# ---- drawing


def draw(
    model: Any, prompt: Sequence[int], temperature: float, rng: Generator, never: Sequence[int] = ()
) -> Iterator[int]:
    """Read a prompt, then draw symbols endlessly.

    Zoneout uses its expectation, as always in evaluation. Static masks repeat with a period. For each symbol, the
    model reads again all symbols since the start of the period.

    Parameters
    ----------
    model : LanguageModel
    prompt : sequence of int
        At least one index.
    temperature, rng
        See `choose`.
    never : sequence of int
        Indices that are not drawn, see `never_drawn`.
    """
    period = max(layer.zoneout.static_steps for layer in model.rnn.layers) or 1
    tokens, start, state = list(prompt), 0, None  # the state before tokens[start]
    while True:
        scores, last = model.evaluate(np.array(tokens[start:])[:, None], state)  # (T, V, 1)
        if (len(tokens) - start) % period == 0:
            start, state = len(tokens), last
        of_next = to_host(scores.data[-1, :, 0]).copy()  # (V,)
        of_next[list(never)] = -np.inf
        tokens.append(choose(of_next, temperature, rng))
        yield tokens[-1]


def never_drawn(unit: str, vocabulary: Sequence[str]) -> list[int]:
    """The index of <unk> if the unit is characters: no character of the training text is <unk>. Words can be."""
    return [vocabulary.index(UNKNOWN)] if unit == "characters" and UNKNOWN in vocabulary else []


def choose(scores: np.ndarray, temperature: float, rng: Generator) -> int:
    """Draw an index from softmax(scores / temperature), for scores (V,). Temperature 0: the most likely one."""
    if temperature == 0:
        return int(scores.argmax())
    with np.errstate(over="ignore"):  # -inf, so that the probability is 0
        weights = np.exp((scores.astype(np.float64) - scores.max()) / temperature)  # (V,)
    return int(rng.choice(weights.size, p=weights / weights.sum()))


def first_line(model: Any, data: TextDataset, seed: int) -> str:
    """One line of text: the beginning of what `run.py sample --seed SEED` prints, with spaces for ends of lines."""
    prompt = read_prompt("", data.unit, data.vocabulary)
    never = never_drawn(data.unit, data.vocabulary)
    drawn = islice(draw(model, prompt, TEMPERATURE, stream(seed, "sample"), never), LINE[data.unit])
    text = "".join(spelled((data.vocabulary[token] for token in drawn), data.unit))
    return " ".join(text.split())
