"""VQA v2 (Goyal et al. 2017): open questions about COCO pictures, ten people's answers each.

Files, from https://visualqa.org/download.html, in one folder:
    v2_OpenEnded_mscoco_<split>_questions.json, v2_mscoco_<split>_annotations.json (absent for test), <split>/*.jpg
"""

from collections.abc import Iterator
from pathlib import Path

from limner.evaluate.annotations import read_json
from limner.evaluate.benchmarks.short_answers import Asked, ShortAnswers
from limner.evaluate.metrics import vqa
from limner.evaluate.presets import DREAMLLM_VQA, LAVIT_VQA, PLAIN, chosen

PRESETS = (PLAIN, DREAMLLM_VQA, LAVIT_VQA)


def load(folder: Path, *, preset: str = "", split: str = "val2014") -> ShortAnswers:
    """The benchmark of a split."""
    questions = folder / f"v2_OpenEnded_mscoco_{split}_questions.json"
    answers = folder / f"v2_mscoco_{split}_annotations.json"
    return ShortAnswers(
        name="vqav2",
        asked=list(
            read(questions, answers=answers if answers.is_file() else None, pictures=folder / split, split=split)
        ),
        preset=chosen(PRESETS, preset, benchmark="vqav2"),
        metric=vqa.accuracy,
        what="VQA accuracy, official rules.",
    )


def read(questions: Path, *, answers: Path | None, pictures: Path, split: str) -> Iterator[Asked]:
    """Questions of the VQA format with their answers, where those are known."""
    known = {} if answers is None else {row.text("question_id"): row for row in read_json(answers, under="annotations")}
    for row in read_json(questions, under="questions"):
        key, number = row.text("question_id"), row.text("image_id")
        given = known.get(key)
        if answers is not None and given is None:
            raise row.wrong(f"question {key} has no answers in {answers.name}", hint="are both files of one split?")
        yield Asked(
            key,
            pictures / f"COCO_{split}_{int(number):012d}.jpg",
            row.text("question"),
            () if given is None else given.texts("answers", under="answer"),
            "" if given is None else given.text("answer_type"),
        )
