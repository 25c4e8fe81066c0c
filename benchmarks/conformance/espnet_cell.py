"""ESPnet's ZoneOutCell (Tacotron 2): `python run.py conformance benchmarks/conformance/espnet_cell.py:ESPnet`.

In an environment of its own, beside minizone's requirements (Python 3.11, ESPnet 202511):

    pip install torch six
    pip install --no-deps espnet
"""

import torch
from espnet.nets.pytorch_backend.tacotron2.decoder import ZoneOutCell


def rows(a):
    return torch.tensor(a).transpose(-1, -2).contiguous()


def columns(a):
    return a.detach().transpose(-1, -2).numpy()


class ESPnet:
    """The cell returns the states alone: a step's output is h."""

    def __init__(self, W_x, W_h, b, z_h, z_c):
        cell = torch.nn.LSTMCell(W_x.shape[1], W_h.shape[1]).double()
        weights = {"weight_ih": W_x, "weight_hh": W_h, "bias_ih": b, "bias_hh": 0 * b}
        cell.load_state_dict({name: torch.tensor(value) for name, value in weights.items()})
        self.cell = ZoneOutCell(cell)
        self.cell.zoneout_rate = (z_h, z_c)  # its forward takes a pair, its constructor compares with a number

    def step(self, x, h, c, train, seed):
        if seed is not None:
            torch.manual_seed(seed)
        with torch.no_grad():
            h, c = self.cell.train(train)(rows(x), (rows(h), rows(c)))
        return columns(h), columns(h), columns(c)

    def gradient(self, x, h, c, r, q, seed):
        torch.manual_seed(seed)
        inputs, state = [rows(x_t).requires_grad_() for x_t in x], tuple(rows(s).requires_grad_() for s in (h, c))
        self.cell.train().zero_grad()
        loss, now = 0, state
        for x_t, r_t in zip(inputs, r, strict=True):
            now = self.cell(x_t, now)
            loss = loss + (now[0] * rows(r_t)).sum()
        (loss + (now[1] * rows(q)).sum()).backward()
        names = {"W_x": "weight_ih", "W_h": "weight_hh", "b": "bias_ih"}
        found = {name: getattr(self.cell.cell, theirs).grad.numpy() for name, theirs in names.items()}
        found["x"] = torch.stack([x_t.grad for x_t in inputs]).transpose(1, 2).numpy()
        return found | {name: columns(s.grad) for name, s in zip("hc", state, strict=True)}
