"""Codes -> features of a picture (LaVIT, section 3.2): as many learned queries as the picture has patches attend to its
codes. What leaves is what the frozen encoder saw, from which a diffusion model draws; heads bring it to the widths that
a UNet wants. `PlacedFeatureDecoder` is told the patch of each code and starts from there.
"""

from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from limner.modalities.quantizers.blocks import (
    Attend,
    CrossAttention,
    FeedForward,
    SelfAttention,
    attend_to_all,
    grid_places,
    initialise,
)

PADDING_SCORE = -10000.0
"""What is added to the score of a padded code. Finite: a picture without codes sees its padding evenly, not nothing."""


class FeatureBlock(nn.Module):
    """Attention among queries, attention to codes, feed-forward; each behind a norm."""

    def __init__(self, width: int, *, num_heads: int, hidden: int) -> None:
        super().__init__()
        self.norm0 = nn.LayerNorm(width)
        self.self_attn = SelfAttention(width, num_heads=num_heads)
        self.norm1 = nn.LayerNorm(width)
        self.cross_attn = CrossAttention(width, num_heads=num_heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = FeedForward(width, hidden=hidden)

    def forward(self, queries: Tensor, codes: Tensor, to_codes: Attend) -> Float[Tensor, "items patches width"]:
        """One block. The codes are not normed."""
        queries = queries + self.self_attn(self.norm0(queries), attend_to_all)
        queries = queries + self.cross_attn(self.norm1(queries), codes, to_codes)
        return queries + self.mlp(self.norm2(queries))


class FeatureDecoder(nn.Module):
    """Vectors of codes, as many as each picture has, -> features of all patches."""

    def __init__(
        self,
        *,
        code_width: int,
        width: int,
        num_patches: int,
        num_layers: int,
        num_heads: int,
        hidden: int,
        width_out: int,
    ) -> None:
        super().__init__()
        self.in_proj = nn.Linear(code_width, width)
        self.positions = nn.Parameter(torch.zeros(1, num_patches, width))
        self.queries = nn.Parameter(torch.zeros(1, num_patches, width))
        self.blocks = nn.ModuleList(FeatureBlock(width, num_heads=num_heads, hidden=hidden) for _ in range(num_layers))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width_out))
        self.apply(initialise)
        # Codes are of unit length and not normed, their places are told by nothing else: smaller, attention would begin
        # as good as blind to both.
        nn.init.normal_(self.in_proj.weight)
        nn.init.normal_(self.positions)
        # Alike, queries would stay alike; large, they would hide what they gather.
        with torch.no_grad():
            self.queries.copy_(0.02 * grid_places(num_patches, width))

    def forward(
        self,
        values: Float[Tensor, "tokens code_width"],
        lengths: Int[Tensor, " items"],
        *,
        weights: Float[Tensor, " tokens"] | None = None,
    ) -> Float[Tensor, "items patches width"]:
        """`lengths` says how many of the concatenated `values` each picture has: 0 to the number of patches.

        A code's position is its place among the picture's codes. `weights` (1 for each code, with the gradient of
        having kept it) multiply what is attended to: the decision to keep a patch learns from the reconstruction.
        Raises ValueError for more codes than patches.
        """
        longest = int(lengths.max())
        if longest > self.positions.shape[1]:
            raise ValueError(
                f"{longest} codes for one picture; expected at most {self.positions.shape[1]}\n"
                "hint: stop the language model earlier, or cut the codes"
            )
        real = torch.arange(longest, device=values.device) < lengths[:, None]
        codes = values.new_zeros(len(lengths), longest, self.positions.shape[-1])
        codes = codes.masked_scatter(real[..., None], self.in_proj(values)) + self.positions[:, :longest]
        bias = torch.zeros_like(real, dtype=values.dtype).masked_fill(~real, PADDING_SCORE)
        if weights is not None:
            bias = bias + torch.zeros_like(bias).masked_scatter(real, weights.clamp(min=1e-6).log())
        to_codes = partial(F.scaled_dot_product_attention, attn_mask=bias[:, None, None, :])
        rows = self.queries.expand(len(lengths), -1, -1)
        for block in self.blocks:
            rows = block(rows, codes, to_codes)
        return self.out(self.norm(rows))


class PlacedBlock(nn.Module):
    """Attention among patches, feed-forward; each behind a norm."""

    def __init__(self, width: int, *, num_heads: int, hidden: int) -> None:
        super().__init__()
        self.norm0 = nn.LayerNorm(width)
        self.self_attn = SelfAttention(width, num_heads=num_heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = FeedForward(width, hidden=hidden)

    def forward(self, rows: Float[Tensor, "items patches width"]) -> Float[Tensor, "items patches width"]:
        """One block."""
        rows = rows + self.self_attn(self.norm0(rows), attend_to_all)
        return rows + self.mlp(self.norm2(rows))


class PlacedFeatureDecoder(nn.Module):
    """Vectors of codes that stand for known patches -> features of all patches: each is put where it stands, patches
    without one are told from those that have one (the decoder of a masked autoencoder; He et al. 2022)."""

    def __init__(
        self,
        *,
        code_width: int,
        width: int,
        num_patches: int,
        num_layers: int,
        num_heads: int,
        hidden: int,
        width_out: int,
    ) -> None:
        super().__init__()
        self.num_patches = num_patches
        self.in_proj = nn.Linear(code_width, width)
        self.blocks = nn.ModuleList(PlacedBlock(width, num_heads=num_heads, hidden=hidden) for _ in range(num_layers))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width_out))
        self.apply(initialise)
        # Codes are of unit length and not normed: smaller, they would begin as good as invisible.
        nn.init.normal_(self.in_proj.weight)
        self.positions = nn.Parameter(0.5 * grid_places(num_patches, width))

    def forward(
        self,
        values: Float[Tensor, "tokens code_width"],
        lengths: Int[Tensor, " items"],
        *,
        places: Int[Tensor, " tokens"],
        weights: Float[Tensor, " tokens"] | None = None,
    ) -> Float[Tensor, "items patches width"]:
        """`lengths` and `weights` as of `FeatureDecoder`; `places` are patches in raster order, each at most once in a
        picture."""
        rows = self.in_proj(values)
        if weights is not None:
            rows = rows * weights[:, None]
        owners = torch.arange(len(lengths), device=values.device).repeat_interleave(lengths)
        flat = rows.new_zeros(len(lengths) * self.num_patches, rows.shape[-1])
        patches = flat.index_copy(0, owners * self.num_patches + places, rows)
        patches = patches.unflatten(0, (len(lengths), self.num_patches)) + self.positions
        for block in self.blocks:
            patches = block(patches)
        return self.out(self.norm(patches))


class AttentionPool(nn.Module):
    """One row that attends to all (the pooling of CLIP's ResNets; Radford et al. 2021, section 2.4)."""

    def __init__(self, width: int, *, num_rows: int, num_heads: int, width_out: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.positions = nn.Parameter(torch.randn(num_rows + 1, width) * width**-0.5)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width_out)

    def forward(self, rows: Float[Tensor, "items rows width"]) -> Float[Tensor, "items width_out"]:
        """The mean row, with what it attends to among all rows and itself."""
        rows = torch.cat([rows.mean(dim=1, keepdim=True), rows], dim=1) + self.positions
        query, key, value = self.query(rows[:, :1]), self.key(rows), self.value(rows)
        heads = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in (query, key, value))
        return self.out(F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(1))
