"""Pieces -> Sequence. The one place where ids are written down.

Assumes a `measure` that answers how many rows a media part takes in a direction, before any forward, and a `spell`
that answers with the codes of one: lengths are final here, so what is said in codes is quantised before.
"""

import copy
from collections.abc import Callable, Iterable

from limner.document.document import Direction, Document, Media
from limner.tokens.sequence import Sequence, Span
from limner.tokens.template import MarkupPiece, Piece, Template, TextPiece
from limner.tokens.tokenizer import TextTokenizer
from limner.tokens.vocabulary import Vocabulary

Measure = Callable[[Media, Direction], int]
Spell = Callable[[Media], tuple[int, ...]]
"""Codes of a media part, in [0, num_codes)."""


def _speechless(media: Media) -> tuple[int, ...]:
    raise ValueError(
        f"nobody says `{media.modality}` in codes\nhint: give the renderer `spell`, or the vocabulary no codes"
    )


class Renderer:
    """Template, tokenizer, vocabulary, measure and spell, joined: Document -> Sequence."""

    def __init__(
        self,
        *,
        template: Template,
        tokenizer: TextTokenizer,
        vocabulary: Vocabulary,
        measure: Measure,
        spell: Spell = _speechless,
    ) -> None:
        self.template = template
        self.tokenizer = tokenizer
        self.vocabulary = vocabulary
        self.measure = measure
        self.spell = spell

    def spelling(self, spell: Spell) -> "Renderer":
        """The same with other codes: those that a cache holds, say."""
        other = copy.copy(self)
        other.spell = spell
        return other

    def __call__(self, document: Document, *, reply: bool = False, key: str = "") -> Sequence:
        """Render a document; with `reply` its end is left open for the model to go on."""
        return self.render(self.template.pieces(document, reply=reply), key=key)

    def render(self, pieces: Iterable[Piece], *, key: str = "") -> Sequence:
        """Ids and spans of pieces, in order.

        The begin token of an `out` span is a target where its piece is trained: it is what the model says to draw.
        Slots, end tokens and `in` spans never are. Codes of an `out` span and the end behind them always are, as the
        loss of a decoder is taken at every `out` span: that is how the null prompt is learned. What the model has said
        in codes it has read: no `in` span follows. Of an item that is still to be made there are no codes.
        """
        ids: list[int] = []
        trained: list[bool] = []
        spans: list[Span] = []
        media: list[Media] = []
        ends: list[int] = []
        said: Media | None = None
        for piece in pieces:
            just_said, said = said, None
            if isinstance(piece, TextPiece | MarkupPiece):
                encode = self.tokenizer.text_ids if isinstance(piece, TextPiece) else self.tokenizer.markup_ids
                new = encode(piece.text)
                ids += new
                trained += [piece.train] * len(new)
                if isinstance(piece, TextPiece) or piece.train:
                    ends.append(len(ids))
                continue
            coded = self.vocabulary.is_coded(piece.media.modality, piece.direction)
            if piece.direction is Direction.IN and piece.media is just_said:
                continue
            said = piece.media if coded and piece.direction is Direction.OUT else None
            before, slots, after = self._coded(piece.media) if coded else self._slots(piece.media, piece.direction)
            # The `out` and `in` spans of one part share an item: what was made is what is read back.
            if coded or not media or media[-1] is not piece.media or spans[-1].direction == piece.direction:
                media.append(piece.media)
            else:
                ends.pop()
            start = len(ids) + len(before)
            span = Span(piece.media.modality, piece.direction, start, len(slots), len(media) - 1, len(before), coded)
            spans.append(span)
            ids += [*before, *slots, *after]
            begins = piece.train and piece.direction is Direction.OUT
            says = coded and piece.direction is Direction.OUT and piece.media.payload is not None
            trained += [begins] * len(before) + [says] * (len(slots) + len(after))
            ends.append(len(ids))
        if trained:
            trained[0] = False  # nothing stands before it from which it could be predicted
        return Sequence(tuple(ids), tuple(trained), tuple(spans), tuple(media), key, tuple(ends))

    def _slots(self, media: Media, direction: Direction) -> tuple[list[int], list[int], list[int]]:
        """What stands before a span, at its slots, and after it."""
        bare = self.vocabulary.bare_slot(media.modality, direction)
        if bare is not None:
            return [], [bare] * self.measure(media, direction), []
        tokens = self.vocabulary.span(media.modality, direction)
        return [tokens.begin], [tokens.slot] * self.measure(media, direction), [tokens.end]

    def _coded(self, media: Media) -> tuple[list[int], list[int], list[int]]:
        """The same of a span in codes."""
        begin, end = self.vocabulary.edges(media.modality)
        ids = self.vocabulary.code_ids(media.modality)
        codes = () if media.payload is None else self.spell(media)
        return [begin], [ids[code] for code in codes], [end]
