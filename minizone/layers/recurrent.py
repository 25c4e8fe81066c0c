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
    """Base class of LSTM, GRU and RNN: weights, learned initial states, and the masks of a minibatch.

    Parameters
    ----------
    input_size, hidden_size : int
        D and H. For token inputs, D is the size of the vocabulary.
    zoneout : Zoneout
        Probabilities and kind of masks. Only an LSTM has cells to zone out.
    drop_inputs : float in [0, 1]
        Recurrent dropout (Semeniuta et al., 2016): probability that i * g (in a GRU: n) of a unit is dropped.
    drop_hidden : float in [0, 1]
        Variational dropout (Gal and Ghahramani, 2016) on h_{t-1}: one mask for all time steps of a minibatch.
    initializer : callable
        For W_x and W_h, see `minizone.layers.init`.
    identity : bool
        Initialize the block of W_h for the candidate (g in an LSTM, n in a GRU, all of W_h in an RNN) as the identity.
    learned_state : bool
        True: the states before the first step are parameters, initially 0. False: they are 0.
    rng : numpy.random.Generator
        Draws the initial weights, and the seed of static masks.
    """

    gates: int
    candidate: int  # which block of H rows computes the candidate
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
        """Return ``(h, state)`` for x (T, D, B) or tokens (T, B): all h (T, H, B) and the last states, each (H, B).

        ``state``: the states before the first step, (h, c) in an LSTM, else (h,), each (H, B); None: the initial ones.
        ``rng``: in training, masks are drawn from it; None: evaluation, in which masks are their expectation. Raises
        ValueError if the shape of x or the states do not fit, and on the CPU IndexError for a token not in [0, D).

        To carry a state over to the next update, detach it: ``state = tuple(s.detach() for s in state)``. Gradients
        would otherwise flow back into the last minibatch, through weights that the optimizer has changed since, and
        ``backward`` would raise RuntimeError.
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
        """As `__call__`, but return all states of the sequence, each (T, H, B); ``record`` as in `minizone.lstm`."""
        start = self.start(state, x.shape[-1])
        return self.sequence(x, start, record=record, **self.masks(x.shape[0], x.shape[-1], rng))

    def sequence(self, x: Tensor | Array, start: State, **options: Any) -> State:
        """Apply the function of this layer, from the states ``start``; ``options`` are its masks and ``record``."""
        raise NotImplementedError

    def start(self, state: State | None, B: int) -> State:
        """The states before the first step: those given or, for None, the initial ones."""
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
        """Those of keep_h, keep_c, input_mask and hidden_mask that the layer uses, for a minibatch."""
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
    """The last of all ``states`` (T, H, B), each (H, B); for T = 0 the states ``before`` or the initial ones."""
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
        Zoneout of the output gate with recurrent dropout, see `minizone.lstm`.
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
    """A batch-normalized LSTM with zoneout: `minizone.bn_lstm`, also with gamma_x, gamma_h, gamma_c, beta_c.

    In training (with ``rng``) it normalizes with the statistics of the minibatch and updates the population statistics.
    In evaluation it normalizes with the population statistics, the buffers ``mean`` and ``variance``.
    ``with layer.statistics.reestimate():`` replaces them by exact ones (Cooijmans et al., 2017, section 3).

    Parameters
    ----------
    steps : int
        The number of time steps with statistics of their own. Later steps use those of the last one.
    gamma : float
        Initial value of the gains. The default is 0.1, since the gradient vanishes in saturated tanhs with 1.
    beta, epsilon, alpha : float
        Initial value of beta_c; constant added to the variances; weight of a minibatch, see `Statistics`.
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
        self.statistics.mean, self.statistics.variance = self.mean.data, self.variance.data  # may be on another device
        return bn_lstm(
            x, h, c, self.W_x, self.W_h, self.b, self.gamma_x, self.gamma_h, self.gamma_c, self.beta_c,
            statistics=self.statistics.collect if rng is not None else self._population(state is None),
            epsilon=self.epsilon, record=record, **self.masks(x.shape[0], x.shape[-1], rng),
        )  # fmt: skip

    def _population(self, from_the_start: bool) -> Statistics:
        """The population statistics; exact for the first step from the initial state, which all examples share."""
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

    ``activation`` is "tanh" or "relu"; other options: see `RecurrentLayer`. ``drop_inputs`` must be 0.
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
        On the input of each layer (except raw inputs: an array or tokens) and on the output of the last one
        (Zaremba et al., 2014).
    variational : float in [0, 1]
        The same with one mask for all time steps (Gal and Ghahramani, 2016); for h_{t-1}, see ``drop_hidden``.
    """

    def __init__(self, layers: list[RecurrentLayer], *, dropout: float = 0.0, variational: float = 0.0):
        self.layers = layers
        self.dropouts = [Dropout(dropout), Dropout(variational, variational=True)]

    def __call__(
        self, x: Tensor | Array, state: list[State] | None = None, rng: Generator | None = None
    ) -> tuple[Tensor, list[State]]:
        """Return ``(h, states)``: the output of the last layer, (T, H, B), and the last states of every layer.

        ``state`` is a list with the states of each layer; any other length raises ValueError.
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
        """As `__call__`, but return all states (T, H, B) of every layer; ``record`` is for the last layer."""
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
        """Apply dropout to a computed tensor; raw inputs (arrays or tokens) are returned unchanged."""
        if isinstance(x, Tensor) and x.dtype.kind not in "iu":
            for dropout in self.dropouts:
                x = dropout(x, rng)
        return x
