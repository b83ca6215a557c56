"""Image paragraphs (Krause et al. 2017): a paragraph about each picture of Visual Genome.

Files, from https://cs.stanford.edu/people/ranjaykrishna/im2p/index.html, in one folder:
    paragraphs_v1.json, <split>_split.json, images/<image_id>.jpg
"""

from pathlib import Path

from limner.evaluate.annotations import read_json
from limner.evaluate.benchmarks.captions import Captions
from limner.evaluate.benchmarks.short_answers import Asked
from limner.evaluate.presets import DREAMLLM_PARAGRAPH, Preset, chosen

PRESETS = (Preset("plain", question="Describe the picture in a paragraph.", max_new_tokens=256), DREAMLLM_PARAGRAPH)


def load(folder: Path, *, preset: str = "", split: str = "test") -> Captions:
    """The benchmark of a split."""
    wanted = {str(row.value) for row in read_json(folder / f"{split}_split.json")}
    asked = [
        Asked(row.text("image_id"), folder / "images" / f"{row.text('image_id')}.jpg", "", (row.text("paragraph"),))
        for row in read_json(folder / "paragraphs_v1.json")
        if row.text("image_id") in wanted
    ]
    return Captions("image_paragraphs", asked, chosen(PRESETS, preset, benchmark="image_paragraphs"))
