"""Optimisers and moving average of a stage.

An optimiser is any class of torch.optim, recorded by its name and its own settings; learning rate and weight decay
belong to the parameters and stand with their glob. Parts of a model may have different ones (Muon for matrices, AdamW
for the rest): they step together and are saved together.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

_UNFIT = {"Optimizer", "LBFGS", "SparseAdam"}
"""No optimiser, one that wants a closure, one for sparse gradients alone."""


@dataclass(frozen=True)
class TorchOptimizer:
    """An optimiser class of torch.optim, such as AdamW, Adafactor, SGD or Muon, and the settings it is made with.

    Raises ValueError for a name or a setting that torch does not have, or a value that the class refuses.
    """

    name: str = "AdamW"
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        known = sorted(name for name in dir(torch.optim) if _is_optimizer(name))
        if self.name not in known:
            raise ValueError(f"torch.optim has no optimiser `{self.name}`\nhint: there is {', '.join(known)}")
        if surplus := sorted(set(self.options) - set(self.settings)):
            raise ValueError(
                f"{self.name} has no setting `{surplus[0]}`\nhint: there is {', '.join(self.settings)}; "
                "learning rate and weight decay belong to Trainable"
            )
        self.make([{"params": [nn.Parameter(torch.zeros(1, 1, device="cpu"))], "lr": 1e-3}])

    @property
    def settings(self) -> list[str]:
        """What `options` may set."""
        parameters = inspect.signature(getattr(torch.optim, self.name)).parameters
        return [name for name in parameters if name not in ("params", "lr", "weight_decay")]

    def make(self, groups: Sequence[dict[str, Any]]) -> torch.optim.Optimizer:
        """The optimiser over groups of parameters. Raises ValueError, with a hint, for what torch refuses."""
        options = dict(self.options)
        on_gpu = all(parameter.is_cuda for group in groups for parameter in group["params"])
        if on_gpu and "fused" in self.settings and not options.keys() & {"fused", "foreach"}:
            options["fused"] = True  # one kernel per step; torch leaves the choice to the caller
        try:
            return getattr(torch.optim, self.name)(list(groups), **options)
        except (TypeError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"{self.name} refuses its parameters or settings {dict(self.options)}: {reason}\n"
                "hint: see torch.optim; a Trainable may have an optimizer of its own"
            ) from error


@runtime_checkable
class ParameterGroup(Protocol):
    """What a glob says about its parameters."""

    @property
    def learning_rate(self) -> float | None: ...

    @property
    def weight_decay(self) -> float: ...

    @property
    def optimizer(self) -> TorchOptimizer | None: ...


Group = TypeVar("Group", bound=ParameterGroup)


class Optimizers(torch.optim.Optimizer):
    """Torch optimisers that step together, as one: they share its groups and its state by parameter."""

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        super().__init__([group for part in parts for group in part.param_groups], {})
        self.parts = tuple(parts)
        for part in self.parts:
            part.state = self.state

    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step of every part."""
        for part in self.parts:
            part.step()

    def set_learning_rate(self, *, factor: float) -> None:
        """Scale every group's learning rate from its peak."""
        for group in self.param_groups:
            group["lr"] = group["peak"] * factor

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Refused: it would part the groups from the optimisers that use them. Fill `state` instead."""
        raise ValueError("optimisers of several parts load no state dict\nhint: see limner.train.state.StateStore")


def build_optimizer(groups: Mapping[Group, Mapping[str, nn.Parameter]], *, optimizer: TorchOptimizer) -> Optimizers:
    """Groups per glob, each in the glob's own optimiser or in `optimizer`; matrices decay, vectors do not."""
    chosen: list[tuple[TorchOptimizer, list[dict[str, Any]]]] = []
    for group, parameters in groups.items():
        spec = group.optimizer or optimizer
        entries = next((entries for known, entries in chosen if known == spec), None)
        if entries is None:
            entries = []
            chosen.append((spec, entries))
        entries += _entries(group, list(parameters.values()))
    return Optimizers([spec.make(entries) for spec, entries in chosen])


def _entries(group: ParameterGroup, parameters: list[nn.Parameter]) -> list[dict[str, Any]]:
    matrices = [parameter for parameter in parameters if parameter.ndim >= 2]
    vectors = [parameter for parameter in parameters if parameter.ndim < 2]
    peak = group.learning_rate
    assert peak is not None, "a stage gives its groups their learning rates"
    return [
        {"params": chosen, "lr": peak, "peak": peak, "weight_decay": decay}
        for chosen, decay in ((matrices, group.weight_decay), (vectors, 0.0))
        if chosen
    ]


def _is_optimizer(name: str) -> bool:
    found = getattr(torch.optim, name)
    return isinstance(found, type) and issubclass(found, torch.optim.Optimizer) and name not in _UNFIT


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
