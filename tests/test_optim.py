"""The optimizers: their formulas, clipping, which arrays they change, saving and restoring, and what they refuse."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from minizone import Tensor, optim
from minizone.layers import Linear
from minizone.optim import SGD, Adam, Momentum, Optimizer, RMSProp, decayed, make
from minizone.runs import files
from tests.helpers import assert_same

SHAPES = [(3, 4), (5,), (1,), (2, 1, 3), ()]
N = sum(math.prod(shape) for shape in SHAPES)
KINDS = [SGD, Momentum, RMSProp, Adam]
CLIPPINGS = [{}, {"clip": 0.05, "clip_what": "step"}, {"clip": 0.05, "clip_what": "gradient"}]
NAN = float("nan")

all_kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
all_clippings = pytest.mark.parametrize("clipping", CLIPPINGS, ids=str)


def parameters(dtype: Any = np.float64) -> list[Tensor]:
    rng = np.random.default_rng(0)
    return [Tensor(np.asarray(rng.standard_normal(shape), dtype)) for shape in SHAPES]


def gradients(update: int, scale: float = 1.0, dtype: Any = np.float64) -> list[np.ndarray]:
    """Of very different sizes, as those of a network are."""
    rng = np.random.default_rng(100 + update)
    return [np.asarray(scale * 10.0**-k * rng.standard_normal(shape), dtype) for k, shape in enumerate(SHAPES)]


def varying_gradients(count: int, scale: float = 1.0, dtype: Any = np.float64) -> list[list[np.ndarray]]:
    """For each update; every other gradient is a thousand times smaller."""
    return [gradients(update, scale * 1000.0 ** -(update % 2), dtype) for update in range(count)]


def give(owners: Iterable[Tensor], grads: Iterable[np.ndarray]) -> None:
    for owner, grad in zip(owners, grads, strict=True):
        owner.grad = grad


def flat(arrays: Iterable[Any]) -> np.ndarray:
    """A copy of all numbers of arrays or tensors, (N,)."""
    return np.concatenate([np.ravel(getattr(a, "data", a)) for a in arrays])


def updates(optimizer: Optimizer, count: int, first: int = 0, scale: float = 1.0) -> list[np.ndarray]:
    """The applied steps, each (N,): minus the changes of the parameters."""
    steps = []
    for update in range(first, first + count):
        give(optimizer.parameters, gradients(update, scale, optimizer.parameters[0].dtype))
        before = flat(optimizer.parameters)
        optimizer.step()
        steps.append(before - flat(optimizer.parameters))
    return steps


def trained(optimizer: Optimizer, grads: list[list[np.ndarray]], rates: list[Any] | None = None) -> np.ndarray:
    """The parameters (N,) after an update with each of the gradients."""
    for k, g in enumerate(grads):
        give(optimizer.parameters, g)
        if rates:
            optimizer.learning_rate = rates[k]
        optimizer.step()
    return flat(optimizer.parameters)


def state_copy(optimizer: Optimizer) -> dict[str, np.ndarray]:
    return {name: array.copy() for name, array in optimizer.state_dict().items()}


def assert_same_optimizers(actual: Optimizer, expected: Optimizer) -> None:
    """Same parameters and same state, to the bit."""
    assert np.array_equal(flat(actual.parameters), flat(expected.parameters))
    assert_same(actual.state_dict(), expected.state_dict(), 0.0)


# ---- the formulas


def shortened(arrays: list[np.ndarray], clip: float, clipped: list[bool]) -> list[np.ndarray]:
    norm = math.sqrt(sum(float((a**2).sum()) for a in arrays))
    clipped.append(norm > clip)
    return [a * (clip / norm) for a in arrays] if norm > clip else arrays


def by_hand(
    kind: type[Optimizer],
    start: list[np.ndarray],
    grads: list[list[np.ndarray]],
    rates: list[float],
    *,
    clip: float = 0.0,
    clip_what: str | None = None,
    momentum: float = 0.99,
    decay: float = 0.9,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
) -> tuple[list[np.ndarray], list[bool]]:
    """The rule of docs/original-code.md, written out. Returns the parameters, and which updates were clipped."""
    theta, clipped = start, []
    a, b = ([np.zeros(p.shape) for p in start] for _ in range(2))  # what is carried from update to update
    clip_what = clip_what or ("step" if kind is Adam else "gradient")
    for t, (g, rate) in enumerate(zip(grads, rates, strict=True), start=1):
        if clip and clip_what == "gradient":
            g = shortened(g, clip, clipped)
        if kind is SGD:
            step = [rate * x for x in g]
        elif kind is Momentum:
            step = a = [momentum * v + rate * x for v, x in zip(a, g, strict=True)]
        elif kind is RMSProp:
            a = [decay * ms + (1 - decay) * x**2 for ms, x in zip(a, g, strict=True)]
            step = [rate * x / np.maximum(np.sqrt(ms), 1e-5) for ms, x in zip(a, g, strict=True)]
        else:
            a = [beta1 * m + (1 - beta1) * x for m, x in zip(a, g, strict=True)]
            b = [beta2 * v + (1 - beta2) * x**2 for v, x in zip(b, g, strict=True)]
            rate = rate * math.sqrt(1 - beta2**t) / (1 - beta1**t)
            step = [rate * m / (np.sqrt(v) + epsilon) for m, v in zip(a, b, strict=True)]
        if clip and clip_what == "step":
            step = shortened(step, clip, clipped)
        theta = [p - s for p, s in zip(theta, step, strict=True)]
    return theta, clipped


@pytest.mark.parametrize("scale", [1e-6, 1e-4, 1.0], ids=lambda scale: f"gradients of size {scale}")
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (SGD, {}),
        (Momentum, {}),
        (Momentum, {"momentum": 0.5}),
        (RMSProp, {}),
        (RMSProp, {"decay": 0.5}),
        (Adam, {}),
        (Adam, {"beta1": 0.5, "beta2": 0.9, "epsilon": 1e-3}),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
@pytest.mark.parametrize("clipping", [*CLIPPINGS, {"clip": 0.05}, {"clip": 1e6}], ids=str)
def test_optimizer_is_its_formula(kind, options, clipping, scale):
    """Small gradients make RMSProp's floor and Adam's epsilon count."""
    start, grads = [p.data.copy() for p in parameters()], varying_gradients(8, scale)
    expected, _ = by_hand(kind, start, grads, [0.02] * 8, **clipping, **options)
    moved = trained(kind(parameters(), 0.02, **clipping, **options), grads) - flat(start)
    expected_move = flat(expected) - flat(start)
    rounding = 1e-15 * N / abs(expected_move).max()  # of the subtraction from parameters of size 1
    assert_same({"": moved}, {"": expected_move}, max(1e-13, rounding))


@all_kinds
def test_learning_rate_may_change_between_steps(kind):
    start, grads = [p.data for p in parameters()], varying_gradients(8)
    rates = [decayed(0.02, epoch, divide_by=1.5, after=3) for epoch in range(1, 9)]
    expected, _ = by_hand(kind, start, grads, rates)
    assert_same({"": trained(kind(parameters(), 1.0), grads, rates)}, {"": flat(expected)}, 1e-13)


def test_momentum_continues_without_a_gradient_and_multiplies_a_constant_one():
    p = Tensor(np.zeros(2))
    optimizer = Momentum([p], 0.1, momentum=0.75)
    trained(optimizer, [[np.array([1.0, 0.0])]] * 100)
    ((velocity,),) = optimizer.averages
    assert velocity == pytest.approx([0.1 / (1 - 0.75), 0.0])
    before = p.data.copy()
    trained(optimizer, [[np.zeros(2)]])
    assert before - p.data == pytest.approx([0.75 * 0.4, 0.0])


def test_first_step_of_rms_prop_has_one_size_whatever_the_gradient():
    """Without bias correction sqrt(ms) is sqrt(1 - decay) |g|. Nothing is added to it either, so this is exact."""
    for size in (1e-4, 1.0, 1e6):
        p = Tensor(np.zeros(2))
        trained(RMSProp([p], 0.01, decay=0.75), [[np.array([size, -size])]])
        np.testing.assert_allclose(p.data, [-0.02, 0.02], rtol=1e-15)


def test_rms_prop_below_the_floor_is_sgd_with_a_rate_100000_times_as_large():
    grads = varying_gradients(4, scale=1e-7)
    by_rms_prop = trained(RMSProp(parameters(), 1e-3), grads) - flat(parameters())
    by_sgd = trained(SGD(parameters(), 1e2), grads) - flat(parameters())
    assert_same({"": by_rms_prop}, {"": by_sgd}, 1e-9)


@all_clippings
@all_kinds
def test_float32_stays_float32(kind, clipping):
    owners = parameters(np.float32)
    start, grads = [p.data.copy() for p in owners], varying_gradients(8, dtype=np.float32)
    expected, _ = by_hand(kind, start, grads, [0.02] * 8, **clipping)
    optimizer = kind(owners, 0.02, **clipping)
    np.testing.assert_allclose(trained(optimizer, grads), flat(expected), rtol=0, atol=1e-6)
    trained(optimizer, grads, [np.float64(0.02)] * 8)
    arrays = [p.data for p in owners] + [average for averages in optimizer.averages for average in averages]
    assert {a.dtype for a in arrays} == {np.dtype(np.float32)}


@pytest.mark.parametrize("piece", [1, 7, N])
@all_clippings
@all_kinds
def test_pieces_of_any_size_give_the_same_to_the_bit(monkeypatch, kind, clipping, piece):
    grads = varying_gradients(5)
    whole = trained(kind(parameters(), 0.02, **clipping), grads)
    monkeypatch.setattr(optim, "PIECE", piece)
    assert np.array_equal(trained(kind(parameters(), 0.02, **clipping), grads), whole)


@pytest.mark.parametrize("shape", [(optim.PIECE - 1,), (optim.PIECE + 1,), (3, optim.PIECE), (optim.PIECE, 2)])
@all_kinds
def test_parameters_larger_than_a_piece(kind, shape):
    rng = np.random.default_rng(0)
    start, *grads = ([rng.standard_normal(shape), rng.standard_normal(40)] for _ in range(3))
    expected, _ = by_hand(kind, start, grads, [0.02] * 2, clip=0.05)
    optimizer = kind([Tensor(p.copy()) for p in start], 0.02, clip=0.05)
    assert_same({"": trained(optimizer, grads)}, {"": flat(expected)}, 1e-13)


# ---- clipping


@all_clippings
@all_kinds
def test_step_returns_the_norm_of_the_gradient_before_clipping(kind, clipping):
    optimizer = kind(parameters(), 0.02, **clipping)
    give(optimizer.parameters, gradients(0))
    norm = optimizer.step()
    assert type(norm) is float
    assert norm == pytest.approx(np.linalg.norm(flat(gradients(0))), rel=1e-14)


@pytest.mark.parametrize("clipping", [{}, {"clip": 1.0, "clip_what": "step"}, {"clip": 1.0, "clip_what": "gradient"}])
@pytest.mark.parametrize("size", [300.0, 1e-4])
@all_kinds
def test_float16_parameters_move_as_the_formula_says(kind, size, clipping):
    """The square of 300 is more than the largest float16, and the square of 1e-4 less than the smallest."""
    start = np.array([0.5, -1.0, 2.0, 0.25])
    grads = [(size * factor * np.array([1, -1, 1, 0.5])).astype(np.float16) for factor in (1, 0.5, 1)]
    rates = [0.02 * (1 / size if kind in (SGD, Momentum) else 1)] * 3  # so that the steps are not huge
    expected, _ = by_hand(kind, [start], [[np.float64(g)] for g in grads], rates, **clipping)
    p = Tensor(start.astype(np.float16))
    optimizer = kind([p], rates[0], **clipping)
    for g in grads:
        p.grad = g
        assert optimizer.step() == pytest.approx(float(np.linalg.norm(np.float64(g))), rel=1e-6)
    assert p.dtype == np.float16
    tolerance = 3 * np.finfo(np.float16).eps * abs(start).max()  # three roundings of the parameters
    np.testing.assert_allclose(p.data, expected[0], rtol=0, atol=tolerance)
    assert all(average.dtype == np.float32 for averages in optimizer.averages for average in averages)


@all_kinds
def test_a_float32_gradient_whose_square_overflows_is_reported_and_changes_nothing(kind):
    """Adam's v would be infinite and the parameter would stand still for ever; so the run ends as diverged."""
    p = Tensor(np.ones(4, np.float32))
    optimizer = kind([p], 0.1, clip=1.0)
    p.grad = np.full(4, 1e25, np.float32)
    with np.errstate(over="ignore"):
        assert optimizer.step() == math.inf
    assert_same({"": p.data}, {"": np.ones(4, np.float32)}, 0)


@all_kinds
def test_a_clip_that_acts_on_some_updates_only(kind):
    start, grads = [p.data for p in parameters()], varying_gradients(6)
    thresholds = {SGD: 0.02, Momentum: 0.15, RMSProp: 0.08, Adam: 0.07}
    for clip_what, clip in (("gradient", 0.05), ("step", thresholds[kind])):
        expected, clipped = by_hand(kind, start, grads, [0.02] * 6, clip=clip, clip_what=clip_what)
        assert any(clipped) and not all(clipped)
        optimizer = kind(parameters(), 0.02, clip=clip, clip_what=clip_what)
        assert_same({"": trained(optimizer, grads)}, {"": flat(expected)}, 1e-13)


@all_kinds
def test_clipped_step_has_the_norm_of_the_clip_and_the_direction_of_the_unclipped_step(kind):
    clipped, free = kind(parameters(), 0.02, clip=0.01, clip_what="step"), kind(parameters(), 0.02)
    for short, long in zip(updates(clipped, 3), updates(free, 3), strict=True):
        assert np.linalg.norm(short) == pytest.approx(0.01, rel=1e-12)
        np.testing.assert_allclose(short, long * (0.01 / np.linalg.norm(long)), rtol=0, atol=1e-15)
    assert_same(clipped.state_dict(), free.state_dict(), 0.0)  # the averages are those of the unclipped gradient


@all_kinds
def test_clipped_gradient_is_what_the_optimizer_uses(kind):
    clipped, free = kind(parameters(), 0.02, clip=0.5, clip_what="gradient"), kind(parameters(), 0.02)
    updates(clipped, 6)
    for update in range(6):
        norm = np.linalg.norm(flat(gradients(update)))
        assert norm > 0.5
        give(free.parameters, [g * (0.5 / norm) for g in gradients(update)])
        free.step()
    assert_same({"": flat(clipped.parameters)}, {"": flat(free.parameters)}, 1e-14)


@pytest.mark.parametrize("clip_what", ["step", "gradient"])
@all_kinds
def test_below_the_clip_nothing_changes_to_the_bit(kind, clip_what):
    free, generous = kind(parameters(), 0.02), kind(parameters(), 0.02, clip=50.0, clip_what=clip_what)
    updates(free, 6)
    updates(generous, 6)
    assert_same_optimizers(generous, free)


def test_adam_clips_the_step_by_default():
    """A gradient of 10^-4 would never be clipped at 0.05, the step it makes is."""
    (step,) = updates(Adam(parameters(), 0.02, clip=0.05), 1, scale=1e-4)
    assert np.linalg.norm(step) == pytest.approx(0.05, rel=1e-12)


@all_clippings
@all_kinds
def test_zero_gradient_moves_nothing(kind, clipping):
    optimizer = kind(parameters(), 0.02, **clipping)
    give(optimizer.parameters, [np.zeros(shape) for shape in SHAPES])
    assert optimizer.step() == 0.0
    assert np.array_equal(flat(optimizer.parameters), flat(parameters()))


@pytest.mark.parametrize("bad", [NAN, math.inf])
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
    for first in (2, 4):  # at once, and after two more updates
        assert_same_optimizers(disturbed, other)
        updates(disturbed, 2, first)
        updates(other, 2, first)


# ---- which arrays are changed


@all_clippings
@all_kinds
def test_parameters_keep_their_arrays(kind, clipping):
    """An optimizer that moves the data to an array of its own leaves every other owner of the old one behind."""
    owners = parameters()
    arrays = [p.data for p in owners]
    optimizer = kind(owners, 0.02, **clipping)
    updates(optimizer, 2)
    optimizer.load_state_dict(kind(parameters(), 0.02).state_dict())
    optimizer.reset()
    assert all(p.data is array for p, array in zip(owners, arrays, strict=True))
    assert all((array != p.data).all() for array, p in zip(arrays, parameters(), strict=True))


def loss_of(layer: Linear) -> Tensor:
    """The mean square of the layer's output (3, 4) for a fixed input (2, 4), with gradients for both parameters."""
    x = np.random.default_rng(1).standard_normal((2, 4)).astype(np.float32)
    loss = (layer(x) ** 2).mean()
    loss.backward()
    return loss


def falls(layer: Linear, *optimizers: Optimizer) -> bool:
    """Whether the loss halves in twenty updates, by each of the optimizers in turn."""
    before = loss = float(loss_of(layer))
    for update in range(20):
        optimizers[update % len(optimizers)].step()
        loss = float(loss_of(layer))
    return loss < 0.5 * before


RATES = {SGD: 0.2, Momentum: 0.1, RMSProp: 0.02, Adam: 0.05}


@pytest.fixture
def layer() -> Linear:
    return Linear(2, 3, rng=np.random.default_rng(0))


def optimizer_for(kind: type[Optimizer], layer: Linear) -> Optimizer:
    options = {"momentum": 0.5} if kind is Momentum else {}
    return kind(layer.parameters(), RATES[kind], **options)


@all_kinds
def test_an_array_assigned_to_a_parameter_is_trained(kind, layer):
    optimizer = optimizer_for(kind, layer)
    loss_of(layer)
    optimizer.step()
    layer.W.data = np.random.default_rng(2).standard_normal(layer.W.shape).astype(np.float32)
    assert falls(layer, optimizer)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))])
@all_kinds
def test_a_copy_of_model_and_optimizer_goes_on_as_the_original_would(kind, copied, layer):
    optimizer = optimizer_for(kind, layer)
    loss_of(layer)
    optimizer.step()
    layer_copy, optimizer_copy = copied((layer, optimizer))
    start = flat(layer.parameters())
    assert falls(layer_copy, optimizer_copy)
    assert np.array_equal(flat(layer.parameters()), start), "the copy has arrays of its own"
    assert falls(layer, optimizer)
    assert_same_optimizers(optimizer_copy, optimizer)


@all_kinds
def test_two_optimizers_of_one_model_both_train_it(kind, layer):
    first, second = optimizer_for(kind, layer), optimizer_for(kind, layer)
    for optimizer in (first, second, first):
        loss_of(layer)
        before = flat(layer.parameters())
        optimizer.step()
        assert not np.array_equal(flat(layer.parameters()), before)
    assert falls(layer, first, second)


# ---- gradients


def test_gradients_are_none_after_a_step_and_not_changed_in_place():
    for kind in KINDS:
        for clipping in CLIPPINGS:
            owners, grads = parameters(), gradients(0)
            before = [g.copy() for g in grads]
            give(owners, grads)
            kind(owners, 0.02, **clipping).step()
            assert [p.grad for p in owners] == [None] * len(owners)
            assert all(np.array_equal(g, old) for g, old in zip(grads, before, strict=True))


@pytest.mark.parametrize("missing", range(len(SHAPES)))
@all_kinds
def test_a_parameter_without_a_gradient_stays_as_it_is_with_its_averages(kind, missing):
    optimizer = kind(parameters(), 0.02)
    updates(optimizer, 2)
    before = [(p.data.copy(), [a.copy() for a in averages]) for p, averages in pairs(optimizer)]
    give(optimizer.parameters, gradients(2))
    optimizer.parameters[missing].grad = None
    optimizer.step()
    for k, ((p, averages), (data, old)) in enumerate(zip(pairs(optimizer), before, strict=True)):
        assert np.array_equal(p.data, data) == (k == missing)
        assert all(np.array_equal(a, b) == (k == missing) for a, b in zip(averages, old, strict=True))


def pairs(optimizer):
    return list(zip(optimizer.parameters, optimizer.averages, strict=True))


@all_kinds
def test_a_step_without_any_gradient_is_an_error_and_changes_nothing(kind):
    optimizer, other = kind(parameters(), 0.02), kind(parameters(), 0.02)
    for empty in (optimizer, kind([], 0.02)):
        with pytest.raises(ValueError, match="no parameter has a gradient: call backward"):
            empty.step()
    assert_same_optimizers(optimizer, other)


@pytest.mark.parametrize("rate", [-0.1, math.nan])
@all_kinds
def test_a_learning_rate_below_0_is_refused(kind, rate):
    with pytest.raises(ValueError, match="learning_rate must be 0 or more, got"):
        kind(parameters(), rate)


@pytest.mark.parametrize("clip_what", ["step", "gradient"])
@all_kinds
def test_parameters_that_share_a_gradient_array_are_both_updated(kind, clip_what):
    """`Add` returns the same array for both of its inputs."""
    rng = np.random.default_rng(0)
    weight, start = rng.standard_normal((3, 2)), list(rng.standard_normal((2, 3, 2)))
    a, b = (Tensor(array.copy()) for array in start)
    optimizer = kind([a, b], 0.02, clip=0.01, clip_what=clip_what)
    for _ in range(3):
        ((a + b) * weight).sum().backward()
        assert a.grad is b.grad
        optimizer.step()
    expected, _ = by_hand(kind, start, [[weight, weight]] * 3, [0.02] * 3, clip=0.01, clip_what=clip_what)
    assert_same({"": flat([a, b])}, {"": flat(expected)}, 1e-14)


@pytest.mark.parametrize("layout", [np.asfortranarray, lambda g: np.broadcast_to(g, g.shape), lambda g: g[::-1][::-1]])
@pytest.mark.parametrize("piece", [1, optim.PIECE])
def test_parameters_and_gradients_of_any_memory_layout(monkeypatch, layout, piece):
    monkeypatch.setattr(optim, "PIECE", piece)
    rng = np.random.default_rng(0)
    grad, start = rng.standard_normal((4, 3)), rng.standard_normal((4, 3))
    p = Tensor(np.asfortranarray(start))
    optimizer = Adam([p], 0.02)
    p.grad = layout(grad)
    optimizer.step()
    expected, _ = by_hand(Adam, [start], [[grad]], [0.02])
    assert_same({"": p.data.ravel()}, {"": flat(expected)}, 1e-14)


# ---- saving and restoring


@all_clippings
@all_kinds
def test_optimizer_restored_from_a_file_goes_on_bit_for_bit(tmp_path, kind, clipping):
    optimizer = kind(parameters(), 0.02, **clipping)
    updates(optimizer, 3)
    files.save_arrays(tmp_path / "state.safetensors", optimizer.state_dict())
    restored = kind([Tensor(p.data.copy()) for p in optimizer.parameters], 0.02, **clipping)
    restored.load_state_dict(files.load_arrays(tmp_path / "state.safetensors")[0])
    assert restored.steps == 3
    updates(optimizer, 3, first=3)
    updates(restored, 3, first=3)
    assert_same_optimizers(restored, optimizer)


@all_kinds
def test_loaded_arrays_are_copied(kind):
    optimizer, other = kind(parameters(), 0.02), kind(parameters(), 0.02)
    updates(optimizer, 3)
    state, before = optimizer.state_dict(), state_copy(optimizer)
    other.load_state_dict(state)
    updates(other, 3)
    assert_same(state, before, 0.0)


@all_clippings
@all_kinds
def test_reset_optimizer_is_like_a_new_one(kind, clipping):
    used = kind(parameters(), 0.02, **clipping)
    updates(used, 3)
    used.reset()
    new = kind([Tensor(p.data.copy()) for p in used.parameters], 0.02, **clipping)
    for _ in range(2):  # at once, and after three more updates
        assert used.steps == new.steps
        assert_same_optimizers(used, new)
        updates(used, 3)
        updates(new, 3)


def test_names_of_what_is_saved():
    two = [Tensor(np.zeros(3)), Tensor(np.zeros(2))]
    names = {
        SGD: ["steps"],
        Momentum: ["velocity.0", "velocity.1", "steps"],
        RMSProp: ["ms.0", "ms.1", "steps"],
        Adam: ["m.0", "v.0", "m.1", "v.1", "steps"],
    }
    assert {kind: list(kind(two, 0.02).state_dict()) for kind in KINDS} == names


def test_state_of_another_optimizer_or_shape_is_refused_and_changes_nothing():
    optimizer = Adam(parameters(), 0.02)
    updates(optimizer, 2)
    before = state_copy(optimizer)
    with pytest.raises(ValueError, match=r"state has \['ms.0', .*'steps'\], expected \['m.0', .*'v.4'\]"):
        optimizer.load_state_dict(RMSProp(parameters(), 0.02).state_dict())
    other = Adam(parameters(), 0.02).state_dict()
    with pytest.raises(ValueError, match=r"optimizer state v.1 has shape \(6,\), expected \(5,\)"):
        optimizer.load_state_dict({**other, "v.1": np.zeros(6)})
    assert_same(optimizer.state_dict(), before, 0.0)


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


@pytest.mark.parametrize(
    "name, options, sentence",
    [
        ("adagrad", {}, "algorithm must be one of adam, rms_prop, momentum, sgd, got 'adagrad'"),
        *[(n, {"clip_what": "norm"}, 'clip_what must be "step" or "gradient", got \'norm\'') for n in ("sgd", "adam")],
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
    """It would be updated twice in a step."""
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


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"epoch": 0}, "epochs are counted from 1, got 0"),
        ({"epoch": 1, "divide_by": 0.0}, "divide_by must be above 0, got 0.0"),
        ({"epoch": 1, "divide_by": NAN}, "divide_by must be above 0, got nan"),
    ],
)
def test_decayed_refuses(options, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        decayed(1.0, **options)
