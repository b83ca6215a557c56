"""NoCaps (Agrawal et al. 2019): captions of things that COCO's captions do not know, by domain.

Files, from https://nocaps.org/download, in one folder: nocaps_val_4500_captions.json, images/*.jpg
"""

from pathlib import Path

from limner.evaluate.benchmarks.captions import PRESETS, Captions
from limner.evaluate.benchmarks.coco_captions import read
from limner.evaluate.presets import chosen


def load(folder: Path, *, preset: str = "", split: str = "val") -> Captions:
    """The validation split; captions of the test split are secret."""
    if split != "val":
        raise ValueError(f"`nocaps` has no split `{split}` with captions\nhint: its split is val")
    file = folder / "nocaps_val_4500_captions.json"
    return Captions("nocaps", list(read(file, pictures=folder / "images")), chosen(PRESETS, preset, benchmark="nocaps"))
