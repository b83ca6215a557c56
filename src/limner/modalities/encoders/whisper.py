"""Whisper as an encoder of speech, in two ways.

`WhisperEncoder`: one row, what its decoder knows of a clip after one step. The first decoder token attends to all that
the encoder heard, so its hidden state sums the clip up.
`WhisperFrames`: what the encoder heard in order of time, for whoever wants to know every word.
"""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
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


class WhisperFrames(Encoder):
    """What Whisper's encoder hears, in order: `stack` frames of 20 ms side by side make a row. Frozen.

    Clips are cut or padded to `seconds`, not to the published window: positions behind it are left out, and so is what
    attention to silence would cost. The features differ from those of the whole window; what reads them is trained on
    them.
    """

    def __init__(self, path: str | Path, *, seconds: float = 3.0, stack: int = 10) -> None:
        """Load the encoder of a local directory.

        Raises ValueError for a window that is longer than the network's, or no whole number of rows.
        """
        super().__init__()
        # Untyped: neither an extractor's nor an encoder's attributes are declared.
        extractor: Any = WhisperFeatureExtractor.from_pretrained(path, local_files_only=True)
        network: Any = WhisperModel.from_pretrained(path, local_files_only=True).get_encoder()
        longest = network.config.max_source_positions
        per_second = extractor.sampling_rate / extractor.hop_length / 2
        frames = round(seconds * per_second)
        if not stack <= frames <= longest or frames % stack:
            raise ValueError(
                f"a window of {seconds} s has {frames} frames; expected a multiple of {stack}, at most {longest}\n"
                f"hint: a row holds {stack / per_second:g} s"
            )
        positions = nn.Embedding(frames, network.config.d_model)
        positions.weight.data.copy_(network.embed_positions.weight[:frames])
        network.embed_positions = positions
        network.config.max_source_positions = network.max_source_positions = frames
        self.network = network
        self.extractor = extractor
        self.num_samples = 2 * frames * extractor.hop_length
        self.num_rows = frames // stack
        self.stack = stack
        self.width = network.config.d_model * stack
        self.requires_grad_(False)
        self.eval()

    @property
    def signature(self) -> str:
        """Published weights, window and stacking; the front end is theirs."""
        return f"{self.source} {self.num_samples} {self.stack}" if self.source else ""

    def preprocess(self, media: Media) -> Float[Tensor, "bins frames"]:
        """Log-mel of the mono sound at the extractor's rate, of the window's length."""
        rate = self.extractor.sampling_rate
        wave = Audio.of(media.payload).mono(rate)[: self.num_samples]
        options = {"padding": "max_length", "max_length": self.num_samples, "return_tensors": "pt"}
        return self.extractor(wave, sampling_rate=rate, **options).input_features[0]

    def measure(self, media: Media) -> int:
        """Always the window's rows."""
        return self.num_rows

    def forward(self, items: Float[Tensor, "items bins frames"]) -> Features:
        """Rows in order of time, clip after clip."""
        frames = self.network(items).last_hidden_state
        rows = frames.reshape(-1, self.width)
        return Features(rows, torch.full((len(items),), self.num_rows, dtype=torch.long, device=items.device))
