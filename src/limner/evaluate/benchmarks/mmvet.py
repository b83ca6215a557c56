"""MM-Vet (Yu et al. 2023): free answers that a judge outside marks; what leaves here is the file that it takes.

Files, from https://github.com/yuweihao/MM-Vet, in one folder: mm-vet.json, images/*
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from limner.evaluate.annotations import Record, read_json
from limner.evaluate.answers import Respondent
from limner.evaluate.benchmark import Outcome
from limner.evaluate.benchmarks.short_answers import Asked, ask, drawn_questions, picture_of
from limner.evaluate.presets import Preset, chosen

PRESETS = (
    Preset("plain", max_new_tokens=256),
    Preset(
        "dreamllm",
        system="This is an exam, please answer according to the image and question.",
        question="{}Please provide an accurate, detailed and comprehensive answer.",
        max_new_tokens=512,
    ),
)


@dataclass(frozen=True)
class MMVet:
    """No scores here: the judge is another's."""

    asked: Sequence[Asked]
    preset: Preset
    name: str = "mmvet"

    def run(self, engine: Respondent, *, limit: int | None, seed: int) -> Outcome:
        """Answer `limit` questions."""
        asked = drawn_questions(self.asked, limit=limit, seed=seed)
        replies = ask(engine, asked, preset=self.preset, seed=seed)
        return Outcome(
            name=self.name,
            setup=f"Answers for the judge of MM-Vet, preset `{self.preset.name}`; it marks them, not this program.",
            baseline="",
            scores=(),
            items=tuple(
                {"key": one.key, "cluster": picture_of(one), "question": one.question, "reply": reply}
                for one, reply in zip(asked, replies, strict=True)
            ),
            settings={"preset": self.preset.name, "seed": seed},
            submissions={"mmvet.submission": {one.key: reply for one, reply in zip(asked, replies, strict=True)}},
        )


def load(folder: Path, *, preset: str = "", split: str = "") -> MMVet:
    """All questions; there are no splits."""
    if split:
        raise ValueError(f"`mmvet` has no split `{split}`\nhint: leave --split out")
    rows = read_json(folder / "mm-vet.json")
    return MMVet([_asked(row, folder / "images") for row in rows], chosen(PRESETS, preset, benchmark="mmvet"))


def _asked(row: Record, pictures: Path) -> Asked:
    return Asked(row.key, pictures / row.text("imagename"), row.text("question"), (row.text("answer"),))
