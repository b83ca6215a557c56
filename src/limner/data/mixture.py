"""Sources and their mixture: an endless order of Documents that is a pure function of (seed, weights, lengths).

A source answers `len` and `source[index] -> Document`, nothing else. `Mixture.document(position)` says which document
stands at a position of the global order, without having read any before it: resuming decodes nothing twice, and how
many readers share the work changes nothing.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from limner.document.document import Direction, Document, null_prompt


@runtime_checkable
class Source(Protocol):
    """Random access to documents."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Document: ...


@dataclass(frozen=True)
class FunctionSource:
    """`length` documents made by a pure function of the index (procedural data, formats over an index)."""

    make: Callable[[int], Document]
    length: int

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Document:
        return self.make(index)


@dataclass(frozen=True)
class Draw:
    """What stands at a position: which source, which item of it, and the document's key."""

    source: str
    index: int
    key: str


def uniform(*key: int | str) -> float:
    """A number in [0, 1) that is a pure function of its key."""
    digest = hashlib.blake2b("\x1f".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") / 2**64


def permuted(index: int, *, length: int, key: tuple[int | str, ...]) -> int:
    """Where `index` goes in a pseudo-random permutation of range(length), without building it.

    A four-round Feistel network over the next power of four, walked until the value is back in range (cycle walking),
    so each index is met once per epoch.
    """
    half = max(1, ((length - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    value = index
    while True:
        left, right = value >> half, value & mask
        for round_number in range(4):
            mixed = int(uniform(*key, round_number, right) * (mask + 1))
            left, right = right, left ^ mixed
        value = (left << half) | right
        if value < length:
            return value


class Mixture:
    """Sources by name, drawn by weight. Each source is gone through in a new order every epoch of its own."""

    def __init__(
        self,
        sources: Mapping[str, Source],
        *,
        weights: Mapping[str, float] | None = None,
        seed: int = 0,
        condition_dropout: float = 0.0,
    ) -> None:
        if not sources:
            raise ValueError("a mixture without sources\nhint: name at least one")
        weights = weights or {name: float(len(source)) for name, source in sources.items()}
        if set(weights) != set(sources):
            raise ValueError(
                f"weights are given for {sorted(weights)}, sources are {sorted(sources)}\n"
                "hint: give every source a weight"
            )
        for name, source in sources.items():
            if len(source) == 0 or weights[name] <= 0:
                raise ValueError(
                    f"source `{name}` has {len(source)} documents and the weight {weights[name]}\n"
                    "hint: leave it out, or give it documents and a positive weight"
                )
        self.sources = dict(sources)
        self.seed = seed
        self.condition_dropout = condition_dropout
        self._cycle = _interleave(weights)
        self._per_cycle = Counter(name for name, _ in self._cycle)
        for name in sources:
            if not self._per_cycle[name]:
                raise ValueError(
                    f"source `{name}` would never be drawn with its weight of {weights[name]} in {weights}\n"
                    "hint: leave it out, or give it at least a thousandth of the whole"
                )

    def draw(self, position: int) -> Draw:
        """What stands at `position` >= 0 of the global order."""
        cycle, place = divmod(position, len(self._cycle))
        name, before = self._cycle[place]
        count = cycle * self._per_cycle[name] + before  # how often this source was drawn before
        length = len(self.sources[name])
        epoch, offset = divmod(count, length)
        index = permuted(offset, length=length, key=(self.seed, name, epoch))
        return Draw(name, index, f"{name}/{index}/{epoch}")

    def document(self, position: int) -> tuple[Document, Draw]:
        """The document at `position`, after condition dropout."""
        draw = self.draw(position)
        document = self.sources[draw.source][draw.index]
        if uniform(self.seed, "null", draw.key) < self.condition_dropout:
            document = null_document(document, choice=uniform(self.seed, "which", draw.key))
        return document, draw


def null_document(document: Document, *, choice: float) -> Document:
    """The null prompt with one of the document's made pictures: what the unconditional branch is, in training as in
    sampling. A document that makes none comes back as it is. `choice` in [0, 1) picks the picture."""
    made = [media for message, media in document.media() if Direction.OUT in message.directions(media)]
    if not made:
        return document
    return null_prompt(made[int(choice * len(made))])


def _interleave(weights: Mapping[str, float], *, length: int = 1000) -> list[tuple[str, int]]:
    """A cycle of (source, how often it came before in the cycle) with shares as close to the weights as can be.

    At each place the source furthest behind its share is taken (largest remainder, a low-discrepancy order).
    """
    total = sum(weights.values())
    counts: dict[str, int] = dict.fromkeys(weights, 0)
    cycle: list[tuple[str, int]] = []
    for place in range(1 if len(weights) == 1 else length):
        name = max(weights, key=lambda name: weights[name] / total * (place + 1) - counts[name])
        cycle.append((name, counts[name]))
        counts[name] += 1
    return cycle
