"""What the feature cache brings in stage I (reading): seconds per epoch with and without it, and the losses of both.

    python -m benchmarks feature_cache

Prints a Markdown table. The encoder is transformers' CLIP vision tower at the shape of ViT-B/16 (86 M parameters, 224
pixels, 196 rows), the language model a small Llama over bytes; both have random weights, which cost what trained ones
do. Pictures are JPEGs of 640 x 480. Trained is the input projector, through the frozen language model.

The cache takes the encoder's share out of an epoch and nothing else, so the figure is that of this pair: where the
language model costs c times what the encoder costs, the gain is (1 + c) / c. That is why the sizes are printed.
"""

import argparse
import functools
import io
import os
import tempfile
import time
from dataclasses import dataclass

import numpy
import PIL.Image
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel

from limner.compositions.illustrator import scratch_illustrator
from limner.data.collate import Collator
from limner.data.feature_store import ROOT_VARIABLE, NoStore
from limner.data.features import FeatureCache, OpenStore, disk_store
from limner.data.loader import Loader
from limner.data.mixture import FunctionSource, Mixture
from limner.document.document import Document
from limner.document.media import Image
from limner.evaluate.report import environment
from limner.modalities.decoders.autoencoder import PictureAutoencoder
from limner.modalities.decoders.flow import FlowDecoder
from limner.modalities.encoders.vision_tower import PictureProcessor, VisionTower
from limner.model.multimodal import MultimodalLM
from limner.tokens.batch import Batch

NUM_EPOCHS = 2
ROWS_PER_BATCH = 2
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class RandomClip(VisionTower):
    """A CLIP tower that was read from nowhere."""

    first_patch = 1


@dataclass
class Epoch:
    """One epoch: wall and processor seconds, the loss of every step."""

    wall: float
    processor: float
    losses: list[float]


def main(arguments: list[str]) -> None:
    """Train two epochs with each way of encoding; print the second."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks feature_cache")
    parser.add_argument("--pictures", type=int, default=16)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        os.environ[ROOT_VARIABLE] = folder
        ways: dict[str, OpenStore | None] = {
            "no cache, items alone": lambda part: NoStore(),
            "no cache, batches": None,
            "cache on disk": disk_store,
        }
        runs = {name: _train(open_store, num_pictures=options.pictures) for name, open_store in ways.items()}
        kept = sum(file.stat().st_size for file in os.scandir(next(os.scandir(folder)))) / 1e6
    alone, batches, cached = runs.values()
    print("| stage I, seconds per epoch | epoch 1 | epoch 2 | epoch 2, processor time |\n|---|---|---|---|")
    for name, (first, second) in runs.items():
        print(f"| {name} | {first.wall:.2f} | {second.wall:.2f} | {second.processor:.2f} |")
    for name, run in list(runs.items())[:2]:
        wall, processor = run[1].wall / cached[1].wall, run[1].processor / cached[1].processor
        print(f"\nepoch 2 with the cache against {name}: {wall:.1f} times faster ({processor:.1f} in processor time)")
    same = [epoch.losses for epoch in alone] == [epoch.losses for epoch in cached]
    pairs = zip(alone[1].losses, batches[1].losses, strict=True)
    away = max(abs(one - two) / abs(one) for one, two in pairs)
    print(f"\nlosses of all steps bit-identical with and without the cache: {same}")
    print(f"\nlargest relative difference of a loss where the encoder runs in batches: {away:.1e}")
    print(f"\n{options.pictures} pictures, {kept:.1f} MB of features; {_sizes(_model())}")
    print("\n" + ", ".join(f"{key}: {value}" for key, value in environment().items()))


def _train(open_store: OpenStore | None, *, num_pictures: int) -> list[Epoch]:
    """Epochs of training the input projector from the same start. None: the model's own forward runs the encoder."""
    model = _model().requires_grad_(False)
    trained = list(model.reader("image").input_projector.requires_grad_(True).parameters())
    optimizer = torch.optim.AdamW(trained, lr=1e-3)
    loader = Loader(
        Mixture({"described": FunctionSource(_described, num_pictures)}),
        render=model.render,
        collate=Collator(model, cache=None if open_store is None else FeatureCache(model, open_store=open_store)),
        row_length=640,
        num_rows=ROWS_PER_BATCH,
        # A window is an epoch: no row holds documents of two.
        window=num_pictures,
    )
    for index in range(num_pictures):
        model.render(_described(index))  # what is made or prepared once is no part of an epoch
    epochs: list[Epoch] = []
    for number in range(NUM_EPOCHS):
        started, started_processor = time.perf_counter(), time.process_time()
        losses: list[float] = []
        while loader.state_dict()["window"] == number:
            losses.append(_step(model, loader.next_batch(), optimizer, step=len(losses)))
        epochs.append(Epoch(time.perf_counter() - started, time.process_time() - started_processor, losses))
    return epochs


def _step(model: MultimodalLM, batch: Batch, optimizer: torch.optim.Optimizer, *, step: int) -> float:
    optimizer.zero_grad()
    loss = model(batch, noise_key=(0, step), made=())["text"].mean
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def _model() -> MultimodalLM:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = CLIPVisionConfig(
            hidden_size=768,
            intermediate_size=3072,
            num_hidden_layers=12,
            num_attention_heads=12,
            image_size=224,
            patch_size=16,
        )
        processor = PictureProcessor(crop=(224, 224), shortest_edge=224, mean=CLIP_MEAN, std=CLIP_STD)
        model = scratch_illustrator(
            encoder=RandomClip(CLIPVisionModel(config), select_layer=-2, processor=processor),
            # Not run here: the documents make nothing.
            decoder=FlowDecoder(PictureAutoencoder(size=32, channels=(16, 16), latent_channels=4), width=32),
            num_queries=4,
            d_model=256,
            num_layers=4,
            num_heads=4,
            context_length=1024,
        )
    return model.eval()


def _sizes(model: MultimodalLM) -> str:
    encoder, language_model = (
        sum(parameter.numel() for parameter in part.parameters()) / 1e6
        for part in (model.reader("image").encoder, model.backbone)
    )
    return f"encoder {encoder:.1f} M parameters, language model {language_model:.1f} M"


@functools.cache
def _described(index: int) -> Document:
    """A question about a picture of its own, and an answer of some length. Made once, as a file would be."""
    rng = numpy.random.default_rng(index)
    coarse = PIL.Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=numpy.uint8))
    stream = io.BytesIO()
    coarse.resize((640, 480), PIL.Image.Resampling.BICUBIC).save(stream, format="JPEG", quality=90)
    picture = Image.from_bytes(stream.getvalue(), name=f"{index}.jpg")
    return Document.chat([("user", [picture, "What is shown?"]), ("assistant", f"Colours, number {index}. " * 2)])
