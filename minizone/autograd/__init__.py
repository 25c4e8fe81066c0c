"""Reverse-mode differentiation: the tape, the primitive operations, and the check of their gradients."""

from minizone.autograd import ops  # attaches the operators + - * / @ ** to Tensor
from minizone.autograd.gradcheck import GradientError
from minizone.autograd.tensor import Function, Tensor, no_grad

__all__ = ["Function", "GradientError", "Tensor", "no_grad", "ops"]
