"""What each trick is worth: the same problem with it and without it, side by side.

python benchmarks/tricks.py [--rounds 9] [--json results/cpu/tricks.json]

How a trick is taken out is one function below. It is called in the candidate's process before anything else, and
imports what it changes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import harness
import tyro
from harness import Candidate
from problems import SHAPES, TASKS, TINY_SHAPE, TINY_TASKS, Shape

CHARS, PIXELS, WORDS, MIDDLE, *_ = SHAPES


def change(owner: Any, name: str, value: Any) -> None:
    """Set an attribute that must be there: a trick whose constant has another name now would not be taken out."""
    getattr(owner, name)
    setattr(owner, name, value)


def without_thread_behind_the_loop() -> None:
    from minizone.recurrent import sequence

    change(sequence, "WORTH_FOLLOWER", sys.maxsize)


def without_joined_product() -> None:
    from minizone.recurrent.sequence import Recurrence

    change(Recurrence, "is_joined", lambda *_: False)


def without_16_bit_masks() -> None:
    from minizone import zoneout

    def from_floats(rng: Any, p: float, shape: tuple[int, ...], dtype: Any = "float32") -> Any:
        return (rng.random(shape, dtype="float32") < p).astype(dtype)

    change(zoneout, "bernoulli", from_floats)


def without_wide_inputs_at_once() -> None:
    from minizone.kernels.cpu import tokens

    change(tokens, "WORTH_COLUMNS", sys.maxsize)


def without_large_matrix_once() -> None:
    from minizone.kernels import cpu
    from minizone.kernels.cpu import tokens

    for module in (tokens, cpu):
        change(module, "times_columns", lambda a, x: a @ x)


def without_sleeping_threads() -> None:
    os.environ["OPENBLAS_THREAD_TIMEOUT"] = "26"  # OpenBLAS's own choice; NumPy reads it when it is imported


def without_kept_memory() -> None:
    from minizone import backend

    change(backend, "keep_freed_memory", lambda: None)


def without_reordered_gates() -> None:
    from minizone.kernels import cpu
    from minizone.recurrent.lstm import LSTMSequence

    change(LSTMSequence, "order", (0, 1, 2, 3))
    change(LSTMSequence, "sigmoids", 0)
    change(cpu, "lstm_forward", forward_in_order_ifgo)
    change(cpu, "lstm_backward", backward_in_order_ifgo)


def forward_in_order_ifgo(
    a: Any, h: Any, c: Any, keep_h: Any, keep_c: Any, input_mask: Any, new_h: Any, new_c: Any, tanh_c: Any, scratch: Any
) -> None:
    """`minizone.kernels.cpu.lstm_forward` with gates in the order i, f, g, o, and none of them halved."""
    import numpy as np
    from minizone.kernels.cpu.cells import _mix

    H = len(c)
    i, f, g, o = (a[k * H : (k + 1) * H] for k in range(4))
    u, v = scratch[:H], scratch[H : 2 * H]
    np.tanh(g, out=g)
    for sigmoids in (a[: 2 * H], o):  # sigmoid(a) = 0.5 tanh(0.5 a) + 0.5
        sigmoids *= 0.5
        np.tanh(sigmoids, out=sigmoids)
        sigmoids *= 0.5
        sigmoids += 0.5
    np.multiply(i, g, out=u)
    if input_mask is not None:
        u *= input_mask
    u += np.multiply(f, c, out=v)  # c~
    np.tanh(u, out=tanh_c)
    _mix(c, u, keep_c, new_c, v)
    np.multiply(o, tanh_c, out=u)  # h~
    _mix(h, u, keep_h, new_h, v)


def backward_in_order_ifgo(
    a: Any, c: Any, tanh_c: Any, keep_h: Any, keep_c: Any, input_mask: Any,
    dh: Any, dc: Any, more_h: Any, more_c: Any, dh_old: Any, dc_old: Any, scratch: Any,
) -> None:  # fmt: skip
    """`minizone.kernels.cpu.lstm_backward` with gates in the order i, f, g, o."""
    import numpy as np
    from minizone.kernels.cpu.cells import _unmix

    H = len(c)
    i, f, g, o = (a[k * H : (k + 1) * H] for k in range(4))
    di, df, w, do = (scratch[k * H : (k + 1) * H] for k in range(4))
    _unmix(dh, keep_h, more_h, dh_old)  # dh: of h~ = o tanh(c~)
    _unmix(dc, keep_c, more_c, dc_old)
    np.multiply(tanh_c, tanh_c, out=w)
    np.subtract(1, w, out=w)
    w *= o
    w *= dh
    dc += w  # of c~ = f c + input_mask i g
    np.multiply(dh, tanh_c, out=do)
    dc_old += np.multiply(dc, f, out=w)
    np.multiply(dc, c, out=df)
    d_update = dc if input_mask is None else np.multiply(dc, input_mask, out=dh)  # of i g
    np.multiply(d_update, g, out=di)
    np.multiply(g, g, out=w)
    np.subtract(1, w, out=w)
    w *= d_update
    np.multiply(w, i, out=g)  # of the pre-activation of g
    for sigmoids, d_sigmoids in ((a[: 2 * H], scratch[: 2 * H]), (o, do)):
        d_sigmoids *= sigmoids
        np.subtract(1, sigmoids, out=sigmoids)
        sigmoids *= d_sigmoids  # of their pre-activations: d * s (1 - s)


@dataclass(frozen=True)
class Trick:
    """A row of the table: a name, how the trick is taken out, and the layer or the update that it is tried on."""

    name: str
    take_out: Callable[[], None]
    problem: Shape | str


FOLLOWER = "a thread behind the loop adds up the weights' gradients"
TRICKS = (
    Trick(f"{FOLLOWER} (784x100x1x100)", without_thread_behind_the_loop, PIXELS),
    Trick(f"{FOLLOWER} (180x128x27x256)", without_thread_behind_the_loop, MIDDLE),
    Trick("one product for h, 1 and x", without_joined_product, PIXELS),
    Trick("masks from 16 random bits an element", without_16_bit_masks, PIXELS),
    Trick("wide inputs projected many steps at once", without_wide_inputs_at_once, WORDS),
    Trick("OpenBLAS's idle threads sleep soon", without_sleeping_threads, "char-ptb"),
    Trick("freed memory is kept", without_kept_memory, "char-ptb"),
    Trick("a large matrix goes through the cache once", without_large_matrix_once, "word-ptb"),
    Trick("sigmoid gates side by side, halved (784x100x1x100)", without_reordered_gates, PIXELS),
    Trick("sigmoid gates side by side, halved (100x32x50x1000)", without_reordered_gates, CHARS),
)


@dataclass(frozen=True)
class Settings:
    """Time every trick."""

    rounds: int = 9
    """Turns of each candidate."""
    tiny: bool = False
    """Very small problems, to see that everything runs."""
    json: str | None = None
    """Write all numbers to this file."""


def measure(trick: Trick, settings: Settings) -> dict[str, Any]:
    """Time one trick and print its lines."""
    print(trick.name, flush=True)
    if isinstance(trick.problem, str):
        shape = (TINY_TASKS if settings.tiny else TASKS)[trick.problem]
        arguments: tuple[Any, ...] = ("ours.update", trick.problem, shape)
    else:
        arguments = ("ours.layer", "lstm", TINY_SHAPE if settings.tiny else trick.problem)
    setup = f"import tricks; tricks.{trick.take_out.__name__}()"
    made = [Candidate("minizone", *arguments), Candidate("without it", *arguments, setup=setup)]
    with_it, without = harness.compare(made, settings.rounds).values()
    if "error" in with_it or "error" in without:
        harness.fail(f"{trick.name} could not be timed")
    return {"with_ms": with_it["median_ms"], "without_ms": without["median_ms"], "of": without["of_ours"]}


def main() -> None:
    settings = tyro.cli(Settings, description=__doc__)
    found: dict[str, Any] = {"machine": harness.machine("cpu"), "tricks": {}}
    for trick in TRICKS:
        found["tricks"][trick.name] = measure(trick, settings)
        harness.save(settings.json, found)


if __name__ == "__main__":
    main()
