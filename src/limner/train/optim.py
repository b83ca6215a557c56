"""Optimiser and moving average of a stage. AdamW over the groups that its globs select."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from limner.train.stage import Stage, Trainable


def build_optimizer(groups: Mapping[Trainable, Mapping[str, nn.Parameter]], *, stage: Stage) -> torch.optim.AdamW:
    """One group per glob; matrices decay, vectors (norms, biases) do not."""
    entries = []
    for group, parameters in groups.items():
        for decay, chosen in (
            (group.weight_decay, [p for p in parameters.values() if p.ndim >= 2]),
            (0.0, [p for p in parameters.values() if p.ndim < 2]),
        ):
            if chosen:
                peak = group.learning_rate
                entries.append({"params": chosen, "lr": peak, "peak": peak, "weight_decay": decay})
    return torch.optim.AdamW(entries, betas=stage.betas)


def set_learning_rate(optimizer: torch.optim.Optimizer, *, factor: float) -> None:
    """Scale every group's learning rate from its peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor


class MovingAverage:
    """An exponential moving average of parameters, with the usual warm-up min(decay, (1 + n) / (10 + n))."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], *, decay: float) -> None:
        self.decay = decay
        self.num_updates = 0
        self.values: dict[str, Tensor] = {name: p.detach().clone() for name, p in parameters.items()}

    @torch.no_grad()
    def update(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Move towards the current values."""
        self.num_updates += 1
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        for name, parameter in parameters.items():
            self.values[name].lerp_(parameter.detach(), 1.0 - decay)

    @torch.no_grad()
    def swap(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Exchange the average and the current values, in place; a second call undoes the first."""
        for name, parameter in parameters.items():
            kept = parameter.detach().clone()
            parameter.copy_(self.values[name])
            self.values[name].copy_(kept)

    def state_dict(self) -> dict[str, Any]:
        """Values by parameter name, and the number of updates."""
        return {"num_updates": self.num_updates, **self.values}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.num_updates = int(state["num_updates"])
        self.values = {name: state[name] for name in self.values}
