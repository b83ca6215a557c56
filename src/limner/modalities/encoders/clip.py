"""CLIP's vision tower as a picture encoder: the shortest edge scaled, the centre cropped, the class row dropped."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from limner.modalities.encoders.vision_tower import PictureProcessor, VisionTower


class ClipEncoder(VisionTower):
    """Patch rows of one hidden layer of a CLIP vision tower. Frozen."""

    first_patch = 1

    def __init__(
        self, path: str | Path | CLIPVisionModel, *, select_layer: int = -2, processor: PictureProcessor | None = None
    ) -> None:
        """Load a local directory, or take a network as it is. `select_layer` counts as transformers' `hidden_states`
        do; `processor` None is the directory's, or CLIP's own."""
        given = isinstance(path, CLIPVisionModel)
        network: Any = path if given else CLIPVisionModel.from_pretrained(path, local_files_only=True)
        default = clip_processor(network.config.image_size)
        if processor is None:
            processor = default if given else PictureProcessor.from_directory(Path(path), default=default)
        super().__init__(network, select_layer=select_layer, processor=processor)

    @staticmethod
    def from_config(
        config: Mapping[str, Any], *, select_layer: int = -2, processor: Mapping[str, Any] | None = None
    ) -> "ClipEncoder":
        """A tower of new weights. `config` is a published config.json, of the tower or of the whole CLIP; `processor`
        a published preprocessor_config.json."""
        sizes = CLIPVisionConfig(**dict(config.get("vision_config", config)))
        default = clip_processor(sizes.image_size)
        return ClipEncoder(
            CLIPVisionModel(sizes),
            select_layer=select_layer,
            processor=PictureProcessor.from_json(processor or {}, default=default),
        )

    def embed(self, items: Float[Tensor, "items 3 height width_px"]) -> Float[Tensor, "items rows width"]:
        """The class row and the patch rows, with positions, normalised."""
        network: Any = self.network
        return network.pre_layrnorm(network.embeddings(items))

    @property
    def layers(self) -> nn.ModuleList:
        """All layers of the tower."""
        network: Any = self.network
        return network.encoder.layers


def clip_processor(size: Any) -> PictureProcessor:
    """CLIP's own preprocessing, to squares of `size` pixels."""
    return PictureProcessor(
        crop=(size, size),
        shortest_edge=size,
        # Statistics of CLIP's training pictures, as published with its weights.
        mean=(0.48145466, 0.4578275, 0.40821073),
        std=(0.26862954, 0.26130258, 0.27577711),
    )
