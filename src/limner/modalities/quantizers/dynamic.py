"""Pictures as tokens of dynamic number (LaVIT, section 3.1).

    pixels --frozen encoder--> patch features --selector--> keep or drop --merger--> kept rows --head--> nearest codes

A picture's number of tokens is known only after this has run: so it runs before anything is rendered. What is kept is
decided without randomness unless noise is given.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from limner.modalities.base import Encoder, Features
from limner.modalities.quantizers.blocks import initialise
from limner.modalities.quantizers.codebook import Codebook
from limner.modalities.quantizers.merger import TokenMerger
from limner.modalities.quantizers.selector import TokenSelector, keep_mask

MergerPath = Callable[[TokenMerger, Tensor, Tensor], Features]
"""How kept rows are computed: `TokenMerger.exact` or `TokenMerger.packed`."""


class PictureTokens(NamedTuple):
    """Tokens of several pictures, concatenated in picture order, patches of a picture in raster order."""

    codes: Int[Tensor, " tokens"]
    values: Float[Tensor, "tokens code_width"]
    lengths: Int[Tensor, " items"]
    keep: Float[Tensor, "items patches"]


class DynamicTokenizer(nn.Module):
    """`path` is the merger's: exact for imported weights, packed for those whose scores are small enough.

    The encoder may be any that gives every picture the same number of rows; it is frozen.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        merger: TokenMerger,
        codebook: Codebook,
        path: MergerPath = TokenMerger.exact,
    ) -> None:
        super().__init__()
        width = encoder.width
        self.path = path
        self.encoder = encoder.requires_grad_(False)
        self.selector = TokenSelector(width)
        self.merger = merger
        self.head = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, codebook.vectors.shape[1]))
        self.head.apply(initialise)
        self.codebook = codebook

    @torch.no_grad()
    def features(self, pixels: Float[Tensor, "items 3 height width_px"]) -> Float[Tensor, "items patches width"]:
        """What the frozen encoder sees, in float32."""
        return self.encoder(pixels).values.float().unflatten(0, (len(pixels), -1))

    def keep(
        self, features: Float[Tensor, "items patches width"], *, noise: Float[Tensor, "items patches 2"] | None = None
    ) -> Float[Tensor, "items patches"]:
        """Which patches are kept."""
        return keep_mask(self.selector(features), noise=noise)

    def merged(self, features: Float[Tensor, "items patches width"], keep: Float[Tensor, "items patches"]) -> Features:
        """The kept rows."""
        return self.path(self.merger, features, keep)

    @torch.no_grad()
    def forward(
        self,
        pixels: Float[Tensor, "items 3 height width_px"],
        *,
        noise: Float[Tensor, "items patches 2"] | None = None,
    ) -> PictureTokens:
        """Codes of pictures, 0 to the number of patches of each."""
        features = self.features(pixels)
        keep = self.keep(features, noise=noise)
        rows = self.merged(features, keep)
        found = self.codebook(self.head(rows.values))
        return PictureTokens(found.codes, self.codebook.vectors[found.codes], rows.lengths, keep)
