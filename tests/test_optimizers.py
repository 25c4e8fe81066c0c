"""All optimizers: their formulas parameter by parameter, clipping, states that are saved, and what they refuse."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from minizone import Tensor
from minizone.kernels.cpu import optim as cpu_optim
from minizone.optim import SGD, Adam, Momentum, Optimizer, RMSProp, decayed, make
from minizone.runs import files as checkpoint
from tests.helpers import assert_same
from tests.test_optim import SHAPES, N, flat, give, gradients, parameters, updates

KINDS = [SGD, Momentum, RMSProp, Adam]
CLIPPINGS = [{}, {"clip": 0.05, "clip_what": "step"}, {"clip": 0.05, "clip_what": "gradient"}]

all_kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
all_clippings = pytest.mark.parametrize("clipping", CLIPPINGS, ids=str)


def shortened(arrays: list[np.ndarray], clip: float, fired: list[bool]) -> list[np.ndarray]:
    norm = math.sqrt(sum(float((a**2).sum()) for a in arrays))
    fired.append(norm > clip)
    return [a * (clip / norm) for a in arrays] if norm > clip else arrays


def by_hand(
    kind: type[Optimizer], start: list[np.ndarray], grads: list[list[np.ndarray]], rates: list[float], *,
    clip: float = 0.0, clip_what: str | None = None, momentum: float = 0.99, decay: float = 0.9,
) -> tuple[list[np.ndarray], list[bool]]:  # fmt: skip
    """PAPER.md B.7, each parameter with arrays of its own. Returns the parameters, and which updates were clipped."""
    theta, fired = start, []
    a, b = ([np.zeros(p.shape) for p in start] for _ in range(2))  # what is carried from update to update
    clip_what = clip_what or ("step" if kind is Adam else "gradient")
    for t, (g, rate) in enumerate(zip(grads, rates, strict=True), start=1):
        if clip and clip_what == "gradient":
            g = shortened(g, clip, fired)
        if kind is SGD:
            step = [rate * x for x in g]
        elif kind is Momentum:
            step = a = [momentum * v + rate * x for v, x in zip(a, g, strict=True)]
        elif kind is RMSProp:
            a = [decay * ms + (1 - decay) * x**2 for ms, x in zip(a, g, strict=True)]
            step = [rate * x / np.maximum(np.sqrt(ms), 1e-5) for ms, x in zip(a, g, strict=True)]
        else:
            a = [0.9 * m + 0.1 * x for m, x in zip(a, g, strict=True)]
            b = [0.999 * v + 0.001 * x**2 for v, x in zip(b, g, strict=True)]
            rate = rate * math.sqrt(1 - 0.999**t) / (1 - 0.9**t)
            step = [rate * m / (np.sqrt(v) + 1e-8) for m, v in zip(a, b, strict=True)]
        if clip and clip_what == "step":
            step = shortened(step, clip, fired)
        theta = [p - s for p, s in zip(theta, step, strict=True)]
    return theta, fired


def start_and_grads(count: int, scale: float = 1.0, dtype: Any = np.float64) -> tuple[list, list]:
    """Every other gradient is a thousand times smaller."""
    grads = [gradients(update, scale * 1000.0 ** -(update % 2), dtype) for update in range(count)]
    return [p.data.copy() for p in parameters(dtype)], grads


def trained(optimizer: Optimizer, grads: list[list[np.ndarray]], rates: list[float] | None = None) -> np.ndarray:
    """The parameters (N,) after an update with each of the gradients."""
    for k, g in enumerate(grads):
        give(optimizer.parameters, g)
        if rates:
            optimizer.learning_rate = rates[k]
        optimizer.step()
    return flat(optimizer.parameters)


# ---- the formulas


@pytest.mark.parametrize("scale", [1e-4, 1.0], ids=["gradients near the floor", "gradients of size 1"])
@pytest.mark.parametrize("options", [{}, {"momentum": 0.5, "decay": 0.5}], ids=str)
@all_clippings
@all_kinds
def test_optimizer_is_its_formula(kind, clipping, options, scale):
    own = {SGD: [], Momentum: ["momentum"], RMSProp: ["decay"], Adam: []}[kind]
    start, grads = start_and_grads(8, scale)
    expected, _ = by_hand(kind, start, grads, [0.02] * 8, **clipping, **options)
    optimizer = kind(parameters(), 0.02, **clipping, **{name: options[name] for name in own if name in options})
    moved = trained(optimizer, grads) - flat(start)
    assert_same({"": moved}, {"": flat(expected) - flat(start)}, 1e-9)


@all_kinds
def test_learning_rate_may_change_between_steps(kind):
    start, grads = start_and_grads(8)
    rates = [decayed(0.02, epoch, divide_by=1.5, after=3) for epoch in range(1, 9)]
    expected, _ = by_hand(kind, start, grads, rates)
    assert_same({"": trained(kind(parameters(), 1.0), grads, rates)}, {"": flat(expected)}, 1e-13)


def test_momentum_goes_on_without_a_gradient_and_a_constant_one_is_multiplied():
    p = Tensor(np.zeros(2))
    optimizer = Momentum([p], 0.1, momentum=0.75)
    trained(optimizer, [[np.array([1.0, 0.0])]] * 100)
    assert optimizer.velocity == pytest.approx([0.1 / (1 - 0.75), 0.0])
    before = p.data.copy()
    trained(optimizer, [[np.zeros(2)]])
    assert before - p.data == pytest.approx([0.75 * 0.4, 0.0])


def test_first_step_of_rms_prop_is_of_one_length_whatever_the_gradient():
    """No bias correction: sqrt(ms) is sqrt(1 - decay) |g|. Nothing is added to it either, so this is exact."""
    for size in (1e-4, 1.0, 1e6):
        p = Tensor(np.zeros(2))
        trained(RMSProp([p], 0.01, decay=0.75), [[np.array([size, -size])]])
        np.testing.assert_allclose(p.data, [-0.02, 0.02], rtol=1e-15)


def test_rms_prop_below_the_floor_is_sgd_with_a_rate_100000_times_as_large():
    _, grads = start_and_grads(4, scale=1e-7)
    moved = [trained(optimizer, grads) - flat(parameters())
             for optimizer in (RMSProp(parameters(), 1e-3), SGD(parameters(), 1e2))]  # fmt: skip
    assert_same({"": moved[0]}, {"": moved[1]}, 1e-9)


@all_clippings
@all_kinds
def test_float32_stays_float32(kind, clipping):
    owners = parameters(np.float32)
    start, grads = start_and_grads(8, dtype=np.float32)
    expected, _ = by_hand(kind, start, grads, [0.02] * 8, **clipping)
    optimizer = kind(owners, 0.02, **clipping)
    np.testing.assert_allclose(trained(optimizer, grads), flat(expected), rtol=0, atol=2e-6)
    trained(optimizer, grads, [np.float64(0.02)] * 8)
    arrays = [*(p.data for p in owners), optimizer.flat, *optimizer.buffers.values()]
    assert {a.dtype for a in arrays} == {np.dtype(np.float32)}


@pytest.mark.parametrize("piece", [1, 7, N - 1, N, N + 1])
@all_clippings
@all_kinds
def test_pieces_of_any_size_give_the_same_to_the_bit(monkeypatch, kind, clipping, piece):
    _, grads = start_and_grads(5)
    whole = trained(kind(parameters(), 0.02, **clipping), grads)
    monkeypatch.setattr(cpu_optim, "PIECE", piece)
    assert np.array_equal(trained(kind(parameters(), 0.02, **clipping), grads), whole)


@pytest.mark.parametrize("size", [cpu_optim.PIECE - 1, cpu_optim.PIECE, cpu_optim.PIECE + 1, 2 * cpu_optim.PIECE])
@all_kinds
def test_borders_of_the_real_pieces(kind, size):
    rng = np.random.default_rng(0)
    start = [rng.standard_normal(n) for n in (size - 40, 40)]
    grads = [[rng.standard_normal(n) for n in (size - 40, 40)] for _ in range(2)]
    expected, _ = by_hand(kind, start, grads, [0.02] * 2, clip=0.05)
    optimizer = kind([Tensor(p.copy()) for p in start], 0.02, clip=0.05)
    assert_same({"": trained(optimizer, grads)}, {"": flat(expected)}, 1e-13)


# ---- clipping


@all_kinds
def test_a_clip_that_fires_only_at_times(kind):
    """Clipping looks at each update anew; at these thresholds some of them are clipped and some are not."""
    start, grads = start_and_grads(6)
    thresholds = {SGD: 0.02, Momentum: 0.15, RMSProp: 0.08, Adam: 0.07}
    for clip_what, clip in (("gradient", 0.05), ("step", thresholds[kind])):
        expected, fired = by_hand(kind, start, grads, [0.02] * 6, clip=clip, clip_what=clip_what)
        assert any(fired) and not all(fired)
        optimizer = kind(parameters(), 0.02, clip=clip, clip_what=clip_what)
        assert_same({"": trained(optimizer, grads)}, {"": flat(expected)}, 1e-13)


@all_kinds
def test_clipped_step_has_the_norm_of_the_clip_and_what_is_carried_does_not_see_it(kind):
    clipped, free = kind(parameters(), 0.02, clip=0.01, clip_what="step"), kind(parameters(), 0.02)
    for step in updates(clipped, 3):
        assert np.linalg.norm(step) == pytest.approx(0.01, rel=1e-12)
    updates(free, 3)
    assert_same(clipped.state_dict(), free.state_dict(), 0.0)


# ---- parameters and gradients


@all_kinds
def test_parameters_stay_views_of_the_flat_array(kind):
    owners = parameters()
    optimizer = kind(owners, 0.02, clip=0.05)
    views = [p.data for p in owners]
    updates(optimizer, 2)
    optimizer.reset()
    optimizer.load_state_dict(kind(parameters(), 0.02).state_dict())
    updates(optimizer, 2)
    for owner, view, shape in zip(owners, views, SHAPES, strict=True):
        assert owner.data is view and owner.shape == shape and np.shares_memory(view, optimizer.flat)
    assert np.array_equal(flat(owners), optimizer.flat) and not np.array_equal(flat(owners), flat(parameters()))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@all_clippings
@all_kinds
def test_gradient_that_is_not_finite_changes_nothing_and_shows_in_the_norm(kind, clipping, bad):
    disturbed, other = kind(parameters(), 0.02, **clipping), kind(parameters(), 0.02, **clipping)
    updates(disturbed, 2)
    updates(other, 2)
    grads = gradients(2)
    grads[1][3] = bad
    give(disturbed.parameters, grads)
    assert not math.isfinite(disturbed.step())
    for first in (2, 4):  # at once, and after going on
        assert np.array_equal(disturbed.flat, other.flat)
        assert_same(disturbed.state_dict(), other.state_dict(), 0.0)
        updates(disturbed, 2, first)
        updates(other, 2, first)


@pytest.mark.parametrize("missing", range(len(SHAPES)))
@all_kinds
def test_missing_gradient_leaves_everything_as_it_was(kind, missing):
    """The gradients too: `step` used to take those in front of the missing one away."""
    optimizer, other = kind(parameters(), 0.02), kind(parameters(), 0.02)
    updates(optimizer, 2)
    updates(other, 2)
    grads = gradients(2)
    give(optimizer.parameters, grads)
    optimizer.parameters[missing].grad = None
    with pytest.raises(ValueError, match=f"parameter {missing} of shape .* has no gradient: call backward"):
        optimizer.step()
    for k, (p, g) in enumerate(zip(optimizer.parameters, grads, strict=True)):
        assert p.grad is (None if k == missing else g)
    assert np.array_equal(optimizer.flat, other.flat)
    assert_same(optimizer.state_dict(), other.state_dict(), 0.0)
    optimizer.parameters[missing].grad = grads[missing]
    optimizer.step()
    updates(other, 1, first=2)
    assert np.array_equal(optimizer.flat, other.flat)


# ---- stop and go on


@all_clippings
@all_kinds
def test_optimizer_restored_from_a_file_goes_on_bit_for_bit(tmp_path, kind, clipping):
    optimizer = kind(parameters(), 0.02, **clipping)
    updates(optimizer, 3)
    checkpoint.save_arrays(tmp_path / "state.safetensors", optimizer.state_dict())
    restored = kind([Tensor(p.data.copy()) for p in optimizer.parameters], 0.02, **clipping)
    restored.load_state_dict(checkpoint.load_arrays(tmp_path / "state.safetensors")[0])
    assert restored.steps == 3
    updates(optimizer, 3, first=3)
    updates(restored, 3, first=3)
    assert np.array_equal(restored.flat, optimizer.flat)
    assert_same(restored.state_dict(), optimizer.state_dict(), 0.0)


@all_clippings
@all_kinds
def test_reset_optimizer_is_as_a_fresh_one(kind, clipping):
    used = kind(parameters(), 0.02, **clipping)
    updates(used, 3)
    used.reset()
    fresh = kind([Tensor(p.data.copy()) for p in used.parameters], 0.02, **clipping)
    for _ in range(2):  # at once, and after going on
        assert used.steps == fresh.steps and np.array_equal(used.flat, fresh.flat)
        assert_same(used.state_dict(), fresh.state_dict(), 0.0)
        updates(used, 3)
        updates(fresh, 3)


def test_names_of_what_is_saved():
    names = {SGD: ["steps"], Momentum: ["velocity", "steps"], RMSProp: ["ms", "steps"], Adam: ["m", "v", "steps"]}
    assert {kind: list(kind(parameters(), 0.02).state_dict()) for kind in KINDS} == names


def test_state_of_another_optimizer_or_size_is_refused_and_changes_nothing():
    optimizer = Adam(parameters(), 0.02)
    updates(optimizer, 2)
    kept = {name: array.copy() for name, array in optimizer.state_dict().items()}
    with pytest.raises(ValueError, match=r"state has \['ms', 'steps'\], expected \['m', 'steps', 'v'\]"):
        optimizer.load_state_dict(RMSProp(parameters(), 0.02).state_dict())
    with pytest.raises(ValueError, match=f"optimizer state v has {N + 1} numbers, expected {N}"):
        optimizer.load_state_dict({"m": np.zeros(N), "v": np.zeros(N + 1), "steps": np.array([7])})
    assert_same(optimizer.state_dict(), kept, 0.0)


# ---- by name, and the schedule


@pytest.mark.parametrize("name, kind", [("sgd", SGD), ("momentum", Momentum), ("rms_prop", RMSProp), ("adam", Adam)])
@pytest.mark.parametrize("clip_what", [None, "step", "gradient"])
def test_make_is_the_optimizer_with_its_own_options(name, kind, clip_what):
    owners = parameters()
    optimizer = make(name, owners, 0.02, clip=0.05, clip_what=clip_what, momentum=0.5, decay=0.25)
    assert type(optimizer) is kind and optimizer.parameters == owners
    assert (optimizer.learning_rate, optimizer.clip) == (0.02, 0.05)
    assert optimizer.clip_what == (clip_what or ("step" if kind is Adam else "gradient"))
    assert getattr(optimizer, "momentum", 0.5) == 0.5 and getattr(optimizer, "decay", 0.25) == 0.25
    default = make(name, parameters(), 0.02, clip=0.0)
    assert getattr(default, "momentum", 0.99) == 0.99 and getattr(default, "decay", 0.9) == 0.9


NAN = float("nan")


@pytest.mark.parametrize(
    "name, options, sentence",
    [
        ("adagrad", {}, "algorithm must be one of adam, rms_prop, momentum, sgd, got 'adagrad'"),
        ("sgd", {"clip_what": "norm"}, 'clip_what must be "step" or "gradient", got \'norm\''),
        ("rms_prop", {"clip": -1.0}, r"clip must be 0 \(none\) or more, got -1.0"),
        ("adam", {"clip": NAN}, r"clip must be 0 \(none\) or more, got nan"),
        *[("momentum", {"momentum": m}, rf"momentum must be in \[0, 1\), got {m}") for m in (-0.1, 1.0, NAN)],
        *[("rms_prop", {"decay": d}, rf"decay must be in \[0, 1\), got {d}") for d in (-0.1, 1.0, NAN)],
    ],
)
def test_what_makes_no_sense_is_refused_in_a_sentence(name, options, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        make(name, parameters(), 0.02, **{"clip": 0.0, **options})


def test_a_parameter_given_twice_is_refused():
    """It would have two places in the flat array, and be a view of one."""
    owners = parameters()
    with pytest.raises(ValueError, match="a parameter is given twice"):
        SGD([*owners, owners[1]], 0.02)


def test_decayed_is_the_schedule_of_zaremba():
    rates = [decayed(1.0, epoch, divide_by=1.15, after=14) for epoch in range(1, 56)]
    assert rates[:14] == [1.0] * 14
    assert rates[14] == 1 / 1.15 and rates[15] == 1 / 1.15**2
    assert rates[54] == pytest.approx(1.15**-41)


def test_decayed_is_constant_by_default_and_begins_after_the_epoch_that_is_named():
    assert [decayed(0.002, epoch) for epoch in (1, 2, 2000)] == [0.002] * 3
    assert [decayed(8.0, epoch, divide_by=2) for epoch in (1, 2, 3)] == [4.0, 2.0, 1.0]
    assert [decayed(8.0, epoch, divide_by=2, after=1) for epoch in (1, 2, 3)] == [8.0, 4.0, 2.0]


@pytest.mark.parametrize("options, sentence", [
    ({"epoch": 0}, "epochs are counted from 1, got 0"),
    ({"epoch": 1, "divide_by": 0.0}, "divide_by must be above 0, got 0.0"),
    ({"epoch": 1, "divide_by": NAN}, "divide_by must be above 0, got nan"),
])  # fmt: skip
def test_decayed_refuses(options, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        decayed(1.0, **options)
