"""Attention and feed-forward of the visual transformers: encoder, merger and feature decoder.

How weights are formed is the caller's: `attend` takes queries, keys and values per head and returns what is mixed.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(queries [items, heads, rows, head], keys, values [items, heads, keys, head]) -> [items, heads, rows, head]."""


def attend_to_all(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Softmax over all keys, scores over the square root of the head's width."""
    return F.scaled_dot_product_attention(queries, keys, values)


class SelfAttention(nn.Module):
    """Multi-head attention of rows to rows, with one fused projection."""

    def __init__(self, width: int, *, num_heads: int) -> None:
        super().__init__()
        self.num_heads = _checked(num_heads, width=width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, rows: Float[Tensor, "items rows width"], attend: Attend) -> Float[Tensor, "items rows width"]:
        """Project, mix by `attend`, project back."""
        queries, keys, values = (_split(part, self.num_heads) for part in self.qkv(rows).chunk(3, dim=-1))
        return self.proj(_merge(attend(queries, keys, values)))


class CrossAttention(nn.Module):
    """Multi-head attention of rows to other rows."""

    def __init__(self, width: int, *, num_heads: int) -> None:
        super().__init__()
        self.num_heads = _checked(num_heads, width=width)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.proj = nn.Linear(width, width)

    def forward(
        self, rows: Float[Tensor, "items rows width"], source: Float[Tensor, "items keys width"], attend: Attend
    ) -> Float[Tensor, "items rows width"]:
        """Project, mix by `attend`, project back."""
        queries = _split(self.query(rows), self.num_heads)
        keys, values = _split(self.key(source), self.num_heads), _split(self.value(source), self.num_heads)
        return self.proj(_merge(attend(queries, keys, values)))


class FeedForward(nn.Module):
    """Linear, GELU (erf), Linear."""

    def __init__(self, width: int, *, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, rows: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows width"]:
        """Each row by itself."""
        return self.fc2(F.gelu(self.fc1(rows)))


def grid_places(num_patches: int, width: int) -> Float[Tensor, "patches width"]:
    """Where patches of a square grid stand, in sines and cosines of row and column, each number of order one: places
    near to each other are alike from the start. For what is no square, noise."""
    grid = round(num_patches**0.5)
    noise = torch.randn(num_patches, width)
    if grid**2 != num_patches or width < 8:
        return noise
    frequencies = torch.arange(1, width // 8 + 1) * (torch.pi / 2.0)
    angles = torch.arange(grid)[:, None] / grid * frequencies
    waves = torch.cat([angles.sin(), angles.cos()], dim=-1) * 2.0**0.5  # [grid, width / 4]
    rows, columns = waves[:, None].expand(-1, grid, -1), waves[None].expand(grid, -1, -1)
    places = torch.cat([rows, columns], dim=-1).flatten(0, 1)
    return F.pad(places, (0, width - places.shape[1])) + 0.1 * noise


def initialise(module: nn.Module) -> None:
    """Truncated normal of deviation 0.02 for weights, 0 for biases: what the ViT family starts from."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


def _split(rows: Tensor, num_heads: int) -> Tensor:
    return rows.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def _merge(heads: Tensor) -> Tensor:
    return heads.transpose(1, 2).flatten(2)


def _checked(num_heads: int, *, width: int) -> int:
    if width % num_heads:
        raise ValueError(f"width {width} and num_heads {num_heads}; expected a multiple\nhint: change num_heads")
    return num_heads
