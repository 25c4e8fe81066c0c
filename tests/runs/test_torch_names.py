"""Parameters in PyTorch's names and back. test_torch_parity.py tests that PyTorch computes the same with them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from minizone.experiments.char_ptb import CharPTB
from minizone.experiments.pmnist import PMNIST
from minizone.experiments.seq2seq import Seq2Seq
from minizone.experiments.word_ptb import WordPTB
from minizone.runs.torch_names import from_torch, to_torch
from tests.experiments import test_pmnist, test_seq2seq, test_word_ptb
from tests.helpers.runs import TINY, quiet

PLAIN = replace(TINY, epochs=1, z_prob_cells=0.0, z_prob_states=0.0)
MODELS = {
    "char": (CharPTB, TINY),
    "char, two layers": (CharPTB, replace(PLAIN, num_layers=2)),
    "char, tanh": (CharPTB, replace(PLAIN, rnn_type="rnn")),
    "word": (WordPTB, test_word_ptb.TINY),
    "pmnist": (PMNIST, test_pmnist.TINY),
    "seq2seq": (Seq2Seq, test_seq2seq.TINY),
}


def noisy(kind, settings):
    """A model whose parameters, initial states and biases included, are all random."""
    model, rng = kind(settings, say=quiet).model, np.random.default_rng(0)
    for _, tensor in model.named_tensors():
        tensor.data[...] = rng.standard_normal(tensor.shape)
    return model


@pytest.mark.parametrize("name", MODELS)
def test_there_and_back_is_the_same_to_the_bit(name):
    parameters = noisy(*MODELS[name]).state_dict()
    translated = to_torch(parameters)
    assert not any(key.endswith((".W_x", ".W_h", ".W", ".b")) for key in translated)
    back = from_torch(translated, parameters)
    assert back.keys() == parameters.keys()
    for key, array in parameters.items():
        np.testing.assert_array_equal(back[key], array, err_msg=key, strict=True)


def test_names_and_shapes_are_those_of_torch():
    H = 12
    translated = {name: a.shape for name, a in to_torch(noisy(*MODELS["char, two layers"]).state_dict()).items()}
    V = translated["output.weight"][0]
    assert translated == {
        "rnn.weight_ih_l0": (4 * H, V), "rnn.weight_hh_l0": (4 * H, H),
        "rnn.bias_ih_l0": (4 * H,), "rnn.bias_hh_l0": (4 * H,),
        "rnn.weight_ih_l1": (4 * H, H), "rnn.weight_hh_l1": (4 * H, H),
        "rnn.bias_ih_l1": (4 * H,), "rnn.bias_hh_l1": (4 * H,),
        "h0": (2, H), "c0": (2, H), "output.weight": (V, H), "output.bias": (V,),
    }  # fmt: skip
    words = to_torch(noisy(*MODELS["word"]).state_dict())
    assert words["embedding.weight"].shape == (words["output.bias"].size, 6), "vectors are rows"


def test_initial_states_that_are_missing_are_0_and_the_two_biases_are_added():
    parameters = noisy(*MODELS["char"]).state_dict()
    translated = {name: array for name, array in to_torch(parameters).items() if name not in ("h0", "c0")}
    translated["rnn.bias_hh_l0"] = np.ones_like(translated["rnn.bias_hh_l0"])
    back = from_torch(translated, parameters)
    assert not back["rnn.layers.0.h0"].any() and not back["rnn.layers.0.c0"].any()
    np.testing.assert_array_equal(back["rnn.layers.0.b"], parameters["rnn.layers.0.b"] + 1)


@pytest.mark.parametrize(
    ("name", "array", "sentence"),
    [
        ("rnn.weight_hh_l0", None, r"missing \['rnn.weight_hh_l0'\]"),
        ("rnn.weight_ih_l1", np.zeros((48, 12)), r"unexpected \['rnn.weight_ih_l1'\]"),
        ("output.bias", np.zeros(3), r"output.bias has shape \(3,\), but the model's has"),
        ("rnn.bias_ih_l0", np.zeros(1), r"rnn.bias_ih_l0 has shape \(1,\), but the model's has"),
        ("h0", np.zeros((2, 12)), r"h0 has shape \(2, 12\), but the model's has \(1, 12\)"),
    ],
)
def test_the_arrays_of_another_model_are_refused(name, array, sentence):
    parameters = noisy(*MODELS["char"]).state_dict()
    arrays = {key: value for key, value in {**to_torch(parameters), name: array}.items() if value is not None}
    with pytest.raises(ValueError, match=sentence):
        from_torch(arrays, parameters)


def test_a_gru_does_not_take_the_weights_of_torch():
    gru = noisy(CharPTB, replace(PLAIN, rnn_type="gru")).state_dict()
    with pytest.raises(ValueError, match=r"torch\.nn\.GRU after it"):
        from_torch({"rnn.weight_ih_l0": np.zeros((36, 50))}, gru)
