"""The zoneout LSTM of chapter 18 in PyTorch: `python run.py conformance benchmarks/conformance/pytorch.py:PyTorch`.

Beside minizone: `pip install torch`.
"""

import contextlib
import importlib
import io
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "chapters"))
with contextlib.redirect_stdout(io.StringIO()):  # the chapter says which packages it does without
    chapter = importlib.import_module("18_your_own_code")


def rows(a):
    """The last two axes swapped: torch's examples are rows."""
    return torch.tensor(a).transpose(-1, -2).contiguous()


def columns(a):
    return a.detach().transpose(-1, -2).numpy()


class PyTorch:
    def __init__(self, W_x, W_h, b, z_h, z_c):
        self.layer = chapter.TorchZoneoutLSTM(W_x.shape[1], W_h.shape[1], z_h, z_c).double()
        weights = {"weight_ih": W_x, "weight_hh": W_h, "bias_ih": b, "bias_hh": 0 * b}
        self.layer.cell.load_state_dict({name: torch.tensor(value) for name, value in weights.items()})

    def sequence(self, x, h, c, train, seed):
        torch.manual_seed(seed)
        with torch.no_grad():
            h, c = self.layer.train(train)(rows(x), rows(h), rows(c))
        return columns(h), columns(h), columns(c)

    def gradient(self, x, h, c, r, q, seed):
        torch.manual_seed(seed)
        given = [rows(a).requires_grad_() for a in (x, h, c)]
        out, cells = self.layer.train()(*given)
        self.layer.zero_grad()
        ((out * rows(r)).sum() + (cells[-1] * rows(q)).sum()).backward()
        names = {"W_x": "weight_ih", "W_h": "weight_hh", "b": "bias_ih"}
        found = {name: getattr(self.layer.cell, theirs).grad.numpy() for name, theirs in names.items()}
        return found | {name: columns(a.grad) for name, a in zip("xhc", given, strict=True)}
