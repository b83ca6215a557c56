"""Stage: one declarative piece of a recipe. What is trained, on what, how long, from where.

A stage is a value: it names no device and holds no tensor. Trainable parts are globs over dotted parameter names; a
glob that matches nothing is an error, because a stage that silently trains less than it says is the costliest bug
there is.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal, Protocol, runtime_checkable

from torch import nn

from limner.data.collate import Collator
from limner.data.conditions import ConditionLoader
from limner.data.features import FeatureCache
from limner.data.loader import Loader
from limner.data.mixture import Mixture
from limner.data.pictures import PictureLoader
from limner.model.multimodal import MultimodalLM
from limner.tokens.batch import Batch
from limner.train.objectives import Multimodal, Objective


@dataclass(frozen=True)
class Trainable:
    """Parameters whose name matches `glob`, with their own peak learning rate."""

    glob: str
    learning_rate: float
    weight_decay: float = 0.0


@dataclass(frozen=True)
class Schedule:
    """Learning-rate factor over a stage: linear warm-up, then a half cosine down to `final` of the peak."""

    warmup_steps: int = 0
    final: float = 0.0

    def factor(self, step: int, num_steps: int) -> float:
        """The factor at `step` of `num_steps`, in (0, 1]."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, num_steps - self.warmup_steps)
        return self.final + (1.0 - self.final) * 0.5 * (1.0 + math.cos(math.pi * progress))


@runtime_checkable
class BatchLoader(Protocol):
    """What the trainer asks of a loader."""

    def next_batch(self) -> Batch: ...

    def state_dict(self) -> dict: ...

    def load_state_dict(self, state: dict) -> None: ...


@runtime_checkable
class Batching(Protocol):
    """How documents become batches."""

    def loader(self, mixture: Mixture, *, model: MultimodalLM) -> BatchLoader: ...


@dataclass(frozen=True)
class Packed:
    """Rows of packed documents through the whole model; frozen encoders and autoencoders are cached."""

    row_length: int
    num_rows: int

    def loader(self, mixture: Mixture, *, model: MultimodalLM) -> BatchLoader:
        """A packing loader."""
        collate = Collator(model, cache=FeatureCache(model))
        return Loader(
            mixture,
            render=model.render,
            collate=collate,
            row_length=self.row_length,
            num_rows=self.num_rows,
        )


@dataclass(frozen=True)
class CachedConditions:
    """Pictures with cached hidden states: for stages that train the decoder behind a frozen language model."""

    modality: str
    num_items: int

    def loader(self, mixture: Mixture, *, model: MultimodalLM) -> BatchLoader:
        """A condition loader."""
        return ConditionLoader(mixture, model=model, name=self.modality, num_items=self.num_items)


@dataclass(frozen=True)
class Pictures:
    """Target pictures alone: for stages that train an autoencoder."""

    modality: str
    num_items: int

    def loader(self, mixture: Mixture, *, model: MultimodalLM) -> BatchLoader:
        """A picture loader."""
        return PictureLoader(mixture, model=model, name=self.modality, num_items=self.num_items)


@dataclass(frozen=True)
class Stage:
    """One stage. Fields:

    mixture:          the documents and their order.
    batching:         how documents become batches.
    trainable:        what changes; the first glob that matches a parameter gives its learning rate.
    num_steps:        optimiser steps; `accumulation` batches per step.
    loss_weights:     weight per term; a term without a weight is an error, weight 0 leaves it out.
    start_from:       (component glob, stage name) pairs, first match wins; what matches none starts as built.
                      Empty: everything from the stage before.
    ema_decay:        keep an exponential moving average of the trainable parameters and end with it; None for none.
    precision:        "bfloat16" computes the objective under autocast; parameters and optimiser stay in float32.
    expected_loss:    (low, high) band of the total loss at step 0, checked; None for no check.
    """

    name: str
    mixture: Mixture
    batching: Batching
    trainable: Sequence[Trainable]
    num_steps: int
    loss_weights: Mapping[str, float]
    objective: Objective = field(default_factory=Multimodal)
    schedule: Schedule = field(default_factory=Schedule)
    accumulation: int = 1
    max_gradient_norm: float = 1.0
    betas: tuple[float, float] = (0.9, 0.98)
    ema_decay: float | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    start_from: Sequence[tuple[str, str]] = ()
    expected_loss: tuple[float, float] | None = None
    save_every: int = 500
    sample_every: int = 0


def select_trainable(model: nn.Module, trainable: Sequence[Trainable]) -> dict[Trainable, dict[str, nn.Parameter]]:
    """Freeze everything, then switch on what the globs name. Raises ValueError for a glob that matches nothing."""
    groups: dict[Trainable, dict[str, nn.Parameter]] = {group: {} for group in trainable}
    for name, parameter in model.named_parameters():
        group = next((group for group in trainable if fnmatchcase(name, group.glob)), None)
        parameter.requires_grad_(group is not None)
        if group is not None:
            groups[group][name] = parameter
    for group, parameters in groups.items():
        if not parameters:
            known = sorted({".".join(name.split(".")[:3]) for name, _ in model.named_parameters()})
            raise ValueError(
                f"trainable glob `{group.glob}` matches no parameter\nhint: parameters begin with {', '.join(known)}"
            )
    return groups
