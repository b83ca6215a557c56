"""DocVQA (Mathew et al. 2021): questions about scanned documents.

Files, from https://rrc.cvc.uab.es/?ch=17, in one folder:
    <split>_v1.0_withQT.json (or <split>_v1.0.json), documents/*.png
"""

from pathlib import Path

from limner.evaluate.annotations import Record, read_json
from limner.evaluate.benchmarks.short_answers import Asked, ShortAnswers
from limner.evaluate.metrics import anls
from limner.evaluate.presets import DREAMLLM_READING, PLAIN, chosen

PRESETS = (PLAIN, DREAMLLM_READING)
WHAT = "ANLS: normalised edit similarity, 0 below one half."


def load(folder: Path, *, preset: str = "", split: str = "val") -> ShortAnswers:
    """The benchmark of a split; the answers of `test` are secret."""
    with_types = folder / f"{split}_v1.0_withQT.json"
    rows = read_json(with_types if with_types.is_file() else folder / f"{split}_v1.0.json", under="data")
    return ShortAnswers(
        name="docvqa",
        asked=[_asked(row, folder) for row in rows],
        preset=chosen(PRESETS, preset, benchmark="docvqa"),
        metric=anls.similarity,
        what=WHAT,
        submission=lambda pairs: [{"questionId": int(one.key), "answer": reply} for one, reply in pairs],
    )


def _asked(row: Record, folder: Path) -> Asked:
    return Asked(
        row.text("questionId"),
        folder / row.text("image"),
        row.text("question"),
        row.texts("answers") if "answers" in row.value else (),
    )
