"""Codes -> picture, without chance: a small decoder that a tokenizer is trained against.

    codes --own copy of the codebook--> vectors --decode--> features of all patches --draw--> pixels

`decode` is a `FeatureDecoder` (codes of any number attend to queries; LaVIT, section 3.2) or a `GridDecoder` (one code
for each patch); products.py has a third way. `draw` paints each patch from its features and those around
it. The copy of the codebook lets it draw without the tokenizer; who trains the codebook calls `adopt`.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from limner.document.document import Media
from limner.modalities.base import Codes, Detokenizer
from limner.modalities.decoders.feature_decoder import FeatureDecoder, PlacedFeatureDecoder
from limner.modalities.guidance import Guidance
from limner.modalities.quantizers.codebook import Codebook
from limner.modalities.quantizers.pictures import squared_pixels


class GridDecoder(nn.Module):
    """One code for each patch -> features of each patch, by itself. `forward` as of `FeatureDecoder`."""

    def __init__(self, *, code_width: int, width: int, num_patches: int) -> None:
        super().__init__()
        self.num_patches = num_patches
        self.input = nn.Linear(code_width, width)
        self.hidden = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(
        self,
        values: Float[Tensor, "tokens code_width"],
        lengths: Int[Tensor, " items"],
        *,
        weights: Float[Tensor, " tokens"] | None = None,
    ) -> Float[Tensor, "items patches width"]:
        """A picture's missing codes are zeros, surplus ones are left out. `weights` are of no use here."""
        places = torch.arange(self.num_patches, device=values.device)
        found = places < lengths[:, None]
        rows = values.new_zeros(len(lengths), self.num_patches, values.shape[-1])
        starts = lengths.cumsum(0) - lengths
        rows[found] = values[(starts[:, None] + places)[found]]
        rows = nn.functional.gelu(self.input(rows))
        return rows + self.hidden(rows)


class PatchPainter(nn.Module):
    """Features of grid x grid patches -> pixels, RGB about [-1, 1], begun at white paper.

    `num_blocks` pairs of convolutions let a patch see those around it; 0 paints each by itself.
    """

    def __init__(self, *, width: int, grid: int, patch_size: int, num_blocks: int = 0) -> None:
        super().__init__()
        self.grid = grid
        self.patch_size = patch_size
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.GroupNorm(8, width),
                nn.Conv2d(width, width, 3, padding=1),
                nn.GELU(),
                nn.Conv2d(width, width, 3, padding=1),
            )
            for _ in range(num_blocks)
        )
        self.output = nn.Linear(width, 3 * patch_size**2)
        nn.init.normal_(self.output.weight, std=0.01)
        nn.init.zeros_(self.output.bias)

    def forward(self, features: Float[Tensor, "items patches width"]) -> Float[Tensor, "items 3 height width_px"]:
        """Not clamped: beyond white is no more than white."""
        # Contiguous: the backward pass of a group norm over transposed maps crashes in torch 2.13.
        maps = features.transpose(1, 2).unflatten(2, (self.grid, self.grid)).contiguous()
        for block in self.blocks:
            maps = maps + block(maps)
        painted = self.output(maps.movedim(1, -1)).movedim(-1, 1)
        return nn.functional.pixel_shuffle(painted, self.patch_size) + 1.0


class PixelDetokenizer(Detokenizer):
    """`decoder` makes features of codes, `painter` makes pixels of features."""

    vectors: Tensor

    def __init__(
        self,
        *,
        decoder: FeatureDecoder | GridDecoder | PlacedFeatureDecoder,
        painter: PatchPainter,
        num_codes: int,
        code_width: int,
    ) -> None:
        super().__init__()
        self.decoder = decoder
        self.painter = painter
        side = painter.grid * painter.patch_size
        self.target_size = (side, side)
        self.register_buffer("vectors", torch.zeros(num_codes, code_width))

    @torch.no_grad()
    def adopt(self, codebook: Codebook) -> None:
        """Take the codebook as it is now."""
        self.vectors.copy_(codebook.vectors)

    def features(
        self,
        values: Float[Tensor, "tokens code_width"],
        lengths: Int[Tensor, " items"],
        *,
        places: Int[Tensor, " tokens"],
        weights: Float[Tensor, " tokens"] | None = None,
    ) -> Float[Tensor, "items patches width"]:
        """Features of all patches from vectors of codes. `places`, the patches that these stand for, are not told to
        the decoder here: it has to read them off the codes."""
        return self.decoder(values, lengths, weights=weights)

    def preprocess(self, media: Media) -> Float[Tensor, "3 height width_px"]:
        """A target picture: RGB in [-1, 1] at `target_size`."""
        return squared_pixels(media, size=self.target_size[0])

    @torch.no_grad()
    def sample(
        self,
        codes: Codes,
        *,
        guidance: Guidance,
        generators: Sequence[torch.Generator],
        num_inference_steps: int,
        sampler: str = "",
        size: tuple[int, int] | None = None,
        on_step: Callable[[int, int, Tensor], None] | None = None,
    ) -> Float[Tensor, "items 3 height width_px"]:
        """Pictures, RGB in [-1, 1]. Guidance, generators and steps have nothing to do."""
        self.check_sampling(sampler=sampler, size=size, num_inference_steps=num_inference_steps)
        return self.painted(codes)

    def painted(self, codes: Codes) -> Float[Tensor, "items 3 height width_px"]:
        """Pictures of codes, RGB in [-1, 1]."""
        features = self.decoder(self.vectors[codes.values], codes.lengths)
        return self.painter(features).clamp(-1.0, 1.0)
