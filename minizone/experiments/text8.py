"""Character-level language modelling on text8, 10^8 characters of Wikipedia: section 4.2 of the paper, Table 1."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from minizone.data import TextDataset, load_text8
from minizone.experiments.char_ptb import CharPTB
from minizone.experiments.settings import CharacterSettings


@dataclass(frozen=True)
class Text8Settings(CharacterSettings):
    """Train a character-level language model on text8 (Krueger et al., 2017, section 4.2)."""

    dataset: Literal["auto", "text8", "manual"] = "auto"
    """text8: Wikipedia in 27 symbols, or the beginning of it; manual: the Python manual in the same symbols, a stand-in
    that every Python installation contains; auto: text8, or manual if text8 is missing."""

    def load(self, say: Callable[[str], None]) -> TextDataset:
        return load_text8(self.dataset, self.data_dir, offline=self.offline, say=say)


PAPER = Text8Settings(  # section 4.2
    preset="paper",
    hidden_size=2000,
    batch_size=128,
    seq_len=180,
    algorithm="adam",
    learning_rate=1e-3,
    clipping=1.0,
    clip_what="step",  # as in char-ptb
    epochs=50,  # the script of Cooijmans et al., whose settings the paper follows
    patience=5,  # the paper stops early and does not say when
)
PRESETS = {
    "paper": PAPER,
    "quick": replace(  # the sizes of char-ptb's quick preset
        PAPER,
        preset="quick",
        hidden_size=256,
        batch_size=16,
        seq_len=50,
        learning_rate=2e-3,
        epochs=24,
        train_symbols=100_000,
        eval_symbols=20_000,
    ),
}
REFERENCE = {  # bits per character, Table 1 (ICLR 2017)
    "Unregularized LSTM": {"valid": 1.396, "test": 1.408},
    "Recurrent dropout": {"valid": 1.409, "test": 1.358},  # 0.5 in the authors' README, not in the paper
    "Zoneout": {"valid": 1.331, "test": 1.336},
}


class Text8(CharPTB):
    """The model and the minibatches of `CharPTB` on another text."""

    task = "text8"
    presets = PRESETS
    paper = REFERENCE

    def has_papers_text(self) -> bool:
        return self.data.name == "text8"
