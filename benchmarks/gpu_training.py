"""Packed bfloat16 training of a 1.5B-class model on one card, and how long its pictures take. Random weights, no files.

    python -m benchmarks gpu_training             # one CUDA card
    python -m benchmarks gpu_training --dry-run   # the same code at tiny shapes, on the CPU, in a minute

A language model of the shape of Qwen2.5-1.5B, an encoder and a flow decoder are trained together, all weights, by
Limner's Trainer on ragged documents of words, of pictures that are read, and of pictures that are made. MFU counts the
arithmetic of the language model alone (6 per parameter and token, the output matrix at targets alone, attention within
documents): what encoder, decoder, padding and recomputation cost is not counted, and so lowers it.
"""

import argparse
import functools
import io
import json
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from PIL import Image as Pillow
from transformers import Qwen2Config, Qwen2ForCausalLM

from limner.backbone.hf import Backbone
from limner.data.mixture import FunctionSource, Mixture
from limner.document.document import Direction, Document, Media
from limner.document.media import Image
from limner.evaluate.report import environment
from limner.generate.engine import Engine
from limner.generate.request import Pictures, Request
from limner.generate.sampling import Sampling
from limner.modalities.base import Modality
from limner.modalities.decoders.autoencoder import PictureAutoencoder
from limner.modalities.decoders.flow import FlowDecoder
from limner.modalities.decoders.queries import LearnedQueries
from limner.modalities.encoders.convolutional import ConvolutionalEncoder
from limner.modalities.projectors import MLPProjector, Rowwise
from limner.model.multimodal import MultimodalLM
from limner.tokens.batch import IGNORED, Batch
from limner.tokens.template import Template
from limner.tokens.tokenizer import byte_tokenizer
from limner.tokens.vocabulary import Vocabulary, span_roles
from limner.train.execution import Execution
from limner.train.stage import BatchLoader, Packed, Stage, Trainable
from limner.train.trainer import Trainer

PEAKS = {
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H200": 989e12,
    "GH200": 989e12,
    "B200": 2250e12,
    "A100": 312e12,
    "L40S": 362e12,
    "RTX 4090": 165e12,
}
"""Part of a card's name -> dense bfloat16 operations per second, as its maker states them; the first match counts."""
TARGET = 0.5
WORDS = (
    "the",
    "red",
    "blue",
    "small",
    "large",
    "house",
    "tree",
    "river",
    "bird",
    "sings",
    "over",
    "field",
    "and",
    "then",
)
NUM_PICTURES = 64


@dataclass(frozen=True)
class Shapes:
    """How large everything is. `batch_sizes`: of drawing; `tokens`: written after each picture of a page."""

    language_model: dict[str, Any]
    picture: int = 256
    encoder_width: int = 256
    decoder_width: int = 768
    decoder_layers: int = 12
    num_queries: int = 64
    row_length: int = 4096
    num_rows: int = 4
    num_steps: int = 20
    warm_up: int = 5
    mean_words: int = 120
    inference_steps: int = 24
    batch_sizes: tuple[int, ...] = (1, 8)
    tokens: int = 64


FULL = Shapes(
    # Qwen2.5-1.5B's config.json.
    {
        "vocab_size": 151_936,
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32_768,
    }
)
TINY = Shapes(
    {
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
    },
    picture=64,
    encoder_width=16,
    decoder_width=32,
    decoder_layers=1,
    num_queries=4,
    row_length=512,
    num_rows=2,
    num_steps=4,
    warm_up=1,
    mean_words=12,
    inference_steps=4,
    batch_sizes=(1, 2),
    tokens=8,
)


def main(arguments: list[str]) -> None:
    """Train, then generate with what was trained."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks gpu_training")
    parser.add_argument("--dry-run", action="store_true", help="tiny shapes on the CPU")
    parser.add_argument("--rows", type=int, help="rows of a batch")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--workers", type=int, default=4, help="processes that read data ahead (none in a dry run)")
    parser.add_argument("--compile", action="store_true", help="torch.compile of the language model's layers")
    parser.add_argument("--activation-checkpointing", action="store_true")
    options = parser.parse_args(arguments)
    if not options.dry_run and not torch.cuda.is_available():
        print("gpu_training: no CUDA card here; the dry run follows (--dry-run)")
        options.dry_run = True
    if options.dry_run:
        torch.set_num_threads(1)  # at tiny shapes a second one costs more than it brings
    device = torch.device("cpu" if options.dry_run else "cuda")
    shapes = TINY if options.dry_run else FULL
    execution = Execution(
        device=device,
        activation_checkpointing=options.activation_checkpointing,
        num_workers=0 if options.dry_run else options.workers,
        compile_backend="inductor" if options.compile else None,
    )
    model = build_model(shapes, device=device)
    millions = _count(model.backbone) / 1e6
    print(f"{_name(device)}, torch {torch.__version__}, language model of {millions:,.1f}M weights")
    _train(model, shapes, execution, num_rows=options.rows or shapes.num_rows, num_steps=options.steps)
    _generate(model, shapes, device=device)
    print(", ".join(f"{key}: {value}" for key, value in environment().items()))


def build_model(shapes: Shapes, *, device: torch.device) -> MultimodalLM:
    """The model with random weights, float32 as it is trained."""
    torch.manual_seed(0)
    with device:  # a billion weights are drawn sooner where they are to stay
        model = _wired(shapes)
    return model.to(device)


def _wired(shapes: Shapes) -> MultimodalLM:
    tokenizer = byte_tokenizer()
    config = Qwen2Config(**shapes.language_model, tie_word_embeddings=True)
    config._attn_implementation = "sdpa"
    roles = span_roles("image", list(Direction))
    backbone = Backbone(Qwen2ForCausalLM(config), num_added=len(roles))
    encoder = ConvolutionalEncoder(image_size=shapes.picture, width=shapes.encoder_width, num_halvings=4)
    decoder = FlowDecoder(
        PictureAutoencoder(size=shapes.picture),
        condition_width=shapes.decoder_width,
        width=shapes.decoder_width,
        num_layers=shapes.decoder_layers,
    )
    image = Modality(
        encoder=encoder,
        input_projector=Rowwise(MLPProjector(width_in=encoder.width, width_out=backbone.d_model)),
        queries=LearnedQueries(num_queries=shapes.num_queries, width=backbone.d_model),
        output_projector=MLPProjector(width_in=backbone.d_model, width_out=decoder.condition_width),
        decoder=decoder,
    )
    return MultimodalLM(
        backbone,
        modalities={"image": image},
        vocabulary=Vocabulary.grow(backbone.base_size, roles=roles),
        template=Template.from_tokenizer(tokenizer.tokenizer, system=""),
        tokenizer=tokenizer,
    )


def mixture(shapes: Shapes) -> Mixture:
    """Pages of words alone, of pictures that are read and of pictures that are made, of ragged lengths."""
    pictures = _photographs(shapes.picture)

    def page(index: int, direction: Direction | None) -> Document:
        generator = numpy.random.default_rng([index, 0 if direction is None else 1 + list(Direction).index(direction)])
        number = max(2, int(generator.gamma(2.0, shapes.mean_words / 2.0)))
        text = " ".join(generator.choice(WORDS, size=min(number, 4 * shapes.mean_words)))
        if direction is None:
            return Document.page([text])
        media = Media(pictures[index % len(pictures)], directions=(direction,))
        return Document.page([media, text] if direction is Direction.IN else [text, media])

    directions = {"words": None, "read": Direction.IN, "made": Direction.OUT}
    sources = {name: FunctionSource(functools.partial(page, direction=d), 100_000) for name, d in directions.items()}
    return Mixture(sources, weights={"words": 6.0, "read": 3.0, "made": 1.0})


def _photographs(edge: int) -> list[Image]:
    generator = numpy.random.default_rng(0)
    found = []
    for _ in range(NUM_PICTURES):
        coarse = generator.integers(0, 256, size=(edge // 8, edge // 8, 3), dtype=numpy.uint8)
        stream = io.BytesIO()
        Pillow.fromarray(coarse).resize((edge, edge), Pillow.Resampling.BICUBIC).save(stream, format="JPEG")
        found.append(Image.from_bytes(stream.getvalue()))
    return found


class Observer:
    """A loader that notes what its batches ask of the language model, in floating-point operations."""

    def __init__(self, loader: BatchLoader, *, model: MultimodalLM) -> None:
        self.loader = loader
        self.model = model
        self.operations: list[float] = []

    def next_batch(self) -> Batch:
        """The loader's next batch."""
        batch = self.loader.next_batch()
        self.operations.append(operations(batch, model=self.model))
        return batch

    def state_dict(self) -> dict[str, Any]:
        """The loader's state."""
        return self.loader.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.loader.load_state_dict(state)


@dataclass(frozen=True)
class Observed(Packed):
    """Packed rows, whose loader is kept in `observers`."""

    observers: tuple[list[Observer], ...] = ([],)

    def loader(self, mixture: Mixture, *, model: MultimodalLM, **ranks: int) -> BatchLoader:
        """A packing loader behind an Observer."""
        self.observers[0].append(Observer(super().loader(mixture, model=model, **ranks), model=model))
        return self.observers[0][-1]


def operations(batch: Batch, *, model: MultimodalLM) -> float:
    """Floating-point operations of the language model for a batch, forward and backward (PaLM, appendix B)."""
    config = model.backbone.language_model.config
    matrix = config.vocab_size * config.hidden_size
    layers = _count(model.backbone.language_model) - matrix
    targets = int((batch.labels != IGNORED).sum())
    squares = sum(
        float((row == number).sum()) ** 2 for row in batch.documents for number in range(1, int(row.max()) + 1)
    )
    # Forward, scores and sums over values take 4 * length^2 * d_model a layer; a causal mask leaves half of that.
    attention = 6.0 * config.num_hidden_layers * config.hidden_size * squares
    return 6.0 * layers * batch.num_tokens + 6.0 * matrix * targets + attention


def _train(model: MultimodalLM, shapes: Shapes, execution: Execution, *, num_rows: int, num_steps: int | None) -> None:
    batching = Observed(row_length=shapes.row_length, num_rows=num_rows, observers=([],))
    stage = Stage(
        name="all",
        mixture=mixture(shapes),
        batching=batching,
        trainable=[
            Trainable("backbone.*", learning_rate=1e-4),
            Trainable("modalities.image.decoder.transformer.*", learning_rate=1e-4),
            *(Trainable(f"modalities.image.{part}.*", learning_rate=1e-4) for part in ("encoder", "*projector")),
            Trainable("modalities.image.queries.*", learning_rate=1e-4),
        ],
        num_steps=num_steps or shapes.num_steps,
        loss_weights={"text": 1.0, "image": 1.0},
        precision="bfloat16",
    )
    with tempfile.TemporaryDirectory(prefix="gpu-training-") as place:
        os.environ["LIMNER_FEATURES"] = str(Path(place) / "features")  # nothing is left behind in the user's cache
        Trainer(model, stage=stage, directory=Path(place), seed=0, execution=execution).run()
        lines = [json.loads(line) for line in (Path(place) / "metrics.jsonl").read_text().splitlines()]
    measured = lines[shapes.warm_up :]
    asked = batching.observers[0][0].operations[shapes.warm_up :]
    seconds = statistics.median(line["seconds"] for line in measured)
    total = sum(line["seconds"] for line in measured)
    tokens = sum(line["tokens"] for line in measured)
    waited = sum(line["seconds/data"] for line in measured)
    achieved = sum(asked) / total
    packed = statistics.mean(line["pack_efficiency"] for line in measured)
    peak = _peak(execution.device)
    print(f"training: {num_rows} rows of {shapes.row_length}, {len(measured)} steps of {seconds:.3f} s (median)")
    print(f"  tokens/s        {tokens / total:,.0f} (packed {packed:.3f})")
    print(f"  pictures/s      {sum(line.get('images', 0) for line in measured) / total:,.1f}")
    print(f"  waited for data {waited / total:.1%}")
    print(f"  model TFLOP/s   {achieved / 1e12:,.4g}")
    print(f"  MFU             {f'{achieved / peak:.1%} (target {TARGET:.0%})' if peak else 'no peak known for this'}")
    print(f"  peak memory     {_peak_memory(execution.device):.2f} GiB")
    print(f"  loss            {lines[0]['loss']:.2f} to {lines[-1]['loss']:.2f}")


def _generate(model: MultimodalLM, shapes: Shapes, *, device: torch.device) -> None:
    """Latency of pictures on request, and of a page whose words and pictures take turns."""
    # Inference in the type in which published language models are kept.
    model.backbone.language_model.to(torch.bfloat16)
    engine = Engine(model)

    def drawn(number: int) -> list[Request]:
        return [
            _request(Document.chat([("user", f"Draw bird {index}.")]), shapes, tokens=1, seed=index)
            for index in range(number)
        ]

    for number in shapes.batch_sizes:
        seconds = _timed(lambda requests: engine.run(requests), drawn(number), device=device)
        steps = f"{shapes.inference_steps} steps, {shapes.picture} px"
        print(f"text to image, {number} at once ({steps}, guided): {seconds:.2f} s, {number / seconds:.2f} pictures/s")
    seconds = _timed(lambda _: _page(engine, shapes), [], device=device)
    print(f"interleaved page (3 pictures, {3 * shapes.tokens} tokens, each picture read back): {seconds:.2f} s")


def _page(engine: Engine, shapes: Shapes) -> None:
    """Three times a picture, then words. Weights that say nothing would not begin pictures by themselves, so each is
    asked for, in a request of its own that reads the page so far again."""
    page = Document.page(["A bird sings. "])
    for turn in range(3):
        page = engine.run([_request(page, shapes, tokens=shapes.tokens, seed=turn)])[0]


def _request(document: Document, shapes: Shapes, *, tokens: int, seed: int) -> Request:
    return Request(
        document,
        max_new_tokens=tokens,
        max_pictures=1,
        sampling=Sampling(temperature=1.0),
        pictures=Pictures.NOW,
        num_inference_steps=shapes.inference_steps,
        seed=seed,
    )


def _timed(run: Any, requests: Sequence[Request], *, device: torch.device) -> float:
    """Seconds of the faster of two runs after one that warms up."""
    found = []
    for _ in range(3):
        started = time.perf_counter()
        run(requests)
        if device.type == "cuda":
            torch.cuda.synchronize()
        found.append(time.perf_counter() - started)
    return min(found[1:])


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "dry run on the CPU"


def _peak(device: torch.device) -> float | None:
    name = _name(device)
    return next((peak for part, peak in PEAKS.items() if part in name), None)


def _peak_memory(device: torch.device) -> float:
    """GiB that were taken at most: of the card, or of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
