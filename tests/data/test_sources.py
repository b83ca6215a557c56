"""Sources: what lies on disk becomes Documents; what does not fit says which row and what to do."""

import io
import json
import random
import tarfile
from pathlib import Path

import pytest
from tiny import picture

from limner.data.sources import Augmentation, EmojiTask, JsonLines, NamedPictures, SceneTask, TarShards
from limner.document.document import Direction, Document, Media, Text

ROWS = {
    "native": Document.page(["A fox ", picture("red")]).to_json(),
    "caption": {"image": "fox.png", "caption": "a fox"},
    "creation": {"image": "fox.png", "caption": "a fox"},
    "conversation": {
        "image": "fox.png",
        "conversations": [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A fox."}],
    },
    "interleaved": {"text_list": ["A fox."], "image_info": [{"image_name": "fox.png", "matched_text_index": 0}]},
}


def _jsonl(folder: Path, *rows: object) -> Path:
    (folder / "fox.png").write_bytes(picture("red").png_bytes())
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n\n" for row in rows))
    return path


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


@pytest.mark.parametrize("format", list(ROWS))
def test_a_row_of_every_format_becomes_a_document_with_its_picture(tmp_path: Path, format: str) -> None:
    source = JsonLines(_jsonl(tmp_path, ROWS[format], ROWS[format]), format=format)
    assert len(source) == 2
    ((_, media),) = source[1].media()
    assert media.content.pil().getpixel((0, 0)) == (255, 0, 0)
    assert source[0] == source[1]


def test_pictures_lie_beside_the_file_or_below_the_root(tmp_path: Path) -> None:
    path = _jsonl(tmp_path, ROWS["caption"])
    other = tmp_path / "elsewhere"
    other.mkdir()
    (tmp_path / "fox.png").rename(other / "fox.png")
    assert JsonLines(path, format="caption", root=other)[0].media()
    with pytest.raises((ValueError, OSError)):
        JsonLines(path, format="caption")[0]


@pytest.mark.parametrize(
    ("format", "row", "says"),
    [
        ("caption", {"image": "fox.png"}, "row key `caption` is None"),
        ("conversation", {"conversations": [{"from": "dog", "value": "x"}]}, "is from `dog`"),
        ("interleaved", {"text_list": ["a"], "image_info": [{"image_name": "fox.png"}]}, "matched_text_index is None"),
    ],
)
def test_a_row_that_does_not_fit_its_format_says_which_key(tmp_path: Path, format: str, row: dict, says: str) -> None:
    source = JsonLines(_jsonl(tmp_path, row), format=format)
    with pytest.raises(ValueError, match=says + r"[^\n]*\nhint: "):
        source[0]


def test_a_line_that_is_no_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"image": 1}\n{broken\n')
    with pytest.raises(ValueError, match=r"row 1 of `rows\.jsonl` is no JSON[^\n]*\nhint: "):
        JsonLines(path, format="caption")[1]


def test_what_is_not_there_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no such data file: [^\n]*\nhint: "):
        JsonLines(tmp_path / "none.jsonl", format="caption")
    with pytest.raises(ValueError, match=r"no such shard: [^\n]*\nhint: "):
        TarShards([tmp_path / "none.tar"], format="caption")
    with pytest.raises(ValueError, match=r"no format `captoin`\nhint: formats are native"):
        TarShards([], format="captoin")


def test_a_tar_sample_is_its_row_and_its_own_or_its_named_picture(tmp_path: Path) -> None:
    red, blue = picture("red").png_bytes(), picture("blue").png_bytes()
    named = json.dumps({"image": "second.png", "caption": "a whale"}).encode()
    members = {"a.txt": b"a fox", "a.png": red, "b.json": named, "b-second.png": blue, "c.json": named}
    source = TarShards([_tar(tmp_path / "0.tar", members)], format="caption")
    assert len(source) == 3
    fox, whale = source[0].messages[0], source[1].messages[0]
    assert (fox.text, whale.text) == ("a fox", "a whale")
    assert fox.parts[0].content.digest == picture("red").digest
    assert whale.parts[0].content.digest == picture("blue").digest
    with pytest.raises(ValueError, match=r"sample `c` names `second\.png`, which is not in 0\.tar\nhint: "):
        source[2]


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
