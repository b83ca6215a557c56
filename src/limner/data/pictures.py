"""Pictures alone: what an autoencoder trains on. Batches of a fixed number of targets, no ids, no language model."""

from typing import NamedTuple

import torch
from torch import Tensor

from limner.data.feature_store import MemoryStore
from limner.data.item_order import ItemLoader, ItemOrder
from limner.data.mixture import Draw, Mixture
from limner.data.windows import BadDocument
from limner.document.document import Direction, Media
from limner.model.multimodal import MultimodalLM
from limner.tokens.batch import Batch, SpanBatch


class _Target(NamedTuple):
    """A picture and the key of its document."""

    media: Media
    key: str


class PictureLoader(ItemLoader[_Target]):
    """Batches of `num_items` pictures of one modality: the first that each document of a mixture makes, in order.

    A picture that cannot be decoded leaves its batch, which is then smaller. `rank` and `num_ranks` say whose items
    these are; each rank makes its loader and loads the same state.
    """

    def __init__(
        self,
        mixture: Mixture,
        *,
        model: MultimodalLM,
        name: str,
        num_items: int,
        rank: int = 0,
        num_ranks: int = 1,
    ) -> None:
        self.mixture = mixture
        self.decoder = model.maker(name).decoder
        self.name = name
        self.order = ItemOrder(
            mixture, items_at=self._items_at, what=name, num_items=num_items, rank=rank, num_ranks=num_ranks
        )
        # Target pixels, decoded and resized once per picture while there is room.
        self._pixels = MemoryStore()

    def next_batch(self) -> Batch:
        """This rank's batch at the current place; moves the place on for all."""
        pixels: list[Tensor] = []
        keys: list[str] = []
        last: Draw | None = None
        for draw, target in self.order.take():
            last = draw
            try:
                pixels.append(self._preprocessed(target.media))
                keys.append(target.key)
            except ValueError as error:
                self.order.skip(draw, error)
        if not pixels:
            raise ValueError(
                f"no picture of a batch could be decoded; the last is {last.key if last else ''}\n"
                "hint: the warnings above name them all"
            )
        empty = torch.zeros(0, 0, dtype=torch.long)
        lengths = torch.zeros(len(pixels), dtype=torch.long)
        spans = SpanBatch(empty.flatten(), lengths, torch.stack(pixels), tuple(keys))
        sides = {(self.name, Direction.OUT): spans}
        return Batch(empty, empty, empty, empty, sides, sources=tuple(self.mixture.sources))

    def _items_at(self, position: int) -> list[_Target]:
        try:
            document, draw = self.mixture.document(position)
        except ValueError as error:
            raise BadDocument("read", str(error)) from error
        made = [
            part
            for message, part in document.media()
            if part.modality == self.name and Direction.OUT in message.directions(part)
        ]
        return [_Target(media, draw.key) for media in made[:1]]

    def _preprocessed(self, media: Media) -> Tensor:
        key = media.content.digest
        pixels = self._pixels.get(key)
        if pixels is None:
            pixels = self.decoder.preprocess(media)
            self._pixels.put(key, pixels)
        return pixels
