"""`run.py export`: the best weights of a run as a state dict of PyTorch."""

from __future__ import annotations

from pathlib import Path

from minizone.errors import UserError
from minizone.runs import files
from minizone.runs.torch_names import to_torch

IN_EVALUATION = {  # settings that change what a trained network computes, and the values that do not
    "z_prob_cells": 0.0, "z_prob_states": 0.0, "drop_prob_igates": 0.0, "input_drop": 0.0, "output_gate": "plain",
    "ogates_zoneout": False, "static_mask": False, "summarize": False,
}  # fmt: skip


def export(run: Path, out: Path) -> str:
    """Write the best parameters of a run in PyTorch's names; returns what a person should know of them."""
    config = files.read_json(run / "config.json")
    settings = config.get("settings") if isinstance(config, dict) else None
    if not isinstance(settings, dict):
        raise UserError(f"{run / 'config.json'} is not that of a run: it has no settings")
    arrays, _ = files.load_arrays(run / "best.safetensors")
    try:
        translated = to_torch(arrays)
    except ValueError as error:
        raise UserError(f"cannot export {run}: {error}") from None
    kind = "torch.nn.LSTM" if settings.get("rnn_type") == "lstm" else f"torch.nn.RNN, {settings.get('activation')}"
    noise = {k: v for k, v in settings.items() if k in IN_EVALUATION and v not in (IN_EVALUATION[k], "0", "0.0")}
    files.save_arrays(out, translated, module=kind, task=config.get("task"), evaluation=noise)
    flags = ", ".join(f"--{name.replace('_', '-')} {value}" for name, value in noise.items())
    return f"{out}: {kind}" + (f"; it needs {flags} in evaluation too, which PyTorch's does not have" if noise else "")
