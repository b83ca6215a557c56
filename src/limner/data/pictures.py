"""Pictures alone: what an autoencoder trains on. Batches of a fixed number of targets, no ids, no language model."""

from collections import Counter
from typing import Any

import torch
from torch import Tensor

from limner.data.mixture import Mixture
from limner.document.document import Direction, Media
from limner.model.multimodal import MultimodalLM
from limner.tokens.batch import Batch, SpanBatch


class PictureLoader:
    """Batches of `num_items` pictures of one modality that the documents of a mixture make, in their order."""

    def __init__(self, mixture: Mixture, *, model: MultimodalLM, name: str, num_items: int) -> None:
        self.mixture = mixture
        self.decoder = model.maker(name).decoder
        self.name = name
        self.num_items = num_items
        self.position = 0
        self.drawn: Counter[str] = Counter()
        self._pixels: dict[str, Tensor] = {}

    def next_batch(self) -> Batch:
        """The batch at the current position; moves the position on."""
        media: list[Media] = []
        keys: list[str] = []
        while len(media) < self.num_items:
            document, draw = self.mixture.document(self.position)
            made = [
                part
                for message, part in document.media()
                if part.modality == self.name and Direction.OUT in message.directions(part)
            ]
            self.position += 1
            if made:
                media.append(made[0])
                keys.append(draw.key)
                self.drawn[draw.source] += 1
        pixels = torch.stack([self._preprocessed(item) for item in media])
        empty = torch.zeros(0, 0, dtype=torch.long)
        lengths = torch.zeros(len(media), dtype=torch.long)
        spans = SpanBatch(empty.flatten(), lengths, pixels, tuple(keys))
        return Batch(empty, empty, empty, empty, {(self.name, Direction.OUT): spans})

    def _preprocessed(self, media: Media) -> Tensor:
        """Target pixels, decoded and resized once per picture."""
        key = media.content.digest
        if key not in self._pixels:
            self._pixels[key] = self.decoder.preprocess(media).half()
        return self._pixels[key].float()

    def state_dict(self) -> dict[str, Any]:
        """A few integers."""
        return {"position": self.position, "drawn": dict(self.drawn)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.position = int(state["position"])
        self.drawn = Counter(state["drawn"])
