"""Linear, Embedding and Dropout."""

from __future__ import annotations

from typing import Any

import numpy as np

from minizone.autograd.tensor import Function, Tensor
from minizone.backend import Array, Generator, array_module
from minizone.kernels import kernels_for
from minizone.kernels.stacks import columns
from minizone.layers import init
from minizone.layers.module import Module, Parameter
from minizone.layers.regularizers import dropout_mask
from minizone.zoneout import check_probability


class Linear(Module):
    """``y[t] = W @ x[t] + b`` for x (T, D, B) or (D, B), y (T, V, B) or (V, B): class scores from hidden states, say.

    Parameters W (V, D) and b (V,). Raises ValueError for x of any other shape.
    """

    def __init__(
        self, input_size: int, output_size: int, *,
        initializer: init.Initializer = init.orthogonal_blocks, rng: Generator, dtype: Any = np.float32,
    ):  # fmt: skip
        self.W = Parameter(initializer(rng, (output_size, input_size), dtype))
        self.b = Parameter(np.zeros(output_size, dtype))

    def __call__(self, x: Tensor) -> Tensor:
        V, D = self.W.shape
        if x.ndim not in (2, 3) or x.shape[-2] != D:
            raise ValueError(f"Linear: x must be (T, {D}, B) or ({D}, B) for W {(V, D)}, got {x.shape}")
        return self.W @ x + self.b.reshape(-1, 1)


class Embed(Function):
    """The columns of W (D, V) that tokens (T, B) select: x (T, D, B)."""

    def forward(self, W: Array, tokens: Array) -> Array:
        if tokens.ndim != 2 or tokens.dtype.kind not in "iu":
            raise ValueError(f"tokens must be integers (T, B), got {tokens.shape} of {tokens.dtype}")
        self.tokens, self.V = tokens, W.shape[1]
        self.kernels = kernels_for(W)
        self.kernels.check_tokens(tokens, self.V)
        return self.kernels.take_columns(W, tokens)

    def backward(self, gx: Array) -> tuple[Array, None]:
        dW = array_module(gx).zeros((gx.shape[1], self.V), gx.dtype)
        self.kernels.add_up_tokens(columns(gx), self.tokens, dW)
        return dW, None


class Embedding(Module):
    """Map tokens (T, B) to vectors x (T, D, B): ``x[t] = W[:, tokens[t]]``, with a parameter W (D, V).

    Raises ValueError if tokens are not integers (T, B), and on the CPU IndexError for a token that is not in [0, V).
    """

    def __init__(
        self,
        vocabulary_size: int,
        size: int,
        *,
        initializer: init.Initializer = init.glorot,
        rng: Generator,
        dtype: Any = np.float32,
    ):
        self.W = Parameter(initializer(rng, (size, vocabulary_size), dtype))

    def __call__(self, tokens: Tensor | Array) -> Tensor:
        return Embed()(self.W, tokens)


class Dropout(Module):
    """``x * mask`` in training, for x (T, H, B) and a mask from `dropout_mask`; x itself in evaluation (rng None).

    ``variational``: one mask for all time steps (Gal and Ghahramani, 2016) instead of a fresh one for each. It raises
    ValueError unless x is (T, H, B).
    """

    def __init__(self, p: float, *, variational: bool = False):
        check_probability("variational" if variational else "dropout", p)
        self.p, self.variational = p, variational

    def __call__(self, x: Tensor, rng: Generator | None = None) -> Tensor:
        if self.variational and x.ndim != 3:
            raise ValueError(f"variational dropout: x must be (T, H, B), got {x.shape}")
        mask = dropout_mask(self.p, (1, *x.shape[1:]) if self.variational else x.shape, rng, x.dtype)
        return x if mask is None else x * array_module(x.data).asarray(mask)
