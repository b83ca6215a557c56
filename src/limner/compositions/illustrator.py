"""A language model that reads pictures through an encoder and draws through learned queries and a decoder.

The wiring of `limner-tiny` and of every model with continuous input and query output.

    picture -> encoder -> MLP -> LLM -> text
                                 LLM(queries) -> MLP -> decoder -> picture
"""

from typing import Literal

import torch
from torch import nn

from limner import zoo
from limner.backbone.hf import Backbone
from limner.backbone.lora import LoraSpec
from limner.compositions.small_llama import small_llama
from limner.document.document import Direction
from limner.modalities.base import Decoder, Encoder, InputProjector, Modality
from limner.modalities.decoders.queries import LearnedQueries
from limner.modalities.encoders.efficientnet import EfficientNetEncoder
from limner.modalities.projectors import MLPProjector, Rowwise
from limner.model.multimodal import MultimodalLM
from limner.tokens.template import Template
from limner.tokens.tokenizer import TextTokenizer, byte_tokenizer
from limner.tokens.vocabulary import Vocabulary, span_roles

MODALITY = "image"


def illustrator(
    *,
    language_model: str,
    encoder: Encoder,
    decoder: Decoder,
    num_queries: int,
    input_projector: InputProjector | None = None,
    output_projector: nn.Module | None = None,
    lora: LoraSpec | None = None,
    system: str | None = None,
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> MultimodalLM:
    """Wire a published language model (a zoo name or a directory).

    `input_projector` None takes an MLP per feature row. `system` None keeps the chat template's default system text;
    "" renders none, which saves its tokens in every document. `dtype` is the language model's; what is trained stays
    in float32.
    """
    path = zoo.locate(language_model)
    tokenizer = TextTokenizer.from_pretrained(path)
    roles = span_roles(MODALITY, [Direction.IN, Direction.OUT])
    backbone = Backbone.from_pretrained(path, num_added=len(roles), lora=lora, dtype=getattr(torch, dtype))
    return _wire(
        backbone,
        tokenizer=tokenizer,
        roles=roles,
        encoder=encoder,
        decoder=decoder,
        num_queries=num_queries,
        input_projector=input_projector,
        output_projector=output_projector,
        system=system,
        external={
            "backbone.language_model": f"{language_model}@{zoo.fingerprint(path)}",
            **_external_encoder(encoder),
        },
    )


def efficientnet(
    *, weights: str = "efficientnet-lite0", image_size: int = 224, grid: int = 4, stride: int = 32
) -> EfficientNetEncoder:
    """A published, frozen EfficientNet-lite0 (a zoo name or a directory)."""
    path = zoo.locate(weights)
    encoder = EfficientNetEncoder(path, image_size=image_size, grid=grid, stride=stride)
    encoder.source = f"{weights}@{zoo.fingerprint(path)}"
    return encoder


def scratch_illustrator(
    *,
    encoder: Encoder,
    decoder: Decoder,
    num_queries: int,
    d_model: int = 128,
    num_layers: int = 4,
    num_heads: int = 4,
    context_length: int = 512,
) -> MultimodalLM:
    """The same wiring around a small Llama over bytes, trained from nothing: for recipes that need no download."""
    tokenizer = byte_tokenizer()
    llama = small_llama(
        tokenizer,
        d_model=d_model,
        num_layers=num_layers,
        num_heads=num_heads,
        context_length=context_length,
        intermediate_size=4 * d_model,
    )
    roles = span_roles(MODALITY, [Direction.IN, Direction.OUT])
    return _wire(
        Backbone(llama, num_added=len(roles)),
        tokenizer=tokenizer,
        roles=roles,
        encoder=encoder,
        decoder=decoder,
        num_queries=num_queries,
        input_projector=None,
        output_projector=None,
        system="",
        external=_external_encoder(encoder),
    )


def _wire(
    backbone: Backbone,
    *,
    tokenizer: TextTokenizer,
    roles: list[str],
    encoder: Encoder,
    decoder: Decoder,
    num_queries: int,
    input_projector: InputProjector | None,
    output_projector: nn.Module | None,
    system: str | None,
    external: dict[str, str],
) -> MultimodalLM:
    width = backbone.d_model
    image = Modality(
        encoder=encoder,
        input_projector=input_projector or Rowwise(MLPProjector(width_in=encoder.width, width_out=width)),
        queries=LearnedQueries(num_queries=num_queries, width=width),
        output_projector=output_projector or MLPProjector(width_in=width, width_out=decoder.condition_width),
        decoder=decoder,
    )
    return MultimodalLM(
        backbone,
        modalities={MODALITY: image},
        vocabulary=Vocabulary.grow(backbone.base_size, roles=roles),
        template=Template.from_tokenizer(tokenizer.tokenizer, system=system),
        tokenizer=tokenizer,
        external=external,
    )


def _external_encoder(encoder: Encoder) -> dict[str, str]:
    """A published encoder names its source; one that is trained here has none and is saved."""
    return {f"modalities.{MODALITY}.encoder": encoder.source} if encoder.source else {}
