"""Dropped patches merged into the kept ones (LaVIT, section 3.1 and equation 3): what a kept row stands for.

Two paths over the same weights:

exact   dense over all patches. Every weight of attention gets a share of a small constant, also that of a masked key:
        what imported weights were trained with, and what lets the gradient reach the decision to keep a patch.
packed  the kept rows alone, softmax over what they may see: a third of the rows, for weights whose scores are small
        enough that the constant does not matter, which holds for those that were trained here.

Both answer with the kept rows of all pictures, one after the other in the order of the patches.
"""

from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from limner.modalities.base import Features
from limner.modalities.quantizers.blocks import CrossAttention, FeedForward, SelfAttention, initialise

POLICY_EPS = 1e-6


class MergerBlock(nn.Module):
    """Causal attention among kept patches, attention to dropped patches, feed-forward; each behind a norm."""

    def __init__(self, width: int, *, num_heads: int, hidden: int) -> None:
        super().__init__()
        self.norm0 = nn.LayerNorm(width)
        self.causal = SelfAttention(width, num_heads=num_heads)
        self.norm1 = nn.LayerNorm(width)
        self.cross = CrossAttention(width, num_heads=num_heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = FeedForward(width, hidden=hidden)


class TokenMerger(nn.Module):
    """`forward` is the exact path over all patches, `packed` the fast one over the kept ones."""

    def __init__(self, width: int, *, num_layers: int, num_heads: int, hidden: int) -> None:
        super().__init__()
        self.norm_source = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(MergerBlock(width, num_heads=num_heads, hidden=hidden) for _ in range(num_layers))
        self.norm = nn.LayerNorm(width)
        self.apply(initialise)

    def forward(
        self, features: Float[Tensor, "items patches width"], keep: Float[Tensor, "items patches"]
    ) -> Float[Tensor, "items patches width"]:
        """All rows, of which those of kept patches are meant. `keep` holds 1 and 0 and may carry a gradient."""
        num_patches = features.shape[1]
        causal = torch.ones(num_patches, num_patches, dtype=torch.bool, device=features.device).tril()
        itself = torch.eye(num_patches, dtype=torch.bool, device=features.device)
        # A row sees kept rows before it, and itself whatever happens to it.
        to_kept = torch.where(itself, torch.ones_like(keep[:, None, :]), keep[:, None, :]) * causal
        to_dropped = (1.0 - keep)[:, None, :]
        source = self.norm_source(features)
        rows = features
        for block in self.blocks:
            assert isinstance(block, MergerBlock)
            rows = rows + block.causal(block.norm0(rows), partial(policy_attention, allowed=to_kept[:, None]))
            among = partial(policy_attention, allowed=to_dropped[:, None])
            rows = rows + block.cross(block.norm1(rows), source, among)
            rows = rows + block.mlp(block.norm2(rows))
        return self.norm(rows)

    def exact(self, features: Float[Tensor, "items patches width"], keep: Float[Tensor, "items patches"]) -> Features:
        """The kept rows of the dense path."""
        kept = keep.detach() > 0.5
        return Features(self(features, keep)[kept], kept.sum(dim=1))

    def packed(self, features: Float[Tensor, "items patches width"], keep: Float[Tensor, "items patches"]) -> Features:
        """The kept rows, computed alone."""
        kept = keep.detach() > 0.5
        lengths = kept.sum(dim=1)
        if not kept.any():
            return Features(features.new_zeros(0, features.shape[-1]), lengths)
        rows, real = _gathered(features, kept)  # [items, longest, width]
        source, dropped = _gathered(self.norm_source(features), ~kept)
        # A picture that drops nothing sees the mean of all of its patches, as it does on the exact path.
        full = lengths == kept.shape[1]
        mean = features.new_zeros(0)
        if bool(full.any()):
            mean = self.norm_source(features[full])
        causal = torch.ones(rows.shape[1], rows.shape[1], dtype=torch.bool, device=rows.device).tril()
        itself = torch.eye(rows.shape[1], dtype=torch.bool, device=rows.device)
        to_kept = (causal & (real[:, None, :] | itself))[:, None]
        for block in self.blocks:
            assert isinstance(block, MergerBlock)
            among = partial(F.scaled_dot_product_attention, attn_mask=to_kept)
            rows = rows + block.causal(block.norm0(rows), among)
            rows = rows + _from_dropped(block.cross, block.norm1(rows), source, dropped, full=full, mean=mean)
            rows = rows + block.mlp(block.norm2(rows))
        return Features(self.norm(rows[real]), lengths)


class MeanOfShares(nn.Module):
    """A plain grid in place of a merger: each patch of an even selection becomes the mean of its share."""

    def exact(self, features: Float[Tensor, "items patches width"], keep: Float[Tensor, "items patches"]) -> Features:
        """Raises ValueError for a selection that does not divide the grid."""
        counts = (keep.detach() > 0.5).sum(dim=1)
        grid, kept = round(features.shape[1] ** 0.5), round(int(counts[0]) ** 0.5)
        if grid**2 != features.shape[1] or bool((counts != kept**2).any()) or grid % kept:
            raise ValueError(
                f"{counts.tolist()} of {features.shape[1]} patches are kept; expected the same square of each picture, "
                "which divides the grid\nhint: select with EvenSelector"
            )
        maps = features.transpose(1, 2).unflatten(2, (grid, grid))
        means = F.avg_pool2d(maps, grid // kept).flatten(2).transpose(1, 2)
        return Features(means.flatten(0, 1), counts)


def policy_attention(
    queries: Float[Tensor, "items heads rows head"],
    keys: Float[Tensor, "items heads keys head"],
    values: Float[Tensor, "items heads keys head"],
    *,
    allowed: Float[Tensor, "items 1 allowed_rows keys"],
) -> Float[Tensor, "items heads rows head"]:
    """Attention whose weights are multiplied by what is allowed, with `POLICY_EPS` shared among all keys.

    `w_j = (e_j + eps / n) / (sum e + eps)`, `e_j = exp(s_j - max s) allowed_j`, with the maximum over all n keys,
    allowed or not (DynamicViT, Rao et al. 2021, equation 10). `allowed` broadcasts over rows.
    """
    scores = queries @ keys.transpose(-1, -2) * queries.shape[-1] ** -0.5
    shifted = (scores - scores.amax(dim=-1, keepdim=True)).float()
    weights = shifted.exp() * allowed
    weights = (weights + POLICY_EPS / keys.shape[-2]) / (weights.sum(dim=-1, keepdim=True) + POLICY_EPS)
    return weights.to(scores.dtype) @ values


def _gathered(
    rows: Float[Tensor, "items patches width"], chosen: Bool[Tensor, "items patches"]
) -> tuple[Float[Tensor, "items longest width"], Bool[Tensor, "items longest"]]:
    """The chosen rows of each item, moved to its front, and which of them are real; one row at least."""
    counts = chosen.sum(dim=1)
    longest = max(1, int(counts.max()))
    order = (~chosen).to(torch.uint8).sort(dim=1, stable=True).indices[:, :longest]
    gathered = rows.gather(1, order[..., None].expand(-1, -1, rows.shape[-1]))
    return gathered, torch.arange(longest, device=rows.device) < counts[:, None]


def _from_dropped(
    attention: CrossAttention,
    rows: Tensor,
    source: Tensor,
    dropped: Tensor,
    *,
    full: Bool[Tensor, " items"],
    mean: Tensor,
) -> Tensor:
    """Attention to dropped patches; pictures without any get the mean of all values."""
    seen = dropped | full[:, None]  # a row of softmax needs something to see; what it gives is replaced below
    among = partial(F.scaled_dot_product_attention, attn_mask=seen[:, None, None, :])
    found = attention(rows, source, among)
    if not mean.numel():
        return found
    uniform = attention.proj(attention.value(mean).mean(dim=1, keepdim=True))
    replaced = found.clone()
    replaced[full] = uniform.expand(-1, rows.shape[1], -1)
    return replaced
