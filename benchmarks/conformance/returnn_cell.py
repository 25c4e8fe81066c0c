"""RETURNN's ZoneoutLSTMCell: `python run.py conformance benchmarks/conformance/returnn_cell.py:RETURNN`.

`:RETURNN` is the cell that new configurations get, `:BeforeVersion17` that of configurations with a behavior version up
to 16, which it was for years (RETURNN #1313). In an environment of its own, beside minizone's requirements
(Python 3.11, TensorFlow 2.21, RETURNN 1.20261022):

    pip install tensorflow-cpu tf_keras dm-tree returnn
"""

import os
import warnings
from functools import cache

os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_USE_LEGACY_KERAS": "1"}

import numpy as np
import tensorflow.compat.v1 as tf
from returnn.tf.layers.rec import ZoneoutLSTMCell
from returnn.tf.network import ExternData, TFNetwork

from minizone.conformance.invariants import NotOffered

tf.disable_eager_execution()
tf.logging.set_verbosity(tf.logging.ERROR)
warnings.simplefilter("ignore")  # the cell is made of much that TensorFlow calls deprecated


@cache
def graph(T, B, D, H, z_h, z_c, seed, zoned_output):
    """A graph of T steps, and in it what is fed and fetched; TensorFlow wants to know the seed when it is built."""
    with tf.Graph().as_default() as made:
        tf.set_random_seed(seed)
        n = {"train": tf.placeholder(tf.bool, ())}
        n |= {s: tf.placeholder(tf.float32, shape) for s, shape in {"x": (T, B, D), "h": (B, H), "c": (B, H)}.items()}
        n |= {s: tf.placeholder(tf.float32, shape) for s, shape in {"r": (T, B, H), "q": (B, H)}.items()}
        with TFNetwork(extern_data=ExternData(), train_flag=n["train"]).register_network_scope():
            cell = ZoneoutLSTMCell(H, z_c, z_h, use_zoneout_output=zoned_output)
            state, steps = tf.nn.rnn_cell.LSTMStateTuple(n["c"], n["h"]), []
            for t in range(T):
                out, state = cell(n["x"][t], state)
                steps.append((out, state.h, state.c))
        n["kernel"], n["bias"] = tf.trainable_variables()
        n["steps"] = [tf.stack(each) for each in zip(*steps, strict=True)]
        loss = tf.reduce_sum(n["steps"][0] * n["r"]) + tf.reduce_sum(state.c * n["q"])
        n["gradient"] = tf.gradients(loss, [n[s] for s in ("x", "h", "c", "kernel", "bias")])
    return made, n


class RETURNN:
    """Gates in the order i, g, f, o; the cell adds 1 to the forget gate; one matrix for x and h; examples are rows."""

    zoned_output = True

    def __init__(self, W_x, W_h, b, z_h, z_c):
        if 1 in (z_h, z_c):  # the cell accepts it, and its dropout(new - old, keep_prob=0) raises
            raise NotOffered("z = 1 raises ValueError: `rate` must be in the range [0, 1)")
        self.D, self.H, self.z = W_x.shape[1], W_h.shape[1], (z_h, z_c)
        self.kernel = self.swap(np.concatenate([W_x, W_h], axis=1)).T  # (D + H, 4H)
        self.bias = self.swap(b - (np.arange(4 * self.H) // self.H == 1))

    def swap(self, a):
        """Rows i, f, g, o to i, g, f, o, and back."""
        return a.reshape(4, self.H, *a.shape[1:])[[0, 2, 1, 3]].reshape(a.shape)

    def run(self, what, seed, x, h, c, **fed):
        made, n = graph(len(x), x.shape[-1], self.D, self.H, *self.z, seed, self.zoned_output)
        fed |= {"x": x.swapaxes(1, 2), "h": h.T, "c": c.T}
        with tf.Session(graph=made) as session:  # a new one: its generators start from the seed
            n["kernel"].load(self.kernel, session)
            n["bias"].load(self.bias, session)
            return session.run(n[what], {n[name]: value for name, value in fed.items()})

    def sequence(self, x, h, c, train, seed):
        return [a.swapaxes(1, 2) for a in self.run("steps", seed, x, h, c, train=train)]

    def gradient(self, x, h, c, r, q, seed):
        found = self.run("gradient", seed, x, h, c, train=True, r=r.swapaxes(1, 2), q=q.T)
        kernel = self.swap(found[3].T)
        named = {name: a.swapaxes(-1, -2) for name, a in zip("xhc", found, strict=False)}
        return named | {"W_x": kernel[:, : self.D], "W_h": kernel[:, self.D :], "b": self.swap(found[4])}


class BeforeVersion17(RETURNN):
    zoned_output = False
