"""Recurrent layers on a GPU: the same outputs and gradients as on the CPU, launched, recorded and played back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from minizone import Device, Tensor, bn_lstm, gru, lstm, no_grad, rnn
from minizone.backend import to_host
from minizone.kernels.gpu import cuda
from minizone.recurrent.sequence import StateGradients
from tests.helpers import HIDDEN, KINDS, Arrays, dense_and_tokens, hidden_mask, masks, normal, problem
from tests.helpers.bn import batch_and_population, bn_problem, known_statistics

H = 4
CELLS: dict[str, tuple[Callable[..., Any], int, tuple[str, ...]]] = {  # function, gates, masks
    "lstm": (lstm, 4, ("keep_h", "keep_c", "input_mask", "hidden_mask")),
    "gru": (gru, 3, ("keep_h", "input_mask", "hidden_mask")),
    "rnn": (rnn, 1, ("keep_h", "hidden_mask")),
    "relu": (lambda *a, **o: rnn(*a, activation="relu", **o), 1, ("keep_h", "hidden_mask")),
    "bn_lstm": (bn_lstm, 4, ("keep_h", "keep_c", "input_mask", "hidden_mask")),
}
TOLERANCE = {np.float32: 1e-4, np.float64: 1e-10}
every_cell = pytest.mark.parametrize("cell", CELLS)
both_dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def arguments_of(cell: str, T: int, B: int, seed: int = 0, **options: Any) -> Arrays:
    if cell == "bn_lstm":
        return bn_problem(T, B, seed=seed, **options)
    return problem(T, B, gates=CELLS[cell][1], seed=seed, **options)


def options_of(cell: str, kind: str, T: int, B: int, hidden: str = "", units: int = H) -> Arrays:
    given = masks(kind, T, units, B, inputs=True) | {"hidden_mask": hidden_mask(hidden, T, units, B)}
    return {name: given[name] for name in CELLS[cell][2]}


def run(
    device: Device, function: Any, arguments: Arrays, options: Arrays, losses: str = "hc", repeat: int = 1
) -> Arrays:
    """Outputs and gradients, as NumPy arrays, of a loss with weights of the outputs whose names are in ``losses``."""
    there = {name: device.to_device(v) if isinstance(v, np.ndarray) else v for name, v in (arguments | options).items()}
    leaves = {name: Tensor(v) if name in arguments and v.dtype.kind == "f" else v for name, v in there.items()}
    outputs = function(*(leaves[name] for name in arguments), **{name: leaves[name] for name in options})
    outputs = dict(zip("hc", outputs if isinstance(outputs, tuple) else (outputs,), strict=False))
    weights = {
        name: device.to_device(normal(*y.shape, k + 1)[..., k].astype(y.dtype))
        for k, (name, y) in enumerate(outputs.items())
    }
    terms = [(outputs[name] * weights[name]).sum() for name in losses if name in outputs]
    for _ in range(repeat):
        sum(terms[1:], start=terms[0]).backward()
    found = {name: y.data for name, y in outputs.items()}
    found |= {f"d{name}": leaf.grad for name, leaf in leaves.items() if isinstance(leaf, Tensor) and name in arguments}
    return {name: to_host(v) for name, v in found.items()}


def assert_same(found: Arrays, expected: Arrays, dtype: Any = np.float64) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert (found[name].shape, found[name].dtype) == (value.shape, value.dtype), name
        np.testing.assert_allclose(
            found[name], value, rtol=0, atol=TOLERANCE[dtype] * max(1, abs(value).max(initial=0)), err_msg=name
        )


def check(gpu: Device, function: Any, arguments: Arrays, options: Arrays, dtype: Any = np.float64, **how: Any) -> None:
    assert_same(
        run(gpu, function, arguments, options, **how), run(Device(), function, arguments, options, **how), dtype
    )


@both_dtypes
@dense_and_tokens
@pytest.mark.parametrize("kind", KINDS)
@every_cell
def test_every_mask_gives_the_same_as_on_the_cpu(gpu, cell, kind, tokens, dtype):
    check(
        gpu, CELLS[cell][0], arguments_of(cell, 3, 3, tokens=tokens, dtype=dtype), options_of(cell, kind, 3, 3), dtype
    )


@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.parametrize(("T", "B"), [(1, 1), (2, 3), (7, 1), (7, 3)])
@every_cell
def test_every_size_and_hidden_mask(gpu, cell, T, B, hidden):
    check(gpu, CELLS[cell][0], arguments_of(cell, T, B), options_of(cell, "independent", T, B, hidden))


@pytest.mark.parametrize(("D", "tokens"), [(1, False), (2, False), (150, False), (300, True)])
@every_cell
def test_inputs_of_every_width_and_alphabets_of_every_size(gpu, cell, D, tokens):
    check(gpu, CELLS[cell][0], arguments_of(cell, 3, 4, D=D, tokens=tokens), options_of(cell, "shape (T,H,B)", 3, 4))


@pytest.mark.parametrize("losses", ["h", "c", "hc"])
@pytest.mark.parametrize("cell", ["lstm", "bn_lstm"])
def test_a_loss_of_either_output(gpu, cell, losses):
    check(gpu, CELLS[cell][0], arguments_of(cell, 3, 2), options_of(cell, "independent", 3, 2), losses=losses)


@every_cell
def test_no_steps_and_no_examples(gpu, cell):
    for T, B in ((0, 2), (2, 0))[: 1 if cell == "bn_lstm" else 2]:  # nobody has no statistics
        check(gpu, CELLS[cell][0], arguments_of(cell, T, B), options_of(cell, "no mask", T, B))


@every_cell
def test_a_loop_that_is_played_back_works_on_the_arrays_of_this_time(gpu, cell):
    """Launched, recorded, played back, and once more with another gradient from above: each time other numbers."""
    for seed, kind, losses in [(0, "shape (T,H,B)", "hc"), (1, "shape (T,H,B)", "hc"), (2, "shape (T,H,B)", "hc"),
                               (3, "boolean", "h"), (4, "boolean", "h"), (5, "shape (T,H,B)", "hc")]:  # fmt: skip
        for tokens in (False, True):
            arguments = arguments_of(cell, 5, 3, seed=seed, tokens=tokens)
            options = options_of(cell, kind, 5, 3)
            check(gpu, CELLS[cell][0], arguments, options, losses=losses)


@every_cell
def test_a_second_backward_doubles_the_gradients(gpu, cell):
    for _ in range(3):
        check(gpu, CELLS[cell][0], arguments_of(cell, 3, 2), options_of(cell, "independent", 3, 2), repeat=2)


@every_cell
def test_probabilities_of_evaluation_are_part_of_what_is_recorded(gpu, cell):
    function, arguments = CELLS[cell][0], arguments_of(cell, 4, 2)
    for keep in (0.25, 0.25, 0.5, 0.25, 0.5):
        check(gpu, function, arguments, {"keep_h": keep})


@every_cell
def test_layers_of_one_shape_live_side_by_side_and_what_they_gave_stays(gpu, cell):
    """Two layers whose backward passes come after both forward passes, and outputs that are read at the very end."""
    function, options = CELLS[cell][0], options_of(cell, "independent", 4, 2)
    held = []
    for seed in range(4):
        first, second = (arguments_of(cell, 4, 2, seed=10 * seed + k) for k in (0, 1))

        def two(device: Device, first: Arrays = first, second: Arrays = second) -> list[Any]:
            on = [{n: Tensor(device.to_device(v)) for n, v in each.items()} for each in (first, second)]
            there = {n: v if v is None else device.to_device(v) for n, v in options.items()}
            outputs = [function(*each.values(), **there) for each in on]
            outputs = [each if isinstance(each, tuple) else (each,) for each in outputs]
            ((outputs[0][0] * outputs[1][0]).sum() + (outputs[0][-1] ** 2).sum()).backward()
            return [*(y.data for each in outputs for y in each), *(leaf.grad for each in on for leaf in each.values())]

        held.append((two(gpu), two(Device())))
    for found, expected in held:
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(to_host(a), b, rtol=0, atol=1e-10)


@every_cell
def test_without_a_backward_pass_and_without_graphs(gpu, cell, monkeypatch):
    arguments, options = arguments_of(cell, 4, 3), options_of(cell, "independent", 4, 3)
    expected = run(Device(), CELLS[cell][0], arguments, options)
    there = {n: v if v is None else gpu.to_device(v) for n, v in (arguments | options).items()}
    for _ in range(3):
        with no_grad():
            outputs = CELLS[cell][0](*(there[n] for n in arguments), **{n: there[n] for n in options})
        first = outputs[0] if isinstance(outputs, tuple) else outputs
        np.testing.assert_allclose(to_host(first.data), expected["h"], rtol=0, atol=1e-10)
    monkeypatch.setattr(cuda, "graphs_allowed", False)
    check(gpu, CELLS[cell][0], arguments, options)


@batch_and_population
def test_statistics_of_batch_normalization(gpu, population):
    arguments, given = bn_problem(4, 3), known_statistics(4)
    seen: dict[str, list[Any]] = {}
    for name, device in (("cpu", Device()), ("gpu", gpu)):
        statistics = known_statistics(4)
        statistics.mean, statistics.variance = (
            device.to_device(given.mean.copy()),
            device.to_device(given.variance.copy()),
        )
        for _ in range(3):
            option = statistics if population else statistics.collect
            found = run(device, bn_lstm, arguments, {"statistics": option})
        seen[name] = [to_host(statistics.mean), to_host(statistics.variance), *found.values()]
    for a, b in zip(seen["gpu"], seen["cpu"], strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-10)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn", "bn_lstm"])
def test_recorded_gradients_of_states_and_candidates(gpu, cell):
    arguments, options = arguments_of(cell, 4, 3), options_of(cell, "independent", 4, 3)
    seen = {}
    for name, device in (("cpu", Device()), ("gpu", gpu)):
        record = StateGradients()
        run(device, CELLS[cell][0], arguments, options | {"record": record})
        seen[name] = [to_host(v) for v in (*record.states, *record.candidates)]
    for a, b in zip(seen["gpu"], seen["cpu"], strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-10)


@pytest.mark.parametrize("gate", ["paper", "printed", "authors"])
def test_zoneout_of_the_output_gate(gpu, gate):
    for _ in range(3):
        options = options_of("lstm", "independent", 5, 3) | {"output_gate": gate}
        check(gpu, lstm, arguments_of("lstm", 5, 3), options)


# ---- what it costs


@every_cell
def test_the_host_never_waits_for_a_layer(gpu, never_waiting, cell):
    arguments, options = arguments_of(cell, 6, 3, tokens=True), options_of(cell, "independent", 6, 3)
    there = {n: v if v is None else gpu.to_device(v) for n, v in (arguments | options).items()}
    for _ in range(4):
        leaves = [Tensor(there[n]) if there[n].dtype.kind == "f" else there[n] for n in arguments]
        with never_waiting():
            outputs = CELLS[cell][0](*leaves, **{n: there[n] for n in options})
            (outputs[0] if isinstance(outputs, tuple) else outputs).sum().backward()


@pytest.mark.parametrize(("cell", "each"), [("lstm", 1), ("gru", 2), ("rnn", 1), ("bn_lstm", 1)])
def test_a_step_is_one_product_and_one_kernel_and_the_loop_touches_nothing_else(gpu, cupy, cell, each):
    """A GRU has two of each: its second product waits for the first gate. Recording would refuse anything else."""
    T, counts = 9, []
    for seed in range(4):
        arguments, options = arguments_of(cell, T, 3, seed=seed), options_of(cell, "independent", T, 3)
        there = {n: v if v is None else gpu.to_device(v) for n, v in (arguments | options).items()}
        leaves = {n: Tensor(there[n]) for n in arguments}
        with cupy.counting() as count:
            outputs = CELLS[cell][0](*leaves.values(), **{n: there[n] for n in options})
            (outputs[0] if isinstance(outputs, tuple) else outputs).sum().backward()
        counts.append(count)
    plain, recorded, played, again = counts
    assert recorded.captured == played.replayed == 2 * 2 * each * T
    assert (recorded.graph_launches, played.graph_launches) == (2, 2)
    assert played.captured == played.synchronizations == played.to_host == played.to_device == 0
    assert plain.launches - played.launches == 2 * 2 * each * T
    assert played.allocations == again.allocations < plain.allocations


@every_cell
def test_launches_outside_the_loop_do_not_grow_with_the_sequence(gpu, cupy, cell):
    counts = {}
    for T in (5, 20):
        arguments, options = arguments_of(cell, T, 3, tokens=True), options_of(cell, "independent", T, 3)
        there = {n: v if v is None else gpu.to_device(v) for n, v in (arguments | options).items()}
        for _ in range(3):
            leaves = [Tensor(there[n]) if there[n].dtype.kind == "f" else there[n] for n in arguments]
            with cupy.counting() as counts[T]:
                outputs = CELLS[cell][0](*leaves, **{n: there[n] for n in options})
                (outputs[0] if isinstance(outputs, tuple) else outputs).sum().backward()
    assert counts[5].launches == counts[20].launches
    assert counts[5].allocations == counts[20].allocations


def test_a_loop_that_cannot_be_recorded_is_launched_with_a_warning(gpu, cupy, monkeypatch):
    monkeypatch.setattr(cuda, "graphs_allowed", True)  # and back at the end
    monkeypatch.setattr(cupy.cuda.Stream, "begin_capture", lambda self: 1 / 0)
    arguments, options = arguments_of("lstm", 4, 3), options_of("lstm", "independent", 4, 3)
    check(gpu, lstm, arguments, options)
    with pytest.warns(UserWarning, match="loops are launched step by step, no CUDA graph could be recorded: division"):
        check(gpu, lstm, arguments, options)
    check(gpu, lstm, arguments, options)


def test_memory_that_is_short_is_taken_from_workspaces_of_other_shapes(gpu, cupy):
    check(gpu, rnn, arguments_of("rnn", 5, 2), {})
    assert cuda._free
    arguments = [gpu.to_device(v) for v in arguments_of("rnn", 60, 2, D=1).values()]
    cupy.too_large = 60 * 2 * H * 8  # not the outputs: gates with their inputs, or the states of 61 steps
    rnn(*arguments)
    assert cupy.too_large is None and len(cuda._free) == 1


def test_workspaces_of_old_shapes_are_let_go(gpu, cupy):
    for T in range(1, 3 * cuda.MOST_WORKSPACES):
        run(gpu, rnn, arguments_of("rnn", T, 2), {})
    assert len(cuda._free) == cuda.MOST_WORKSPACES
