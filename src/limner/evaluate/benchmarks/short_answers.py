"""Questions about pictures whose answers are a word or two: what all such benchmarks have in common.

A benchmark of this kind is a file that reads its public format into `Asked` and names its metric and presets.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy

from limner.document.media import Image
from limner.evaluate.answers import Respondent
from limner.evaluate.benchmark import Example, Outcome, Score, answer
from limner.evaluate.intervals import permuted, share
from limner.evaluate.presets import Preset

Metric = Callable[[str, Sequence[str]], float]
"""(reply, accepted answers) -> 0 to 1."""

MOST_SHUFFLED = 500
"""Items of the shuffled control, which holds every reply against every question."""
NUM_CONSTANTS = 20


@dataclass(frozen=True)
class Asked:
    """One question. `answers` is empty where the answers are secret; `group` names a part with a score of its own."""

    key: str
    picture: Path | Image
    question: str
    answers: tuple[str, ...] = ()
    group: str = ""

    @property
    def image(self) -> Image:
        """The picture. Raises ValueError where its file is missing."""
        if isinstance(self.picture, Image):
            return self.picture
        if not self.picture.is_file():
            raise ValueError(
                f"`{self.picture}` is missing (question {self.key})\nhint: fetch the benchmark's pictures too"
            )
        return Image.from_path(self.picture)


@dataclass(frozen=True)
class ShortAnswers:
    """`what` says which metric it is; `submission` turns (asked, reply) pairs into what the server takes.

    `others` are measures besides the benchmark's own, by name.
    """

    name: str
    asked: Sequence[Asked]
    preset: Preset
    metric: Metric
    what: str
    others: Mapping[str, Metric] = field(default_factory=dict)
    submission: Callable[[Sequence[tuple[Asked, str]]], Any] = field(
        default=lambda pairs: [{"question_id": number_of(asked), "answer": reply} for asked, reply in pairs]
    )

    def run(self, engine: Respondent, *, limit: int | None, seed: int) -> Outcome:
        """Ask `limit` questions, drawn at random by `seed`; all where it is None."""
        asked = drawn_questions(self.asked, limit=limit, seed=seed)
        replies = ask(engine, asked, preset=self.preset, seed=seed)
        known = [(one, reply) for one, reply in zip(asked, replies, strict=True) if one.answers]
        return Outcome(
            name=self.name,
            setup=(
                f"{self.what} Greedy, preset `{self.preset.name}`. Intervals by picture. "
                f"Shuffled: replies held against other questions ({MOST_SHUFFLED} at most)."
            ),
            baseline="best constant reply",
            scores=self._scores(known),
            examples=tuple(
                Example(
                    (one.image,), f"{one.question}\n> {reply} ({one.answers[0]})", self.metric(reply, one.answers) > 0
                )
                for one, reply in known[:60]
            ),
            items=tuple(self._item(one, reply) for one, reply in zip(asked, replies, strict=True)),
            settings={"preset": self.preset.name, "seed": seed, "max_new_tokens": self.preset.max_new_tokens},
            submissions={f"{self.name}.submission": self.submission(list(zip(asked, replies, strict=True)))},
        )

    def _scores(self, known: Sequence[tuple[Asked, str]]) -> tuple[Score, ...]:
        groups = {"all": list(known)}
        for one, reply in known:
            if one.group:
                groups.setdefault(one.group, []).append((one, reply))
        found = [_score(group, pairs, metric=self.metric) for group, pairs in groups.items() if pairs]
        return (*found, *(_score(name, known, metric=metric) for name, metric in self.others.items() if known))

    def _item(self, one: Asked, reply: str) -> dict[str, Any]:
        score = {"score": self.metric(reply, one.answers)} if one.answers else {}
        return {"key": one.key, "cluster": picture_of(one), "question": one.question, "reply": reply, **score}


def _score(name: str, pairs: Sequence[tuple[Asked, str]], *, metric: Metric) -> Score:
    clusters = [picture_of(one) for one, _ in pairs]
    values = [metric(reply, one.answers) for one, reply in pairs]
    some = pairs[:MOST_SHUFFLED]
    square = numpy.array([[metric(reply, one.answers) for one, _ in some] for _, reply in some])
    return Score(
        name=name,
        value=share(values, clusters=clusters),
        num_items=len(pairs),
        shuffled=permuted(square, clusters=clusters[: len(some)]),
        baseline=_best_constant([one for one, _ in pairs], metric=metric),
    )


def _best_constant(asked: Sequence[Asked], *, metric: Metric) -> float:
    """What the best of the commonest answers would score, said to every question."""
    counts: dict[str, int] = {}
    for one in asked:
        for text in set(one.answers):
            counts[text] = counts.get(text, 0) + 1
    common = sorted(counts, key=lambda text: (-counts[text], text))[:NUM_CONSTANTS]
    return max(float(numpy.mean([metric(text, one.answers) for one in asked])) for text in common)


def drawn_questions(asked: Sequence[Asked], *, limit: int | None, seed: int) -> list[Asked]:
    """All questions, or `limit` of them at random, in the order of the file. Raises ValueError for none."""
    if not asked:
        raise ValueError("the benchmark has no questions\nhint: is its annotation file whole?")
    if limit is None or limit >= len(asked):
        return list(asked)
    places = random.Random(f"questions/{seed}").sample(range(len(asked)), limit)
    return [asked[place] for place in sorted(places)]


def ask(engine: Respondent, asked: Sequence[Asked], *, preset: Preset, seed: int) -> list[str]:
    """The replies, as the preset cuts them."""
    requests = [preset.request(one.image, one.question, seed=seed) for one in asked]
    return [preset.reply(message) for message in answer(engine, requests)]


def number_of(one: Asked) -> int | str:
    """A question's key as servers take it: a number where it is one."""
    return int(one.key) if one.key.isdecimal() else one.key


def picture_of(one: Asked) -> str:
    """What says whether two questions are about one picture."""
    return one.picture.name if isinstance(one.picture, Path) else one.key
