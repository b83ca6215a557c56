"""CLIP's vision tower as a picture encoder.

Owns `PictureProcessor`, the Pillow form of the published image processors, and `ClipEncoder`.
Assumes a directory as transformers writes it: config.json, weights and, where there is one,
preprocessor_config.json, whose values win over the model's defaults.

Data flow: Media -> [3, h, w] -> hidden states of one layer -> class row dropped -> patch rows.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from transformers import CLIPVisionModel

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
        if not file.is_file():
            return default
        given: dict[str, Any] = json.loads(file.read_text())
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


def check_select_layer(select_layer: int, *, num_layers: int) -> None:
    """Raise ValueError unless `select_layer` indexes the num_layers + 1 hidden states."""
    if not -num_layers - 1 <= select_layer <= num_layers:
        raise ValueError(
            f"select_layer is {select_layer}; expected {-num_layers - 1} to {num_layers}\n"
            f"hint: this tower has {num_layers} layers; -2 is the last but one"
        )


class ClipEncoder(Encoder):
    """Patch rows of one hidden layer of a CLIP vision tower, the class row dropped. Frozen."""

    def __init__(self, path: str | Path, *, select_layer: int = -2) -> None:
        """Load a local directory. `select_layer` counts as transformers' `hidden_states` do."""
        super().__init__()
        self.network = CLIPVisionModel.from_pretrained(path, local_files_only=True)
        # Untyped: transformers declares sizes as int, list or tuple; these towers are square.
        config: Any = self.network.config
        check_select_layer(select_layer, num_layers=config.num_hidden_layers)
        self.select_layer = select_layer
        self.width = config.hidden_size
        self.processor = PictureProcessor.from_directory(
            Path(path),
            default=PictureProcessor(
                crop=(config.image_size, config.image_size),
                shortest_edge=config.image_size,
                # Statistics of CLIP's training pictures, as published with its weights.
                mean=(0.48145466, 0.4578275, 0.40821073),
                std=(0.26862954, 0.26130258, 0.27577711),
            ),
        )
        self.num_patches = (config.image_size // config.patch_size) ** 2
        self.requires_grad_(False)
        self.eval()

    def preprocess(self, media: Media) -> Float[Tensor, "3 height width_px"]:
        """Shortest edge scaled, centre cropped, normalised."""
        assert media.payload is not None, "a payload that is still to be drawn has no pixels"
        return self.processor(media.payload.pil())

    def measure(self, media: Media) -> int:
        """The number of patches, the same for every picture."""
        return self.num_patches

    def forward(self, items: Float[Tensor, "items 3 height width_px"]) -> Features:
        """Patch rows in reading order, item after item."""
        states = self.network(items, output_hidden_states=True).hidden_states
        rows = states[self.select_layer][:, 1:]
        lengths = torch.full((len(items),), rows.shape[1], device=items.device)
        return Features(values=rows.flatten(0, 1), lengths=lengths)
