"""The language model: an adapter that composes any transformers `AutoModelForCausalLM`.

Owns three verbs - ids to embeddings, embeddings to final-norm hidden states, hidden states to logits - and the rows
added to the vocabulary. Added rows are parameters of their own, so the (possibly frozen, possibly shared) original
matrices are neither copied nor touched, and a checkpoint saves only what is new.

Logits go through what the family does to them behind its output matrix (Gemma's soft cap, the factors of Cohere and
Granite), added rows included. A family that does something else there, or whose layers need another mask than causal
attention, is refused when it is wired: it would compute, and be wrong.
"""

from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from limner.backbone.attention import Segments, packed_causal_mask, serve_segments
from limner.backbone.lora import LoraSpec, add_lora, loading_options


class OutputRows(NamedTuple):
    """Some rows of an output layer."""

    weight: Float[Tensor, "ids d_model"]
    bias: Float[Tensor, " ids"] | None


class Backbone(nn.Module):
    """`language_model`: a transformers causal LM. `num_added`: rows added to its vocabulary."""

    def __init__(self, language_model: Any, *, num_added: int = 0, lora: LoraSpec | None = None) -> None:
        super().__init__()
        self.language_model = language_model
        config = language_model.config.get_text_config()
        _check_layers(config)
        self.segmented = serve_segments(language_model)
        self.logit_factor = _logit_factor(config)
        self.logit_cap = getattr(config, "final_logit_softcapping", None)
        if lora is not None:
            add_lora(language_model, lora)
        matrix = language_model.get_input_embeddings().weight
        self.base_size, self.d_model = matrix.shape
        self.tied = language_model.get_output_embeddings().weight is matrix
        self.added_input = self._new_rows(matrix, num_added)
        self.added_output = (
            None if self.tied else self._new_rows(language_model.get_output_embeddings().weight, num_added)
        )

    @staticmethod
    def from_pretrained(
        path: str | Path,
        *,
        num_added: int = 0,
        lora: LoraSpec | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> "Backbone":
        """Load a local directory in the transformers layout; on the meta device its shapes alone."""
        from transformers import AutoConfig, AutoModelForCausalLM

        if torch.get_default_device().type == "meta":
            config = AutoConfig.from_pretrained(str(path))
            shapes = AutoModelForCausalLM.from_config(config, dtype=dtype)
            return Backbone(shapes, num_added=num_added, lora=lora)

        # transformers' own choice of attention: sdpa, but eager for families with more between scores and softmax.
        options = loading_options(lora, dtype=dtype)
        model = AutoModelForCausalLM.from_pretrained(str(path), dtype=dtype, **options)
        return Backbone(model, num_added=num_added, lora=lora)

    @staticmethod
    def _new_rows(matrix: Tensor, num_added: int) -> nn.Parameter:
        # The mean of the old rows plus noise far below their spread: a new token starts as likely as any other,
        # and tokens added together start apart.
        if matrix.device.type == "meta" or not num_added:
            return nn.Parameter(torch.empty(num_added, matrix.shape[1], device=matrix.device))
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

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Ids at which the language model was made to stop, as its generation config says."""
        found = getattr(self.language_model.generation_config, "eos_token_id", None)
        return (found,) if isinstance(found, int) else tuple(found or ())

    def embed(self, ids: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch seq d_model"]:
        """Input rows of ids, added ones included."""
        # The module, not its matrix: some families scale in it. A negative id is a place that will be overwritten.
        rows = self.language_model.get_input_embeddings()(ids.clamp(min=0, max=self.base_size - 1))
        # Without added ids too: the added rows then have a zero gradient instead of none.
        added = ids >= self.base_size
        return rows.index_put((added,), self.added_input[ids[added] - self.base_size].to(rows.dtype))

    def hidden_states(
        self,
        embeddings: Float[Tensor, "batch seq d_model"],
        *,
        positions: Int[Tensor, "batch seq"],
        mask: Float[Tensor, "batch 1 seq keys"] | Int[Tensor, "1 sides longest bounds"],
        cache: Any = None,
    ) -> Float[Tensor, "batch seq d_model"]:
        """Hidden states after the final norm. `mask` is additive or that of `Segments`, `cache` a `CacheStep`."""
        decoder = self.language_model.get_decoder()
        return decoder(
            inputs_embeds=embeddings,
            position_ids=positions,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=cache is not None,
        ).last_hidden_state

    def packed_hidden_states(
        self,
        embeddings: Float[Tensor, "batch seq d_model"],
        *,
        positions: Int[Tensor, "batch seq"],
        documents: Int[Tensor, "batch seq"],
    ) -> Float[Tensor, "batch seq d_model"]:
        """Hidden states after the final norm of rows that several documents share (0 is padding).

        No document sees another. By segments, the language model runs over the tokens alone and padding is 0.
        """
        if not self.segmented:
            mask = packed_causal_mask(documents, dtype=self.dtype)
            return self.hidden_states(embeddings, positions=positions, mask=mask)
        segments = Segments.of(documents)
        if not len(segments.slots):
            return embeddings * 0.0
        flat = embeddings.flatten(0, 1)
        found = self.hidden_states(
            flat[segments.slots][None], positions=positions.flatten()[segments.slots][None], mask=segments.as_mask()
        )[0]
        return found.new_zeros(flat.shape).index_copy(0, segments.slots, found).view_as(embeddings)

    @property
    def output_parameters(self) -> list[nn.Parameter]:
        """Trainable parameters that `logits` reads."""
        found = [*self.language_model.get_output_embeddings().parameters(), self._added_output]
        return [parameter for parameter in found if parameter.requires_grad]

    def logits(self, hidden: Float[Tensor, "rows d_model"]) -> Float[Tensor, "rows vocab"]:
        """Scores over the old and the added vocabulary, in float32."""
        scores = self.language_model.get_output_embeddings()(hidden).float()
        added = self._added_output
        # Trained without rows (a recipe may name them all), they still have a gradient: the one of nothing.
        if len(added) or added.requires_grad:
            scores = torch.cat([scores, F.linear(hidden.float(), added.float())], dim=-1)
        return self._scaled(scores)

    def logits_within(self, hidden: Float[Tensor, "rows d_model"], ids: range) -> Float[Tensor, "rows vocab"]:
        """The same, of consecutive ids alone; all others are minus infinity. Where nothing else may be said (codes),
        the rest of the output matrix need not be read."""
        head = self.language_model.get_output_embeddings()
        if type(head) is not nn.Linear and ids.start < self.base_size:  # adapters and quantised weights have no slices
            return self._alone(self.logits(hidden)[:, ids.start : ids.stop], ids)
        parts = self.output_rows(ids)
        found = [F.linear(hidden.to(part.weight.dtype), part.weight, part.bias).float() for part in parts]
        return self.logits_of(torch.cat(found, dim=-1), ids)

    def output_rows(self, ids: range) -> list[OutputRows]:
        """Views of the output layer for consecutive ids: of the old matrix, of the added rows, or of both."""
        head, base = self.language_model.get_output_embeddings(), self.base_size
        parts = []
        if ids.start < base:
            old = slice(ids.start, min(ids.stop, base))
            parts.append(OutputRows(head.weight[old], None if head.bias is None else head.bias[old]))
        if ids.stop > base:
            parts.append(OutputRows(self._added_output[max(ids.start - base, 0) : ids.stop - base], None))
        return parts

    def logits_of(self, scores: Float[Tensor, "rows ids"], ids: range) -> Float[Tensor, "rows vocab"]:
        """Logits where nothing but some consecutive ids may be said, for which the output layer gives `scores`."""
        return self._alone(self._scaled(scores), ids)

    def _alone(self, logits: Float[Tensor, "rows ids"], ids: range) -> Float[Tensor, "rows vocab"]:
        found = logits.new_full((len(logits), self.base_size + len(self._added_output)), float("-inf"))
        found[:, ids.start : ids.stop] = logits
        return found

    @property
    def _added_output(self) -> nn.Parameter:
        return self.added_input if self.added_output is None else self.added_output

    def _scaled(self, scores: Tensor) -> Tensor:
        if self.logit_factor != 1.0:
            scores = scores * self.logit_factor
        if self.logit_cap is not None:
            scores = torch.tanh(scores / self.logit_cap) * self.logit_cap
        return scores


_OTHER_LOGITS = ("logits_scaling", "logits_soft_cap", "output_logit_soft_cap", "lm_head_multiplier", "dim_model_base")
"""Config keys of families that do something else between hidden states and logits (logits_scaling: but Granite)."""


def _logit_factor(config: Any) -> float:
    """What a family multiplies its logits by. Raises ValueError for one that does what we do not."""
    if config.model_type.startswith("granite"):
        return 1.0 / config.logits_scaling
    for key in _OTHER_LOGITS:
        if getattr(config, key, None) not in (None, 1.0):
            raise ValueError(
                f"`{config.model_type}` changes its logits by `{key}` = {getattr(config, key)}, which is not "
                "supported\nhint: take another language model"
            )
    return float(getattr(config, "logit_scale", None) or 1.0)


def _check_layers(config: Any) -> None:
    """Raise ValueError for layers that our mask, causal attention to everything before, does not serve."""
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or (["sliding_attention"] if window else ["full_attention"]))
    if other := sorted(kinds - {"full_attention", "sliding_attention"}):
        raise ValueError(
            f"`{config.model_type}` has layers of {', '.join(other)}; expected full attention\n"
            "hint: take another language model"
        )
    # Within its window a sliding layer sees everything.
    if "sliding_attention" in kinds and window is not None and window < config.max_position_embeddings:
        raise ValueError(
            f"`{config.model_type}` has layers that see {window} of {config.max_position_embeddings} positions; "
            f"expected full attention\nhint: set max_position_embeddings to {window} in its config.json: "
            "so far both are the same"
        )
