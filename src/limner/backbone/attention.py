"""Attention masks, made by us and handed to transformers as finished 4D tensors.

Additive (0 where a query may look, the dtype's minimum elsewhere), because every attention implementation takes that
form. A query always sees itself, so no row of the softmax is empty, not even in padding.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def packed_causal_mask(documents: Int[Tensor, "batch seq"], *, dtype: torch.dtype) -> Float[Tensor, "batch 1 seq seq"]:
    """Causal attention within each document of a packed row; padding (document 0) sees only itself."""
    seq = documents.shape[1]
    same = documents[:, :, None] == documents[:, None, :]
    causal = torch.ones(seq, seq, dtype=torch.bool, device=documents.device).tril()
    itself = torch.eye(seq, dtype=torch.bool, device=documents.device)
    return _additive((same & causal & (documents[:, None, :] > 0)) | itself, dtype=dtype)


def cached_causal_mask(
    lengths: Int[Tensor, " batch"], *, num_new: int, num_keys: int, dtype: torch.dtype
) -> Float[Tensor, "batch 1 seq keys"]:
    """`num_new` queries per row, standing after `lengths` cached tokens, over `num_keys` key slots."""
    queries = lengths[:, None] + torch.arange(num_new, device=lengths.device)[None, :]
    keys = torch.arange(num_keys, device=lengths.device)
    return _additive(keys[None, None, :] <= queries[:, :, None], dtype=dtype)


def _additive(allowed: Bool[Tensor, "batch seq keys"], *, dtype: torch.dtype) -> Tensor:
    mask = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    return mask.masked_fill(~allowed, torch.finfo(dtype).min)[:, None]
