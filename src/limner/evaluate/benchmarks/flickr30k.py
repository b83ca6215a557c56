"""Flickr30k captions (Young et al. 2014), the test part of Karpathy's split.

Files, from https://shannon.cs.illinois.edu/DenotationGraph/ and Karpathy's splits, in one folder:
    dataset_flickr30k.json, flickr30k-images/*.jpg
"""

from pathlib import Path

from limner.evaluate.annotations import Record, read_json
from limner.evaluate.benchmarks.captions import PRESETS, Captions
from limner.evaluate.benchmarks.short_answers import Asked
from limner.evaluate.presets import chosen


def load(folder: Path, *, preset: str = "", split: str = "test") -> Captions:
    """The benchmark of a split."""
    rows = read_json(folder / "dataset_flickr30k.json", under="images")
    asked = [_asked(row, folder / "flickr30k-images") for row in rows if row.text("split") == split]
    return Captions("flickr30k", asked, chosen(PRESETS, preset, benchmark="flickr30k"))


def _asked(row: Record, pictures: Path) -> Asked:
    return Asked(row.text("imgid"), pictures / row.text("filename"), "", row.texts("sentences", under="raw"))
