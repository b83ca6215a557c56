"""Interleaved documents, text and pictures in turns, against transfusion-pytorch: documents per second, in one run.

    python -m benchmarks interleaved --threads 2

A document is a prompt, then `--text` tokens and a picture, `--pictures` times, then as many tokens and its end. Both
write the very same tokens at the very same places: what each of them samples is replaced once it was sampled. Timed is
all from the prompt to the last picture's pixels, for one stream and for four.

The same for both: width, depth, heads and feed-forward width of the transformer that writes; the number of parameters,
as near as whole layers of our decoder allow (autoencoders left out); prompts; text tokens; `--grid` ** 2 positions of
a picture's latents; `--steps` Euler steps per picture under guidance; the autoencoder that turns latents into pixels;
float32, eager mode.

What differs is the design:

- transfusion-pytorch makes a picture inside its one transformer, which attends to everything before at every step, and
  keeps the last step's keys and values as the picture's. Its `sample_one` recomputes the whole document at every token
  by default; `cache_kv=True` is measured beside it. `sample_many` runs streams together and always caches. For guidance
  it runs the document with its text erased through the model again for every picture.
- Limner's language model runs `--queries` rows for a picture (default: as many as latent positions), a second
  transformer draws from their hidden states, and an encoder reads the finished pixels back as as many rows again. The
  unconditional branch is one constant. Rows are cached; streams run together.

The peer's own solver evaluates the velocity twice per step: `--method midpoint` gives it that, with as many steps. So
would a user compare both at their defaults, but it is twice the work. Contenders take turns in rounds: a machine
that is busy at times is busy for all. The figure is the median.
"""

import argparse
import functools
import importlib
import importlib.metadata
import statistics
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from limner.backbone.hf import Backbone
from limner.document.document import Direction, Document
from limner.evaluate.report import environment
from limner.generate import writing
from limner.generate.engine import Engine
from limner.generate.request import Request
from limner.generate.sampling import Sampling
from limner.modalities.base import Modality
from limner.modalities.decoders.autoencoder import PictureAutoencoder
from limner.modalities.decoders.flow import FlowDecoder
from limner.modalities.decoders.queries import LearnedQueries
from limner.modalities.encoders.convolutional import ConvolutionalEncoder
from limner.modalities.projectors import MLPProjector, Rowwise
from limner.model.multimodal import MultimodalLM
from limner.tokens.template import Template
from limner.tokens.tokenizer import byte_tokenizer
from limner.tokens.vocabulary import Vocabulary, span_roles

PEER = "transfusion-pytorch"
GUIDANCE = 3.0
CHANNELS = 16
"""Of the latents."""
HALVINGS = 3
"""2 ** HALVINGS pixels per edge of a latent position, and per edge of a row that is read back."""
LETTER = "a"
SLOW = "sample_one"
"""A contender that is measured once: it takes minutes."""


class Pixels(nn.Module):
    """Our autoencoder as the peer's: latents [items positions channels] -> pixels."""

    def __init__(self, autoencoder: PictureAutoencoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, latents: Tensor) -> Tensor:
        """RGB in [-1, 1]."""
        return self.autoencoder.decode(latents.mT.unflatten(2, self.autoencoder.latent_shape[1:]))


def main(arguments: list[str]) -> None:
    """Write documents with both in turns, and print times and ratios; without the peer, say so."""
    options = _options(arguments)
    try:
        package = importlib.import_module("transfusion_pytorch")
        _silence(importlib.import_module("transfusion_pytorch.transfusion"))
    except ImportError:
        print(f"{PEER} is not installed, hence nothing to compare with: pip install -r benchmarks/requirements.txt")
        return
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    autoencoder = PictureAutoencoder(size=options.grid << HALVINGS, latent_channels=CHANNELS).eval()
    peer = _transfusion(package, autoencoder, options)
    ours = _of_equal_parameters(_num_parameters(peer), autoencoder, options)
    _print_models(ours, peer, options)
    many = options.streams
    contenders: dict[str, Callable[[], None]] = {
        "Limner, one stream": lambda: _limner_writes(ours, 1, options),
        SLOW: lambda: _peer_writes_one(peer, options, cache_kv=False),
        "sample_one, cache_kv=True": lambda: _peer_writes_one(peer, options, cache_kv=True),
        f"Limner, {many} streams": lambda: _limner_writes(ours, many, options),
        f"sample_many, {many} streams": lambda: _peer_writes_many(peer, options),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(options.rounds + 1):
        for name, write in contenders.items():
            if name == SLOW and number != 1:
                continue
            started = time.perf_counter()
            write()
            if number:  # the first round prepares kernels
                seconds[name].append(time.perf_counter() - started)
    _print(seconds, options)


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks interleaved")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--streams", type=int, default=4)
    parser.add_argument("--prompt", type=int, default=64, help="tokens of a prompt")
    parser.add_argument("--text", type=int, default=64, help="tokens before each picture and after the last")
    parser.add_argument("--pictures", type=int, default=6, help="6 is what DreamLLM's context of 2048 holds")
    parser.add_argument("--steps", type=int, default=16, help="per picture; ours evaluates the velocity once in each")
    parser.add_argument("--d-model", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--grid", type=int, default=8, help="latent positions per edge of a picture")
    parser.add_argument("--queries", type=int, default=None, help="ours, per picture; default: grid * grid")
    parser.add_argument("--method", choices=("euler", "midpoint"), default="euler", help="the peer's solver")
    parser.add_argument("--threads", type=int, default=None, help="default: torch's own choice")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    options.queries = options.queries or options.grid**2
    return options


def _silence(module: Any) -> None:
    """No bar per token, no word per document."""
    module.tqdm = functools.partial(module.tqdm, disable=True)
    module.logger.disable("transfusion_pytorch")


def _transfusion(package: Any, autoencoder: PictureAutoencoder, options: argparse.Namespace) -> nn.Module:
    """The peer with its defaults, but for sizes, the solver and a decoder to pixels."""
    return package.Transfusion(
        num_text_tokens=len(byte_tokenizer().tokenizer),
        dim_latent=CHANNELS,
        modality_default_shape=(options.grid**2,),
        modality_decoder=Pixels(autoencoder),
        modality_encoder_decoder_requires_batch_dim=False,
        odeint_kwargs={"method": options.method},
        transformer={
            "dim": options.d_model,
            "depth": options.layers,
            "heads": options.d_model // 64,
            "dim_head": 64,
        },
    ).eval()


def _limner(autoencoder: PictureAutoencoder, options: argparse.Namespace, *, decoder_layers: int) -> MultimodalLM:
    """Limner's wiring of a language model that draws and reads back what it drew."""
    tokenizer = byte_tokenizer()
    num_ids, width = len(tokenizer.tokenizer), options.d_model
    config = LlamaConfig(
        vocab_size=num_ids,
        hidden_size=width,
        intermediate_size=width * 8 // 3,  # the peer's gated layers
        num_hidden_layers=options.layers,
        num_attention_heads=width // 64,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
    )
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
        encoder=ConvolutionalEncoder(image_size=autoencoder.size, width=width // 2, num_halvings=HALVINGS),
        input_projector=Rowwise(MLPProjector(width_in=width // 2, width_out=width)),
        queries=LearnedQueries(num_queries=options.queries, width=width),
        output_projector=MLPProjector(width_in=width, width_out=width),
        decoder=decoder,
    )
    roles = span_roles("image", [Direction.IN, Direction.OUT])
    return MultimodalLM(
        Backbone(LlamaForCausalLM(config), num_added=len(roles)),
        modalities={"image": image},
        vocabulary=Vocabulary.grow(num_ids, roles=roles),
        template=Template.from_tokenizer(tokenizer.tokenizer, system=""),
        tokenizer=tokenizer,
    ).eval()


def _of_equal_parameters(
    num_parameters: int, autoencoder: PictureAutoencoder, options: argparse.Namespace
) -> MultimodalLM:
    """Limner with as many layers of the decoder as bring it nearest to `num_parameters`."""
    one, two = (_num_parameters(_limner(autoencoder, options, decoder_layers=count)) for count in (1, 2))
    layers = max(1, 1 + round((num_parameters - one) / (two - one)))
    return _limner(autoencoder, options, decoder_layers=layers)


def _num_parameters(model: nn.Module) -> int:
    """All but the autoencoder's, which both share."""
    return sum(parameter.numel() for name, parameter in model.named_parameters() if "autoencoder." not in name)


def _limner_writes(model: MultimodalLM, num_streams: int, options: argparse.Namespace) -> None:
    begin = model.vocabulary.span("image", Direction.OUT).begin
    (letter,) = model.tokenizer.text_ids(LETTER)
    script = _script(options, letter=letter, begin=begin, end=model.tokenizer.eos_ids[0])
    choose = writing.next_tokens

    def scripted(logits: Tensor, *, said: list[list[int]], **rest: Any) -> list[int]:
        choose(logits, said=said, **rest)
        return [script[len(words)] for words in said]

    requests = [
        Request(
            Document.page([LETTER * options.prompt]),
            sampling=Sampling(temperature=1.0),
            max_new_tokens=len(script),
            max_pictures=options.pictures,
            guidance_scale=GUIDANCE,
            num_inference_steps=options.steps,
            seed=number,
        )
        for number in range(num_streams)
    ]
    with mock.patch.object(writing, "next_tokens", scripted):
        replies = Engine(model, context_length=4096).run(requests)
    for reply in replies:
        assert len(list(reply.media())) == options.pictures
        assert len(reply.messages[-1].text) == options.prompt + (options.pictures + 1) * options.text


def _script(options: argparse.Namespace, *, letter: int, begin: int, end: int) -> list[int]:
    """Tokens of a document behind its prompt, pictures left out."""
    return ([letter] * options.text + [begin]) * options.pictures + [letter] * options.text + [end]


def _peer_writes_one(peer: Any, options: argparse.Namespace, *, cache_kv: bool) -> None:
    with _scripted(peer, options, num_first=0):
        reply = peer.sample_one(_peer_prompt(options), cache_kv=cache_kv, **_peer_sampling(options))
    _check_peer(reply, options)


def _peer_writes_many(peer: Any, options: argparse.Namespace) -> None:
    with _scripted(peer, options, num_first=options.streams):
        replies = peer.sample_many([_peer_prompt(options) for _ in range(options.streams)], **_peer_sampling(options))
    for reply in replies:
        _check_peer(reply, options)


def _peer_prompt(options: argparse.Namespace) -> list[Tensor]:
    return [torch.full((options.prompt,), byte_tokenizer().text_ids(LETTER)[0])]


def _peer_sampling(options: argparse.Namespace) -> dict[str, Any]:
    # n steps have n + 1 ends.
    return {"max_length": 10**6, "modality_steps": options.steps + 1, "cfg_scale": GUIDANCE}


def _scripted(peer: Any, options: argparse.Namespace, *, num_first: int) -> Any:
    """The peer's choice of tokens, replaced once it is made.

    `sample_many` chooses its streams' first tokens one by one, then all of a place at once.
    """
    letter = byte_tokenizer().text_ids(LETTER)[0]
    script = _script(options, letter=letter, begin=peer.som_ids[0], end=peer.eos_id)
    module = importlib.import_module("transfusion_pytorch.transfusion")
    choose, calls = module.sample_text_token, 0

    def scripted(*arguments: Any, **rest: Any) -> Tensor:
        nonlocal calls
        place = calls if not num_first else max(0, calls - num_first + 1)
        calls += 1
        return choose(*arguments, **rest).fill_(script[place])

    return mock.patch.object(module, "sample_text_token", scripted)


def _check_peer(reply: list[Any], options: argparse.Namespace) -> None:
    texts = [part for part in reply if isinstance(part, Tensor)]
    assert len(reply) - len(texts) == options.pictures
    edges = 2 + 2 * options.pictures  # of the document and of its pictures
    assert sum(len(text) for text in texts) == edges + options.prompt + (options.pictures + 1) * options.text


def _print_models(ours: MultimodalLM, peer: nn.Module, options: argparse.Namespace) -> None:
    blocks = len(ours.maker("image").decoder.transformer.transformer_blocks)
    language = _num_parameters(ours.backbone)
    print(f"transformers for text: {options.layers} layers, width {options.d_model}, {options.d_model // 64} heads")
    print(f"Limner: {_num_parameters(ours):,} parameters: language model {language:,}, decoder of {blocks} layers")
    version = importlib.metadata.version(PEER)
    print(f"{PEER} {version}: {_num_parameters(peer):,} parameters, solver {options.method}")
    print(
        f"a document: {options.prompt} tokens of prompt, {options.pictures} pictures of {options.grid**2} positions "
        f"and {options.steps} steps, {(options.pictures + 1) * options.text} tokens written"
    )


def _print(seconds: dict[str, list[float]], options: argparse.Namespace) -> None:
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    for name, found in seconds.items():
        print(f"{name}: {medians[name]:.3f} s ({min(found):.3f}-{max(found):.3f} over {len(found)} rounds)")
    many = options.streams
    one, together = medians["Limner, one stream"], medians[f"Limner, {many} streams"]
    plain, cached = medians[SLOW], medians["sample_one, cache_kv=True"]
    print(f"ratio to sample_one, one stream: {plain / one:.2f} ({cached / one:.2f} with its cache_kv)")
    print(
        f"ratio to sample_one, {many} streams: {plain * many / together:.2f} "
        f"({cached * many / together:.2f} with its cache_kv) (target: 10)"
    )
    print(f"ratio to sample_many, {many} streams: {medians[f'sample_many, {many} streams'] / together:.2f} (target: 4)")
    print(", ".join(f"{key}: {value}" for key, value in environment().items()))
