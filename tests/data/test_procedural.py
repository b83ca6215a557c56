"""Procedural sources: documents that are a pure function of the index, over a picture library or from nothing."""

import io
import json
import random
import tarfile
from pathlib import Path

import pytest
from tiny import picture

from limner.data.sources.augmentation import Augmentation
from limner.data.sources.procedural import EmojiTask, NamedPictures, SceneTask
from limner.document.document import Direction, Media, Text


def _tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def _shard(folder: Path) -> Path:
    members = {}
    for number, (colour, name) in enumerate([("red", "fox"), ("blue", "whale")]):
        row = {"key": name, "name": name, "keywords": [name], "concept": name, "style": "flat"}
        row |= {"group": "animals-nature", "subgroup": "animal-mammal"}
        members[f"{number}.json"] = json.dumps(row).encode()
        members[f"{number}.png"] = picture(colour).png_bytes()
    return _tar(folder / "emoji.tar", members)


def test_every_picture_is_shown_in_every_variant_with_its_name(tmp_path: Path) -> None:
    source = NamedPictures([_shard(tmp_path)], augmentation=Augmentation(num_variants=3))
    assert len(source) == 6
    pages = [source[index].messages[0] for index in range(6)]
    assert [page.text for page in pages] == [" fox"] * 3 + [" whale"] * 3
    assert len({page.parts[0].content.digest for page in pages}) == 6
    assert pages[0].parts[0].content.digest == picture("red").digest
    assert all(page.directions(page.parts[0]) == (Direction.IN,) for page in pages)


def test_only_what_a_user_shows_is_augmented(tmp_path: Path) -> None:
    shard = _shard(tmp_path)
    varied = Augmentation(num_variants=50)
    for task, changed in (("describe", True), ("draw", False)):
        plain = EmojiTask([shard], task=task, length=8)
        augmented = EmojiTask([shard], task=task, length=8, augmentation=varied)
        assert len(augmented) == 8
        assert augmented[3] == augmented[3]
        assert any(plain[i] != augmented[i] for i in range(8)) is changed
    with pytest.raises(ValueError, match=r"no task `paint`\nhint: tasks are "):
        EmojiTask([shard], task="paint", length=1)


def test_augmentation_is_a_pure_function_of_the_picture_and_the_number() -> None:
    augmentation = Augmentation(num_variants=4)
    shown = picture("green")
    first = augmentation.draw(shown, 1)
    random.seed(0)
    assert augmentation.draw(shown, 1) == first == augmentation.variant(shown, 1)
    assert augmentation.draw(shown, 2) != first
    assert augmentation.variant(shown, 0) is shown
    assert first.size == shown.size
    chosen = augmentation(shown, choice=random.Random(3))
    assert chosen == augmentation(shown, choice=random.Random(3))


@pytest.mark.parametrize(
    ("task", "directions"),
    [("caption", (Direction.IN,)), ("question", (Direction.IN,)), ("creation", (Direction.OUT, Direction.IN))],
)
def test_scenes_are_a_function_of_their_index(task: str, directions: tuple[Direction, ...]) -> None:
    source = SceneTask(task=task, length=5, side=32)
    assert len(source) == 5
    assert source[2] == source[2] != source[3]
    ((message, media),) = source[2].media()
    assert message.directions(media) == directions
    assert isinstance(media, Media)
    assert media.content.size == (32, 32)
    assert any(isinstance(part, Text) for part in source[2].messages[0].parts)


def test_an_unknown_scene_task_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no scene task `paint`\nhint: tasks are caption"):
        SceneTask(task="paint", length=1)
