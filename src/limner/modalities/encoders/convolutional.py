"""A small convolutional encoder without published weights: trained from nothing, with everything else."""

import numpy
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from limner.document.document import Media
from limner.modalities.base import Encoder, Features


class ConvolutionalEncoder(Encoder):
    """Pictures resized to `image_size` square -> (image_size / 2 ** num_halvings) ** 2 rows in raster order.

    Each halving is a strided 3x3 convolution with GroupNorm and GELU; a learned position is added to each row, because
    what follows is told nothing else about where a row stands.
    """

    def __init__(self, *, image_size: int = 64, width: int = 128, num_halvings: int = 4) -> None:
        super().__init__()
        grid = image_size >> num_halvings
        if grid << num_halvings != image_size:
            raise ValueError(
                f"image_size is {image_size}; expected a multiple of {2**num_halvings} for "
                f"{num_halvings} halvings\nhint: change image_size or num_halvings"
            )
        self.width = width
        self.image_size = image_size
        self.num_rows = grid * grid
        layers: list[nn.Module] = []
        channels = 3
        for _ in range(num_halvings):
            layers += [nn.Conv2d(channels, width, 3, stride=2, padding=1), nn.GroupNorm(8, width), nn.GELU()]
            channels = width
        self.layers = nn.Sequential(*layers)
        self.positions = nn.Parameter(torch.randn(self.num_rows, width) * 0.02)

    def preprocess(self, media: Media) -> Float[Tensor, "3 height width_px"]:
        """RGB in [-1, 1] at (image_size, image_size); the aspect ratio is not kept."""
        picture = media.content.pil().resize((self.image_size, self.image_size), Image.Resampling.BICUBIC)
        return torch.from_numpy(numpy.array(picture)).permute(2, 0, 1).float().div_(127.5).sub_(1.0)

    def measure(self, media: Media) -> int:
        """The same for every picture."""
        return self.num_rows

    def forward(self, items: Float[Tensor, "items 3 height width_px"]) -> Features:
        """Rows of each picture, raster order."""
        grid = self.layers(items).flatten(2).transpose(1, 2) + self.positions  # [items, rows, width]
        lengths = torch.full((len(items),), self.num_rows, device=items.device)
        return Features(grid.flatten(0, 1), lengths)
