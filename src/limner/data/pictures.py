"""Pictures alone: what an autoencoder or a tokenizer trains on. Batches of a fixed number of pictures, no ids, no
language model."""

from collections.abc import Callable, Mapping
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

Sides = Mapping[Direction, Callable[[Media], Tensor]]
"""What becomes of a picture: `in`, what is read of it; `out`, what is to be made."""


class _Target(NamedTuple):
    """A picture and the key of its document."""

    media: Media
    key: str


class PictureLoader(ItemLoader[_Target]):
    """Batches of `num_items` pictures of one modality: the first of each document of a mixture, in order.

    Without `sides` they are the targets of the modality's decoder, of pictures that documents make. With them, each
    side of a picture is made by its function, and pictures that documents show count as well.

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
        sides: Sides | None = None,
        rank: int = 0,
        num_ranks: int = 1,
    ) -> None:
        self.mixture = mixture
        self.sides = sides or {Direction.OUT: model.maker(name).decoder.preprocess}
        self.shown = sides is not None
        self.name = name
        self.order = ItemOrder(
            mixture, items_at=self._items_at, what=name, num_items=num_items, rank=rank, num_ranks=num_ranks
        )
        # What becomes of a picture is computed once while there is room.
        self._kept = MemoryStore()

    def next_batch(self) -> Batch:
        """This rank's batch at the current place; moves the place on for all."""
        found: list[dict[Direction, Tensor]] = []
        keys: list[str] = []
        last: Draw | None = None
        for draw, target in self.order.take():
            last = draw
            try:
                found.append({direction: self._side(target.media, direction) for direction in self.sides})
                keys.append(target.key)
            except ValueError as error:
                self.order.skip(draw, error)
        if not found:
            raise ValueError(
                f"no picture of a batch could be decoded; the last is {last.key if last else ''}\n"
                "hint: the warnings above name them all"
            )
        empty = torch.zeros(0, 0, dtype=torch.long)
        lengths = torch.zeros(len(found), dtype=torch.long)
        sides = {
            (self.name, direction): SpanBatch(
                empty.flatten(), lengths, torch.stack([each[direction] for each in found]), tuple(keys)
            )
            for direction in self.sides
        }
        return Batch(empty, empty, empty, empty, sides, sources=tuple(self.mixture.sources))

    def _items_at(self, position: int) -> list[_Target]:
        try:
            document, draw = self.mixture.document(position)
        except ValueError as error:
            raise BadDocument("read", str(error)) from error
        wanted = [
            part
            for message, part in document.media()
            if part.modality == self.name and (self.shown or Direction.OUT in message.directions(part))
        ]
        return [_Target(media, draw.key) for media in wanted[:1]]

    def _side(self, media: Media, direction: Direction) -> Tensor:
        key = f"{direction.value}/{media.content.digest}"
        made = self._kept.get(key)
        if made is None:
            made = self.sides[direction](media)
            self._kept.put(key, made)
        return made
