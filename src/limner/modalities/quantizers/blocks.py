"""Attention and feed-forward of the visual transformers: encoder, merger and feature decoder.

How weights are formed is the caller's: `attend` takes queries, keys and values per head and returns what is mixed.
"""

from collections.abc import Callable

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
