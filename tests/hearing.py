"""A model of random weights that hears: a sound is one row, how loud its sixteen parts are."""

import torch

from limner.backbone.hf import Backbone
from limner.compositions.multi_token import Part, wire
from limner.compositions.small_llama import small_llama
from limner.document.audio import Audio
from limner.document.document import Media
from limner.document.rows import Placeholder
from limner.modalities.base import Encoder, Features
from limner.model.multimodal import MultimodalLM
from limner.tokens.template import Template
from limner.tokens.tokenizer import byte_tokenizer


class Loudness(Encoder):
    """Root mean squares of the parts of a sound."""

    width = 16

    def preprocess(self, media: Media) -> torch.Tensor:
        assert isinstance(media.payload, Audio)
        parts = torch.from_numpy(media.payload.mono(16_000)).tensor_split(self.width)
        return torch.stack([part.square().mean().sqrt() for part in parts])

    def measure(self, media: Media) -> int:
        return 1

    def forward(self, items: torch.Tensor) -> Features:
        return Features(items, torch.ones(len(items), dtype=torch.long, device=items.device))


def hearing_model() -> MultimodalLM:
    """Every weight a function of one seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tokenizer = byte_tokenizer()
        llama = small_llama(tokenizer, d_model=32, num_layers=2, num_heads=2, context_length=512, intermediate_size=128)
        sound = Placeholder("sound", "<sound>", "sounds", num_positions=2, modality="sound", kind="sound")
        return wire(
            Backbone(llama),
            tokenizer=tokenizer,
            template=Template.from_tokenizer(tokenizer.tokenizer, system=""),
            parts=[Part(sound, Loudness(), "vector")],
        ).eval()
