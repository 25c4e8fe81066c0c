"""minizone's own LSTM as adapters: the function with masks drawn beforehand, and the layer that draws them."""

from __future__ import annotations

import numpy as np

from minizone.autograd.tensor import Tensor, no_grad
from minizone.backend import Array, stream
from minizone.layers import LSTM
from minizone.recurrent.lstm import lstm
from minizone.zoneout import Zoneout


class Function:
    """`minizone.lstm` with the masks of `minizone.Zoneout`."""

    def __init__(self, W_x: Array, W_h: Array, b: Array, z_h: float, z_c: float):
        self.weights = {"W_x": W_x, "W_h": W_h, "b": b}
        self.zoneout = Zoneout(cells=z_c, states=z_h)

    def sequence(self, x: Array, h: Array, c: Array, train: bool, seed: int) -> tuple[Array, Array, Array]:
        H, B = h.shape
        rng = stream(seed, "masks") if train else None
        keep_h, keep_c = self.zoneout.masks(len(x), H, B, rng, dtype=h.dtype)
        with no_grad():
            h_steps, c_steps = lstm(x, h, c, *self.weights.values(), keep_h=keep_h, keep_c=keep_c)
        return h_steps.data, h_steps.data, c_steps.data

    def gradient(self, x: Array, h: Array, c: Array, r: Array, q: Array, seed: int) -> dict[str, Array]:
        H, B = h.shape
        keep_h, keep_c = self.zoneout.masks(len(x), H, B, stream(seed, "masks"), dtype=h.dtype)
        given = {name: Tensor(array) for name, array in {"x": x, "h": h, "c": c, **self.weights}.items()}
        h_steps, c_steps = lstm(*given.values(), keep_h=keep_h, keep_c=keep_c)
        ((h_steps * r).sum() + (c_steps[-1] * q).sum()).backward()
        return {name: tensor.grad for name, tensor in given.items()}


class Layer:
    """`minizone.LSTM`, as models use it: it returns only the last c."""

    def __init__(self, W_x: Array, W_h: Array, b: Array, z_h: float, z_c: float):
        H, D = W_h.shape[1], W_x.shape[1]
        zoneout = Zoneout(cells=z_c, states=z_h)
        self.layer = LSTM(D, H, zoneout=zoneout, rng=stream(0, "replaced below"), dtype=W_x.dtype)
        self.layer.W_x.data = W_x.copy()
        self.layer.W_h.data = W_h.copy()
        self.layer.b.data = b.copy()

    def initial(self, B: int) -> tuple[Array, Array]:
        h, c = self.layer.initial_state(B)
        return np.array(h.data), np.array(c.data)

    def sequence(self, x: Array, h: Array, c: Array, train: bool, seed: int) -> tuple[Array, Array, Array]:
        rng = stream(seed, "masks") if train else None
        with no_grad():
            h_steps, (last_h, last_c) = self.layer(x, (Tensor(h), Tensor(c)), rng=rng)
        return h_steps.data, last_h.data, last_c.data

    def gradient(self, x: Array, h: Array, c: Array, r: Array, q: Array, seed: int) -> dict[str, Array]:
        given = {"x": Tensor(x), "h": Tensor(h), "c": Tensor(c)}
        given |= {"W_x": self.layer.W_x, "W_h": self.layer.W_h, "b": self.layer.b}
        for tensor in given.values():
            tensor.grad = None
        h_steps, (_, last_c) = self.layer(given["x"], (given["h"], given["c"]), rng=stream(seed, "masks"))
        ((h_steps * r).sum() + (last_c * q).sum()).backward()
        return {name: tensor.grad for name, tensor in given.items()}
