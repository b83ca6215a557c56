"""One token per row on CPU: a language model's layers with little between the products.

    embeddings [rows d_model] --per layer: norm, q k v in one product, rotate, cache, attend, gate and up in one-->
        hidden states [rows d_model] --output layer, or some rows of it--> logits

Owns the step for models built like Llama (Llama, Mistral, Qwen2), which is bound by memory: every weight is read once
per token. What it saves is what lies between: transformers' modules cost a third of a token's time for small models,
and CPU libraries are slow where they are asked for one row. The numbers are those of the model, up to rounding.

Assumes weights in float32 on CPU that are not trained any more: they are joined in place, and packed copies are made.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from limner.backbone.cache import CacheStep
from limner.backbone.hf import Backbone
from limner.backbone.products import FEW, MANY, Products, Weights

MOST_PACKED = 2 << 30
"""Bytes of a model up to which packed copies are made."""
_LAYERS = ("LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer")


def can_fuse(language_model: Any) -> bool:
    """Whether `Fused` gives the same as a transformers model: its family's layers, plain float32 matrices on CPU."""
    layers = getattr(language_model.get_decoder(), "layers", None)
    config = language_model.config.get_text_config()
    if not layers or getattr(config, "hidden_act", None) != "silu":
        return False
    matrices = [module for layer in layers for module in layer.modules() if hasattr(module, "weight")]
    matrices.append(language_model.get_output_embeddings())
    return all(type(layer).__name__ in _LAYERS for layer in layers) and all(
        matrix.weight.dtype == torch.float32
        and matrix.weight.device.type == "cpu"
        and (matrix.weight.ndim == 1 or type(matrix) is nn.Linear)
        for matrix in matrices
    )


class Fused:
    """The step of one model. Its matrices are shared with the model, which computes what it did."""

    def __init__(self, backbone: Backbone, *, weights: Weights = Weights.EXACT) -> None:
        """Join the matrices; raises ValueError for a language model that `can_fuse` refuses."""
        language_model = backbone.language_model
        if not can_fuse(language_model):
            raise ValueError(
                f"{type(language_model).__name__} cannot be fused; expected layers like Llama's, in float32 on CPU\n"
                "hint: leave it as it is"
            )
        decoder = language_model.get_decoder()
        self.rotary = decoder.rotary_emb
        self.norm = decoder.norm
        num_bytes = 4 * sum(parameter.numel() for parameter in language_model.parameters())
        packed_from = FEW if num_bytes <= MOST_PACKED else MANY
        self.backbone = backbone
        self._within: dict[range, Products] = {}
        self._how = {"weights": weights, "packed_from": packed_from}
        self.layers = [_Layer(layer, **self._how) for layer in decoder.layers]
        head = language_model.get_output_embeddings()
        head.forward = Products([head], **self._how)

    @torch.no_grad()
    def __call__(self, embeddings: Float[Tensor, "rows d_model"], *, cache: CacheStep) -> Float[Tensor, "rows d_model"]:
        """Hidden states after the final norm of one new token per row."""
        mask = None if cache.is_aligned else cache.mask(embeddings.dtype)
        cos, sin = self.rotary(embeddings, cache.positions)  # [rows 1 head_width], as broadcast over heads
        hidden = embeddings
        for index, layer in enumerate(self.layers):
            hidden = layer(hidden, cos, sin, mask=mask, cache=cache, index=index)
        return _normed(hidden, self.norm)

    @torch.no_grad()
    def logits_within(self, hidden: Float[Tensor, "rows d_model"], ids: range) -> Float[Tensor, "rows vocab"]:
        """`Backbone.logits_within`; what it needs is kept for each range of ids."""
        if ids not in self._within:
            self._within[ids] = Products(self.backbone.output_rows(ids), **self._how)
        return self.backbone.logits_of(self._within[ids](hidden), ids)


class _Layer:
    def __init__(self, layer: Any, **how: Any) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.width = attention.head_dim
        self.scaling = attention.scaling
        self.key_heads = attention.k_proj.out_features // self.width
        self.heads = attention.q_proj.out_features // self.width
        self.before, self.behind = layer.input_layernorm, layer.post_attention_layernorm
        self.inward = Products([attention.q_proj, attention.k_proj, attention.v_proj], **how)
        self.outward = Products([attention.o_proj], **how)
        self.up = Products([mlp.gate_proj, mlp.up_proj], **how)
        self.down = Products([mlp.down_proj], **how)

    def __call__(
        self, hidden: Tensor, cos: Tensor, sin: Tensor, *, mask: Tensor | None, cache: CacheStep, index: int
    ) -> Tensor:
        heads, key_heads, width = self.heads, self.key_heads, self.width
        joined = self.inward(_normed(hidden, self.before)).view(len(hidden), heads + 2 * key_heads, width)
        turned = joined[:, : heads + key_heads]
        one, other = turned.chunk(2, dim=2)
        turned = turned * cos + torch.cat([-other, one], dim=2) * sin
        keys, values = cache.update(turned[:, heads:].unsqueeze(2), joined[:, heads + key_heads :].unsqueeze(2), index)
        # Heads that share keys stand where several queries would: nothing is repeated.
        query = turned[:, :heads].unflatten(1, (key_heads, -1))
        attended = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=self.scaling)
        hidden = hidden + self.outward(attended.flatten(1))
        gate, up = self.up(_normed(hidden, self.behind)).chunk(2, dim=1)
        return hidden + self.down(F.silu(gate) * up)


def _normed(hidden: Tensor, norm: Any) -> Tensor:
    return F.rms_norm(hidden, norm.weight.shape, norm.weight, norm.variance_epsilon)
