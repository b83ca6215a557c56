"""Pictures per second from shards on disk to batches of tensors: Limner beside litdata, mosaicml-streaming, webdataset.

    python -m benchmarks image_loading --images 3000 --workers 0 2

Everybody gets the same JPEGs (made here, photograph-like), the same amount of decoding (Pillow, bicubic to a square,
float32 in [-1, 1]) and the same number of workers, in one process, in turns; the best of several rounds counts, from
the start of the workers to the last batch. Limner is measured twice: its shards alone behind torch's DataLoader, which
is what the others do, and its whole loader, which besides renders, tokenizes and packs the captions.

The peers are optional (benchmarks/requirements.txt); those that cannot be imported are named and left out.
"""

import argparse
import importlib
import io
import json
import os
import resource
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from PIL import Image as Pillow
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from limner.compositions.illustrator import scratch_illustrator
from limner.data.collate import Collator
from limner.data.loader import Loader
from limner.data.mixture import Mixture
from limner.data.packing import NextFit
from limner.data.sources.tar_shards import TarShards
from limner.document.document import Direction
from limner.evaluate.tables import environment
from limner.modalities.base import Encoder
from limner.modalities.decoders.autoencoder import PictureAutoencoder
from limner.modalities.decoders.flow import FlowDecoder
from limner.modalities.encoders.convolutional import ConvolutionalEncoder

PER_SHARD = 250
"""Samples of a webdataset shard: webdataset's workers share out shards, so there are several for each."""
QUALITY = 90
PEERS = {"litdata": "litdata", "mosaicml-streaming": "streaming", "webdataset": "webdataset"}
"""Package -> module."""

OURS = "limner shards + DataLoader"
WHOLE = "limner Loader (with captions)"

Batches = Callable[[int], Iterable[Tensor]]
"""Number of workers -> batches of pictures."""


@dataclass(frozen=True)
class Task:
    """What is loaded: `folder` holds what was made of `num_images` pictures; they come out `size` pixels square."""

    folder: Path
    num_images: int
    size: int
    batch_size: int

    def decode(self, data: bytes) -> Tensor:
        """A JPEG as RGB in [-1, 1], [3, size, size]: what each peer is given, nothing around it."""
        picture = Pillow.open(io.BytesIO(data)).convert("RGB")
        picture = picture.resize((self.size, self.size), Pillow.Resampling.BICUBIC)
        return torch.from_numpy(numpy.array(picture)).permute(2, 0, 1).float().div_(127.5).sub_(1.0)


def main(arguments: list[str]) -> None:
    """Make the pictures, measure everybody, print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks image_loading")
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--pixels", type=int, default=256, help="edge of the JPEGs")
    parser.add_argument("--size", type=int, default=224, help="edge of the tensors")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="image-loading-") as place:
        # Nothing is left behind in the user's cache.
        os.environ["LIMNER_CACHE"] = str(Path(place) / "cache")
        task = Task(Path(place), options.images, options.size, options.batch_size)
        pictures = [photograph(seed, pixels=options.pixels) for seed in range(options.images)]
        contenders, missing = _contenders(task, pictures)
        size = sum(map(len, pictures)) / len(pictures) / 1000
        print(f"{options.images} JPEGs of {options.pixels} px, {size:.0f} kB each, to {options.size} px tensors")
        for workers in options.workers:
            _report(workers, _measure(contenders, workers, task=task, rounds=options.rounds))
    print(", ".join(f"{key}: {value}" for key, value in environment().items()))
    if missing:
        print(f"not installed, hence not measured: {', '.join(missing)} (benchmarks/requirements.txt)")


def photograph(seed: int, *, pixels: int) -> bytes:
    """A JPEG with the statistics of a photograph: noise whose amplitude falls with its frequency."""
    generator = numpy.random.default_rng(seed)
    canvas = numpy.full((pixels, pixels, 3), 128.0)
    edge = 2
    while edge <= pixels:
        noise = generator.normal(size=(edge, edge)) * 90.0 / edge**0.5
        tint = generator.uniform(0.6, 1.4, size=3)
        wide = Pillow.fromarray(noise.astype(numpy.float32)).resize((pixels, pixels), Pillow.Resampling.BICUBIC)
        canvas += numpy.asarray(wide)[..., None] * tint
        edge *= 4
    stream = io.BytesIO()
    Pillow.fromarray(canvas.clip(0, 255).astype(numpy.uint8)).save(stream, format="JPEG", quality=QUALITY)
    return stream.getvalue()


def _measure(
    contenders: dict[str, Batches], workers: int, *, task: Task, rounds: int
) -> dict[str, tuple[float, float]]:
    """Pictures per second, and per second of all cores' work, of each: the best of the rounds."""
    best = dict.fromkeys(contenders, (0.0, 0.0))
    for _ in range(rounds):
        for name, batches in contenders.items():
            started, worked = time.perf_counter(), _seconds_of_work()
            count = 0
            for batch in batches(workers):
                assert batch.shape[1:] == (3, task.size, task.size), f"{name} gave {tuple(batch.shape)}"
                count += len(batch)
            assert count == task.num_images, f"{name} gave {count} of {task.num_images} pictures"
            seconds, work = time.perf_counter() - started, _seconds_of_work() - worked
            best[name] = (max(best[name][0], count / seconds), max(best[name][1], count / work))
    return best


def _seconds_of_work() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def _report(workers: int, found: dict[str, tuple[float, float]]) -> None:
    peers = {name: speed for name, speed in found.items() if name in PEERS}
    print(f"\n| {workers} workers | images/s | images per CPU second |\n|---|---|---|")
    for name, (speed, efficiency) in sorted(found.items(), key=lambda item: -item[1][0]):
        print(f"| {name} | {speed:.0f} | {efficiency:.0f} |")
    if peers:
        first = max(peers, key=lambda name: peers[name][0])
        for name in (OURS, WHOLE):
            ratio, work = (found[name][i] / max(speed[i] for speed in peers.values()) for i in (0, 1))
            print(f"{name}: {ratio:.2f}x the best of the others ({first}), {work:.2f}x per CPU second")


def _contenders(task: Task, pictures: list[bytes]) -> tuple[dict[str, Batches], list[str]]:
    """Everybody's batches, and the peers that are not installed."""
    shards = _write_shards(task, pictures)
    contenders: dict[str, Batches] = {OURS: _shards(task, shards), WHOLE: _whole(task, shards)}
    makers = {"litdata": _litdata, "mosaicml-streaming": _streaming}
    missing = []
    for name, module in PEERS.items():
        try:
            importlib.import_module(module)
        except ImportError as error:
            missing.append(f"{name} ({error})")
            continue
        contenders[name] = makers[name](task, pictures) if name in makers else _webdataset(task, shards)
    return contenders, missing


def _write_shards(task: Task, pictures: list[bytes]) -> list[str]:
    """Webdataset shards: ours and webdataset's."""
    shards = []
    for first in range(0, len(pictures), PER_SHARD):
        shards.append(str(task.folder / f"{first // PER_SHARD:05d}.tar"))
        with tarfile.open(shards[-1], "w") as tar:
            for number, data in enumerate(pictures[first : first + PER_SHARD], start=first):
                caption = json.dumps({"caption": f"photograph number {number}"}).encode()
                for ending, content in (("jpg", data), ("json", caption)):
                    member = tarfile.TarInfo(f"{number:06d}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return shards


class _Pictures(Dataset[Tensor]):
    """The pictures of a source, as the encoder reads them."""

    def __init__(self, source: TarShards, *, encoder: Encoder) -> None:
        self.source = source
        self.encoder = encoder

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Tensor:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[Tensor]:
        """What DataLoader asks for a batch. All is read before anything is decoded: in turns, each would find the
        processor's caches filled by the other."""
        found = [media for index in indices for _, media in self.source[index].media()]
        return [self.encoder.preprocess(media) for media in found]


def _shards(task: Task, shards: list[str]) -> Batches:
    """Limner's shards and an encoder's preprocessing behind torch's DataLoader."""
    encoder = ConvolutionalEncoder(image_size=task.size, width=8, num_halvings=5)
    pictures = _Pictures(TarShards(shards, format="caption"), encoder=encoder)
    return lambda workers: DataLoader(pictures, batch_size=task.batch_size, num_workers=workers)


def _whole(task: Task, shards: list[str]) -> Batches:
    """Limner's loader: documents with captions, rendered, packed, collated. A picture per row, a row per picture."""
    with torch.device("meta"):  # no weight is needed
        model = scratch_illustrator(
            encoder=ConvolutionalEncoder(image_size=task.size, width=8, num_halvings=5),
            decoder=FlowDecoder(PictureAutoencoder(size=32), condition_width=16, width=16, num_layers=1, num_heads=2),
            num_queries=1,
        )
    mixture = Mixture({"photographs": TarShards(shards, format="caption")}, exhaustion="all_exhausted")

    def batches(workers: int) -> Iterator[Tensor]:
        loader = Loader(
            mixture,
            render=model.render,
            collate=Collator(model),
            row_length=128,
            num_rows=task.batch_size,
            packing=NextFit(),
            max_items=1,
            num_workers=workers,
        )
        for batch in loader:
            yield batch.spans["image", Direction.IN].values

    return batches


def _litdata(task: Task, pictures: list[bytes]) -> Batches:
    from litdata import StreamingDataLoader, StreamingDataset
    from litdata.streaming.writer import BinaryWriter

    folder = task.folder / "litdata"
    folder.mkdir()
    writer = BinaryWriter(str(folder), chunk_bytes=64_000_000)
    for number, data in enumerate(pictures):
        writer[number] = data
    writer.done()
    writer.merge()

    class Decoded(StreamingDataset):
        def __getitem__(self, index: Any) -> Tensor:
            return task.decode(super().__getitem__(index))

    dataset = Decoded(str(folder))
    return lambda workers: StreamingDataLoader(dataset, batch_size=task.batch_size, num_workers=workers)


def _streaming(task: Task, pictures: list[bytes]) -> Batches:
    from streaming import MDSWriter, StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    folder = task.folder / "streaming"
    with MDSWriter(out=str(folder), columns={"picture": "bytes"}) as writer:
        for data in pictures:
            writer.write({"picture": data})

    class Decoded(StreamingDataset):
        def __getitem__(self, at: Any) -> Tensor:
            return task.decode(super().__getitem__(at)["picture"])

    def batches(workers: int) -> Iterable[Tensor]:
        clean_stale_shared_memory()
        dataset = Decoded(local=str(folder), batch_size=task.batch_size, shuffle=False)
        return DataLoader(dataset, batch_size=task.batch_size, num_workers=workers)

    return batches


def _webdataset(task: Task, shards: list[str]) -> Batches:
    import webdataset

    def batches(workers: int) -> Iterable[Tensor]:
        dataset = webdataset.WebDataset(shards, shardshuffle=False, empty_check=False)
        dataset = dataset.to_tuple("jpg").map_tuple(task.decode).map(lambda pair: pair[0])
        return DataLoader(dataset, batch_size=task.batch_size, num_workers=workers)

    return batches
