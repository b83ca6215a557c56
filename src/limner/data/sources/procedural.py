"""Sources whose documents are made by a pure function of the index: tasks over a picture library, procedural scenes."""

import functools
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from limner.data import scenes, stories
from limner.data.sources.augmentation import Augmentation
from limner.document.document import Direction, Document, Media, Message, Text


class EmojiTask:
    """Documents of one task of `stories.TASKS` over the pictures of some shards."""

    def __init__(
        self,
        shards: Sequence[str | Path],
        *,
        task: str,
        length: int,
        styles: Sequence[str] | None = None,
        seed: int = 0,
        augmentation: Augmentation | None = None,
    ) -> None:
        if task not in stories.TASKS:
            raise ValueError(f"no task `{task}`\nhint: tasks are {', '.join(stories.TASKS)}")
        self.library = _library(tuple(map(str, shards)), None if styles is None else tuple(styles))
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
def _library(shards: tuple[str, ...], styles: tuple[str, ...] | None) -> stories.Library:
    """Several tasks over the same shards share one index."""
    return stories.Library.from_shards(shards, styles=styles)
