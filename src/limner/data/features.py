"""Feature cache: what frozen encoders and autoencoders give for an item, computed once.

Content-addressed by the item's bytes and direction. A cache belongs to one model and covers only parts without a
trainable parameter, so changed weights never meet old features. Held in memory as float16. Features of a published
encoder (one with a `signature`: weights and transform) are also kept on disk, in one safetensors file per signature,
for the next stage or run.
"""

import hashlib
import os
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from limner import zoo
from limner.document.document import Direction, Media
from limner.modalities.base import Modality
from limner.model.multimodal import MultimodalLM

SAVE_EVERY = 1000
"""New features of one encoder after which its file is written again."""


class FeatureCache:
    """Encoder features (`in`) and decoder latents (`out`) by item, for the modalities whose parts are frozen."""

    def __init__(self, model: MultimodalLM) -> None:
        self.model = model
        self.entries: dict[tuple[str, Direction, str], Tensor] = {}
        self._parts = {
            (name, direction): part
            for name in model.modalities
            for direction, part in _sides(model.modality(name))
            if part is not None and not any(p.requires_grad for p in part.parameters())
        }
        self._unsaved: dict[str, int] = {}
        for name in [name for name, direction in self._parts if direction is Direction.IN]:
            file = self._file(name)
            if file is not None and file.exists():
                stored = load_file(file)
                self.entries |= {(name, Direction.IN, digest): value for digest, value in stored.items()}

    def covers(self, name: str, direction: Direction) -> bool:
        """Whether that side of a modality is frozen, so that its features may be kept."""
        return (name, direction) in self._parts

    @torch.no_grad()
    def features(self, media: list[Media], *, direction: Direction) -> list[Tensor]:
        """Features of items of one modality: [tokens width] each for `in`, a latent each for `out`."""
        name = media[0].modality
        keys = [(name, direction, item.content.digest) for item in media]
        for key, item in zip(keys, media, strict=True):
            if key in self.entries:
                continue
            # Each item alone: in a stack its last bits would depend on its neighbours, and a resumed run, which fills
            # its cache in other groups, would not be the uninterrupted one.
            if direction is Direction.IN:
                encoder = self.model.reader(name).encoder
                value = encoder(encoder.preprocess(item)[None].to(self.model.device)).values
            else:
                decoder = self.model.maker(name).decoder
                value = decoder.encode(decoder.preprocess(item)[None].to(self.model.device))[0]
            self.entries[key] = value.to("cpu", torch.float16).contiguous()
            if direction is Direction.IN:
                self._count_unsaved(name)
        return [self.entries[key].float() for key in keys]

    def _file(self, name: str) -> Path | None:
        """Where the features of a published encoder are kept."""
        signature = self.model.reader(name).encoder.signature
        if not signature:
            return None
        return zoo.cache_root() / "features" / f"{hashlib.sha256(signature.encode()).hexdigest()[:24]}.safetensors"

    def _count_unsaved(self, name: str) -> None:
        file = self._file(name)
        self._unsaved[name] = self._unsaved.get(name, 0) + 1
        if file is None or self._unsaved[name] < SAVE_EVERY:
            return
        self._unsaved[name] = 0
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_suffix(f".{os.getpid()}.writing")
        known = self.entries.items()
        save_file({key[2]: value for key, value in known if key[:2] == (name, Direction.IN)}, temporary)
        temporary.replace(file)


def _sides(modality: Modality) -> list[tuple[Direction, nn.Module | None]]:
    """What computes features in each direction."""
    return [
        (Direction.IN, modality.encoder),
        (Direction.OUT, getattr(modality.decoder, "autoencoder", modality.decoder)),
    ]
