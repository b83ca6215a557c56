"""easy-VQA (Zhou 2019): templated questions about one coloured shape, thirteen answers, a published test split.

Files: <split>/questions.json, <split>/images/*.png, the `data` folder of the package `easy-vqa` (MIT); where they are
missing, that package is fetched from the Python package index (3 MB, checksum verified).
"""

from collections.abc import Collection, Sequence
from pathlib import Path

from limner.evaluate.annotations import Record, read_json
from limner.evaluate.benchmarks.gqa import exact
from limner.evaluate.benchmarks.short_answers import Asked, ShortAnswers
from limner.evaluate.metrics.naming import normalized
from limner.evaluate.presets import PLAIN, chosen
from limner.evaluate.published import Published

PRESETS = (PLAIN,)
PACKAGE = Published(
    "easy-vqa==1.0", "fcb51b309b78c7b00f97b64cdbcbcf5c105f94da1b39c0796cee5a787c4f650f", "easy_vqa/data"
)


def load(folder: Path, *, preset: str = "", split: str = "test") -> ShortAnswers:
    """The benchmark of a split."""
    if split not in ("train", "test"):
        raise ValueError(f"`easy_vqa` has no split `{split}`\nhint: its splits are train and test")
    if not (folder / split / "questions.json").is_file():
        folder = PACKAGE.locate()
    asked = [_asked(row, folder / split / "images") for row in read_json(folder / split / "questions.json")]
    known = {answer.lower() for one in asked for answer in one.answers}
    return ShortAnswers(
        name="easy_vqa",
        asked=asked,
        preset=chosen(PRESETS, preset, benchmark="easy_vqa"),
        metric=exact,
        what=(
            "The answer, word for word; case and a final period do not count. Names the answer: of the "
            f"{len(known)} answers of the benchmark, the one that the reply names first is right."
        ),
        others={"names the answer": lambda reply, answers: named_first(reply, answers, among=known)},
    )


def named_first(reply: str, answers: Sequence[str], *, among: Collection[str]) -> float:
    """1 where the first word of the reply that is an answer to any question is the answer to this one."""
    said = next((word for word in normalized(reply).split() if word in among), "")
    return float(said in {answer.lower() for answer in answers})


def _asked(row: Record, pictures: Path) -> Asked:
    if not isinstance(row.value, list) or len(row.value) != 3:
        raise row.wrong("expected [question, answer, picture]", hint="is this the file of this benchmark?")
    question, answer, picture = row.value
    group = "yes or no" if answer in ("yes", "no") else "what"
    return Asked(f"{picture}/{question}", pictures / f"{picture}.png", str(question), (str(answer),), group)
