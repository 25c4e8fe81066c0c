"""Recurrent layers on a GPU: outputs and gradients are those of the CPU, with and without recorded loops."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from minizone import Device, Tensor, bn_lstm, gru, lstm, no_grad, rnn
from minizone.backend import to_host
from minizone.kernels.gpu import cuda
from minizone.recurrent.sequence import StateGradients
from tests.helpers import HIDDEN, KINDS, Arrays, H, hidden_mask, masks, normal, problem
from tests.helpers.bn import batch_and_population, bn_problem, known_statistics
from tests.standin.cuda import Stream

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "lstm": lstm,
    "gru": gru,
    "rnn": rnn,
    "relu": partial(rnn, activation="relu"),
    "bn_lstm": bn_lstm,
}
GATES = {"lstm": 4, "gru": 3, "rnn": 1, "relu": 1, "bn_lstm": 4}
MASKS = {
    "lstm": ["keep_h", "keep_c", "input_mask", "hidden_mask"],
    "gru": ["keep_h", "input_mask", "hidden_mask"],
    "rnn": ["keep_h", "hidden_mask"],
    "relu": ["keep_h", "hidden_mask"],
    "bn_lstm": ["keep_h", "keep_c", "input_mask", "hidden_mask"],
}
TOLERANCE = {np.float32: 1e-4, np.float64: 1e-10}
every_cell = pytest.mark.parametrize("cell", FUNCTIONS)


def arguments_of(cell: str, T: int, B: int, **options: Any) -> Arrays:
    """The arguments of the function by name."""
    return bn_problem(T, B, **options) if cell == "bn_lstm" else problem(T, B, gates=GATES[cell], **options)


def options_of(cell: str, kind: str, T: int, B: int, hidden: str = "") -> Arrays:
    """Its masks, of one of the kinds in ``KINDS``, and one of the hidden state of a kind in ``HIDDEN``."""
    given = masks(kind, T, H, B, inputs=True) | {"hidden_mask": hidden_mask(hidden, T, H, B)}
    return {name: given[name] for name in MASKS[cell]}


def on(device: Device, arrays: Arrays) -> Arrays:
    return {name: device.to_device(v) if isinstance(v, np.ndarray) else v for name, v in arrays.items()}


def leaves_of(arguments: Arrays) -> Arrays:
    """The arguments as leaves of the graph, except for tokens."""
    return {name: Tensor(v) if v.dtype.kind == "f" else v for name, v in arguments.items()}


def results(
    device: Device, cell: str, arguments: Arrays, options: Arrays, losses: str = "hc", backwards: int = 1
) -> Arrays:
    """Outputs and gradients, as NumPy arrays, of a loss of the outputs whose names are in ``losses``."""
    leaves = leaves_of(on(device, arguments))
    outputs = FUNCTIONS[cell](*leaves.values(), **on(device, options))
    outputs = dict(zip("hc", outputs if isinstance(outputs, tuple) else (outputs,), strict=False))
    terms = []
    for k, (name, y) in enumerate(outputs.items()):
        weights = normal(*y.shape, k + 1)[..., k].astype(y.dtype)
        if name in losses:
            terms.append((y * device.to_device(weights)).sum())
    for _ in range(backwards):
        sum(terms[1:], start=terms[0]).backward()
    gradients = {f"d{name}": leaf.grad for name, leaf in leaves.items() if isinstance(leaf, Tensor)}
    return {name: to_host(v) for name, v in ({name: y.data for name, y in outputs.items()} | gradients).items()}


def assert_same(found: Arrays, expected: Arrays, dtype: Any = np.float64) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert (found[name].shape, found[name].dtype) == (value.shape, value.dtype), name
        largest = max(1, abs(value).max(initial=0))
        np.testing.assert_allclose(found[name], value, rtol=0, atol=TOLERANCE[dtype] * largest, err_msg=name)


def check(gpu: Device, cell: str, arguments: Arrays, options: Arrays, dtype: Any = np.float64, **how: Any) -> None:
    found = results(gpu, cell, arguments, options, **how)
    assert_same(found, results(Device(), cell, arguments, options, **how), dtype)


# ---- every option


@pytest.mark.parametrize("kind", KINDS)
@every_cell
def test_every_mask_with_dense_inputs_and_tokens(gpu, cell, kind):
    for tokens in (False, True):
        check(gpu, cell, arguments_of(cell, 3, 3, tokens=tokens), options_of(cell, kind, 3, 3))


@every_cell
def test_single_precision(gpu, cell):
    for tokens in (False, True):
        arguments = arguments_of(cell, 3, 3, tokens=tokens, dtype=np.float32)
        for kind in ("no mask", "independent", "evaluation"):
            check(gpu, cell, arguments, options_of(cell, kind, 3, 3), np.float32)


@pytest.mark.parametrize("hidden", HIDDEN)
@every_cell
def test_every_size_and_hidden_mask(gpu, cell, hidden):
    for T, B in ((1, 1), (2, 3), (7, 1), (7, 3)):
        check(gpu, cell, arguments_of(cell, T, B), options_of(cell, "independent", T, B, hidden))


@every_cell
def test_inputs_of_every_width_and_alphabets_of_every_size(gpu, cell):
    for D, tokens in ((1, False), (2, False), (150, False), (300, True)):
        check(gpu, cell, arguments_of(cell, 3, 4, D=D, tokens=tokens), options_of(cell, "shape (T,H,B)", 3, 4))


@pytest.mark.parametrize("cell", ["lstm", "bn_lstm"])
def test_a_loss_of_either_output(gpu, cell):
    for losses in ("h", "c"):
        check(gpu, cell, arguments_of(cell, 3, 2), options_of(cell, "independent", 3, 2), losses=losses)


@every_cell
def test_no_steps_and_no_examples(gpu, cell):
    check(gpu, cell, arguments_of(cell, 0, 2), options_of(cell, "no mask", 0, 2))
    if cell != "bn_lstm":  # a minibatch without examples has no statistics
        check(gpu, cell, arguments_of(cell, 2, 0), options_of(cell, "no mask", 2, 0))


@batch_and_population
def test_statistics_of_batch_normalization(gpu, population):
    found = {}
    for device in (gpu, Device()):
        statistics = known_statistics(4)
        statistics.mean = device.to_device(statistics.mean.copy())
        statistics.variance = device.to_device(statistics.variance.copy())
        for _ in range(3):
            option = statistics if population else statistics.collect
            arrays = results(device, "bn_lstm", bn_problem(4, 3), {"statistics": option})
        arrays |= {"mean": to_host(statistics.mean), "variance": to_host(statistics.variance)}
        found[device.name] = arrays
    assert_same(found["gpu"], found["cpu"])


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn", "bn_lstm"])
def test_gradients_of_the_states(gpu, cell):
    found = {}
    for device in (gpu, Device()):
        record = StateGradients()
        options = options_of(cell, "independent", 4, 3) | {"record": record}
        results(device, cell, arguments_of(cell, 4, 3), options)
        found[device.name] = {str(k): to_host(v) for k, v in enumerate(record.states)}
    assert_same(found["gpu"], found["cpu"])


@pytest.mark.parametrize("gate", ["paper", "printed", "authors"])
def test_zoneout_of_the_output_gate(gpu, gate):
    for _ in range(3):
        options = options_of("lstm", "independent", 5, 3) | {"output_gate": gate}
        check(gpu, "lstm", arguments_of("lstm", 5, 3), options)


# ---- loops that are recorded and played back


@every_cell
def test_a_loop_that_is_played_back_works_on_the_arrays_of_this_call(gpu, cell):
    """Launched, recorded, played back, and once more with gradients of other outputs: each time with other numbers."""
    for seed, kind, losses in [
        (0, "shape (T,H,B)", "hc"),
        (1, "shape (T,H,B)", "hc"),
        (2, "shape (T,H,B)", "hc"),
        (3, "boolean", "h"),
        (4, "boolean", "h"),
        (5, "shape (T,H,B)", "hc"),
    ]:
        for tokens in (False, True):
            arguments = arguments_of(cell, 5, 3, seed=seed, tokens=tokens)
            check(gpu, cell, arguments, options_of(cell, kind, 5, 3), losses=losses)


@every_cell
def test_a_second_backward_doubles_the_gradients(gpu, cell):
    for _ in range(3):
        check(gpu, cell, arguments_of(cell, 3, 2), options_of(cell, "independent", 3, 2), backwards=2)


@every_cell
def test_probabilities_of_evaluation_are_part_of_what_is_recorded(gpu, cell):
    for keep in (0.25, 0.25, 0.5, 0.25, 0.5):
        check(gpu, cell, arguments_of(cell, 4, 2), {"keep_h": keep})


@every_cell
def test_two_layers_of_one_shape_do_not_share_arrays_and_outputs_stay(gpu, cell):
    """The backward passes come after both forward passes, and everything is read at the end."""
    options, held = options_of(cell, "independent", 4, 2), []
    for seed in range(4):
        for device in (gpu, Device()):
            leaves = [leaves_of(on(device, arguments_of(cell, 4, 2, seed=10 * seed + k))) for k in range(2)]
            outputs = [FUNCTIONS[cell](*each.values(), **on(device, options)) for each in leaves]
            first, second = (each if isinstance(each, tuple) else (each,) for each in outputs)
            ((first[0] * second[0]).sum() + (first[-1] ** 2).sum()).backward()
            gradients = [leaf.grad for each in leaves for leaf in each.values()]
            held.append([*(y.data for y in (*first, *second)), *gradients])
    for found, expected in zip(held[::2], held[1::2], strict=True):
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(to_host(a), b, rtol=0, atol=1e-10)


@every_cell
def test_without_a_backward_pass_and_without_graphs(gpu, cell, monkeypatch):
    arguments, options = arguments_of(cell, 4, 3), options_of(cell, "independent", 4, 3)
    expected = results(Device(), cell, arguments, options)
    for _ in range(3):
        with no_grad():
            outputs = FUNCTIONS[cell](*on(gpu, arguments).values(), **on(gpu, options))
        h = outputs[0] if isinstance(outputs, tuple) else outputs
        np.testing.assert_allclose(to_host(h.data), expected["h"], rtol=0, atol=1e-10)
    monkeypatch.setattr(cuda, "graphs_allowed", False)
    check(gpu, cell, arguments, options)


# ---- what it costs


def forward_and_backward(cell: str, leaves: Arrays, options: Arrays) -> None:
    outputs = FUNCTIONS[cell](*leaves.values(), **options)
    (outputs[0] if isinstance(outputs, tuple) else outputs).sum().backward()


@every_cell
def test_the_host_never_waits_for_a_layer(gpu, never_waiting, cell):
    arguments = on(gpu, arguments_of(cell, 6, 3, tokens=True))
    options = on(gpu, options_of(cell, "independent", 6, 3))
    for _ in range(4):
        leaves = leaves_of(arguments)
        with never_waiting():
            forward_and_backward(cell, leaves, options)


@pytest.mark.parametrize(("cell", "products"), [("lstm", 1), ("gru", 2), ("rnn", 1), ("bn_lstm", 1)])
def test_a_step_is_a_product_and_a_kernel_and_all_other_launches_are_for_the_whole_sequence(gpu, cupy, cell, products):
    """A GRU has two products: the second one needs the first gate."""
    outside = {}
    for T in (5, 20):
        options, counts = on(gpu, options_of(cell, "independent", T, 3)), []
        for seed in range(4):
            leaves = leaves_of(on(gpu, arguments_of(cell, T, 3, seed=seed)))
            with cupy.counting() as count:
                forward_and_backward(cell, leaves, options)
            counts.append(count)
        launched, recorded, played, again = counts
        assert recorded.captured == played.replayed == 2 * 2 * products * T
        assert (recorded.graph_launches, played.graph_launches) == (2, 2)
        assert played.captured == played.synchronizations == played.to_host == played.to_device == 0
        assert launched.launches - played.launches == 2 * 2 * products * T
        assert played.allocations == again.allocations < launched.allocations
        outside[T] = played.launches, played.allocations
    assert outside[5] == outside[20]


def test_a_loop_that_cannot_be_recorded_is_launched_with_a_warning(gpu, cupy, monkeypatch):
    monkeypatch.setattr(cuda, "graphs_allowed", True)  # and back at the end
    monkeypatch.setattr(Stream, "begin_capture", lambda self: 1 / 0)
    arguments, options = arguments_of("lstm", 4, 3), options_of("lstm", "independent", 4, 3)
    check(gpu, "lstm", arguments, options)
    with pytest.warns(UserWarning, match="no CUDA graph could be recorded.*: division"):
        check(gpu, "lstm", arguments, options)
    check(gpu, "lstm", arguments, options)


def test_memory_that_is_short_is_taken_from_workspaces_of_other_shapes(gpu, cupy):
    check(gpu, "rnn", arguments_of("rnn", 5, 2), {})
    assert cuda._free
    arguments = on(gpu, arguments_of("rnn", 60, 2, D=1))
    cupy.too_large = 60 * 2 * H * 8  # bytes of the outputs; the states of 61 steps are more
    rnn(*arguments.values())
    assert cupy.too_large is None and len(cuda._free) == 1


def test_workspaces_of_old_shapes_are_freed(gpu, cupy):
    for T in range(1, cuda.MOST_WORKSPACES + 5):
        results(gpu, "rnn", arguments_of("rnn", T, 2), {})
    assert len(cuda._free) == cuda.MOST_WORKSPACES
