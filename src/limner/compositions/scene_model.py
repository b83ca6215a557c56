"""A small model over the closed world of `data/scene_grammar`: the illustrator's wiring around a small Llama.

Trained from nothing, in minutes; it measures what training does, and serves no other purpose.
"""

from limner.backbone.hf import Backbone
from limner.compositions.small_llama import small_llama
from limner.data.scene_grammar import WORDS
from limner.document.document import Direction
from limner.modalities.base import Decoder, Encoder, Modality
from limner.modalities.decoders.queries import LearnedQueries
from limner.modalities.projectors import LinearProjector, MLPProjector, Rowwise
from limner.model.multimodal import MultimodalLM
from limner.tokens.template import Template
from limner.tokens.vocabulary import Vocabulary, span_roles
from limner.tokens.words import word_tokenizer

MODALITY = "image"


def scene_model(
    *,
    encoder: Encoder,
    decoder: Decoder,
    num_queries: int,
    d_model: int = 128,
    num_layers: int = 4,
    num_heads: int = 4,
    context_length: int = 256,
) -> MultimodalLM:
    """encoder -> MLP -> Llama -> text, and Llama(queries) -> linear -> decoder, all from random weights."""
    tokenizer = word_tokenizer(WORDS)
    roles = span_roles(MODALITY, [Direction.IN, Direction.OUT])
    llama = small_llama(
        tokenizer,
        d_model=d_model,
        num_layers=num_layers,
        num_heads=num_heads,
        context_length=context_length,
        intermediate_size=3 * d_model,
    )
    backbone = Backbone(llama, num_added=len(roles))
    image = Modality(
        encoder=encoder,
        input_projector=Rowwise(MLPProjector(width_in=encoder.width, width_out=d_model)),
        queries=LearnedQueries(num_queries=num_queries, width=d_model),
        output_projector=LinearProjector(width_in=d_model, width_out=decoder.condition_width),
        decoder=decoder,
    )
    return MultimodalLM(
        backbone,
        modalities={MODALITY: image},
        vocabulary=Vocabulary.grow(backbone.base_size, roles=roles),
        template=Template.from_tokenizer(tokenizer.tokenizer, system=""),
        tokenizer=tokenizer,
    )
