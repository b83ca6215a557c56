"""Sequences packed into rows -> Batch. The only place that turns spans into slot indices and media into tensors.

    rows --prepare--> Prepared --finish--> Batch

`prepare` decodes and preprocesses, touches no weight and may run in a forked worker; what it returns can be pickled.
`finish` runs where the model is: it asks the feature cache for what frozen encoders and autoencoders give.
"""

from collections.abc import Callable
from collections.abc import Sequence as Items
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from limner.data.features import FeatureCache
from limner.data.mixture import source_of
from limner.document.document import Direction, Media
from limner.model.multimodal import MultimodalLM
from limner.tokens.batch import IGNORED, Batch, SpanBatch
from limner.tokens.sequence import Sequence

WIDTH_STEP = 32
"""Rows are padded to a multiple of this: kernels are prepared per shape, and few shapes are prepared once."""

Side = tuple[str, Direction]
OnBad = Callable[[Sequence, ValueError], None]


@dataclass(frozen=True)
class Awaited:
    """Items of one side whose features the cache is asked for: some preprocessed, the others known to it."""

    media: tuple[Media, ...]
    preprocessed: tuple[bool, ...]
    values: Tensor


@dataclass(frozen=True)
class Prepared:
    """A batch without the features that the cache gives."""

    batch: Batch
    awaited: dict[Side, Awaited]


@dataclass
class _Spans:
    """The spans of one side, while a batch is laid out."""

    slots: list[Tensor] = field(default_factory=list)
    media: list[Media] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    values: list[Tensor | None] = field(default_factory=list)


class Collator:
    """Rows of sequences -> Batch for `model`. With a cache, frozen encoders and autoencoders run once per item."""

    def __init__(self, model: MultimodalLM, *, cache: FeatureCache | None = None) -> None:
        self.model = model
        self.cache = cache

    def __call__(self, rows: Items[Items[Sequence]]) -> Batch:
        """Pack each row's sequences one after another. Raises ValueError for a picture that cannot be decoded."""
        return self.finish(self.prepare(rows))

    def prepare(
        self,
        rows: Items[Items[Sequence]],
        *,
        sources: tuple[str, ...] = (),
        on_bad: OnBad | None = None,
    ) -> Prepared:
        """Lay the rows out and preprocess their media, but for what the cache holds.

        A document of which a picture cannot be decoded leaves its row and is handed to `on_bad`; without it the error
        is raised. Rows may be empty.
        """
        read: list[list[tuple[Sequence, list[Tensor | None]]]] = []
        for row in rows:
            read.append([])
            for sequence in row:
                try:
                    read[-1].append((sequence, self._preprocess(sequence)))
                except ValueError as error:
                    if on_bad is None:
                        raise
                    on_bad(sequence, error)
        return self._laid_out(read, sources)

    def finish(self, prepared: Prepared) -> Batch:
        """The batch, with the features that the cache holds or computes now."""
        spans = dict(prepared.batch.spans)
        for side, awaited in prepared.awaited.items():
            assert self.cache is not None, "only a cache lets items wait"
            values = iter(awaited.values)
            features = self.cache.features(
                list(awaited.media),
                direction=side[1],
                values=[next(values) if present else None for present in awaited.preprocessed],
            )
            if side[1] is Direction.OUT:
                spans[side] = replace(spans[side], values=torch.stack(features), encoded=True)
                continue
            lengths = torch.tensor([len(feature) for feature in features])
            spans[side] = replace(spans[side], values=torch.cat(features), encoded=True, value_lengths=lengths)
        return replace(prepared.batch, spans=spans)

    def _preprocess(self, sequence: Sequence) -> list[Tensor | None]:
        """A tensor per span that is not in codes; None where the cache has the item's features, or where it is still to
        be made."""
        values: list[Tensor | None] = []
        for span in sequence.spans:
            if span.coded:
                continue
            media, name = sequence.media[span.item], span.modality
            if media.payload is None or (self.cache is not None and self.cache.holds(media, span.direction)):
                values.append(None)
                continue
            reads = span.direction is Direction.IN
            part = self.model.reader(name).encoder if reads else self.model.maker(name).decoder
            values.append(part.preprocess(media))
        return values

    def _laid_out(self, rows: list[list[tuple[Sequence, list[Tensor | None]]]], sources: tuple[str, ...]) -> Prepared:
        longest = max((sum(len(sequence) for sequence, _ in row) for row in rows), default=0)
        width = max(1, -(-longest // WIDTH_STEP)) * WIDTH_STEP
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        positions, documents = torch.zeros_like(ids), torch.zeros_like(ids)
        labels, source_ids = torch.full_like(ids, IGNORED), torch.full_like(ids, -1)
        numbers = {name: number for number, name in enumerate(sources)}
        sides: dict[Side, _Spans] = {}
        for row, members in enumerate(rows):
            start = 0
            for number, (sequence, preprocessed) in enumerate(members, start=1):
                place = slice(start, start + len(sequence))
                values = torch.tensor(sequence.ids)
                ids[row, place] = values
                positions[row, place] = torch.arange(len(sequence))
                documents[row, place] = number
                labels[row, place] = torch.where(torch.tensor(sequence.trained), values, IGNORED)
                if sources:
                    source_ids[row, place] = numbers[source_of(sequence.key)]
                _add_spans(sides, sequence, preprocessed, first=row * width + start)
                start += len(sequence)
        batch = Batch(
            ids,
            positions,
            documents,
            labels,
            sources=sources,
            source_ids=source_ids if sources else None,
            keys=tuple(tuple(sequence.key for sequence, _ in members) for members in rows),
            codes=self.model.vocabulary.codes,
        )
        awaited = {side: _awaited(spans) for side, spans in sides.items() if self._awaits(side, spans)}
        spans = {side: _span_batch(spans, is_awaited=side in awaited) for side, spans in sides.items()}
        return Prepared(replace(batch, spans=spans), awaited)

    def _awaits(self, side: Side, spans: _Spans) -> bool:
        # What is still to be made has no features.
        covered = self.cache is not None and self.cache.covers(*side)
        return covered and all(media.payload is not None for media in spans.media)


def _add_spans(sides: dict[Side, _Spans], sequence: Sequence, preprocessed: list[Tensor | None], *, first: int) -> None:
    """Append the spans of a sequence whose ids begin at the flat index `first`."""
    filled = (span for span in sequence.spans if not span.coded)  # codes are in the ids already
    for span, values in zip(filled, preprocessed, strict=True):
        side = sides.setdefault((span.modality, span.direction), _Spans())
        start = first + span.start
        side.slots.append(torch.arange(start, start + span.length))
        side.media.append(sequence.media[span.item])
        side.keys.append(f"{sequence.key}:{span.item}")
        side.values.append(values)


def _awaited(spans: _Spans) -> Awaited:
    # One tensor, because each takes a file descriptor on its way out of a worker.
    found = [values for values in spans.values if values is not None]
    values = torch.stack(found) if found else torch.zeros(0)
    return Awaited(tuple(spans.media), tuple(values is not None for values in spans.values), values)


def _span_batch(spans: _Spans, *, is_awaited: bool) -> SpanBatch:
    lengths = torch.tensor([len(places) for places in spans.slots])
    found = [values for values in spans.values if values is not None]
    # Features come later; or an item is still to be made, and a loss on it would fail on this empty tensor.
    is_empty = is_awaited or len(found) < len(spans.values)
    values = torch.zeros(len(spans.media), 0) if is_empty else torch.stack(found)
    return SpanBatch(torch.cat(spans.slots), lengths, values, tuple(spans.keys))
