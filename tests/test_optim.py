"""Adam against the formulas written out, number by number, and the two kinds of clipping."""

from __future__ import annotations

import math

import numpy as np
import pytest

from minizone import Tensor
from minizone.kernels.cpu import optim as cpu_optim
from minizone.optim import Adam
from tests.helpers import assert_same

SHAPES = [(3, 4), (5,), (1,), (2, 1, 3), ()]
N = sum(math.prod(shape) for shape in SHAPES)


def parameters(dtype=np.float64, seed: int = 0) -> list[Tensor]:
    rng = np.random.default_rng(seed)
    return [Tensor(np.asarray(rng.standard_normal(shape), dtype)) for shape in SHAPES]


def gradients(update: int, scale: float = 1.0, dtype=np.float64) -> list[np.ndarray]:
    """Of very different sizes, as those of a network are."""
    rng = np.random.default_rng(100 + update)
    return [np.asarray(scale * 10.0**-k * rng.standard_normal(shape), dtype) for k, shape in enumerate(SHAPES)]


def give(owners: list[Tensor], grads: list[np.ndarray]) -> None:
    for owner, grad in zip(owners, grads, strict=True):
        owner.grad = grad


def flat(arrays) -> np.ndarray:
    return np.concatenate([np.ravel(getattr(a, "data", a)) for a in arrays])


def updates(optimizer: Adam, count: int, first: int = 0, scale: float = 1.0) -> list[np.ndarray]:
    """The applied steps, each (N,): minus the changes of the parameters."""
    steps = []
    for update in range(first, first + count):
        give(optimizer.parameters, gradients(update, scale, optimizer.flat.dtype))
        before = flat(p.data.copy() for p in optimizer.parameters)
        optimizer.step()
        steps.append(before - flat(p.data for p in optimizer.parameters))
    return steps


def adam_by_hand(start, grads, lr, *, beta1=0.9, beta2=0.999, epsilon=1e-8, clip=0.0, clip_what="step") -> list[float]:
    """PAPER.md B.7, for a list of numbers: StepClipping, and epsilon after the bias-corrected rate, as in Blocks."""
    theta, m, v = list(start), [0.0] * len(start), [0.0] * len(start)
    for t, g in enumerate(grads, start=1):
        g = list(g)
        norm = math.sqrt(sum(number**2 for number in g))
        if clip_what == "gradient" and clip and norm >= clip:
            g = [number * (clip / norm) for number in g]
        rate = lr * math.sqrt(1 - beta2**t) / (1 - beta1**t)
        step = []
        for k, number in enumerate(g):
            m[k] = beta1 * m[k] + (1 - beta1) * number
            v[k] = beta2 * v[k] + (1 - beta2) * number**2
            step.append(rate * m[k] / (math.sqrt(v[k]) + epsilon))
        norm = math.sqrt(sum(number**2 for number in step))
        if clip_what == "step" and clip and norm >= clip:
            step = [number * (clip / norm) for number in step]
        theta = [old - number for old, number in zip(theta, step, strict=True)]
    return theta


@pytest.mark.parametrize("scale", [1e-6, 1.0], ids=["gradients near epsilon", "gradients of size 1"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"beta1": 0.5, "beta2": 0.9, "epsilon": 1e-3},
        {"clip": 0.05},
        {"clip": 0.05, "clip_what": "gradient"},
        {"clip": 1e6},
        {"clip": 1e6, "clip_what": "gradient"},
        {"clip": 0.0, "clip_what": "gradient"},
    ],
    ids=str,
)
def test_adam_is_its_formulas(options, scale):
    owners = parameters()
    start = flat(owners).copy()
    updates(Adam(owners, 0.02, **options), 8, scale=scale)
    expected = adam_by_hand(start, [flat(gradients(u, scale)) for u in range(8)], 0.02, **options)
    assert_same({"": flat(owners) - start}, {"": np.array(expected) - start}, 1e-13)


def test_adam_in_float32_is_its_formulas_and_stays_float32():
    owners = parameters(np.float32)
    start = flat(owners).copy()
    optimizer = Adam(owners, 0.02, clip=0.05)
    updates(optimizer, 8)
    expected = adam_by_hand(
        start.tolist(), [flat(gradients(u, dtype=np.float32)).tolist() for u in range(8)], 0.02, clip=0.05
    )
    np.testing.assert_allclose(flat(owners), expected, rtol=0, atol=1e-6)
    assert {a.dtype for a in (*(p.data for p in owners), optimizer.m, optimizer.v)} == {np.dtype(np.float32)}


def test_step_returns_the_norm_of_the_gradient_before_clipping():
    for options in ({}, {"clip": 0.01}, {"clip": 0.01, "clip_what": "gradient"}):
        optimizer = Adam(parameters(), 0.02, **options)
        give(optimizer.parameters, gradients(0))
        norm = optimizer.step()
        assert type(norm) is float
        assert norm == pytest.approx(np.linalg.norm(flat(gradients(0))), rel=1e-14)


# ---- clipping


def test_clipped_step_has_the_norm_of_the_clip_and_the_direction_of_the_unclipped_step():
    free, clipped = updates(Adam(parameters(), 0.02), 4), updates(Adam(parameters(), 0.02, clip=0.03), 4)
    for long, short in zip(free, clipped, strict=True):  # the moments do not see the clipping
        assert np.linalg.norm(long) > 0.04
        assert np.linalg.norm(short) == pytest.approx(0.03, rel=1e-12)
        np.testing.assert_allclose(short, long * (0.03 / np.linalg.norm(long)), rtol=0, atol=1e-15)


@pytest.mark.parametrize("clip_what", ["step", "gradient"])
def test_below_the_clip_nothing_changes_to_the_bit(clip_what):
    """The first step is 0.02 sqrt(N) = 0.1 long, the gradient about 4."""
    free, generous = parameters(), parameters()
    updates(Adam(free, 0.02), 6)
    updates(Adam(generous, 0.02, clip={"step": 0.11, "gradient": 20.0}[clip_what], clip_what=clip_what), 6)
    assert np.array_equal(flat(free), flat(generous))


def test_the_clip_is_of_the_step_by_default():
    """A gradient of 10^-4 would never be clipped at 0.05, the step it makes is."""
    steps = updates(Adam(parameters(), 0.02, clip=0.05), 1, scale=1e-4)
    assert np.linalg.norm(steps[0]) == pytest.approx(0.05, rel=1e-12)


def test_clipped_gradient_is_what_adam_sees():
    clipped, fed = parameters(), parameters()
    updates(Adam(clipped, 0.02, clip=0.5, clip_what="gradient"), 6)
    optimizer = Adam(fed, 0.02)
    for update in range(6):
        norm = np.linalg.norm(flat(gradients(update)))
        assert norm > 0.5
        give(fed, [g * (0.5 / norm) for g in gradients(update)])
        optimizer.step()
    assert_same({"": flat(clipped)}, {"": flat(fed)}, 1e-14)


def test_zero_gradient_moves_nothing():
    for clip_what in ("step", "gradient"):
        owners = parameters()
        before = flat(owners).copy()
        optimizer = Adam(owners, 0.02, clip=1.0, clip_what=clip_what)
        give(owners, [np.zeros(shape) for shape in SHAPES])
        assert optimizer.step() == 0.0
        assert np.array_equal(flat(owners), before)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("options", [{}, {"clip": 0.05}, {"clip": 0.05, "clip_what": "gradient"}], ids=str)
def test_gradient_that_is_not_finite_changes_nothing_and_shows_in_the_norm(options, bad):
    owners, undisturbed = parameters(), parameters()
    optimizer, other = Adam(owners, 0.02, **options), Adam(undisturbed, 0.02, **options)
    updates(optimizer, 2)
    updates(other, 2)
    grads = gradients(2)
    grads[1][3] = bad
    give(owners, grads)
    assert not math.isfinite(optimizer.step())
    assert np.array_equal(flat(owners), flat(undisturbed))
    updates(optimizer, 2, first=2)
    updates(other, 2, first=2)
    assert np.array_equal(flat(owners), flat(undisturbed))


# ---- parameters and gradients


def test_parameters_become_views_of_one_array_in_their_order():
    owners = parameters()
    before = [p.data.copy() for p in owners]
    optimizer = Adam(owners, 0.02)
    assert np.array_equal(optimizer.flat, flat(before))
    for owner, data in zip(owners, before, strict=True):
        assert np.array_equal(owner.data, data) and owner.shape == data.shape
        assert np.shares_memory(owner.data, optimizer.flat)


def test_gradients_are_none_after_a_step_and_not_changed_in_place():
    owners, grads = parameters(), gradients(0)
    kept = [g.copy() for g in grads]
    give(owners, grads)
    Adam(owners, 0.02, clip=0.01, clip_what="gradient").step()
    assert [p.grad for p in owners] == [None] * len(owners)
    assert all(np.array_equal(g, k) for g, k in zip(grads, kept, strict=True))


def test_missing_gradient_is_an_error_that_names_the_parameter():
    owners = parameters()
    before = flat(owners).copy()
    optimizer = Adam(owners, 0.02)
    give(owners, gradients(0))
    owners[3].grad = None
    with pytest.raises(ValueError, match=r"parameter 3 of shape \(2, 1, 3\) has no gradient"):
        optimizer.step()
    assert optimizer.steps == 0 and not optimizer.m.any() and np.array_equal(flat(owners), before)


def test_parameters_that_share_a_gradient_array_are_both_updated():
    """Add hands the same array to both of its inputs."""
    rng = np.random.default_rng(0)
    weight, start = rng.standard_normal((3, 2)), rng.standard_normal((2, 3, 2))
    for clip_what in ("step", "gradient"):
        a, b = Tensor(start[0].copy()), Tensor(start[1].copy())
        optimizer = Adam([a, b], 0.02, clip=0.01, clip_what=clip_what)
        for _ in range(3):
            ((a + b) * weight).sum().backward()
            assert a.grad is b.grad
            optimizer.step()
        grads = [np.concatenate([weight.ravel(), weight.ravel()])] * 3
        expected = adam_by_hand(start.ravel(), grads, 0.02, clip=0.01, clip_what=clip_what)
        assert_same({"": flat([a, b])}, {"": np.array(expected)}, 1e-14)


@pytest.mark.parametrize("layout", [np.asfortranarray, lambda g: np.broadcast_to(g, g.shape), lambda g: g[::-1][::-1]])
def test_gradients_of_any_memory_layout(layout):
    rng = np.random.default_rng(0)
    grad, start = rng.standard_normal((4, 3)), rng.standard_normal((4, 3))
    p = Tensor(np.asfortranarray(start))
    optimizer = Adam([p], 0.02)
    p.grad = layout(grad)
    optimizer.step()
    expected = adam_by_hand(start.ravel(), [grad.ravel()], 0.02)
    assert_same({"": p.data.ravel()}, {"": np.array(expected)}, 1e-14)


@pytest.mark.parametrize("piece", [1, 7, N - 1, N, N + 1])
@pytest.mark.parametrize("options", [{}, {"clip": 0.05}, {"clip": 0.05, "clip_what": "gradient"}], ids=str)
def test_pieces_of_any_size_give_the_same_to_the_bit(monkeypatch, piece, options):
    """More parameters than one piece has room for; the last piece is cut off, and the norm is over all."""
    whole, pieces = parameters(), parameters()
    updates(Adam(whole, 0.02, **options), 5)
    monkeypatch.setattr(cpu_optim, "PIECE", piece)
    updates(Adam(pieces, 0.02, **options), 5)
    assert np.array_equal(flat(whole), flat(pieces))


def test_more_parameters_than_the_real_piece_has_room_for():
    rng = np.random.default_rng(0)
    start, grads = rng.standard_normal(cpu_optim.PIECE + 1000), rng.standard_normal((2, cpu_optim.PIECE + 1000))
    p = Tensor(start.copy())
    optimizer = Adam([p], 0.02)
    for g in grads:
        p.grad = g
        optimizer.step()
    assert_same({"": p.data}, {"": np.array(adam_by_hand(start.tolist(), grads.tolist(), 0.02))}, 1e-14)


# ---- stop and go on


def test_optimizer_restored_from_its_state_goes_on_bit_for_bit():
    owners = parameters()
    optimizer = Adam(owners, 0.02, clip=0.05)
    updates(optimizer, 3)
    saved, kept = ({name: array.copy() for name, array in optimizer.state_dict().items()} for _ in range(2))
    restored_owners = [Tensor(p.data.copy()) for p in owners]
    restored = Adam(restored_owners, 0.02, clip=0.05)
    restored.load_state_dict(saved)
    assert restored.steps == 3
    updates(optimizer, 3, first=3)
    updates(restored, 3, first=3)
    assert np.array_equal(flat(owners), flat(restored_owners))
    assert_same(restored.state_dict(), optimizer.state_dict(), 0.0)
    assert_same(saved, kept, 0.0)


@pytest.mark.parametrize("wrong", ["m", "v"])
def test_state_of_another_size_is_refused(wrong):
    optimizer = Adam(parameters(), 0.02)
    state = {**optimizer.state_dict(), wrong: np.zeros(N + 1)}
    with pytest.raises(ValueError, match=f"optimizer state {wrong} has {N + 1} numbers, expected {N}"):
        optimizer.load_state_dict(state)


def test_unknown_clipping_is_refused():
    with pytest.raises(ValueError, match='clip_what must be "step" or "gradient", got \'norm\''):
        Adam(parameters(), 0.02, clip_what="norm")
