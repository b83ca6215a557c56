"""VizWiz-VQA (Gurari et al. 2018): questions that blind people asked about pictures they took.

Files, from https://vizwiz.org/tasks-and-datasets/vqa/, in one folder:
    Annotations/<split>.json, <split>/*.jpg
"""

from pathlib import Path
from typing import Any

from limner.evaluate.annotations import Record, read_json
from limner.evaluate.benchmarks.short_answers import Asked, ShortAnswers
from limner.evaluate.metrics import vqa
from limner.evaluate.presets import DREAMLLM_READING, LAVIT_VQA, PLAIN, chosen

PRESETS = (PLAIN, DREAMLLM_READING, LAVIT_VQA)


def load(folder: Path, *, preset: str = "", split: str = "val") -> ShortAnswers:
    """The benchmark of a split; the answers of `test` are secret."""
    return ShortAnswers(
        name="vizwiz",
        asked=[_asked(row, folder / split) for row in read_json(folder / "Annotations" / f"{split}.json")],
        preset=chosen(PRESETS, preset, benchmark="vizwiz"),
        metric=vqa.accuracy,
        what="VQA accuracy, official rules.",
        submission=_submission,
    )


def _asked(row: Record, pictures: Path) -> Asked:
    picture = row.text("image")
    known = "answers" in row.value
    return Asked(
        picture,
        pictures / picture,
        row.text("question"),
        row.texts("answers", under="answer") if known else (),
        row.text("answer_type") if known else "",
    )


def _submission(pairs: Any) -> list[dict[str, str]]:
    return [{"image": one.key, "answer": reply} for one, reply in pairs]
