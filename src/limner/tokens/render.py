"""Pieces -> Sequence. The one place where ids are written down.

Assumes a `measure` that answers how many rows a media part takes in a direction, before any forward.
"""

from collections.abc import Callable, Iterable

from limner.document.document import Direction, Document, Media
from limner.tokens.sequence import Sequence, Span
from limner.tokens.template import MarkupPiece, Piece, Template, TextPiece
from limner.tokens.tokenizer import TextTokenizer
from limner.tokens.vocabulary import Vocabulary

Measure = Callable[[Media, Direction], int]


class Renderer:
    """Template, tokenizer, vocabulary and measure, joined: Document -> Sequence."""

    def __init__(
        self, *, template: Template, tokenizer: TextTokenizer, vocabulary: Vocabulary, measure: Measure
    ) -> None:
        self.template = template
        self.tokenizer = tokenizer
        self.vocabulary = vocabulary
        self.measure = measure

    def __call__(self, document: Document, *, reply: bool = False, key: str = "") -> Sequence:
        """Render a document; with `reply` its end is left open for the model to go on."""
        return self.render(self.template.pieces(document, reply=reply), key=key)

    def render(self, pieces: Iterable[Piece], *, key: str = "") -> Sequence:
        """Ids and spans of pieces, in order.

        The begin token of an `out` span is a target where its piece is trained: it is what the model says to draw.
        Slots, end tokens and `in` spans never are.
        """
        ids: list[int] = []
        trained: list[bool] = []
        spans: list[Span] = []
        media: list[Media] = []
        ends: list[int] = []
        for piece in pieces:
            if isinstance(piece, TextPiece | MarkupPiece):
                encode = self.tokenizer.text_ids if isinstance(piece, TextPiece) else self.tokenizer.markup_ids
                new = encode(piece.text)
                ids += new
                trained += [piece.train] * len(new)
                if isinstance(piece, TextPiece) or piece.train:
                    ends.append(len(ids))
                continue
            before, slot, after = self._edges(piece.media, piece.direction)
            length = self.measure(piece.media, piece.direction)
            # The `out` and `in` spans of one part share an item: what was made is what is read back.
            if not media or media[-1] is not piece.media or spans[-1].direction == piece.direction:
                media.append(piece.media)
            else:
                ends.pop()
            start = len(ids) + len(before)
            spans.append(Span(piece.media.modality, piece.direction, start, length, len(media) - 1, len(before)))
            ids += [*before, *[slot] * length, *after]
            begins = piece.train and piece.direction is Direction.OUT
            trained += [begins] * len(before) + [False] * (length + len(after))
            ends.append(len(ids))
        if trained:
            trained[0] = False  # nothing stands before it from which it could be predicted
        return Sequence(tuple(ids), tuple(trained), tuple(spans), tuple(media), key, tuple(ends))

    def _edges(self, media: Media, direction: Direction) -> tuple[list[int], int, list[int]]:
        """What stands before a span, at its slots, and after it."""
        bare = self.vocabulary.bare_slot(media.modality, direction)
        if bare is not None:
            return [], bare, []
        tokens = self.vocabulary.span(media.modality, direction)
        return [tokens.begin], tokens.slot, [tokens.end]
