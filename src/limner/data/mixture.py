"""Sources and their mixture: an order of Documents that is a pure function of (seed, weights, lengths).

A source answers `len` and `source[index] -> Document`, nothing else. `Mixture.document(position)` says which document
stands at a position of the global order, without having read any before it: resuming decodes nothing twice, and how
many readers share the work changes nothing.
"""

import functools
import hashlib
import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, Protocol, get_args, runtime_checkable

from limner.data.sizes import parse_size
from limner.document.document import Direction, Document, null_prompt

logger = logging.getLogger(__name__)

MAX_CYCLE = 100_000
"""Longest cycle of sources that is written down; a lighter source would hardly be met in a run."""

MEASURED = 200
"""Documents per source whose mean length stands for all."""


@runtime_checkable
class Source(Protocol):
    """Random access to documents."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Document: ...


@runtime_checkable
class VaryingSource(Source, Protocol):
    """A source whose items may be told in several ways."""

    def document(self, index: int, *, choice: float) -> Document:
        """The document at `index`; `choice` in [0, 1) picks one way."""
        ...


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
    """What stands at a position: which source, which item of it, and the document's key "<source>/<index>/<epoch>"."""

    source: str
    index: int
    key: str


def source_of(key: str) -> str:
    """The source that a document's key begins with."""
    return key.rsplit("/", 2)[0]


def uniform(*key: int | str) -> float:
    """A number in [0, 1) that is a pure function of its key."""
    digest = hashlib.blake2b("\x1f".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") / 2**64


@functools.lru_cache(maxsize=4096)  # a window asks for its positions more than once
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


Exhaustion = Literal["repeat", "first_exhausted", "all_exhausted"]


@dataclass(frozen=True)
class TokenShares:
    """Weights as shares of the tokens, not of the documents.

    A source's documents are drawn by its share divided by the mean length of its documents. Where `mean_tokens` is not
    given, a loader measures it (`Mixture.measured`) on the same few documents every time, so the order stays a pure
    function.
    """

    shares: Mapping[str, float]
    mean_tokens: Mapping[str, float] | None = None

    def weights(self) -> dict[str, float]:
        """The weights of documents. Raises ValueError where the mean lengths are unknown."""
        if self.mean_tokens is None or set(self.mean_tokens) != set(self.shares):
            raise ValueError(
                f"shares of tokens are given for {sorted(self.shares)}, mean lengths for "
                f"{sorted(self.mean_tokens or {})}\nhint: give `mean_tokens` for every source, or use packed batches, "
                "which measure them"
            )
        for name, mean in self.mean_tokens.items():
            if mean <= 0:
                raise ValueError(f"documents of `{name}` have {mean} tokens on average\nhint: leave the source out")
        return {name: share / self.mean_tokens[name] for name, share in self.shares.items()}


class Mixture:
    """Sources by name, drawn by weight. Each source is gone through in a new order every epoch of its own.

    weights:    share of each source in the documents; `TokenShares` for shares of the tokens; None: by size.
    sizes:      documents that a source counts for where weights go by size ("20M"); None: as many as it has.
    exhaustion: "repeat": the order never ends. "first_exhausted": it ends when the first source has been gone through;
                "all_exhausted": when the last one has (the others are repeated until then).
    """

    def __init__(
        self,
        sources: Mapping[str, Source],
        *,
        weights: Mapping[str, float] | TokenShares | None = None,
        sizes: Mapping[str, int | str] | None = None,
        exhaustion: Exhaustion = "repeat",
        seed: int = 0,
        condition_dropout: float = 0.0,
    ) -> None:
        if not sources:
            raise ValueError("a mixture without sources\nhint: name at least one")
        if weights is not None and sizes is not None:
            raise ValueError("a mixture goes by weights or by sizes, not both\nhint: leave one of them out")
        if exhaustion not in get_args(Exhaustion):
            raise ValueError(f"exhaustion is `{exhaustion}`\nhint: use one of {', '.join(get_args(Exhaustion))}")
        lengths = {name: len(source) for name, source in sources.items()}
        what = "weight" if sizes is None else "size"
        if weights is None:
            counted = lengths if sizes is None else {name: parse_size(size) for name, size in sizes.items()}
            weights = {name: float(size) for name, size in counted.items()}
        _check(weights.shares if isinstance(weights, TokenShares) else weights, lengths, what=what)
        self.sources = dict(sources)
        self.weights = weights
        self.exhaustion: Exhaustion = exhaustion
        self.seed = seed
        self.condition_dropout = condition_dropout
        if not isinstance(weights, TokenShares) or weights.mean_tokens is not None:
            _ = self._cycle  # weights that cannot be drawn by are refused here, not at the first draw

    @functools.cached_property
    def _cycle(self) -> list[tuple[str, int]]:
        weights = self.weights
        return _interleave(weights.weights() if isinstance(weights, TokenShares) else weights)

    @functools.cached_property
    def _per_cycle(self) -> Counter[str]:
        return Counter(name for name, _ in self._cycle)

    @functools.cached_property
    def num_documents(self) -> int | None:
        """Positions of the order; None where it never ends."""
        if self.exhaustion == "repeat":
            return None
        ends = [self._position(name, len(source) - 1) + 1 for name, source in self.sources.items()]
        return min(ends) if self.exhaustion == "first_exhausted" else max(ends)

    def _position(self, name: str, count: int) -> int:
        """Where `name` is drawn after having been drawn `count` times."""
        cycle, before = divmod(count, self._per_cycle[name])
        return cycle * len(self._cycle) + self._cycle.index((name, before))

    def draw(self, position: int) -> Draw:
        """What stands at `position` >= 0 of the global order. Raises ValueError after its end."""
        if self.num_documents is not None and position >= self.num_documents:
            raise ValueError(
                f"position {position} of a mixture that ends after {self.num_documents} documents\n"
                'hint: exhaustion="repeat" goes on'
            )
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
        source = self.sources[draw.source]
        if isinstance(source, VaryingSource):
            document = source.document(draw.index, choice=uniform(self.seed, "way", draw.key))
        else:
            document = source[draw.index]
        if uniform(self.seed, "null", draw.key) < self.condition_dropout:
            document = null_document(document, choice=uniform(self.seed, "which", draw.key))
        return document, draw

    def measured(self, length: Callable[[Document], int]) -> "Mixture":
        """This mixture with the mean lengths that its shares of tokens still need, else itself.

        `length` says how many tokens a document takes in a row: 0, or a ValueError, for one that is left out. The
        documents asked are the same whatever the seed.
        """
        weights = self.weights
        if not isinstance(weights, TokenShares) or weights.mean_tokens is not None:
            return self
        means = {name: mean_tokens(source, length=length) for name, source in self.sources.items()}
        for name, mean in means.items():
            if not mean:
                raise ValueError(f"no document of `{name}` can be measured\nhint: look at it, or leave it out")
        logger.info("mean tokens per document: %s", {name: round(mean, 1) for name, mean in means.items()})
        return Mixture(
            self.sources,
            weights=replace(weights, mean_tokens=means),
            exhaustion=self.exhaustion,
            seed=self.seed,
            condition_dropout=self.condition_dropout,
        )


def mean_tokens(source: Source, *, length: Callable[[Document], int]) -> float:
    """Mean length over `MEASURED` documents of a source, a pure function of it. A bad document is a draw without
    tokens, so it counts with length 0."""
    total, number = 0, min(len(source), MEASURED)
    for offset in range(number):
        try:
            total += length(source[permuted(offset, length=len(source), key=("mean tokens",))])
        except ValueError:
            continue
    return total / number


def null_document(document: Document, *, choice: float) -> Document:
    """The null prompt with one of the document's made pictures: what the unconditional branch is, in training as in
    sampling. A document that makes none comes back as it is. `choice` in [0, 1) picks the picture."""
    made = [media for message, media in document.media() if Direction.OUT in message.directions(media)]
    if not made:
        return document
    return null_prompt(made[int(choice * len(made))])


def _check(weights: Mapping[str, float], lengths: Mapping[str, int], *, what: str) -> None:
    if set(weights) != set(lengths):
        raise ValueError(
            f"{what}s are given for {sorted(weights)}, sources are {sorted(lengths)}\nhint: give every source a {what}"
        )
    for name, length in lengths.items():
        if length == 0 or weights[name] <= 0:
            raise ValueError(
                f"source `{name}` has {length} documents and the {what} {weights[name]:g}\n"
                f"hint: leave it out, or give it documents and a positive {what}"
            )


def _interleave(weights: Mapping[str, float]) -> list[tuple[str, int]]:
    """A cycle of (source, how often it came before in the cycle) with shares as close to the weights as can be.

    At each place the source furthest behind its share is taken (largest remainder, a low-discrepancy order). A cycle
    has 1000 places, and more where the lightest source would not be met in it.
    """
    total = sum(weights.values())
    lightest = min(weights, key=lambda name: weights[name])
    length = 1 if len(weights) == 1 else max(1000, math.ceil(total / weights[lightest]))
    if length > MAX_CYCLE:
        raise ValueError(
            f"source `{lightest}` would be drawn once in {length} documents with its weight of {weights[lightest]:g}\n"
            f"hint: leave it out, or give it at least one part in {MAX_CYCLE} of the whole"
        )
    counts: dict[str, int] = dict.fromkeys(weights, 0)
    cycle: list[tuple[str, int]] = []
    for place in range(length):
        name = max(weights, key=lambda name: weights[name] / total * (place + 1) - counts[name])
        cycle.append((name, counts[name]))
        counts[name] += 1
    return cycle
