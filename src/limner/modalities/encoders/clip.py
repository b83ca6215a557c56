"""CLIP's vision tower as a picture encoder: the shortest edge scaled, the centre cropped, the class row dropped."""

from pathlib import Path
from typing import Any

from transformers import CLIPVisionModel

from limner.modalities.encoders.vision_tower import PictureProcessor, VisionTower


class ClipEncoder(VisionTower):
    """Patch rows of one hidden layer of a CLIP vision tower. Frozen."""

    first_patch = 1

    def __init__(self, path: str | Path, *, select_layer: int = -2) -> None:
        """Load a local directory. `select_layer` counts as transformers' `hidden_states` do."""
        network = CLIPVisionModel.from_pretrained(path, local_files_only=True)
        size: Any = network.config.image_size
        default = PictureProcessor(
            crop=(size, size),
            shortest_edge=size,
            # Statistics of CLIP's training pictures, as published with its weights.
            mean=(0.48145466, 0.4578275, 0.40821073),
            std=(0.26862954, 0.26130258, 0.27577711),
        )
        processor = PictureProcessor.from_directory(Path(path), default=default)
        super().__init__(network, select_layer=select_layer, processor=processor)
