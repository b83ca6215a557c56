"""InfographicVQA (Mathew et al. 2022): questions about infographics.

Files, from https://rrc.cvc.uab.es/?ch=17, in one folder:
    infographicsVQA_<split>_v1.0_withQT.json, images/*.jpeg
"""

from pathlib import Path

from limner.evaluate.annotations import Record, read_json
from limner.evaluate.benchmarks.docvqa import PRESETS, WHAT
from limner.evaluate.benchmarks.short_answers import Asked, ShortAnswers
from limner.evaluate.metrics import anls
from limner.evaluate.presets import chosen


def load(folder: Path, *, preset: str = "", split: str = "val") -> ShortAnswers:
    """The benchmark of a split; the answers of `test` are secret."""
    rows = read_json(folder / f"infographicsVQA_{split}_v1.0_withQT.json", under="data")
    return ShortAnswers(
        name="infographicvqa",
        asked=[_asked(row, folder / "images") for row in rows],
        preset=chosen(PRESETS, preset, benchmark="infographicvqa"),
        metric=anls.similarity,
        what=WHAT,
        submission=lambda pairs: [{"questionId": int(one.key), "answer": reply} for one, reply in pairs],
    )


def _asked(row: Record, pictures: Path) -> Asked:
    return Asked(
        row.text("questionId"),
        pictures / row.text("image_local_name"),
        row.text("question"),
        row.texts("answers") if "answers" in row.value else (),
    )
