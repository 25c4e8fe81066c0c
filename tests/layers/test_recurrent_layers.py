"""Recurrent layers and stacks of them: parameters, states that are passed on, dropout between them, embeddings."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minizone import Tensor, Zoneout, gradcheck, gru, lstm, rnn
from minizone.autograd.tensor import no_grad
from minizone.layers import BNLSTM, GRU, LSTM, RNN, Buffer, Embedding, Linear, Module, RecurrentLayer, Stack
from minizone.layers.init import glorot
from minizone.optim import make
from tests.helpers import ROUNDING, assert_same, normal, one_hot, rng

T, D, H, B = 6, 3, 4, 2
LAYERS: dict[str, Callable[..., RecurrentLayer]] = {
    "lstm": LSTM,
    "gru": GRU,
    "rnn": RNN,
    "relu": partial(RNN, activation="relu"),
    "bn-lstm": partial(BNLSTM, steps=1, gamma=0.5),  # one row of statistics: later steps are alike
}
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


def stack(kind: str, n: int = 2, noisy: bool = False, **options: Any) -> Stack:
    return Stack([layer(kind, H if k else D, seed=k, noisy=noisy) for k in range(n)], **options)


def numbered(state: tuple[Tensor, ...]) -> dict[int, np.ndarray]:
    return {k: s.data for k, s in enumerate(state)}


# ---- parameters


@every_layer
def test_parameters_and_their_order(kind):
    named = dict(layer(kind).named_parameters())
    gains = ["gamma_x", "gamma_h", "gamma_c", "beta_c"] if kind == "bn-lstm" else []
    assert list(named) == ["W_x", "W_h", "b", *STATES[kind], *gains]
    G = GATES[kind] * H
    shapes = {"W_x": (G, D), "W_h": (G, H), "b": (G,), "gamma_x": (G,), "gamma_h": (G,)}
    assert {name: p.shape for name, p in named.items()} == {name: shapes.get(name, (H,)) for name in named}


@every_layer
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_biases_and_states_start_at_0_but_for_the_forget_gate(kind, dtype):
    made = LAYERS[kind](D, H, rng=rng(), dtype=dtype)
    expected = np.repeat([0, 1, 0, 0], H) if GATES[kind] == 4 else np.zeros(GATES[kind] * H)
    assert np.array_equal(made.b.data, expected)
    assert not any(getattr(made, name).data.any() for name in STATES[kind])
    assert {p.dtype for p in made.parameters()} == {np.dtype(dtype)}


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


def test_what_a_layer_cannot_do_is_refused():
    for wrong in (GRU, RNN):
        with pytest.raises(ValueError, match=rf"{wrong.__name__} has no cells to zone out, got Zoneout\(cells=0.5\)"):
            wrong(D, H, zoneout=Zoneout(cells=0.5), rng=rng())
    with pytest.raises(ValueError, match=r"RNN has no input gate to drop, got drop_inputs=0.5"):
        RNN(D, H, drop_inputs=0.5, rng=rng())
    with pytest.raises(ValueError, match="BNLSTM has no zoneout of the output gate, got output_gate='paper'"):
        BNLSTM(D, H, steps=3, output_gate="paper", rng=rng())
    for name in ("drop_inputs", "drop_hidden"):
        with pytest.raises(ValueError, match=rf"{name} must be in \[0, 1\], got 1.5"):
            LSTM(D, H, rng=rng(), **{name: 1.5})
    for name in ("dropout", "variational"):
        with pytest.raises(ValueError, match=rf"{name} must be in \[0, 1\], got -1"):
            Stack([LSTM(D, H, rng=rng())], **{name: -1})


# ---- what a layer computes


@pytest.mark.parametrize("tokens", [False, True], ids=["dense", "tokens"])
@pytest.mark.parametrize(
    ("kind", "function", "options"), [("gru", gru, {"input_mask": 0.8}), ("rnn", rnn, {}), ("lstm", lstm, {})]
)
def test_a_layer_is_the_function_with_its_parameters_and_expected_masks(kind, function, options, tokens):
    made = layer(kind, zoneout=Zoneout(0.0, 0.3), drop_hidden=0.5, **({"drop_inputs": 0.2} if options else {}))
    x = rng().integers(D, size=(T, B)) if tokens else normal(T, D, B)
    starts = [np.repeat(getattr(made, name).data[:, None], B, axis=1) for name in STATES[kind]]
    out = function(x, *starts, *(p.data for p in (made.W_x, made.W_h, made.b)), keep_h=0.3, **options)
    h = out[0] if kind == "lstm" else out
    own, last = made(x)
    assert_same({"h": own.data, "last": last[0].data}, {"h": h.data, "last": h.data[-1]}, 0.0)


@every_layer
def test_masks_are_drawn_from_the_generator_in_training_only(kind):
    made, x = layer(kind, noisy=True), normal(T, D, B)
    assert np.array_equal(made(x, rng=rng(1))[0].data, made(x, rng=rng(1))[0].data)
    assert not np.array_equal(made(x, rng=rng(1))[0].data, made(x, rng=rng(2))[0].data)
    if kind != "bn-lstm":  # whose statistics have moved
        assert np.array_equal(made(x)[0].data, made(x)[0].data)


@every_layer
def test_variational_mask_on_h_is_one_for_all_time_steps(kind):
    mask = layer(kind, drop_hidden=0.4).masks(T, 1000, rng())["hidden_mask"]
    assert mask.shape == (H, 1000) and set(np.unique(mask)) == {0, 1 / (1 - 0.4)}
    assert abs((mask == 0).mean() - 0.4) < 5 * (0.24 / mask.size) ** 0.5
    assert "hidden_mask" not in layer(kind, drop_hidden=0.4).masks(T, B, None)


@every_layer
def test_static_masks_are_those_of_the_seed_the_same_in_training_and_evaluation(kind):
    zoneout = Zoneout(0.5 if "lstm" in kind else 0.0, 0.5, static_steps=3)
    made, again, other = (layer(kind, seed=seed, zoneout=zoneout) for seed in (0, 0, 1))
    training, evaluation, twin, another = (
        layer.masks(T, B, generator)["keep_h"]
        for layer, generator in ((made, rng(5)), (made, None), (again, rng(6)), (other, None))
    )
    assert np.array_equal(training, evaluation) and np.array_equal(training, twin)
    assert np.array_equal(training[:3], training[3:]) and not np.array_equal(training, another)


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
def test_learned_states_and_all_weights_get_gradients(kind):
    made = layer(kind, noisy=True)
    h, _ = made(normal(T, D, 5), rng=rng())
    (h * normal(*h.shape)).sum().backward()
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name


TOY_RATES = {"adam": 0.03, "rms_prop": 0.01, "momentum": 0.02, "sgd": 0.05}


@every_layer
@pytest.mark.parametrize("algorithm", TOY_RATES)
def test_each_of_two_updates_reduces_the_loss(algorithm, kind):
    """The second one too: numpy-ml's cell fails on the second batch."""
    model, x, target = layer(kind), normal(T, D, 5), 0.5 * normal(T, H, 5)
    optimizer, losses = make(algorithm, model.parameters(), TOY_RATES[algorithm], clip=1.0), []
    for _ in range(3):
        h, _ = model(x, rng=rng())  # without any regularizer: only batch normalization takes notice of it
        loss = ((h - target) * (h - target)).mean()
        losses.append(float(loss))
        loss.backward()
        optimizer.step()
    assert losses[2] < losses[1] < losses[0]


# ---- stacks


class Echo(Module):
    """A layer that emits what it is given, and remembers it."""

    def states(self, x, state=None, rng=None, record=None):
        self.seen = x.data if isinstance(x, Tensor) else x
        return (x if isinstance(x, Tensor) else Tensor(x),)


def seen(x: Any, generator: Any, **options: float) -> list[np.ndarray]:
    """What enters each of two layers, and what leaves the stack."""
    echoes: Any = [Echo(), Echo()]
    out, _ = Stack(echoes, **options)(x, rng=generator)
    return [*(echo.seen for echo in echoes), out.data]


def test_dropout_is_on_what_enters_every_layer_and_on_the_output_with_fresh_masks():
    entered, between, out = seen(Tensor(np.ones((20, 30, 40))), rng(), dropout=0.5)
    masks = entered, between / np.where(entered == 0, 1, entered), out / np.where(between == 0, 1, between)
    N, alive = entered.size, 1.0
    for k, (values, mask) in enumerate(zip((entered, between, out), masks, strict=True)):
        assert set(np.unique(values)) == {0, 2.0 ** (k + 1)}
        alive /= 2
        assert abs((values != 0).sum() - alive * N) < 5 * (N * alive * (1 - alive)) ** 0.5, "independent masks"
        assert abs((mask[0] != mask[1]).mean()) > 0.2 * alive, "another one in every time step"


def test_variational_dropout_is_the_same_in_every_time_step():
    for k, values in enumerate(seen(Tensor(np.ones((9, 30, 40))), rng(), variational=0.5)):
        assert np.array_equal(values, np.broadcast_to(values[:1], values.shape))
        assert set(np.unique(values)) == {0, 2.0 ** (k + 1)}
        assert abs((values[0] == 0).mean() - (1 - 0.5 ** (k + 1))) < 5 * (0.25 / 1200) ** 0.5
        alive = [values[0].any(axis=axis).mean() for axis in (0, 1)]
        assert min(alive) > 0.9, "one for each unit and example"


@pytest.mark.parametrize("options", [{"dropout": 0.5}, {"variational": 0.5}])
def test_raw_inputs_are_not_dropped_but_what_the_layers_make_of_them_is_and_nothing_in_evaluation(options):
    assert all(np.array_equal(values, normal(T, D, B)) for values in seen(Tensor(normal(T, D, B)), None, **options))
    entered, between, _ = seen(normal(T, D, B), rng(), **options)
    assert np.array_equal(entered, normal(T, D, B)) and not np.array_equal(between, entered)


@every_layer
def test_a_stack_in_evaluation_is_its_layers_one_after_the_other(kind):
    made, x = stack(kind, 3, noisy=True, dropout=0.5, variational=0.3), normal(T, D, B)
    with no_grad():
        out, states = made(x)
        for member, last in zip(made.layers, states, strict=True):
            x, expected = member(x)
            assert_same(numbered(last), numbered(expected), 0.0)
    assert_same({"h": out.data}, {"h": x.data}, 0.0)


@every_layer
def test_a_stack_takes_and_gives_a_state_for_every_layer(kind):
    made, x = stack(kind), normal(T, D, B)
    whole, last = made(x)
    first, state = made(x[:2])
    second, state = made(x[2:], state)
    assert_same({"h": np.concatenate([first.data, second.data])}, {"h": whole.data}, ROUNDING)
    assert [len(each) for each in state] == [len(STATES[kind])] * 2
    for mine, expected in zip(state, last, strict=True):
        assert_same(numbered(mine), numbered(expected), ROUNDING)


# ---- batch normalization


def test_bn_layer_collects_in_training_and_uses_what_it_has_in_evaluation():
    made, x = BNLSTM(D, H, steps=T, alpha=0.25, rng=rng(), dtype=np.float64), normal(T, D, 5)
    before = made.mean.data.copy(), made.variance.data.copy()
    made(x)
    assert np.array_equal(made.mean.data, before[0]) and np.array_equal(made.variance.data, before[1])
    made(x, rng=rng())
    inputs = made.W_x.data @ x  # (T, 4H, 5), the first 4H of what is normalized
    np.testing.assert_allclose(made.mean.data[:, : 4 * H], 0.25 * inputs.mean(axis=2), rtol=1e-12)
    np.testing.assert_allclose(made.variance.data[:, : 4 * H], 0.75 + 0.25 * inputs.var(axis=2), rtol=1e-12)
    moved = made(x)[0].data
    made.mean.data[...], made.variance.data[...] = before
    assert not np.array_equal(made(x)[0].data, moved)


def test_statistics_travel_with_the_parameters_and_are_not_learned():
    one, other = (BNLSTM(D, H, steps=T, rng=rng(seed), dtype=np.float64) for seed in (0, 1))
    for _ in range(3):
        one(normal(T, D, 5), rng=rng())
    other.load_state_dict(one.state_dict())
    assert np.array_equal(one(normal(T, D, B))[0].data, other(normal(T, D, B))[0].data)
    assert other.mean.data.any() and not np.shares_memory(one.mean.data, other.mean.data)
    assert {"mean", "variance"} == dict(one.named_tensors()).keys() - dict(one.named_parameters()).keys()
    with other.statistics.reestimate():
        other(normal(T, D, 5))
    assert not np.array_equal(one.state_dict()["mean"], other.state_dict()["mean"]), "exact ones are saved as well"


# ---- modules


def test_a_buffer_is_saved_and_not_learned():
    class Counter(Module):
        def __init__(self):
            self.count, self.linear = Buffer(np.zeros(2)), Linear(1, 1, rng=rng())

    made, other = Counter(), Counter()
    made.count.data[:] = 7
    assert list(made.state_dict()) == ["count", "linear.W", "linear.b"] and len(made.parameters()) == 2
    other.load_state_dict(made.state_dict())
    assert (other.count.data == 7).all() and not other.count.requires_grad


@pytest.mark.parametrize("hash_seed", ["0", "1", "4242"])
def test_names_and_order_in_lists_of_modules_are_the_same_in_every_process(hash_seed):
    code = (
        "import numpy as np; from minizone.layers.recurrent import *; rng = np.random.default_rng(0)\n"
        "layers = [BNLSTM(2, 2, steps=1, rng=rng), GRU(2, 2, rng=rng), *(RNN(2, 2, rng=rng) for _ in range(10))]\n"
        "stack = Stack(layers); print(*(name for name, _ in stack.named_tensors()))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    first = ["W_x", "W_h", "b", "h0", "c0", "gamma_x", "gamma_h", "gamma_c", "beta_c", "mean", "variance"]
    names = [first, *[["W_x", "W_h", "b", "h0"]] * 11]
    assert printed == [f"layers.{k}.{name}" for k, each in enumerate(names) for name in each]


# ---- embeddings


@pytest.mark.parametrize("tokens", [[[0, 2], [1, 4]], [[3, 3], [3, 3], [0, 3]], [[4]]], ids=["all", "repeated", "one"])
def test_embedding_is_the_product_with_one_hot_columns_forward_and_backward(tokens):
    tokens, made = np.array(tokens), Embedding(5, D, rng=rng(), dtype=np.float64)

    def embed(W):
        made.W = W
        return made(tokens)

    W = normal(D, 5)
    gradcheck(embed, W, names=["W"])
    looked_up, product = Tensor(W), Tensor(W)
    x, expected = embed(looked_up), product @ Tensor(one_hot(tokens, 5), requires_grad=False)
    for y in (x, expected):
        y.backward(normal(*x.shape))
    assert_same({"x": x.data, "dW": looked_up.grad}, {"x": expected.data, "dW": product.grad}, 1e-14)


@pytest.mark.parametrize("token", [-1, 5, 99])
def test_embedding_refuses_a_token_outside_its_vocabulary(token):
    with pytest.raises(IndexError, match=rf"tokens must be in \[0, 5\), got {min(token, 2)} to {max(token, 2)}"):
        Embedding(5, D, rng=rng())(np.array([[2, token]]))
