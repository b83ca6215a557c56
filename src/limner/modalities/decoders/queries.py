"""Learned queries: rows placed at an out-span, whose final hidden states condition a decoder."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from limner.modalities.base import Queries


class LearnedQueries(Queries):
    """`num_queries` rows of the LLM's input, shared by all pictures; drawn from N(0, `std`)."""

    def __init__(self, *, num_queries: int, width: int, std: float = 0.02) -> None:
        super().__init__()
        self.num_queries = num_queries
        self.rows = nn.Parameter(torch.randn(num_queries, width) * std)

    def forward(self, num_items: int) -> Float[Tensor, "rows width"]:
        """The rows of `num_items` spans, concatenated."""
        return self.rows.repeat(num_items, 1)
