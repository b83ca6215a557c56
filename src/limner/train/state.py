"""Run state: what a stage needs to go on exactly where it stopped.

Trained parameters, optimiser, moving average, loader position and step. No random state: every draw in a run comes from
generators keyed by (seed, step, item). Written atomically next to the last good state.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FILE = "state.pt"


def save_state(directory: Path, state: dict[str, Any]) -> None:
    """Write the state; a crash leaves the one before."""
    temporary = directory / f".{FILE}.writing"
    with temporary.open("wb") as stream:
        torch.save(state, stream)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(directory / FILE)


def load_state(directory: Path) -> dict[str, Any] | None:
    """The state, or None when the stage has none yet."""
    file = directory / FILE
    return torch.load(file, weights_only=True, map_location="cpu") if file.exists() else None


def parameter_values(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Detached values by name."""
    return {name: parameter.detach().clone() for name, parameter in parameters.items()}


@torch.no_grad()
def restore_parameters(parameters: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Put values back. Raises ValueError when the stage trains other parameters than it did."""
    if set(parameters) != set(values):
        changed = sorted(set(parameters) ^ set(values))[:4]
        raise ValueError(
            f"the saved state trains other parameters than the recipe: {', '.join(changed)} ...\n"
            "hint: a changed recipe needs a new output directory"
        )
    for name, parameter in parameters.items():
        parameter.copy_(values[name])
