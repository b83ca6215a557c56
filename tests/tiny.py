"""Real classes at tiny sizes, seeded, made in the process: what tests of the core start from."""

from collections.abc import Sequence as Items

import PIL.Image
import torch

from limner.backbone.hf import Backbone
from limner.compositions.illustrator import scratch_illustrator
from limner.config.call import Call, build, call
from limner.document.document import Document
from limner.document.media import Image
from limner.modalities.decoders.autoencoder import PictureAutoencoder
from limner.modalities.decoders.flow import FlowDecoder
from limner.modalities.encoders.convolutional import ConvolutionalEncoder
from limner.model.multimodal import MultimodalLM
from limner.tokens.batch import Batch

COLOURS = ("red", "blue", "green", "orange", "purple", "black", "white")
NUM_QUERIES = 3
NUM_READ = 16
"""Rows that the tiny encoder gives for a picture."""


def model_call(*, context_length: int = 256, num_queries: int = NUM_QUERIES) -> Call:
    """The recorded description of the tiny model."""
    autoencoder = call(
        PictureAutoencoder,
        size=32,
        fold=4,
        channels=(16, 16),
        latent_channels=4,
        encoder_blocks=(1, 1),
        decoder_blocks=(1, 1),
    )
    decoder = call(
        FlowDecoder,
        autoencoder=autoencoder,
        condition_width=16,
        width=16,
        num_layers=1,
        num_heads=2,
        draws_per_item=2,
    )
    encoder = call(ConvolutionalEncoder, image_size=32, width=16, num_halvings=3)
    return call(
        scratch_illustrator,
        encoder=encoder,
        decoder=decoder,
        num_queries=num_queries,
        d_model=32,
        num_layers=2,
        num_heads=2,
        context_length=context_length,
    )


def tiny_model(*, seed: int = 0, context_length: int = 256) -> MultimodalLM:
    """The tiny model, every weight a function of `seed`; its flow is no longer the constant 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build(model_call(context_length=context_length))
        torch.nn.init.normal_(model.modalities["image"].decoder.transformer.proj_out.weight)
    return model.eval()


def causal_lm(family: str = "llama", *, tied: bool = True, seed: int = 0):
    """A tiny transformers causal LM of a family: llama, qwen2, gpt_neox, gemma2, cohere or granite."""
    from transformers import (
        AutoModelForCausalLM,
        CohereConfig,
        Gemma2Config,
        GPTNeoXConfig,
        GraniteConfig,
        LlamaConfig,
        Qwen2Config,
    )

    sizes = {
        "vocab_size": 50,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 64,
        "tie_word_embeddings": tied,
    }
    if family != "gpt_neox":
        sizes["num_key_value_heads"] = 1
    configs = {
        "llama": LlamaConfig,
        "qwen2": Qwen2Config,
        "gpt_neox": GPTNeoXConfig,
        "gemma2": Gemma2Config,
        "cohere": CohereConfig,
        "granite": GraniteConfig,
    }
    # Factors and caps far from what would pass unnoticed.
    peculiar = {
        "gemma2": {
            "head_dim": 8,
            "sliding_window": 64,
            "final_logit_softcapping": 0.1,
            "attn_logit_softcapping": 0.01,
            "query_pre_attn_scalar": 1,
            "initializer_range": 0.5,
            "pad_token_id": 0,
        },
        "cohere": {"logit_scale": 3.0, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
        "granite": {"logits_scaling": 0.2, "embedding_multiplier": 5.0, "residual_multiplier": 0.5},
    }
    config = configs[family](**sizes, **peculiar.get(family, {}))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config).eval()


def tiny_backbone(family: str = "llama", *, tied: bool = True, num_added: int = 3, lora=None) -> Backbone:
    """A backbone around `causal_lm`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return Backbone(causal_lm(family, tied=tied), num_added=num_added, lora=lora).eval()


def picture(colour: str = "red", *, size: tuple[int, int] = (40, 30)) -> Image:
    """A picture of one colour, (width, height) pixels."""
    return Image.from_pil(PIL.Image.new("RGB", size, colour), name=colour)


def documents() -> list[Document]:
    """A chat that reads, a page that makes, a page of text, a chat that makes and goes on."""
    return [
        Document.chat([("user", ["What?", picture("red")]), ("assistant", "A red one.")]),
        Document.page(["Once ", picture("blue"), " end"]),
        Document.page(["Only words."]),
        Document.chat([("user", "Draw."), ("assistant", ["Here: ", picture("green"), " a green one."])]),
    ]


class Pages:
    """A source: `num_pages` short pages, each with a picture of its colour."""

    def __init__(self, *, num_pages: int = 7) -> None:
        self.num_pages = num_pages

    def __len__(self) -> int:
        return self.num_pages

    def __getitem__(self, index: int) -> Document:
        colour = COLOURS[index % len(COLOURS)]
        return Document.page([f"{index} {colour} ", picture(colour), "." * (index % 3)])


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor | None]:
    """Gradients by parameter name."""
    return {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


def backward(model: MultimodalLM, batches: Items[Batch], *, key: tuple[int | str, ...] = (0, 0)):
    """Summed terms of batches, and the gradients of the sum of their sums."""
    model.zero_grad(set_to_none=True)
    totals: dict[str, list[float]] = {}
    for batch in batches:
        terms = model(batch, noise_key=key)
        torch.stack([term.sum for term in terms.values()]).sum().backward()
        for name, term in terms.items():
            entry = totals.setdefault(name, [0.0, 0.0])
            entry[0] += float(term.sum.detach())
            entry[1] += float(term.count)
    return totals, gradients(model)
