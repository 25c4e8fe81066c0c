"""Semantic consistency: the linear network with zoneout, and the final W with and without it."""

import json
from dataclasses import replace

import numpy as np
import pytest

import minizone.experiments.semantic as semantic
import minizone.runs.plotting as plotting
import minizone.runs.training as training
from minizone import Tensor, gradcheck
from minizone.backend import stream
from minizone.experiments.semantic import PRESETS, Semantic, linear_zoneout, linear_zoneout_unrolled
from minizone.runs.files import load_arrays, read_rows
from minizone.runs.training import Interrupted, fit
from tests.commands.test_run import command
from tests.helpers import ROUNDING, assert_same, normal
from tests.helpers.runs import quiet, same_run

TINY = replace(PRESETS["quick"], epochs=2, updates_per_epoch=6)
EYE = np.eye(2)

MASKS = {
    "drawn": lambda shape: (np.random.default_rng(3).random(shape) < 0.4).astype(float),
    "expectation": lambda shape: np.full(shape, 0.1),
    "no zoneout": np.zeros,
    "all wait": np.ones,
}
SHAPES = {  # of W, x and keep, for T = 5
    "one network": ((3, 3), (3, 4), (5, 3, 1)),
    "two networks, same x": ((2, 3, 3), (3, 4), (5, 2, 3, 1)),
    "two networks, same mask": ((2, 3, 3), (2, 3, 4), (5, 1, 3, 1)),
    "one step, unit and example": ((2, 1, 1), (1, 1), (1, 2, 1, 1)),
}
every_mask = pytest.mark.parametrize("mask", MASKS)
every_shape = pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)


def arrays(shapes, mask):
    W, x, keep = shapes
    return 0.8 * normal(*W), normal(*x), MASKS[mask](keep)


def run(folder, **changes):
    return fit(Semantic(replace(TINY, **changes), say=quiet), folder, say=quiet)


def experiment(**changes):
    return Semantic(replace(TINY, **changes), say=quiet)


# ---- the function


@every_mask
@every_shape
def test_function_equals_the_readable_reference(mask, shapes):
    W, x, keep = arrays(shapes, mask)

    def outcome(function):
        leaves = {"W": Tensor(W), "x": Tensor(x)}
        h = function(**leaves, keep=keep)
        (h * normal(*h.shape)).sum().backward()
        return {"h": h.data, **{f"d{name}": leaf.grad for name, leaf in leaves.items()}}

    assert_same(outcome(linear_zoneout), outcome(linear_zoneout_unrolled), ROUNDING)


@every_mask
@every_shape
def test_gradient(mask, shapes):
    """To 1e-9, by the complex step."""
    W, x, keep = arrays(shapes, mask)
    gradcheck(lambda W, x: linear_zoneout(W, x, keep), W, x, names=["W", "x"])


def test_without_zoneout_it_is_a_power_of_W():
    W, x = normal(3, 3), normal(3, 4)
    h = linear_zoneout(W, x, np.zeros((5, 3, 1))).data
    np.testing.assert_allclose(h, np.linalg.matrix_power(W, 5) @ x, rtol=1e-12)


def test_one_unit_waits_and_the_other_does_not():
    W, x = np.array([[0.0, 2.0], [3.0, 0.0]]), np.array([[1.0], [10.0]])
    keep = np.array([[1.0, 0.0], [0.0, 1.0]])[:, :, None]  # the first waits in step 0, the second in step 1
    np.testing.assert_array_equal(linear_zoneout(W, x, keep).data, [[2 * 3.0], [3.0]])


def test_float32_stays_float32():
    W, x, keep = (a.astype(np.float32) for a in arrays(SHAPES["one network"], "drawn"))
    leaf = Tensor(W)
    h = linear_zoneout(leaf, x, keep)
    h.sum().backward()
    assert h.dtype == leaf.grad.dtype == np.float32


# ---- the two networks


def test_where_all_units_wait_there_is_no_cost_and_no_gradient():
    model = experiment(noise_level=0.5).model
    costs = model.costs(np.float32(normal(2, 32)), np.ones((10, 2, 2, 1), np.float32))
    costs.sum().backward()
    np.testing.assert_array_equal(costs.data, [0, 0])
    np.testing.assert_array_equal(model.W.grad, 0)


def test_cost_is_the_sum_of_squared_errors_of_each_network():
    own = experiment(noise_level=0.5, seq_len=3, zoneout_prob=0.5)
    x, keep = own.draw(stream(0, "test"))
    assert 0 < keep[:, 0].sum() < keep[:, 0].size
    W, (with_zoneout, without) = own.model.W.data, own.model.costs(x, keep).data
    h = x
    for waits in keep[:, 0]:
        h = np.where(waits == 1, h, W[0] @ h)
    assert with_zoneout == pytest.approx(((h - x) ** 2).sum(), rel=1e-5)
    assert without == pytest.approx(((W[1] @ W[1] @ W[1] @ x - x) ** 2).sum(), rel=1e-5)
    measured = own.loss(0, stream(0, "test"))
    assert (float(measured.loss), measured.measure, measured.n) == (with_zoneout + without, with_zoneout, 1)


def test_both_start_at_the_same_W_near_minus_identity():
    W = experiment(dim=100).model.W.data
    np.testing.assert_array_equal(W[0], W[1])
    noise = W[0] + np.eye(100)
    assert noise.std() == pytest.approx(0.01, rel=0.05) and abs(noise.mean()) < 0.001
    assert (experiment(seed=2).model.W.data != experiment(seed=3).model.W.data).all()


def test_masks_are_shared_by_the_batch_and_fresh_in_every_step_unit_and_update():
    own = experiment(dim=50, seq_len=40, zoneout_prob=0.3)
    draws = [own.draw(stream(1, "noise", 1, update)) for update in (1, 1, 2)]
    for x, keep in draws:
        assert x.shape == (50, 32) and keep.shape == (40, 2, 50, 1), "one column serves all examples"
        assert set(np.unique(keep[:, 0])) == {0, 1} and not keep[:, 1].any()
        assert keep[:, 0].mean() == pytest.approx(0.3, abs=0.04), "2,000 draws: three standard deviations are 0.03"
        assert x.mean() == pytest.approx(0, abs=0.1) and x.std() == pytest.approx(1, abs=0.1)
    (x, keep), again, other = draws
    np.testing.assert_array_equal(x, again[0])
    np.testing.assert_array_equal(keep, again[1])
    assert (x != other[0]).all() and (keep != other[1]).any()
    steps, units = keep[:, 0, :, 0], keep[:, 0, :, 0].T
    assert len(np.unique(steps, axis=0)) == 40 and len(np.unique(units, axis=0)) == 50


def test_validation_is_the_mean_over_minibatches_with_noise_and_always_the_same():
    own = experiment(noise_level=0.1)
    rng = stream(own.settings.seed, "validation")
    costs = [own.loss(0, rng) for _ in range(100)]
    assert own.validate() == pytest.approx(np.mean([cost.measure for cost in costs]), rel=1e-5) == own.validate()
    plain = np.mean([float(cost.loss) - cost.measure for cost in costs])
    assert own.extra_columns()["valid_cost_plain"] == pytest.approx(plain, rel=1e-3)
    tested = own.test()
    assert tested["test_cost"] not in (own.validate(), 0) and tested["test_cost_plain"] != plain


# ---- runs


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    """Only the run of `finished`, which is made before this, draws its figures."""
    monkeypatch.setattr(training, "plot_runs", quiet)
    monkeypatch.setattr(semantic, "plot_networks", quiet)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "finished"
    run(folder)
    return folder


def test_a_run_logs_both_W_and_draws_them(finished):
    names = {"config.json", "metrics.jsonl", "last.safetensors", "best.safetensors", "summary.json", "curves.png"}
    assert {path.name for path in finished.iterdir()} == names | {"semantic.png"}
    assert (finished / "semantic.png").read_bytes().startswith(b"\x89PNG")
    rows = read_rows(finished / "metrics.jsonl")
    assert [row["update"] for row in rows] == [6, 12] and rows[0]["train_cost"] > 0 < rows[0]["valid_cost"]
    arrays, _ = load_arrays(finished / "last.safetensors")
    for name, W in zip(("zoneout", "plain"), arrays["model.W"], strict=True):
        np.testing.assert_allclose(rows[-1]["W"][name], W, atol=1e-6)
        assert rows[-1]["distance_to_I"][name] == pytest.approx(abs(W - EYE).max(), abs=2e-6)
        assert rows[-1]["distance_to_minus_I"][name] == pytest.approx(abs(W + EYE).max(), abs=2e-6)
    summary = json.loads((finished / "summary.json").read_text())
    assert summary.keys() >= {"test_cost", "test_cost_plain", "W", "distance_to_I", "distance_to_minus_I"}


def test_the_figure_shows_every_element_of_W_and_both_costs(finished, tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(plotting, "_save", lambda figure, out: figures.append(figure))
    plotting.plot_networks(finished, tmp_path / "unused.png")
    zoneout, plain, cost = figures[0].axes
    rows = read_rows(finished / "metrics.jsonl")
    for axes, name in ((zoneout, "zoneout"), (plain, "plain")):
        drawn = {tuple(line.get_ydata()) for line in axes.lines}
        assert drawn == {tuple(row["W"][name][i][j] for row in rows) for i in (0, 1) for j in (0, 1)}
        assert list(axes.lines[0].get_xdata()) == [0.006, 0.012]
    assert cost.get_yscale() == "log" and cost.get_ylim()[0] > 0
    for line, column in zip(cost.lines, ("valid_cost", "valid_cost_plain"), strict=False):
        assert list(line.get_ydata()) == [max(row[column], 1e-8) for row in rows]
    plotting.plt.close(figures[0])


def test_the_same_seed_gives_the_same_run_and_another_one_another(finished, tmp_path):
    run(tmp_path / "again")
    same_run(finished, tmp_path / "again")
    run(tmp_path / "other", seed=2)
    W, other = (load_arrays(folder / "last.safetensors")[0]["model.W"] for folder in (finished, tmp_path / "other"))
    assert (other != W).all()


def test_a_run_cut_after_every_update_and_resumed_equals_the_uninterrupted_one(finished, tmp_path):
    for stops in range(20):
        try:
            run(tmp_path / "cut", max_minutes=1e-9, resume=stops > 0)
            break
        except Interrupted:
            pass
    assert stops == 12
    same_run(finished, tmp_path / "cut")


def test_without_zoneout_W_stays_at_minus_identity_and_with_it_W_leaves_at_once(tmp_path):
    summary = run(tmp_path / "a", updates_per_epoch=300)
    assert summary["distance_to_minus_I"]["plain"] < 0.01 and summary["test_cost_plain"] < 1e-6
    assert summary["distance_to_minus_I"]["zoneout"] > 0.1 and summary["test_cost"] > 10


def test_each_network_learns_as_if_it_were_alone(tmp_path):
    """Whatever zoneout does to the other."""
    for name, p in (("a", 0.0), ("b", 0.1), ("c", 0.5)):
        run(tmp_path / name, zoneout_prob=p, noise_level=0.1)
    none, little, much = (load_arrays(tmp_path / name / "last.safetensors")[0]["model.W"] for name in "abc")
    np.testing.assert_array_equal(none[0], none[1])
    np.testing.assert_array_equal(none[1], little[1])
    np.testing.assert_array_equal(none[1], much[1])
    assert (little[0] != much[0]).all() and (little[0] != little[1]).all()


@pytest.mark.parametrize(("W", "said"), [(EYE, "is I"), (-EYE, "is -I"), (EYE + 0.06, "neither"), (EYE - 0.04, "is I")])
def test_farewell_says_which_identity_W_is_near(W, said):
    words = []
    own = Semantic(TINY, say=words.append)
    own.model.W.data[0] = W
    own.print_results()
    assert words[0].startswith(f"with zoneout: W is {said.removeprefix('is ')}") and "from I " in words[0]
    assert words[2].startswith("without zoneout: W is -I") and words[3].count("[") == 3


def test_from_the_command_line(tmp_path):
    done = command("semantic", "--epochs", "1", "--updates_per_epoch", "5", cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == "" and "without zoneout: W is -I" in done.stdout
    assert (tmp_path / "runs/semantic/zoneout0.1-seed1/semantic.png").exists()


# ---- the claim


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_zoneout_turns_minus_identity_into_identity_within_50_000_updates(seed, tmp_path):
    summary = fit(Semantic(replace(PRESETS["quick"], seed=seed), say=quiet), tmp_path / "run", say=quiet)
    last = read_rows(tmp_path / "run" / "metrics.jsonl")[-1]
    assert last["update"] == 50_000
    for found in (last, summary):
        assert found["distance_to_I"]["zoneout"] < 0.05
        assert found["distance_to_minus_I"]["plain"] < 0.05
    assert summary["test_cost"] < 1e-6 and summary["test_cost_plain"] < 1e-6
