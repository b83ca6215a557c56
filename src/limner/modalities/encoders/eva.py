"""EVA's vision transformer: pre-norm blocks without relative positions, last block's output, no final norm.

The encoder whose patch features the visual tokenizer of `quantizers/` was made for (EVA-CLIP g/14: 40 blocks of width
1408).
"""

import numpy
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from limner.document.document import Media
from limner.modalities.base import Encoder, Features
from limner.modalities.quantizers.blocks import FeedForward, SelfAttention, attend_to_all, initialise

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class EvaBlock(nn.Module):
    """Attention and feed-forward, each behind a norm."""

    def __init__(self, width: int, *, num_heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = SelfAttention(width, num_heads=num_heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = FeedForward(width, hidden=hidden)

    def forward(self, rows: Float[Tensor, "items rows width"]) -> Float[Tensor, "items rows width"]:
        """One block."""
        rows = rows + self.attn(self.norm1(rows), attend_to_all)
        return rows + self.mlp(self.norm2(rows))


class EvaEncoder(Encoder):
    """Pixels -> patch features in raster order."""

    def __init__(
        self, *, image_size: int, patch_size: int, width: int, num_layers: int, num_heads: int, hidden: int
    ) -> None:
        super().__init__()
        self.image_size = image_size
        self.width = width
        self.num_patches = (image_size // patch_size) ** 2
        self.patches = nn.Conv2d(3, width, patch_size, stride=patch_size)
        self.class_row = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.zeros(1, self.num_patches + 1, width))
        self.blocks = nn.ModuleList(EvaBlock(width, num_heads=num_heads, hidden=hidden) for _ in range(num_layers))
        nn.init.trunc_normal_(self.class_row, std=0.02)
        nn.init.trunc_normal_(self.positions, std=0.02)
        self.apply(initialise)

    def embed(self, pixels: Float[Tensor, "items 3 height width_px"]) -> Float[Tensor, "items rows width"]:
        """Class row and patches with their positions."""
        patches = self.patches(pixels).flatten(2).transpose(1, 2)
        return torch.cat([self.class_row.expand(len(patches), -1, -1), patches], dim=1) + self.positions

    def forward(self, items: Float[Tensor, "items 3 height width_px"]) -> Features:
        """Features of the patches, the class row left out."""
        rows = self.embed(items)
        for block in self.blocks:
            rows = block(rows)
        lengths = torch.full((len(items),), self.num_patches, device=items.device)
        return Features(rows[:, 1:].flatten(0, 1), lengths)

    def measure(self, media: Media) -> int:
        """The number of patches, the same for every picture."""
        return self.num_patches

    def preprocess(self, media: Media) -> Float[Tensor, "3 height width_px"]:
        """The picture squeezed to a square (bicubic), brought to CLIP's mean and deviation."""
        picture = media.content.pil().resize((self.image_size, self.image_size), Image.Resampling.BICUBIC)
        return normalised(torch.from_numpy(numpy.array(picture)).permute(2, 0, 1).float() / 255.0)


def normalised(pixels: Float[Tensor, "*items 3 height width_px"]) -> Float[Tensor, "*items 3 height width_px"]:
    """RGB in [0, 1] -> zero mean and unit deviation over CLIP's pictures."""
    mean = pixels.new_tensor(CLIP_MEAN)[:, None, None]
    return (pixels - mean) / pixels.new_tensor(CLIP_STD)[:, None, None]
