"""Character-level language modelling on Penn Treebank: section 4.1.1 of the paper, Table 1 and Figure 3."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from minizone.backend import Device, Generator, stream
from minizone.data import TextDataset, load_characters
from minizone.experiments.settings import RunSettings, require
from minizone.init import INITIALIZERS
from minizone.layers import LSTM, Linear, Module, State
from minizone.ops import softmax_cross_entropy
from minizone.tensor import Tensor, no_grad
from minizone.zoneout import Zoneout

Batch = tuple[np.ndarray, np.ndarray]  # tokens (T, B) and the symbols that follow them, (T, B)


@dataclass(frozen=True)
class CharSettings(RunSettings):
    """Train a character-level language model on Penn Treebank (Krueger et al., 2017, section 4.1.1)."""

    z_prob_cells: float = 0.0
    """Probability that a cell keeps its old value (zoneout of c); the paper's best is 0.5."""
    z_prob_states: float = 0.0
    """Probability that a hidden state keeps its old value (zoneout of h); the paper's best is 0.05."""
    share_mask: bool = False
    """One zoneout mask for cells and states."""
    static_mask: bool = False
    """Masks drawn once for the whole training: static identity connections."""
    stoch_depth: bool = False
    """A zoneout mask decides for the whole layer at a time step: stochastic depth."""
    gaussian_drop: bool = False
    """Zoneout masks from Normal(z, z(1-z)) instead of 0 and 1."""
    drop_prob_igates: float = 0.0
    """Probability that i*g of a unit is dropped: recurrent dropout."""
    initialization: Literal["ortho", "ortho-whole", "glorot", "uniform"] = "ortho"
    """Initial weights; ortho: square orthogonal blocks, as the authors; ortho-whole: the whole rectangle."""
    clipping: float = 1.0
    """Largest L2 norm of what --clip-what names; 0: no clipping."""
    clip_what: Literal["step", "gradient"] = "step"
    """step: clip the Adam step, as the authors' code; gradient: clip the gradient, as the paper says."""
    augment: bool = True
    """Cut the training text at another offset in every epoch."""
    dataset: Literal["auto", "ptb", "manual"] = "auto"
    """ptb: Penn Treebank; manual: the Python manual, a stand-in that every Python carries; auto: ptb, else manual."""
    ptb_form: Literal["authors", "stripped"] = "authors"
    """authors: with one blank at an end of each line; stripped: with none. The first is easier by about 0.8 %."""
    train_symbols: int = 0
    """Train on so many symbols from the beginning of the training text; 0: on all."""
    eval_symbols: int = 0
    """Evaluate on so many symbols from the beginning of the validation and test texts; 0: on all."""

    def check(self) -> None:
        super().check()
        for name in ("z_prob_cells", "z_prob_states", "drop_prob_igates"):
            require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "be a probability in [0, 1]")
        require(self.clipping >= 0, "clipping", self.clipping, "be 0 (none) or more")
        for name in ("train_symbols", "eval_symbols"):
            n = getattr(self, name)
            require(n == 0 or n > 2 * self.seq_len, name, n, f"be 0 or more than twice --seq-len {self.seq_len}")
        if self.share_mask or self.stoch_depth:
            c, h = self.z_prob_cells, self.z_prob_states
            flag = "share_mask" if self.share_mask else "stoch_depth"
            require(c == h or 0 in (c, h), flag, f"{c} and {h}", "have --z-prob-cells and --z-prob-states equal")

    def zoneout(self) -> Zoneout:
        return Zoneout(
            self.z_prob_cells,
            self.z_prob_states,
            shared=self.share_mask,
            whole_layer=self.stoch_depth,
            static_steps=self.seq_len - 1 if self.static_mask else 0,
            gaussian=self.gaussian_drop,
        )

    def label(self) -> str:
        """A short name for the run: its regularizers and its seed."""
        parts = []
        if self.z_prob_cells or self.z_prob_states:
            parts.append(f"zoneout-c{self.z_prob_cells:g}-h{self.z_prob_states:g}")
        for flag, name in (("share_mask", "shared"), ("static_mask", "static"), ("stoch_depth", "layer")):
            parts += [name] if getattr(self, flag) and parts else []
        parts += ["gaussian"] if self.gaussian_drop and parts else []
        parts += [f"igates{self.drop_prob_igates:g}"] if self.drop_prob_igates else []
        return "-".join([*(parts or ["lstm"]), f"seed{self.seed}"])


PAPER = CharSettings(
    preset="paper", hidden_size=1000, batch_size=32, seq_len=100, learning_rate=2e-3, epochs=110
)  # epochs: those of the one log that the authors published; their default is 2000, stopped by hand
PRESETS = {
    "paper": PAPER,
    "quick": replace(
        PAPER,
        preset="quick",
        hidden_size=256,
        batch_size=16,
        seq_len=50,
        epochs=24,
        train_symbols=100_000,
        eval_symbols=20_000,
    ),
}
REFERENCE = {  # bits per character, Table 1 (ICLR 2017); shown beside runs on whole PTB
    "Unregularized LSTM": {"valid": 1.466, "test": 1.356},
    "Zoneout": {"valid": 1.362, "test": 1.27},
}


class CharModel(Module):
    """Tokens (T, B) to scores of the next symbol (T, V, B)."""

    def __init__(self, vocabulary_size: int, settings: CharSettings, rng: Generator):
        initializer = INITIALIZERS[settings.initialization]
        self.lstm = LSTM(
            vocabulary_size,
            settings.hidden_size,
            zoneout=settings.zoneout(),
            drop_inputs=settings.drop_prob_igates,
            initializer=initializer,
            rng=rng,
        )
        self.output = Linear(settings.hidden_size, vocabulary_size, initializer=initializer, rng=rng)

    def __call__(self, tokens: Any, state: State | None = None, rng: Generator | None = None) -> tuple[Tensor, State]:
        h, state = self.lstm(tokens, state, rng)
        return self.output(h), state


class CharPTB:
    """The experiment: what `minizone.training.fit` needs to know of it."""

    task, metric, unit = "char-ptb", "bpc", "bits per character"
    presets = PRESETS

    def __init__(self, settings: CharSettings, say: Any = print):
        self.settings, self.device = settings, Device(settings.device)
        data = load_characters(settings.dataset, settings.data_dir, form=settings.ptb_form, say=say)
        self.data: TextDataset = data.first(settings.train_symbols, settings.eval_symbols)
        shortest = min(len(self.data.train) // 2, len(self.data.valid), len(self.data.test))
        require(
            settings.seq_len <= shortest, "seq_len", settings.seq_len, f"be at most {shortest} for {self.data.name}"
        )
        self.model = CharModel(self.data.vocabulary_size, settings, stream(settings.seed, "weights"))
        for parameter in self.model.parameters():
            parameter.data = self.device.to_device(parameter.data)

    @property
    def reference(self) -> dict[str, dict[str, float]]:
        """The paper's numbers, when this run's data are those they are on."""
        s = self.settings
        return REFERENCE if self.data.name.startswith("PTB") and s.train_symbols == s.eval_symbols == 0 else {}

    def batches(self, epoch: int) -> Sequence[Batch]:
        """The minibatches of an epoch: chunks of ``seq_len`` symbols from an offset, both redrawn for every epoch."""
        rng = stream(self.settings.seed, "order", epoch)
        offset = int(rng.integers(self.settings.seq_len)) if self.settings.augment else 0
        return Chunks(self.data.train[offset:], self.settings.seq_len, self.settings.batch_size, rng)

    def loss(self, batch: Batch, rng: Generator) -> tuple[Tensor, int]:
        """Mean cross-entropy of a minibatch in nats, with the noise of training, and how many symbols it is over."""
        tokens, targets = (self.device.to_device(part) for part in batch)
        scores, _ = self.model(tokens, rng=rng)
        return softmax_cross_entropy(scores, targets), targets.size

    def score(self, nats: float) -> float:
        """The loss in the unit of the metric: bits per character."""
        return nats / math.log(2)

    def validate(self) -> float:
        """Validation BPC as the authors compute it: chunks of ``seq_len``, each from the learned initial state."""
        return self.bpc_by_chunks(self.data.valid)

    def test(self) -> dict[str, float]:
        """Both protocols: the text as one sequence, as the literature tests, and in chunks, as `validate`."""
        return {
            "test_bpc": self.bpc_of_one_sequence(self.data.test),
            "test_bpc_chunks": self.bpc_by_chunks(self.data.test),
        }

    def bpc_by_chunks(self, text: np.ndarray) -> float:
        """BPC over chunks of ``seq_len`` symbols, the state reset for each; a rest shorter than a chunk is left out."""
        chunks = Chunks(text, self.settings.seq_len, self.settings.batch_size)
        total = count = 0.0
        for tokens, targets in chunks:
            nats, _ = self._nats(tokens, targets, None)
            total, count = total + nats * targets.size, count + targets.size
        return self.score(total / count)

    def bpc_of_one_sequence(self, text: np.ndarray) -> float:
        """BPC of all symbols but the first, in one pass with the state carried from beginning to end."""
        window = (self.settings.seq_len - 1) * max(1, 1000 // (self.settings.seq_len - 1))  # a whole number of chunks
        total, state = 0.0, None
        for start in range(0, len(text) - 1, window):
            part = text[start : start + window + 1, None]
            nats, state = self._nats(part[:-1], part[1:], state)
            total += nats * (len(part) - 1)
        return self.score(total / (len(text) - 1))

    def _nats(self, tokens: np.ndarray, targets: np.ndarray, state: State | None) -> tuple[float, State]:
        with no_grad():
            scores, state = self.model(self.device.to_device(tokens), state)
            return float(softmax_cross_entropy(scores, self.device.to_device(targets))), state


class Chunks(Sequence[Batch]):
    """A text (N,) cut into chunks of ``length`` symbols, in minibatches of ``batch_size``, in the order of ``rng``.

    A minibatch is (tokens, targets), each (length - 1, B): from all symbols of a chunk but the last, all but the
    first are to be predicted, as in the authors' code. The last minibatch may be smaller.
    """

    def __init__(self, text: np.ndarray, length: int, batch_size: int, rng: Generator | None = None):
        starts = np.arange(len(text) // length) * length
        self.starts = starts if rng is None else rng.permutation(starts)
        self.text, self.length, self.batch_size = text, length, batch_size

    def __len__(self) -> int:
        return -(-len(self.starts) // self.batch_size)

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(f"minibatch {index} of {len(self)}")
        starts = self.starts[index * self.batch_size : (index + 1) * self.batch_size]
        chunk = self.text[starts + np.arange(self.length)[:, None]]  # (length, B)
        return chunk[:-1], chunk[1:]

    def __iter__(self) -> Iterator[Batch]:
        return (self[k] for k in range(len(self)))
