"""The order of items that documents hold (pictures to make), dealt to ranks. Its state is a place and counters.

Items stand in one global order: by document, and within a document as it names them. A step takes `num_items` *
`num_ranks` of them, rank r the r-th `num_items`; so the number of ranks changes who has an item, never which items
there are or in what order. Bad documents are counted, named, left out and never replaced.
"""

import logging
from collections import Counter
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from limner.data.mixture import Draw, Mixture
from limner.data.windows import BadDocument

logger = logging.getLogger(__name__)

Item = TypeVar("Item")

MAX_SEARCHED = 1000
"""So many documents without an item mean that the mixture has none."""


class ItemOrder(Generic[Item]):
    """`items_at(position)` says which items the document there holds; it raises BadDocument to leave it out.

    `position` and `offset` are the place of the next item: a document, and how many of its items are taken already.
    """

    def __init__(
        self,
        mixture: Mixture,
        *,
        items_at: Callable[[int], list[Item]],
        what: str,
        num_items: int,
        rank: int = 0,
        num_ranks: int = 1,
    ) -> None:
        if num_items < 1 or not 0 <= rank < num_ranks:
            raise ValueError(
                f"{num_items} items for rank {rank} of {num_ranks}\n"
                "hint: at least one item, and a rank below the number of ranks"
            )
        self.mixture = mixture
        self.items_at = items_at
        self.what = what
        self.num_items = num_items
        self.rank = rank
        self.num_ranks = num_ranks
        self.position = 0
        self.offset = 0
        self.drawn: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()

    def take(self) -> list[tuple[Draw, Item]]:
        """This rank's next items; moves the place on for all ranks.

        Raises ValueError where the mixture ends, and where it seems to hold no items.
        """
        taken: list[tuple[Draw, Item]] = []
        searched = 0
        while len(taken) < self.num_items * self.num_ranks:
            draw = self.mixture.draw(self.position)
            items = self._items(draw)
            searched = 0 if items else searched + 1
            if searched >= MAX_SEARCHED:
                raise ValueError(
                    f"the mixture makes no `{self.what}` in {MAX_SEARCHED} documents up to position {self.position}\n"
                    "hint: train this stage on documents whose pictures are made"
                )
            some = items[self.offset :][: self.num_items * self.num_ranks - len(taken)]
            taken += [(draw, item) for item in some]
            self.drawn[draw.source] += len(some)
            self.offset += len(some)
            if self.offset >= len(items):
                self.position, self.offset = self.position + 1, 0
        first = self.rank * self.num_items
        return taken[first : first + self.num_items]

    def skip(self, draw: Draw, error: ValueError) -> None:
        """Count and name a document of this rank's items that cannot be used."""
        reason = self._count(draw, error)
        logger.warning("skipped %s (%s): %s", draw.key, reason, str(error).splitlines()[0])

    def _count(self, draw: Draw, error: ValueError) -> str:
        reason = error.reason if isinstance(error, BadDocument) else "decode"
        self.skipped[f"{draw.source}/{reason}"] += 1
        return reason

    def _items(self, draw: Draw) -> list[Item]:
        try:
            return self.items_at(self.position)
        except BadDocument as bad:
            # All ranks look at the same documents for items, so one speaks for all.
            (self.skip if self.rank == 0 else self._count)(draw, bad)
            return []

    def counters(self) -> dict[str, int]:
        """What was counted so far: "drawn/<source>" (items of all ranks), "skipped/<source>/<reason>" (documents)."""
        counted = {"drawn": self.drawn, "skipped": self.skipped}
        return {f"{what}/{name}": number for what, counts in counted.items() for name, number in counts.items()}

    def state_dict(self) -> dict[str, Any]:
        """A few integers."""
        return {
            "position": self.position,
            "offset": self.offset,
            "drawn": dict(self.drawn),
            "skipped": dict(self.skipped),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken, with any number of ranks and items."""
        self.position = int(state["position"])
        self.offset = int(state["offset"])
        self.drawn = Counter(state["drawn"])
        self.skipped = Counter(state["skipped"])


class ItemLoader(Generic[Item]):
    """A loader whose place and counters are those of its `order`."""

    order: ItemOrder[Item]

    def counters(self) -> dict[str, int]:
        """What was counted so far: "drawn/<source>" (items), "skipped/<source>/<reason>" (documents)."""
        return self.order.counters()

    def state_dict(self) -> dict[str, Any]:
        """A few integers; what a loader caches fills itself again."""
        return self.order.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.order.load_state_dict(state)
