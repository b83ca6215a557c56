"""The registry: twenty data sets by name, one's own by a line, and a Source once the files are there."""

import json
from pathlib import Path

import pytest
from tiny import picture

from limner.config.call import build, call
from limner.data.catalogue import dataset, published
from limner.data.formats.table import FORMATS
from limner.data.registry import KINDS
from limner.data.sizes import format_size, parse_size

NAMES = [
    "laion_coco",
    "laion2b_en",
    "laion400m",
    "blip_laion",
    "laion400m_orig",
    "journeydb",
    "pokemon-gpt4-captions",
    "dalle3-by-laion",
    "laion_coco_ii",
    "blip_laion_ii",
    "mmc4_core",
    "obelics",
    "mmc4_instruct_filtered224",
    "webvid",
    "llava_pretrain",
    "gqa",
    "llava_instruct",
    "llavav1.5_instruct",
    "llava_instruct_filter",
    "instruct_blip_laion",
]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data root with a file of captions and its picture."""
    monkeypatch.setenv("LIMNER_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "data"
    (root / "mine").mkdir(parents=True)
    (root / "mine" / "fox.png").write_bytes(picture("red").png_bytes())
    (root / "mine" / "rows.jsonl").write_text(json.dumps({"image": "fox.png", "caption": "a fox"}) + "\n")
    return root


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("833", 833),
        ("10M", 10_000_000),
        ("104.9M", 104_900_000),
        ("1.5k", 1500),
        (" 2 B", 2 * 10**9),
        (7, 7),
        ("1T", 10**12),
    ],
)
def test_sizes_are_read_as_they_are_written(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1K"),
        (20_321, "20.3K"),
        (999_960, "1M"),
        (104_900_000, "104.9M"),
        (2 * 10**9, "2B"),
    ],
)
def test_sizes_are_written_to_a_tenth_of_their_unit(size: int, text: str) -> None:
    assert format_size(size) == text


@pytest.mark.parametrize("text", ["", "M", "10 MB", "-3", "1,000"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"a size is `[^\n]*\nhint: "):
        parse_size(text)


def test_the_published_data_sets_are_all_there_and_told_of() -> None:
    known = published().all()
    assert list(known) == NAMES
    for entry in known.values():
        assert entry.kind in KINDS
        assert entry.format in FORMATS
        assert entry.size > 0
        assert entry.description.endswith(".")
        assert entry.licence
    assert {known[name].kind for name in ("webvid", "obelics", "gqa")} == {
        "video-text pair",
        "interleaved",
        "conversation",
    }


def test_every_kind_is_read_by_formats_that_exist() -> None:
    assert {name for names in KINDS.values() for name in names} <= set(FORMATS)


def test_a_data_set_gives_its_documents_once_its_files_are_there(root: Path, monkeypatch) -> None:
    registry = published()
    entry = registry.register("mine", kind="image-text pair", files="mine/*.jsonl", size="1K")
    assert (entry.size, entry.format, registry.get("mine")) == (1000, "caption", entry)
    assert entry.source(root=root)[0].messages[0].text == "a fox"
    monkeypatch.setenv("LIMNER_DATA", str(root))
    assert entry.is_there()
    assert len(entry.source(format="creation")) == 1


def test_films_are_found_by_their_folder_and_number(root: Path) -> None:
    (root / "webvid" / "videos" / "p1").mkdir(parents=True)
    (root / "webvid" / "videos" / "p1" / "7.mp4").write_bytes(b"film")
    (root / "webvid" / "0.jsonl").write_text(json.dumps({"page_dir": "p1", "videoid": "7", "name": "a fox runs"}))
    ((_, media),) = published().get("webvid").source(root=root)[0].media()
    assert media.payload.data == b"film"


def test_missing_files_are_one_line_with_the_place_to_put_them(root: Path) -> None:
    with pytest.raises(
        ValueError, match=rf"data set `obelics` is not at `{root}/obelics/\*\.tar`\nhint: put its files"
    ):
        published().get("obelics").source(root=root)


def test_without_a_data_root_nothing_is_looked_for() -> None:
    with pytest.raises(ValueError, match=r"`gqa` needs a data root\nhint: set LIMNER_DATA"):
        dataset("gqa")
    assert not published().get("gqa").is_there()


def test_a_line_of_the_data_root_registers_a_data_set_of_ones_own(root: Path) -> None:
    line = {"name": "mine", "kind": "image-text pair", "files": "mine/rows.jsonl", "size": "1.5K"}
    (root / "datasets.jsonl").write_text(json.dumps(line) + "\n\n")
    assert list(published().all(root)) == [*NAMES, "mine"]
    source = build(call(dataset, name="mine", root=str(root)))
    assert source[0].messages[0].text == "a fox"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", r"line 1 of `datasets\.jsonl` is no data set"),
        ("[]", r"line 1 of `datasets\.jsonl` is no data set"),
        ('{"name": "x", "files": "y"}', r"line 1 of `datasets\.jsonl` is no data set"),
        ('{"name": "x", "files": "y", "kind": "gqa", "size": 1}', r"data set `x` has the kind `gqa`"),
    ],
)
def test_a_line_that_registers_nothing_is_named(root: Path, line: str, says: str) -> None:
    (root / "datasets.jsonl").write_text(line)
    with pytest.raises(ValueError, match=says + r"[^\n]*\nhint: "):
        published().all(root)


def test_a_line_of_the_data_root_takes_no_name_from_another(root: Path) -> None:
    line = {"name": "gqa", "kind": "conversation", "files": "mine.json"}
    (root / "datasets.jsonl").write_text("\n" + json.dumps(line))
    with pytest.raises(ValueError, match=r"named `gqa` is registered already\nhint: choose another name") as caught:
        published().all(root)
    assert caught.value.__notes__ == ["line 2 of `datasets.jsonl`"]


def test_what_cannot_be_registered_is_refused_with_the_remedy() -> None:
    registry = published()
    with pytest.raises(ValueError, match=r"named `gqa` is registered already\nhint: "):
        registry.register("gqa", kind="conversation", files="x")
    with pytest.raises(ValueError, match=r"has the kind `conversations`\nhint: did you mean `conversation`\?"):
        registry.register("x", kind="conversations", files="x")
    with pytest.raises(ValueError, match=r"no format `captoin`\nhint: did you mean `caption`\?"):
        registry.register("x", kind="image-text pair", files="x", format="captoin")
    with pytest.raises(ValueError, match=r"has no field `license`\nhint: did you mean `licence`\?"):
        registry.register("x", kind="conversation", files="x", license="MIT")
    with pytest.raises(ValueError, match=r"no data set named `obelix`\nhint: did you mean `obelics`\?"):
        registry.get("obelix")
