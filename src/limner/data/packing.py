"""Packing: which sequences share a row, a pure function of their lengths in their order.

A packing is given the documents of one window: how many tokens and media items each has. It answers with rows of
indices. Nothing is lost, nothing stands twice, no row holds more than it may, and documents of a row keep their order.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable


class Size(NamedTuple):
    """What a document takes of a row, or what a row has room for."""

    tokens: int
    items: int = 0

    def fits(self, room: "Size") -> bool:
        """Whether there is room for it."""
        return self.tokens <= room.tokens and self.items <= room.items


@runtime_checkable
class Packing(Protocol):
    """Documents of a window -> rows."""

    def rows(self, sizes: Sequence[Size], *, room: Size) -> list[list[int]]:
        """Indices of `sizes` per row. Every size must fit `room`, which is what an empty row has."""
        ...


@dataclass(frozen=True)
class NextFit:
    """One row is open at a time: the order of documents is kept from row to row, at the cost of gaps."""

    def rows(self, sizes: Sequence[Size], *, room: Size) -> list[list[int]]:
        """Rows of consecutive indices."""
        rows: list[list[int]] = []
        left = Size(0, 0)
        for index, size in enumerate(sizes):
            assert size.fits(room), f"{size} does not fit into an empty row of {room}"
            if not rows or not size.fits(left):
                rows.append([])
                left = room
            rows[-1].append(index)
            left = Size(left.tokens - size.tokens, left.items - size.items)
        return rows


@dataclass(frozen=True)
class OneEach:
    """A row per document: a batch of so many rows is one of so many documents, as published batch sizes count them.

    Where the language model attends by segments, what such rows leave empty costs nothing.
    """

    def rows(self, sizes: Sequence[Size], *, room: Size) -> list[list[int]]:
        """Every index by itself."""
        return [[index] for index in range(len(sizes))]


@dataclass(frozen=True)
class BestFit:
    """Best-fit decreasing: the longest first, each into the fullest row that has room. Hardly a gap is left.

    Rows come in the order of their first documents, so the order of a window's documents is kept as far as it can be.
    """

    def rows(self, sizes: Sequence[Size], *, room: Size) -> list[list[int]]:
        """Rows of increasing indices, in the order of their first."""
        rows: list[_Row] = []  # fullest first
        for index in sorted(range(len(sizes)), key=lambda index: (-sizes[index].tokens, index)):
            size = sizes[index]
            assert size.fits(room), f"{size} does not fit into an empty row of {room}"
            first = bisect_left(rows, size.tokens, key=lambda row: row.left.tokens)
            place = next((place for place in range(first, len(rows)) if size.fits(rows[place].left)), None)
            row = _Row(room) if place is None else rows.pop(place)
            row.add(index, size)
            insort(rows, row, key=lambda row: (row.left.tokens, row.members[0]))
        return sorted(sorted(row.members) for row in rows)


@dataclass
class _Row:
    left: Size
    members: list[int] = field(default_factory=list)

    def add(self, index: int, size: Size) -> None:
        self.members.append(index)
        self.left = Size(self.left.tokens - size.tokens, self.left.items - size.items)
