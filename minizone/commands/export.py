"""`run.py export RUN`: the best weights of a run as a PyTorch state dict, and the module that they fit."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from minizone.autograd.tensor import Tensor
from minizone.backend import Array
from minizone.commands.flags import file_to_write, parse
from minizone.commands.train import TASKS, settings_of_run
from minizone.errors import UserError
from minizone.experiments.pmnist import PMNISTSettings
from minizone.experiments.settings import RecurrentSettings, TextSettings
from minizone.runs import files, torch_names
from minizone.runs.experiment import Experiment
from minizone.runs.groups import OFF

NOT_IN_TORCH = (  # settings that change the evaluation of a trained network, and that PyTorch does not have
    "z_prob_cells", "z_prob_states", "drop_prob_igates", "input_drop", "output_gate", "ogates_zoneout", "static_mask",
    "summarize",
)  # fmt: skip
MODULE = "torch_model.py"
TOLERANCE = 1e-4  # of --check, relative


@dataclass(frozen=True)
class Export:
    """Write the best weights of a run as a PyTorch state dict (safetensors), and torch_model.py beside it.

    torch_model.py is the model in PyTorch, with zoneout in training and its expectation in evaluation. Its docstring
    shows how to use it. Without zoneout, the weights also fit torch.nn.LSTM. To read the file back, give --load-path
    FILE to the same task.
    """

    run: tyro.conf.Positional[str]
    """The folder of the run."""
    out: str | None = None
    """File to write. The default is torch.safetensors in the folder of the run."""
    check: bool = False
    """Test the model in PyTorch on the test data of the run, and compare with summary.json. Status 1: they differ."""


def main(arguments: list[str]) -> int:
    settings = parse(Export, arguments, "export")
    run = Path(settings.run)
    out = file_to_write(settings.out or str(run / "torch.safetensors"))
    if not settings.check:
        print(export(run, out))
        return 0
    torch_model = import_torch_model()
    experiment, expected = run_to_compare(run)
    print(export(run, out))
    experiment.model = InTorch(torch_model.load(out))
    differ = False
    for name, value in experiment.test().items():
        same = math.isclose(value, expected[name], rel_tol=TOLERANCE)
        print(f"{name}: minizone {expected[name]:.6f}, PyTorch {value:.6f}{'' if same else ': they differ'}")
        differ = differ or not same
    return 1 if differ else 0


def export(run: Path, out: Path) -> str:
    """Write the best parameters of a run under PyTorch's names, and the module. Returns a sentence about the files."""
    task, settings = settings_of_run(run)
    parameters, _ = files.load_arrays(run / "best.safetensors")
    try:
        arrays = torch_names.to_torch(parameters)
    except ValueError as error:
        raise UserError(f"cannot export {run}: {error}") from None
    assert isinstance(settings, RecurrentSettings)  # it has recurrent layers
    evaluation = {name: getattr(settings, name) for name in NOT_IN_TORCH if getattr(settings, name, None) not in OFF}
    layers = {
        "lstm": "torch.nn.LSTM",
        "gru": "a GRU that resets before the product, unlike torch.nn.GRU",
        "rnn": f"torch.nn.RNN, {settings.activation}",
    }
    sentence = f"{out}: {layers[settings.rnn_type]}"
    if evaluation:
        flags = ", ".join(f"--{name.replace('_', '-')} {value}" for name, value in evaluation.items())
        sentence += f"; in evaluation it also needs {flags}"
    metadata: dict[str, Any] = {"module": layers[settings.rnn_type], "task": task, "evaluation": evaluation}
    if not isinstance(settings, TextSettings | PMNISTSettings):
        files.save_arrays(out, arrays, **metadata)
        return f"{sentence}; there is no module for {task}"

    source = Path(torch_names.__file__).with_name(MODULE).read_bytes()
    module = out.with_name(MODULE)
    if module.exists() and module.read_bytes() != source:
        raise UserError(f"{module} exists with other content: move it, or choose another folder with --out")
    if settings.static_mask:
        arrays |= static_masks(TASKS[task](settings))
    files.save_arrays(out, arrays, **metadata, model=arguments_of_model(settings, arrays))
    files.write_whole(module, source)
    return f"{sentence}; {module} loads it"


def arguments_of_model(settings: TextSettings | PMNISTSettings, arrays: dict[str, Array]) -> dict[str, Any]:
    """The arguments of `minizone.runs.torch_model.Model`."""
    V, H = arrays["output.weight"].shape
    return {
        "rnn": {
            "cell": settings.activation if settings.rnn_type == "rnn" else settings.rnn_type,
            "input_size": arrays["rnn.weight_ih_l0"].shape[1],
            "hidden_size": H,
            "z_cells": settings.per_layer("z_prob_cells"),
            "z_states": settings.per_layer("z_prob_states"),
            "drop_inputs": settings.per_layer("drop_prob_igates"),
            "dropout": settings.dropout,
            "variational": settings.variational_dropout,
            "shared": settings.share_mask,
            "whole_layer": settings.stoch_depth,
            "gaussian": settings.gaussian_drop,
            "static_steps": len(arrays["rnn.keep_h_l0"]) if settings.static_mask else 0,
            "output_gate": "authors" if settings.ogates_zoneout else settings.output_gate,
        },
        "classes": V,
        "images": isinstance(settings, PMNISTSettings),
        "embedding": "embedding.weight" in arrays,
        "learned_state": "h0" in arrays,
        "input_drop": settings.input_drop,
        "noise": getattr(settings, "noise", 0.0),
        "summarize": getattr(settings, "summarize", False),
    }


def static_masks(experiment: Experiment) -> dict[str, np.ndarray]:
    """The static masks of every layer, ``rnn.keep_h_l0`` and so on, each (n, 1, H), or (n, 1, 1) for whole layers."""
    masks = {}
    for k, layer in enumerate(experiment.model.rnn.layers):
        n, H = layer.zoneout.static_steps, 1 if layer.zoneout.whole_layer else layer.W_h.shape[1]
        found = layer.masks(n, 1, None)
        for name in ("keep_h", "keep_c"):
            masks[f"rnn.{name}_l{k}"] = found.get(name, np.zeros((n, H, 1), np.float32)).transpose(0, 2, 1)
    return masks


# ---- --check


def import_torch_model() -> Any:
    """Import `minizone.runs.torch_model`. Raises UserError without PyTorch."""
    try:
        from minizone.runs import torch_model
    except ImportError as error:
        raise UserError(f"--check needs PyTorch, and {error.name} is not installed: pip install torch") from None
    return torch_model


def run_to_compare(run: Path) -> tuple[Experiment, dict[str, float]]:
    """The experiment of a run, on the CPU, and its summary. Raises UserError without a summary or on other data."""
    task, settings = settings_of_run(run)
    if not isinstance(settings, TextSettings | PMNISTSettings):
        raise UserError(f"--check is for language models and pmnist, but {run} is a run of {task}")
    if not (run / "summary.json").exists():
        raise UserError(
            f"{run} has not ended, so there is no result to compare with: continue it with `run.py resume {run}`"
        )
    experiment = TASKS[task](replace(settings, device="cpu"))
    tested, data = files.read_json(run / "config.json")["dataset"], experiment.data
    if tested != {"name": data.name, "sha256": data.sha256}:
        raise UserError(
            f"{run} was tested on {tested['name']}, which is not the {data.name} here: set MINIZONE_DATA to its folder"
        )
    return experiment, files.read_json(run / "summary.json")


class InTorch:
    """A PyTorch model that replaces the model of an experiment, whose examples are columns."""

    normalized_layers = ()  # pmnist reads it

    def __init__(self, model: Any):
        self.model = model

    def __call__(self, x: np.ndarray, state: Any = None) -> tuple[Tensor, Any]:
        """The scores (T, V, B) of tokens (T, B), or (V, B) of pixels (T, 1, B), and the last states of PyTorch."""
        import torch

        inputs = torch.tensor(x.astype(np.int64) if x.ndim == 2 else x.transpose(0, 2, 1))
        with torch.no_grad():
            scores, last = self.model(inputs, state)
        return Tensor(scores.numpy().swapaxes(-1, -2)), last

    evaluate = __call__  # language models call it
