"""Only what is drawn is said: a code for the place of a patch, then one for its look; blank patches are left out.

    picture --GridTokenizer--> a look for each patch --blank ones left out--> place, look, place, look, ...

A grid of looks says where something is by how many codes stand before it, which a small language model learns late;
here it is told. So the number of codes is the picture's own (0 to two for each patch), and the same look has the same
code wherever it stands. Weights are those of a `GridTokenizer` and a `PixelDetokenizer`, under the same names.
"""

from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from limner.modalities.base import Codes
from limner.modalities.quantizers.detokenizer import PixelDetokenizer
from limner.modalities.quantizers.visual_tokenizer import GridTokenizer


class PlacedTokenizer(GridTokenizer):
    """Codes of the patches that are not blank paper, whose level (of all three colours, in [-1, 1]) is `paper`. Codes
    from `num_looks` on are places, in raster order."""

    def __init__(self, *, paper: float = 1.0, **options: Any) -> None:
        super().__init__(**options)
        self.paper = paper
        self.num_looks = self.num_codes
        self.num_codes = self.num_looks + self.num_patches
        self.max_length = 2 * self.num_patches

    @torch.no_grad()
    def forward(self, items: Float[Tensor, "items 3 height width_px"]) -> Codes:
        """Place and look of each patch that does not look like a blank one."""
        with_blank = torch.cat([torch.full_like(items[:1], self.paper), items])
        blanks, looks = super().forward(with_blank).values.view(-1, self.num_patches).split([1, len(items)])
        places = torch.arange(self.num_patches, device=items.device).expand_as(looks) + self.num_looks
        pairs = torch.stack([places, looks], dim=-1)
        found = [row[kept].flatten().tolist() for row, kept in zip(pairs, looks != blanks[0, 0], strict=True)]
        return Codes.of(found, device=items.device)


class PlacedDetokenizer(PixelDetokenizer):
    """Patches at their places on paper of the level `paper`. What is said of no place, or of no look, is not drawn."""

    def __init__(self, *, paper: float = 1.0, **options: Any) -> None:
        super().__init__(**options)
        self.paper = paper

    def painted(self, codes: Codes) -> Float[Tensor, "items 3 height width_px"]:
        """Pictures of codes, RGB in [-1, 1]."""
        num_looks, grid, edge = len(self.vectors), self.painter.grid, self.painter.patch_size
        looks = torch.zeros(len(codes.lengths), grid * grid, dtype=torch.long)
        drawn = torch.zeros(len(codes.lengths), grid * grid, dtype=torch.bool)
        for number, item in enumerate(codes.items()):
            for place, look in pairwise(item):
                if place >= num_looks > look:
                    looks[number, place - num_looks], drawn[number, place - num_looks] = look, True
        pixels = super().painted(Codes.of(looks.tolist(), device=codes.values.device))
        shown = drawn.view(-1, 1, grid, grid).repeat_interleave(edge, dim=2).repeat_interleave(edge, dim=3)
        return torch.where(shown.to(pixels.device), pixels, self.paper)
