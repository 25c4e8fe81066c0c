"""The loop over time, forward and backward, of all recurrent cells. A whole sequence is one node of the graph.

The products with W_h must run one time step after the other. Everything else (projecting the inputs, the gradients of
the weights) is done for many time steps at once. If the steps are small, a second thread computes the gradients of the
weights. benchmarks/README.md has the time that each of these saves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np

from minizone.autograd.tensor import Function, Tensor
from minizone.backend import Array, array_module, cores
from minizone.kernels import cpu, kernels_for
from minizone.kernels.cpu.threads import follower
from minizone.kernels.gpu.cuda import workspace
from minizone.kernels.stacks import columns, parts_of
from minizone.kernels.step import Gradients, Mask, Masks
from minizone.zoneout import check_mask

MOST_ONE_HOT = 256  # largest vocabulary for which a product with one-hot columns is faster than sorting the tokens
SMALL_STEP = 6e7  # most multiplications with W_h in one time step for which one core is enough for the loop
FEWEST_PARTS = 8  # fewest parts of a sequence for which a second thread for the weights' gradients pays off


@dataclass
class StateGradients:
    """The gradients of the states at every time step, recorded by a backward pass.

    Pass one to a recurrent function as ``record``. After ``backward``, ``states`` holds an array (T, H, B) for h and,
    in an LSTM, one for c: dLoss/d(state after zoneout) of every time step, including the effect on all later steps.
    """

    states: list[Array] = field(default_factory=list)


class Recurrence(Function):
    """A recurrent cell over a whole sequence.

    Inputs: x, the initial states, W_x, W_h, b, and further parameters of the cell. Outputs: all states, each (T, H, B).
    A subclass is one cell: it defines `step` and `step_back`, and overrides other methods where the cell differs.

    Parameters
    ----------
    masks : Masks
        Each broadcastable to (T, H, B), or None.
    record : StateGradients, optional
        Filled by the backward pass.
    """

    gates: int  # G: W_x is (G H, D), W_h (G H, H), b (G H,)
    n_states: int  # 2 in an LSTM: h and c
    scratch_blocks: int  # scratch memory of a step, in blocks of (H, B)
    kernels: ModuleType
    a: Array  # (T, G H, B): pre-activations, then gates, then dLoss/d(pre-activations)
    is_released = False  # whether the arrays of the forward pass have been released

    def __init__(self, masks: Masks, record: StateGradients | None = None):
        self.masks = Masks(*(mask.data if isinstance(mask, Tensor) else mask for mask in masks))
        self.record = record

    # ---- what a cell defines

    def step(self, t: int) -> None:
        """Compute the gates ``a[t]`` and ``states[.][t + 1]`` from the inputs of step t and ``states[.][t]``."""
        raise NotImplementedError

    def step_back(self, t: int, d: Gradients) -> None:
        """Compute ``d.h_before`` (and ``d.c_before``) and, in ``a[t]``, dLoss/d(pre-activations)."""
        raise NotImplementedError

    def allocate(self, T: int, H: int, B: int) -> None:
        """Allocate what the cell saves for its backward pass in addition to gates and states."""

    # ---- forward

    def forward(self, x: Array, *arguments: Array) -> tuple[Array, ...]:
        initial, (W_x, W_h, b) = arguments[: self.n_states], arguments[self.n_states : self.n_states + 3]
        check_shapes(self.gates, x, initial, W_x, W_h, b)
        (T, B), D, H = (x.shape[0], x.shape[-1]), W_x.shape[-1], W_h.shape[-1]
        xp, self.kernels = array_module(W_h), kernels_for(W_h)
        self.is_tokens = x.dtype.kind in "iu"
        if self.is_tokens:
            self.kernels.check_tokens(x, D)

        self.arrays = (x, *arguments)
        self.is_released = False
        self.saves = any(self.needs) or self.kernels is not cpu
        self.dtype = xp.result_type(*(v for v in self.arrays if v.dtype.kind in "fc"))
        self.workspace = workspace(xp, self.workspace_key())
        self.step_masks = self.masks_of_steps(T, H, B)
        self.scratch = self.new("scratch", self.scratch_blocks * H, B)
        self.a = self.new_for_steps("a", T, self.gates * H, B)
        self.allocate(T, H, B)
        self.allocate_states(x, T, D, H, B)
        for state, start in zip(self.states, initial, strict=True):
            state[0] = start
        self.load_weights(x, W_x, W_h, b)
        if self.saves:
            self.project(slice(0, T))

        def steps() -> None:
            for t in range(T):
                if not self.saves:
                    self.project(slice(t, t + 1))
                self.step(t)

        self.workspace.run("forward", steps)
        outputs = tuple(self.workspace.output(state[1:]) for state in self.states)
        if not any(self.needs):
            self.release()
        return outputs

    def allocate_states(self, x: Array, T: int, D: int, H: int, B: int) -> None:
        """Allocate ``states``: for each state an array (T + 1, H, B), the initial value and T values after zoneout.

        If one product a step is enough (see `is_joined`), h is a part of ``joined`` (T + 1, H + 1 + D, B): rows of
        h_{t-1}, a row of ones, rows of x_t.
        """
        self.joined = None
        self.states = [self.new(f"state {k}", T + 1, H, B) for k in range(self.n_states)]
        if self.is_joined(D, H):
            self.joined = self.new("joined", T + 1, H + 1 + D, B)
            self.joined[:, H] = 1
            self.joined[:T, H + 1 :] = x
            self.states[0] = self.joined[:, :H]
        self.masked_h = self.new_for_steps("masked h", T, H, B) if self.masks.hidden_mask is not None else None

    def is_joined(self, D: int, H: int) -> bool:
        """Whether one product a step, [W_h b W_x] @ [h; 1; x], replaces one with h and one with x.

        This saves two passes over the pre-activations. It does not pay off for wide inputs, which are better projected
        for many steps at once. Tokens need no product, and a hidden mask applies to h only.
        """
        return not self.is_tokens and self.masks.hidden_mask is None and 2 * D <= H

    def load_weights(self, x: Array, W_x: Array, W_h: Array, b: Array) -> None:
        """Prepare the weights for `project` and `pre_activations`."""
        self.W_x, W_h, self.b = (weight.astype(self.dtype, copy=False) for weight in (W_x, W_h, b))
        if self.joined is not None:
            W_h = array_module(W_h).concatenate([W_h, self.b[:, None], self.W_x], axis=1)  # (G H, H + 1 + D)
        elif self.is_tokens:  # once, instead of in every time step: add b, and copy to C order
            self.W_x, self.b = array_module(W_x).ascontiguousarray(self.W_x + self.b[:, None]), None
        self.W_h = self.workspace.load("W_h", W_h)

    def project(self, part: slice) -> None:
        """Set ``a[t] = W_x x_t + b`` for some time steps, unless `pre_activations` computes it."""
        if self.joined is None:
            self.kernels.project(self.arrays[0][part], self.W_x, self.b, self.a[part])

    def pre_activations(self, t: int) -> Array:
        """``a[t] = W_x x_t + W_h h_{t-1} + b``, (G H, B)."""
        if self.joined is not None:
            self.kernels.product(self.W_h, self.joined[t], self.a[t])
        else:  # a[t] already holds W_x x_t + b
            self.kernels.add_product(self.W_h, self.recurrent_input(t), self.a[t], None, self.scratch)
        return self.a[t]

    def recurrent_input(self, t: int) -> Array:
        """h_{t-1} after its hidden mask, (H, B): the factor of W_h."""
        h, mask = self.states[0][t], self.step_masks[t].hidden_mask
        return h if self.masked_h is None else array_module(h).multiply(mask, h, out=self.masked_h[t])

    # ---- backward

    def backward(self, *d_out: Array | None) -> tuple[Array | None, ...]:
        if self.is_released:  # by a first backward pass, which has overwritten the gates
            self.forward(*self.arrays)
        x, W_h = self.arrays[0], self.arrays[self.n_states + 2]
        T, H, B = len(x), W_h.shape[-1], x.shape[-1]
        xp = array_module(W_h)
        self.load_weights_back(W_h.astype(self.dtype, copy=False))
        self.allocate_gradients(T, H, B)
        outs = [self.workspace.load(f"d out {k}", g) for k, g in enumerate(d_out)]
        after = [self.new(f"d {k}", H, B) for k in range(self.n_states)]
        before = [self.new(f"d before {k}", H, B) for k in range(self.n_states)]
        for d in after:
            d[...] = 0
        if self.record:
            self.record.states = [xp.empty((T, H, B), self.dtype) for _ in outs]

        def steps_back(part: slice) -> None:
            for t in reversed(range(part.start, part.stop)):
                gradients = self.gradients_of_step(t, T, outs, after, before)
                if self.record:
                    self.record_states(t, gradients)
                self.step_back(t, gradients)

        parts = parts_of(T, B, self.kernels.PART)
        with follower(two_threads_pay(W_h, len(parts), B)) as later:
            for part in reversed(parts):
                self.workspace.run(("backward", *(g is None for g in outs)), partial(steps_back, part))
                later(self.add_weight_gradients, part)
        d_initial = [self.workspace.output(d) for d in (before if T % 2 else after)]
        dx, *weights = self.gradients_of_weights()
        self.release()
        return dx, *d_initial, *weights

    def load_weights_back(self, W_h: Array) -> None:
        """Prepare the weights for `step_back`."""
        self.W_h_T = self.workspace.load("W_h.T", array_module(W_h).ascontiguousarray(W_h.T))  # (H, G H)

    def gradients_of_step(
        self, t: int, T: int, outs: list[Array | None], after: list[Array], before: list[Array]
    ) -> Gradients:
        """The gradients on both sides of step t. Two sets of arrays alternate: step t - 1 reads what step t writes."""
        if (T - t) % 2 == 0:
            after, before = before, after
        out = [None if g is None else g[t] for g in outs]
        if self.n_states == 1:
            return Gradients(after[0], None, out[0], None, before[0], None)
        return Gradients(after[0], after[1], out[0], out[1], before[0], before[1])

    def record_states(self, t: int, d: Gradients) -> None:
        """Record dLoss/d(states after zoneout) of step t."""
        assert self.record is not None
        found = [(d.h, d.h_out), (d.c, d.c_out)][: self.n_states]
        for states, (later, direct) in zip(self.record.states, found, strict=True):
            states[t] = later if direct is None else later + direct

    def add_product_back(self, t: int, d: Gradients) -> None:
        """``d.h_before += hidden_mask * (W_h^T @ da)``; ``d.h`` is no longer needed and serves as scratch."""
        self.kernels.add_product(self.W_h_T, self.a[t], d.h_before, self.step_masks[t].hidden_mask, d.h)

    # ---- the gradients of the weights: products over many time steps

    def allocate_gradients(self, T: int, H: int, B: int) -> None:
        """Prepare the sums over time."""
        W_x = self.arrays[self.n_states + 1]
        xp, D = array_module(W_x), W_x.shape[1]
        self.dx = xp.empty((T, D, B), self.dtype) if self.needs[0] else None
        self.sums: list[Array] = []  # of the products below
        self.sorts_tokens = self.is_tokens and D > MOST_ONE_HOT
        self.d_tokens = xp.zeros(W_x.shape, self.dtype) if self.sorts_tokens else None

    def add_weight_gradients(self, part: slice) -> None:
        """Add the contribution of some time steps to the gradients of the weights, and set their dLoss/dx."""
        x, W_x = self.arrays[0][part], self.arrays[self.n_states + 1]
        n, B = len(x), x.shape[-1]
        da = self.d_projections(part)  # (G H, n B)
        for k, (d, operand) in enumerate(self.products(part, da)):
            total = d @ operand.T
            if k == len(self.sums):
                self.sums.append(total)
            else:
                self.sums[k] += total
        if self.d_tokens is not None:
            self.kernels.add_up_tokens(da, x, self.d_tokens)
        if self.dx is not None:
            self.dx[part] = (W_x.T @ da).reshape(W_x.shape[1], n, B).transpose(1, 0, 2)

    def d_projections(self, part: slice) -> Array:
        """dLoss/d(W_x x_t) of some time steps, as columns (G H, n B)."""
        return columns(self.a[part])

    def products(self, part: slice, da: Array) -> Iterator[tuple[Array, Array]]:
        """Pairs of dLoss/d(some pre-activations) and the operand that the weights multiplied, both as columns.

        By default there is one pair: ``da`` (G H, n B), and [h; 1; x] (H + 1 + D, n B) for all of W_h, b and W_x.
        """
        h = self.states[0] if self.masked_h is None else self.masked_h
        yield da, self.joined_columns(h[part], self.arrays[0][part])

    def joined_columns(self, h: Array, x: Array) -> Array:
        """[h; 1; x] as columns (H + 1 + D, n B) of n time steps; without x if its tokens are sorted instead."""
        xp, (n, H, B), D = array_module(h), h.shape, self.arrays[self.n_states + 1].shape[1]
        found = xp.empty((H + 1 if self.sorts_tokens else H + 1 + D, n, B), self.dtype)
        found[:H] = h.transpose(1, 0, 2)
        found[H] = 1
        if self.is_tokens and not self.sorts_tokens:
            found[H + 1 :] = x == xp.arange(D)[:, None, None]  # one-hot columns
        elif not self.is_tokens:
            found[H + 1 :] = x.transpose(1, 0, 2)
        return found.reshape(len(found), n * B)

    def gradients_of_weights(self) -> tuple[Array | None, ...]:
        """dLoss/d(x, W_x, W_h, b), and of any further parameters of the cell."""
        W_x, W_h = self.arrays[self.n_states + 1 : self.n_states + 3]
        xp, H = array_module(W_h), W_h.shape[-1]
        if not self.sums:  # no time steps
            return self.dx, xp.zeros_like(W_x), xp.zeros_like(W_h), xp.zeros(len(W_h), self.dtype)
        dW = self.sums[0] if len(self.sums) == 1 else xp.concatenate(self.sums)  # of [W_h b W_x]
        dW_x = dW[:, H + 1 :] if self.d_tokens is None else self.d_tokens
        return self.dx, dW_x, dW[:, :H], dW[:, H]

    # ---- memory

    def new(self, name: str, *shape: int) -> Array:
        """An array of the workspace, with undefined values."""
        return self.workspace.empty(name, shape, self.dtype)

    def new_for_steps(self, name: str, T: int, *shape: int) -> Array:
        """An array (T, *shape), with undefined values, for a result of every step.

        If no backward pass needs it, all steps share the memory of one step. An evaluation then needs little more
        memory than its outputs.
        """
        if self.saves:
            return self.new(name, T, *shape)
        of_one_step = self.new(name, *shape)
        return np.lib.stride_tricks.as_strided(of_one_step, (T, *shape), (0, *of_one_step.strides))

    def workspace_key(self) -> Any:
        """Everything that a recorded loop on a GPU depends on; None if the loop cannot be replayed."""
        if self.record is not None or self.kernels is cpu:
            return None
        shapes = tuple(array.shape for array in self.arrays)
        masks = tuple(getattr(mask, "shape", mask) for mask in self.masks)  # the shape of an array, or the number
        return type(self), shapes, str(self.dtype), self.is_tokens, masks

    def masks_of_steps(self, T: int, H: int, B: int) -> list[Masks]:
        """The masks of each time step."""
        by_kind = []
        for name, mask in zip(Masks._fields, self.masks, strict=True):
            by_kind.append(per_step(self.workspace.load(name, mask, self.dtype), (T, H, B)))
        return [Masks(*masks) for masks in zip(*by_kind, strict=True)]

    def release(self) -> None:
        """Free the arrays saved for the backward pass."""
        self.is_released = True
        self.workspace.release()
        del self.a, self.states, self.joined, self.masked_h, self.scratch


def two_threads_pay(W_h: Array, parts: int, B: int) -> bool:
    """Whether it is faster to compute the gradients of the weights in a second thread, behind the loop.

    It is for long sequences of small steps. In large steps, the products of the loop itself take nearly all the time,
    and they already use all cores.
    """
    return array_module(W_h) is np and cores() > 1 and parts >= FEWEST_PARTS and W_h.size * B <= SMALL_STEP


def check_shapes(gates: int, x: Any, states: Iterable[Any], W_x: Any, W_h: Any, b: Any, *, step: bool = False) -> None:
    """Raise ValueError unless the shapes fit a cell with this number of gates (4 for an LSTM).

    ``step``: x is the input of one time step, (D, B) or tokens (B,).
    """
    if W_h.ndim != 2 or len(W_h) != gates * W_h.shape[1]:
        raise ValueError(f"W_h must be ({gates if gates > 1 else ''}H, H), got {W_h.shape}")
    H = W_h.shape[1]
    if W_x.ndim != 2 or len(W_x) != gates * H or b.shape != (gates * H,):
        raise ValueError(
            f"W_x must be ({gates * H}, D) and b ({gates * H},) for W_h {W_h.shape}, got {W_x.shape}, {b.shape}"
        )
    tokens, T = x.dtype.kind in "iu", "" if step else "T, "
    if x.ndim != 3 - tokens - step or (not tokens and x.shape[-2] != W_x.shape[1]):
        raise ValueError(
            f"x must be ({T}{W_x.shape[1]}, B) for W_x {W_x.shape}, or integers ({T}B); got {x.shape} of {x.dtype}"
        )
    for state in states:
        if state.shape != (H, x.shape[-1]):
            raise ValueError(f"initial states must be (H, B) = {(H, x.shape[-1])}, got {state.shape}")


def per_step(mask: Mask, shape: tuple[int, int, int]) -> list[Mask]:
    """Split a mask that broadcasts to ``shape`` (T, H, B) into T masks that broadcast to (H, B)."""
    T = shape[0]
    if mask is None or not hasattr(mask, "ndim"):
        return [mask] * T
    check_mask(mask, shape, "(T, H, B)")
    if mask.ndim < 3 or len(mask) != T:
        return [mask[0] if mask.ndim == 3 else mask] * T
    return list(mask)
