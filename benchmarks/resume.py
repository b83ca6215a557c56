"""How long a stopped run takes to its first new step, and what it reads again: Limner beside transformers' Trainer.

    python -m benchmarks resume --steps 0 100 500 2000 --compared 500

A tiny model reads JPEGs with captions, `NUM_ROWS` a step, and is stopped after each of the steps; the clock runs from
making the trainer to the end of the first new step (the model is there already). Pictures decoded are counted where
they are decoded. transformers' Trainer trains on the same documents in the same order as an IterableDataset, the form
in which data that does not fit into memory is given to it; its resumption is its own default.
"""

import argparse
import io
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy
import torch
import transformers
from PIL import Image as Pillow
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from limner.compositions.illustrator import scratch_illustrator
from limner.data.mixture import FunctionSource, Mixture
from limner.document.document import Direction, Document, Media
from limner.document.media import Image
from limner.evaluate.report import environment
from limner.modalities.base import Features
from limner.modalities.decoders.autoencoder import PictureAutoencoder
from limner.modalities.decoders.flow import FlowDecoder
from limner.modalities.encoders.convolutional import ConvolutionalEncoder
from limner.model.multimodal import MultimodalLM
from limner.train.objectives import Multimodal
from limner.train.stage import Packed, Stage, Trainable
from limner.train.trainer import Trainer

NUM_ROWS = 8
"""Documents of a step, a picture each."""
NUM_PICTURES = 256
"""Different JPEGs; documents are as many as are asked for."""
PIXELS = 256
ROW_LENGTH = 96
TARGET = 14.0
"""How much sooner than transformers' Trainer the first new step is to come."""


class CountingEncoder(ConvolutionalEncoder):
    """Notes the name of every picture that it decodes."""

    def __init__(self) -> None:
        super().__init__(image_size=64, width=16, num_halvings=4)
        self.decoded: list[str] = []

    def preprocess(self, media: Media) -> Tensor:
        """As its base."""
        self.decoded.append(media.content.name)
        return super().preprocess(media)


@dataclass(frozen=True)
class Resumption:
    """Seconds to the first new step, and the pictures that were decoded for it."""

    seconds: float
    decoded: list[str]


def main(arguments: list[str]) -> None:
    """Train once, resume at each step, compare at one."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks resume")
    parser.add_argument("--steps", type=int, nargs="+", default=[0, 100, 500, 2000])
    parser.add_argument("--compared", type=int, default=500, help="step at which transformers' Trainer is resumed")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    mixture = Mixture({"photographs": FunctionSource(_documents(), 1_000_000)})
    model = _model()
    with tempfile.TemporaryDirectory(prefix="resume-") as place:
        folder = Path(place)
        os.environ["LIMNER_FEATURES"] = str(folder / "features")  # nothing is left behind in the user's cache
        steps = sorted({*options.steps, options.compared})
        marks = _train(model, mixture, folder / "whole", steps=steps)
        whole = list(_encoder(model).decoded)
        print("| resumed at step | seconds to the first new step | decoded for it | decoded twice | as uninterrupted |")
        print("|---|---|---|---|---|")
        seconds = {}
        for step in steps:
            found = min((_resume(model, mixture, folder, step=step) for _ in range(options.rounds)), key=_seconds)
            twice = len(set(found.decoded) & set(whole[: marks[step]]))
            same = found.decoded == whole[marks[step] : marks[step + 1]]
            seconds[step] = found.seconds
            print(f"| {step} | {found.seconds:.2f} | {len(found.decoded)} | {twice} | {'yes' if same else 'NO'} |")
        peer = _transformers(model, mixture, folder / "transformers", step=options.compared, rounds=options.rounds)
    print(f"latest / earliest: {seconds[steps[-1]] / seconds[steps[0]]:.2f}x")
    twice = len(set(peer.decoded) & set(whole[: options.compared * NUM_ROWS]))
    print(f"transformers' Trainer at step {options.compared}: {peer.seconds:.2f} s, {twice} pictures decoded twice")
    ratio = peer.seconds / seconds[options.compared]
    print(f"Limner is {ratio:.1f}x as fast to its first new step (target {TARGET:.0f}x)")
    print(", ".join(f"{key}: {value}" for key, value in environment().items()))


def _seconds(found: Resumption) -> float:
    return found.seconds


def _documents() -> Any:
    """Pages of a picture and its caption, by index; a picture is named after its document."""
    generator = numpy.random.default_rng(0)
    pool = []
    for _ in range(NUM_PICTURES):
        coarse = generator.integers(0, 256, size=(PIXELS // 8, PIXELS // 8, 3), dtype=numpy.uint8)
        stream = io.BytesIO()
        Pillow.fromarray(coarse).resize((PIXELS, PIXELS), Pillow.Resampling.BICUBIC).save(stream, format="JPEG")
        pool.append(stream.getvalue())

    def make(index: int) -> Document:
        picture = Image.from_bytes(pool[index % NUM_PICTURES], name=str(index))
        return Document.page([Media(picture, directions=(Direction.IN,)), f"photograph number {index}"])

    return make


def _model() -> MultimodalLM:
    torch.manual_seed(0)
    return scratch_illustrator(
        encoder=CountingEncoder(),
        decoder=FlowDecoder(PictureAutoencoder(size=32), condition_width=16, width=16, num_layers=1, num_heads=2),
        num_queries=1,
        d_model=32,
        num_layers=1,
        num_heads=2,
    )


def _encoder(model: MultimodalLM) -> CountingEncoder:
    encoder = model.reader("image").encoder
    assert isinstance(encoder, CountingEncoder)
    return encoder


def _stage(mixture: Mixture, *, num_steps: int) -> Stage:
    return Stage(
        name="reading",
        mixture=mixture,
        batching=Packed(row_length=ROW_LENGTH, num_rows=NUM_ROWS, max_items=1),
        trainable=[Trainable(f"{part}.*", learning_rate=1e-4) for part in ("backbone", "modalities.image.encoder")],
        objective=Multimodal(made=[]),
        num_steps=num_steps,
        loss_weights={"text": 1.0},
    )


def _train(model: MultimodalLM, mixture: Mixture, directory: Path, *, steps: list[int]) -> dict[int, int]:
    """Train to one step after the last of `steps`, with a state at each; how many pictures were decoded by a step."""
    marks = {0: 0}

    def mark(_: MultimodalLM, done: int) -> None:
        marks[done] = len(_encoder(model).decoded)

    every = math.gcd(*steps) or 1
    stage = _stage(mixture, num_steps=steps[-1] + 1)
    stage = replace(stage, sample_every=1, save_every=every, keep_last=steps[-1] // every + 1)
    Trainer(model, stage=stage, directory=directory, seed=0, on_sample=mark).run()
    return marks


def _resume(model: MultimodalLM, mixture: Mixture, folder: Path, *, step: int) -> Resumption:
    """A new run in a directory that holds nothing but the state after `step`."""
    directory = folder / "resumed"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    if step:
        name = f"step-{step:08d}"
        shutil.copytree(folder / "whole" / "state" / name, directory / "state" / name)
    counted = _encoder(model).decoded
    before, started = len(counted), time.perf_counter()
    Trainer(model, stage=_stage(mixture, num_steps=step + 1), directory=directory, seed=0).run()
    found = Resumption(time.perf_counter() - started, counted[before:])
    del counted[before:]
    return found


class _Stream(IterableDataset[dict[str, Tensor]]):
    """The documents of a mixture one after another, as ids and pixels."""

    def __init__(self, model: MultimodalLM, mixture: Mixture) -> None:
        self.model = model
        self.mixture = mixture

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        position = 0
        while True:
            document, _ = self.mixture.document(position)
            sequence = self.model.render(document)
            ids = torch.zeros(ROW_LENGTH, dtype=torch.long)
            ids[: len(sequence)] = torch.tensor(sequence.ids).clamp(max=self.model.backbone.base_size - 1)
            labels = torch.where(torch.arange(ROW_LENGTH) < len(sequence), ids, -100)
            yield {"ids": ids, "labels": labels, "pixels": _encoder(self.model).preprocess(sequence.media[0])}
            position += 1


class _Reader(nn.Module):
    """The same encoder and language model in the form that transformers' Trainer takes."""

    def __init__(self, model: MultimodalLM) -> None:
        super().__init__()
        self.encoder = model.reader("image").encoder
        # Not the model around it: tied matrices are refused where the Trainer saves.
        self.decoder = model.backbone.language_model.get_decoder()
        self.projector = nn.Linear(self.encoder.width, model.backbone.d_model)

    def forward(self, ids: Tensor, labels: Tensor, pixels: Tensor) -> dict[str, Tensor]:
        """Cross entropy of captions behind the rows of their pictures."""
        features: Features = self.encoder(pixels)
        rows = self.projector(features.values).unflatten(0, (len(ids), -1))
        words = self.decoder.get_input_embeddings()
        embedded = torch.cat([rows, words(ids[:, rows.shape[1] :])], dim=1)
        logits = nn.functional.linear(self.decoder(inputs_embeds=embedded).last_hidden_state, words.weight)
        loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return {"loss": loss}


class _FirstStep(transformers.TrainerCallback):
    """The time at which the first step ended."""

    at = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self.at = self.at or time.perf_counter()


def _transformers(model: MultimodalLM, mixture: Mixture, directory: Path, *, step: int, rounds: int) -> Resumption:
    """Train to `step` with transformers' Trainer, save, and resume."""

    def train(max_steps: int, *, resume: str | None) -> float:
        arguments = transformers.TrainingArguments(
            output_dir=str(directory),
            max_steps=max_steps,
            save_steps=step,
            per_device_train_batch_size=NUM_ROWS,
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
            remove_unused_columns=False,
        )
        clock = _FirstStep()
        trainer = transformers.Trainer(
            model=_Reader(model), args=arguments, train_dataset=_Stream(model, mixture), callbacks=[clock]
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train(resume_from_checkpoint=resume)
        return clock.at

    train(step, resume=None)
    counted = _encoder(model).decoded
    found = []
    for _ in range(rounds):
        before, started = len(counted), time.perf_counter()
        at = train(step + 1, resume=str(directory / f"checkpoint-{step}"))
        found.append(Resumption(at - started, counted[before:]))
    return min(found, key=_seconds)
