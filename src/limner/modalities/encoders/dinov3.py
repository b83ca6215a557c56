"""DINOv3's vision tower as a picture encoder: stretched to a square; class row and registers are dropped.

Positions are rotary: every layer takes the sines and cosines of the patches' places.
"""

from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from transformers import DINOv3ViTModel

from limner.modalities.encoders.vision_tower import PictureProcessor, VisionTower


class DinoV3Encoder(VisionTower):
    """Patch rows of one hidden layer of a DINOv3 vision transformer. Frozen."""

    def __init__(self, path: str | Path, *, select_layer: int = -1) -> None:
        """Load a local directory. `select_layer` counts as transformers' `hidden_states` do; -1 is the last layer
        before the final norm."""
        network = DINOv3ViTModel.from_pretrained(path, local_files_only=True)
        size: Any = network.config.image_size
        default = PictureProcessor(
            crop=(size, size),
            shortest_edge=None,
            # Statistics of ImageNet, as published with the weights.
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
        )
        self.first_patch = 1 + network.config.num_register_tokens
        processor = PictureProcessor.from_directory(Path(path), default=default)
        super().__init__(network, select_layer=select_layer, processor=processor)

    def embed(self, items: Float[Tensor, "items 3 height width_px"]) -> Float[Tensor, "items rows width"]:
        """Class row, registers and patch rows."""
        network: Any = self.network
        return network.embeddings(items)

    @property
    def layers(self) -> nn.ModuleList:
        """All layers of the tower."""
        network: Any = self.network
        return network.model.layer

    def layer_options(self, items: Float[Tensor, "items 3 height width_px"]) -> dict[str, Any]:
        """No mask, and the rotary positions of the patches."""
        network: Any = self.network
        return {"attention_mask": None, "position_embeddings": network.rope_embeddings(items)}
