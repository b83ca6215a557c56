"""Whisper as an encoder of speech: what its decoder knows of a clip after one step, as one row.

The first decoder token attends to all that the encoder heard, so its hidden state sums the clip up.
"""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import WhisperFeatureExtractor, WhisperModel

from limner.document.audio import Audio
from limner.document.document import Media
from limner.modalities.base import Encoder, Features


class WhisperEncoder(Encoder):
    """One row per clip, cut or padded to the extractor's window (30 seconds as published). Frozen."""

    def __init__(self, path: str | Path) -> None:
        """Load a local directory."""
        super().__init__()
        self.network = WhisperModel.from_pretrained(path, local_files_only=True)
        # Untyped: the extractor's keys are not declared.
        self.extractor: Any = WhisperFeatureExtractor.from_pretrained(path, local_files_only=True)
        self.width = self.network.config.d_model
        self.requires_grad_(False)
        self.eval()

    @property
    def signature(self) -> str:
        """Published weights; the front end is theirs."""
        return self.source

    def preprocess(self, media: Media) -> Float[Tensor, "bins frames"]:
        """Log-mel of the mono sound at the extractor's rate."""
        rate = self.extractor.sampling_rate
        wave = Audio.of(media.payload).mono(rate)
        return self.extractor(wave, sampling_rate=rate, return_tensors="pt").input_features[0]

    def measure(self, media: Media) -> int:
        """Always one."""
        return 1

    def forward(self, items: Float[Tensor, "items bins frames"]) -> Features:
        """The decoder's last hidden state on its start token, clip by clip."""
        network: Any = self.network
        start = torch.full((len(items), 1), network.config.decoder_start_token_id, device=items.device)
        rows = network(items, decoder_input_ids=start, use_cache=False).last_hidden_state
        return Features(rows.flatten(0, 1), torch.ones(len(items), dtype=torch.long, device=items.device))
