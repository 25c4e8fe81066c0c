"""`run.py export`: the file, the way back with --load-path, and what is refused."""

from __future__ import annotations

import shlex
from dataclasses import replace

import numpy as np
import pytest

from minizone.experiments.char_ptb import CharPTB
from minizone.experiments.pmnist import PMNIST
from minizone.experiments.semantic import PRESETS as SEMANTIC
from minizone.experiments.semantic import Semantic
from minizone.runs.files import load_arrays
from minizone.runs.torch_names import to_torch
from minizone.runs.training import fit
from tests.experiments import test_pmnist
from tests.helpers.commands import refused_here
from tests.helpers.runs import TINY, quiet, same_run
from tests.helpers.runs import run as train

REFUSED = {
    "gru": (CharPTB, replace(TINY, epochs=1, rnn_type="gru", z_prob_cells=0.0), "torch.nn.GRU after it"),
    "bn": (PMNIST, replace(test_pmnist.TINY, epochs=1, batch_normalization=True), "no batch-normalized LSTM"),
    "semantic": (Semantic, replace(SEMANTIC["quick"], epochs=1, updates_per_epoch=3), "no recurrent layers"),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(folder)
    return folder


def test_the_command_writes_the_best_weights_and_says_what_torch_lacks(program, run, tmp_path, capsys):
    file = run / "torch.safetensors"
    assert program.main(["export", str(run)]) == 0
    assert capsys.readouterr().out.startswith(
        f"{file}: torch.nn.LSTM; it needs --z-prob-cells 0.5, --z-prob-states 0.05 in evaluation too"
    )
    arrays, metadata = load_arrays(file)
    expected = to_torch(load_arrays(run / "best.safetensors")[0])
    assert arrays.keys() == expected.keys() and all(np.array_equal(arrays[key], expected[key]) for key in arrays)
    assert metadata["evaluation"] == {"z_prob_cells": 0.5, "z_prob_states": 0.05}
    assert program.main(["export", str(run), "--out", str(tmp_path / "own.safetensors")]) == 0
    assert (tmp_path / "own.safetensors").read_bytes() == file.read_bytes()


def test_load_path_takes_an_exported_file_as_it_takes_the_original(program, run, tmp_path):
    assert program.main(["export", str(run), "--out", str(tmp_path / "torch.safetensors")]) == 0
    train(tmp_path / "one", load_path=str(run / "best.safetensors"))
    train(tmp_path / "other", load_path=str(tmp_path / "torch.safetensors"))
    same_run(tmp_path / "one", tmp_path / "other")


def test_load_path_refuses_the_weights_of_another_model(program, run, tmp_path, capsys):
    assert program.main(["export", str(run), "--out", str(tmp_path / "torch.safetensors")]) == 0
    capsys.readouterr()
    flags = shlex.split("char-ptb --dataset manual --hidden-size 13 --train-symbols 1500 --eval-symbols 300")
    for file in (run / "best.safetensors", tmp_path / "torch.safetensors"):
        err = refused_here(capsys, *flags, "--out", tmp_path / "run", "--load-path", file)
        assert f"{file} holds another model: " in err and "has shape" in err
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", REFUSED)
def test_what_torch_does_not_have_is_refused_in_a_sentence(name, tmp_path, capsys):
    kind, settings, sentence = REFUSED[name]
    fit(kind(settings, say=quiet), tmp_path, say=quiet)
    assert sentence in refused_here(capsys, "export", tmp_path)
    assert not (tmp_path / "torch.safetensors").exists()


def test_what_is_not_a_run_is_refused_in_a_sentence(run, tmp_path, capsys):
    assert "not the folder of a run" in refused_here(capsys, "export", tmp_path)
    assert "cannot write" in refused_here(capsys, "export", run, "--out", tmp_path / "nowhere" / "file")
    (tmp_path / "config.json").write_bytes((run / "config.json").read_bytes())
    assert "there is no checkpoint" in refused_here(capsys, "export", tmp_path)
