"""What the visual tokenizer learns from (LaVIT, section 3.2): the encoder's features, made again from the kept tokens.

    features --selector, merger, head--> kept rows [--codebook--> codes] --feature decoder--> features

Trained in two phases, as its authors advise: first without the codebook, rows brought to unit length going straight to
the decoder; then through it, once it was begun by k-means. Losses, per picture:

    1 - cos(features, reconstruction), mean over patches                                        (equation 4)
    rate_weight * (keep_ratio - share of kept patches)^2, share over all pictures of the batch  (equation 4)
    squared distance of rows to their codes                                                     (commitment)

The share is that of a batch, so that a simple picture may keep little and a rich one much; alone of the three it
depends on how a step is cut into batches.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from limner.modalities.base import LossTerm
from limner.modalities.decoders.feature_decoder import FeatureDecoder
from limner.modalities.quantizers.dynamic import DynamicTokenizer
from limner.modalities.quantizers.selector import gumbel_noise


class Reconstructed(NamedTuple):
    """Loss terms by name, and what the metrics show: which codes were taken (None without the codebook) and which
    patches kept."""

    terms: dict[str, LossTerm]
    rows: Float[Tensor, "tokens code_width"]
    codes: Int[Tensor, " tokens"] | None
    keep: Float[Tensor, "items patches"]


class TokenizerReconstruction(nn.Module):
    """A tokenizer with the decoder that it is trained against. `keep_ratio` is the mean share of patches to keep."""

    def __init__(
        self,
        tokenizer: DynamicTokenizer,
        decoder: FeatureDecoder,
        *,
        keep_ratio: float = 1.0 / 3.0,
        rate_weight: float = 2.0,
    ) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.decoder = decoder
        self.keep_ratio = keep_ratio
        self.rate_weight = rate_weight

    def forward(
        self,
        features: Float[Tensor, "items patches width"],
        *,
        generators: Sequence[torch.Generator],
        quantized: bool,
    ) -> Reconstructed:
        """Losses of the encoder's features of several pictures; the noise of what is kept is each picture's own."""
        tokenizer = self.tokenizer
        noise = gumbel_noise(generators, num_patches=features.shape[1]).to(features)
        keep = tokenizer.keep(features, noise=noise)
        kept = keep.detach() > 0.5
        rows = tokenizer.merged(features, keep)
        unit = F.normalize(tokenizer.head(rows.values).float(), dim=-1)
        found = tokenizer.codebook(unit) if quantized else None
        values = unit if found is None else found.values
        made = self.decoder(values, rows.lengths, weights=keep[kept])
        count = features.new_tensor(float(len(features)))
        distance = (1.0 - F.cosine_similarity(made, features, dim=-1)).mean(dim=1)
        rate = self.rate_weight * (self.keep_ratio - keep.mean()).square()
        terms = {
            "reconstruction": LossTerm(distance.sum(), count, per_item=distance.detach()),
            "rate": LossTerm(rate * count, count),
        }
        if found is not None:
            # Of the rows of a picture the mean: pictures with many rows weigh no more than others.
            owners = torch.arange(len(features), device=features.device).repeat_interleave(rows.lengths)
            share = rows.lengths.clamp(min=1).to(unit)[owners]
            terms["commitment"] = LossTerm((found.distances / share).sum(), count)
        return Reconstructed(terms, unit.detach(), None if found is None else found.codes, keep.detach())

    @torch.no_grad()
    def reconstruct(
        self, features: Float[Tensor, "items patches width"]
    ) -> tuple[Float[Tensor, "items patches width"], Int[Tensor, " items"], Int[Tensor, " tokens"]]:
        """Features made again from codes, how many each picture has, and the codes. Nothing is random."""
        tokenizer = self.tokenizer
        rows = tokenizer.merged(features, tokenizer.keep(features))
        codes = tokenizer.codebook(tokenizer.head(rows.values)).codes
        return self.decoder(tokenizer.codebook.vectors[codes], rows.lengths), rows.lengths, codes
