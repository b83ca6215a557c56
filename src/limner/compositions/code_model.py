"""A language model that says pictures in codes, and reads them in codes or through an encoder.

    picture -> encoder -> MLP -> LLM -> text          or, without an encoder, picture -> quantizer -> codes -> LLM
                                 LLM -> codes -> detokenizer -> picture

The wiring of every model with a codebook in its vocabulary. Quantizer and detokenizer are trained before and apart
(a stage takes them from their checkpoint by `start_from`); here the language model learns to say what they mean.
"""

from typing import Literal

import torch

from limner import zoo
from limner.backbone.hf import Backbone
from limner.backbone.lora import LoraSpec
from limner.compositions.small_llama import small_llama
from limner.data.scene_grammar import WORDS
from limner.document.document import Direction
from limner.modalities.base import Detokenizer, Encoder, InputProjector, Modality, Quantizer
from limner.modalities.projectors import MLPProjector, Rowwise
from limner.model.multimodal import MultimodalLM
from limner.tokens.template import Template
from limner.tokens.tokenizer import TextTokenizer
from limner.tokens.vocabulary import Vocabulary, edge_roles, span_roles
from limner.tokens.words import word_tokenizer

MODALITY = "image"


def code_model(
    *,
    language_model: str,
    quantizer: Quantizer,
    detokenizer: Detokenizer,
    encoder: Encoder | None = None,
    input_projector: InputProjector | None = None,
    lora: LoraSpec | None = None,
    system: str | None = None,
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> MultimodalLM:
    """Wire a published language model (a zoo name or a directory of any causal language model).

    `encoder` None reads pictures in codes too. `input_projector` None takes an MLP per feature row. `system` and
    `dtype` as in `illustrator`.
    """
    path = zoo.locate(language_model)
    vocabulary = _vocabulary(_rows_of(path), quantizer, encoder)
    backbone = Backbone.from_pretrained(path, num_added=vocabulary.num_added, lora=lora, dtype=getattr(torch, dtype))
    return _wire(
        backbone,
        tokenizer=TextTokenizer.from_pretrained(path),
        vocabulary=vocabulary,
        quantizer=quantizer,
        detokenizer=detokenizer,
        encoder=encoder,
        input_projector=input_projector,
        system=system,
        external={"backbone.language_model": f"{language_model}@{zoo.fingerprint(path)}"},
    )


def scene_code_model(
    *,
    quantizer: Quantizer,
    detokenizer: Detokenizer,
    encoder: Encoder | None = None,
    d_model: int = 128,
    num_layers: int = 4,
    num_heads: int = 4,
    context_length: int = 256,
) -> MultimodalLM:
    """The same around a small Llama over the words of `data/scene_grammar`, from random weights."""
    tokenizer = word_tokenizer(WORDS)
    vocabulary = _vocabulary(len(tokenizer.tokenizer), quantizer, encoder)
    llama = small_llama(
        tokenizer,
        d_model=d_model,
        num_layers=num_layers,
        num_heads=num_heads,
        context_length=context_length,
        intermediate_size=3 * d_model,
    )
    return _wire(
        Backbone(llama, num_added=vocabulary.num_added),
        tokenizer=tokenizer,
        vocabulary=vocabulary,
        quantizer=quantizer,
        detokenizer=detokenizer,
        encoder=encoder,
        input_projector=None,
        system="",
        external={},
    )


def _rows_of(path: object) -> int:
    """Rows of the input matrix of a language model in a directory."""
    from transformers import AutoConfig

    return int(AutoConfig.from_pretrained(str(path)).get_text_config().vocab_size)


def _vocabulary(base_size: int, quantizer: Quantizer, encoder: Encoder | None) -> Vocabulary:
    roles = edge_roles(MODALITY) + (span_roles(MODALITY, [Direction.IN]) if encoder is not None else [])
    return Vocabulary.grow(base_size, roles=roles, codes={MODALITY: quantizer.num_codes})


def _wire(
    backbone: Backbone,
    *,
    tokenizer: TextTokenizer,
    vocabulary: Vocabulary,
    quantizer: Quantizer,
    detokenizer: Detokenizer,
    encoder: Encoder | None,
    input_projector: InputProjector | None,
    system: str | None,
    external: dict[str, str],
) -> MultimodalLM:
    if encoder is not None and input_projector is None:
        input_projector = Rowwise(MLPProjector(width_in=encoder.width, width_out=backbone.d_model))
    image = Modality(encoder=encoder, input_projector=input_projector, quantizer=quantizer, detokenizer=detokenizer)
    return MultimodalLM(
        backbone,
        modalities={MODALITY: image},
        vocabulary=vocabulary,
        template=Template.from_tokenizer(tokenizer.tokenizer, system=system),
        tokenizer=tokenizer,
        external=external | _sources(image),
    )


def _sources(image: Modality) -> dict[str, str]:
    """Parts whose weights are published elsewhere."""
    parts = {"encoder": image.encoder, "quantizer": image.quantizer}
    found = {
        f"modalities.{MODALITY}.{name}": part.source for name, part in parts.items() if part is not None and part.source
    }
    if image.detokenizer is not None:
        for name, source in image.detokenizer.sources.items():
            found[f"modalities.{MODALITY}.detokenizer.{name}"] = source
    return found
