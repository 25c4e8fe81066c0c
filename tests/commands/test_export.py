"""`run.py export`: the file, loading it with --load-path, and what is refused."""

from __future__ import annotations

import importlib.util
import shlex
import shutil
import sys
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

import minizone.runs
from minizone.autograd.tensor import no_grad
from minizone.experiments.char_ptb import CharPTB
from minizone.experiments.gradients import PRESETS as GRADIENTS
from minizone.experiments.gradients import Gradients
from minizone.experiments.pmnist import PMNIST
from minizone.experiments.semantic import PRESETS as SEMANTIC
from minizone.experiments.semantic import Semantic
from minizone.experiments.seq2seq import Seq2Seq
from minizone.experiments.text8 import PRESETS as TEXT8
from minizone.experiments.text8 import Text8
from minizone.experiments.word_ptb import WordPTB
from minizone.runs.files import load_arrays, read_json, write_json
from minizone.runs.folder import Progress, save_best, start
from minizone.runs.torch_names import to_torch
from minizone.runs.training import fit
from tests.experiments import test_pmnist, test_seq2seq, test_word_ptb
from tests.helpers.commands import refused_here
from tests.helpers.runs import TINY, quiet, same_run
from tests.helpers.runs import run as train
from tests.runs.test_torch_names import noisy

REFUSED = {
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
        f"{file}: torch.nn.LSTM; in evaluation it also needs --z-prob-cells 0.5, --z-prob-states 0.05"
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


def test_a_run_of_another_kind_gives_its_weights_alone(program, tmp_path, capsys):
    fit(Seq2Seq(replace(test_seq2seq.TINY, epochs=1), say=quiet), tmp_path, say=quiet)
    assert program.main(["export", str(tmp_path)]) == 0
    assert "there is no module for seq2seq" in capsys.readouterr().out
    assert (tmp_path / "torch.safetensors").exists() and not (tmp_path / "torch_model.py").exists()
    if find_spec("torch"):
        assert "--check is for language models and pmnist" in refused_here(capsys, "export", tmp_path, "--check")


def test_a_module_that_the_user_has_changed_is_not_overwritten(run, tmp_path, capsys):
    (tmp_path / "torch_model.py").write_text("# mine")
    file = tmp_path / "torch.safetensors"
    assert "exists with other content" in refused_here(capsys, "export", run, "--out", file)
    assert not file.exists() and (tmp_path / "torch_model.py").read_text() == "# mine"


# ---- --check


def test_without_pytorch_check_is_refused_and_nothing_is_written(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "minizone.runs.torch_model", raising=False)
    monkeypatch.delattr(minizone.runs, "torch_model", raising=False)
    sentence = refused_here(capsys, "export", run, "--check", "--out", tmp_path / "torch.safetensors")
    assert "--check needs PyTorch, and torch is not installed: pip install torch" in sentence
    assert not list(tmp_path.iterdir())


ZONED: dict[str, Any] = {"z_prob_cells": 0.5, "z_prob_states": 0.3}
DROPPED: dict[str, Any] = {"drop_prob_igates": 0.4}
NO_CELLS: dict[str, Any] = {"z_prob_cells": 0.0, "z_prob_states": 0.3}
IMAGES = replace(test_pmnist.TINY, **ZONED)
WORDS = test_word_ptb.TINY
VARIANTS: dict[str, tuple[Any, Any]] = {
    "plain": (CharPTB, replace(TINY, z_prob_cells=0.0, z_prob_states=0.0)),
    "zoneout": (CharPTB, TINY),
    "two layers": (CharPTB, replace(TINY, num_layers=2, z_prob_cells="0.5,0.2", z_prob_states="0.3,0")),
    "gru": (CharPTB, replace(TINY, rnn_type="gru", num_layers=2, **NO_CELLS, **DROPPED)),
    "tanh": (CharPTB, replace(TINY, rnn_type="rnn", **NO_CELLS)),
    "relu": (CharPTB, replace(TINY, rnn_type="rnn", activation="relu", **NO_CELLS)),
    "recurrent dropout": (CharPTB, replace(TINY, **DROPPED)),
    "output gate, paper": (CharPTB, replace(TINY, output_gate="paper", **DROPPED)),
    "output gate, printed": (CharPTB, replace(TINY, output_gate="printed", **DROPPED)),
    "output gate, authors": (CharPTB, replace(TINY, ogates_zoneout=True, **DROPPED)),
    "input dropout": (CharPTB, replace(TINY, input_drop=0.3)),
    "dropout": (CharPTB, replace(TINY, num_layers=2, dropout=0.4, variational_dropout=0.3)),
    "one mask": (CharPTB, replace(TINY, share_mask=True, z_prob_cells=0.3, z_prob_states=0.3)),
    "gaussian": (CharPTB, replace(TINY, gaussian_drop=True)),
    "static": (CharPTB, replace(TINY, static_mask=True, num_layers=2, **ZONED)),
    "static, cells": (CharPTB, replace(TINY, static_mask=True, gaussian_drop=True, z_prob_states=0.0)),
    "static, whole layer": (CharPTB, replace(TINY, static_mask=True, stoch_depth=True, z_prob_cells=0.05)),
    "text8": (
        Text8,
        replace(
            TEXT8["quick"], dataset="manual", hidden_size=9, train_symbols=1500, eval_symbols=300, z_prob_cells=0.4
        ),
    ),
    "words": (WordPTB, replace(WORDS, input_drop=0.3, variational_dropout=0.3)),
    "words, gru": (WordPTB, replace(WORDS, rnn_type="gru", **NO_CELLS)),
    "images": (PMNIST, replace(IMAGES, input_drop=0.3, noise=0.2)),
    "images, mean pixel": (PMNIST, replace(IMAGES, num_layers=2, summarize=True)),
    "images, static": (PMNIST, replace(IMAGES, static_mask=True)),
    "gradients": (
        Gradients,
        replace(
            GRADIENTS["quick"], dataset="digits", hidden_size=6, batch_size=20, train_examples=40, eval_examples=20
        ),
    ),
}


def untrained_run(kind, settings, folder):
    """The folder of a finished run whose best parameters are random, biases and initial states included."""
    folder.mkdir()
    settings.check()
    experiment = kind(settings, say=quiet)
    experiment.model = noisy(kind, settings)
    for parameter in experiment.model.parameters():
        parameter.data *= np.float32(0.5)
    start(experiment, folder)
    save_best(experiment, Progress(best_epoch=1), folder)
    write_json(folder / "summary.json", experiment.test())
    return experiment


@pytest.mark.parametrize("name", VARIANTS)
def test_the_module_computes_in_evaluation_what_minizone_does(name, program, tmp_path, capsys, record_property):
    torch = pytest.importorskip("torch")
    experiment = untrained_run(*VARIANTS[name], tmp_path / "my run")
    assert program.main(["export", str(tmp_path / "my run"), "--check"]) == 0, capsys.readouterr().out
    assert f"test_{experiment.metric}: minizone " in capsys.readouterr().out

    module = load_module(tmp_path / "my run" / "torch_model.py")
    inputs = experiment.batches(1)[0][-2]  # tokens (T, B), or pixels (T, 1, B)
    with no_grad(), torch.no_grad():
        ours = experiment.model(inputs)[0].data.swapaxes(-1, -2)
        x = inputs.astype(np.int64) if inputs.ndim == 2 else inputs.transpose(0, 2, 1)
        theirs, _ = module.load(tmp_path / "my run" / "torch.safetensors")(torch.tensor(x))
    off = float(abs(ours - theirs.numpy()).max() / abs(ours).max())
    record_property("scores of exported models in PyTorch: largest relative difference", off)
    assert off <= 1e-5


def load_module(path):
    spec = importlib.util.spec_from_file_location("exported", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_check_ends_with_1_when_the_results_differ(program, run, capsys):
    pytest.importorskip("torch")
    summary = read_json(run / "summary.json")
    try:
        write_json(run / "summary.json", {**summary, "test_bpc": summary["test_bpc"] * 1.001})
        assert program.main(["export", str(run), "--check"]) == 1
    finally:
        write_json(run / "summary.json", summary)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("test_bpc: ") and lines[1].endswith(": they differ") and "differ" not in lines[2]


@pytest.mark.parametrize(
    ("file", "changed", "sentence"),
    [
        ("summary.json", None, "has not ended"),
        ("config.json", {"dataset": {"name": "PTB", "sha256": {}}}, "was tested on PTB, which is not the Python"),
    ],
)
def test_check_needs_a_result_on_the_same_data(file, changed, sentence, run, tmp_path, capsys):
    pytest.importorskip("torch")
    copy = tmp_path / "copy"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("torch*"))
    if changed:
        write_json(copy / file, {**read_json(copy / file), **changed})
    else:
        (copy / file).unlink()
    assert sentence in refused_here(capsys, "export", copy, "--check")
    assert not (copy / "torch.safetensors").exists()


def test_load_path_takes_a_gru_and_static_masks_back(program, tmp_path):
    for name in ("gru", "static"):
        _, settings = VARIANTS[name]
        untrained_run(CharPTB, settings, tmp_path / name)
        assert program.main(["export", str(tmp_path / name)]) == 0
        for file in ("best", "torch"):
            settings = replace(settings, epochs=1, load_path=str(tmp_path / name / f"{file}.safetensors"))
            fit(CharPTB(settings, say=quiet), tmp_path / f"{name}-{file}", say=quiet)
        same_run(tmp_path / f"{name}-best", tmp_path / f"{name}-torch")
