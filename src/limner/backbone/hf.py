"""The language model: an adapter that composes any transformers `AutoModelForCausalLM`.

Owns three verbs - ids to embeddings, embeddings to final-norm hidden states, hidden states to logits - and the rows added
to the vocabulary. Added rows are parameters of their own, so the (possibly frozen, possibly shared) original
matrices are neither copied nor touched, and a checkpoint saves only what is new.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from limner.backbone.lora import LoraSpec, add_lora


class Backbone(nn.Module):
    """`language_model`: a transformers causal LM. `num_added`: rows added to its vocabulary."""

    def __init__(
        self, language_model: Any, *, num_added: int = 0, lora: LoraSpec | None = None
    ) -> None:
        super().__init__()
        self.language_model = language_model
        if lora is not None:
            add_lora(language_model, lora)
        matrix = language_model.get_input_embeddings().weight
        self.base_size, self.d_model = matrix.shape
        self.tied = language_model.get_output_embeddings().weight is matrix
        self.added_input = self._new_rows(matrix, num_added)
        self.added_output = (
            None
            if self.tied
            else self._new_rows(language_model.get_output_embeddings().weight, num_added)
        )

    @staticmethod
    def from_pretrained(
        path: str | Path,
        *,
        num_added: int = 0,
        lora: LoraSpec | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> "Backbone":
        """Load a local directory in the transformers layout."""
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(
            str(path), dtype=dtype, attn_implementation="sdpa"
        )
        return Backbone(model, num_added=num_added, lora=lora)

    @staticmethod
    def _new_rows(matrix: Tensor, num_added: int) -> nn.Parameter:
        # The mean of the old rows plus noise far below their spread: a new token starts as likely as any other,
        # and tokens added together start apart.
        if matrix.device.type == "meta":
            return nn.Parameter(matrix.new_empty(num_added, matrix.shape[1]))
        with torch.no_grad():
            mean = matrix.float().mean(dim=0, keepdim=True)
            noise = torch.randn(num_added, matrix.shape[1]) * 0.1 * matrix.float().std()
        return nn.Parameter((mean + noise).float())

    @property
    def dtype(self) -> torch.dtype:
        """The type in which hidden states are computed."""
        return self.language_model.get_input_embeddings().weight.dtype

    @property
    def context_length(self) -> int:
        """Positions the language model was made for."""
        return int(self.language_model.config.max_position_embeddings)

    def embed(self, ids: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch seq d_model"]:
        """Input rows of ids, added ones included."""
        # The module, not its matrix: some families scale in it.
        rows = self.language_model.get_input_embeddings()(ids.clamp(max=self.base_size - 1))
        # Without added ids too: the added rows then have a zero gradient instead of none.
        added = ids >= self.base_size
        return rows.index_put((added,), self.added_input[ids[added] - self.base_size].to(rows.dtype))

    def hidden_states(
        self,
        embeddings: Float[Tensor, "batch seq d_model"],
        *,
        positions: Int[Tensor, "batch seq"],
        mask: Float[Tensor, "batch 1 seq keys"],
        cache: Any = None,
    ) -> Float[Tensor, "batch seq d_model"]:
        """Hidden states after the final norm. `mask` is additive, `cache` a `CacheStep`."""
        decoder = self.language_model.get_decoder()
        return decoder(
            inputs_embeds=embeddings,
            position_ids=positions,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=cache is not None,
        ).last_hidden_state

    def logits(self, hidden: Float[Tensor, "rows d_model"]) -> Float[Tensor, "rows vocab"]:
        """Scores over the old and the added vocabulary, in float32."""
        scores = self.language_model.get_output_embeddings()(hidden).float()
        added = self.added_input if self.added_output is None else self.added_output
        if not len(added):
            return scores
        return torch.cat([scores, F.linear(hidden.float(), added.float())], dim=-1)
