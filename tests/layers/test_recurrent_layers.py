"""Recurrent layers and stacks of them: parameters, masks, states that are passed on, dropout between layers."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from minizone import Adam, Tensor, Zoneout, bn_lstm, gru, lstm, no_grad, rnn
from minizone.layers import BNLSTM, GRU, LSTM, RNN, Module, RecurrentLayer, Stack
from minizone.layers.init import glorot, orthogonal_blocks
from tests.helpers import ROUNDING, as_tuple, assert_same, dense_and_tokens, normal, rng

T, D, H, B = 6, 3, 4, 5
LAYERS: dict[str, Callable[..., RecurrentLayer]] = {
    "lstm": LSTM,
    "gru": GRU,
    "rnn": RNN,
    "relu": partial(RNN, activation="relu"),
    "bn-lstm": partial(BNLSTM, steps=1, gamma=0.5),  # one row of statistics: later steps are alike
}
FUNCTIONS = {"lstm": lstm, "gru": gru, "rnn": rnn, "relu": partial(rnn, activation="relu"), "bn-lstm": bn_lstm}
GATES = {"lstm": 4, "gru": 3, "rnn": 1, "relu": 1, "bn-lstm": 4}
CANDIDATE = {"lstm": 2, "gru": 2, "rnn": 0, "relu": 0, "bn-lstm": 2}
STATES = {"lstm": ["h0", "c0"], "gru": ["h0"], "rnn": ["h0"], "relu": ["h0"], "bn-lstm": ["h0", "c0"]}
every_layer = pytest.mark.parametrize("kind", LAYERS)


def layer(kind: str, inputs: int = D, seed: int = 0, noisy: bool = False, **options: Any) -> RecurrentLayer:
    """A layer in float64 with initial states that are not 0; ``noisy``: with every regularizer that it can have."""
    if noisy:
        options |= {"zoneout": Zoneout(0.5 if "lstm" in kind else 0.0, 0.3), "drop_hidden": 0.4}
        options |= {"drop_inputs": 0.2} if GATES[kind] > 1 else {}
    made = LAYERS[kind](inputs, H, rng=rng(seed), dtype=np.float64, **options)
    for k, name in enumerate(STATES[kind] if hasattr(made, "h0") else ()):
        getattr(made, name).data[:] = rng(seed + 10 + k).standard_normal(H)
    return made


def numbered(state: tuple[Tensor, ...]) -> dict[int, np.ndarray]:
    return {k: s.data for k, s in enumerate(state)}


# ---- parameters


@every_layer
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_parameters_their_order_and_where_they_start(kind, dtype):
    """Biases and states start at 0, but for the forget gate at 1; weights are drawn in the order of the parameters."""
    made = LAYERS[kind](D, H, rng=rng(), dtype=dtype, initializer=glorot)
    named = dict(made.named_parameters())
    gains = ["gamma_x", "gamma_h", "gamma_c", "beta_c"] if kind == "bn-lstm" else []
    assert list(named) == ["W_x", "W_h", "b", *STATES[kind], *gains]
    G = GATES[kind] * H
    shapes = {"W_x": (G, D), "W_h": (G, H), "b": (G,), "gamma_x": (G,), "gamma_h": (G,)}
    assert {name: p.shape for name, p in named.items()} == {name: shapes.get(name, (H,)) for name in named}
    assert {p.dtype for p in named.values()} == {np.dtype(dtype)}
    generator = rng()
    assert np.array_equal(made.W_x.data, glorot(generator, (G, D), dtype))
    assert np.array_equal(made.W_h.data, glorot(generator, (G, H), dtype))
    assert np.array_equal(made.b.data, np.repeat([0, 1, 0, 0], H) if GATES[kind] == 4 else np.zeros(G))
    assert not any(named[name].data.any() for name in STATES[kind])
    assert np.array_equal(LAYERS[kind](D, H, rng=rng()).W_x.data, orthogonal_blocks(rng(), (G, D)))


@pytest.mark.parametrize("bias", [0.0, 2.5])
def test_forget_bias_is_an_option(bias):
    assert np.array_equal(LSTM(D, H, forget_bias=bias, rng=rng()).b.data, np.repeat([0.0, bias, 0.0, 0.0], H))


@every_layer
def test_identity_is_where_W_h_makes_the_candidate_and_nowhere_else(kind):
    plain, made = (layer(kind, initializer=glorot, identity=i).W_h.data.reshape(-1, H, H) for i in (False, True))
    for block in range(GATES[kind]):
        expected = np.eye(H) if block == CANDIDATE[kind] else plain[block]
        assert np.array_equal(made[block], expected), block


@every_layer
def test_without_learned_states_there_are_none_and_the_sequence_starts_at_0(kind):
    made, other = layer(kind, learned_state=False), layer(kind)
    assert not {"h0", "c0"} & set(dict(made.named_tensors()))
    zeros = tuple(np.zeros((H, B)) for _ in STATES[kind])
    assert_same({"h": made(normal(T, D, B))[0].data}, {"h": other(normal(T, D, B), zeros)[0].data}, ROUNDING)
    assert not any(state.data.any() or state.requires_grad for state in made.initial_state(B))


@every_layer
def test_learned_states_get_the_sum_of_the_gradients_of_the_examples(kind):
    made, x = layer(kind, noisy=True), normal(T, D, B)
    h, _ = made(x, rng=rng())
    (h * normal(*h.shape)).sum().backward()
    learned = {name: parameter.grad for name, parameter in made.named_parameters()}
    assert all(gradient is not None and gradient.any() for gradient in learned.values())
    start = tuple(Tensor(np.repeat(getattr(made, name).data[:, None], B, axis=1)) for name in STATES[kind])
    h, _ = made(x, start, rng=rng())
    (h * normal(*h.shape)).sum().backward()
    for name, state in zip(STATES[kind], start, strict=True):
        np.testing.assert_allclose(learned[name], state.grad.sum(axis=1), rtol=1e-10)


def test_what_a_layer_cannot_do_is_refused():
    for wrong in (GRU, RNN):
        with pytest.raises(ValueError, match=rf"{wrong.__name__} has no cells to zone out, got Zoneout\(cells=0.5\)"):
            wrong(D, H, zoneout=Zoneout(cells=0.5), rng=rng())
    with pytest.raises(ValueError, match=r"RNN has no input gate to drop, got drop_inputs=0.5"):
        RNN(D, H, drop_inputs=0.5, rng=rng())
    with pytest.raises(ValueError, match="BNLSTM has no zoneout of the output gate, got output_gate='paper'"):
        BNLSTM(D, H, steps=3, output_gate="paper", rng=rng())
    for name in ("dropout", "variational"):
        with pytest.raises(ValueError, match=rf"{name} must be in \[0, 1\], got -1"):
            Stack([LSTM(D, H, rng=rng())], **{name: -1})


@every_layer
def test_state_of_another_number_is_refused(kind):
    """An empty tuple was once taken for the initial states."""
    made, h = layer(kind), np.ones((H, B))
    one_less, one_more = (h,) * (len(STATES[kind]) - 1), (h,) * (len(STATES[kind]) + 1)
    cases: list[Any] = [(state, [(H, B)] * len(state)) for state in ((), one_less, one_more)]
    cases += [(h, "ndarray"), (Tensor(h), "Tensor")]
    for state, found in cases:
        names = "(h, c)" if len(STATES[kind]) == 2 else "(h,)"
        sentence = re.escape(f"must be {names}, each (H, B), got {found}")
        with pytest.raises(ValueError, match=sentence):
            made(normal(T, D, B), state)
        with pytest.raises(ValueError, match=sentence):
            Stack([made])(normal(T, D, B), [state])


@pytest.mark.parametrize("n", [0, 1, 3])
def test_stack_wants_one_state_for_each_layer(n):
    """One too many was once ignored by ``states``, none at all was once the initial ones."""
    made = Stack([layer("lstm"), layer("lstm", inputs=H)])
    state = (Tensor(np.ones((H, B))),) * 2
    for function in (made, made.states):
        with pytest.raises(ValueError, match=f"state must be a list of 2, one for each layer, got {n}"):
            function(normal(T, D, B), [state] * n)


@every_layer
def test_a_probability_in_place_of_zoneout_is_an_error_that_says_how_it_is_written(kind):
    with pytest.raises(TypeError, match=r"zoneout must be a Zoneout, as in Zoneout\(cells=0.5, states=0.05\), got 0.5"):
        layer(kind, zoneout=0.5)


# ---- what a layer computes


@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn", "relu", "bn-lstm"])
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@dense_and_tokens
def test_layer_is_the_function_with_its_parameters_and_the_masks_that_it_draws(tokens, training, kind):
    """A generator that was used up to the masks gives no more: backward draws nothing."""
    made = layer(kind, noisy=True)
    x = rng().integers(D, size=(T, B)) if tokens else normal(T, D, B)
    options = made.masks(T, B, rng(1) if training else None)
    if kind == "bn-lstm" and not training:
        options["statistics"] = made.statistics.with_first_step(made.W_h.data @ made.h0.data)
    states = [np.repeat(getattr(made, name).data[:, None], B, axis=1) for name in STATES[kind]]
    weights = [p.data for name, p in made.named_parameters() if name not in STATES[kind]]
    expected = as_tuple(FUNCTIONS[kind](x, *states, *weights, **options))
    generator = rng(1) if training else None
    h, last = made(x, rng=generator)
    assert_same({"h": h.data}, {"h": expected[0].data}, 0.0)
    assert_same(numbered(last), {k: y.data[-1] for k, y in enumerate(expected)}, 0.0)
    if training:
        after_forward = generator.bit_generator.state
        h.sum().backward()
        assert generator.bit_generator.state == after_forward


@every_layer
def test_variational_mask_on_h_is_one_for_all_time_steps(kind):
    mask = layer(kind, drop_hidden=0.4).masks(T, 1000, rng())["hidden_mask"]
    assert mask.shape == (H, 1000) and set(np.unique(mask)) == {0, 1 / (1 - 0.4)}
    assert abs((mask == 0).mean() - 0.4) < 5 * (0.24 / mask.size) ** 0.5
    assert "hidden_mask" not in layer(kind, drop_hidden=0.4).masks(T, B, None)


@every_layer
def test_static_masks_are_those_of_the_seed_and_the_same_in_training_and_evaluation(kind):
    zoneout = Zoneout(0.5 if "lstm" in kind else 0.0, 0.5, static_steps=3)
    made, same_seed, other_seed = (layer(kind, seed=seed, zoneout=zoneout) for seed in (0, 0, 1))
    in_training = made.masks(T, B, rng(5))["keep_h"]
    assert in_training.shape == (T, H, 1) and set(np.unique(in_training)) == {0, 1}, "of 0 and 1, for all examples"
    assert np.array_equal(in_training, made.masks(T, B, None)["keep_h"])
    assert np.array_equal(in_training, same_seed.masks(T, B, rng(6))["keep_h"])
    assert np.array_equal(in_training[:3], in_training[3:])
    assert not np.array_equal(in_training, other_seed.masks(T, B, None)["keep_h"])


@every_layer
@pytest.mark.parametrize("zoneout", [Zoneout(), Zoneout(0.0, 0.3), Zoneout(0.0, 0.5, static_steps=3)])
def test_two_halves_with_the_state_carried_are_one_run(kind, zoneout):
    made, x = layer(kind, zoneout=zoneout), normal(T, D, B)
    whole, last = made(x)
    first, state = made(x[:3])
    second, state = made(x[3:], state)
    assert_same({"h": np.concatenate([first.data, second.data])}, {"h": whole.data}, ROUNDING)
    assert_same(numbered(state), numbered(last), ROUNDING)


@every_layer
def test_after_no_steps_a_layer_is_in_the_state_in_which_it_began(kind):
    made = layer(kind)
    h, last = made(np.zeros((0, 2), np.uint8))
    assert h.shape == (0, H, 2)
    for name, state in zip(STATES[kind], last, strict=True):
        assert np.array_equal(state.data, np.repeat(getattr(made, name).data[:, None], 2, axis=1))
    assert made(np.zeros((0, D, 2)), last)[1] == last
    assert Stack([made])(np.zeros((0, D, 2)), [last])[1] == [last]


@every_layer
def test_each_of_two_updates_reduces_the_loss(kind):
    """The second one too: numpy-ml's cell fails on the second batch."""
    model, x, target = layer(kind), normal(T, D, B), 0.5 * normal(T, H, B)
    optimizer, losses = Adam(model.parameters(), 0.03), []
    for _ in range(3):
        h, _ = model(x, rng=rng())  # without any regularizer: only batch normalization takes notice of it
        loss = ((h - target) * (h - target)).mean()
        losses.append(float(loss))
        loss.backward()
        optimizer.step()
    assert losses[2] < losses[1] < losses[0]


@every_layer
def test_a_state_carried_past_an_update_is_an_error_and_right_when_it_is_detached(kind):
    """The graph of the first chunk needs weights that the update has overwritten."""
    made = layer(kind)
    optimizer = Adam(made.parameters(), 0.1)
    h, state = made(normal(T, D, B))
    (h * h).sum().backward()
    optimizer.step()

    h, _ = made(normal(T, D, B), state)
    with pytest.raises(RuntimeError, match=r"was changed in place, by optimizer\.step\(\).*detach\(\)"):
        (h * h).sum().backward()

    weights = [p for name, p in made.named_parameters() if name not in STATES[kind]]
    found = []
    for start in ([s.detach() for s in state], [Tensor(s.data.copy(), requires_grad=False) for s in state]):
        for p in weights:
            p.grad = None
        h, _ = made(normal(T, D, B), tuple(start))
        (h * h).sum().backward()
        found.append({k: p.grad for k, p in enumerate(weights)})
    assert_same(*found, ROUNDING)


@every_layer
def test_a_detached_state_is_carried_over_many_updates(kind):
    """From the second update on the loss does not depend on the initial state, which then has no gradient."""
    made, state, losses = layer(kind), None, []
    optimizer = Adam(made.parameters(), 0.05)
    for _ in range(4):
        h, state = made(normal(T, D, B), state)
        loss = ((h - 0.5) ** 2).sum()
        loss.backward()
        optimizer.step()
        state = tuple(s.detach() for s in state)
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True) and len(set(losses)) == 4


# ---- stacks


class Echo(Module):
    """A layer that emits what it is given, and remembers it."""

    def states(self, x, state=None, rng=None, record=None):
        self.entered = x.data if isinstance(x, Tensor) else x
        return (x if isinstance(x, Tensor) else Tensor(x),)


def through_two_layers(x: Any, generator: Any, **options: float) -> list[np.ndarray]:
    """What enters each of two layers, and what leaves the stack."""
    echoes: Any = [Echo(), Echo()]
    out, _ = Stack(echoes, **options)(x, rng=generator)
    return [*(echo.entered for echo in echoes), out.data]


def test_dropout_is_on_what_enters_every_layer_and_on_the_output_with_fresh_masks():
    entered, between, out = through_two_layers(Tensor(np.ones((20, 30, 40))), rng(), dropout=0.5)
    masks = entered, between / np.where(entered == 0, 1, entered), out / np.where(between == 0, 1, between)
    N, alive = entered.size, 1.0
    for k, (values, mask) in enumerate(zip((entered, between, out), masks, strict=True)):
        assert set(np.unique(values)) == {0, 2.0 ** (k + 1)}
        alive /= 2
        assert abs((values != 0).sum() - alive * N) < 5 * (N * alive * (1 - alive)) ** 0.5, "independent masks"
        assert abs((mask[0] != mask[1]).mean()) > 0.2 * alive, "another one in every time step"


def test_variational_dropout_is_the_same_in_every_time_step():
    for k, values in enumerate(through_two_layers(Tensor(np.ones((9, 30, 40))), rng(), variational=0.5)):
        assert np.array_equal(values, np.broadcast_to(values[:1], values.shape))
        assert set(np.unique(values)) == {0, 2.0 ** (k + 1)}
        assert abs((values[0] == 0).mean() - (1 - 0.5 ** (k + 1))) < 5 * (0.25 / 1200) ** 0.5
        alive = [values[0].any(axis=axis).mean() for axis in (0, 1)]
        assert min(alive) > 0.9, "one for each unit and example"


@pytest.mark.parametrize("options", [{"dropout": 0.5}, {"variational": 0.5}])
def test_raw_inputs_are_not_dropped_but_what_the_layers_make_of_them_is_and_nothing_in_evaluation(options):
    x = normal(T, D, B)
    assert all(np.array_equal(values, x) for values in through_two_layers(Tensor(x), None, **options))
    entered, between, _ = through_two_layers(x, rng(), **options)
    assert np.array_equal(entered, x) and not np.array_equal(between, entered)


@pytest.mark.parametrize("options", [{"dropout": 0.5}, {"variational": 0.5}])
def test_tokens_in_a_tensor_are_not_dropped(options):
    made, tokens = Stack([layer("lstm")], **options), rng().integers(D, size=(T, B))
    assert_same({"h": made(Tensor(tokens), rng=rng())[0].data}, {"h": made(tokens, rng=rng())[0].data}, 0.0)


@every_layer
def test_stack_in_evaluation_is_its_layers_one_after_the_other_and_carries_their_states(kind):
    members = [layer(kind, H if k else D, seed=k, noisy=True) for k in range(3)]
    made, x = Stack(members, dropout=0.5, variational=0.3), normal(T, D, B)
    with no_grad():
        out, states = made(x)
        below, expected = x, []
        for member in members:
            below, last = member(below)
            expected.append(last)
        first, state = made(x[:2])
        second, state = made(x[2:], state)
    assert_same({"h": out.data}, {"h": below.data}, 0.0)
    assert_same({"h": np.concatenate([first.data, second.data])}, {"h": out.data}, ROUNDING)
    for found, carried, last in zip(states, state, expected, strict=True):
        assert_same(numbered(found), numbered(last), 0.0)
        assert_same(numbered(carried), numbered(last), ROUNDING)


# ---- batch normalization


def test_bn_layer_collects_in_training_and_uses_what_it_has_in_evaluation():
    made, x = BNLSTM(D, H, steps=T, alpha=0.25, rng=rng(), dtype=np.float64), normal(T, D, B)
    before = made.mean.data.copy(), made.variance.data.copy()
    made(x)
    assert np.array_equal(made.mean.data, before[0]) and np.array_equal(made.variance.data, before[1])
    made(x, rng=rng())
    inputs = made.W_x.data @ x  # (T, 4H, B), the first 4H of what is normalized
    np.testing.assert_allclose(made.mean.data[:, : 4 * H], 0.25 * inputs.mean(axis=2), rtol=1e-12)
    np.testing.assert_allclose(made.variance.data[:, : 4 * H], 0.75 + 0.25 * inputs.var(axis=2), rtol=1e-12)
    moved = made(x)[0].data
    made.mean.data[...], made.variance.data[...] = before
    assert not np.array_equal(made(x)[0].data, moved)


def test_statistics_travel_with_the_parameters_and_are_not_learned():
    one, other = (BNLSTM(D, H, steps=T, rng=rng(seed), dtype=np.float64) for seed in (0, 1))
    for _ in range(3):
        one(normal(T, D, B), rng=rng())
    other.load_state_dict(one.state_dict())
    assert np.array_equal(one(normal(T, D, B))[0].data, other(normal(T, D, B))[0].data)
    assert other.mean.data.any() and not np.shares_memory(one.mean.data, other.mean.data)
    assert {"mean", "variance"} == dict(one.named_tensors()).keys() - dict(one.named_parameters()).keys()
    with other.statistics.reestimate():
        other(normal(T, D, B))
    assert not np.array_equal(one.state_dict()["mean"], other.state_dict()["mean"]), "exact ones are saved as well"


def test_bn_layer_collects_nothing_from_an_empty_minibatch():
    made = BNLSTM(D, H, steps=2, rng=rng())
    with pytest.raises(ValueError, match="a minibatch needs at least one example to have statistics"):
        made(np.zeros((2, 0), np.uint8), rng=rng())
    assert np.isfinite(made.mean.data).all()
