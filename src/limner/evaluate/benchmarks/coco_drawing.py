"""Text to image on COCO (Lin et al. 2014): pictures for captions of the validation part of 2014, 30,000 by default.

Files, from https://cocodataset.org/#download, in one folder: captions_<split>.json (val2014), <split>/*.jpg
Networks beside it, in `networks`: inception.pth (FID, KID), clip/ (CLIP score); others where they are installed.
"""

import functools
import random
from pathlib import Path

from limner.evaluate.annotations import read_json
from limner.evaluate.benchmarks.drawn_captions import PLAIN, DrawnCaptions, Painting, Wanted
from limner.evaluate.metrics.networks import found_networks
from limner.evaluate.presets import chosen

PRESETS = (
    PLAIN,
    Painting("dreamllm", guidance_scale=2.0, num_inference_steps=150, candidates=8),
    Painting("lavit", guidance_scale=1.5, num_inference_steps=50, candidates=4),
)


def load(folder: Path, *, preset: str = "", split: str = "val2014") -> DrawnCaptions:
    """One caption of each picture, chosen by the picture's number."""
    captions: dict[str, list[str]] = {}
    file = folder / f"captions_{split}.json"
    for row in read_json(file, under="annotations"):
        if text := row.text("caption").strip():
            captions.setdefault(row.text("image_id"), []).append(text)
    wanted = []
    for row in read_json(file, under="images"):
        key = row.text("id")
        if key not in captions:
            raise row.wrong(f"picture {key} has no caption", hint="is the file whole?")
        caption = random.Random(f"coco/{key}").choice(captions[key])
        wanted.append(Wanted(key, caption, folder / split / row.text("file_name")))
    networks = functools.partial(found_networks, folder.parent / "networks")
    return DrawnCaptions("coco_drawing", wanted, chosen(PRESETS, preset, benchmark="coco_drawing"), networks)
