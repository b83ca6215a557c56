"""Loader: positions of a mixture -> batches. Its state is the position of the next document and the counts of skips.

Documents are rendered in the global order and packed first-fit into the batch's rows; the first that fits nowhere
opens the next batch. So a batch is a pure function of (mixture, position), and a resumed run goes on with exactly the
batch it would have had.
"""

import logging
from collections import Counter
from collections.abc import Iterator
from typing import Any

from limner.data.collate import Collator
from limner.data.mixture import Mixture
from limner.data.packing import FirstFit
from limner.tokens.batch import Batch
from limner.tokens.render import Renderer
from limner.tokens.sequence import Sequence

logger = logging.getLogger(__name__)

MAX_CONSECUTIVE_SKIPS = 100
"""So many bad documents in a row mean that the data is not what the recipe thinks it is."""


class Loader:
    """Endless batches of at most `num_rows` rows of `row_length` tokens."""

    def __init__(
        self,
        mixture: Mixture,
        *,
        render: Renderer,
        collate: Collator,
        row_length: int,
        num_rows: int,
        position: int = 0,
    ) -> None:
        self.mixture = mixture
        self.render = render
        self.collate = collate
        self.row_length = row_length
        self.num_rows = num_rows
        self.position = position
        self.skipped: Counter[str] = Counter()
        self.drawn: Counter[str] = Counter()

    def __iter__(self) -> Iterator[Batch]:
        while True:
            yield self.next_batch()

    def next_batch(self) -> Batch:
        """The batch at the current position; moves the position on."""
        packing: FirstFit[Sequence] = FirstFit(row_length=self.row_length, num_rows=self.num_rows)
        position = self.position
        while True:
            sequence, position, source = self._sequence_from(position)
            if not packing.place(sequence, len(sequence)):
                break
            self.drawn[source] += 1
            position += 1
        self.position = position
        return self.collate(packing.rows)

    def _sequence_from(self, position: int) -> tuple[Sequence, int, str]:
        """The first sequence at or after `position`; bad documents are counted, named and skipped whole."""
        for skipped in range(MAX_CONSECUTIVE_SKIPS):
            draw = self.mixture.draw(position + skipped)
            try:
                document, draw = self.mixture.document(position + skipped)
                sequence = self.render(document, key=draw.key).cut(self.row_length)
                if not len(sequence):
                    raise ValueError(f"nothing of it fits into {self.row_length} tokens")
            except ValueError as error:
                self.skipped[draw.source] += 1
                logger.warning("skipped %s: %s", draw.key, str(error).splitlines()[0])
                continue
            return sequence, position + skipped, draw.source
        raise ValueError(
            f"{MAX_CONSECUTIVE_SKIPS} documents in a row could not be read (from position {position})\n"
            "hint: the warnings above name them"
        )

    def state_dict(self) -> dict[str, Any]:
        """A few integers."""
        return {
            "position": self.position,
            "skipped": dict(self.skipped),
            "drawn": dict(self.drawn),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.position = int(state["position"])
        self.skipped = Counter(state["skipped"])
        self.drawn = Counter(state["drawn"])
