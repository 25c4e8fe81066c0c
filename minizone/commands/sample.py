"""`run.py sample RUN`: text from a trained language model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path

import tyro

from minizone.backend import stream
from minizone.commands.flags import parse
from minizone.commands.train import TASKS, settings_of_run
from minizone.errors import UserError
from minizone.experiments.language import LanguageModelling
from minizone.experiments.sampling import TEMPERATURE, draw, never_drawn, read_prompt, read_vocabulary, spelled
from minizone.experiments.settings import TextSettings
from minizone.runs import files
from minizone.runs.settings import require


@dataclass(frozen=True)
class Sample:
    """Draw text from the best weights of a run of char-ptb, word-ptb or text8, on the CPU."""

    run: tyro.conf.Positional[str]
    """The folder of the run."""
    prompt: str = ""
    """Text to continue. Words need no spaces before punctuation marks. Without a prompt, a new line begins."""
    length: int = 300
    """Number of characters or words to draw."""
    temperature: float = TEMPERATURE
    """Divisor of the scores: 1 draws with the probabilities of the model, 0 takes the most likely symbol."""
    seed: int = 1
    """Seed of the draws."""


def main(arguments: list[str]) -> int:
    settings = parse(Sample, arguments, "sample")
    require(settings.length >= 0, "length", settings.length, "be at least 0")
    require(0 <= settings.temperature < math.inf, "temperature", settings.temperature, "be at least 0 and finite")
    for piece in text_of(settings):
        print(piece, end="", flush=True)
    print()
    return 0


def text_of(settings: Sample) -> Iterator[str]:
    """Yield the prompt and then text drawn from a run. Raises UserError if the run has no language model."""
    folder = Path(settings.run)
    task, settings_of_model = settings_of_run(folder)
    experiment = TASKS[task]
    if not (issubclass(experiment, LanguageModelling) and isinstance(settings_of_model, TextSettings)):
        raise UserError(f"{folder} is a run of {task}: text can be drawn from runs of char-ptb, word-ptb and text8")
    unit, vocabulary = read_vocabulary(folder)
    if not settings_of_model.static_mask:  # their seed is drawn from the stream of the initial weights
        settings_of_model = replace(settings_of_model, initialization="uniform")  # fast; overwritten below
    model = experiment.network(len(vocabulary), settings_of_model, stream(settings_of_model.seed, "weights"))
    best = folder / "best.safetensors"
    arrays, _ = files.load_arrays(best)
    try:
        model.load_state_dict(arrays)
    except ValueError as error:
        raise UserError(f"{best} does not belong to this run: {error}") from None

    prompt = read_prompt(settings.prompt, unit, vocabulary)
    rng = stream(settings.seed, "sample")
    drawn = draw(model, prompt, settings.temperature, rng, never_drawn(unit, vocabulary))
    shown = chain(prompt if settings.prompt else [], islice(drawn, settings.length))
    return spelled((vocabulary[token] for token in shown), unit)
