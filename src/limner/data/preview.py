"""What the model sees of a stage's data: packed rows, token by token, read back from finished batches.

Owns the way from a Batch to `RowView`s, plain values that a page shows (`preview_page.py`). Nothing is rendered or
decoded a second time: ids, targets, spans, pictures are those of the tensors that a forward would take, pictures with
the encoder's normalisation undone. Assumes batches without cached features, as `Collator(model)` makes them.

Data flow: Batch -> row_views -> RowView -> preview_page.to_page -> text of a page
"""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import takewhile

import PIL.Image
import torch
from jaxtyping import Float
from torch import Tensor

from limner.data.mixture import source_of
from limner.document.document import Direction, Media
from limner.document.media import Image
from limner.model.multimodal import MultimodalLM
from limner.tokens.batch import IGNORED, Batch, SpanBatch

PROBE_PIXELS = 64
"""Edge of the black and the white picture from which an encoder's normalisation is read off."""

MAX_GROUPED = 6
"""Most tokens that are shown as one because they make up a character only together."""

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True)
class TokenView:
    """A token, or the few that only together are a character. `role` names an added token of the vocabulary.

    column: its first position in the row; `position`: in its document.
    """

    text: str
    ids: tuple[int, ...]
    column: int
    position: int
    is_target: bool
    role: str = ""


@dataclass(frozen=True)
class SpanView:
    """`length` slots from `column` on. `picture`: PNG bytes of what the encoder reads or the decoder is taught.

    shape: of the item's tensor; () where features came from a cache.
    """

    modality: str
    direction: Direction
    key: str
    column: int
    length: int
    shape: tuple[int, ...] = ()
    picture: bytes | None = None


@dataclass(frozen=True)
class DocumentView:
    """A document in its row: positions [column, column + length)."""

    key: str
    column: int
    length: int
    num_targets: int
    pieces: tuple[TokenView | SpanView, ...]

    @property
    def source(self) -> str:
        """The source that it was drawn from."""
        return source_of(self.key)

    @property
    def spans(self) -> list[SpanView]:
        """Its spans, in order."""
        return [piece for piece in self.pieces if isinstance(piece, SpanView)]


@dataclass(frozen=True)
class RowView:
    """A packed row that may hold `capacity` tokens."""

    capacity: int
    documents: tuple[DocumentView, ...]

    @property
    def num_tokens(self) -> int:
        """Positions that hold a token."""
        return sum(document.length for document in self.documents)

    @property
    def num_targets(self) -> int:
        """Positions that the text loss is computed at."""
        return sum(document.num_targets for document in self.documents)


def row_views(batch: Batch, *, model: MultimodalLM) -> list[RowView]:
    """The rows of a batch that was made for `model`, whose weights are not looked at."""
    num_rows, width = batch.ids.shape
    spans: dict[int, SpanView] = {}
    for (name, direction), side in batch.spans.items():
        to_pixels = _pixels_of(model, name, direction)
        for start, span in _span_views(side, name=name, direction=direction, to_pixels=to_pixels, width=width):
            spans[start] = span
    write = _Writer(model)
    rows = []
    for row in range(num_rows):
        documents = []
        for number, key in enumerate(batch.keys[row], start=1):
            columns = (batch.documents[row] == number).nonzero().flatten().tolist()
            documents.append(_document(batch, row, columns, key=key, spans=spans, write=write))
        rows.append(RowView(batch.capacity // num_rows or width, tuple(documents)))
    return rows


def _document(
    batch: Batch, row: int, columns: list[int], *, key: str, spans: dict[int, SpanView], write: "_Writer"
) -> DocumentView:
    width = batch.ids.shape[1]
    ids, labels = batch.ids[row].tolist(), batch.labels[row].tolist()
    pieces: list[TokenView | SpanView] = []
    column, end = columns[0], columns[-1] + 1
    before: tuple[int, ...] = ()
    while column < end:
        span = spans.get(row * width + column)
        if span is not None:
            pieces.append(span)
            column, before = column + span.length, ()
            continue
        targets = [label != IGNORED for label in labels[column:end]]
        token = write(ids[column:end], before=before, targets=targets, column=column, first=columns[0])
        pieces.append(token)
        column, before = column + len(token.ids), token.ids
    num_targets = sum(labels[column] != IGNORED for column in columns)
    return DocumentView(key, columns[0], len(columns), num_targets, tuple(pieces))


class _Writer:
    """Ids -> the next TokenView."""

    def __init__(self, model: MultimodalLM) -> None:
        self.roles = {token: role for role, token in model.vocabulary.ids.items()}
        for name in model.vocabulary.codes:
            self.roles |= {token: f"{name} {code}" for code, token in enumerate(model.vocabulary.code_ids(name))}
        self.tokenizer = model.tokenizer.tokenizer
        self.markup = set(self.tokenizer.all_special_ids)

    def __call__(
        self, ids: list[int], *, before: tuple[int, ...], targets: list[bool], column: int, first: int
    ) -> TokenView:
        """The token that `ids` begin with; `before` are those of the token shown last."""
        role = self.roles.get(ids[0], "")
        if role or ids[0] in self.markup:
            text = role or self._text(ids[:1])
            return TokenView(text, (ids[0],), column, column - first, targets[0], role or "markup")
        # Some tokenizers drop the space before the first token of what they decode.
        before = () if before and before[-1] in self.roles else before
        known = len(self._text(list(before)))
        for number in range(1, self._num_alike(ids, targets) + 1):
            text = self._text([*before, *ids[:number]])[known:]
            if not text.endswith(REPLACEMENT):
                return TokenView(text, tuple(ids[:number]), column, column - first, targets[0])
        return TokenView(REPLACEMENT, (ids[0],), column, column - first, targets[0])

    def _num_alike(self, ids: list[int], targets: list[bool]) -> int:
        """How many tokens from the first on could be shown as one."""
        pairs = zip(ids[:MAX_GROUPED], targets, strict=False)
        alike = takewhile(lambda pair: pair[1] == targets[0] and pair[0] not in self.roles, pairs)
        return len(list(alike))

    def _text(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


ToPixels = Callable[[Tensor], bytes | None]


def _span_views(
    side: SpanBatch, *, name: str, direction: Direction, to_pixels: ToPixels, width: int
) -> Iterator[tuple[int, SpanView]]:
    """(flat position of the first slot, span) of every span of a side."""
    starts = side.lengths.cumsum(0) - side.lengths
    has_values = not side.encoded and len(side.values) == len(side.lengths) and side.values.numel() > 0
    for item, (start, length, key) in enumerate(zip(starts.tolist(), side.lengths.tolist(), side.keys, strict=True)):
        slot = int(side.slots[start])
        value = side.values[item] if has_values else None
        yield (
            slot,
            SpanView(
                name,
                direction,
                key,
                slot % width,
                length,
                shape=() if value is None else tuple(value.shape),
                picture=None if value is None else to_pixels(value),
            ),
        )


def _pixels_of(model: MultimodalLM, name: str, direction: Direction) -> ToPixels:
    """How the items of a side are made visible; what is no picture is not."""
    if direction is Direction.OUT:  # targets are RGB in [-1, 1] by contract
        return lambda value: _png((value + 1.0) / 2.0) if _is_picture(value) else None
    encoder = model.reader(name).encoder
    edge = (PROBE_PIXELS, PROBE_PIXELS)
    probes = [Media(Image.from_pil(PIL.Image.new("RGB", edge, colour)), modality=name) for colour in ("black", "white")]
    try:
        black, white = (encoder.preprocess(probe) for probe in probes)
    except (ValueError, AttributeError, TypeError):  # it reads no pictures: a plugin may fail in its own way
        return lambda value: None
    if not _is_picture(black):
        return lambda value: None
    # Whatever the normalisation is, per channel it is a line through these two points.
    low, high = black.mean(dim=(1, 2), keepdim=True), white.mean(dim=(1, 2), keepdim=True)
    return lambda value: _png((value - low) / (high - low)) if _is_picture(value) else None


def _is_picture(value: Tensor) -> bool:
    return value.ndim == 3 and value.shape[0] == 3


def _png(pixels: Float[Tensor, "3 height width_px"]) -> bytes:
    """PNG of pixels in [0, 1]."""
    array = (pixels.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    stream = io.BytesIO()
    PIL.Image.fromarray(array).save(stream, format="PNG")
    return stream.getvalue()
