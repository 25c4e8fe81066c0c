"""Population statistics of the batch-normalized LSTM: collected, re-estimated, and used."""

from __future__ import annotations

import re

import numpy as np
import pytest

from minizone import BNLSTM, no_grad
from minizone.recurrent.bn_lstm import Statistics, bn_lstm, parts
from tests.helpers import D, H, assert_same, dense_and_tokens, masks, one_hot, run, tensors
from tests.helpers.bn import bn_problem, known_statistics
from tests.helpers.by_hand import bn_lstm_by_hand


def test_mean_and_variance_start_at_0_and_1_and_have_a_part_for_each_sum():
    statistics = Statistics(6, H)
    assert statistics.mean.shape == statistics.variance.shape == (6, 9 * H)
    assert statistics.mean.dtype == statistics.variance.dtype == np.float32
    assert not statistics.mean.any() and (statistics.variance == 1).all()
    assert [np.arange(9 * H)[rows].tolist() for rows in parts(H)] == [
        [*range(4 * H)], [*range(4 * H, 8 * H)], [*range(8 * H, 9 * H)]
    ]  # fmt: skip


@dense_and_tokens
def test_collected_statistics_follow_the_minibatches_by_the_formula(tokens):
    statistics = Statistics(6, H, alpha=0.25, dtype=np.float64)
    mean, variance, own = statistics.mean, statistics.variance, {"mean": np.zeros((6, 9 * H))}
    own["variance"] = np.ones((6, 9 * H))
    for update, T in enumerate((4, 8)):  # shorter than T_max, and longer
        arguments = bn_problem(T, 3, tokens=tokens, seed=update)
        dense = arguments | ({"x": one_hot(arguments["x"], D)} if tokens else {})
        options = masks("independent", T, H, 3, inputs=True)
        h, _ = bn_lstm(**arguments, **options, statistics=statistics.collect)
        expected = bn_lstm_by_hand(**dense, **options)
        np.testing.assert_allclose(h.data, expected["h"], rtol=1e-11)  # those of the minibatch were used
        for name, array in own.items():
            n = min(T, 6)
            array[:n] = 0.25 * expected[name][:n] + 0.75 * array[:n]
    assert_same({"mean": statistics.mean, "variance": statistics.variance}, own, 1e-12)
    assert statistics.mean is mean and statistics.variance is variance


def test_statistics_are_collected_without_a_gradient_and_from_a_complex_step():
    arguments = bn_problem(3, 2)
    recorded, unrecorded, stepped = (Statistics(3, H, dtype=np.float64) for _ in range(3))
    expected = run(bn_lstm, arguments, {"statistics": recorded.collect})
    with no_grad():
        h, c = bn_lstm(**tensors(arguments), statistics=unrecorded.collect)
        bn_lstm(**arguments | {"W_x": arguments["W_x"] + 1e-20j}, statistics=stepped.collect)
    assert_same({"h": h.data, "c": c.data}, {"h": expected["h"], "c": expected["c"]}, 0.0)
    assert (recorded.mean == unrecorded.mean).all() and (recorded.variance == unrecorded.variance).all()
    np.testing.assert_allclose(stepped.mean, recorded.mean, rtol=1e-13)


def test_evaluation_changes_nothing_and_gives_the_same_twice():
    statistics, arguments = known_statistics(4), bn_problem(6, 3)
    before = statistics.mean.copy(), statistics.variance.copy()
    first, second = (bn_lstm(**arguments, statistics=statistics)[0].data for _ in range(2))
    assert (first == second).all()
    assert (statistics.mean == before[0]).all() and (statistics.variance == before[1]).all()


def test_beyond_the_last_step_its_statistics_are_used():
    arguments, short, long = bn_problem(7, 3), known_statistics(3), Statistics(7, H, dtype=np.float64)
    for population, known in ((long.mean, short.mean), (long.variance, short.variance)):
        population[...] = known[[0, 1, 2, 2, 2, 2, 2]]
    expected = run(bn_lstm, arguments, {"statistics": long})
    assert_same(run(bn_lstm, arguments, {"statistics": short}), expected, 0.0)


def test_in_evaluation_one_example_alone_is_as_among_others():
    arguments, statistics = bn_problem(5, 4), known_statistics(5)
    h, c = bn_lstm(**arguments, statistics=statistics)
    for n in range(4):
        alone = {name: arguments[name][..., n : n + 1] for name in ("x", "h0", "c0")}
        one_h, one_c = bn_lstm(**arguments | alone, statistics=statistics)
        np.testing.assert_allclose(one_h.data, h.data[..., n : n + 1], rtol=1e-12)
        np.testing.assert_allclose(one_c.data, c.data[..., n : n + 1], rtol=1e-12)


def test_one_example_alone_has_no_variance_in_training():
    """All that is left of the inputs is nothing: the gates are those of the bias."""
    arguments = bn_problem(3, 1)
    results = run(bn_lstm, arguments, {})
    other = run(bn_lstm, arguments | {"x": arguments["x"] + 1}, {})
    assert (results["h"] == other["h"]).all() and not results["dx"].any() and not results["dW_h"].any()
    assert results["db"].any()


@pytest.mark.parametrize("way", ["use", "collect"])
def test_reestimated_statistics_are_the_plain_mean_of_all_minibatches(way):
    statistics, batches = known_statistics(6), [bn_problem(T, 3, seed=T) for T in (4, 2, 8)]
    before = statistics.mean, statistics.variance, statistics.mean.copy()
    expected = [bn_lstm_by_hand(**arguments) for arguments in batches]
    with statistics.reestimate():
        assert statistics.reestimating
        for arguments, own in zip(batches, expected, strict=True):
            h, _ = bn_lstm(**arguments, statistics=statistics if way == "use" else statistics.collect)
            np.testing.assert_allclose(h.data, own["h"], rtol=1e-11)
        assert (statistics.mean == before[2]).all()  # not before the end
    assert not statistics.reestimating
    for t in range(6):
        for name in ("mean", "variance"):
            mean = np.mean([own[name][t] for own in expected if len(own[name]) > t], axis=0)
            np.testing.assert_allclose(getattr(statistics, name)[t], mean, rtol=1e-11)
    assert statistics.mean is before[0] and statistics.variance is before[1]


def test_reestimation_leaves_what_it_did_not_see():
    statistics, before = known_statistics(6), known_statistics(6)
    with statistics.reestimate():
        pass
    assert (statistics.mean == before.mean).all() and (statistics.variance == before.variance).all()
    with statistics.reestimate():
        bn_lstm(**bn_problem(4, 3), statistics=statistics)
    assert (statistics.mean[:4] != before.mean[:4]).all() and (statistics.mean[4:] == before.mean[4:]).all()
    assert (statistics.variance[4:] == before.variance[4:]).all()


def test_reestimation_that_fails_leaves_the_old_statistics():
    statistics, before = known_statistics(6), known_statistics(6)
    with pytest.raises(RuntimeError, match="no more data"), statistics.reestimate():
        bn_lstm(**bn_problem(6, 3), statistics=statistics)
        raise RuntimeError("no more data")
    assert not statistics.reestimating
    assert (statistics.mean == before.mean).all() and (statistics.variance == before.variance).all()


def test_statistics_of_another_size_are_refused():
    other = known_statistics(7, hidden=5)
    with pytest.raises(ValueError, match=re.escape("statistics must be (T, 9H) with 9H = 36, got 45")):
        bn_lstm(**bn_problem(7, 3), statistics=other)
    with pytest.raises(ValueError, match=re.escape("statistics must be (T, 9H) with 9H = 45, got 36")):
        bn_lstm(**bn_problem(7, 3), statistics=other.collect)
    with pytest.raises(ValueError, match=re.escape("alpha must be in [0, 1], got 1.5")):
        Statistics(7, H, alpha=1.5)
    with pytest.raises(ValueError, match=re.escape("statistics need at least 1 time step, got 0")):
        Statistics(0, H)


def test_first_step_does_not_hang_on_the_age_of_the_statistics_of_the_initial_state():
    """All examples share h_0, so W_h h_0 adds nothing to the first step, wherever training has moved it since."""
    layer = BNLSTM(3, 4, steps=2, rng=np.random.default_rng(0), dtype=np.float64)
    x = np.random.default_rng(1).standard_normal((2, 3, 5))
    with layer.statistics.reestimate():
        layer(x)
    before, _ = layer(x)
    layer.h0.data[:] = 0.5
    moved, _ = layer(x)
    np.testing.assert_allclose(moved.data[0], before.data[0], rtol=1e-12)
    given = tuple(np.full((4, 5), value) for value in (0.5, 0.0))
    assert not np.allclose(layer(x, given)[0].data[0], before.data[0]), "a state that is given is an input like others"
