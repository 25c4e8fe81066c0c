"""Character-level language modelling: its minibatches, both protocols of evaluation, and the model of the paper."""

import math
import os
from dataclasses import replace

import numpy as np
import pytest

from minizone.autograd.ops import softmax_cross_entropy
from minizone.experiments.char_ptb import PRESETS, CharPTB, Chunks
from minizone.runs.training import fit
from tests.helpers.runs import TINY, quiet


def test_chunks_cover_the_text_once_and_ask_for_the_next_symbol():
    text = np.arange(103, dtype=np.uint8)
    batches = list(Chunks(text, 10, 4, np.random.default_rng(0)))
    assert [tokens.shape for tokens, _ in batches] == [(9, 4), (9, 4), (9, 2)]
    for tokens, targets in batches:
        np.testing.assert_array_equal(targets, tokens + 1)
    firsts = np.concatenate([tokens[0] for tokens, _ in batches])
    assert sorted(firsts) == list(range(0, 100, 10)) and list(firsts) != sorted(firsts)


def test_offset_and_order_change_from_epoch_to_epoch_and_stay_without_augment():
    experiment = CharPTB(TINY, say=quiet)
    first = [experiment.batches(epoch) for epoch in (1, 1, 2)]
    np.testing.assert_array_equal(first[0][0][0], first[1][0][0])
    offsets = {len(experiment.data.train) - len(experiment.batches(epoch).text) for epoch in range(1, 30)}
    assert len(offsets) > 5 and max(offsets) < TINY.seq_len
    still = CharPTB(replace(TINY, augment=False), say=quiet)
    assert len(still.batches(1).text) == len(still.batches(2).text) == len(still.data.train)


@pytest.mark.parametrize("options", [{}, {"static_mask": True}])
def test_both_evaluation_protocols_equal_a_direct_computation(options):
    """One sequence: the state goes on to the end. Chunks: it starts anew every seq_len symbols."""
    experiment = CharPTB(replace(TINY, **options), say=quiet)
    text, V = experiment.data.valid, experiment.data.vocabulary_size

    def bits(part):
        scores = experiment.model(part[:-1, None])[0].data[:, :, 0].astype(np.float64)  # (T, V)
        scores -= scores.max(axis=1, keepdims=True)
        return (np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(len(part) - 1), part[1:]]) / np.log(2)

    assert experiment.score_of_one_sequence(text) == pytest.approx(bits(text).mean(), rel=1e-5)
    chunks = [text[k : k + 11] for k in range(0, len(text) - 10, 11)]
    assert experiment.bpc_by_chunks(text) == pytest.approx(np.concatenate([bits(c) for c in chunks]).mean(), rel=1e-5)
    assert abs(experiment.validate() - math.log2(V)) < 1.5


def test_long_texts_are_evaluated_in_windows_with_the_state_carried():
    experiment = CharPTB(replace(TINY, eval_symbols=0), say=quiet)
    text = experiment.data.valid[:2500]
    scores, _ = experiment.model(text[:-1, None])
    whole = float(softmax_cross_entropy(scores, text[1:, None]))
    assert experiment.score_of_one_sequence(text) == pytest.approx(experiment.score(whole), rel=1e-6)


@pytest.mark.skipif("MINIZONE_DATA" not in os.environ, reason="needs Penn Treebank: set MINIZONE_DATA")
def test_the_paper_preset_is_the_model_and_the_epoch_of_the_paper():
    """4,256,050 parameters on 50 symbols; 50,594 or 50,595 chunks of 100 symbols make 1,582 updates of 32."""
    experiment = CharPTB(replace(PRESETS["paper"], dataset="ptb"), say=quiet)
    assert experiment.data.vocabulary_size == 50
    assert sum(p.data.size for p in experiment.model.parameters()) == 4_256_050
    batches = experiment.batches(1)
    assert len(batches) == 1582 and batches[0][0].shape == (99, 32)
    settings = experiment.settings
    assert (settings.learning_rate, settings.clipping, settings.clip_what) == (0.002, 1.0, "step")
    assert experiment.reference["Zoneout"] == {"valid": 1.362, "test": 1.27}


@pytest.mark.slow
def test_zoneout_beats_the_unregularized_lstm_with_the_quick_preset(tmp_path):
    """The claim of the README, for one more seed than its three."""
    quick = replace(PRESETS["quick"], dataset="manual", seed=4)
    zoned = replace(quick, z_prob_cells=0.5, z_prob_states=0.05)
    plain, zoneout = (
        fit(CharPTB(settings, say=quiet), tmp_path / name, say=quiet) for settings, name in ((quick, "a"), (zoned, "b"))
    )
    assert zoneout["best_valid_bpc"] < plain["best_valid_bpc"]
