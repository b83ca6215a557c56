"""Text to image on Localized Narratives of COCO (Pont-Tuset et al. 2020): pictures for long spoken descriptions.

Files, from https://google.github.io/localized-narratives and COCO, in one folder:
    coco_val_localized_narratives.jsonl, val2017/<12 digits>.jpg
Networks beside it, in `networks`: inception.pth (FID, KID), clip/ (CLIP score); others where they are installed.
"""

import functools
from pathlib import Path

from limner.evaluate.annotations import Record, read_json_lines
from limner.evaluate.benchmarks.drawn_captions import PLAIN, DrawnCaptions, Painting, Wanted
from limner.evaluate.metrics.networks import found_networks
from limner.evaluate.presets import chosen

PRESETS = (PLAIN, Painting("dreamllm", guidance_scale=5.0, num_inference_steps=150))


def load(folder: Path, *, preset: str = "", split: str = "val") -> DrawnCaptions:
    """The first narrative of each picture."""
    wanted: dict[str, Wanted] = {}
    for row in read_json_lines(folder / f"coco_{split}_localized_narratives.jsonl"):
        one = _wanted(row, folder / f"{split}2017")
        wanted.setdefault(one.key, one)
    networks = functools.partial(found_networks, folder.parent / "networks")
    painting = chosen(PRESETS, preset, benchmark="ln_coco_drawing")
    return DrawnCaptions("ln_coco_drawing", list(wanted.values()), painting, networks)


def _wanted(row: Record, pictures: Path) -> Wanted:
    key = row.text("image_id")
    if not key.isdecimal():
        raise row.wrong(f"the picture's number is `{key}`", hint="expected the part on COCO's pictures")
    return Wanted(key, row.text("caption").strip(), pictures / f"{int(key):012d}.jpg")
