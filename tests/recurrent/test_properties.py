"""What holds for all shapes, masks, dtypes and memory layouts, and for any order in which Python hashes its strings.

How many cases were tried, and how far off the worst one was, is printed at the end of a run of the tests.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import zlib
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from minizone import Tensor, Zoneout, bn_lstm, gru, lstm, rnn
from minizone.autograd.ops import softmax_cross_entropy
from minizone.layers import BNLSTM, GRU, LSTM, RNN, Embedding, Linear, Module, RecurrentLayer, Stack
from minizone.layers import recurrent as layers
from minizone.optim import make
from minizone.recurrent.bn_lstm import Statistics
from minizone.recurrent.cells import bn_lstm_unrolled, gru_unrolled, lstm_unrolled, rnn_unrolled
from tests.helpers import LOSSES, LOSSES_OF_H, SHAPES, Arrays, problem, rng, tensors
from tests.recurrent.test_lstm_execution import LAYOUTS

MANY = settings(max_examples=120, deadline=None, derandomize=True)  # the same cases in every run
SOME = settings(MANY, max_examples=40)


class Pair(NamedTuple):
    """A fused function, the reference beside it, and what their arguments are."""

    fused: Any
    reference: Any
    gates: int
    masks: tuple[str, ...]
    gains: bool = False


PAIRS = {
    "lstm": Pair(lstm, lstm_unrolled, 4, ("keep_h", "keep_c", "input_mask", "hidden_mask")),
    "gru": Pair(gru, gru_unrolled, 3, ("keep_h", "input_mask", "hidden_mask")),
    "rnn": Pair(rnn, rnn_unrolled, 1, ("keep_h", "hidden_mask")),
    "relu": Pair(*(partial(f, activation="relu") for f in (rnn, rnn_unrolled)), 1, ("keep_h", "hidden_mask")),
    "bn_lstm": Pair(bn_lstm, bn_lstm_unrolled, 4, ("keep_h", "keep_c", "input_mask", "hidden_mask"), gains=True),
}
every_pair = pytest.mark.parametrize("name", PAIRS)
sizes = st.integers(0, 4)
TOKENS = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"]


class Worst:
    """How many cases were tried, and the largest error relative to the largest element of its array."""

    def __init__(self) -> None:
        self.cases, self.error = 0, 0.0

    def compare(self, found: Arrays, expected: Arrays, tolerance: float) -> None:
        """Same names, shapes and dtypes, and values up to the tolerance."""
        self.cases += 1
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert found[name].shape == value.shape and found[name].dtype == value.dtype, name
            off = np.abs(found[name] - value).max(initial=0) / max(np.abs(value).max(initial=0), 1e-3)
            assert off <= tolerance, f"{name} is off by {off:.1e}"
            self.error = max(self.error, float(off))

    def record(self, what: str, record_property: Any) -> None:
        record_property(f"{what}: cases", self.cases)
        record_property(f"{what}: largest relative error", self.error)


def case(draw: Any, pair: Pair, shape: tuple[int, int, int, int], dtype: Any) -> tuple[Arrays, Arrays]:
    """Arguments and masks of a function for T, B, D, H, with axes of no or one element among them."""
    T, B, D, H = shape
    tokens, seed = draw(st.booleans()) and (D > 0 or T * B == 0), draw(st.integers(0, 10**6))
    generator = rng(seed)
    arguments = problem(T, B, D=max(D, 1), H=max(H, 1), tokens=tokens, dtype=dtype, seed=seed, gates=pair.gates)
    cut = {"x": arguments["x"] if tokens else arguments["x"][:, :D], "b": arguments["b"][: pair.gates * H]}
    cut |= {"W_x": arguments["W_x"][: pair.gates * H, :D], "W_h": arguments["W_h"][: pair.gates * H, :H]}
    arguments |= cut | {name: arguments[name][:H] for name in ("h0", "c0") if name in arguments}
    if pair.gains:
        for name, n in (("gamma_x", 4 * H), ("gamma_h", 4 * H), ("gamma_c", H), ("beta_c", H)):
            arguments[name] = generator.standard_normal(n).astype(dtype)
    if tokens:
        arguments["x"] = arguments["x"].astype(draw(st.sampled_from(TOKENS)))
    options = {}
    for name in pair.masks:
        axes = draw(st.sampled_from([None, *SHAPES]))
        if axes is not None:
            values = generator.random([{"T": T, "H": H, "B": B, "1": 1}[axis] for axis in axes])
            kind = draw(st.sampled_from(["0 and 1", "boolean", "probability"]))
            options[name] = {"0 and 1": (values < 0.5).astype(dtype), "boolean": np.asarray(values < 0.5)}.get(
                kind, np.asarray(values, dtype)
            )
    return arguments, options


def outcome(function: Any, arguments: Arrays, options: Arrays) -> Arrays:
    """Outputs, and gradients of a loss with random weights; what the loss does not reach has a gradient of 0."""
    leaves = tensors(arguments)
    out = function(**leaves, **options)
    h, *c = out if isinstance(out, tuple) else (out,)
    weights = rng(99).standard_normal((2, *h.shape)).astype(h.dtype)
    (LOSSES["h and c"] if c else LOSSES_OF_H["h"])(h, *c, weights).backward()
    results = {"h": h.data} | ({"c": c[0].data} if c else {})
    for name, leaf in leaves.items():
        if isinstance(leaf, Tensor):
            results[f"d{name}"] = np.zeros_like(leaf.data) if leaf.grad is None else leaf.grad
    return results


@every_pair
def test_fused_equals_reference_in_all_shapes_masks_dtypes_and_layouts(name, record_property):
    """And changes no argument. In float32 a rectifier may see another side of 0, so it is compared in float64 alone."""
    pair, worst = PAIRS[name], Worst()

    @MANY
    @given(st.data(), st.tuples(sizes, sizes, sizes, sizes), st.booleans(), st.booleans())
    def check(data, shape, single, population):
        T, B, _, H = shape
        dtype = np.float32 if single and name not in ("relu", "bn_lstm") else np.float64
        arguments, options = case(data.draw, pair, shape, dtype)
        if pair.gains:
            assume(population or B > 0 or T == 0)
            options["statistics"] = Statistics(2, H, dtype=dtype) if population else None
        moved = arguments | options
        for key, value in moved.items():
            if isinstance(value, np.ndarray) and value.ndim:
                moved[key] = LAYOUTS[data.draw(st.sampled_from(sorted(LAYOUTS)))](value)
        before = {key: value.copy() for key, value in moved.items() if isinstance(value, np.ndarray)}
        found = outcome(pair.fused, {key: moved[key] for key in arguments}, {key: moved[key] for key in options})
        assert all(np.array_equal(moved[key], value) for key, value in before.items()), "an argument was changed"
        for key in set(pair.masks) & options.keys():  # 1 - boolean is an integer, and that times float32 is float64
            options[key] = options[key].astype(dtype)
        worst.compare(found, outcome(pair.reference, arguments, options), 1e-4 if dtype is np.float32 else 1e-8)

    check()
    worst.record("fused = reference", record_property)


@every_pair
def test_one_tensor_in_every_place_where_it_fits_gets_the_sum_of_its_gradients(name, record_property):
    """The same Tensor as h0 and c0, as W_x and W_h, as both gains; and x is also the initial state."""
    pair, worst = PAIRS[name], Worst()

    def shared(function: Any, arguments: Arrays, options: Arrays) -> Arrays:
        x, h0, W, *vectors = (Tensor(arguments[key]) for key in ("x", "h0", "W_h", "b"))
        states = [h0 * 1.0 + x[0], h0][: 2 if pair.gates == 4 else 1]  # of two nodes, and of the leaf itself
        gains = [vectors[0], vectors[0], h0[:, 0], h0[:, 0]] if pair.gains else []
        out = function(x, *states, W, W, vectors[0], *gains, **options)
        h, *c = out if isinstance(out, tuple) else (out,)
        again = function(h + x, *states, W, W, vectors[0], *gains, **options)
        more, *_ = again if isinstance(again, tuple) else (again,)
        ((h * more).sum() + sum((each * each).sum() for each in c)).backward()
        return {"h": h.data, "more": more.data, "dx": x.grad, "dh0": h0.grad, "dW": W.grad, "db": vectors[0].grad}

    @SOME
    @given(st.data(), st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))
    def check(data, T, B, H):
        arguments, options = case(data.draw, pair, (T, B, H, H), np.float64)
        arguments["x"] = rng(T + B + H).standard_normal((T, H, B))
        worst.compare(shared(pair.fused, arguments, options), shared(pair.reference, arguments, options), 1e-6)

    check()
    worst.record("fused = reference, one tensor in several places", record_property)


# ---- edges that were found so


def test_after_no_steps_a_layer_is_in_the_state_in_which_it_began():
    for kind in (LSTM, GRU, RNN, partial(BNLSTM, steps=2)):
        layer = kind(3, 4, rng=rng())
        layer.h0.data[:] = 1
        h, last = layer(np.zeros((0, 2), np.uint8), rng=rng())
        assert h.shape == (0, 4, 2) and all(state.shape == (4, 2) for state in last)
        assert (last[0].data == 1).all()
        assert layer(np.zeros((0, 3, 2), np.float32), last)[1] == last
        assert Stack([layer])(np.zeros((0, 3, 2), np.float32), [last])[1] == [last]


def test_a_mean_of_nothing_is_refused_in_a_sentence():
    with pytest.raises(ValueError, match="a mean needs at least one column"):
        softmax_cross_entropy(Tensor(np.ones((0, 5, 3))), np.zeros((0, 3), int))
    layer = BNLSTM(3, 4, steps=2, rng=rng())
    with pytest.raises(ValueError, match="a minibatch of no examples has no statistics"):
        layer(np.zeros((2, 0), np.uint8), rng=rng())
    assert np.isfinite(layer.mean.data).all(), "and none were collected"


@pytest.mark.parametrize("function", [rnn, rnn_unrolled])
def test_a_rectifier_makes_0_of_minus_infinity(function):
    h = function(
        Tensor(np.full((2, 1, 1), -np.inf)), *(Tensor(np.ones(s)) for s in [(1, 1)] * 3), np.ones(1), activation="relu"
    )
    assert not h.data.any()


def test_the_shape_of_W_h_of_a_simple_network_is_written_without_a_1():
    with pytest.raises(ValueError, match=r"W_h must be \(H, H\), got \(4, 5\)"):
        rnn(**problem(2, 2, gates=1) | {"W_h": np.zeros((4, 5))})


# ---- layers: masks that are replayed, and two updates in a row

LAYERS: dict[str, Any] = {
    "lstm": LSTM, "gru": GRU, "rnn": RNN, "relu": partial(RNN, activation="relu"),
    "bn_lstm": partial(BNLSTM, steps=2, gamma=0.5),
}  # fmt: skip
assert RecurrentLayer.__subclasses__() == [LSTM, GRU, RNN], "a new layer belongs into LAYERS"


@st.composite
def regularized(draw: Any, name: str) -> dict[str, Any]:
    """Options of a layer: a kind of zoneout, recurrent and variational dropout."""
    z = st.sampled_from([0.0, 0.3, 1.0])
    cells, states = draw(z) if "lstm" in name else 0.0, draw(z)
    kinds = {"plain": {}, "static": {"static_steps": 2}, "gaussian": {"gaussian": True}}
    if cells == states or 0 in (cells, states):
        kinds |= {"shared": {"shared": True}, "whole layer": {"whole_layer": True}}
    zoneout = Zoneout(cells, states, **kinds[draw(st.sampled_from(sorted(kinds)))])
    drop_inputs = 0.0 if name in ("rnn", "relu") else draw(z)
    return {"zoneout": zoneout, "drop_inputs": drop_inputs, "drop_hidden": draw(z)}


@pytest.mark.parametrize("name", LAYERS)
def test_a_generator_of_the_same_seed_replays_a_layer_to_the_bit_and_backward_draws_nothing(name, record_property):
    tried = []

    @SOME
    @given(regularized(name), st.integers(0, 3), st.integers(1, 3), st.integers(0, 2**32))
    def check(options, T, B, seed):
        layer, x = LAYERS[name](3, 4, rng=rng(), **options), rng(1).standard_normal((T, 3, B)).astype(np.float32)
        found = []
        for replay in (False, False, True):
            generator, masks = rng(seed), layer.masks
            if replay:  # the masks, drawn by hand beforehand, and a generator that must not be asked
                drawn = masks(T, B, rng(seed))
                layer.masks = lambda *nothing, drawn=drawn: drawn
            states = layer.states(x, rng=generator)
            position = generator.bit_generator.state
            sum((state * state).sum() for state in states).backward()
            assert generator.bit_generator.state == position == (rng(seed).bit_generator.state if replay else position)
            gradients = [p.grad for p in layer.parameters()]
            found.append([state.data for state in states] + [g for g in gradients if g is not None])
            layer.masks = masks
            for p in layer.parameters():
                p.grad = None
        for other in found[1:]:
            assert all(np.array_equal(a, b) for a, b in zip(found[0], other, strict=True))
        tried.append(options)

    check()
    record_property("layers replayed to the bit", len(tried))


class Reader(Module):
    """Tokens (T, B) to scores: an embedding, two recurrent layers, a linear one."""

    def __init__(self, kind: Any):
        options = {"dtype": np.float64, "rng": rng()}
        self.embedding = Embedding(5, 3, **options)
        self.rnn = Stack([kind(n, 4, zoneout=Zoneout(0.0, 0.3), **options) for n in (3, 4)], dropout=0.2)
        self.output = Linear(4, 5, **options)

    def __call__(self, tokens: Any, generator: Any) -> Tensor:
        return self.output(self.rnn.states(self.embedding(tokens), rng=generator)[0])


def by_reference(reference: Any) -> Any:
    """A reference in the place of a fused function in `minizone.layers.recurrent`; a BN layer collects nothing."""

    def function(*arguments: Any, record: Any = None, statistics: Any = None, **options: Any) -> Any:
        return reference(*arguments, **options)

    return function


@pytest.mark.parametrize("clip_what", ["step", "gradient"])
@pytest.mark.parametrize("algorithm", ["adam", "rms_prop", "momentum", "sgd"])
@pytest.mark.parametrize("name", LAYERS)
def test_two_successive_updates_equal_those_of_the_references(name, algorithm, clip_what, monkeypatch, record_property):
    """Every layer with every optimizer: all parameters move in each update, and to where the readable versions go."""
    worst, ends = Worst(), []
    for reference in (False, True):
        if reference:
            for each in ("lstm", "gru", "rnn", "bn_lstm"):
                monkeypatch.setattr(layers, each, by_reference(PAIRS[each].reference))
        model = Reader(LAYERS[name])
        optimizer = make(algorithm, model.parameters(), 0.05, clip=0.5, clip_what=clip_what, momentum=0.9)
        for update in range(2):
            before = [p.data.copy() for p in model.parameters()]
            tokens = rng(update).integers(5, size=(6, 3))
            softmax_cross_entropy(model(tokens[:-1], rng(update)), tokens[1:]).backward()
            assert np.isfinite(optimizer.step())
            assert all(p.grad is None for p in model.parameters())
            moved = [p.data != old for p, old in zip(model.parameters(), before, strict=True)]
            assert all(each.any() for each in moved)
            assert np.concatenate([each.ravel() for each in moved]).mean() > 0.7
        ends.append({key: p.data for key, p in model.named_parameters()})
    worst.compare(*ends, 1e-7)
    worst.record("two updates = those of the reference", record_property)


# ---- processes


def train_every_task(seed: int) -> dict[str, Any]:
    """Of every task, a tiny run: the names of the parameters in their order, and a checksum of the last checkpoint."""
    from tests.runs.test_gpu_training import TINY, train  # not above: it brings the stand-in for CuPy along

    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for task, (kind, small) in TINY.items():
            made = kind(small, say=lambda *nothing: None)
            names = [] if task == "gradients" else [name for name, _ in made.model.named_parameters()]
            rows, arrays = train(kind, small, Path(folder) / task, seed=seed)
            content = json.dumps(rows).encode() + b"".join(v.tobytes() for _, v in sorted(arrays.items()))
            found[task] = [names, zlib.crc32(content)]
    return found


def test_every_task_is_the_same_to_the_bit_under_three_hash_seeds_and_another_one_with_another_seed(record_property):
    def elsewhere(seed: int, hash_seed: str) -> Any:
        code = (
            "import json; from tests.recurrent.test_properties import train_every_task;"
            f" print(json.dumps(train_every_task({seed})))"
        )
        where = {"PYTHONPATH": str(Path(__file__).parents[2])}
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, **where}
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    first, *same = (elsewhere(1, hash_seed) for hash_seed in ("0", "1", "4242"))
    other = elsewhere(2, "0")
    assert same == [first, first]
    for task, (names, checksum) in first.items():
        assert other[task][0] == names and other[task][1] != checksum, task
    record_property("seven tasks, one in two ways, the same to the bit under three hash seeds", len(first))
