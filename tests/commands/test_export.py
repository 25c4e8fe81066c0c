"""`run.py export`: names, shapes, the way back, and what is refused. That PyTorch agrees is in test_torch_parity.py."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from minizone.experiments.char_ptb import CharPTB
from minizone.experiments.pmnist import PMNIST
from minizone.experiments.semantic import PRESETS as SEMANTIC
from minizone.experiments.semantic import Semantic
from minizone.experiments.seq2seq import Seq2Seq
from minizone.experiments.word_ptb import WordPTB
from minizone.runs.files import load_arrays, save_arrays
from minizone.runs.torch_names import from_torch, to_torch
from minizone.runs.training import fit
from tests.experiments import test_pmnist, test_seq2seq, test_word_ptb
from tests.runs import test_training
from tests.runs.test_training import quiet, same_run

PLAIN = replace(test_training.TINY, epochs=1, z_prob_cells=0.0, z_prob_states=0.0)
MODELS = {
    "char": (CharPTB, test_training.TINY),
    "char, two layers": (CharPTB, replace(PLAIN, num_layers=2)),
    "char, tanh": (CharPTB, replace(PLAIN, rnn_type="rnn")),
    "word": (WordPTB, test_word_ptb.TINY),
    "pmnist": (PMNIST, test_pmnist.TINY),
    "seq2seq": (Seq2Seq, test_seq2seq.TINY),
}
REFUSED = {
    "gru": (CharPTB, replace(PLAIN, rnn_type="gru"), "torch.nn.GRU after it"),
    "bn": (PMNIST, replace(test_pmnist.TINY, epochs=1, batch_normalization=True), "no batch-normalized LSTM"),
    "semantic": (Semantic, replace(SEMANTIC["quick"], epochs=1, updates_per_epoch=3), "no recurrent layers"),
}


def noisy(kind, settings):
    """A model whose parameters, initial states and biases included, are all random."""
    model = kind(settings, say=quiet).model
    for _, tensor in model.named_tensors():
        tensor.data[...] = np.random.default_rng(tensor.data.size).standard_normal(tensor.shape)
    return model


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    fit(CharPTB(test_training.TINY, say=quiet), folder, say=quiet)
    return folder


def refused(program, capsys, *arguments):
    """What is said of a command that must end with status 2."""
    assert program.main([str(argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("run.py: ") and err.count("\n") == 1
    return err


@pytest.mark.parametrize("name", MODELS)
def test_there_and_back_is_the_same_to_the_bit(name):
    arrays = noisy(*MODELS[name]).state_dict()
    theirs = to_torch(arrays)
    assert not any(key.endswith((".W_x", ".W_h", ".W", ".b")) for key in theirs)
    back = from_torch(theirs, arrays)
    assert back.keys() == arrays.keys()
    assert all(back[key].tobytes() == np.ascontiguousarray(arrays[key]).tobytes() for key in arrays)


def test_names_and_shapes_are_those_of_torch():
    H = 12
    theirs = {name: a.shape for name, a in to_torch(noisy(*MODELS["char, two layers"]).state_dict()).items()}
    V = theirs["output.weight"][0]
    expected = {f"rnn.{kind}_l{k}": (4 * H,) for kind in ("bias_ih", "bias_hh") for k in (0, 1)}
    expected |= {"rnn.weight_ih_l0": (4 * H, V), "rnn.weight_ih_l1": (4 * H, H), "h0": (2, H), "c0": (2, H)}
    expected |= {"rnn.weight_hh_l0": (4 * H, H), "rnn.weight_hh_l1": (4 * H, H)}
    assert theirs == expected | {"output.weight": (V, H), "output.bias": (V,)}
    words = to_torch(noisy(*MODELS["word"]).state_dict())
    assert words["embedding.weight"].shape == (words["output.bias"].size, 6), "vectors are rows"


def test_the_command_writes_the_best_weights_and_says_what_torch_lacks(program, run, tmp_path, capsys):
    assert program.main(["export", str(run)]) == 0
    said = capsys.readouterr().out
    assert said.startswith(
        f"{run / 'torch.safetensors'}: torch.nn.LSTM; it needs --z-prob-cells 0.5, --z-prob-states 0.05"
    )
    arrays, metadata = load_arrays(run / "torch.safetensors")
    expected = to_torch(load_arrays(run / "best.safetensors")[0])
    assert arrays.keys() == expected.keys() and all(np.array_equal(arrays[key], expected[key]) for key in arrays)
    assert metadata["evaluation"] == {"z_prob_cells": 0.5, "z_prob_states": 0.05}
    assert program.main(["export", str(run), "--out", str(tmp_path / "own.safetensors")]) == 0
    own, _ = load_arrays(tmp_path / "own.safetensors")
    assert own.keys() == arrays.keys() and all(np.array_equal(own[key], arrays[key]) for key in arrays)


def test_load_path_takes_an_exported_file_as_it_takes_the_original(program, run, tmp_path):
    assert program.main(["export", str(run), "--out", str(tmp_path / "torch.safetensors")]) == 0
    for name, path in (("one", run / "best.safetensors"), ("other", tmp_path / "torch.safetensors")):
        fit(CharPTB(replace(test_training.TINY, load_path=str(path)), say=quiet), tmp_path / name, say=quiet)
    same_run(tmp_path / "one", tmp_path / "other")


def test_without_initial_states_they_are_0():
    arrays = noisy(*MODELS["char"]).state_dict()
    theirs = {name: array for name, array in to_torch(arrays).items() if name not in ("h0", "c0")}
    back = from_torch(theirs, arrays)
    assert not back["rnn.layers.0.h0"].any() and not back["rnn.layers.0.c0"].any()


@pytest.mark.parametrize("name", REFUSED)
def test_what_torch_has_not_is_refused_in_a_sentence(program, name, tmp_path, capsys):
    kind, settings, sentence = REFUSED[name]
    fit(kind(settings, say=quiet), tmp_path, say=quiet)
    assert sentence in refused(program, capsys, "export", tmp_path)
    assert not (tmp_path / "torch.safetensors").exists()


def test_what_is_not_a_run_is_refused_in_a_sentence(program, run, tmp_path, capsys):
    assert "not the folder of a run" in refused(program, capsys, "export", tmp_path)
    (tmp_path / "config.json").write_text("[]")
    assert "has no settings" in refused(program, capsys, "export", tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"settings": {}}))
    assert "there is no checkpoint" in refused(program, capsys, "export", tmp_path)
    assert "cannot write" in refused(program, capsys, "export", run, "--out", tmp_path / "nowhere" / "file")
    refused(program, capsys, "export")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"rnn.weight_hh_l0": None}, "there is no rnn.weight_hh_l0"),
        ({"rnn.weight_ih_l1": np.zeros((48, 12), np.float32)}, "no place for rnn.weight_ih_l1"),
        ({"output.bias": np.zeros(3, np.float32)}, "output.b has shape"),
        ({"rnn.bias_ih_l0": np.zeros(5, np.float32)}, "could not be broadcast"),
        ({"h0": np.zeros((0, 12), np.float32)}, "h0 has 0 layers"),
    ],
)
def test_a_file_of_another_model_is_refused_in_a_sentence(change, sentence, program, tmp_path, capsys):
    arrays = to_torch(CharPTB(test_training.TINY, say=quiet).model.state_dict()) | change
    save_arrays(tmp_path / "file", {name: array for name, array in arrays.items() if array is not None})
    tiny = [
        "char-ptb",
        "--dataset",
        "manual",
        "--hidden-size",
        "12",
        "--train-symbols",
        "1500",
        "--eval-symbols",
        "300",
    ]
    err = refused(program, capsys, *tiny, "--out", tmp_path / "run", "--load-path", tmp_path / "file")
    assert "holds another model: " in err and sentence in err
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_gru_does_not_take_the_weights_of_torch():
    gru = CharPTB(REFUSED["gru"][1], say=quiet).model.state_dict()
    with pytest.raises(ValueError, match=r"torch\.nn\.GRU after it"):
        from_torch({"rnn.weight_ih_l0": np.zeros((36, 50))}, gru)
