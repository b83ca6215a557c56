"""OK-VQA (Marino et al. 2019): questions about COCO pictures that need knowledge from outside.

Files, from https://okvqa.allenai.org/download.html, in one folder:
    OpenEnded_mscoco_<split>_questions.json, mscoco_<split>_annotations.json, <split>/*.jpg
"""

from pathlib import Path

from limner.evaluate.benchmarks.short_answers import ShortAnswers
from limner.evaluate.benchmarks.vqav2 import read
from limner.evaluate.metrics import vqa
from limner.evaluate.presets import DREAMLLM_KNOWLEDGE, LAVIT_VQA, PLAIN, chosen

PRESETS = (PLAIN, DREAMLLM_KNOWLEDGE, LAVIT_VQA)


def load(folder: Path, *, preset: str = "", split: str = "val2014") -> ShortAnswers:
    """The benchmark of a split."""
    return ShortAnswers(
        name="okvqa",
        asked=list(
            read(
                folder / f"OpenEnded_mscoco_{split}_questions.json",
                answers=folder / f"mscoco_{split}_annotations.json",
                pictures=folder / split,
                split=split,
            )
        ),
        preset=chosen(PRESETS, preset, benchmark="okvqa"),
        metric=vqa.accuracy,
        what="VQA accuracy, official rules.",
    )
