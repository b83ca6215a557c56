"""Cross-attention of a generator to its condition, whose keys and values are computed once per picture.

Owns the processor that does it over diffusers' `Attention`. Assumes that within `condition_kept()` a network is called
with one and the same condition: then every cross-attention computes keys and values at the first step and finds them
at all others, which gives the same numbers. Outside of it, in training above all, nothing is kept.

    keep_conditions(unet)                once, when the decoder is built
    with condition_kept(kept): step      around each step with that condition, `kept` being a dict of its own
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

_KEPT: ContextVar[dict[Attention, tuple[Tensor, Tensor]] | None] = ContextVar("kept condition", default=None)


@contextmanager
def condition_kept(kept: dict[Any, Any]) -> Iterator[None]:
    """In this thread and block, take keys and values of the condition from `kept`; what is missing is put there."""
    token = _KEPT.set(kept)
    try:
        yield
    finally:
        _KEPT.reset(token)


def keep_conditions(network: nn.Module) -> None:
    """Give the plain cross-attentions of a network the processor that keeps; others stay as they are."""
    for module in network.modules():
        if isinstance(module, Attention) and module.is_cross_attention and _is_plain(module):
            module.set_processor(KeptCondition(module.processor))  # pyright: ignore[reportArgumentType]


class KeptCondition:
    """Attention to a condition: softmax(q k^T / sqrt(d)) v, with k and v of the kept condition.

    A call that it does not know (a mask, say) goes to the processor that was there before.
    """

    def __init__(self, usual: Any) -> None:
        self.usual = usual

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Rows [items tokens width] attending to the condition [items queries width]."""
        kept = _KEPT.get()
        if kept is None or encoder_hidden_states is None or attention_mask is not None or hidden_states.ndim != 3:
            extra = {} if temb is None else {"temb": temb}
            return self.usual(attn, hidden_states, encoder_hidden_states, attention_mask, **extra)
        if attn not in kept:
            kept[attn] = (
                _by_head(attn.to_k(encoder_hidden_states), attn),
                _by_head(attn.to_v(encoder_hidden_states), attn),
            )
        key, value = kept[attn]
        attended = F.scaled_dot_product_attention(_by_head(attn.to_q(hidden_states), attn), key, value)
        mixed = attn.to_out[1](attn.to_out[0](attended.transpose(1, 2).flatten(2)))
        if attn.residual_connection:
            mixed = mixed + hidden_states
        return mixed if attn.rescale_output_factor == 1.0 else mixed / attn.rescale_output_factor


def _by_head(rows: Tensor, attn: Any) -> Tensor:
    return rows.unflatten(2, (attn.heads, -1)).transpose(1, 2)


def _is_plain(attn: Attention) -> bool:
    """Whether projections and attention are all that it does."""
    extras = (attn.norm_q, attn.norm_k, attn.norm_cross, attn.group_norm, attn.spatial_norm, attn.added_kv_proj_dim)
    return all(extra is None for extra in extras) and attn.to_out is not None
