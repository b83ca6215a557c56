"""One code for the place and the look of a patch: a product codebook, `place * num_looks + look`.

    picture --VisualTokenizer--> kept patches, a look for each --their places--> codes
    codes --looks and places--> PlacedFeatureDecoder --> features of all patches

Where patches are kept as a picture needs them, a code has to tell where it stands. A codebook of looks alone would
have to hold every look once for each place; here it holds looks only, and the place costs a picture no further code.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limner.modalities.base import Codes
from limner.modalities.decoders.feature_decoder import PlacedFeatureDecoder
from limner.modalities.quantizers.detokenizer import PixelDetokenizer
from limner.modalities.quantizers.visual_tokenizer import VisualTokenizer


class ProductTokenizer(VisualTokenizer):
    """As many codes as a picture needs, each of a place and a look; `codebook` is that of the looks."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.num_looks = self.codebook.num_codes
        self.num_codes = self.num_patches * self.num_looks

    @torch.no_grad()
    def forward(self, items: Float[Tensor, "items 3 height width_px"]) -> Codes:
        """Codes of preprocessed pictures."""
        rows = self.rows(self.encode(items))
        return Codes(rows.places * self.num_looks + self.codebook(rows.values).codes, rows.lengths)


class ProductDetokenizer(PixelDetokenizer):
    """Looks put at their places; `num_codes` is the number of looks, `decoder` a `PlacedFeatureDecoder`."""

    def __init__(self, *, decoder: PlacedFeatureDecoder, **options: Any) -> None:
        super().__init__(decoder=decoder, **options)

    def features(
        self,
        values: Float[Tensor, "tokens code_width"],
        lengths: Int[Tensor, " items"],
        *,
        places: Int[Tensor, " tokens"],
        weights: Float[Tensor, " tokens"] | None = None,
    ) -> Float[Tensor, "items patches width"]:
        """Features of all patches from vectors of looks and their places."""
        return self.decoder(values, lengths, places=places, weights=weights)

    def painted(self, codes: Codes) -> Float[Tensor, "items 3 height width_px"]:
        """Pictures of codes, RGB in [-1, 1]. Of a place that is said more than once the last look counts."""
        last = [{code // len(self.vectors): code for code in item} for item in codes.items()]
        found = Codes.of([tuple(item.values()) for item in last], device=codes.values.device)
        looks, places = found.values % len(self.vectors), found.values // len(self.vectors)
        return self.painter(self.features(self.vectors[looks], found.lengths, places=places)).clamp(-1.0, 1.0)
