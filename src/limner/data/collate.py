"""Sequences packed into rows -> Batch. The only place that turns spans into slot indices and media into tensors."""

from collections.abc import Sequence as Items

import torch
from torch import Tensor

from limner.data.features import FeatureCache
from limner.document.document import Direction, Media
from limner.model.multimodal import MultimodalLM
from limner.tokens.batch import IGNORED, Batch, SpanBatch
from limner.tokens.sequence import Sequence

WIDTH_STEP = 32
"""Rows are padded to a multiple of this: kernels are prepared per shape, and few shapes are prepared once."""


class Collator:
    """Rows of sequences -> Batch for `model`. With a cache, frozen encoders and autoencoders run once per item."""

    def __init__(self, model: MultimodalLM, *, cache: FeatureCache | None = None) -> None:
        self.model = model
        self.cache = cache

    def __call__(self, rows: Items[Items[Sequence]]) -> Batch:
        """Pack each row's sequences one after another and pad the rows at their ends."""
        longest = max(sum(map(len, row)) for row in rows)
        width = -(-longest // WIDTH_STEP) * WIDTH_STEP
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        positions, documents = torch.zeros_like(ids), torch.zeros_like(ids)
        labels = torch.full_like(ids, IGNORED)
        slots: dict[tuple[str, Direction], list[Tensor]] = {}
        media: dict[tuple[str, Direction], list[Media]] = {}
        keys: dict[tuple[str, Direction], list[str]] = {}
        for row, sequences in enumerate(rows):
            start = 0
            for number, sequence in enumerate(sequences, start=1):
                place = slice(start, start + len(sequence))
                values = torch.tensor(sequence.ids)
                ids[row, place] = values
                positions[row, place] = torch.arange(len(sequence))
                documents[row, place] = number
                labels[row, place] = torch.where(torch.tensor(sequence.trained), values, IGNORED)
                for span in sequence.spans:
                    side = (span.modality, span.direction)
                    first = row * width + start + span.start
                    slots.setdefault(side, []).append(torch.arange(first, first + span.length))
                    media.setdefault(side, []).append(sequence.media[span.item])
                    keys.setdefault(side, []).append(f"{sequence.key}:{span.item}")
                start += len(sequence)
        spans = {side: self._spans(side, slots[side], media[side], tuple(keys[side])) for side in slots}
        return Batch(ids, positions, documents, labels, spans)

    def _spans(
        self,
        side: tuple[str, Direction],
        slots: list[Tensor],
        media: list[Media],
        keys: tuple[str, ...],
    ) -> SpanBatch:
        name, direction = side
        lengths = torch.tensor([len(places) for places in slots])
        if any(item.payload is None for item in media):
            # Still to be made: there is no target, and a loss on it would fail on this empty tensor.
            return SpanBatch(torch.cat(slots), lengths, torch.zeros(len(media), 0), keys)
        places = torch.cat(slots)
        if self.cache is not None and self.cache.covers(name, direction):
            features = self.cache.features(media, direction=direction)
            if direction is Direction.OUT:
                return SpanBatch(places, lengths, torch.stack(features), keys, encoded=True)
            rows = torch.tensor([len(feature) for feature in features])
            return SpanBatch(places, lengths, torch.cat(features), keys, encoded=True, value_lengths=rows)
        part = self.model.reader(name).encoder if direction is Direction.IN else self.model.maker(name).decoder
        values = torch.stack([part.preprocess(item) for item in media])
        return SpanBatch(places, lengths, values, keys)
