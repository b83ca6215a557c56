"""COCO captions (Chen et al. 2015), by default the test part of Karpathy's split.

Files, from https://cocodataset.org/#download, in one folder:
    captions_<split>.json in COCO's format (Karpathy's split as LAVIS distributes it), images/*.jpg
"""

from collections.abc import Iterator
from pathlib import Path

from limner.evaluate.annotations import read_json
from limner.evaluate.benchmarks.captions import PRESETS, Captions
from limner.evaluate.benchmarks.short_answers import Asked
from limner.evaluate.presets import chosen


def load(folder: Path, *, preset: str = "", split: str = "karpathy_test") -> Captions:
    """The benchmark of a split."""
    return Captions(
        "coco_captions",
        list(read(folder / f"captions_{split}.json", pictures=folder / "images")),
        chosen(PRESETS, preset, benchmark="coco_captions"),
    )


def read(file: Path, *, pictures: Path) -> Iterator[Asked]:
    """Pictures of a file in COCO's format with their captions; `domain`, where pictures have one, is the group."""
    captions: dict[str, list[str]] = {}
    for row in read_json(file, under="annotations"):
        captions.setdefault(row.text("image_id"), []).append(row.text("caption"))
    for row in read_json(file, under="images"):
        key = row.text("id")
        if key not in captions:
            raise row.wrong(f"picture {key} has no caption", hint="is the file whole?")
        group = row.text("domain") if "domain" in row.value else ""
        yield Asked(key, pictures / row.text("file_name"), "", tuple(captions[key]), group)
