"""Stage: one declarative piece of a recipe. What is trained, on what, how long, from where.

A stage is a value: it names no device and holds no tensor. Trainable parts are globs over dotted parameter names; a
glob that matches nothing is an error, because a stage that silently trains less than it says is the costliest bug
there is.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Literal, Protocol, runtime_checkable

from torch import nn

from limner.data.collate import Collator
from limner.data.conditions import ConditionLoader
from limner.data.features import FeatureCache
from limner.data.loader import Loader
from limner.data.mixture import Mixture
from limner.data.packing import BestFit, Packing
from limner.data.pictures import PictureLoader
from limner.document.document import Direction
from limner.model.multimodal import MultimodalLM
from limner.tokens.batch import Batch
from limner.tokens.render import Renderer
from limner.train.objectives import Multimodal, Objective
from limner.train.optim import TorchOptimizer


@dataclass(frozen=True)
class Trainable:
    """Parameters whose name matches `glob`, with their peak learning rate.

    `learning_rate`, `optimizer`: None for the stage's. Muon, for one, takes matrices alone; the rest then needs
    another.
    """

    glob: str
    learning_rate: float | None = None
    weight_decay: float = 0.0
    optimizer: TorchOptimizer | None = None


@runtime_checkable
class LearningRateSchedule(Protocol):
    """Learning-rate factor over a stage."""

    def factor(self, step: int, num_steps: int) -> float:
        """The factor at `step` of `num_steps`, in [0, 1]."""
        ...


def _after_warmup(step: int, num_steps: int, *, warmup_steps: int | float, curve: Callable[[float], float]) -> float:
    """A rising line up to 1 over the warm-up, then `curve` of the share of the rest that is done."""
    warmup = _warmup(warmup_steps, num_steps=num_steps)
    if step < warmup:
        return (step + 1) / warmup
    return curve((step - warmup) / max(1, num_steps - warmup))


def _warmup(steps: int | float, *, num_steps: int) -> int:
    """Steps of a warm-up: a number below 1 is a share of all steps, rounded up."""
    return math.ceil(steps * num_steps) if steps < 1 else int(steps)


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, then a half cosine down to `final` of the peak.

    `warmup_steps`, here and in the other schedules: steps, or below 1 a share of all steps (0.003: 3 in a thousand).
    """

    warmup_steps: int | float = 0
    final: float = 0.0

    def factor(self, step: int, num_steps: int) -> float:
        """The factor at `step` of `num_steps`, in (0, 1]."""

        def curve(done: float) -> float:
            return self.final + (1.0 - self.final) * 0.5 * (1.0 + math.cos(math.pi * done))

        return _after_warmup(step, num_steps, warmup_steps=self.warmup_steps, curve=curve)


@dataclass(frozen=True)
class Constant:
    """Linear warm-up, then the peak to the end."""

    warmup_steps: int | float = 0

    def factor(self, step: int, num_steps: int) -> float:
        """The factor at `step`, in (0, 1]."""
        return _after_warmup(step, num_steps, warmup_steps=self.warmup_steps, curve=lambda done: 1.0)


@dataclass(frozen=True)
class Linear:
    """Linear warm-up, then a straight line down to `final` of the peak."""

    warmup_steps: int | float = 0
    final: float = 0.0

    def factor(self, step: int, num_steps: int) -> float:
        """The factor at `step` of `num_steps`, in (0, 1]."""

        def curve(done: float) -> float:
            return 1.0 - (1.0 - self.final) * done

        return _after_warmup(step, num_steps, warmup_steps=self.warmup_steps, curve=curve)


@dataclass(frozen=True)
class WarmupStableDecay:
    """Linear warm-up, the peak, and over the last `decay_steps` a straight line down to `final` (WSD, Hu et al. 2024).

    Until the decay begins the factors do not depend on the length of the stage: a run can be made longer later.
    """

    decay_steps: int
    warmup_steps: int | float = 0
    final: float = 0.0

    def factor(self, step: int, num_steps: int) -> float:
        """The factor at `step` of `num_steps`, in (0, 1]."""
        left = min(1.0, (num_steps - step) / max(1, self.decay_steps))
        warmup = _warmup(self.warmup_steps, num_steps=num_steps)
        return min(1.0, (step + 1) / max(1, warmup), self.final + (1.0 - self.final) * left)


@runtime_checkable
class BatchLoader(Protocol):
    """What the trainer asks of a loader."""

    def next_batch(self) -> Batch: ...

    def state_dict(self) -> dict: ...

    def load_state_dict(self, state: dict) -> None: ...


@runtime_checkable
class Batching(Protocol):
    """How documents become batches."""

    def loader(
        self, mixture: Mixture, *, model: MultimodalLM, rank: int = 0, num_ranks: int = 1, num_workers: int = 0
    ) -> BatchLoader:
        """The loader of one rank; none of `rank`, `num_ranks`, `num_workers` changes what all ranks together read."""
        ...


@dataclass(frozen=True)
class Packed:
    """Rows of packed documents through the whole model; frozen encoders and autoencoders are cached.

    row_length, max_items: tokens and media items that a row may hold (None: as many as fit).
    num_rows:              rows of a batch.
    packing, window:       how documents of `window` consecutive positions share rows.
    too_long:              what becomes of a document that no row can hold.
    """

    row_length: int
    num_rows: int
    packing: Packing = field(default_factory=BestFit)
    window: int = 512
    max_items: int | None = None
    too_long: Literal["error", "skip", "cut"] = "cut"

    def loader(
        self, mixture: Mixture, *, model: MultimodalLM, rank: int = 0, num_ranks: int = 1, num_workers: int = 0
    ) -> BatchLoader:
        """A packing loader."""
        cache = FeatureCache(model)
        # Lengths are known before packing, so codes come from the cache into the renderer.
        render = model.render
        for name in model.vocabulary.codes:
            cache.require(name, Direction.OUT)
            render = render.spelling(cache.spell)
        collate = Collator(model, cache=cache)
        return self._loader(
            mixture, render=render, collate=collate, rank=rank, num_ranks=num_ranks, num_workers=num_workers
        )

    def uncached_loader(self, mixture: Mixture, *, model: MultimodalLM) -> Loader:
        """The same rows with items as they are preprocessed: no weight of the model is looked at."""
        return self._loader(mixture, render=model.render, collate=Collator(model))

    def _loader(
        self,
        mixture: Mixture,
        *,
        render: Renderer,
        collate: Collator,
        rank: int = 0,
        num_ranks: int = 1,
        num_workers: int = 0,
    ) -> Loader:
        return Loader(
            mixture,
            render=render,
            collate=collate,
            row_length=self.row_length,
            num_rows=self.num_rows,
            packing=self.packing,
            window=self.window,
            max_items=self.max_items,
            too_long=self.too_long,
            rank=rank,
            num_ranks=num_ranks,
            num_workers=num_workers,
        )


@dataclass(frozen=True)
class CachedConditions:
    """Pictures with cached hidden states: for stages that train the decoder behind a frozen language model."""

    modality: str
    num_items: int

    def loader(
        self, mixture: Mixture, *, model: MultimodalLM, rank: int = 0, num_ranks: int = 1, num_workers: int = 0
    ) -> BatchLoader:
        """A condition loader. It reads in this process: what it needs is cached."""
        return ConditionLoader(
            mixture, model=model, name=self.modality, num_items=self.num_items, rank=rank, num_ranks=num_ranks
        )


@dataclass(frozen=True)
class Pictures:
    """Target pictures alone: for stages that train an autoencoder."""

    modality: str
    num_items: int

    def loader(
        self, mixture: Mixture, *, model: MultimodalLM, rank: int = 0, num_ranks: int = 1, num_workers: int = 0
    ) -> BatchLoader:
        """A picture loader. It reads in this process: what it needs is cached."""
        return PictureLoader(
            mixture, model=model, name=self.modality, num_items=self.num_items, rank=rank, num_ranks=num_ranks
        )


@dataclass(frozen=True)
class Evaluation:
    """Held-out losses, measured after every `every` steps and after the last, with the same noise each time.

    mixture:     documents that are not trained on.
    num_batches: how many batches of them; `batching` None takes the stage's.
    keep_best:   whether the weights with the lowest total so far are kept as a checkpoint, <stage>/best.
    """

    mixture: Mixture
    every: int
    num_batches: int = 8
    batching: Batching | None = None
    keep_best: bool = True


@dataclass(frozen=True)
class Stage:
    """One stage. Fields:

    mixture:          the documents and their order.
    batching:         how documents become batches.
    trainable:        what changes; the first glob that matches a parameter gives its learning rate.
    num_steps:        optimiser steps; `accumulation` batches per step, shared by all ranks: on how many a stage runs
                      changes nothing.
    loss_weights:     weight per term; a term without a weight is an error, weight 0 leaves it out.
    objective:        which loss terms there are, and what is measured before the first and after the last step.
    learning_rate:    peak for all parameters whose glob names none of its own; None where all do.
    optimizer:        for all parameters whose glob names none of its own.
    schedule:         factor on the learning rates of all parts, over the steps.
    max_gradient_norm: gradients of a step whose norm over all parameters is larger are scaled down to it.
    start_from:       (component glob, where from) pairs, first match wins; what matches none starts as built. From
                      where: the name of an earlier stage, the directory of a checkpoint, or "as built". One of these
                      alone: everything from there. Empty: everything from the stage before.
    ema_decay:        keep an exponential moving average of the trainable parameters and end with it; None for none.
    precision:        "bfloat16" computes the objective under autocast, "auto" does so on a GPU; trained parameters and
                      optimiser are float32 always.
    expected_loss:    (low, high) band of the total loss at step 0, checked; None for no check.
    max_bad_steps:    so many steps in a row without a finite loss and gradient end the run; fewer are skipped, counted.
    evaluation:       held-out losses while training; None for none.
    save_every:       steps between two saved states; the last `keep_last` of them are kept.
    sample_every:     steps between two calls of the run's `on_sample`; 0 for none.
    """

    name: str
    mixture: Mixture
    batching: Batching
    trainable: Sequence[Trainable]
    num_steps: int
    loss_weights: Mapping[str, float]
    objective: Objective = field(default_factory=Multimodal)
    learning_rate: float | None = None
    optimizer: TorchOptimizer = field(default_factory=lambda: TorchOptimizer("AdamW", {"betas": (0.9, 0.98)}))
    schedule: LearningRateSchedule = field(default_factory=Schedule)
    accumulation: int = 1
    max_gradient_norm: float = 1.0
    ema_decay: float | None = None
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    start_from: Sequence[tuple[str, str]] | str = ()
    expected_loss: tuple[float, float] | None = None
    max_bad_steps: int = 10
    evaluation: Evaluation | None = None
    save_every: int = 500
    keep_last: int = 2
    sample_every: int = 0

    def __post_init__(self) -> None:
        rates = [self.learning_rate if group.learning_rate is None else group.learning_rate for group in self.trainable]
        if None in rates:
            glob = self.trainable[rates.index(None)].glob
            raise ValueError(
                f"stage `{self.name}` trains `{glob}` without a learning rate\nhint: give the stage `learning_rate`"
            )
        groups = zip(self.trainable, rates, strict=True)
        object.__setattr__(self, "trainable", tuple(replace(group, learning_rate=rate) for group, rate in groups))

    @property
    def origins(self) -> list[tuple[str, str]]:
        """`start_from` as pairs."""
        return [("*", self.start_from)] if isinstance(self.start_from, str) else list(self.start_from)


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
