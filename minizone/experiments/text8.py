"""Character-level language modelling on text8, 10^8 characters of Wikipedia: section 4.2 of the paper, Table 1."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from minizone.data import TextDataset, load_text8
from minizone.experiments.char_ptb import CharPTB
from minizone.experiments.settings import TextSettings


@dataclass(frozen=True)
class Text8Settings(TextSettings):
    """Train a character-level language model on text8 (Krueger et al., 2017, section 4.2)."""

    augment: bool = True
    """Cut the training text at another offset in every epoch."""
    dataset: Literal["auto", "text8", "manual"] = "auto"
    """text8: Wikipedia in 27 symbols, or a beginning of it; manual: the Python manual in the same symbols, a stand-in
    that every Python carries; auto: text8, else manual."""

    def load(self, say: Callable[[str], None]) -> TextDataset:
        """The text that the settings name."""
        return load_text8(self.dataset, self.data_dir, offline=self.offline, say=say)


PAPER = Text8Settings(
    preset="paper",
    hidden_size=2000,
    batch_size=128,
    seq_len=180,
    learning_rate=1e-3,
    clip_what="step",
    epochs=50,  # of the script of Cooijmans et al., whose settings the paper follows; it stops early
    patience=5,
)
PRESETS = {
    "paper": PAPER,
    "quick": replace(
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
REFERENCE = {  # bits per character, Table 1 (ICLR 2017); shown beside runs on the whole text
    "Unregularized LSTM": {"valid": 1.396, "test": 1.408},
    "Zoneout": {"valid": 1.331, "test": 1.336},
}


class Text8(CharPTB):
    """`CharPTB` on another text."""

    task = "text8"
    presets: dict[str, Any] = PRESETS
    paper = REFERENCE

    def is_papers_text(self) -> bool:
        return self.data.name == "text8"
