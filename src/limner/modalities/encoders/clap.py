"""CLAP as an encoder of sounds: its projected audio embedding, of length 1, as one row.

A clip longer than the window (10 seconds as published) is summed up and three crops of it are drawn. The draws are a
function of the clip, so its features are the same at every call; `front_end` takes them from numpy's global generator,
as the published front end does.
"""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import ClapFeatureExtractor, ClapModel

from limner.document.audio import Audio
from limner.document.document import Media
from limner.modalities.base import Encoder, Features
from limner.modalities.encoders.item_draws import drawn_for


class ClapEncoder(Encoder):
    """One row per clip. Frozen."""

    def __init__(self, path: str | Path) -> None:
        """Load a local directory."""
        super().__init__()
        self.network = ClapModel.from_pretrained(path, local_files_only=True)
        # Untyped: the extractor's keys are not declared.
        self.extractor: Any = ClapFeatureExtractor.from_pretrained(path, local_files_only=True)
        self.width = self.network.config.projection_dim
        self.requires_grad_(False)
        self.eval()

    @property
    def signature(self) -> str:
        """Published weights; the front end is theirs."""
        return self.source

    def preprocess(self, media: Media) -> Float[Tensor, "crops frames bins"]:
        """`front_end` with the clip's own draws."""
        sound = Audio.of(media.payload)
        with drawn_for(sound):
            return self.front_end(sound)

    def front_end(self, sound: Audio) -> Float[Tensor, "crops frames bins"]:
        """Log-mels of the whole and of three crops; of a clip within the window, four times the same."""
        rate = self.extractor.sampling_rate
        found = self.extractor(sound.mono(rate), sampling_rate=rate, return_tensors="pt")
        return found["input_features"][0]

    def measure(self, media: Media) -> int:
        """Always one."""
        return 1

    def forward(self, items: Float[Tensor, "items crops frames bins"]) -> Features:
        """Normalised embeddings, clip by clip."""
        network: Any = self.network
        # The front end calls every clip that comes alone longer than the window, and they come one by one.
        is_longer = torch.ones(len(items), 1, dtype=torch.bool, device=items.device)
        rows = network.get_audio_features(items, is_longer=is_longer).pooler_output
        return Features(rows, torch.ones(len(items), dtype=torch.long, device=items.device))
