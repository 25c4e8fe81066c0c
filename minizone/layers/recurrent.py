"""The recurrent layers, and stacks of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from minizone.autograd.tensor import Tensor
from minizone.backend import Array, Generator, array_module
from minizone.layers import init
from minizone.layers.basic import Dropout
from minizone.layers.module import Buffer, Module, Parameter
from minizone.layers.regularizers import dropout_mask, input_mask
from minizone.recurrent.bn_lstm import bn_lstm
from minizone.recurrent.gru import gru
from minizone.recurrent.lstm import lstm
from minizone.recurrent.rnn import rnn
from minizone.recurrent.sequence import StateGradients
from minizone.recurrent.statistics import Statistics
from minizone.zoneout import Zoneout, check_probability

State = tuple[Tensor, ...]  # (h, c) of an LSTM, (h,) of the others; each (H, B), or (T, H, B) for all time steps


class RecurrentLayer(Module):
    """What LSTM, GRU and RNN share: weights, learned initial states, and the masks of a minibatch.

    Parameters
    ----------
    input_size, hidden_size : int
        D and H. For token inputs, D is the number of kinds of tokens.
    zoneout : Zoneout
        Probabilities and kind of masks; of cells only in an LSTM.
    drop_inputs : float in [0, 1]
        Recurrent dropout (Semeniuta et al., 2016): probability that i * g of a unit (of a GRU: n) is dropped.
    drop_hidden : float in [0, 1]
        Variational dropout (Gal and Ghahramani, 2016) on h_{t-1}: one mask for all time steps of a minibatch.
    initializer : callable
        For W_x and W_h, see `minizone.layers.init`.
    identity : bool
        The block of W_h that makes the candidate (g, n, or all of an RNN's) starts as the identity.
    learned_state : bool
        The states before the first step are parameters, starting at 0; else they are 0.
    rng : numpy.random.Generator
        For the initial weights, and the seed of static masks.
    """

    gates: int
    candidate: int  # which block of H rows makes the candidate
    state_names: tuple[str, ...]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        zoneout: Zoneout = Zoneout(),  # noqa: B008  (frozen)
        drop_inputs: float = 0.0,
        drop_hidden: float = 0.0,
        initializer: init.Initializer = init.orthogonal_blocks,
        identity: bool = False,
        learned_state: bool = True,
        rng: Generator,
        dtype: Any = np.float32,
    ):
        if not isinstance(zoneout, Zoneout):
            raise TypeError(f"zoneout must be a Zoneout, as in Zoneout(cells=0.5, states=0.05), got {zoneout!r}")
        check_probability("drop_inputs", drop_inputs)
        check_probability("drop_hidden", drop_hidden)
        if zoneout.cells and len(self.state_names) == 1:
            raise ValueError(f"{type(self).__name__} has no cells to zone out, got Zoneout(cells={zoneout.cells})")
        H = hidden_size
        self.zoneout, self.drop_inputs, self.drop_hidden = zoneout, drop_inputs, drop_hidden
        self.W_x = Parameter(initializer(rng, (self.gates * H, input_size), dtype))
        self.W_h = Parameter(initializer(rng, (self.gates * H, H), dtype))
        if identity:
            self.W_h.data[self.candidate * H : (self.candidate + 1) * H] = np.eye(H)
        self.b = Parameter(np.zeros(self.gates * H, dtype))
        for name in self.state_names if learned_state else ():
            setattr(self, name, Parameter(np.zeros(H, dtype)))
        self._static_seed = int(rng.integers(2**63)) if zoneout.static_steps else None

    def __call__(
        self, x: Tensor | Array, state: State | None = None, rng: Generator | None = None
    ) -> tuple[Tensor, State]:
        """``(h, state)`` for x (T, D, B) or tokens (T, B): all h (T, H, B) and the last states, each (H, B).

        ``state``, (h, c) of an LSTM or (h,), each (H, B), is where the sequence starts; None: the initial one. ``rng``
        given means training, and masks are drawn from it; None means evaluation, and masks are their expectation.
        Raises ValueError for x or states of another shape or number, IndexError for a token that is not below D.

        To carry a state on to the next update, cut its graph: ``state = tuple(s.detach() for s in state)``. Gradients
        would otherwise go back into the last minibatch, through weights that the optimizer has changed since, and
        ``backward`` raises RuntimeError.
        """
        states = self.states(x, state, rng)
        return states[0], last_states(self, states, state)

    def states(
        self,
        x: Tensor | Array,
        state: State | None = None,
        rng: Generator | None = None,
        record: StateGradients | None = None,
    ) -> State:
        """As a call, but all states of the sequence, each (T, H, B); ``record`` as in `minizone.lstm`."""
        start = self.start(state, x.shape[-1])
        return self.sequence(x, start, record=record, **self.masks(x.shape[0], x.shape[-1], rng))

    def sequence(self, x: Tensor | Array, start: State, **options: Any) -> State:
        """The function of this layer, from the states ``start``; ``options`` are its masks and ``record``."""
        raise NotImplementedError

    def start(self, state: State | None, B: int) -> State:
        """The states that a sequence starts from: those given, or the initial ones."""
        if state is None:
            return self.initial_state(B)
        if not isinstance(state, tuple | list) or len(state) != len(self.state_names):
            names = "(h, c)" if len(self.state_names) == 2 else "(h,)"
            found = [s.shape for s in state] if isinstance(state, tuple | list) else type(state).__name__
            raise ValueError(f"the state of {type(self).__name__} must be {names}, each (H, B), got {found}")
        return state

    def initial_state(self, B: int) -> State:
        """The states before the first step, each (H, B)."""
        xp, H = array_module(self.W_h.data), self.W_h.shape[1]
        if not hasattr(self, "h0"):
            return tuple(Tensor(xp.zeros((H, B), self.W_h.dtype), requires_grad=False) for _ in self.state_names)
        ones = xp.ones((1, B), self.W_h.dtype)
        return tuple(getattr(self, name).reshape(-1, 1) * ones for name in self.state_names)

    def masks(self, T: int, B: int, rng: Generator | None) -> dict[str, Any]:
        """keep_h, keep_c, input_mask and hidden_mask of a minibatch, where the layer has them."""
        H, dtype = self.W_h.shape[1], self.W_h.dtype
        static = None if self._static_seed is None else np.random.default_rng(self._static_seed)
        keep_h, keep_c = self.zoneout.masks(T, H, B, rng, static, dtype)
        named = {
            "keep_h": keep_h,
            "keep_c": keep_c,
            "input_mask": input_mask(self.drop_inputs, T, H, B, rng, dtype),
            "hidden_mask": dropout_mask(self.drop_hidden, (H, B), rng, dtype),
        }
        xp = array_module(self.W_h.data)
        return {k: v if isinstance(v, float) else xp.asarray(v) for k, v in named.items() if v is not None}


def last_states(layer: RecurrentLayer, states: State, before: State | None) -> State:
    """The last of all ``states`` (T, H, B), each (H, B); after no steps at all those from before."""
    if len(states[0].data):
        return tuple(each[-1] for each in states)
    return before or layer.initial_state(states[0].shape[-1])


class LSTM(RecurrentLayer):
    """An LSTM with zoneout: `minizone.lstm` with parameters W_x, W_h, b, h0, c0.

    Parameters
    ----------
    forget_bias : float
        Initial bias of the forget gate; the other biases start at 0.
    output_gate : "plain", "paper", "printed" or "authors"
        Zoneout of the output gate beside recurrent dropout, see `minizone.lstm`.
    others
        See `RecurrentLayer`.
    """

    gates, candidate, state_names = 4, 2, ("h0", "c0")

    def __init__(
        self, input_size: int, hidden_size: int, *,
        forget_bias: float = 1.0, output_gate: str = "plain", **options: Any,
    ):  # fmt: skip
        super().__init__(input_size, hidden_size, **options)
        self.output_gate = output_gate
        self.b.data[hidden_size : 2 * hidden_size] = forget_bias

    def sequence(self, x: Tensor | Array, start: State, **options: Any) -> State:
        h, c = start
        return lstm(x, h, c, self.W_x, self.W_h, self.b, output_gate=self.output_gate, **options)


class BNLSTM(LSTM):
    """A batch-normalized LSTM with zoneout: `minizone.bn_lstm`, with parameters gamma_x, gamma_h, gamma_c, beta_c too.

    With a generator (training) it normalizes with the statistics of the minibatch, and the population statistics
    follow; without one it normalizes with the population statistics, which are buffers ``mean`` and ``variance``.
    ``with layer.statistics.reestimate():`` replaces them by exact ones (Cooijmans et al., 2017, section 3).

    Parameters
    ----------
    steps : int
        The number of time steps with statistics of their own; later ones use those of the last.
    gamma : float
        Initial value of the gains: 0.1, since with 1 the gradient vanishes in saturated tanhs.
    beta, epsilon : float
        Initial value of beta_c; what is added to the variances.
    others
        See `LSTM`.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        steps: int,
        gamma: float = 0.1,
        beta: float = 0.0,
        epsilon: float = 1e-5,
        alpha: float = 0.01,
        **options: Any,
    ):
        super().__init__(input_size, hidden_size, **options)
        if self.output_gate != "plain":
            raise ValueError(f"BNLSTM has no zoneout of the output gate, got output_gate={self.output_gate!r}")
        H, dtype = hidden_size, self.b.dtype
        self.gamma_x = Parameter(np.full(4 * H, gamma, dtype))
        self.gamma_h = Parameter(np.full(4 * H, gamma, dtype))
        self.gamma_c = Parameter(np.full(H, gamma, dtype))
        self.beta_c = Parameter(np.full(H, beta, dtype))
        self.epsilon = epsilon
        self.statistics = Statistics(steps, H, alpha=alpha, dtype=dtype)
        self.mean = Buffer(self.statistics.mean)
        self.variance = Buffer(self.statistics.variance)

    def states(
        self,
        x: Tensor | Array,
        state: State | None = None,
        rng: Generator | None = None,
        record: StateGradients | None = None,
    ) -> State:
        h, c = self.start(state, x.shape[-1])
        self.statistics.mean, self.statistics.variance = self.mean.data, self.variance.data  # they may have moved
        return bn_lstm(
            x, h, c, self.W_x, self.W_h, self.b, self.gamma_x, self.gamma_h, self.gamma_c, self.beta_c,
            statistics=self.statistics.collect if rng is not None else self._population(state is None),
            epsilon=self.epsilon, record=record, **self.masks(x.shape[0], x.shape[-1], rng),
        )  # fmt: skip

    def _population(self, from_the_start: bool) -> Statistics:
        """The population statistics; at the learned initial state, which all examples share, the exact ones."""
        if not from_the_start or self.statistics.reestimating:
            return self.statistics
        h0 = self.initial_state(1)[0].data[:, 0]
        return self.statistics.with_first_step(self.W_h.data @ h0)


class GRU(RecurrentLayer):
    """A GRU with zoneout: `minizone.gru` with parameters W_x, W_h, b, h0. Options: see `RecurrentLayer`."""

    gates, candidate, state_names = 3, 2, ("h0",)

    def sequence(self, x: Tensor | Array, start: State, **options: Any) -> State:
        (h,) = start
        return (gru(x, h, self.W_x, self.W_h, self.b, **options),)


class RNN(RecurrentLayer):
    """A simple recurrent network with zoneout: `minizone.rnn` with parameters W_x, W_h, b, h0.

    ``activation`` is "tanh" or "relu"; other options: see `RecurrentLayer`. It has no input gate to drop.
    """

    gates, candidate, state_names = 1, 0, ("h0",)

    def __init__(self, input_size: int, hidden_size: int, *, activation: str = "tanh", **options: Any):
        super().__init__(input_size, hidden_size, **options)
        if self.drop_inputs:
            raise ValueError(f"RNN has no input gate to drop, got drop_inputs={self.drop_inputs}")
        self.activation = activation

    def sequence(self, x: Tensor | Array, start: State, **options: Any) -> State:
        (h,) = start
        return (rnn(x, h, self.W_x, self.W_h, self.b, activation=self.activation, **options),)


class Stack(Module):
    """Recurrent layers on top of each other, with dropout on all connections that are not recurrent.

    Parameters
    ----------
    layers : list of RecurrentLayer
    dropout : float in [0, 1]
        On what enters each layer (but not on raw inputs: an array, or tokens) and on what the last one emits
        (Zaremba et al., 2014).
    variational : float in [0, 1]
        The same with one mask for all time steps; on h_{t-1} it is the layers' ``drop_hidden`` (Gal and Ghahramani).
    """

    def __init__(self, layers: list[RecurrentLayer], *, dropout: float = 0.0, variational: float = 0.0):
        self.layers = layers
        self.dropouts = [Dropout(dropout), Dropout(variational, variational=True)]

    def __call__(
        self, x: Tensor | Array, state: list[State] | None = None, rng: Generator | None = None
    ) -> tuple[Tensor, list[State]]:
        """``(h, states)``: what the last layer emits (T, H, B), and the last states of every layer.

        ``state`` is a list with the states of each layer; ValueError unless there is one for each.
        """
        h, states = self.states(x, state, rng)
        before: Any = [None] * len(states) if state is None else state
        return h, [last_states(*each) for each in zip(self.layers, states, before, strict=True)]

    def states(
        self,
        x: Tensor | Array,
        state: list[State] | None = None,
        rng: Generator | None = None,
        record: StateGradients | None = None,
    ) -> tuple[Tensor, list[State]]:
        """As a call, but all states (T, H, B) of every layer; ``record``, of the last one, as in `minizone.lstm`."""
        before: Any = [None] * len(self.layers) if state is None else state
        if len(before) != len(self.layers):
            raise ValueError(f"state must be a list of {len(self.layers)}, one for each layer, got {len(before)}")
        states: list[State] = []
        for layer, start in zip(self.layers, before, strict=True):
            last = layer is self.layers[-1]
            states.append(layer.states(self._drop(x, rng), start, rng, record if last else None))
            x = states[-1][0]
        return self._drop(x, rng), states

    def _drop(self, x: Tensor | Array, rng: Generator | None) -> Any:
        """Dropout of what is computed; raw inputs, arrays or tokens, stay as they are."""
        if isinstance(x, Tensor) and x.dtype.kind not in "iu":
            for dropout in self.dropouts:
                x = dropout(x, rng)
        return x
