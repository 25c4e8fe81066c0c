"""The loop over time, and back through it: what all recurrent layers share. Each is one node of the graph.

Examples do not meet inside a recurrent layer, so where a step is large the columns are split into as many blocks as
there are cores, and each block goes through all its time steps in a thread of its own without waiting for the others.
Where a step is small there is one block, and another core gets the work that covers many time steps at once.
What each of these is worth is measured in benchmarks/README.md. On a GPU there is one block, and the loop is played
back: it reads and writes what is in its workspace, and nothing else.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np

from minizone import kernels
from minizone.autograd.tensor import Function, Tensor
from minizone.backend import Array, array_module, cores
from minizone.kernels import kernels_for
from minizone.kernels.cpu import cells as cpu
from minizone.kernels.cpu import tokens as cpu_tokens
from minizone.kernels.cpu.threads import follower, in_threads, one_blas_thread
from minizone.kernels.gpu.cuda import workspace
from minizone.kernels.stacks import parts_of
from minizone.kernels.workspace import Workspace
from minizone.recurrent.inputs import check_shapes, of_columns, per_step
from minizone.recurrent.weight_gradients import WeightGradients

FEWEST_COLUMNS = 8  # a block narrower than a vector register would leave it half empty
WORTH_BLOCKS = 6e7  # multiplications a step from which on blocks of columns in threads win
WORTH_FOLLOWER = 8  # parts of the sequence from which on the second core follows the loop, not sharing its products


@dataclass
class StateGradients:
    """What a backward pass meets on its way: dLoss/d(state) of every time step, for whoever wants to look at it.

    Give one to a recurrent function as ``record``; after ``backward`` its lists hold an array (T, H, B) for h and, in
    an LSTM, one for c. ``states``: of the state after zoneout, as written in the paper, with all that follows from it.
    ``candidates``: of the new value before zoneout, as the authors' script takes it; zero where a unit waited, but for
    what an LSTM's c~ passes on through h~.
    """

    states: list[Array] = field(default_factory=list)
    candidates: list[Array] = field(default_factory=list)


@dataclass
class Block:
    """Some columns of a sequence, and what the forward pass keeps of them for the backward pass."""

    columns: slice
    place: Workspace  # of all these arrays
    W: list[Array]  # the weights of each group, as the products want them
    scratch: Array
    masks: list[tuple[Any, ...]]  # of every step: one keep for each state, then input_mask, hidden_mask
    a: Array  # (T, G H, b) gates; after the backward pass, dLoss/d(pre-activations)
    states: list[Array]  # each (T + 1, H, b): the initial state, then those after zoneout
    kept: Array  # (T, H, b) one more number a unit: tanh(c~) of an LSTM, r * h of a GRU
    below: Array | None = None  # (T + 1, H + 1 + D, b): rows of h, ones and x, where one product takes all; h is a view
    seen: Array | None = None  # (T, H, b): h_{t-1} behind its mask, where there is one
    carry: Any = None  # from one step to the next, where a cell needs it


class Recurrence(Function):
    """A recurrent cell over a whole sequence: inputs x, initial states, W_x, W_h, b; outputs all states (T, H, B).

    A subclass gives one step forward and one step back; the loops, the blocks of columns and the gradients of the
    weights are here.

    Parameters
    ----------
    keeps : tuple
        keep_h and, for an LSTM, keep_c.
    input_mask, hidden_mask, record
        See `minizone.lstm`.
    """

    groups: tuple[int, ...]  # the gates, in groups whose rows of W_h multiply the same columns
    order: tuple[int, ...]  # in which the kernels want the gates: sigmoids side by side
    sigmoids: int  # how many of them are: half of their pre-activations is computed, since sigmoid(a) = (tanh(a/2)+1)/2
    keeps_more = True  # whether the cell uses `Block.kept`
    replayable = True  # whether a step allocates nothing, and so can be recorded
    kernels: ModuleType

    def __init__(
        self,
        keeps: tuple[Any, ...],
        input_mask: Any = None,
        hidden_mask: Any = None,
        record: StateGradients | None = None,
    ):
        masks = (*keeps, input_mask, hidden_mask)
        self.masks = tuple(mask.data if isinstance(mask, Tensor) else mask for mask in masks)
        self.record = record

    def step(self, t: int, block: Block) -> None:
        """From ``a[t]``, the projected inputs, and ``states[.][t]`` to the gates ``a[t]`` and ``states[.][t + 1]``."""
        raise NotImplementedError

    def step_back(self, t: int, block: Block, d: list[Array], more: list[Any], d_old: list[Array]) -> None:
        """From ``d``, dLoss/d(states[.][t + 1]), to ``d_old``, of states[.][t], and dLoss/d(pre-activations) in a[t].

        ``more``: what the loss asks of states[.][t] by itself. ``d`` ends as dLoss/d(the candidates).
        """
        raise NotImplementedError

    def operand(self, group: int, block: Block, steps: slice) -> Array:
        """What a group of rows of W_h multiplied in some steps, (n, H, b): the hidden states, behind their mask."""
        return (block.states[0] if block.seen is None else block.seen)[steps]

    def see(self, t: int, block: Block) -> Array:
        """h_{t-1} as the weights see it: behind the hidden mask."""
        h = block.states[0][t]
        return h if block.seen is None else array_module(h).multiply(block.masks[t][-1], h, out=block.seen[t])

    def is_joined(self, x: Array, H: int) -> bool:
        """Whether one product a step, [W_h b W_x] times rows of h, ones and x, replaces one for h and one for x.

        It saves two passes over the pre-activations. Wide inputs are better projected for many steps at once, tokens
        are columns of W_x, and a mask on h is not one on x.
        """
        return len(self.groups) == 1 and self.masks[-1] is None and x.ndim == 3 and 2 * x.shape[1] <= H

    def recur(self, t: int, block: Block) -> Array:
        """The pre-activations a[t] of all gates: what comes from the inputs and what comes from h_{t-1}."""
        a, scratch, cells = block.a[t], block.scratch, self.kernels
        if block.below is not None:
            return cells.product(block.W[0], block.below[t], a, scratch)
        cells.add_product(block.W[0], self.see(t, block), a, None, scratch[: len(a)], scratch)
        return a

    def rows(self, H: int) -> list[slice]:
        """The rows of W_h that belong to each group of gates."""
        edges = [0, *itertools.accumulate(self.groups)]
        return [slice(start * H, stop * H) for start, stop in itertools.pairwise(edges)]

    def arranged(self, W: Array, factor: float) -> Array:
        """Rows (G H, ...) of the weights in the order of the kernels, those of the sigmoids times ``factor``.

        Fewer and longer passes over the gates: 4 % of the time at the shape of pMNIST, 1 % at H = 1000.
        """
        n, xp = len(self.order), array_module(W)
        rows = W.reshape(n, len(W) // n, *W.shape[1:])
        scale = [factor if k < self.sigmoids else 1 for k in range(n)]
        parts = [rows[g] if by == 1 else rows[g] * W.dtype.type(by) for g, by in zip(self.order, scale, strict=True)]
        return xp.concatenate(parts)

    def forward(self, x: Array, *arguments: Array) -> tuple[Array, ...]:
        *initial, W_x, W_h, b = arguments
        self.kernels = kernels_for(W_h)
        check_shapes(sum(self.groups), x, tuple(initial), W_x, W_h, b)
        if x.dtype.kind in "iu":
            self.kernels.check_tokens(x, W_x.shape[1])
        xp, T, B, H, cells = array_module(W_h), x.shape[0], x.shape[-1], W_h.shape[1], self.kernels
        dtype = xp.result_type(*(v for v in (x, *arguments) if v.dtype.kind in "fc"))
        slices, joined = column_blocks(W_h, B), self.is_joined(x, H)
        outputs = [xp.empty((T, H, B), dtype) for _ in initial] if len(slices) > 1 else []
        W_h, W_x, b = (self.arranged(weight.astype(dtype, copy=False), 0.5) for weight in (W_h, W_x, b))
        W = [xp.concatenate([W_h, b[:, None], W_x], axis=1)] if joined else [W_h[rows] for rows in self.rows(H)]
        W = [cells.small_blocks(w, -(-B // len(slices))) if len(slices) > 1 else w[None, None] for w in W]

        def run(columns: slice) -> Block:
            x_block = xp.ascontiguousarray(x[..., columns])
            block = self._block(columns, x_block, W, joined, dtype, H, B)
            for state, start in zip(block.states, initial, strict=True):
                state[0] = start[:, columns]
            project = None if joined else self.kernels.projection(x_block, W_x, b, block.a)

            def steps() -> None:
                for t in range(T):
                    if project:
                        project(t)
                    self.step(t, block)
                    for output, state in zip(outputs, block.states, strict=False):
                        output[t, :, columns] = state[t + 1]

            block.place.loop("forward", steps)
            return block

        with one_blas_thread() if len(slices) > 1 else nullcontext():
            blocks = in_threads(run, slices)
        found = tuple(outputs or (blocks[0].place.outlet(state[1:]) for state in blocks[0].states))
        self.arrays, self.blocks = (x, *arguments), blocks if any(self.needs) else []
        if not self.blocks:
            blocks[0].place.give_back()
        return found

    def _block(self, columns: slice, x: Array, W: list[Array], joined: bool, dtype: Any, H: int, B: int) -> Block:
        """Arrays for some of the B columns, with weights, masks and, where they are joined, inputs x (T, D, b)."""
        xp, (T, b), gates, n = array_module(x), (x.shape[0], x.shape[-1]), sum(self.groups), len(self.masks) - 2
        key = (type(self), x.shape, *(w.shape for w in W), str(dtype), joined, *map(signature, self.masks))
        replayable = self.replayable and self.record is None and self.kernels is not kernels.cpu
        place = workspace(xp, key if replayable else None)
        masks = (
            per_step(place.hold(f"mask {k}", of_columns(mask, columns, B), dtype), (T, H, b))
            for k, mask in enumerate(self.masks)
        )
        block = Block(
            columns,
            place,
            [place.hold(f"W {k}", w) for k, w in enumerate(W)],
            place.room("scratch", (max(gates, 2) * H, b), dtype),
            list(zip(*masks, strict=True)),
            place.room("a", (T, gates * H, b), dtype),
            [place.room(f"state {k}", (T + 1, H, b), dtype) for k in range(joined, n)],
            place.room("kept", (T if self.keeps_more else 0, H, b), dtype),
        )
        if joined:
            block.below = place.room("below", (T + 1, H + 1 + x.shape[1], b), dtype)
            block.below[:, H], block.below[:T, H + 1 :] = 1, x
            block.states.insert(0, block.below[:, :H])
        if self.masks[-1] is not None:
            block.seen = place.room("seen", (T, H, b), dtype)
        return block

    def backward(self, *d_out: Array | None) -> tuple[Array | None, ...]:
        x, *initial, W_x, W_h, _ = self.arrays
        if not self.blocks:  # a second backward pass: the first one has overwritten the gates
            self.forward(*self.arrays)
        xp, T, B, H, cells = array_module(W_h), x.shape[0], x.shape[-1], W_h.shape[1], self.kernels
        dtype = self.blocks[0].a.dtype
        d_initial = [xp.empty((H, B), dtype) for _ in initial]
        arranged, n, widest = (
            self.arranged(W_h.astype(dtype, copy=False), 1),
            len(self.blocks),
            -(-B // len(self.blocks)),
        )
        W = [arranged[rows].T for rows in self.rows(H)]
        W = [
            cells.small_blocks(w, widest, k) if n > 1 else xp.ascontiguousarray(w)[None, None]
            for w, k in zip(W, self.groups, strict=True)
        ]
        if self.record:
            self.record.states, self.record.candidates = ([xp.empty((T, H, B), dtype) for _ in initial] for _ in "sc")
        parts = parts_of(T, B, self.kernels.PART)
        gradients = WeightGradients(self, x, W_x, H, dtype)

        def run(block: Block, later: Callable[..., Any] = lambda *nothing: None) -> None:
            columns, place, width = block.columns, block.place, block.a.shape[-1]
            block.W = [place.hold(f"W back {k}", w) for k, w in enumerate(W)]
            outs = [place.hold(f"d out {k}", None if g is None else g[..., columns]) for k, g in enumerate(d_out)]
            d, d_old = ([place.room(f"d {k}{m}", (H, width), dtype) for k in range(len(initial))] for m in "no")
            for d_state, out in zip(d, outs, strict=True):
                d_state[...] = 0 if out is None or T == 0 else out[-1]

            def steps_back(part: slice) -> None:
                for t in reversed(range(part.start, part.stop)):
                    now, old = (d, d_old) if (T - t) % 2 else (d_old, d)
                    if self.record:
                        self._note_before(t, block, now)
                    self.step_back(t, block, now, [None if g is None or t == 0 else g[t - 1] for g in outs], old)
                    if self.record and len(now) > 1:
                        self.record.candidates[1][t, :, columns] = now[1]

            for part in reversed(parts):
                place.loop(("back", *(g is None for g in outs)), partial(steps_back, part))
                later(gradients.add, part, self.blocks)
            for whole, d_state in zip(d_initial, d_old if T % 2 else d, strict=True):
                whole[:, columns] = d_state

        if n == 1:
            with follower(worth_following(W_h, T, B)) as later:
                run(self.blocks[0], later)
        else:
            with one_blas_thread():
                in_threads(run, self.blocks)
            for part in parts:
                gradients.add(part, self.blocks)
        self.blocks[0].place.give_back()
        self.blocks = []
        dW = gradients.dW
        return gradients.dx, *d_initial, dW[:, H + 1 :], dW[:, :H], dW[:, H]

    def _note_before(self, t: int, block: Block, d: list[Array]) -> None:
        """Note dLoss/d(states) of step t, and from it that of the candidate of h."""
        assert self.record is not None
        for whole, d_state in zip(self.record.states, d, strict=True):
            whole[t, :, block.columns] = d_state
        keep = block.masks[t][0]
        self.record.candidates[0][t, :, block.columns] = d[0] if keep is None else d[0] - keep * d[0]


def signature(mask: Any) -> Any:
    """What of a mask is fixed where a loop is recorded: the shape of an array, the value of a number."""
    return getattr(mask, "shape", mask)


def column_blocks(W_h: Array, B: int) -> list[slice]:
    """Slices of the B columns, one a core; a single one where a step is too small to be worth the threads' meetings.

    Or too large: where a block's product cannot be cut into ones that OpenBLAS does not pack, its own threads are
    better (6.1 s instead of 8.2 at T, B, H = 180, 128, 2000).
    """
    n = max(1, min(cores(), B // FEWEST_COLUMNS)) if W_h.size * B > WORTH_BLOCKS and array_module(W_h) is np else 1
    if W_h.shape[-1] * -(-B // n) * cpu.FEWEST_ROWS > cpu.SMALL_PRODUCT:
        n = 1
    edges = [B * k // n for k in range(n + 1)]
    return [slice(start, stop) for start, stop in itertools.pairwise(edges)]


def worth_following(W_h: Array, T: int, B: int) -> bool:
    """Whether the gradients of the weights are better added up in a thread behind the loop: long and narrow sequences.

    In a large step the products are nearly all of the time, and better shared by both cores.
    """
    long, narrow = len(parts_of(T, B, cpu_tokens.PART)) >= WORTH_FOLLOWER, W_h.size * B <= WORTH_BLOCKS
    return cores() > 1 and long and narrow and array_module(W_h) is np
