"""Zoneout of a state in place, forward and backward."""

from __future__ import annotations

from minizone.backend import Array, array_module
from minizone.kernels.step import Mask


def zone_out(old: Array, new: Array, keep: Mask, out: Array, scratch: Array) -> None:
    """``out = keep * old + (1 - keep) * new``, all (H, B); ``new`` is overwritten.

    Computed as ``keep * old + (new - keep * new)``, which is exactly ``old`` for keep = 1 and exactly ``new`` for
    keep = 0.
    """
    xp = array_module(new)
    if keep is None:
        out[...] = new
        return
    xp.multiply(keep, new, out=scratch)
    new -= scratch
    xp.multiply(keep, old, out=out)
    out += new


def zone_out_back(d: Array, keep: Mask, d_out: Array | None, d_old: Array) -> None:
    """The backward pass of `zone_out`, all (H, B).

    In: ``d``, dLoss/d(the state after zoneout) from later steps; ``d_out``, the same directly from the loss, or None.
    Out: ``d`` becomes dLoss/d(new) = (1 - keep) * d; ``d_old`` = keep * d.
    """
    if d_out is not None:
        d += d_out
    if keep is None:
        d_old[...] = 0
        return
    array_module(d).multiply(keep, d, out=d_old)
    d -= d_old
