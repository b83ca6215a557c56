"""Targets for the config tests: a dataclass, a module class, plain functions, an abstract class."""

import enum
from abc import ABC
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn


class Schedule(enum.StrEnum):
    COSINE = "cosine"
    LINEAR = "linear"


@dataclass(frozen=True)
class Optimizer:
    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)
    schedule: Schedule = Schedule.COSINE
    warmup: int | None = None


@dataclass(frozen=True)
class Stage:
    name: str
    optimizer: Optimizer
    trainable: Sequence[str] = ("*",)
    kind: Literal["text", "image"] = "text"
    tags: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Plan:
    stages: list[Stage]
    folder: Path = Path("out")
    seed: int = 0
    meta: Mapping[str, Any] = field(default_factory=dict)


class Encoder(nn.Module, ABC):
    pass


class Wide(Encoder):
    def __init__(self, *, width: int = 8) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)


class Model(nn.Module):
    def __init__(self, encoder: Encoder | None, *, depth: int = 2, dropout: float = 0.0) -> None:
        super().__init__()
        self.encoder = encoder
        self.depth = depth
        self.dropout = dropout


def untyped(size=3, label="x", items=(1, 2), nothing=None):
    return {"size": size, "label": label, "items": items, "nothing": nothing}


def anything(**options: Any) -> dict[str, Any]:
    return options


def make_encoder(width: int) -> Encoder:
    return Wide(width=width)


def explode(*, value: int) -> torch.Tensor:
    raise RuntimeError(f"no tensor of {value}")
