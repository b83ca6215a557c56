"""What a benchmark is: a question to an engine, and an outcome: scores, controls, examples.

A new benchmark is one class in `benchmarks/` with a `name` and a `run`; its metrics are pure
functions in `metrics/`. Data flow:

    records -> Requests -> Engine -> replies -> metrics -> Outcome -> report (table, JSON, sheet)
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

from limner.document.document import Document, Media, Message
from limner.document.media import Image
from limner.evaluate.answers import Respondent
from limner.evaluate.intervals import Interval
from limner.generate.request import Request

logger = logging.getLogger(__name__)


class Unit(StrEnum):
    """How a number is shown."""

    SHARE = "share"
    """0 to 1, shown in per cent."""
    NUMBER = "number"


@dataclass(frozen=True)
class Score:
    """One number with its interval; `shuffled` is the same measure on answers to other questions,
    `baseline` what needs no model (chance, or the best constant reply)."""

    name: str
    value: Interval
    num_items: int
    unit: Unit = Unit.SHARE
    shuffled: Interval | None = None
    baseline: float | None = None


@dataclass(frozen=True)
class Example:
    """Pictures side by side on the contact sheet, text under them, and whether it is right."""

    pictures: tuple[Image, ...]
    caption: str
    is_right: bool


@dataclass(frozen=True)
class Outcome:
    """What was found. `setup` says what was asked and what counts; `items` is the raw record.

    Where items have a `score`, two models can be compared item by item. `submissions` are files in the form that a
    benchmark's own server takes: text under its whole name, or what is written as JSON under its name without suffix.
    """

    name: str
    setup: str
    baseline: str
    """What `Score.baseline` is."""
    scores: tuple[Score, ...]
    examples: tuple[Example, ...] = ()
    items: tuple[Mapping[str, Any], ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    submissions: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class Benchmark(Protocol):
    """`limit` caps the number of items; None takes all. The same seed gives the same outcome."""

    @property
    def name(self) -> str:
        """Names the section of the report and the contact sheet."""
        ...

    def run(self, engine: Respondent, *, limit: int | None, seed: int) -> Outcome:
        """Ask, and score the answers."""
        ...


def answer(engine: Respondent, requests: Sequence[Request], *, batch_size: int = 16) -> list[Message]:
    """The engine's replies, in order. How requests are batched changes none of them."""
    replies: list[Document] = []
    num_batches = math.ceil(len(requests) / batch_size)
    for number in range(num_batches):
        replies += engine.run(requests[number * batch_size : (number + 1) * batch_size])
        logger.info("batch %d of %d", number + 1, num_batches)
    return [reply.messages[-1] for reply in replies]


def drawn(reply: Message) -> list[Image]:
    """The pictures of a reply, in order."""
    return [part.payload for part in reply.parts if isinstance(part, Media) and isinstance(part.payload, Image)]
