"""Feature cache: what frozen encoders and autoencoders give for an item, computed once.

Content-addressed by the item's bytes and direction. A cache belongs to one model and covers only parts without a trainable
parameter, so changed weights never meet old features. Held in memory as float16.
"""

import torch
from torch import Tensor

from limner.document.document import Direction, Media
from limner.model.multimodal import MultimodalLM


class FeatureCache:
    """Encoder features (`in`) and decoder latents (`out`) by item, for the modalities whose parts are frozen."""

    def __init__(self, model: MultimodalLM) -> None:
        self.model = model
        self.entries: dict[tuple[str, Direction, str], Tensor] = {}
        self._parts = {
            (name, direction): part
            for name, modality in model.modalities.items()
            for direction, part in (
                (Direction.IN, modality.encoder),
                (Direction.OUT, getattr(modality.decoder, "autoencoder", modality.decoder)),
            )
            if part is not None and not any(p.requires_grad for p in part.parameters())
        }

    def covers(self, name: str, direction: Direction) -> bool:
        """Whether that side of a modality is frozen, so that its features may be kept."""
        return (name, direction) in self._parts

    @torch.no_grad()
    def features(self, media: list[Media], *, direction: Direction) -> list[Tensor]:
        """Features of items of one modality: [tokens width] each for `in`, a latent each for `out`."""
        name = media[0].modality
        keys = [(name, direction, item.payload.digest) for item in media]
        modality = self.model.modality(name)
        for key, item in zip(keys, media, strict=True):
            if key in self.entries:
                continue
            # Each item alone: in a stack its last bits would depend on its neighbours, and a resumed run, which fills
            # its cache in other groups, would not be the uninterrupted one.
            if direction is Direction.IN:
                value = modality.encoder(modality.encoder.preprocess(item)[None].to(self.model.device)).values
            else:
                value = modality.decoder.encode(modality.decoder.preprocess(item)[None].to(self.model.device))[0]
            self.entries[key] = value.to("cpu", torch.float16)
        return [self.entries[key].float() for key in keys]
