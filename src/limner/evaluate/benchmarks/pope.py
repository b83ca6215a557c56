"""POPE (Li et al. 2023): is this object in the picture? Half of the questions ask for what is not there.

Files, from https://github.com/AoiDragon/POPE, in one folder: coco_pope_<split>.json, val2014/*.jpg
(splits: random, popular, adversarial)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy

from limner.evaluate.annotations import Record, read_json_lines
from limner.evaluate.answers import Respondent
from limner.evaluate.benchmark import Example, Outcome, Score
from limner.evaluate.benchmarks.short_answers import Asked, ask, drawn_questions, picture_of
from limner.evaluate.intervals import Interval, permuted, share
from limner.evaluate.metrics import yes_no
from limner.evaluate.presets import DREAMLLM_OBJECTS, Preset, chosen

PRESETS = (Preset("plain", question="{}\nAnswer yes or no.", max_new_tokens=8), DREAMLLM_OBJECTS)
NUM_RESAMPLES = 1000


@dataclass(frozen=True)
class Pope:
    """`asked` has the answer "yes" or "no"."""

    asked: Sequence[Asked]
    preset: Preset
    split: str

    @property
    def name(self) -> str:
        """pope_<split>."""
        return f"pope_{self.split}"

    def run(self, engine: Respondent, *, limit: int | None, seed: int) -> Outcome:
        """Ask `limit` questions, drawn at random by `seed`; all where it is None."""
        asked = drawn_questions(self.asked, limit=limit, seed=seed)
        replies = ask(engine, asked, preset=self.preset, seed=seed)
        labels = [one.answers[0] == "yes" for one in asked]
        said = [yes_no.says_yes(reply) for reply in replies]
        right = [one == label for one, label in zip(said, labels, strict=True)]
        return Outcome(
            name=self.name,
            setup=(
                f"A reply is no where its first sentence holds No, no or not. Greedy, preset `{self.preset.name}`. "
                "Precision, recall and F1 of yes; intervals by picture. Shuffled: replies to other questions."
            ),
            baseline="best constant reply",
            scores=self._scores(replies, labels, clusters=[picture_of(one) for one in asked]),
            examples=tuple(
                Example((one.image,), f"{one.question}\n> {reply} ({one.answers[0]})", is_right)
                for one, reply, is_right in list(zip(asked, replies, right, strict=True))[:60]
            ),
            items=tuple(
                {
                    "key": one.key,
                    "cluster": picture_of(one),
                    "question": one.question,
                    "reply": reply,
                    "score": float(ok),
                }
                for one, reply, ok in zip(asked, replies, right, strict=True)
            ),
            settings={"preset": self.preset.name, "seed": seed},
        )

    def _scores(self, replies: Sequence[str], labels: Sequence[bool], *, clusters: Sequence[str]) -> tuple[Score, ...]:
        said = numpy.array([yes_no.says_yes(reply) for reply in replies])
        truth = numpy.array(labels)
        square = (said[:, None] == truth[None, :]).astype(float)
        accuracy = Score(
            "accuracy",
            share(square.diagonal(), clusters=clusters),
            len(labels),
            shuffled=permuted(square, clusters=clusters) if len(labels) <= 1000 else None,
            baseline=float(max(truth.mean(), 1.0 - truth.mean())),
        )
        whole = yes_no.score(replies, labels)
        resampled = _resampled(replies, labels, clusters=clusters)
        ratios = {"precision": whole.precision, "recall": whole.recall, "F1": whole.f1, "yes": whole.yes_ratio}
        return (
            accuracy,
            *(
                Score(name, Interval(value, *numpy.percentile(resampled[:, place], [2.5, 97.5]).tolist()), len(labels))
                for place, (name, value) in enumerate(ratios.items())
            ),
        )


def _resampled(replies: Sequence[str], labels: Sequence[bool], *, clusters: Sequence[str]) -> numpy.ndarray:
    """Precision, recall, F1 and share of yes of `NUM_RESAMPLES` draws of pictures with replacement."""
    numbers = {cluster: number for number, cluster in enumerate(dict.fromkeys(clusters))}
    place = numpy.array([numbers[cluster] for cluster in clusters])
    said, truth = numpy.array([yes_no.says_yes(reply) for reply in replies]), numpy.array(labels)
    per_picture = [numpy.bincount(place, weights=mask.astype(float)) for mask in (said & truth, said, truth)]
    per_picture.append(numpy.bincount(place).astype(float))
    generator = numpy.random.default_rng(0)
    drawn = generator.integers(0, len(numbers), size=(NUM_RESAMPLES, len(numbers)))
    both, yes, true, count = (counts[drawn].sum(axis=1) for counts in per_picture)
    precision, recall = both / numpy.maximum(yes, 1.0), both / numpy.maximum(true, 1.0)
    f1 = 2.0 * precision * recall / numpy.maximum(precision + recall, 1e-12)
    return numpy.stack([precision, recall, f1, yes / count], axis=1)


def load(folder: Path, *, preset: str = "", split: str = "random") -> Pope:
    """The benchmark of a split."""
    rows = read_json_lines(folder / f"coco_pope_{split}.json")
    return Pope([_asked(row, folder / "val2014") for row in rows], chosen(PRESETS, preset, benchmark="pope"), split)


def _asked(row: Record, pictures: Path) -> Asked:
    label = row.text("label").lower()
    if label not in ("yes", "no"):
        raise row.wrong(f"the label is `{label}`", hint="expected yes or no")
    return Asked(row.text("question_id"), pictures / row.text("image"), row.text("text"), (label,))
