"""Mixed text and image training against transfusion-pytorch: real tokens per second at equal parameters, in one run.

    python -m benchmarks transfusion --threads 2

Both train on the same captions, each followed by its picture: next-token loss on the text, flow-matching loss on the
picture's latents given the text. First texts of one length, then of log-normal lengths with that median, as captions
are: those are longer on average, so their steps also have a larger share of text, which is where ours does least work.
A real token is a byte of text or a position of the latent grid; begin and end tokens, the peer's shape tokens, padding
and our queries count for nobody. Timed are laying the documents out, forward, backward and the optimiser's step.

The same for both: ids and latents (made beforehand), documents of every step, float32, fused AdamW, no clipping, eager
mode, one noise level per picture, no dropped text; width, depth, heads and feed-forward width of the transformer that
reads text; and the number of trained parameters, as near as whole layers of our decoder allow.

What differs is where the pictures are made, so the ratio is one of two designs as they are, not of two kernels:

- transfusion-pytorch runs diffusion inside its one transformer. Every position, of text too, goes through time
  conditioning (AdaLN, more than half of its parameters), gates, skips and attention over all earlier layers; attention
  is bidirectional within a picture, with scores stored and soft-capped in plain torch (its fast path needs a GPU), over
  batches padded to the longest document. Text behind a picture would see it, noisy; here no text stands behind one.
- Limner's language model is a plain Llama that has `--queries` slots per picture, by default as many as the picture has
  latent positions, so that both transformers run over as many positions. Their hidden states condition a second
  transformer, the decoder, which runs over the latents alone. It holds what the language model lacks in parameters; no
  text passes through it. Documents are packed without padding and attended one by one, by torch's fused kernel.

The peer chooses among its ways to lay out a batch by timing them all on every batch of a new size, which ragged text
gives at every step; it is spared that, `--processing` names one. Steps of the two alternate in rounds, so that a
machine that is busy at times is busy for both; the figure is the median over the measured steps.
"""

import argparse
import importlib
import importlib.metadata
import logging
import math
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import PIL.Image
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from limner.backbone.hf import Backbone
from limner.data.collate import Collator
from limner.data.feature_store import MemoryStore
from limner.data.features import FeatureCache
from limner.document.document import Direction, Document, Media
from limner.document.media import Image
from limner.evaluate.report import environment
from limner.modalities.base import Modality
from limner.modalities.decoders.autoencoder import PictureAutoencoder
from limner.modalities.decoders.flow import FlowDecoder
from limner.modalities.decoders.queries import LearnedQueries
from limner.modalities.projectors import MLPProjector
from limner.model.multimodal import MultimodalLM
from limner.tokens.sequence import Sequence as Rendered
from limner.tokens.template import Template
from limner.tokens.tokenizer import byte_tokenizer
from limner.tokens.vocabulary import Vocabulary, span_roles

PEER = "transfusion-pytorch"
TARGETS = {"uniform": 3.0, "ragged": 4.0}
CHANNELS = 16
"""Of the latents."""
DOWNSAMPLING = 8
"""Pixels per edge of a latent position."""


class Example(NamedTuple):
    """A captioned picture for both: rendered for Limner; ids [tokens] and latents [positions channels] for the peer."""

    rendered: Rendered
    text: Tensor
    latents: Tensor

    @property
    def num_tokens(self) -> int:
        """Real tokens."""
        return len(self.text) + len(self.latents)


Step = Sequence[Example]


@dataclass
class Contender:
    """Something to train: its loss of a step's examples, and the speeds of the measured steps in real tokens/s."""

    name: str
    model: nn.Module
    loss: Callable[[Step], Tensor]
    optimizer: torch.optim.Optimizer
    speeds: list[float] = field(default_factory=list)

    def train(self, examples: Step) -> float:
        """Take a step and give its real tokens per second."""
        started = time.perf_counter()
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(examples)
        loss.backward()
        self.optimizer.step()
        seconds = time.perf_counter() - started
        assert math.isfinite(loss.item()), f"the loss of {self.name} is not finite"
        return sum(example.num_tokens for example in examples) / seconds


def main(arguments: list[str]) -> None:
    """Train both in turns, and print their real tokens per second and the ratios; without the peer, say so."""
    options = _options(arguments)
    try:
        package = importlib.import_module("transfusion_pytorch")
    except ImportError:
        print(f"{PEER} is not installed, hence nothing to compare with: pip install -r benchmarks/requirements.txt")
        return
    logging.disable(logging.WARNING)
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    peer = _transfusion(package, options)
    ours = _of_equal_parameters(_num_parameters(peer), options)
    _print_models(ours, peer, options)
    optimizer = {"lr": options.learning_rate, "betas": (0.9, 0.98), "fused": True}
    cache = FeatureCache(ours, open_store=_in_memory)
    for text, target in TARGETS.items():
        draw = random.Random(options.seed)
        num_steps = options.rounds * (options.steps + 1)
        steps = [_examples(text, draw, model=ours, cache=cache, options=options) for _ in range(num_steps)]
        limner = Contender("Limner", ours, _loss(ours, cache), torch.optim.AdamW(_trained(ours), **optimizer))
        other = Contender(PEER, peer, _peer_loss(peer), torch.optim.AdamW(_trained(peer), **optimizer))
        _alternate([limner, other], steps, options)
        _print(text, limner, other, steps, target=target)
    print(", ".join(f"{key}: {value}" for key, value in environment().items()))


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks transfusion")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3, help="measured steps of a round; one before them is not")
    parser.add_argument("--batch", type=int, default=8, help="captioned pictures per step")
    parser.add_argument("--median", type=float, default=120.0, help="(median) length of a text, in bytes")
    parser.add_argument("--spread", type=float, default=1.0, help="standard deviation of its logarithm, where ragged")
    parser.add_argument("--longest", type=int, default=1024)
    parser.add_argument("--d-model", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--grid", type=int, default=8, help="latent positions per edge of a picture")
    parser.add_argument("--queries", type=int, default=None, help="ours, per picture; default: grid * grid")
    parser.add_argument("--processing", default="grouped", help="the peer's modality_processing")
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--threads", type=int, default=None, help="default: torch's own choice")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    options.queries = options.queries or options.grid**2
    return options


def _feed_forward(options: argparse.Namespace) -> int:
    """Inner width of the peer's gated feed-forward layers, which ours take over."""
    return options.d_model * 8 // 3


def _transfusion(package: Any, options: argparse.Namespace) -> nn.Module:
    """The peer with its defaults, but for sizes and text that it would drop for guidance."""
    return package.Transfusion(
        num_text_tokens=len(byte_tokenizer().tokenizer),
        dim_latent=CHANNELS,
        modality_default_shape=(options.grid**2,),
        transformer={
            "dim": options.d_model,
            "depth": options.layers,
            "heads": options.d_model // 64,
            "dim_head": 64,
        },
        prob_uncond=0.0,
        modality_processing=options.processing,
    ).train()


def _limner(options: argparse.Namespace, *, decoder_layers: int) -> MultimodalLM:
    """Limner's wiring of a language model that draws and does not read pictures: none of the documents asks it to."""
    tokenizer = byte_tokenizer()
    num_ids = len(tokenizer.tokenizer)
    config = LlamaConfig(
        vocab_size=num_ids,
        hidden_size=options.d_model,
        intermediate_size=_feed_forward(options),
        num_hidden_layers=options.layers,
        num_attention_heads=options.d_model // 64,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
    )
    roles = span_roles("image", [Direction.OUT])
    width = options.d_model
    autoencoder = PictureAutoencoder(size=DOWNSAMPLING * options.grid, latent_channels=CHANNELS)
    decoder = FlowDecoder(
        autoencoder,
        condition_width=width,
        width=width,
        num_layers=decoder_layers,
        num_heads=width // 64,
        patch_size=1,
        draws_per_item=1,
    )
    image = Modality(
        queries=LearnedQueries(num_queries=options.queries, width=width),
        output_projector=MLPProjector(width_in=width, width_out=width),
        decoder=decoder,
    )
    return MultimodalLM(
        Backbone(LlamaForCausalLM(config), num_added=len(roles)),
        modalities={"image": image},
        vocabulary=Vocabulary.grow(num_ids, roles=roles),
        template=Template.from_tokenizer(tokenizer.tokenizer, system=""),
        tokenizer=tokenizer,
    ).train()


def _of_equal_parameters(num_parameters: int, options: argparse.Namespace) -> MultimodalLM:
    """Limner with as many layers of the decoder as bring it nearest to `num_parameters`."""
    one, two = (_num_parameters(_limner(options, decoder_layers=count)) for count in (1, 2))
    return _limner(options, decoder_layers=max(1, 1 + round((num_parameters - one) / (two - one))))


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _num_parameters(model: nn.Module) -> int:
    """Trained ones: our autoencoder is frozen, and neither runs in a step nor has a counterpart."""
    return sum(parameter.numel() for parameter in _trained(model))


def _in_memory(part: Any) -> MemoryStore:
    return MemoryStore()


def _examples(
    text: str, draw: random.Random, *, model: MultimodalLM, cache: FeatureCache, options: argparse.Namespace
) -> list[Example]:
    """The examples of a step, whose latents the cache then holds."""
    spread = options.spread if text == "ragged" else 0.0
    lengths = [draw.lognormvariate(math.log(options.median), spread) for _ in range(options.batch)]
    return [
        _example(min(options.longest, max(8, round(length))), draw, model=model, cache=cache, options=options)
        for length in lengths
    ]


def _example(
    length: int, draw: random.Random, *, model: MultimodalLM, cache: FeatureCache, options: argparse.Namespace
) -> Example:
    edge = DOWNSAMPLING * options.grid
    picture = Image.from_pil(PIL.Image.frombytes("RGB", (edge, edge), draw.randbytes(3 * edge * edge)))
    text = "".join(draw.choices("abcdefgh ", k=length))
    made = Media(picture, directions=(Direction.OUT,))
    rendered = model.render(Document.page([text, made]), key=f"captions/{draw.getrandbits(32)}/0")
    (latents,) = cache.features([made], direction=Direction.OUT)
    ids = torch.tensor(model.tokenizer.text_ids(text))
    return Example(rendered, ids, latents.flatten(1).T.contiguous())


def _loss(model: MultimodalLM, cache: FeatureCache) -> Callable[[Step], Tensor]:
    """Ours: all documents of a step share one row."""
    collate = Collator(model, cache=cache)

    def loss(examples: Step) -> Tensor:
        batch = collate([[example.rendered for example in examples]])
        terms = model(batch, noise_key=("transfusion", examples[0].rendered.key))
        return torch.stack([term.mean for term in terms.values()]).sum()

    return loss


def _peer_loss(model: nn.Module) -> Callable[[Step], Tensor]:
    return lambda examples: model([[example.text, example.latents] for example in examples])


def _alternate(contenders: list[Contender], steps: list[list[Example]], options: argparse.Namespace) -> None:
    """Rounds in which each contender trains on the same steps; the first step of its turn is not measured."""
    size = options.steps + 1
    for start in range(0, len(steps), size):
        for contender in contenders:
            contender.speeds += [contender.train(examples) for examples in steps[start : start + size]][1:]


def _print_models(ours: MultimodalLM, peer: nn.Module, options: argparse.Namespace) -> None:
    maker = ours.maker("image")
    decoder, language = _num_parameters(maker.decoder), _num_parameters(ours.backbone)
    total = _num_parameters(ours)
    version, blocks = importlib.metadata.version(PEER), len(maker.decoder.transformer.transformer_blocks)
    heads = options.d_model // 64
    print(f"transformers for text: {options.layers} layers, width {options.d_model}, {heads} heads")
    print(f"Limner: {total:,} parameters: language model {language:,}, decoder of {blocks} layers {decoder:,}", end="")
    print(f", queries and projector {total - language - decoder:,}; {options.queries} queries per picture")
    print(f"{PEER} {version}: {_num_parameters(peer):,} parameters; processing `{options.processing}`")
    print(f"{options.batch} captioned pictures a step, {options.grid**2} latent positions of {CHANNELS} channels each")


def _print(text: str, ours: Contender, peer: Contender, steps: list[list[Example]], *, target: float) -> None:
    real = sum(example.num_tokens for examples in steps for example in examples)
    room = sum(len(examples) * max(example.num_tokens for example in examples) for examples in steps)
    speeds = [statistics.median(contender.speeds) for contender in (ours, peer)]
    ranges = [f"{min(contender.speeds):.0f}-{max(contender.speeds):.0f}" for contender in (ours, peer)]
    print(f"\n{text} text: {real / len(steps):.0f} real tokens a step, {real / room:.0%} of a padded batch")
    for contender, speed, between in zip((ours, peer), speeds, ranges, strict=True):
        print(f"{contender.name}: {speed:.0f} real tokens/s ({between} over {len(contender.speeds)} steps)")
    print(f"ratio of real tokens/s, {text}: {speeds[0] / speeds[1]:.2f} (target: {target})")
