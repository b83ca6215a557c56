"""Packed rows whose beginnings are constants: they run without gradients, the rest runs behind their keys and values.

A frozen language model turns what a document begins with into the same states whatever is trained behind it (learned
queries, say). So the beginning keeps no activations and has no backward pass, and the gradients are those of one
forward over everything.

    beginnings --no gradients--> states, and keys and values of every layer
    rests      --gradients-----> states; a rest sees its own document's beginning, and itself causally
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers.cache_utils import Cache

from limner.backbone.attention import Segments, numbered, rest_mask
from limner.backbone.hf import Backbone


class _Beginnings(Cache):
    """Keys and values of the beginnings, layer by layer; `places`, once set, orders them with those of the rests."""

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.kept: list[tuple[Tensor, Tensor]] = []
        self.places: Int[Tensor, " keys"] | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Keep new keys and values [1, heads, tokens, width], or return them behind those that are kept."""
        if self.places is None:
            self.kept.append((key_states, value_states))
            return key_states, value_states
        keys, values = self.kept[layer_idx]
        return (
            torch.cat([keys, key_states], dim=2)[:, :, self.places],
            torch.cat([values, value_states], dim=2)[:, :, self.places],
        )

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Not asked for anything that matters: positions are given."""
        return 0


def serves_prefixes(backbone: Backbone) -> bool:
    """Whether a backbone can run beginnings apart: it is frozen, attends by segments, and its layers run as they are.

    Layers that are checkpointed take no keys and values from elsewhere; compiled ones would be compiled one by one.
    """
    frozen = not any(parameter.requires_grad for parameter in backbone.parameters())
    return backbone.segmented and frozen and not any(map(_is_wrapped, backbone.modules()))


def _is_wrapped(module: nn.Module) -> bool:
    return getattr(module, "gradient_checkpointing", False) or module._compiled_call_impl is not None


def hidden_states_behind(
    backbone: Backbone,
    embeddings: Float[Tensor, "batch seq d_model"],
    *,
    positions: Int[Tensor, "batch seq"],
    documents: Int[Tensor, "batch seq"],
    constant: Bool[Tensor, "batch seq"],
) -> Float[Tensor, "batch seq d_model"]:
    """What `Backbone.packed_hidden_states` gives, with gradients to the embeddings that are not `constant` alone.

    Every document begins with its constant tokens: none stands behind one that is not.
    """
    flat, of_position = embeddings.flatten(0, 1), positions.flatten()
    beginnings = Segments.of(torch.where(constant, documents, 0))
    rests = Segments.of(torch.where(constant, 0, documents))
    cache = _Beginnings()
    with torch.no_grad():
        begun = _run(backbone, flat, of_position, beginnings, mask=beginnings.as_mask(), cache=cache)
    hidden = flat.new_zeros(flat.shape, dtype=begun.dtype).index_copy(0, beginnings.slots, begun)
    if len(rests.slots):
        cache.places, mask = _places(documents, beginnings, rests)
        hidden = hidden.index_copy(0, rests.slots, _run(backbone, flat, of_position, rests, mask=mask, cache=cache))
    return hidden.view_as(embeddings)


def _run(
    backbone: Backbone, flat: Tensor, positions: Tensor, segments: Segments, *, mask: Tensor, cache: Any
) -> Float[Tensor, "tokens d_model"]:
    return backbone.hidden_states(
        flat[segments.slots][None], positions=positions[segments.slots][None], mask=mask, cache=cache
    )[0]


def _places(
    documents: Tensor, beginnings: Segments, rests: Segments
) -> tuple[Int[Tensor, " keys"], Int[Tensor, "1 2 longest bounds"]]:
    """Which of (beginnings, then rests) each key of a document with a rest is, in order; and the mask of the rests."""
    numbers = numbered(documents)
    slots, order = torch.cat([beginnings.slots, rests.slots]).sort()
    kept = torch.isin(numbers[slots], numbers[rests.slots])
    return order[kept], rest_mask(rests, Segments.among(slots[kept], numbers=numbers))
