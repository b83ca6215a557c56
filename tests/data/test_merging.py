"""Merging: a seeded order, paths from one folder, rows without items kept, everything else named."""

import json
from pathlib import Path
from typing import Any

import datasets
import PIL.Image
import pytest

from limner.data.builders.building import ROWS, SKIPPED, built, chat, write_rows
from limner.data.builders.merging import merge


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMNER_CACHE", str(tmp_path / "cache"))


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / ROWS).read_text().splitlines()]


@pytest.fixture
def sources(tmp_path: Path) -> list[Path]:
    """A built set with pictures elsewhere, plain rows beside their picture, and a saved table."""
    for name in ("pictures/red.png", "plain/blue.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        PIL.Image.new("RGB", (4, 4), Path(name).stem).save(tmp_path / name)
    rows = [chat(str(number), f"<image> {number}?", "Yes.", images=["red.png"]) for number in range(6)]
    write_rows(
        [*rows, chat("text", "Hello.", "Hello!")],
        output=tmp_path / "built",
        name="b",
        media=tmp_path / "pictures",
        seed=0,
    )
    plain = [chat("p", "<image>?", "Blue.", images=["blue.png"]), chat("far", "<image>?", "No.", images=["http://x/y"])]
    (tmp_path / "plain" / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*plain, {"id": "bad"}]))
    data = (tmp_path / "pictures" / "red.png").read_bytes()
    messages = [chat("s", "<image>?", "Red.")["messages"], chat("t", "Only text.", "Yes.")["messages"]]
    table = {"messages": messages, "images": [[{"bytes": data, "path": "red.png"}], None], "sounds": [None, None]}
    datasets.Dataset.from_dict(table).save_to_disk(str(tmp_path / "saved"))
    return [tmp_path / "built", tmp_path / "plain" / "mine.jsonl", tmp_path / "saved"]


def test_merged_rows_find_their_files_and_text_only_rows_stay(sources: list[Path], tmp_path: Path) -> None:
    manifest = merge(sources, output=tmp_path / "all", seed=3)
    assert manifest["samples"] == {"train": 10}
    assert manifest["skipped"] == {"no local file": 1, "no messages": 1}
    lines = (tmp_path / "all" / SKIPPED).read_text().splitlines()
    left = {entry["id"]: entry["reason"] for entry in map(json.loads, lines)}
    assert left == {"mine.jsonl/far": "no local file", "mine.jsonl/bad": "no messages"}
    read = built(tmp_path / "all")
    colours = [media.content.pil().getpixel((0, 0)) for n in range(len(read)) for _, media in read[n].media()]
    assert sorted(colours) == [(0, 0, 255)] + [(255, 0, 0)] * 7
    without = [row["id"] for row in rows_of(tmp_path / "all") if not row.get("images")]
    assert len(without) == 2
    assert "built/text" in without


def test_the_order_belongs_to_the_seed(sources: list[Path], tmp_path: Path) -> None:
    orders = []
    for name, seed, given in (("a", 0, sources), ("b", 0, sources[::-1]), ("c", 1, sources)):
        merge(given, output=tmp_path / name, seed=seed)
        orders.append([row["id"] for row in rows_of(tmp_path / name)])
    assert orders[0] == orders[1]
    for file in (ROWS, SKIPPED):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert orders[0] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2])
    assert orders[0] != sorted(orders[0])


def test_a_merged_set_may_be_merged_again_and_moved_with_its_media(sources: list[Path], tmp_path: Path) -> None:
    merge(sources[:1], output=tmp_path / "first")
    merge([tmp_path / "first", sources[1]], output=tmp_path / "second")
    assert len(built(tmp_path / "second")) == 8
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("pictures", "plain", "second"):
        (tmp_path / name).rename(moved / name)
    read = built(moved / "second")
    assert sum(media.content.size == (4, 4) for n in range(8) for _, media in read[n].media()) == 7


def test_what_is_no_source_and_two_of_one_name_are_refused(sources: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing to merge\nhint: "):
        merge([], output=tmp_path / "x")
    with pytest.raises(ValueError, match="no such source"):
        merge([tmp_path / "none.jsonl"], output=tmp_path / "x")
    (tmp_path / "other").mkdir()
    with pytest.raises(ValueError, match="two sources have one name: built, built\nhint: rename"):
        merge([sources[0], tmp_path / "other" / "built"], output=tmp_path / "x")
