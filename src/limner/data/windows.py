"""Windows: `window` consecutive positions of a mixture -> rows. What a row holds is known before a pixel is decoded.

Window w holds the positions [w * window, (w + 1) * window). Its documents are rendered (ids and spans, no decoding) and
their sizes packed; a row belongs to one window. So the order of rows is a pure function of (seed, mixture, lengths),
and whoever knows a window's number can go on from there: no reader needs what another one did.

Bad documents are left out with their reason and never replaced.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeVar, get_args

from limner.data.mixture import Draw, Mixture
from limner.data.packing import Packing, Size
from limner.document.document import Direction, Document
from limner.tokens.render import Renderer
from limner.tokens.sequence import Sequence

Result = TypeVar("Result")

TooLong = Literal["error", "skip", "cut"]
"""What becomes of a document that no row can hold. "cut" takes the whole parts at its beginning that
fit: no text and no span is split."""

Reason = Literal["read", "render", "too_long", "untrained", "decode"]
"""Why a document is left out: its source cannot give it; the model cannot render it; no row holds it; nothing of it is
trained and nothing made; a picture of it cannot be decoded."""


class Planned(NamedTuple):
    """A document that has its place in a row."""

    position: int
    draw: Draw
    num_tokens: int
    was_cut: bool


class Skipped(NamedTuple):
    """A document that was left out."""

    draw: Draw
    reason: Reason
    message: str


@dataclass(frozen=True)
class Window:
    """The rows of a window; `error` says instead why the run cannot go on."""

    rows: tuple[tuple[Planned, ...], ...] = ()
    skipped: tuple[Skipped, ...] = ()
    error: str = ""


class BadDocument(ValueError):
    """A document that is left out, and why."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason: Reason = reason


class Windows:
    """Windows by number, and the sequences of their documents by position.

    `num_kept` windows' sequences are kept, so that in one process nothing is rendered twice.
    """

    def __init__(
        self,
        mixture: Mixture,
        *,
        render: Renderer,
        packing: Packing,
        room: Size,
        window: int,
        too_long: TooLong,
        num_kept: int,
    ) -> None:
        if window < 1 or room.tokens < 1 or room.items < 1:
            raise ValueError(
                f"a window of {window} documents, rows of {room.tokens} tokens and {room.items} media items\n"
                "hint: each must be at least 1"
            )
        if too_long not in get_args(TooLong):
            raise ValueError(f"too_long is `{too_long}`\nhint: use one of {', '.join(get_args(TooLong))}")
        self.render = render
        self.packing = packing
        self.room = room
        self.window = window
        self.too_long: TooLong = too_long
        self.mixture = mixture.measured(self._length)
        self.num_kept = num_kept
        self._kept: OrderedDict[int, dict[int, Sequence]] = OrderedDict()

    @property
    def num_windows(self) -> int | None:
        """How many there are; None where the mixture never ends."""
        number = self.mixture.num_documents
        return None if number is None else -(-number // self.window)

    def __getitem__(self, number: int) -> Window:
        """Render and pack window `number`."""
        end = (number + 1) * self.window
        if self.mixture.num_documents is not None:
            end = min(end, self.mixture.num_documents)
        planned: list[Planned] = []
        sizes: list[Size] = []
        skipped: list[Skipped] = []
        kept: dict[int, Sequence] = {}
        for position in range(number * self.window, end):
            draw = self.mixture.draw(position)
            try:
                sequence, was_cut = self._read(position)
            except BadDocument as bad:
                if bad.reason == "too_long" and self.too_long == "error":
                    return Window(error=f"{draw.key}: {bad}\nhint: raise the limit, or say too_long='skip' or 'cut'")
                skipped.append(Skipped(draw, bad.reason, str(bad).splitlines()[0]))
                continue
            planned.append(Planned(position, draw, len(sequence), was_cut))
            sizes.append(_size(sequence))
            if self.num_kept:
                kept[position] = sequence
        self._keep(number, kept)
        rows = self.packing.rows(sizes, room=self.room)
        return Window(tuple(tuple(planned[index] for index in row) for row in rows), tuple(skipped))

    def sequence(self, position: int) -> Sequence:
        """The sequence at a position, from memory where its window is kept. Raises BadDocument."""
        kept = self._kept.get(position // self.window, {})
        return kept[position] if position in kept else self._read(position)[0]

    def _keep(self, number: int, sequences: dict[int, Sequence]) -> None:
        self._kept[number] = sequences
        while len(self._kept) > self.num_kept:
            self._kept.popitem(last=False)

    def _read(self, position: int) -> tuple[Sequence, bool]:
        document, draw = _or_bad("read", lambda: self.mixture.document(position))
        return self._fitted(document, key=draw.key)

    def _fitted(self, document: Document, *, key: str = "") -> tuple[Sequence, bool]:
        """The sequence of a document as it goes into a row, and whether it was cut."""
        whole = _or_bad("render", lambda: _rendered(self.render, document, key))
        sequence = whole if _size(whole).fits(self.room) else self._cut(whole)
        makes = any(span.direction is Direction.OUT for span in sequence.spans)
        if not makes and not any(sequence.trained):
            raise BadDocument("untrained", "nothing of it is trained and nothing made")
        return sequence, sequence is not whole

    def _cut(self, sequence: Sequence) -> Sequence:
        """What of a sequence fits into a row. Raises BadDocument where that is nothing, or must not be asked for."""
        size, room = _size(sequence), self.room
        if self.too_long == "cut":
            surplus = (span.outer[0] for span in sequence.spans if span.item >= room.items)
            end = min(room.tokens, next(surplus, room.tokens))
            if len(beginning := sequence.whole_parts(end)):
                return beginning
        many = f" and {size.items} media items" if size.items > room.items else ""
        most = f" and {room.items} items" if many else ""
        raise BadDocument("too_long", f"{size.tokens} tokens{many} do not fit into a row of {room.tokens} tokens{most}")

    def _length(self, document: Document) -> int:
        return len(self._fitted(document)[0])


def _size(sequence: Sequence) -> Size:
    return Size(len(sequence), len(sequence.media))


def _rendered(render: Renderer, document: Document, key: str) -> Sequence:
    sequence = render(document, key=key)
    for media in sequence.media:
        if media.payload is None:
            _ = media.content  # what was not made yet is no target
    return sequence


def _or_bad(reason: Reason, make: Callable[[], Result]) -> Result:
    try:
        return make()
    except ValueError as error:
        raise BadDocument(reason, str(error)) from error
