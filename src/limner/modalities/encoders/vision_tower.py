"""What published vision towers have in common: a picture in, the rows of one hidden layer out.

Owns `PictureProcessor`, the Pillow form of the published image processors, and `VisionTower`, the encoder around a
transformers vision model. Assumes a directory as transformers writes it: config.json, weights and, where there is one,
preprocessor_config.json, whose values win over the tower's defaults.

Data flow: Media -> [3, h, w] -> embeddings -> as many layers as are needed -> patch rows.
"""

import json
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from limner.document.document import Media
from limner.modalities.base import Encoder, Features


@dataclass(frozen=True, kw_only=True)
class PictureProcessor:
    """Scale, crop and normalise one picture. Sizes in pixels; `mean`, `std` of RGB in [0, 1].

    With `shortest_edge` the aspect ratio is kept and the centre `crop` (h, w) is cut out;
    without it the picture is stretched to `crop`.
    """

    crop: tuple[int, int]
    shortest_edge: int | None
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resample: int = Image.Resampling.BICUBIC

    @staticmethod
    def from_directory(path: Path, *, default: "PictureProcessor") -> "PictureProcessor":
        """`default` with what the directory's preprocessor_config.json says instead."""
        file = path / "preprocessor_config.json"
        return PictureProcessor.from_json(json.loads(file.read_text()) if file.is_file() else {}, default=default)

    @staticmethod
    def from_json(given: Mapping[str, Any], *, default: "PictureProcessor") -> "PictureProcessor":
        """`default` with what a published preprocessor_config.json says instead."""
        size, crop = given.get("size"), given.get("crop_size")
        edge = size if isinstance(size, int) else (size or {}).get("shortest_edge")
        if isinstance(size, dict) and "height" in size:
            edge, crop = None, size
        if isinstance(crop, int):
            crop = {"height": crop, "width": crop}
        if crop is None and edge is not None and default.shortest_edge is None:
            # An integer size of a processor that stretches is a square.
            edge, crop = None, {"height": edge, "width": edge}
        return PictureProcessor(
            crop=(crop["height"], crop["width"]) if crop else default.crop,
            shortest_edge=edge if size is not None else default.shortest_edge,
            mean=tuple(given.get("image_mean", default.mean)),
            std=tuple(given.get("image_std", default.std)),
            resample=given.get("resample", default.resample),
        )

    def __call__(self, picture: Image.Image) -> Float[Tensor, "3 height width_px"]:
        """The normalised pixels of an RGB picture."""
        height, width = self.crop
        resample = Image.Resampling(self.resample)
        if self.shortest_edge is None:
            picture = picture.resize((width, height), resample)
        else:
            short = min(picture.size)
            across, down = (int(self.shortest_edge * side / short) for side in picture.size)
            left, top = (across - width) // 2, (down - height) // 2
            picture = picture.resize((across, down), resample)
            picture = picture.crop((left, top, left + width, top + height))
        pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
        pixels = pixels.view(height, width, 3).permute(2, 0, 1).float() / 255.0
        mean, std = torch.tensor(self.mean), torch.tensor(self.std)
        return (pixels - mean[:, None, None]) / std[:, None, None]


class VisionTower(Encoder):
    """Patch rows of one hidden layer of a transformers vision model. Frozen.

    `first_patch` is the row of the first patch: 1 behind a class row, which is dropped. Layers behind the chosen one do
    not run.
    """

    first_patch = 0

    def __init__(self, network: nn.Module, *, select_layer: int, processor: PictureProcessor) -> None:
        """`select_layer` counts as transformers' `hidden_states` do. Raises ValueError for one that is not there."""
        super().__init__()
        self.network = network
        # Untyped: transformers declares sizes as int, list or tuple; these towers are square.
        config: Any = network.config
        num_layers = config.num_hidden_layers
        if not -num_layers - 1 <= select_layer <= num_layers:
            raise ValueError(
                f"select_layer is {select_layer}; expected {-num_layers - 1} to {num_layers}\n"
                f"hint: this tower has {num_layers} layers; -2 is the last but one"
            )
        self.select_layer = select_layer
        self.num_layers_run = select_layer % (num_layers + 1)
        self.width = config.hidden_size
        self.num_patches = (config.image_size // config.patch_size) ** 2
        self.processor = processor
        self.requires_grad_(False)
        self.eval()

    def preprocess(self, media: Media) -> Float[Tensor, "3 height width_px"]:
        """Scaled and cropped as the processor says, normalised."""
        return self.processor(media.content.pil())

    def measure(self, media: Media) -> int:
        """The number of patches, the same for every picture."""
        return self.num_patches

    @abstractmethod
    def embed(self, items: Float[Tensor, "items 3 height width_px"]) -> Float[Tensor, "items rows width"]:
        """The rows that enter the first layer."""

    @property
    @abstractmethod
    def layers(self) -> nn.ModuleList:
        """All layers; those behind the chosen one are held, for checkpoints, but never run."""

    def layer_options(self, items: Float[Tensor, "items 3 height width_px"]) -> dict[str, Any]:
        """What every layer takes besides its rows."""
        return {"attention_mask": None}

    def forward(self, items: Float[Tensor, "items 3 height width_px"]) -> Features:
        """Patch rows in reading order, item after item."""
        rows = self.embed(items)
        options = self.layer_options(items)
        for layer in islice(self.layers, self.num_layers_run):
            rows = layer(rows, **options)
        rows = rows[:, self.first_patch :]
        lengths = torch.full((len(items),), rows.shape[1], device=items.device)
        return Features(values=rows.flatten(0, 1), lengths=lengths)
