"""Attention of packed rows, in the two forms that transformers models take from us.

*Segments*: documents laid end to end without their padding, attended one by one. Nothing that is masked is computed or
stored, and padding never enters the language model at all. Bounds travel in the place of the attention mask, the one
channel that every family hands down to its attention (through activation checkpointing too), as an integer tensor;
`attend` tells it from a mask by its type. On CPU one causal call of torch's attention per document, on GPUs the
variable-length flash kernel in half precision.

*Masks*: finished additive 4D tensors (0 where a query may look, the dtype's minimum elsewhere), because every attention
implementation takes that form. A query always sees itself, so no row of the softmax is empty, not even in padding. The
KV cache works with these, and families whose attention is more than softmax(queries keys) values.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

NAME = "limner"
"""Under this name transformers knows `attend`."""


@dataclass(frozen=True)
class Segments:
    """Where the documents of packed rows stand once their padding is left out.

    slots:   flat positions row * seq + column that hold a token, in order.
    bounds:  first token of every document among `slots`, and behind the last one their number.
    longest: tokens of the longest document.
    """

    slots: Int[Tensor, " tokens"]
    bounds: Int[Tensor, " bounds"]
    longest: int

    @staticmethod
    def of(documents: Int[Tensor, "batch seq"]) -> "Segments":
        """Segments of rows in which a document's positions are neighbours; 0 is padding."""
        slots = torch.nonzero(documents.flatten() > 0).flatten()
        return Segments.among(slots, numbers=numbered(documents))

    @staticmethod
    def among(slots: Int[Tensor, " tokens"], *, numbers: Int[Tensor, " positions"]) -> "Segments":
        """Segments of some flat positions, in order; `numbers` says to which document each position belongs."""
        numbers = numbers[slots]
        first = torch.ones_like(numbers, dtype=torch.bool)
        first[1:] = numbers[1:] != numbers[:-1]
        starts = torch.nonzero(first).flatten()
        bounds = torch.cat([starts, starts.new_tensor([len(slots)])]).int()
        longest = int(bounds.diff().max()) if len(slots) else 0
        return Segments(slots, bounds, longest)

    def as_mask(self) -> Int[Tensor, "1 1 longest bounds"]:
        """What stands in for the attention mask. Expanded, not stored: its shape tells `longest` without a wait."""
        return self.bounds.expand(1, 1, self.longest, -1)


def numbered(documents: Int[Tensor, "batch seq"]) -> Int[Tensor, " positions"]:
    """A number for the document of every flat position; the same number in another row is another document."""
    batch, seq = documents.shape
    return (documents + torch.arange(batch, device=documents.device)[:, None] * (seq + 1)).flatten()


def rest_mask(queries: Segments, keys: Segments) -> Int[Tensor, "1 2 longest bounds"]:
    """What stands in for the attention mask where `queries` are the ends of `keys`, document by document."""
    bounds = torch.stack([queries.bounds, keys.bounds])
    return bounds[None, :, None].expand(1, 2, keys.longest, -1)


def serve_segments(language_model: Any) -> bool:
    """Let a transformers model attend by segments; False (and unchanged) where its family cannot.

    This is the one place that decides. A family declares what its attention needs: one that goes through transformers'
    attention interface and runs on torch's own attention function by default computes softmax(queries keys) values and
    no more. Capped scores, sinks and learned position biases are kept from it by transformers itself.
    """
    config = language_model.config.get_text_config()
    capped = getattr(config, "attn_logit_softcapping", None) is not None
    plain = language_model.config._attn_implementation in ("sdpa", NAME) and not capped
    if not plain or not language_model._supports_attention_backend:
        return False
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, attend)
    # Whoever calls the language model by itself, without our masks, gets those of torch's attention.
    AttentionMaskInterface.register(NAME, sdpa_mask)
    language_model.set_attn_implementation(NAME)
    return True


def attend(
    module: nn.Module,
    query: Float[Tensor, "batch heads seq width"],
    key: Float[Tensor, "batch key_heads keys width"],
    value: Float[Tensor, "batch key_heads keys value_width"],
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention function: by segments where the mask is their bounds, else torch's with the mask.

    Returns [batch seq heads value_width], and no weights.
    """
    if attention_mask is None or attention_mask.is_floating_point() or attention_mask.dtype == torch.bool:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    # Bounds of the queries and of the keys, which are the same but for rests behind their beginnings.
    bounds, key_bounds, longest = attention_mask[0, 0, 0], attention_mask[0, -1, 0], attention_mask.shape[2]
    half = _half_precision(query)
    if half is not None and dropout == 0.0 and (kernel := _varlen_kernel()) is not None:
        query, key, value = (states[0].transpose(0, 1).to(half) for states in (query, key, value))
        output = kernel(
            query, key, value, bounds, key_bounds, longest, longest, scale=scaling, window_size=(-1, 0), enable_gqa=True
        )
        return output[None], None
    lengths, key_lengths = bounds.diff().tolist(), key_bounds.diff().tolist()
    splits = query.split(lengths, dim=2), key.split(key_lengths, dim=2), value.split(key_lengths, dim=2)
    outputs = [
        F.scaled_dot_product_attention(
            *states, dropout_p=dropout, scale=scaling, enable_gqa=True, **_causal(states[0], keys=states[1])
        )
        for states in zip(*splits, strict=True)
    ]
    return torch.cat(outputs, dim=2).transpose(1, 2), None


def _causal(query: Tensor, *, keys: Tensor) -> dict[str, Any]:
    """How torch's attention is told that the queries are the last of the keys."""
    seq, num_keys = query.shape[2], keys.shape[2]
    if seq == num_keys:
        return {"is_causal": True}
    seen = torch.ones(seq, num_keys, dtype=torch.bool, device=query.device)
    return {"attn_mask": seen.tril(num_keys - seq)}


def _half_precision(states: Tensor) -> torch.dtype | None:
    """The half-precision type in which a GPU attends to `states`, None on CPU and in float32."""
    if not states.is_cuda:
        return None
    # Rotary embeddings leave float32 under autocast, which does not know the kernel.
    dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else states.dtype
    return dtype if dtype in (torch.bfloat16, torch.float16) else None


def _varlen_kernel() -> Any:
    """torch's variable-length flash attention, None where torch is older or the device is."""
    if torch.cuda.get_device_capability() < (8, 0):
        return None
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    # Its first version had neither keyword.
    return varlen_attn if {"window_size", "enable_gqa"} <= set(varlen_attn.__kwdefaults__ or ()) else None


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
