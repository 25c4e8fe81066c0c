"""Chainer's StatefulZoneoutLSTM: `python run.py conformance benchmarks/conformance/chainer_link.py:Chainer`.

In an environment of its own, beside minizone's requirements (Python 3.11, Chainer 7.8.1, NumPy 2):

    pip install "setuptools<60" wheel six filelock "protobuf<4" typing_extensions
    pip install --no-deps --no-build-isolation chainer

Chainer is of 2019 and asks NumPy for one name that NumPy 2 has no more, which is given back below.
"""

import numpy as np

np.sctypes = {"int": [np.int8, np.int16, np.int32, np.int64]}  # noqa: NPY201

import chainer  # noqa: E402
from chainer.links import StatefulZoneoutLSTM  # noqa: E402


class Chainer:
    """Weights in Chainer's order: row 4 k + j is gate j of a, i, f, o for unit k; a is g."""

    def __init__(self, W_x, W_h, b, z_h, z_c):
        self.H, D = W_h.shape[1], W_x.shape[1]
        self.layer = StatefulZoneoutLSTM(D, self.H, c_ratio=z_c, h_ratio=z_h)
        self.layer.upward.W.array, self.layer.upward.b.array = self.theirs(W_x), self.theirs(b)
        self.layer.lateral.W.array = self.theirs(W_h)

    def theirs(self, a):
        i, f, g, o = np.split(a, 4)
        return np.stack([g, i, f, o], axis=1).reshape(a.shape)

    def ours(self, a):
        g, i, f, o = a.reshape(self.H, 4, *a.shape[1:]).swapaxes(0, 1)
        return np.concatenate([i, f, g, o])

    def step(self, x, h, c, train, seed):
        if seed is not None:
            np.random.seed(seed)  # noqa: NPY002 (it is the generator that Chainer draws from)
        with chainer.using_config("train", train), chainer.no_backprop_mode():
            self.layer.set_state(*(chainer.Variable(np.ascontiguousarray(s.T)) for s in (c, h)))
            out = self.layer(chainer.Variable(np.ascontiguousarray(x.T)))
        return out.array.T, self.layer.h.array.T, self.layer.c.array.T

    def gradient(self, x, h, c, r, q, seed):
        np.random.seed(seed)  # noqa: NPY002
        inputs = [chainer.Variable(np.ascontiguousarray(x_t.T)) for x_t in x]
        states = [chainer.Variable(np.ascontiguousarray(s.T)) for s in (h, c)]
        self.layer.cleargrads()
        self.layer.set_state(states[1], states[0])
        with chainer.using_config("train", True):
            loss = sum(chainer.functions.sum(self.layer(x_t) * r_t.T) for x_t, r_t in zip(inputs, r, strict=True))
            (loss + chainer.functions.sum(self.layer.c * q.T)).backward()
        found = {"W_x": self.layer.upward.W, "W_h": self.layer.lateral.W, "b": self.layer.upward.b}
        return {name: self.ours(parameter.grad) for name, parameter in found.items()} | {
            "x": np.stack([x_t.grad.T for x_t in inputs]), "h": states[0].grad.T, "c": states[1].grad.T
        }  # fmt: skip
