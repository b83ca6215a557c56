"""Saying the codes of pictures under guidance: tokens per second of the engine against transformers' Janus.

    python -m benchmarks code_decode

Both language models are Llamas of equal size with random weights, over as many words and as many codes. Both say
`--tokens` codes of a picture greedily under guidance of 5, for one prompt and for four at once. What turns codes into
pixels is not measured: ours draws nothing, Janus's `generate` ends with the codes. Rounds alternate; a ratio is of the
medians. Prints Markdown.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import JanusConfig, JanusForConditionalGeneration, LlamaConfig, LlamaForCausalLM
from transformers.models.janus.configuration_janus import JanusVisionConfig, JanusVQVAEConfig

from limner.backbone.fused import Fused
from limner.backbone.hf import Backbone
from limner.document.document import Document, Media
from limner.evaluate.report import environment
from limner.generate.engine import Engine
from limner.generate.request import Pictures, Request
from limner.modalities.base import Codes, Detokenizer, Modality, Quantizer
from limner.model.multimodal import MultimodalLM
from limner.tokens.template import Template
from limner.tokens.tokenizer import byte_tokenizer
from limner.tokens.vocabulary import Vocabulary, edge_roles

TARGETS = {1: 1.5, 4: 1.3}
"""Prompts at once -> how many times Janus's speed is aimed at."""
PROMPT = "a small red circle below a large blue star"
PATCH = 16


class Numbers(Quantizer):
    """So many codes of pictures that nobody reads."""

    def __init__(self, *, num_codes: int, max_length: int) -> None:
        super().__init__()
        self.num_codes, self.max_length = num_codes, max_length

    def preprocess(self, media: Media) -> Tensor:
        """Nothing of it."""
        return torch.zeros(1)

    def forward(self, items: Tensor) -> Codes:
        """None."""
        return Codes.of([[]] * len(items))


class Blank(Detokenizer):
    """White paper."""

    target_size = (8, 8)

    def sample(
        self,
        codes: Codes,
        *,
        guidance: Any,
        generators: Sequence[torch.Generator],
        num_inference_steps: int,
        sampler: str = "",
        size: tuple[int, int] | None = None,
        on_step: Any = None,
    ) -> Tensor:
        """White."""
        return torch.ones(len(codes.lengths), 3, 8, 8)


def main(arguments: list[str]) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks code_decode")
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--words", type=int, default=32000)
    parser.add_argument("--codes", type=int, default=16384)
    parser.add_argument("--tokens", type=int, default=576, help="codes of a picture, a square number")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    llama = LlamaConfig(
        vocab_size=options.words,
        hidden_size=options.width,
        intermediate_size=3 * options.width,
        num_hidden_layers=options.layers,
        num_attention_heads=options.width // 64 or 1,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    print("| prompts | engine, tokens/s | Janus, tokens/s | ratio | aim |\n|---|---|---|---|---|")
    for batch, target in TARGETS.items():
        ways = {"engine": _engine(llama, options, batch=batch), "janus": _janus(llama, options, batch=batch)}
        seconds = _seconds(ways, rounds=options.rounds)
        speeds = {name: batch * options.tokens / statistics.median(found) for name, found in seconds.items()}
        ratio = speeds["engine"] / speeds["janus"]
        print(f"| {batch} | {speeds['engine']:.1f} | {speeds['janus']:.1f} | {ratio:.2f} | {target} |", flush=True)
    facts = environment() | {"threads": options.threads, **vars(options)}
    print("\n" + ", ".join(f"{key}: {value}" for key, value in facts.items()))


def _seconds(ways: dict[str, Callable[[], None]], *, rounds: int) -> dict[str, list[float]]:
    """Wall time of each way, after one round that is not counted."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            if number:
                found[name].append(time.perf_counter() - started)
    return found


def _engine(llama: LlamaConfig, options: argparse.Namespace, *, batch: int) -> Callable[[], None]:
    tokenizer = byte_tokenizer()
    vocabulary = Vocabulary.grow(options.words, roles=edge_roles("image"), codes={"image": options.codes})
    backbone = Backbone(LlamaForCausalLM(llama).eval(), num_added=vocabulary.num_added)
    assert backbone.added_output is not None, "input and output matrices are apart"
    with torch.no_grad():
        backbone.added_output.normal_(std=0.02)
        backbone.added_output[vocabulary.edges("image")[1] - options.words] = 0.0  # nothing ends early
    model = MultimodalLM(
        backbone,
        modalities={
            "image": Modality(
                quantizer=Numbers(num_codes=options.codes, max_length=options.tokens), detokenizer=Blank()
            )
        },
        vocabulary=vocabulary,
        template=Template.from_tokenizer(tokenizer.tokenizer, system=""),
        tokenizer=tokenizer,
    )
    engine = Engine(model, context_length=1024, kept_bytes=0, token_step=Fused(backbone))
    requests = [
        Request(
            Document.chat([("user", PROMPT)]), max_new_tokens=1, max_pictures=1, pictures=Pictures.NOW,
            guidance_scale=1.0, code_guidance_scale=5.0, num_inference_steps=1,
        )
        for _ in range(batch)
    ]  # fmt: skip

    def say() -> None:
        running = engine.running(num_rows=2 * batch)
        rows = running.add(requests)
        while running.step():
            pass
        assert all(len(row.codes) == options.tokens for row in rows)

    return say


def _janus(llama: LlamaConfig, options: argparse.Namespace, *, batch: int) -> Callable[[], None]:
    edge = round(options.tokens**0.5)
    vision = JanusVisionConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=edge * PATCH, patch_size=PATCH,
        projection_dim=options.width, num_image_tokens=options.tokens,
    )  # fmt: skip
    codebook = JanusVQVAEConfig(
        num_embeddings=options.codes, base_channels=32, channel_multiplier=(1,), num_res_blocks=1, latent_channels=32,
        projection_dim=options.width, image_token_embed_dim=options.width,
    )  # fmt: skip
    config = JanusConfig(
        text_config=llama.to_dict(), vision_config=vision.to_dict(), vq_config=codebook.to_dict(),
        tie_word_embeddings=False, image_token_id=5,
    )  # fmt: skip
    model: Any = JanusForConditionalGeneration(config).eval()
    model.generation_config.update(bos_token_id=1, eos_token_id=2, pad_token_id=0, do_sample=False, guidance_scale=5.0)
    model.generation_config.generation_kwargs = {"boi_token_id": 6}
    ids = torch.tensor([[1, *range(10, 10 + len(PROMPT) + 4), 6]] * batch)

    @torch.inference_mode()
    def say() -> None:
        found = model.generate(
            ids, attention_mask=torch.ones_like(ids), generation_mode="image", max_length=ids.shape[1] + options.tokens
        )
        assert found.shape == (batch, options.tokens)

    return say
