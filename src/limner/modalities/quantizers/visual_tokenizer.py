"""Quantizers of pictures: what a language model spells a picture in, and what a stage of its own trains.

    pixels --encode--> features --rows--> rows of unit length, as many as the picture has codes --codebook--> codes

`encode` is the half that stands still while the tokenizer learns, so its results are kept; `rows` is what learns. Two
ways: `VisualTokenizer` keeps as many patches as the picture needs (LaVIT, section 3.1), `GridTokenizer` takes every
patch by itself, for tiny pictures that are learned from nothing.

Codes never change from call to call: what is kept is drawn only while the tokenizer learns.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from limner.document.document import Media
from limner.modalities.base import Codes, Encoder, Quantizer
from limner.modalities.quantizers.blocks import grid_places, initialise
from limner.modalities.quantizers.codebook import Codebook
from limner.modalities.quantizers.merger import MeanOfShares, TokenMerger
from limner.modalities.quantizers.pictures import squared_pixels
from limner.modalities.quantizers.selector import DROP, KEEP, EvenSelector, TokenSelector, gumbel_noise, keep_mask


class TokenRows(NamedTuple):
    """What is quantised: rows of unit length of several pictures, patches of a picture in raster order.

    keep: 1 for patches that have a row, 0 for others, with the gradient of the decision.
    """

    values: Float[Tensor, "tokens code_width"]
    lengths: Int[Tensor, " items"]
    keep: Float[Tensor, "items patches"]

    @property
    def places(self) -> Int[Tensor, " tokens"]:
        """The patch that each row stands for, in raster order."""
        return (self.keep.detach() > 0.5).nonzero()[:, 1]


class PictureQuantizer(Quantizer):
    """A quantizer over a `Codebook`. Subclasses give `preprocess`, `encode` and `rows`."""

    def __init__(self, *, codebook: Codebook, num_patches: int) -> None:
        super().__init__()
        self.codebook = codebook
        self.num_codes = codebook.num_codes
        self.num_patches = num_patches
        self.max_length = num_patches

    @property
    def features_signature(self) -> str:
        """What `encode` depends on besides its items, or "" where that cannot be said in words."""
        return ""

    @abstractmethod
    def encode(self, items: Float[Tensor, "items 3 height width_px"]) -> Float[Tensor, "items *features"]:
        """What `rows` takes. Nothing in it is trained or random."""

    @abstractmethod
    def rows(
        self, features: Float[Tensor, "items *features"], *, generators: Sequence[torch.Generator] | None = None
    ) -> TokenRows:
        """Rows to quantise, at least one of each picture. With a generator per picture what is kept is drawn, as in
        training; without, nothing is random."""

    def calibrate(self, features: Float[Tensor, "items *features"], *, keep_ratio: float) -> None:
        """Measure on features of many pictures what is to be kept, so that it is a share `keep_ratio` of their patches.
        Here nothing is chosen."""

    @torch.no_grad()
    def forward(self, items: Float[Tensor, "items 3 height width_px"]) -> Codes:
        """Codes of preprocessed pictures."""
        rows = self.rows(self.encode(items))
        return Codes(self.codebook(rows.values).codes, rows.lengths)


class VisualTokenizer(PictureQuantizer):
    """Frozen encoder, selector, merger, codebook: 1 to the number of patches codes, as the picture needs. A `selector`
    is given where none is to be learned.

    Between the encoder and what learns lie a norm, a linear layer to `width` and learned positions: features come in
    all sizes, and where a dropped patch stood must be told by the codes of those that are kept.

    The merger's exact path is taken: the selector learns through it alone.
    """

    threshold: Tensor

    def __init__(
        self,
        encoder: Encoder,
        *,
        num_patches: int,
        width: int,
        merger: TokenMerger | MeanOfShares,
        codebook: Codebook,
        selector: EvenSelector | None = None,
    ) -> None:
        super().__init__(codebook=codebook, num_patches=num_patches)
        self.encoder = encoder.requires_grad_(False)
        self.norm = nn.LayerNorm(encoder.width)
        self.input = nn.Linear(encoder.width, width)
        self.positions = nn.Parameter(grid_places(num_patches, width))
        self.selector = selector or TokenSelector(width)
        self.merger = merger
        self.head = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, codebook.vectors.shape[1]))
        self.head.apply(initialise)
        self.register_buffer("threshold", torch.zeros(()))

    @torch.no_grad()
    def calibrate(self, features: Float[Tensor, "items patches width"], *, keep_ratio: float) -> None:
        """Measure the log-odds above which that share of the patches lies: what is kept from now on.

        A selector that was trained on draws keeps its share on average, but seldom with odds above one.
        """
        if isinstance(self.selector, EvenSelector):
            return
        odds = self.odds(features).flatten()
        number = max(1, round(keep_ratio * len(odds)))
        self.threshold.copy_(odds.topk(number).values[-1])

    def odds(self, features: Float[Tensor, "items patches width"]) -> Float[Tensor, "items patches"]:
        """Log-odds of keeping each patch, with a gradient for the selector alone."""
        with torch.no_grad():
            patches = self._patches(features)
        scores = self.selector(patches)
        return scores[..., KEEP] - scores[..., DROP]

    @property
    def features_signature(self) -> str:
        """That of the encoder."""
        return self.encoder.signature

    def preprocess(self, media: Media) -> Tensor:
        """As the encoder wants it."""
        return self.encoder.preprocess(media)

    @torch.no_grad()
    def encode(self, items: Float[Tensor, "items 3 height width_px"]) -> Float[Tensor, "items patches width"]:
        """What the frozen encoder sees, in float32. Raises ValueError where that is not a row per patch."""
        found = self.encoder(items)
        if any(length != self.num_patches for length in found.lengths.tolist()):
            raise ValueError(
                f"the encoder gives {found.lengths.tolist()} rows per picture; expected {self.num_patches}\n"
                "hint: set num_patches to what the encoder gives"
            )
        return found.values.float().unflatten(0, (len(items), -1))

    def rows(
        self,
        features: Float[Tensor, "items patches width"],
        *,
        generators: Sequence[torch.Generator] | None = None,
        keep: Float[Tensor, "items patches"] | None = None,
    ) -> TokenRows:
        """Select, merge, bring to unit length. `keep` (1 and 0, at least one patch of each picture) is what to keep
        where that was chosen before."""
        patches = self._patches(features)
        if keep is None:
            keep = self._keep(self.selector(patches), generators=generators)
        rows = self.merger.exact(patches, keep)
        return TokenRows(F.normalize(self.head(rows.values).float(), dim=-1), rows.lengths, keep)

    def _patches(self, features: Float[Tensor, "items patches width"]) -> Float[Tensor, "items patches inner"]:
        return self.input(self.norm(features)) + self.positions

    def _keep(
        self, scores: Float[Tensor, "items patches 2"], *, generators: Sequence[torch.Generator] | None
    ) -> Float[Tensor, "items patches"]:
        """Which patches are kept; of a picture that would have none, the one most likely to be."""
        shift = torch.stack([-self.threshold, torch.zeros_like(self.threshold)])  # to keep, to drop
        scores = scores + shift
        noise = None
        if generators is not None:
            noise = gumbel_noise(generators, num_patches=self.num_patches).to(scores)
        keep = keep_mask(scores, noise=noise)
        none = (keep.detach().sum(dim=1, keepdim=True) < 0.5).to(keep)
        most_likely = F.one_hot(scores[..., KEEP].argmax(dim=1), self.num_patches).to(keep)
        return keep + none * most_likely


class GridTokenizer(PictureQuantizer):
    """One code per patch, from its pixels and nothing around it: same pixels, same code, wherever they stand.

    No normalisation stands between pixels and layers: absolute colours are what is asked for. `size` and `patch_size`
    in pixels; `pixel_width` channels for each 2 x 2 pixels.
    """

    def __init__(
        self, *, codebook: Codebook, size: int = 48, patch_size: int = 16, width: int = 128, pixel_width: int = 32
    ) -> None:
        if size % patch_size or patch_size % 2:
            raise ValueError(
                f"size is {size}; expected a multiple of patch_size, {patch_size}, an even number\n"
                "hint: change size or patch_size"
            )
        super().__init__(codebook=codebook, num_patches=(size // patch_size) ** 2)
        self.size = size
        self.patch_size = patch_size
        self.pixels = nn.Linear(12, pixel_width)
        self.patches = nn.Linear(pixel_width * (patch_size // 2) ** 2, width)
        self.mix = nn.Linear(width, width)
        self.head = nn.Linear(width, codebook.vectors.shape[1])

    def preprocess(self, media: Media) -> Float[Tensor, "3 height width_px"]:
        """RGB in [-1, 1] at (size, size)."""
        return squared_pixels(media, size=self.size)

    def encode(self, items: Float[Tensor, "items 3 height width_px"]) -> Float[Tensor, "items 3 height width_px"]:
        """The pixels: everything after them learns."""
        return items

    def rows(
        self, features: Float[Tensor, "items 3 height width_px"], *, generators: Sequence[torch.Generator] | None = None
    ) -> TokenRows:
        """A row for each patch."""
        # White paper is zero: what is drawn stands out from the first step.
        blocks = F.pixel_unshuffle(features - 1.0, 2)  # [items, 12, height / 2, width_px / 2]
        colored = F.gelu(self.pixels(blocks.movedim(1, -1)))
        edge, grid = self.patch_size // 2, self.size // self.patch_size
        patches = colored.unflatten(1, (grid, edge)).unflatten(3, (grid, edge)).transpose(2, 3).flatten(3)
        rows = self.head(torch.tanh(self.mix(F.gelu(self.patches(patches.flatten(1, 2))))))
        keep = features.new_ones(len(features), self.num_patches)
        lengths = torch.full((len(features),), self.num_patches, device=features.device)
        return TokenRows(F.normalize(rows.flatten(0, 1).float(), dim=-1), lengths, keep)
