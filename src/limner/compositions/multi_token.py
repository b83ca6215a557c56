"""Any language model that reads any named modalities at placeholders: the wiring of multi_token.

    item -> encoder (frozen) -> projector -> a fixed number of rows of the LLM's input -> text

Nothing is added to the vocabulary and nothing stands around a span: the rows are all there is of an item. Conversations
are written by the tokenizer's own chat template; `compositions/multi_token_legacy.py` has the original's encoding.

To add a modality: write its encoder (or take `PrecomputedEncoder`), say its placeholder, and name both in a `Part`.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from limner import zoo
from limner.backbone.hf import Backbone
from limner.backbone.lora import LoraSpec, loading_options
from limner.document.document import Media
from limner.document.rows import Placeholder
from limner.modalities.base import Encoder, InputProjector, Modality
from limner.modalities.position_projectors import PatchProjector, VectorProjector
from limner.model.multimodal import MultimodalLM
from limner.tokens.template import Template
from limner.tokens.tokenizer import TextTokenizer
from limner.tokens.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

Layout = Literal["vector", "patch"]
"""`vector`: one feature row, an MLP per position. `patch`: a feature row per position, one MLP for all."""


@dataclass(frozen=True)
class Part:
    """One modality: what stands for it in text, what reads it, how its rows are projected."""

    placeholder: Placeholder
    encoder: Encoder
    layout: Layout

    def __post_init__(self) -> None:
        rows, positions = self.encoder.measure(Media(None)), self.placeholder.num_positions
        if rows != (1 if self.layout == "vector" else positions):
            raise ValueError(
                f"`{self.placeholder.name}` has an encoder of {rows} rows and {positions} positions in a {self.layout} "
                "layout\nhint: vector takes one row, patch as many rows as positions"
            )

    def projector(self, d_model: int) -> InputProjector:
        """A projector of this layout with weights of its own."""
        width = self.encoder.width
        if self.layout == "patch":
            return PatchProjector(width_in=width, width_out=d_model)
        return VectorProjector(num_positions=self.placeholder.num_positions, width_in=width, width_out=d_model)


def placed(placeholder: Placeholder, encoder: Encoder, *, layout: Layout, positions: int = 0) -> Part:
    """A part whose placeholder has `positions`; 0 takes the encoder's rows."""
    positions = positions or encoder.measure(Media(None))
    return Part(replace(placeholder, num_positions=positions), encoder, layout)


def multi_token(
    *,
    language_model: str,
    parts: Sequence[Part],
    lora: LoraSpec | None = None,
    system: str | None = None,
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> MultimodalLM:
    """Wire a published language model (a zoo name or a directory) to its modalities.

    `system` None keeps the chat template's default system text, "" renders none. `dtype` is the language model's; what
    is trained stays in float32. Raises ValueError for parts that share a name, a token or a token's id.
    """
    path = zoo.locate(language_model)
    tokenizer = TextTokenizer.from_pretrained(path)
    backbone = load_backbone(path, lora=lora, dtype=getattr(torch, dtype))
    return wire(
        backbone,
        tokenizer=tokenizer,
        template=Template.from_tokenizer(tokenizer.tokenizer, system=system),
        parts=parts,
        external={"backbone.language_model": f"{language_model}@{zoo.fingerprint(path)}"},
    )


def wire(
    backbone: Backbone,
    *,
    tokenizer: TextTokenizer,
    template: Template,
    parts: Sequence[Part],
    external: dict[str, str] | None = None,
) -> MultimodalLM:
    """Join a backbone and parts that are there already."""
    _check_names(parts)
    sources = {f"modalities.{part.placeholder.modality}.encoder": part.encoder.source for part in parts}
    return MultimodalLM(
        backbone,
        modalities={
            part.placeholder.modality: Modality(encoder=part.encoder, input_projector=part.projector(backbone.d_model))
            for part in parts
        },
        # Negative ids: features overwrite every one of these positions, and no text can say them.
        vocabulary=Vocabulary(
            backbone.base_size,
            {f"{part.placeholder.modality}.in.slot": part.placeholder.token_id for part in parts},
        ),
        template=template,
        tokenizer=tokenizer,
        external={**(external or {}), **{prefix: source for prefix, source in sources.items() if source}},
        placeholders=[part.placeholder for part in parts],
    )


def load_backbone(path: Path, *, lora: LoraSpec | None = None, dtype: torch.dtype = torch.float32) -> Backbone:
    """A language model from a directory; where it sees but a window, its context ends with the window."""
    from transformers import AutoConfig, AutoModelForCausalLM

    # Untyped: every family has keys of its own.
    config: Any = AutoConfig.from_pretrained(str(path))
    window = getattr(config, "sliding_window", None)
    if not window or window >= config.max_position_embeddings:
        return Backbone.from_pretrained(path, lora=lora, dtype=dtype)
    logger.warning("%s: %d positions, the window in which all of them are seen", path.name, window)
    config.max_position_embeddings = window
    if torch.get_default_device().type == "meta":
        return Backbone(AutoModelForCausalLM.from_config(config, dtype=dtype), lora=lora)
    options = loading_options(lora, dtype=dtype)
    model = AutoModelForCausalLM.from_pretrained(str(path), config=config, dtype=dtype, **options)
    return Backbone(model, lora=lora)


def lora_targets(language_model: str) -> tuple[str, ...]:
    """Names of every linear layer but the output matrix: what the original trains adapters on, in any family."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(str(zoo.locate(language_model)))
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config)
    head = model.get_output_embeddings()
    found = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head
    }
    return tuple(sorted(found))


def _check_names(parts: Sequence[Part]) -> None:
    placeholders = [part.placeholder for part in parts]
    for what in ("name", "modality", "token", "data_key", "token_id"):
        found = [getattr(placeholder, what) for placeholder in placeholders]
        if len(set(found)) < len(found) or (what == "token_id" and 0 in found):
            raise ValueError(
                f"the parts have the {what}s {', '.join(map(str, found))}; expected different ones, none of them 0\n"
                "hint: give one of them another token"
            )
