"""GQA (Hudson & Manning 2019): questions that were composed from scene graphs, one answer each.

Files, from https://cs.stanford.edu/people/dorarad/gqa/download.html, in one folder:
    <split>_questions.json (testdev_balanced), images/*.jpg
"""

from collections.abc import Sequence
from pathlib import Path

from limner.evaluate.annotations import Record, read_json
from limner.evaluate.benchmarks.short_answers import Asked, ShortAnswers
from limner.evaluate.presets import DREAMLLM_VQA, LAVIT_VQA, PLAIN, chosen

PRESETS = (PLAIN, DREAMLLM_VQA, LAVIT_VQA)


def load(folder: Path, *, preset: str = "", split: str = "testdev_balanced") -> ShortAnswers:
    """The benchmark of a split."""
    return ShortAnswers(
        name="gqa",
        asked=[_asked(row, folder / "images") for row in read_json(folder / f"{split}_questions.json")],
        preset=chosen(PRESETS, preset, benchmark="gqa"),
        metric=exact,
        what="The answer, word for word; case and a final period do not count.",
        submission=lambda pairs: [{"questionId": one.key, "prediction": reply} for one, reply in pairs],
    )


def exact(reply: str, answers: Sequence[str]) -> float:
    """1 where the reply is the answer."""
    said = reply.strip().rstrip(".").lower()
    return float(any(said == answer.strip().lower() for answer in answers))


def _asked(row: Record, pictures: Path) -> Asked:
    return Asked(row.key, pictures / f"{row.text('imageId')}.jpg", row.text("question"), row.texts("answer"))
