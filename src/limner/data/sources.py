"""Sources: files on disk as random access to Documents. An index of byte offsets is built once; pictures stay on disk.

JsonLines("chats.jsonl", format=conversation)          one JSON row per line, pictures beside the file
TarShards(["pairs-000.tar"], format=caption)           webdataset samples: key.json or key.txt, and pictures
EmojiTask(["train-00000.tar"], task="story", ...)      documents made from a picture library by a pure function
"""

import functools
import json
import random
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import PIL.Image
import PIL.ImageEnhance

from limner.data import formats, scenes, stories
from limner.document.document import Direction, Document, Media, Message, Text
from limner.document.media import Image

PICTURES = (".png", ".jpg", ".jpeg", ".webp")


def format_named(name: str) -> formats.Format:
    """A format by its function's name. Raises ValueError for an unknown one."""
    known = ("native", "caption", "creation", "conversation", "interleaved")
    if name not in known:
        raise ValueError(f"no format `{name}`\nhint: formats are {', '.join(known)}")
    return getattr(formats, name)


class JsonLines:
    """One row per line. Picture names are paths relative to `root` (the file's folder by default)."""

    def __init__(self, path: str | Path, *, format: str, root: str | Path | None = None) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise ValueError(f"no such data file: `{path}`\nhint: check the path")
        self.root = Path(root) if root is not None else self.path.parent
        self.format = format_named(format)
        self.offsets: list[int] = []
        with self.path.open("rb") as stream:
            position = 0
            for line in stream:
                if line.strip():
                    self.offsets.append(position)
                position += len(line)

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, index: int) -> Document:
        with self.path.open("rb") as stream:
            stream.seek(self.offsets[index])
            line = stream.readline()
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"row {index} of `{self.path.name}` is no JSON ({error})\nhint: repair that line"
            ) from error
        return self.format(row, lambda name: Image.from_path(self.root / name))


class TarShards:
    """Webdataset samples of uncompressed tars: members `key.json` or `key.txt` (a caption), and pictures.

    A picture named in a row is the member of that name; one that is not named is the sample's own.
    """

    def __init__(self, paths: Sequence[str | Path], *, format: str) -> None:
        self.format = format_named(format)
        self.members: dict[tuple[Path, str], stories.TarMember] = {}
        self.samples: list[tuple[Path, str]] = []
        for path in map(Path, paths):
            if not path.is_file():
                raise ValueError(f"no such shard: `{path}`\nhint: check the path")
            with tarfile.open(path, "r:") as tar:
                for member in tar:
                    place = stories.TarMember(path, member.offset_data, member.size)
                    self.members[path, member.name] = place
                    if member.name.endswith((".json", ".txt")):
                        self.samples.append((path, member.name))

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Document:
        path, name = self.samples[index]
        key, _, kind = name.rpartition(".")
        text = self.members[path, name].read().decode("utf-8")
        row: Mapping[str, Any] = json.loads(text) if kind == "json" else {"caption": text}
        own = next((key + end for end in PICTURES if (path, key + end) in self.members), None)
        if own is not None and "image" not in row:
            row = {**row, "image": own}

        def image(wanted: str) -> Image:
            place = self.members.get((path, wanted)) or self.members.get((path, f"{key}-{wanted}"))
            if place is None:
                raise ValueError(f"sample `{key}` names `{wanted}`, which is not in {path.name}\nhint: repair it")
            return place.image()

        return self.format(row, image)


@dataclass(frozen=True)
class Augmentation:
    """Changes of pictures that a user shows: turned, moved, scaled, recoloured a little. `num_variants` per picture, so
    that frozen encoders can be cached; variant 0 is the picture itself."""

    num_variants: int
    rotation: float = 20.0
    scale: tuple[float, float] = (0.6, 1.1)
    colour: float = 0.3

    def __call__(self, image: Image, *, choice: random.Random) -> Image:
        """A variant of an RGB picture, chosen by `choice`."""
        return self.variant(image, choice.randrange(self.num_variants))

    def variant(self, image: Image, number: int) -> Image:
        """Variant `number`, a pure function of the picture's content and the number."""
        return image if number == 0 else _varied(image, number, self)

    def draw(self, image: Image, number: int) -> Image:
        """Make variant `number` > 0."""
        rng = random.Random(f"{image.digest}/{number}")
        picture = image.pil()
        size = picture.size
        if rng.random() < 0.5:
            picture = picture.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT)
        for enhance in (PIL.ImageEnhance.Color, PIL.ImageEnhance.Brightness, PIL.ImageEnhance.Contrast):
            picture = enhance(picture).enhance(1.0 + rng.uniform(-self.colour, self.colour))
        factor = rng.uniform(*self.scale)
        scaled = picture.resize((max(1, round(size[0] * factor)), max(1, round(size[1] * factor))))
        scaled = scaled.rotate(
            rng.uniform(-self.rotation, self.rotation),
            resample=PIL.Image.Resampling.BICUBIC,
            fillcolor=(255, 255, 255),
        )
        canvas = PIL.Image.new("RGB", size, (255, 255, 255))
        corner = [round(rng.random() * (whole - part)) for whole, part in zip(size, scaled.size, strict=True)]
        canvas.paste(scaled, (corner[0], corner[1]))
        return Image.from_pil(canvas, name=f"{image.name}#{number}")


@functools.lru_cache(maxsize=16384)
def _varied(image: Image, number: int, augmentation: Augmentation) -> Image:
    """Variants are met again every epoch; making one costs more than keeping it."""
    return augmentation.draw(image, number)


class EmojiTask:
    """Documents of one task of `stories.TASKS` over the pictures of some shards."""

    def __init__(
        self,
        shards: Sequence[str | Path],
        *,
        task: str,
        length: int,
        styles: Sequence[str] | None = None,
        without_groups: Sequence[str] = (),
        seed: int = 0,
        augmentation: Augmentation | None = None,
    ) -> None:
        if task not in stories.TASKS:
            raise ValueError(f"no task `{task}`\nhint: tasks are {', '.join(stories.TASKS)}")
        self.library = _library(
            tuple(map(str, shards)), None if styles is None else tuple(styles), tuple(without_groups)
        )
        self.task = task
        self.length = length
        self.seed = seed
        self.augmentation = augmentation

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Document:
        document = stories.TASKS[self.task](index, seed=self.seed, library=self.library)
        if self.augmentation is None:
            return document
        choice = random.Random(f"augment/{self.task}/{self.seed}/{index}")
        return replace(
            document,
            messages=tuple(_augmented(message, self.augmentation, choice) for message in document.messages),
        )


def _augmented(message: Message, augmentation: Augmentation, choice: random.Random) -> Message:
    """What a user shows is varied; nothing else is."""
    if message.role != "user":
        return message
    parts = tuple(
        replace(part, payload=augmentation(part.content, choice=choice)) if isinstance(part, Media) else part
        for part in message.parts
    )
    return replace(message, parts=parts)


class NamedPictures:
    """Every picture of some shards, in every variant: the picture, then its name as the trained text."""

    def __init__(
        self,
        shards: Sequence[str | Path],
        *,
        augmentation: Augmentation,
        styles: Sequence[str] | None = None,
    ) -> None:
        self.records = _library(tuple(map(str, shards)), None if styles is None else tuple(styles)).records
        self.augmentation = augmentation

    def __len__(self) -> int:
        return len(self.records) * self.augmentation.num_variants

    def __getitem__(self, index: int) -> Document:
        number, variant = divmod(index, self.augmentation.num_variants)
        record = self.records[number]
        picture = self.augmentation.variant(record.image(), variant)
        shown = Media(picture, directions=(Direction.IN,), alt=record.name)
        # A user's words marked as trained: only they, and no end of a page, are what the picture is aligned with.
        return Document.chat([("user", [shown, Text(f" {record.name}", train=True)])])


class SceneTask:
    """Procedural scenes: `caption`, `creation` or `question` documents of one split. Unlimited and leak-free."""

    def __init__(self, *, task: str, length: int, split: str = "train", seed: int = 0, side: int = 64) -> None:
        makers = {
            "caption": scenes.caption_document,
            "creation": scenes.creation_document,
            "question": scenes.question_document,
        }
        if task not in makers:
            raise ValueError(f"no scene task `{task}`\nhint: tasks are {', '.join(makers)}")
        self.make = makers[task]
        self.length = length
        self.split = split
        self.seed = seed
        self.side = side

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Document:
        scene = scenes.sample_scene(index, seed=self.seed, split=self.split)
        return self.make(scene, seed=self.seed + index, side=self.side)


@functools.cache
def _library(
    shards: tuple[str, ...], styles: tuple[str, ...] | None, without_groups: tuple[str, ...] = ()
) -> stories.Library:
    """Several tasks over the same shards share one index."""
    library = stories.Library.from_shards(shards, styles=styles)
    if not without_groups:
        return library
    return stories.Library(record for record in library.records if record.group not in without_groups)
