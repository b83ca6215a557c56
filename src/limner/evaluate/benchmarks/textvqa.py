"""TextVQA (Singh et al. 2019): questions that need the text in a picture to be read.

Files, from https://textvqa.org/dataset/, in one folder: TextVQA_0.5.1_<split>.json, train_images/*.jpg
"""

from collections.abc import Sequence
from pathlib import Path

from limner.evaluate.annotations import Record, read_json
from limner.evaluate.benchmarks.short_answers import Asked, ShortAnswers, number_of, picture_of
from limner.evaluate.metrics import vqa
from limner.evaluate.presets import DREAMLLM_READING, PLAIN, chosen

PRESETS = (PLAIN, DREAMLLM_READING)


def load(folder: Path, *, preset: str = "", split: str = "val") -> ShortAnswers:
    """The benchmark of a split; the answers of `test` are secret."""
    pictures = folder / ("test_images" if split == "test" else "train_images")
    rows = read_json(folder / f"TextVQA_0.5.1_{split}.json", under="data")
    return ShortAnswers(
        name="textvqa",
        asked=[_asked(row, pictures) for row in rows],
        preset=chosen(PRESETS, preset, benchmark="textvqa"),
        metric=vqa.accuracy,
        what="VQA accuracy, official rules.",
        submission=_submission,
    )


def _submission(pairs: Sequence[tuple[Asked, str]]) -> list[dict[str, int | str]]:
    return [
        {"question_id": number_of(one), "image_id": picture_of(one).removesuffix(".jpg"), "answer": reply}
        for one, reply in pairs
    ]


def _asked(row: Record, pictures: Path) -> Asked:
    return Asked(
        row.text("question_id"),
        pictures / f"{row.text('image_id')}.jpg",
        row.text("question"),
        row.texts("answers") if "answers" in row.value else (),
    )
