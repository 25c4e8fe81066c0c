"""How far back gradients reach: section 4.4 and Figure 6 of the paper, and Figure 1a of Cooijmans et al. (2017)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from minizone.autograd.ops import softmax_cross_entropy
from minizone.autograd.tensor import Tensor
from minizone.backend import Array, stream, to_host
from minizone.errors import UserError
from minizone.experiments import pmnist
from minizone.experiments.pmnist import PMNIST, PMNISTSettings
from minizone.kernels.cpu import bn_lstm as kernels
from minizone.layers import init
from minizone.optim import Optimizer
from minizone.recurrent.sequence import StateGradients
from minizone.runs.files import load_arrays, write_npz
from minizone.runs.plotting import plot_gradients
from minizone.runs.settings import INFINITE, require
from minizone.runs.training import fit

KINDS = ("state c", "state h", "candidate c", "candidate h")  # what the gradients are of, see `StateGradients`
METHODS: dict[str, dict[str, Any]] = {  # the lines of Figure 6, and z = 0.15 as in the logs of the authors' script
    "unregularized": {},
    "zoneout z_c = 0.5": {"z_prob_cells": 0.5},
    "zoneout z_c = z_h = 0.15": {"z_prob_cells": 0.15, "z_prob_states": 0.15, "share_mask": True},
    "recurrent dropout 0.5": {"drop_prob_igates": 0.5},
}
GAMMAS = tuple(k / 10 for k in range(1, 11))


@dataclass(frozen=True)
class GradientsSettings(PMNISTSettings):
    """Train pmnist with each regularizer and measure the gradients of the states (Krueger et al., 2017, section 4.4).

    Each regularizer sets its own zoneout and dropout flags; all other flags are those of pmnist.
    """

    initial_noise: float = 0.1
    """For the figure of Cooijmans et al.: standard deviation of the hidden state before the first step."""

    def check(self) -> None:
        super().check()
        for name in sorted({flag for changes in METHODS.values() for flag in changes}):
            if getattr(self, name):
                raise UserError(f"gradients compares regularizers and sets --{name.replace('_', '-')} itself")
        if self.rnn_type != "lstm":
            raise UserError(f"gradients looks at the cells of an LSTM, got --rnn-type {self.rnn_type}")
        require(
            0 <= self.initial_noise < INFINITE,
            "initial_noise",
            self.initial_noise,
            "be finite (below 1e30) and 0 or more",
        )


def _settings(preset: PMNISTSettings, **changes: Any) -> GradientsSettings:
    return GradientsSettings(**{**vars(preset), **changes})


PRESETS = {
    "paper": _settings(pmnist.PRESETS["paper"], epochs=1),  # the figure is of one epoch: inherent, not learned
    "quick": _settings(pmnist.PRESETS["quick"], epochs=2),
}


class Gradients(PMNIST):
    """`PMNIST`, with a look at dLoss/d(state) of every time step before training and after every epoch.

    The gradients are those that back-propagation through time has in hand on its way, of the mean loss of one training
    minibatch with the noise of training; per example the L2 norm over units, then the mean over examples.
    """

    task = "gradients"
    presets: dict[str, Any] = PRESETS

    def __init__(self, settings: Any, say: Callable[[str], None] = print):
        super().__init__(settings, say)
        self.norms = [self.measure()]  # an array (4, T) for every epoch, rows as KINDS

    def measure(self) -> np.ndarray:
        """The norms (4, T) for the parameters as they are; changes nothing."""
        before = {name: array.copy() for name, array in self.model.state_dict().items()}
        record, seed = StateGradients(), self.settings.seed
        self.loss(self.batches(1)[0], stream(seed, "probe", device=self.device), record).loss.backward()
        for parameter in self.model.parameters():
            parameter.grad = None
        self.model.load_state_dict(before)  # population statistics have moved
        (h, c), (new_h, new_c) = record.states, record.candidates
        return np.stack([norms_over_time(gradient) for gradient in (c, h, new_c, new_h)])

    def end_epoch(self, valid: float, optimizer: Optimizer) -> bool:
        self.norms.append(self.measure())
        return False

    def carried(self) -> dict[str, Array]:
        return {"norms": np.stack(self.norms)}

    def recall(self, arrays: dict[str, np.ndarray]) -> None:
        self.norms = list(arrays["norms"])


def norms_over_time(gradient: Array) -> np.ndarray:
    """L2 norms over units of a gradient (T, H, B), averaged over examples: (T,)."""
    return to_host(((gradient * gradient).sum(axis=1) ** 0.5).mean(axis=1))


def normalized_rnn_gradients(
    pixels: np.ndarray, labels: np.ndarray, gammas: Sequence[float], hidden_size: int, noise: float, seed: int
) -> np.ndarray:
    """dLoss/dh_t of a batch-normalized tanh-RNN at initialization, for several gains: norms (gammas, T).

        h_t = tanh(gamma * BN(W_h h_{t-1} + W_x x_t)),    W_h the identity, W_x orthogonal, softmax of the last h

    pixels (T, 1, B), labels (B,). Cooijmans et al. (2017), section 3 and Figure 1a. ``noise`` is the standard deviation
    of h_0: where the first pixels are the same in all images, nothing else varies over the minibatch.
    """
    (T, _, B), H, rng = pixels.shape, hidden_size, stream(seed, "batch-normalized rnn")
    W_h, W_x = np.eye(H), init.orthogonal(rng, (H, 1), np.float64)
    W_out = Tensor(init.orthogonal(rng, (10, H), np.float64))
    h0, ones = noise * rng.standard_normal((H, B)), np.ones(B)
    result = []
    for gamma in gammas:
        h, s_hat, inverse = np.empty((T + 1, H, B)), np.empty((T, H, B)), np.empty((T, H))
        mean, variance, d_gamma, d_beta = np.empty((4, H))
        scratch = np.empty((H, B))
        h[0] = h0
        for t in range(T):
            s_hat[t] = W_h @ h[t] + W_x @ pixels[t]
            kernels.normalize_forward(s_hat[t], mean, variance, inverse[t], 1e-5, False, ones, scratch)
            h[t + 1] = np.tanh(gamma * s_hat[t])
        last = Tensor(h[T])
        softmax_cross_entropy(W_out @ last, labels).backward()
        dh: Array = last.grad
        norms = np.empty(T)
        for t in reversed(range(T)):
            norms[t] = np.sqrt((dh * dh).sum(axis=0)).mean()
            d = dh * (1 - h[t + 1] ** 2)
            kernels.normalize_backward(d, s_hat[t], gamma * inverse[t], d_gamma, d_beta, False, ones, scratch)
            dh = W_h.T @ s_hat[t]
        result.append(norms)
    return np.stack(result)


def run(settings: GradientsSettings, folder: Path, say: Callable[[str], None] = print) -> dict[str, np.ndarray]:
    """Train with every method, each in a folder of its own, and write gradients.npz and gradients.png.

    The arrays: ``norms`` (methods, epochs + 1, 4, T), what they are of in ``methods`` and ``kinds``;
    ``gamma_norms`` (10, T) and ``gammas`` for the batch-normalized RNN.
    """
    deadline, norms = time.monotonic() + 60 * settings.max_minutes, []
    for method, changes in METHODS.items():
        own = folder / method.replace(" ", "").replace("=", "-")
        done = settings.resume and (own / "summary.json").exists()
        if not done:
            left = max((deadline - time.monotonic()) / 60, 1e-9)
            resume = settings.resume and (own / "config.json").exists()
            say(f"-- {method}")
            fit(Gradients(replace(settings, **changes, max_minutes=left, resume=resume), say), own, say)
        norms.append(load_arrays(own / "last.safetensors")[0]["carried.norms"])
    experiment = PMNIST(settings, lambda line: None)
    pixels, labels = experiment.batches(1)[0]
    gamma_norms = normalized_rnn_gradients(
        pixels, labels, GAMMAS, settings.hidden_size, settings.initial_noise, settings.seed
    )
    found = {
        "norms": np.stack(norms),
        "methods": np.array(list(METHODS)),
        "kinds": np.array(KINDS),
        "gamma_norms": gamma_norms,
        "gammas": np.array(GAMMAS),
    }
    write_npz(folder / "gradients.npz", found)
    plot_gradients(found, experiment.data.name, folder / "gradients.png")
    say(summary(found))
    say(f"{folder / 'gradients.npz'} and {folder / 'gradients.png'}")
    return found


def summary(found: dict[str, np.ndarray]) -> str:
    """Which share of the gradient of c is in the first quarter of the time steps, before training and at its end."""
    lines = [
        "share of sum_t |dL/dc_t| in the first quarter of the time steps (before training -> after the last epoch):"
    ]
    for method, norms in zip(found["methods"], found["norms"], strict=True):
        share = norms[:, 0] / norms[:, 0].sum(axis=1, keepdims=True)  # (epochs + 1, T)
        early = share[:, : share.shape[1] // 4].sum(axis=1)
        lines.append(f"  {method:26s} {early[0]:.4f} -> {early[-1]:.4f}")
    return "\n".join(lines)
