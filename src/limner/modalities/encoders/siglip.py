"""SigLIP's vision tower as a picture encoder: stretched to a square; there is no class row, every row is a patch.

SigLIP 2 of one resolution has the same architecture and is read by the same class.
"""

from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from transformers import SiglipVisionModel

from limner.modalities.encoders.vision_tower import PictureProcessor, VisionTower


class SiglipEncoder(VisionTower):
    """Patch rows of one hidden layer of a SigLIP vision tower. Frozen."""

    def __init__(self, path: str | Path, *, select_layer: int = -1) -> None:
        """Load a local directory. `select_layer` counts as transformers' `hidden_states` do; -1 is the last layer
        before the final norm."""
        network = SiglipVisionModel.from_pretrained(path, local_files_only=True)
        size: Any = network.config.image_size
        default = PictureProcessor(crop=(size, size), shortest_edge=None, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
        processor = PictureProcessor.from_directory(Path(path), default=default)
        super().__init__(network, select_layer=select_layer, processor=processor)

    def embed(self, items: Float[Tensor, "items 3 height width_px"]) -> Float[Tensor, "items rows width"]:
        """The patch rows, with positions."""
        network: Any = self.network
        return network.embeddings(items)

    @property
    def layers(self) -> nn.ModuleList:
        """All layers of the tower."""
        network: Any = self.network
        return network.encoder.layers
