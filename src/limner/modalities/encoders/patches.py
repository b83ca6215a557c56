"""A patch encoder without published weights: each square of pixels becomes one row. Trained from nothing in minutes."""

import numpy
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from limner.document.document import Media
from limner.modalities.base import Encoder, Features


class PatchEncoder(Encoder):
    """Pictures resized to `image_size` square -> (image_size / patch_size) ** 2 rows in raster order.

    An MLP sees the pixels of its patch and nothing around it; a learned position of order one is added, because what
    follows is told nothing else about where a row stands. No normalisation stands between pixels and MLP: absolute
    colours are what is asked for.
    """

    def __init__(self, *, image_size: int = 48, patch_size: int = 16, width: int = 128, pixel_width: int = 32) -> None:
        super().__init__()
        if image_size % patch_size or patch_size % 2:
            raise ValueError(
                f"image_size is {image_size}; expected a multiple of patch_size, {patch_size}, an even number\n"
                "hint: change image_size or patch_size"
            )
        self.width = width
        self.image_size = image_size
        self.patch_size = patch_size
        self.num_rows = (image_size // patch_size) ** 2
        self.pixels = nn.Linear(12, pixel_width)
        self.patches = nn.Linear(pixel_width * (patch_size // 2) ** 2, width)
        self.mix = nn.Linear(width, width)
        self.positions = nn.Parameter(torch.randn(self.num_rows, width) * 0.5)

    def preprocess(self, media: Media) -> Float[Tensor, "3 height width_px"]:
        """RGB in [-1, 1] at (image_size, image_size); the aspect ratio is not kept."""
        picture = media.content.pil()
        if picture.size != (self.image_size, self.image_size):
            picture = picture.resize((self.image_size, self.image_size), Image.Resampling.BICUBIC)
        return torch.from_numpy(numpy.array(picture)).permute(2, 0, 1).float() / 127.5 - 1.0

    def measure(self, media: Media) -> int:
        """The same for every picture."""
        return self.num_rows

    def forward(self, items: Float[Tensor, "items 3 height width_px"]) -> Features:
        """Rows of each picture, raster order."""
        # White paper is zero: what is drawn stands out from the first step.
        blocks = functional.pixel_unshuffle(items - 1.0, 2)  # [items, 12, height / 2, width_px / 2]
        colored = functional.gelu(self.pixels(blocks.movedim(1, -1)))
        edge, grid = self.patch_size // 2, self.image_size // self.patch_size
        patches = colored.unflatten(1, (grid, edge)).unflatten(3, (grid, edge)).transpose(2, 3).flatten(3)
        rows = self.mix(functional.gelu(self.patches(patches.flatten(1, 2)))) + self.positions  # [items, rows, width]
        lengths = torch.full((len(items),), self.num_rows, device=items.device)
        return Features(rows.flatten(0, 1), lengths)
