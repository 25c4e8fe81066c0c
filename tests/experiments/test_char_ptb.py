"""Character models: sizes, the paper's results beside them, and text8 as the same task on 27 symbols."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from minizone.experiments import char_ptb, text8
from minizone.experiments.char_ptb import CharModel, CharPTB, CharSettings
from minizone.experiments.text8 import Text8, Text8Settings
from minizone.layers import init
from minizone.runs.training import fit
from tests.experiments.test_flags import CHAR, TEXT8, quickly  # noqa: F401  (a fixture)
from tests.helpers import rng
from tests.helpers.runs import quiet

COUNTS = [  # by hand: W_x, W_h, b, the initial states, the output's W and b
    (char_ptb, 50, {}, 4000 * 50 + 4000 * 1000 + 4000 + 2 * 1000 + 50 * 1000 + 50, 4_256_050),
    (char_ptb, 50, {"rnn_type": "gru"}, 3000 * 50 + 3000 * 1000 + 3000 + 1000 + 50 * 1000 + 50, 3_204_050),
    (char_ptb, 50, {"rnn_type": "rnn"}, 1000 * 50 + 1000 * 1000 + 1000 + 1000 + 50 * 1000 + 50, 1_102_050),
    (text8, 27, {}, 8000 * 27 + 8000 * 2000 + 8000 + 2 * 2000 + 27 * 2000 + 27, 16_282_027),
]


@pytest.mark.parametrize(("task", "symbols", "changes", "by_hand", "count"), COUNTS)
def test_parameters_of_the_models_of_the_paper(task, symbols, changes, by_hand, count, monkeypatch):
    monkeypatch.setattr(init, "uniform", lambda width: lambda rng, shape, dtype: np.broadcast_to(dtype(width), shape))
    model = CharModel(symbols, replace(task.PRESETS["paper"], initialization="uniform", **changes), rng())
    assert sum(parameter.data.size for parameter in model.parameters()) == by_hand == count


def test_text8_is_the_same_task_on_27_symbols(tmp_path):
    experiment = Text8(TEXT8, say=quiet)
    assert experiment.data.vocabulary_size == 27 and experiment.task == "text8"
    summary = fit(experiment, tmp_path / "run", say=quiet)
    assert summary.keys() >= {"best_valid_bpc", "test_bpc", "test_bpc_chunks"}
    assert abs(summary["best_valid_bpc"] - np.log2(27)) < 1


@pytest.mark.parametrize(
    ("kind", "settings", "names", "others"),
    [
        (CharPTB, CHAR, ["PTB, authors' form", "PTB, stripped form"], ["Python 3 manual (stand-in)"]),
        (Text8, TEXT8, ["text8"], ["text8 prefix of 1,000 characters", "Python 3 manual in 27 symbols (stand-in)"]),
    ],
)
def test_numbers_of_the_paper_are_shown_beside_runs_on_its_whole_text_only(kind, settings, names, others, monkeypatch):
    text = kind(settings, say=quiet).data
    for name in names + others:
        for loader in (CharSettings, Text8Settings):
            monkeypatch.setattr(loader, "load", lambda self, say, name=name: replace(text, name=name))
        for part, shown in (({}, name in names), ({"train_symbols": 50}, False), ({"eval_symbols": 50}, False)):
            whole = replace(settings, **{"train_symbols": 0, "eval_symbols": 0, **part})
            assert kind(whole, say=quiet).reference == (kind.paper if shown else {}), (name, part)
