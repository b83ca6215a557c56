"""Sequence: ids and spans. Once made it is final; nobody looks for a token id to find a picture again."""

from dataclasses import dataclass, replace

from limner.document.document import Direction, Media


@dataclass(frozen=True)
class Span:
    """`length` slots from `start` on belong to media `item`; `edge` tokens stand on either side of them: one (begin,
    end), or none. The slots of a `coded` span are codes: tokens like words, which nothing overwrites."""

    modality: str
    direction: Direction
    start: int
    length: int
    item: int
    edge: int = 1
    coded: bool = False

    @property
    def outer(self) -> tuple[int, int]:
        """[first, last + 1) including the begin and end tokens."""
        return self.start - self.edge, self.start + self.length + self.edge


@dataclass(frozen=True)
class Sequence:
    """`trained[i]` says whether the id at i is a target (predicted from i - 1).

    `ends` are the places where a part has ended, or a message that is trained: there a document may be cut.
    """

    ids: tuple[int, ...]
    trained: tuple[bool, ...]
    spans: tuple[Span, ...] = ()
    media: tuple[Media, ...] = ()
    key: str = ""
    ends: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        assert len(self.ids) == len(self.trained)

    def __len__(self) -> int:
        return len(self.ids)

    def cut(self, max_length: int) -> "Sequence":
        """The longest beginning of at most `max_length` ids that splits no span.

        Media whose spans are gone are gone too. The stop token of a cut document is not put back: the model must not
        learn that a page ends where a buffer did.
        """
        if len(self.ids) <= max_length:
            return self
        end = max_length
        for span in self.spans:
            first, last = span.outer
            if first < end < last:
                end = first
        spans = [span for span in self.spans if span.outer[1] <= end]
        kept = sorted({span.item for span in spans})
        order = {item: index for index, item in enumerate(kept)}
        return replace(
            self,
            ids=self.ids[:end],
            trained=self.trained[:end],
            spans=tuple(replace(span, item=order[span.item]) for span in spans),
            media=tuple(self.media[item] for item in kept),
            ends=tuple(place for place in self.ends if place <= end),
        )

    def whole_parts(self, max_length: int) -> "Sequence":
        """The longest beginning of at most `max_length` ids that holds whole parts alone; of no ids where none fits."""
        return self.cut(max((end for end in self.ends if end <= max_length), default=0))
