"""easy-VQA (Zhou 2019): templated questions about one coloured shape, thirteen answers, a published test split.

Files, from the `data` folder of the package `easy-vqa` (MIT): <split>/questions.json, <split>/images/*.png
"""

from pathlib import Path

from limner.evaluate.annotations import Record, read_json
from limner.evaluate.benchmarks.gqa import exact
from limner.evaluate.benchmarks.short_answers import Asked, ShortAnswers
from limner.evaluate.presets import PLAIN, chosen

PRESETS = (PLAIN,)


def load(folder: Path, *, preset: str = "", split: str = "test") -> ShortAnswers:
    """The benchmark of a split."""
    return ShortAnswers(
        name="easy_vqa",
        asked=[_asked(row, folder / split / "images") for row in read_json(folder / split / "questions.json")],
        preset=chosen(PRESETS, preset, benchmark="easy_vqa"),
        metric=exact,
        what="The answer, word for word; case and a final period do not count.",
    )


def _asked(row: Record, pictures: Path) -> Asked:
    if not isinstance(row.value, list) or len(row.value) != 3:
        raise row.wrong("expected [question, answer, picture]", hint="is this the file of this benchmark?")
    question, answer, picture = row.value
    return Asked(f"{picture}/{question}", pictures / f"{picture}.png", str(question), (str(answer),))
