"""How far back gradients reach: section 4.4 and Figure 6 of the paper, and Figure 1a of Cooijmans et al. (2017)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from minizone.autograd.ops import softmax_cross_entropy
from minizone.autograd.tensor import Tensor
from minizone.backend import Array, stream, to_host
from minizone.errors import UserError
from minizone.experiments import pmnist
from minizone.experiments.pmnist import PMNIST, PMNISTSettings
from minizone.layers import init
from minizone.optim import Optimizer
from minizone.recurrent.sequence import StateGradients
from minizone.runs.files import load_arrays, write_npz
from minizone.runs.plotting import plot_gradients
from minizone.runs.settings import Range
from minizone.runs.training import Say, Stop, fit, never

KINDS = ("state c", "state h")  # the loss is differentiated with respect to these states, after zoneout
METHODS: dict[str, dict[str, Any]] = {
    "unregularized": {},
    "zoneout z_c = 0.5": {"z_prob_cells": 0.5},  # section 4.4
    "zoneout z_c = z_h = 0.15": {"z_prob_cells": 0.15, "z_prob_states": 0.15, "share_mask": True},  # the authors' logs
    "recurrent dropout 0.5": {"drop_prob_igates": 0.5},  # section 4.4; the paper only says "dropout"
}
GAMMAS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # Cooijmans et al., Figure 1a


# ---- settings


@dataclass(frozen=True)
class GradientsSettings(PMNISTSettings):
    """Train pmnist with each regularizer and measure the gradients of the states (Krueger et al., 2017, section 4.4).

    The task sets the zoneout and dropout flags of each regularizer. All other flags are those of pmnist.
    """

    initial_noise: Annotated[float, Range(at_least=0)] = 0.1
    """Standard deviation of the initial hidden state, for the figure of Cooijmans et al."""

    def check(self) -> None:
        super().check()
        for name in ("z_prob_cells", "z_prob_states", "share_mask", "drop_prob_igates"):
            if getattr(self, name):
                raise UserError(f"gradients compares regularizers and sets --{name.replace('_', '-')} itself: omit it")
        if self.rnn_type != "lstm":
            raise UserError(f"gradients needs the cells of --rnn-type lstm, got --rnn-type {self.rnn_type}")


def _preset(settings: PMNISTSettings, epochs: int) -> GradientsSettings:
    return GradientsSettings(**{**vars(settings), "epochs": epochs})


PRESETS = {
    "paper": _preset(pmnist.PRESETS["paper"], epochs=1),  # section 4.4
    "quick": _preset(pmnist.PRESETS["quick"], epochs=2),
}


# ---- Krueger et al. (2017), Figure 6


class Gradients(PMNIST):
    """`PMNIST` that also measures dLoss/d(state) at every time step, before training and after every epoch.

    The loss is that of the first minibatch of epoch 1, with the noise of training.
    """

    task = "gradients"
    presets: dict[str, Any] = PRESETS

    def __init__(self, settings: GradientsSettings, say: Callable[[str], None] = print):
        super().__init__(settings, say)
        self.norms = [self.gradient_norms()]  # (2, T) before training and after each epoch

    def gradient_norms(self) -> np.ndarray:
        """The norms of dLoss/dc_t and dLoss/dh_t for the current parameters: (2, T), rows as in `KINDS`."""
        before = {name: array.copy() for name, array in self.model.state_dict().items()}
        record = StateGradients()
        noise = stream(self.settings.seed, "probe", device=self.device)
        self.loss(self.batches(1)[0], noise, record).loss.backward()
        for parameter in self.model.parameters():
            parameter.grad = None
        self.model.load_state_dict(before)  # batch normalization has updated its moving averages
        dh, dc = record.states  # (T, H, B) each
        return np.stack([norms_over_time(dc), norms_over_time(dh)])

    def end_epoch(self, valid: float, optimizer: Optimizer) -> bool:
        self.norms.append(self.gradient_norms())
        return False

    def carried(self) -> dict[str, Array]:
        return {"norms": np.stack(self.norms)}

    def load_carried(self, arrays: dict[str, np.ndarray]) -> None:
        self.norms = list(arrays["norms"])


def norms_over_time(gradient: Array) -> np.ndarray:
    """L2 norm over units of a gradient (T, H, B), then the mean over examples: (T,)."""
    gradient = gradient.astype(np.float64)  # the squares of a vanishing gradient would be 0 in float32
    norms = (gradient * gradient).sum(axis=1) ** 0.5  # (T, B)
    return to_host(norms.mean(axis=1))


# ---- Cooijmans et al. (2017), Figure 1a


def normalized_rnn_gradients(
    pixels: np.ndarray, labels: np.ndarray, gammas: Sequence[float], hidden_size: int, noise: float, seed: int
) -> np.ndarray:
    """Norms of dLoss/dh_t in a batch-normalized tanh-RNN before training, for several gains: (gammas, T).

        h_t = tanh(gamma * BN(h_{t-1} + W_x x_t))        W_x orthogonal, the loss is the cross-entropy of W_out h_T

    Parameters
    ----------
    pixels : (T, 1, B)
        The inputs x.
    labels : (B,)
    gammas : sequence of float
        The gains of batch normalization.
    hidden_size : int
        H.
    noise : float
        Standard deviation of h_0. With ``noise`` 0 and constant first pixels, the variance over the minibatch is 0.
    seed : int
        Seed of the weights and of h_0.
    """
    T, _, B = pixels.shape
    H = hidden_size
    rng = stream(seed, "batch-normalized rnn")
    W_x = init.orthogonal(rng, (H, 1), np.float64)
    W_out = init.orthogonal(rng, (10, H), np.float64)
    h0 = noise * rng.standard_normal((H, B))
    norms = np.empty((len(gammas), T))
    for row, gamma in zip(norms, gammas, strict=True):
        h = np.empty((T + 1, H, B))  # h[0] is the initial state
        s_hat = np.empty((T, H, B))
        std = np.empty((T, H, 1))
        h[0] = h0
        for t in range(T):
            s_hat[t], std[t] = normalize(h[t] + W_x @ pixels[t])
            h[t + 1] = np.tanh(gamma * s_hat[t])

        last = Tensor(h[T])
        softmax_cross_entropy(Tensor(W_out) @ last, labels).backward()
        dh: Array = last.grad  # (H, B)
        for t in reversed(range(T)):
            row[t] = np.sqrt((dh * dh).sum(axis=0)).mean()
            ds_hat = dh * (1 - h[t + 1] ** 2) * gamma
            dh = normalize_backward(ds_hat, s_hat[t], std[t])  # with respect to h[t], whose weight is the identity
    return norms


def normalize(s: np.ndarray, epsilon: float = 1e-5) -> tuple[np.ndarray, np.ndarray]:
    """Batch normalization of each row of s (R, B), and the standard deviations (R, 1) that it divides by."""
    centered = s - s.mean(axis=1, keepdims=True)
    std = np.sqrt((centered * centered).mean(axis=1, keepdims=True) + epsilon)
    return centered / std, std


def normalize_backward(ds_hat: np.ndarray, s_hat: np.ndarray, std: np.ndarray) -> np.ndarray:
    """dLoss/ds (R, B) of `normalize`, from dLoss/ds_hat; the mean and the variance depend on s as well."""
    mean = ds_hat.mean(axis=1, keepdims=True)
    slope = (ds_hat * s_hat).mean(axis=1, keepdims=True)
    return (ds_hat - mean - s_hat * slope) / std


# ---- all methods, and both figures


def run(settings: GradientsSettings, folder: Path, say: Say = print, stop: Stop = never) -> dict[str, np.ndarray]:
    """Train with every method, each in its own folder, and write gradients.npz and gradients.png.

    Returns the arrays of gradients.npz: ``norms`` (methods, epochs + 1, 2, T), with the names in ``methods`` and
    ``kinds``; and ``gamma_norms`` (10, T) of the batch-normalized RNN, with ``gammas`` (10,).
    """
    deadline = time.monotonic() + 60 * settings.max_minutes
    norms = []
    for method, changes in METHODS.items():
        run_folder = folder / method.replace(" ", "").replace("=", "-")
        finished = settings.resume and (run_folder / "summary.json").exists()
        if not finished:
            say(f"-- {method}")
            started = settings.resume and (run_folder / "config.json").exists()
            minutes_left = max((deadline - time.monotonic()) / 60, 1e-9)
            of_method = replace(settings, **changes, max_minutes=minutes_left, resume=started)
            fit(Gradients(of_method, say), run_folder, say, stop)
        arrays, _ = load_arrays(run_folder / "last.safetensors")
        norms.append(arrays["carried.norms"])

    experiment = PMNIST(settings, lambda line: None)
    pixels, labels = experiment.batches(1)[0]
    found = {
        "norms": np.stack(norms),
        "methods": np.array(list(METHODS)),
        "kinds": np.array(KINDS),
        "gamma_norms": normalized_rnn_gradients(
            pixels, labels, GAMMAS, settings.hidden_size, settings.initial_noise, settings.seed
        ),
        "gammas": np.array(GAMMAS),
    }
    write_npz(folder / "gradients.npz", found)
    plot_gradients(found, experiment.data.name, folder / "gradients.png")
    say(summary(found))
    say(f"{folder / 'gradients.npz'} and {folder / 'gradients.png'}")
    return found


def summary(found: dict[str, np.ndarray]) -> str:
    """For each method: the share of the gradient of c in the first quarter of the time steps."""
    lines = [
        "share of sum_t |dL/dc_t| in the first quarter of the time steps (before training -> after the last epoch):"
    ]
    for method, share in early_shares(found).items():
        lines.append(f"  {method:26s} {share[0]:.4f} -> {share[-1]:.4f}")
    return "\n".join(lines)


def early_shares(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """For each method: the share (epochs + 1,) of the gradient of c in the first quarter of the time steps."""
    of_c = found["norms"][:, :, KINDS.index("state c")]  # (methods, epochs + 1, T)
    shares = of_c[:, :, : of_c.shape[2] // 4].sum(axis=2) / of_c.sum(axis=2)
    return dict(zip(map(str, found["methods"]), shares, strict=True))
