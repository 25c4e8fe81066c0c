"""`run.py export RUN`: the best weights of a run as a state dict of PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from minizone.commands.flags import file_to_write, parse
from minizone.errors import UserError
from minizone.runs import files
from minizone.runs.torch_names import to_torch

NOT_IN_TORCH = (  # settings that change what a trained network computes in evaluation, and that PyTorch does not have
    "z_prob_cells", "z_prob_states", "drop_prob_igates", "input_drop", "output_gate", "ogates_zoneout", "static_mask",
    "summarize",
)  # fmt: skip
OFF = (0.0, "0", "0.0", "plain", None)  # their values without an effect; False is 0.0


@dataclass(frozen=True)
class Export:
    """Write the best weights of a run as a state dict of torch.nn.LSTM (or RNN), Linear and Embedding, in safetensors.

    The head of minizone/runs/torch_names.py shows the PyTorch module that it fits, and says where h0, c0 and the
    zoneout probabilities are. To read the file back: --load-path FILE of the same task.
    """

    run: tyro.conf.Positional[str]
    """The folder of the run."""
    out: str | None = None
    """The file; without it torch.safetensors in the folder of the run."""


def main(arguments: list[str]) -> int:
    settings = parse(Export, arguments, "export")
    run = Path(settings.run)
    print(export(run, file_to_write(settings.out or str(run / "torch.safetensors"))))
    return 0


def export(run: Path, out: Path) -> str:
    """Write the best parameters of a run in PyTorch's names; returns a sentence about the file."""
    config = files.read_json(run / "config.json")
    settings = config["settings"]
    parameters, _ = files.load_arrays(run / "best.safetensors")
    try:
        translated = to_torch(parameters)
    except ValueError as error:
        raise UserError(f"cannot export {run}: {error}") from None
    module = "torch.nn.LSTM" if settings["rnn_type"] == "lstm" else f"torch.nn.RNN, {settings['activation']}"
    evaluation = {name: settings[name] for name in NOT_IN_TORCH if settings.get(name) not in OFF}
    files.save_arrays(out, translated, module=module, task=config["task"], evaluation=evaluation)
    if not evaluation:
        return f"{out}: {module}"
    flags = ", ".join(f"--{name.replace('_', '-')} {value}" for name, value in evaluation.items())
    return f"{out}: {module}; it needs {flags} in evaluation too, which PyTorch's does not have"
