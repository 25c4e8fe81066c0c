"""The pointwise part of each cell, forward and backward, in place."""
