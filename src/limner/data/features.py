"""Feature cache: what frozen encoders and autoencoders give for an item, computed once.

Content-addressed by the item's bytes and direction, and valid for one state of the frozen weights: `fingerprint` of the
parts goes into the cache's identity, so changed weights never meet old features. Held in memory as float16.
"""

import hashlib

import torch
from torch import Tensor

from limner.document.document import Direction, Media
from limner.model.multimodal import MultimodalLM


def fingerprint(module: torch.nn.Module) -> str:
    """A hash over the names and values of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


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
        self._fingerprints = {key: fingerprint(part) for key, part in self._parts.items()}

    def covers(self, name: str, direction: Direction) -> bool:
        """Whether that side of a modality is frozen, so that its features may be kept."""
        return (name, direction) in self._parts

    @torch.no_grad()
    def features(self, media: list[Media], *, direction: Direction) -> list[Tensor]:
        """Features of items of one modality: [tokens width] each for `in`, a latent each for `out`."""
        name = media[0].modality
        keys = [(name, direction, item.payload.digest) for item in media]
        missing = {key: item for key, item in zip(keys, media, strict=True) if key not in self.entries}
        if missing:
            modality = self.model.modality(name)
            items = list(missing.values())
            if direction is Direction.IN:
                stack = torch.stack([modality.encoder.preprocess(item) for item in items])
                found = modality.encoder(stack.to(self.model.device))
                values = found.values.split(found.lengths.tolist())
            else:
                stack = torch.stack([modality.decoder.preprocess(item) for item in items])
                values = modality.decoder.encode(stack.to(self.model.device)).unbind(0)
            for key, value in zip(missing, values, strict=True):
                self.entries[key] = value.to("cpu", torch.float16)
        return [self.entries[key].float() for key in keys]
