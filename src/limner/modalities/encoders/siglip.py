"""SigLIP's vision tower as a picture encoder.

Owns `SiglipEncoder`; the Pillow processor is CLIP's, with SigLIP's defaults. Assumes a directory as
transformers writes it. SigLIP has no class row: every row is a patch.

Data flow: Media -> [3, h, w] (stretched to a square) -> hidden states of one layer -> patch rows.
"""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import SiglipVisionModel

from limner.document.document import Media
from limner.modalities.base import Encoder, Features
from limner.modalities.encoders.clip import PictureProcessor, check_select_layer


class SiglipEncoder(Encoder):
    """Patch rows of one hidden layer of a SigLIP vision tower. Frozen."""

    def __init__(self, path: str | Path, *, select_layer: int = -1) -> None:
        """Load a local directory. `select_layer` counts as transformers' `hidden_states` do; -1 is
        the last layer before the final norm."""
        super().__init__()
        self.network = SiglipVisionModel.from_pretrained(path, local_files_only=True)
        # Untyped: transformers declares sizes as int, list or tuple; these towers are square.
        config: Any = self.network.config
        check_select_layer(select_layer, num_layers=config.num_hidden_layers)
        self.select_layer = select_layer
        self.width = config.hidden_size
        self.processor = PictureProcessor.from_directory(
            Path(path),
            default=PictureProcessor(
                crop=(config.image_size, config.image_size),
                shortest_edge=None,
                mean=(0.5, 0.5, 0.5),
                std=(0.5, 0.5, 0.5),
            ),
        )
        self.num_patches = (config.image_size // config.patch_size) ** 2
        self.requires_grad_(False)
        self.eval()

    def preprocess(self, media: Media) -> Float[Tensor, "3 height width_px"]:
        """Stretched to the tower's size, normalised."""
        assert media.payload is not None, "a payload that is still to be drawn has no pixels"
        return self.processor(media.payload.pil())

    def measure(self, media: Media) -> int:
        """The number of patches, the same for every picture."""
        return self.num_patches

    def forward(self, items: Float[Tensor, "items 3 height width_px"]) -> Features:
        """Patch rows in reading order, item after item."""
        states = self.network(items, output_hidden_states=True).hidden_states
        rows = states[self.select_layer]
        lengths = torch.full((len(items),), rows.shape[1], device=items.device)
        return Features(values=rows.flatten(0, 1), lengths=lengths)
